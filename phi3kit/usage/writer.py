"""Writer: takes turns from the outbox and writes each as one run and one trace to phi3kit-usage, behind everybody's back.

Knows MLflow's runs. At most one process writes at a time. A store that is away costs patience, not turns.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.records import TurnRecord
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.traces import trace_id_of, write_trace
from phi3kit.usage.votes import Votes, write_votes

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LONGEST_WAIT_S = 30.0
_TIDY_EVERY_S = 600.0
_IDLE_S = 5.0
_SERVER_GIVES_UP_S = 120.0  # a request that broke off has made its run by then, or never will


@dataclass(frozen=True)
class WriterState:
    """What a page says about the writer."""

    waiting: int
    problem: str | None  # why turns wait, when the store cannot be written
    refused: int = 0  # of the waiting ones: what the store does not take, tried again when an app starts
    next_try_at: float | None = None  # seconds since the epoch; None when nothing went wrong


class UsageWriter:
    """A thread that empties the outbox for as long as the process lives."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(settings.home)
        self._ended = threading.Event()
        self._problem: str | None = None
        self._next_try_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="usage-writer", daemon=True)

    def start(self) -> None:
        """Begin to write in the background."""
        with suppress(StorageFailed):  # the thread will say so
            self._outbox.try_refused_again()
        self._thread.start()

    def close(self) -> None:
        """End the thread after the turn in hand."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def state(self) -> WriterState:
        """How many turns wait, and why. Raises StorageFailed."""
        refused, why = self._outbox.refused()
        return WriterState(self._outbox.waiting(), self._problem or why, refused, self._next_try_at)

    def _work(self) -> None:
        wait_s, tidied_at, wrote_at = _POLL_S, 0.0, 0.0
        while not self._ended.wait(wait_s):
            if time.monotonic() - tidied_at > _TIDY_EVERY_S:
                self._outbox.tidy()
                tidied_at = time.monotonic()
            try:
                if write_waiting(self._settings, self._ended, self._outbox):
                    wrote_at = time.monotonic()
                elif wrote_at and time.monotonic() - wrote_at > _IDLE_S:
                    self._outbox.shorten_log()  # not between turns: they would wait for the disk
                    wrote_at = 0.0
                self._problem, self._next_try_at, wait_s = None, None, _POLL_S
                continue
            except Phi3KitError as error:
                self._problem = str(error)
                log.warning("turns wait: %s", error)
            except Exception as error:  # a thread that ended would let turns wait for ever, and say nothing
                self._problem = f"{type(error).__name__}: {error}"
                log.exception("turns wait")
            # Not all writers of a team at the same moment, when their server comes back.
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
            self._next_try_at = time.time() + wait_s


def write_waiting(settings: Settings, ended: threading.Event | None = None, outbox: Outbox | None = None) -> int:
    """Write every waiting turn, oldest first; how many. Nothing when another process is at it.

    Raises StorageFailed and leaves the rest waiting.
    """
    outbox = outbox or Outbox(settings.home)
    outbox.sync()
    outbox.adopt_orphans()
    doubtful = outbox.doubtful(_SERVER_GIVES_UP_S)
    if not outbox.waiting() and not doubtful and not Votes(settings.home).ready():
        return 0
    lock = FileLock(settings.home / "outbox.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return 0
    except OSError as error:
        raise StorageFailed(
            "The outbox of turns cannot be locked.", f"{error}.", "Free some space in the data folder, then try again."
        ) from error
    count = 0
    try:
        while not (ended and ended.is_set()) and (claimed := outbox.claim_next()):
            try:
                _write_one(settings, outbox, *claimed)
                count += 1
            except StorageFailed as error:
                if not _is_about_the_turn(error):
                    raise
                log.error("turn %s set aside: %s", claimed[0].turn_id, error)
                outbox.refuse(claimed[0].turn_id, error.why)
        for turn_id, run_id in doubtful:
            _settle(settings, outbox, turn_id, run_id)
        write_votes(settings)
    finally:
        lock.release()
    return count


def _write_one(settings: Settings, outbox: Outbox, turn: TurnRecord, may_exist: bool) -> None:
    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    if not settings.log_text:
        turn = replace(turn, text=None)  # it may have been kept when text was still logged
    with storage_errors(settings.home):
        # A writer that died between MLflow's run and our mark left a run behind: finish it, do not make a second.
        found = _runs_of(client, experiment, turn.turn_id) if may_exist else []
        run_id = _write(client, experiment, turn, found[0] if found else None)
        write_trace(settings.tracking_uri, experiment, turn, run_id)
        _end(client, turn, run_id)
        for other in found[1:]:
            client.delete_run(other)
        # A server may still be at the request of the first attempt: look again when it has certainly given up.
        outbox.mark_written(turn.turn_id, run_id, doubtful=may_exist and settings.tracking_uri.startswith("http"))


def _is_about_the_turn(error: StorageFailed) -> bool:
    """Whether MLflow itself answered that it does not take this one; the next turn may be better."""
    cause = error.__cause__
    return isinstance(cause, MlflowException) and cause.error_code == "INVALID_PARAMETER_VALUE"


def _settle(settings: Settings, outbox: Outbox, turn_id: str, run_id: str) -> None:
    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    with storage_errors(settings.home):
        for other in _runs_of(client, experiment, turn_id):
            if other != run_id:
                client.delete_run(other)
        outbox.settle(turn_id)


def _runs_of(client: MlflowClient, experiment: str, turn_id: str) -> list[str]:
    quote = '"' if "'" in turn_id else "'"
    query = f"tags.`phi3kit.turn_id` = {quote}{turn_id}{quote}"
    return [str(run.info.run_id) for run in client.search_runs([experiment], query, max_results=100)]


def _write(client: MlflowClient, experiment: str, turn: TurnRecord, run_id: str | None) -> str:
    end_ms = int((turn.at + turn.duration_s) * 1000)
    tags = tags_of(turn)
    if run_id is None:
        with _sent_once():
            run = client.create_run(
                experiment, start_time=int(turn.at * 1000), tags=tags, run_name=f"turn {turn.wrapper}"
            )
        run_id, tags = str(run.info.run_id), {}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, end_ms, 0) for name, value in metrics_of(turn).items()],
        params=[Param(name, str(value)) for name, value in params_of(turn).items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    return run_id


def _end(client: MlflowClient, turn: TurnRecord, run_id: str) -> None:
    status = {"error": "FAILED", "cancelled": "KILLED"}.get(turn.finish_reason, "FINISHED")
    client.set_terminated(run_id, status, int((turn.at + turn.duration_s) * 1000))


@contextmanager
def _sent_once() -> Iterator[None]:
    """MLflow would send a request again whose answer was lost, and the server would make a second run.

    Its number of attempts is an environment variable only. Requests of other threads are not repeated meanwhile either.
    """
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def metrics_of(turn: TurnRecord) -> dict[str, float]:
    """The metrics of a turn's run; what was not measured is left out."""
    values = {
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "total_tokens": turn.total_tokens,
        "cached_prompt_tokens": turn.cached_prompt_tokens,
        "duration_s": turn.duration_s,
        "time_to_first_token_s": turn.time_to_first_token_s,
        "tokens_per_second": turn.tokens_per_second,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def params_of(turn: TurnRecord) -> dict[str, float | int | None]:
    """The params of a turn's run."""
    return {
        "temperature": turn.temperature,
        "max_tokens": turn.max_tokens,
        "top_p": turn.top_p,
        "seed": turn.seed,
    }


def tags_of(turn: TurnRecord) -> dict[str, str]:
    """The tags of a turn's run."""
    tags = {
        "phi3kit.turn_id": turn.turn_id,
        "phi3kit.trace_id": trace_id_of(turn.turn_id),
        "phi3kit.wrapper": turn.wrapper,
        "phi3kit.model_uri": turn.model_uri,
        "phi3kit.interface": turn.interface,
        "phi3kit.conversation_id": turn.conversation_id,
        "phi3kit.finish_reason": turn.finish_reason,
        "phi3kit.origin": turn.origin,
        "phi3kit.user": turn.user,
        "phi3kit.error_code": turn.error_code,
        "phi3kit.prompt_key": turn.prompt_key,
        "phi3kit.tokens_counted": None if turn.tokens_counted else "no",
    }
    return {name: value for name, value in tags.items() if value is not None}
