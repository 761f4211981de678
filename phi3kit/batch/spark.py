"""Spark: rows on the executors of a Spark cluster, or on local ones, with the worker's own engine.

The driver sends rows in waves and keeps the results of each, so a stopped batch goes on after its last wave.
Executors get phi3kit's code and, on other machines, the model's files from here; the libraries of requirements.txt
must be installed there. Knows Spark. Knows no files of rows.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from phi3kit.access.actor import Actor
from phi3kit.batch.answering import Prompt
from phi3kit.batch.executor import Load, answered, first_line, trouble
from phi3kit.batch.request import RowResult, SamplingParams, failed
from phi3kit.core.errors import BatchFailed, BudgetSpent
from phi3kit.core.operating_system import open_inside
from phi3kit.core.settings import INSTALLED, PROJECT_ROOT, Settings
from phi3kit.tracking.logged_models import ResolvedModel
from phi3kit.usage.budgets import check
from phi3kit.usage.outbox import Outbox, from_json

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
RowBody = tuple[int, str]  # row, request as JSON

_MASTER_ANSWERS_S = 10.0  # a TCP connection to it
_SESSION_BEGINS_S = 90.0  # a standalone master is asked three times, 20 s apart, before Spark gives up
_EXECUTOR_BEGINS_S = 120.0  # a cluster may have to start one
_WAVE_S = 10.0  # that a wave should take: a stopped batch loses so much at most
_FIRST_ROWS_A_TASK = 8
_MOST_ROWS_A_TASK = 1024

_RESULT_SCHEMA = (
    "row long, completion string, prompt_tokens long, completion_tokens long, "
    "finish_reason string, error string, final boolean, duration_s double, turn string"
)


class SparkAnswering:
    """A Spark session that answers rows. `close` ends it."""

    def __init__(
        self,
        master: str,
        model: ResolvedModel,
        sampling: SamplingParams,
        actor: Actor,
        settings: Settings,
        batch_id: str,
    ) -> None:
        """Begin a session and load the model on an executor. Raises BatchFailed within minutes, or ModelNotFound."""
        self._sampling, self._actor, self._settings = sampling, actor, settings
        self._model_uri = model.model_uri
        self._outbox = Outbox(settings.home)
        self._limits = settings.limits
        _look_for_spark(master)
        _knock(master)
        self._spark = _session(master, settings)
        self._context: Any = self._spark.sparkContext
        try:
            self._cores = int(self._context.defaultParallelism)
            self._answer = self._prepared(master, model, batch_id)
        except BaseException:
            self.close()
            raise

    def answers(self, rows: Iterable[tuple[int, Prompt]]) -> Iterator[RowResult]:
        """A result a row, wave by wave. Raises BatchFailed when the cluster is gone."""
        bodies = ((row, json.dumps(self._sampling.request(prompt).body(self._model_uri))) for row, prompt in rows)
        rows_a_task = _FIRST_ROWS_A_TASK
        waves: list[Future[tuple[list[RowResult], float]]] = []
        with ThreadPoolExecutor(2, thread_name_prefix="wave") as threads:  # two, so that executors do not wait
            while True:
                while len(waves) < 2 and (wave := list(islice(bodies, rows_a_task * self._cores))):
                    waves.append(threads.submit(self._timed, wave))
                if not waves:
                    return
                results, seconds = waves.pop(0).result()
                rows_a_task = _paced(rows_a_task, seconds)
                yield from results

    def close(self) -> None:
        """End the session and what it runs."""
        with contextlib.suppress(Exception):  # a cluster that is gone already
            self._context.cancelAllJobs()
            self._spark.stop()

    def _timed(self, wave: list[RowBody]) -> tuple[list[RowResult], float]:
        began = time.perf_counter()
        return self._computed(wave), time.perf_counter() - began

    def _computed(self, bodies: list[RowBody]) -> list[RowResult]:
        """The wave's results. A wave that fails is halved, until the row that ends its executor is alone.

        Raises BatchFailed when the cluster is gone or the day's tokens are spent; waves under way may exceed them.
        """
        try:
            check(self._limits, self._outbox, self._actor.name)
        except BudgetSpent as error:
            raise BatchFailed(error.what, error.why, error.next_step) from error
        try:
            partitions = min(self._cores, len(bodies))
            table = self._spark.createDataFrame(bodies, "row long, body string").repartition(partitions)
            found = table.mapInPandas(self._answer, _RESULT_SCHEMA).collect()
        except Exception as error:  # whatever the JVM, an executor or the network raised
            if self._context._jsc is None or self._context._jsc.sc().isStopped():
                raise BatchFailed(
                    "Spark ended in the middle of the batch.", first_line(error), "Start the same batch again."
                ) from error
            if len(bodies) == 1:
                return [failed(bodies[0][0], f"Its executor failed: {first_line(error)}", final=False)]
            middle = len(bodies) // 2
            return self._computed(bodies[:middle]) + self._computed(bodies[middle:])
        for each in found:
            if each["turn"]:
                self._outbox.add(from_json(each["turn"]))
        return [RowResult(*(each[field.name] for field in fields(RowResult))) for each in found]

    def _prepared(self, master: str, model: ResolvedModel, batch_id: str) -> "Callable[..., Iterator[pd.DataFrame]]":
        """Send code and model to the executors, and load the model on one. Returns the function that they run."""
        work = self._settings.home / "batches" / "spark"
        self._context.addPyFile(str(_archive_of_code(work)))
        sent = None if master.startswith("local") else _archive_of_model(model.folder, work)
        if sent:
            self._context.addFile(str(sent))
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        load = Load(str(model.folder), sent.name if sent else None, model.wrapper, model.model_uri, threads,
                     self._actor.name, str(self._settings.home))  # fmt: skip
        _within(
            _EXECUTOR_BEGINS_S,
            lambda: self._context.parallelize([0], 1).count(),
            BatchFailed(
                f"{master} has no executor for this batch.",
                f"None started within {_EXECUTOR_BEGINS_S:.0f} s.",
                "Check that the cluster has a worker with free cores and memory, then start the same batch again.",
            ),
        )
        try:
            why = self._context.parallelize([0], 1).map(lambda _: trouble(load)).first()
        except Exception as error:  # phi3kit's imports fail there
            why = first_line(error)
        if why:
            raise BatchFailed(
                "The executors cannot load the model.",
                why,
                "Install requirements.txt on every machine of the cluster, then start the same batch again.",
            )
        return lambda frames: answered(frames, load, batch_id)


def _session(master: str, settings: Settings) -> Any:
    """A Spark session of these settings and of the user's spark-defaults.conf. Raises BatchFailed."""
    from pyspark.sql import SparkSession

    work = settings.home / "batches" / "spark"
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.warehouse.dir": str(work / "warehouse"),
        "spark.local.dir": str(work),
    }
    if master.startswith("local"):
        options |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    builder = SparkSession.builder.appName("phi3kit batch").master(master)
    for name, value in options.items():
        builder = builder.config(name, value)

    def begin() -> Any:
        with _jvm_writes_to(settings.home / "logs" / "spark.log"):
            session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        return session

    try:
        return _within(
            _SESSION_BEGINS_S,
            begin,
            BatchFailed(
                f"The Spark master {master} does not answer.",
                f"No session started within {_SESSION_BEGINS_S:.0f} s.",
                "Check the address and that the master runs, then start the same batch again.",
            ),
        )
    except BatchFailed:
        raise
    except Exception as error:  # py4j wraps what the JVM says
        raise BatchFailed(
            f"No Spark session started with the master {master}.",
            first_line(error),
            "Check --spark: local[2], spark://host:7077, yarn or k8s://… (logs/spark.log has details).",
        ) from error


