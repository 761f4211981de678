"""Job folders: work as processes of their own, and what others can read of it.

A job is a folder in the data folder: its request (job.json), its reports (events.jsonl, progress.json) and what
libraries printed (log.txt). All who watch read these files, so a job survives a reload, a closed tab and the app's end.
Knows processes and files. Knows neither the work nor how it is shown.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import psutil
from filelock import FileLock, Timeout

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import files_under, writing
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.settings import Settings

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

JOB_VARIABLE = "PHI3KIT_JOB"  # names a child's folder, which its parent has made

_KEPT = 50  # jobs in the history, the newest one too
_LOOK_S = 0.2
_GRACE_S = 30.0  # from asking a job to end until it is killed


class JobRequest(Protocol):
    """The request of a job: a frozen dataclass that JSON can hold."""

    def command(self) -> list[str]:
        """The same work as a command line."""


RequestT = TypeVar("RequestT", bound=JobRequest)


@dataclass(frozen=True)
class JobKind:
    """One kind of work. Jobs of one kind run one after the other."""

    name: str  # its folder in the data folder
    word: str  # in sentences: "the build"
    failed: type[Phi3KitError]  # its own error

    def home(self, settings: Settings) -> Path:
        """The folder of its jobs."""
        return settings.home / self.name

    def folders(self, settings: Settings) -> list[Path]:
        """The jobs' folders, oldest first."""
        home = self.home(settings)
        return sorted(path for path in home.glob("*-*") if (path / "job.json").is_file()) if home.is_dir() else []

    def new_folder(self, settings: Settings) -> Path:
        """A folder for a new job; the oldest ended ones make room for it."""
        for old in [folder for folder in self.folders(settings) if not alive(folder)][: 1 - _KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        now = time.time_ns()
        folder = self.home(settings) / f"{time.strftime('%Y%m%d', time.gmtime(now // 10**9))}-{now:020d}"
        folder.mkdir(parents=True)
        return folder

    def unexpected(self, error: BaseException) -> Phi3KitError:
        """The error of a job that a mistake of ours ended."""
        next_step = f"This is a bug in phi3kit. Report it with the {self.word}'s log."
        return self.failed(f"The {self.word} failed.", f"{type(error).__name__}: {error}", next_step)

    def job(self, folder: Path, lines: list[dict[str, Any]], kept: str, next_step: str) -> "Job":
        """A job as it stands now. Raises OSError or ValueError when its files are damaged.

        lines: what read_lines gave. kept: what is left of one that ended before its time. next_step: what to do then.
        """
        ahead = next((int(line["ahead"]) for line in reversed(lines) if line.get("event") == "queued"), 0)
        began, user = began_at(folder), str(_owner(folder).get("user", ""))
        stopped_by = next((str(line.get("by", "")) for line in reversed(lines) if line.get("event") == "stop"), "")

        def in_state(state: JobState, seconds: float, error: Phi3KitError | None = None) -> Job:
            return Job(folder.name, folder, state, began, max(0.0, seconds), ahead, error, user, kept, stopped_by)

        if end := end_of(lines):
            error = self.failed(**end["error"]) if end["error"] else None
            return in_state(end["state"], float(end["seconds"]), error)
        if alive(folder):
            return in_state("queued" if ahead else "running", time.time() - began)
        if end_of(lines := read_lines(folder)):  # it ended after its lines were read
            return self.job(folder, lines, kept, next_step)
        last = next((line.strip() for line in reversed(_log(folder).splitlines()[-20:]) if line.strip()), "")
        why = f"Its process was killed, perhaps because memory ran out. {last}".strip()
        vanished = self.failed(f"The {self.word} stopped unexpectedly.", why, f"{kept} {next_step}")
        return in_state("failed", last_write(folder) - began, vanished)


@dataclass(frozen=True)
class Job:
    """A job as it stands now; each kind of work adds what it knows of its own."""

    job_id: str
    folder: Path
    state: JobState
    began_at: float  # seconds since the epoch
    seconds: float  # so far, or in all
    ahead: int  # jobs that go first, while it is queued
    error: Phi3KitError | None  # None also when a person stopped it
    user: str  # who asked for it; empty when an earlier phi3kit kept it
    kept: str  # what is left of it when it ended before its time, in a sentence
    stopped_by: str  # who stopped it; empty when nobody did, or somebody outside the app

    def belongs_to(self, actor: Actor) -> bool:
        """Whether the actor may end it and see its request."""
        return self.user == actor.name or actor.may("administer")

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.state in ("queued", "running")

    def log(self, characters: int = 20_000) -> str:
        """The end of what libraries printed; nothing when it was started in a terminal."""
        return _log(self.folder)[-characters:]


class JobProcess:
    """The job that this process is. What it reports goes to the job's files."""

    def __init__(self, kind: JobKind, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self._kind, self._settings = kind, settings
        self._began = time.perf_counter()
        self._lock = FileLock(folder.parent / f"{kind.word}.lock")

    def wait(self, on_ahead: Callable[[int], None] = lambda ahead: None) -> None:
        """Wait until every earlier job of the kind has ended. Raises StorageFailed.

        on_ahead: called whenever the number of jobs before this one changes.
        """
        told = 0
        while True:
            others = self._kind.folders(self._settings)
            ahead = sum(alive(other) for other in others if other.name < self.folder.name)
            if ahead == 0:
                try:
                    with writing(self._settings.home):
                        self._lock.acquire(timeout=0)
                except Timeout:  # held by a job that is ending
                    ahead = 1
            if ahead != told:
                told = ahead
                self.line({"event": "queued", "ahead": ahead})
                on_ahead(ahead)
            if ahead == 0:
                return
            time.sleep(_LOOK_S)

    def line(self, line: Mapping[str, Any]) -> None:
        """Keep one JSON object. Raises StorageFailed."""
        with writing(self._settings.home):
            _append(self.folder, line)

    def progress(self, line: Mapping[str, Any]) -> None:
        """Replace the progress that was kept before. A full disk costs only this."""
        with contextlib.suppress(OSError):
            draft = self.folder / "progress.draft"
            draft.write_text(json.dumps(line), "utf-8")
            draft.replace(self.folder / "progress.json")

    def end(self, state: JobState, error: Phi3KitError | None = None) -> None:
        """Keep the job's end and let the next job run. A full disk does not hide the error that led here."""
        with contextlib.suppress(OSError):
            _append_end(self.folder, state, time.perf_counter() - self._began, error)
        self._lock.release()


@contextmanager
def run_as_job(kind: JobKind, request: JobRequest, actor: Actor, settings: Settings) -> Iterator[JobProcess]:
    """Make this process a job of the data folder: the one that the app made, or a new one. Raises StorageFailed."""
    given = os.environ.get(JOB_VARIABLE)
    with writing(settings.home):
        folder = kind.home(settings) / given if given else kind.new_folder(settings)
        write_owner(folder, request, os.getpid(), actor.name)
    job = JobProcess(kind, folder, settings)
    try:
        yield job
    except (KeyboardInterrupt, SystemExit):
        job.end("cancelled")
        raise
    except BaseException as error:
        job.end("failed", error if isinstance(error, Phi3KitError) else kind.unexpected(error))
        raise
    else:
        job.end("done")


def write_owner(folder: Path, request: JobRequest, pid: int, user: str) -> None:
    """Write job.json: the job's process, its request and its user."""
    kept = _adapter(type(request)).dump_python(request, mode="json")
    owner = {"pid": pid, "started": psutil.Process(pid).create_time(), "request": kept, "user": user}
    draft = folder / f"job.{os.getpid()}.json"  # the app and the job itself both write it, and both the same
    draft.write_text(json.dumps(owner), "utf-8")
    draft.replace(folder / "job.json")


def read_request(folder: Path, kind: type[RequestT]) -> RequestT:
    """A job's request, of the given class. Raises OSError, ValueError, KeyError or TypeError when its file is damaged."""
    found: RequestT = _adapter(kind).validate_python(_owner(folder)["request"])
    return found


@cache
def _adapter(kind: type[JobRequest]) -> Any:
    """Pydantic's reader and writer of a dataclass: nested records, paths and tuples come back as they were."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The JSON objects that a job reported. A line that is half written is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in (folder / "events.jsonl").read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def read_progress(folder: Path) -> dict[str, Any] | None:
    """A job's progress; None when it has reported none."""
    try:
        return dict(json.loads((folder / "progress.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def end_of(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The line of a job's end; None while it runs, or when it was killed."""
    return next((line for line in reversed(lines) if line.get("event") == "end"), None)


def _log(folder: Path) -> str:
    try:
        return (folder / "log.txt").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def began_at(folder: Path) -> float:
    """When a job was asked for, in seconds since the epoch, from its folder's name."""
    return int(folder.name.partition("-")[2]) / 1e9


def last_write(folder: Path) -> float:
    """When a job's folder was last written to, in seconds since the epoch; 0 when it is gone."""
    return max((found.st_mtime for _, found in files_under(folder)), default=0.0)


def last_event(folder: Path) -> float:
    """When a job last reported a step or its end, in seconds since the epoch; 0 when it has reported nothing."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "events.jsonl").stat().st_mtime
    return 0.0


def alive(folder: Path) -> bool:
    """Whether a job's process lives."""
    return _process(folder) is not None


def _owner(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "job.json").read_text("utf-8")))


def _process(folder: Path) -> psutil.Process | None:
    """The job's process while it lives; its number may belong to another one by now."""
    try:
        owner = _owner(folder)
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["started"]) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError, ValueError, KeyError, TypeError):
        return None


def end_process(folder: Path) -> bool:
    """End a job's process and wait until it is gone; whether there was one."""
    process = _process(folder)
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except psutil.TimeoutExpired:  # what it started ends with it
            process.kill()
            process.wait(_GRACE_S)
    return True


def _append(folder: Path, line: Mapping[str, Any]) -> None:
    # A full disk or a killed process may have cut the line before.
    begin = "\n" if line.get("event") == "end" else ""
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{begin}{json.dumps(line, ensure_ascii=False)}\n")


def _append_end(folder: Path, state: JobState, seconds: float, error: Phi3KitError | None = None) -> None:
    reason = {"what": error.what, "why": error.why, "next_step": error.next_step} if error else None
    _append(folder, {"event": "end", "state": state, "seconds": seconds, "error": reason})


def say_stopped_by(folder: Path, user: str) -> None:
    """Keep who stops a job. A full disk costs only this: the job ends all the same."""
    with contextlib.suppress(OSError):
        _append(folder, {"event": "stop", "by": user})


def say_cancelled(folder: Path, seconds: float) -> None:
    """Keep the end of a job that could not do so itself, because it was ended too early or killed."""
    if end_of(read_lines(folder)) is None:
        _append_end(folder, "cancelled", seconds)
