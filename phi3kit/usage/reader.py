"""Reader: the logged turns, from a copy in the data folder that is updated by what is new in the store.

Knows which runs to read; one process at a time updates the copy. New runs are found by their time. The others are
compared with the store slice by slice, in turn: what was changed, deleted or logged late is noticed with its slice.
Knows neither MLflow's tables nor charts.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout
from mlflow import MlflowClient

from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.usage import turns_copy
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.runs import DAY_MS, Runs, runs_of
from phi3kit.usage.turns_copy import TurnsCopy, table_of
from phi3kit.usage.turns_table import oddities, turns_in

log = logging.getLogger(__name__)

Report = Callable[[int, float], None]  # runs read so far, and the share of the whole time that they cover (0 to 1)

_SLICE = 1000  # runs that are compared at once
_OVERLAP_MS = 600_000  # a run may become readable after runs that began later
_COMPARE_S = 1.0  # an update compares for so long, and one slice at least
_WAIT_FOR_FEW_S, _WAIT_FOR_MANY_S = 3.0, 0.15
_LONGEST_OTHER_S = 300.0  # that another process may take for its first reading


@dataclass(frozen=True)
class Snapshot:
    """The turns at one moment. Shared by all sessions: not to be changed."""

    turns: pd.DataFrame  # columns COLUMNS, newest first, `at` in UTC
    odd: dict[str, int]  # runs of the experiment that are no turns, by the reason
    read_at: float  # seconds since the epoch
    experiment: str
    compared: float  # the share of the runs that the last update compared with the store (0 to 1)


@dataclass(frozen=True)
class ReadProgress:
    """How far the first reading has come."""

    runs: int
    share: float


@dataclass(frozen=True)
class TurnsReading:
    """What a page can show at once, and what the reader is doing."""

    snapshot: Snapshot | None
    progress: ReadProgress | None  # None when nothing is being read
    error: Phi3KitError | None  # why the last reading failed

    @property
    def turns(self) -> pd.DataFrame:
        """The snapshot's turns; there must be a snapshot."""
        assert self.snapshot is not None
        return self.snapshot.turns

    def of(self, user: str) -> "TurnsReading":
        """The same with this user's turns only."""
        if self.snapshot is None:
            return self
        return replace(self, snapshot=replace(self.snapshot, turns=self.turns[self.turns["user"] == user]))