def _look_for_spark(master: str) -> None:
    try:
        import pyspark  # noqa: F401
    except ImportError as error:
        raise BatchFailed(
            f"The batch cannot run on {master}.",
            "pyspark is not installed.",
            f"Run: pip install {'pyspark' if INSTALLED else '-r requirements-spark.txt'}",
        ) from error
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise BatchFailed(
            f"The batch cannot run on {master}.",
            "Spark needs Java, which is not installed.",
            "Install Java 17 or newer.",
        )


def _knock(master: str) -> None:
    """See that something listens at a standalone or Kubernetes master, before a JVM is started. Raises BatchFailed."""
    if not master.startswith(("spark://", "k8s://")):
        return
    places = [place.rpartition("//")[2] for place in master.partition("://")[2].split(",")]
    why = "It has no address."
    for place in places:
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_MASTER_ANSWERS_S / len(places)).close()
            return
        except ValueError:
            why = f"{place} has no port."
        except OSError as error:
            why = f"{place}: {error.strerror or error}."
    raise BatchFailed(
        f"The Spark master {master} does not answer.",
        why,
        "Check the address and that the master runs, then start the same batch again.",
    )


def _within(seconds: float, call: Callable[[], T], late: BatchFailed) -> T:
    """What `call` returns. Raises `late` when it takes too long; the call is then left to end with the process."""
    found: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not found:
        raise late
    return found[0]


