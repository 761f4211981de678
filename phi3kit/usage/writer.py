"""Writer: writes each turn of the outbox to MLflow as one run and one trace of phi3kit-usage, in the background.

Knows MLflow's runs. One process writes at a time. While the store is away the turns wait.
"""

import logging
import math
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException

from phi3kit.core.errors import Phi3KitError, StorageFailed, first_line
from phi3kit.core.records import TurnRecord
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.usage import prices
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.prices import Price
from phi3kit.usage.traces import MODEL_ID, model_id_of, params_of, trace_id_of, write_trace
from phi3kit.usage.turn_fields import METRICS, TAGS
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
    problem: str | None  # why turns wait
    refused: int = 0  # of the waiting turns
    next_try_at: float | None = None  # seconds since the epoch; None when nothing went wrong


class UsageWriter:
    """A thread that writes turns for as long as the process lives."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(settings.home)
        self._ended = threading.Event()
        self._problem: str | None = None
        self._next_try_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="usage-writer", daemon=True)

    def start(self) -> None:
        """Begin to write in the background."""
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
        wait_s, tidied_at, wrote_at = _POLL_S, -math.inf, 0.0
        while not self._ended.wait(wait_s):
            if time.monotonic() - tidied_at > _TIDY_EVERY_S:
                self._outbox.tidy()
                with suppress(StorageFailed):  # the next lines will say so
                    self._outbox.try_refused_again()
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
            # Jitter: the writers of a team should not all come when their server is back.
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S) * random.uniform(0.75, 1.25)  # noqa: S311 -- spreads load, guards nothing
            self._next_try_at = time.time() + wait_s


def write_waiting(settings: Settings, ended: threading.Event | None = None, outbox: Outbox | None = None) -> int:
    """Write the waiting turns, oldest first; how many. None while another process writes.

    Raises StorageFailed; the rest stays waiting.
    """
    outbox = outbox or Outbox(settings.home)
    outbox.sync()
    outbox.adopt_orphans()
    doubtful = outbox.doubtful(_SERVER_GIVES_UP_S)
    if not outbox.waiting() and not doubtful and not Votes(settings.home).ready():
        return 0
    try:
        lock = FileLock(settings.home / "outbox.lock").acquire(timeout=0)
    except Timeout:
        return 0
    except OSError as error:
        raise StorageFailed(
            "The outbox of turns cannot be locked.", f"{error}.", "Free some space in the data folder, then try again."
        ) from error
    count = 0
    with lock:
        while not (ended and ended.is_set()) and (claimed := outbox.claim_next()):
            try:
                _write_one(settings, outbox, *claimed)
                count += 1
            except Exception as error:  # whatever a library meets in what was said: the next turn must not wait for it
                may_pass = _may_pass(error) and not claimed[1]  # the store's moment: the next round shows it
                if (ended and ended.is_set()) or may_pass or _unheard(error) or not _store_takes_writes(settings):
                    raise
                log.error("turn %s set aside: %s", claimed[0].turn_id, error)
                outbox.refuse(claimed[0].turn_id, error.why if isinstance(error, Phi3KitError) else first_line(error))
        for turn_id, run_id in doubtful:
            _settle(settings, outbox, turn_id, run_id)
        write_votes(settings)
    return count


def _write_one(settings: Settings, outbox: Outbox, turn: TurnRecord, may_exist: bool) -> None:
    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    if not settings.log_text:
        turn = replace(turn, text=None)  # it may have been kept when text was still logged
    with storage_errors(settings.home):
        # A writer that died before its mark left a run behind: finish that one.
        found = _runs_of(client, experiment, turn.turn_id) if may_exist else []
        run_id = _write(client, experiment, turn, found[0] if found else None)
        write_trace(settings.tracking_uri.reveal(), experiment, turn, run_id, _price(settings, turn))
        _end(client, turn, run_id)
        for other in found[1:]:
            client.delete_run(other)
        # A server may still work on the first attempt's request: look again when it has certainly given up.
        outbox.mark_written(
            turn.turn_id, run_id, doubtful=may_exist and settings.tracking_uri.reveal().startswith("http")
        )


def _may_pass(error: Exception) -> bool:
    """Whether an error is the store's, as far as MLflow says: a busy server's, and not a refusal of what was sent."""
    cause = error.__cause__
    refused = isinstance(cause, MlflowException) and cause.error_code == "INVALID_PARAMETER_VALUE"
    return isinstance(error, StorageFailed) and not refused


def _unheard(error: BaseException | None) -> bool:
    """Whether the store said nothing of the turn: nobody answered in time, or its database was locked or away."""
    while error is not None:
        busy = isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE"
        locked = isinstance(error, sqlite3.OperationalError) and "database is locked" in str(error)
        if busy or locked or isinstance(error, RequestException):
            return True
        error = error.__cause__ or error.__context__
    return False


def _store_takes_writes(settings: Settings) -> bool:
    """Whether the store takes a small change at this moment: what it did not take before was the turn's fault."""
    try:
        client = open_store(settings)
        experiment = experiment_id(settings, USAGE_EXPERIMENT)
        with storage_errors(settings.home):
            client.set_experiment_tag(experiment, "phi3kit.set_aside_at", str(int(time.time())))
    except StorageFailed:
        return False
    return True


def _price(settings: Settings, turn: TurnRecord) -> Price | None:
    """What the turn's tokens cost; None where no price is set. Usage says what is wrong with a list that cannot be read."""
    with suppress(StorageFailed):
        return prices.load(settings.home).get(turn.wrapper)
    return None


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
    """No repeated requests: MLflow repeats one whose answer was lost, and the server would make a second run.

    MLflow takes the number from the environment only, so other threads' requests are not repeated meanwhile either.
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
    return {name: float(value) for name in METRICS if (value := getattr(turn, name)) is not None}


def tags_of(turn: TurnRecord) -> dict[str, str]:
    """The tags of a turn's run."""
    values = {name: getattr(turn, name) for name in TAGS}
    values |= {"trace_id": trace_id_of(turn.turn_id), "tokens_counted": None if turn.tokens_counted else "no"}
    model_id = model_id_of(turn)
    return {
        **{f"phi3kit.{name}": value for name, value in values.items() if value is not None},
        **({MODEL_ID: model_id} if model_id else {}),
    }