class TurnsReader:
    """The turns of one store. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(settings.home)
        self._guard = threading.Lock()  # one update at a time in this process
        self._state = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._snapshot_of: pd.DataFrame | None = None  # the rows that the snapshot was made of
        self._copy: TurnsCopy | None = None
        self._progress: ReadProgress | None = None
        self._error: Phi3KitError | None = None
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._tried_at = -1e9
        self._whole = False  # is wanted
        self._forgotten = False  # what is being read now

    def current(self, max_age_s: float = 3.0, wait_s: float | None = None, *, whole: bool = False) -> TurnsReading:
        """What is known after waiting at most `wait_s` for what is being read.

        max_age_s: what is older is read again in the background. wait_s: None waits long for few turns, which are read
        quickly, and hardly for many. whole: compare every run with the store.
        """
        with self._state:
            self._whole |= whole
            if self._thread is None and (whole or time.monotonic() - self._tried_at > max_age_s):
                self._done.clear()
                self._thread = threading.Thread(target=self._read, name="turns-reader", daemon=True)
                self._thread.start()
        if self._snapshot is None and self._copy is None:
            self._show_what_is_there()
        few = self._snapshot is not None and len(self._snapshot.turns) <= _SLICE
        self._done.wait(wait_s if wait_s is not None else _WAIT_FOR_FEW_S if few else _WAIT_FOR_MANY_S)
        return TurnsReading(self._snapshot, self._progress, self._error)

    def forget(self) -> None:
        """Read again when next asked: something was logged."""
        with self._state:
            self._tried_at, self._forgotten = -1e9, True

    def wait(self, seconds: float) -> bool:
        """Wait for what is being read; whether it is done."""
        return self._done.wait(seconds)

    def refresh(self, *, whole: bool = False, report: Report = lambda runs, share: None) -> Snapshot:
        """Update the copy and wait for it. Raises StorageFailed."""
        with self._guard:
            client = open_store(self._settings)
            experiment = experiment_id(self._settings, USAGE_EXPERIMENT)
            path = self._path(client, experiment)
            with self._only_one(path):
                copy = turns_copy.load(path, self._copy)
                with storage_errors(self._settings.home):
                    runs = runs_of(client, experiment)
                    if copy is None:
                        copy, compared = TurnsCopy(_whole(runs, report), time.time()), 1.0
                        turns_copy.save(path, copy)
                    else:
                        compared, changed = self._up_to_date(runs, copy, whole, report)
                        if changed or whole:
                            turns_copy.save(path, copy)
            same = self._snapshot_of is copy.rows
            before, self._copy, self._snapshot_of = self._snapshot, copy, copy.rows
            if before and same and before.experiment == experiment:
                self._snapshot = replace(before, read_at=copy.read_at, compared=compared)
            else:
                self._snapshot = _snapshot(copy, experiment, compared)
            pa.default_memory_pool().release_unused()
            return self._snapshot

    def _read(self) -> None:
        """Read, and once more where the whole was asked for meanwhile."""
        while True:
            with self._state:
                whole, self._whole, self._forgotten = self._whole, False, False
            self._update(whole)
            with self._state:
                if not self._whole:
                    self._tried_at = -1e9 if self._forgotten else time.monotonic()
                    self._thread = None
                    self._done.set()
                    return

    def _update(self, whole: bool) -> None:
        def report(runs: int, share: float) -> None:
            self._progress = ReadProgress(runs, share)

        try:
            report(0, 0.0)
            self.refresh(whole=whole, report=report)
            self._error = None
        except Phi3KitError as error:
            self._error = error
        except Exception as error:  # a page waits for this thread
            log.exception("turns were not read")
            self._error = StorageFailed(
                "The turns could not be read.", f"{type(error).__name__}: {error}.", "Press Refresh to try again."
            )
        finally:
            self._progress = None

    def _show_what_is_there(self) -> None:
        """The copy as it is, before the store has answered."""
        with suppress(Phi3KitError):
            client = open_store(self._settings)
            experiment = experiment_id(self._settings, USAGE_EXPERIMENT)
            copy = turns_copy.load(self._path(client, experiment), self._copy)
            if copy is not None and self._snapshot is None:
                self._snapshot = _snapshot(copy, experiment, 0.0)

    def _up_to_date(self, runs: Runs, copy: TurnsCopy, whole: bool, report: Report) -> tuple[float, bool]:
        """Take in what is new, changed or gone: the share of the runs that was compared, and whether anything changed."""
        now = time.time()
        if len(copy.rows) <= _SLICE or whole:
            rows = _whole(runs, report)
            copy.read_at, copy.before_ms = now, None
            if rows.equals(copy.rows):
                return 1.0, False
            copy.rows = rows
            return 1.0, True
        changed = self._take_in_new(runs, copy)
        compared, began = 0, time.monotonic()
        while compared < len(copy.rows) and (not compared or time.monotonic() - began < _COMPARE_S):
            starts = copy.rows["start_ms"]
            begin = 0 if copy.before_ms is None else int((starts >= copy.before_ms).sum())
            if begin == len(starts):  # the oldest runs were deleted since
                begin, copy.before_ms = 0, None
            end = min(begin + _SLICE, len(starts))
            lower = None if end == len(starts) else int(starts.iloc[end - 1])
            changed |= copy.replace(table_of(runs.between(lower, copy.before_ms)), lower, copy.before_ms)
            compared += end - begin
            copy.before_ms = lower
        copy.read_at = now
        return min(compared / max(len(copy.rows), 1), 1.0), changed

    def _take_in_new(self, runs: Runs, copy: TurnsCopy) -> bool:
        """Add the runs that were written since the last time, drop those that were deleted; whether anything changed."""
        late = [int(at * 1000) for at in self._outbox.written_since(copy.read_at)]
        begin = min([int(copy.rows["start_ms"].iloc[0]) - _OVERLAP_MS, *late])
        changed = copy.replace(table_of(runs.between(begin, None)), begin, None)
        days = runs.days()
        if days is None:
            stays = ~copy.rows["run_id"].isin(runs.deleted())
            if not stays.all():
                copy.rows = copy.rows[stays].reset_index(drop=True)
                changed = True
            return changed
        for day in sorted(day for day, _ in days.items() ^ copy.days().items()):
            begin, end = day * DAY_MS, (day + 1) * DAY_MS
            changed |= copy.replace(table_of(runs.between(begin, end)), begin, end)
        return changed

    def _path(self, client: MlflowClient, experiment: str) -> Path:
        """The copy's file: one a store, and another one for an experiment that was made anew under the same name."""
        with storage_errors(self._settings.home):
            made = client.get_experiment(experiment).creation_time
        key = json.dumps([self._settings.tracking_uri.reveal(), experiment, made])
        return self._settings.home / "usage" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"

    @contextmanager
    def _only_one(self, path: Path) -> Iterator[None]:
        """One process at a time. Raises StorageFailed."""
        lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LONGEST_OTHER_S)
        except (OSError, Timeout) as error:
            raise StorageFailed(
                "The copy of the logged turns cannot be updated.",
                "Another process has been reading them for minutes." if isinstance(error, Timeout) else f"{error}.",
                "Free some space in the data folder and try again.",
            ) from error
        try:
            yield
        finally:
            lock.release()


def _whole(runs: Runs, report: Report) -> pd.DataFrame:
    """Every run, newest first."""

    def reported() -> Iterator[pd.DataFrame]:
        first_ms, last_ms, count = runs.first_ms() or 0, 0, 0
        for page in runs.between(None, None):
            if len(page):
                starts, count = page["start_ms"].fillna(0), count + len(page)
                last_ms = last_ms or int(starts.iloc[0])
                report(count, min((last_ms - int(starts.iloc[-1])) / max(last_ms - first_ms, 1), 1.0))
            yield page

    return table_of(reported())


def _snapshot(copy: TurnsCopy, experiment: str, compared: float) -> Snapshot:
    return Snapshot(turns_in(copy.rows), oddities(copy.rows), copy.read_at, experiment, compared)


def read_turns(settings: Settings) -> pd.DataFrame:
    """Every turn of phi3kit-usage, newest first, with the columns COLUMNS; `at` is UTC. Raises StorageFailed."""
    return TurnsReader(settings).refresh().turns