@contextlib.contextmanager
def _jvm_writes_to(path: Path) -> Iterator[None]:
    """Let a JVM that starts meanwhile write its log there, not between the command's own lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _archive_of_code(work: Path) -> Path:
    """Our own code, as the executors import it. Links are followed: some installers link packages."""
    code = sorted((PROJECT_ROOT / "phi3kit").rglob("*.py"))
    content = b"".join(file.read_bytes() for file in code)
    return _archive(code, PROJECT_ROOT, work, "phi3kit", content, lambda file: file.open("rb"))


def _archive_of_model(folder: Path, work: Path) -> Path:
    """A model's files. Raises BatchFailed for a link: what it leads to may be anybody's."""

    def opened(file: Path) -> BinaryIO:
        inside = file.relative_to(folder).as_posix()
        try:
            return open_inside(folder.resolve(), inside)
        except OSError as error:
            next_step = "Remove it, or log the model again."
            raise BatchFailed(f"{inside} cannot be sent to the cluster.", first_line(error), next_step) from error

    files = sorted(file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
    # Weights are not read twice: a file that was changed has another time.
    states = [(file.relative_to(folder).as_posix(), file.lstat()) for file in files]
    content = repr([(name, state.st_size, state.st_mtime_ns) for name, state in states]).encode()
    with opened(folder / "MLmodel") as file:
        described = file.read()
    return _archive(files, folder, work, "model", described + content, opened)


def _archive(
    files: list[Path], root: Path, work: Path, name: str, known_by: bytes, opened: Callable[[Path], BinaryIO]
) -> Path:
    """An archive of files below `root`, not compressed: weights do not shrink. Made once for the same `known_by`."""
    digest = hashlib.sha256(known_by).hexdigest()[:32]
    target = work / f"{name}-{digest}.zip"
    if not target.exists():
        draft = target.with_suffix(".part")
        with zipfile.ZipFile(draft, "w") as archive:
            for file in files:
                entry = zipfile.ZipInfo(file.relative_to(root).as_posix())
                with opened(file) as content, archive.open(entry, "w", force_zip64=True) as sent:
                    shutil.copyfileobj(content, sent)
        draft.replace(target)
    return target


def _paced(rows_a_task: int, seconds: float) -> int:
    """Rows a task for the next wave, from how long the last one took."""
    wanted = rows_a_task * _WAVE_S / max(seconds, 0.1)
    return int(min(max(wanted, rows_a_task / 4, 1), rows_a_task * 4, _MOST_ROWS_A_TASK))
