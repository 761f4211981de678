"""Writer: takes turns from the outbox and writes each as one run to phi3kit-usage, behind everybody's back.

Knows MLflow's runs. At most one process writes at a time. A store that is away costs patience, not turns.
"""

import logging
import threading
from dataclasses import dataclass

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from phi3kit.errors import Phi3KitError, StorageFailed
from phi3kit.records import TurnRecord
from phi3kit.settings import Settings
from phi3kit.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.votes import Votes, write_votes

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class WriterState:
    """What a page says about the writer."""

    waiting: int
    problem: str | None  # why turns wait, when the store cannot be written


class UsageWriter:
    """A thread that empties the outbox for as long as the process lives."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(settings.home)
        self._ended = threading.Event()
        self._problem: str | None = None
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
        """How many turns wait, and why."""
        return WriterState(self._outbox.waiting(), self._problem)

    def _work(self) -> None:
        wait_s = _POLL_S
        while not self._ended.wait(wait_s):
            try:
                write_waiting(self._settings, self._ended)
                self._problem, wait_s = None, _POLL_S
            except Phi3KitError as error:
                self._problem = str(error)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
                log.warning("turns wait: %s", error)
            except Exception as error:  # a thread that ended would let turns wait for ever, and say nothing
                self._problem = f"{type(error).__name__}: {error}"
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
                log.exception("turns wait")


def write_waiting(settings: Settings, ended: threading.Event | None = None) -> None:
    """Write every waiting turn, oldest first; nothing when another process is at it.

    Raises StorageFailed and leaves the rest waiting.
    """
    outbox = Outbox(settings.home)
    if not outbox.waiting() and not Votes(settings.home).ready():
        return
    lock = FileLock(settings.home / "outbox.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    except OSError as error:
        raise StorageFailed(
            "The outbox of turns cannot be locked.", f"{error}.", "Free some space in the data folder, then try again."
        ) from error
    try:
        while not (ended and ended.is_set()) and (claimed := outbox.claim_next()):
            _write_one(settings, outbox, *claimed)
        write_votes(settings)
    finally:
        lock.release()


def _write_one(settings: Settings, outbox: Outbox, turn: TurnRecord, may_exist: bool) -> None:
    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    with storage_errors(settings.home):
        # A writer that died between MLflow's run and our mark left a run behind: finish it, do not make a second.
        run_id = _existing_run(client, experiment, turn) if may_exist else None
        outbox.written(turn.turn_id, _write(client, experiment, turn, run_id))


def _existing_run(client: MlflowClient, experiment: str, turn: TurnRecord) -> str | None:
    quote = '"' if "'" in turn.turn_id else "'"
    found = client.search_runs([experiment], f"tags.`phi3kit.turn_id` = {quote}{turn.turn_id}{quote}", max_results=1)
    return found[0].info.run_id if found else None


def _write(client: MlflowClient, experiment: str, turn: TurnRecord, run_id: str | None) -> str:
    at_ms = int(turn.at * 1000)
    end_ms = int((turn.at + turn.duration_s) * 1000)
    if run_id is None:
        tags = {"phi3kit.turn_id": turn.turn_id}
        run = client.create_run(experiment, start_time=at_ms, tags=tags, run_name=f"turn {turn.wrapper}")
        run_id = str(run.info.run_id)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, end_ms, 0) for name, value in metrics_of(turn).items()],
        params=[Param(name, str(value)) for name, value in params_of(turn).items()],
        tags=[RunTag(name, value) for name, value in tags_of(turn).items()],
    )
    status = {"error": "FAILED", "cancelled": "KILLED"}.get(turn.finish_reason, "FINISHED")
    client.set_terminated(run_id, status, end_ms)
    return run_id


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
    return {
        "phi3kit.wrapper": turn.wrapper,
        "phi3kit.model_uri": turn.model_uri,
        "phi3kit.interface": turn.interface,
        "phi3kit.conversation_id": turn.conversation_id,
        "phi3kit.finish_reason": turn.finish_reason,
        "phi3kit.origin": turn.origin,
        "phi3kit.user": turn.user,
        **({} if turn.tokens_counted else {"phi3kit.usage": "not given"}),
    }
