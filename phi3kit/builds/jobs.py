"""Jobs: builds as processes of their own, one at a time, and what became of each.

A job is a folder in the data folder: what was asked, what the build reported, what libraries printed. Whoever looks
reads these files, so a job survives a reload, a closed tab and the app's own end. Imports none of what a build needs.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from phi3kit.builds.events import BuildRequest, Event, Note, Progress, Queued, Step, as_line, from_line
from phi3kit.data_folder import writing
from phi3kit.errors import BuildFailed, Phi3KitError
from phi3kit.settings import Settings, child_environment

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

_KEPT = 50  # jobs in the history, the newest one too
_LOOK_S = 0.2
_GRACE_S = 10.0  # from asking a build to end until it is killed


@dataclass(frozen=True)
class Job:
    """A build as it stands now."""

    job_id: str
    request: BuildRequest
    state: JobState
    began_at: float  # seconds since the epoch
    seconds: float  # so far, or in all
    ahead: int  # builds that go first, while it is queued
    steps: tuple[Step, ...]
    progress: Progress | None  # of the running step
    notes: tuple[Note, ...]
    built: tuple[dict[str, Any], ...]  # the CLI's JSON, one a wrapper
    error: Phi3KitError | None
    folder: Path

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.state in ("queued", "running")

    def log(self, characters: int = 20_000) -> str:
        """The end of what the libraries printed; nothing when the build was started in a terminal."""
        return _log(self.folder)[-characters:]


class Jobs:
    """The builds of one data folder. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: list[tuple[Path, subprocess.Popen[bytes]]] = []  # by this process; read while others add

    def start(self, request: BuildRequest, *, accept_tight: bool = False) -> Job:
        """Start a build; it waits for the builds before it. Raises StorageFailed."""
        with writing(self._settings.home):
            folder = _new_folder(self._settings)
            with (folder / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "phi3kit", *request.command(), *(["--yes"] if accept_tight else [])],
                    env=child_environment(self._settings) | {"PHI3KIT_JOB": folder.name},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # it writes its events to the job's own file
                    stderr=log,
                    start_new_session=True,  # a closed terminal does not end it, and it ends with its children
                )
            _write_owner(folder, request, process.pid)
            self._started.append((folder, process))
            # An ended child that nobody waits for stays in the process table until a page asks for the jobs.
            threading.Thread(target=process.wait, name="build-end", daemon=True).start()
        job = _read(folder)
        assert job is not None
        return job

    def all(self) -> list[Job]:
        """Every job that is known, newest first."""
        self._reap()
        return [job for folder in reversed(_folders(self._settings)) if (job := _read(folder))]

    def latest(self) -> Job | None:
        """The build that a page shows: the oldest one under way, or the one that ended last."""
        jobs = self.all()
        under_way = [job for job in jobs if job.active]
        return under_way[-1] if under_way else jobs[0] if jobs else None

    def cancel(self, job: Job) -> None:
        """End a build; it takes back what it half did. Returns when its process is gone."""
        if _end(job.folder):
            with writing(self._settings.home):
                _say_cancelled(job.folder, time.time() - job.began_at)
        self._reap()

    def close(self) -> None:
        """End what this process started."""
        for job in self.all():
            if job.active and any(job.folder == folder for folder, _ in self._started):
                self.cancel(job)
        for _, process in self._started:
            process.wait()

    def _reap(self) -> None:
        for _, process in self._started:
            process.poll()  # an ended child that nobody waits for would look alive


class OwnJob:
    """The job that this process is: what it reports goes to the job's file."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._began = time.perf_counter()
        self._lock = FileLock(folder.parent / "build.lock")

    def wait(self, on_queued: Callable[[Queued], None]) -> None:
        """Wait until every build that was asked for before has ended. Raises StorageFailed.

        on_queued is called whenever the number of builds before this one changes.
        """
        told = 0
        while True:
            ahead = sum(_alive(other) for other in _folders(self._settings) if other.name < self._folder.name)
            if ahead == 0:
                try:
                    with writing(self._settings.home):
                        self._lock.acquire(timeout=0)
                except Timeout:  # held by a build that is ending
                    ahead = 1
            if ahead != told:
                told = ahead
                on_queued(Queued(ahead))
            if ahead == 0:
                return
            time.sleep(_LOOK_S)

    def report(self, event: Event) -> None:
        """Keep an event. Raises StorageFailed."""
        self.line(as_line(event))

    def line(self, line: dict[str, Any]) -> None:
        """Keep one JSON object. Raises StorageFailed."""
        with writing(self._settings.home):
            _append(self._folder, line)

    def end(self, state: JobState, error: Phi3KitError | None = None) -> None:
        """Say what became of it and let the next build go. A full disk does not hide the error that led here."""
        reason = {"what": error.what, "why": error.why, "next_step": error.next_step} if error else None
        with contextlib.suppress(OSError):
            _append(self._folder, _end_line(state, time.perf_counter() - self._began, reason))
        self._lock.release()


@contextmanager
def own_job(request: BuildRequest, settings: Settings) -> Iterator[OwnJob]:
    """Be a job of the data folder: the one that the app made, or a new one. Raises StorageFailed."""
    given = os.environ.get("PHI3KIT_JOB")
    with writing(settings.home):
        folder = settings.home / "builds" / given if given else _new_folder(settings)
        _write_owner(folder, request, os.getpid())
    job = OwnJob(folder, settings)
    try:
        yield job
    except Phi3KitError as error:
        job.end("failed", error)
        raise
    except BaseException as error:
        job.end("cancelled" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed", _unexpected(error))
        raise
    else:
        job.end("done")


def _folders(settings: Settings) -> list[Path]:
    """The jobs' folders, oldest first."""
    home = settings.home / "builds"
    return sorted(path for path in home.glob("*-*") if (path / "job.json").is_file()) if home.is_dir() else []


def _new_folder(settings: Settings) -> Path:
    for old in [folder for folder in _folders(settings) if not _alive(folder)][: 1 - _KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    now = time.time_ns()
    folder = settings.home / "builds" / f"{time.strftime('%Y%m%d', time.gmtime(now // 10**9))}-{now:020d}"
    folder.mkdir(parents=True)
    return folder


def _write_owner(folder: Path, request: BuildRequest, pid: int) -> None:
    owner = {"pid": pid, "started": psutil.Process(pid).create_time(), "request": asdict(request)}
    draft = folder / f"job.{os.getpid()}.json"  # the app and the build itself both write it, and both the same
    draft.write_text(json.dumps(owner), "utf-8")
    draft.replace(folder / "job.json")


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


def _alive(folder: Path) -> bool:
    return _process(folder) is not None


def _end(folder: Path) -> bool:
    """End a job's process and wait until it is gone; whether there was one."""
    process = _process(folder)
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except psutil.TimeoutExpired:  # the export that it started ends with it
            process.kill()
            process.wait(_GRACE_S)
    return True


def _append(folder: Path, line: dict[str, Any]) -> None:
    # Should a full disk or the process's end have cut a line, the next one must not be lost with it.
    begin = "\n" if line.get("event") == "end" else ""
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{begin}{json.dumps(line, ensure_ascii=False)}\n")


def _end_line(state: JobState, seconds: float, error: dict[str, str] | None = None) -> dict[str, Any]:
    return {"event": "end", "state": state, "seconds": seconds, "error": error}


def _say_cancelled(folder: Path, seconds: float) -> None:
    """Of a build that was ended before it could speak, or that had to be killed."""
    if not any(line.get("event") == "end" for line in _lines(folder / "events.jsonl")):
        _append(folder, _end_line("cancelled", seconds))


def _read(folder: Path) -> Job | None:
    """A job as it stands now; None when its files are damaged, or were removed a moment ago."""
    try:
        return _job(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job(folder: Path) -> Job:
    owner = _owner(folder)
    alive = _alive(folder)  # looked at before the events: an end that comes in between is then read
    asked = owner["request"]
    lines = _lines(folder / "events.jsonl")
    steps: list[Step] = []
    notes: list[Note] = []
    built: list[dict[str, Any]] = []
    progress: Progress | None = None
    ahead = 0
    for line in lines:
        event = from_line(line)
        if isinstance(event, Step):
            again = bool(steps) and steps[-1] == replace(event, seconds=None)
            steps[-1 if again else len(steps) :] = [event]
            progress, ahead = None, 0
        elif isinstance(event, Progress):
            progress = event
        elif isinstance(event, Queued):
            ahead = event.ahead
        elif isinstance(event, Note):
            notes.append(event)
        elif "model_uri" in line:
            built.append(line)
    began_at = int(folder.name.partition("-")[2]) / 1e9
    end = next((line for line in reversed(lines) if line.get("event") == "end"), None)
    state: JobState
    error: Phi3KitError | None = None
    if end:
        state, seconds = end["state"], float(end["seconds"])
        error = BuildFailed(**end["error"]) if end["error"] else None
        if state == "cancelled":
            error = BuildFailed(
                "The build was cancelled.", "Somebody ended it.", "Nothing half-built is listed. Build again."
            )
    elif alive:
        state, seconds = "queued" if ahead else "running", time.time() - began_at
    else:
        state, seconds, error = "failed", _last_write(folder) - began_at, _vanished(folder)
    return Job(
        job_id=folder.name,
        request=BuildRequest(tuple(asked["wrappers"]), asked["source"], asked["precision"], asked["register"]),
        state=state,
        began_at=began_at,
        seconds=max(0.0, seconds),
        ahead=ahead,
        steps=tuple(steps),
        progress=progress,
        notes=tuple(notes),
        built=tuple(built),
        error=error,
        folder=folder,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; the last one may be half written."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _log(folder: Path) -> str:
    try:
        return (folder / "log.txt").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _last_write(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.iterdir())


def _unexpected(error: BaseException) -> BuildFailed | None:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return None
    return BuildFailed(
        "The build failed.",
        f"{type(error).__name__}: {error}",
        "This is a mistake in phi3kit: report it with the build's log.",
    )


def _vanished(folder: Path) -> BuildFailed:
    last = next((line.strip() for line in reversed(_log(folder).splitlines()[-20:]) if line.strip()), "")
    return BuildFailed(
        "The build ended without a word.",
        f"Its process was killed, perhaps because memory ran out. {last}".strip(),
        "Nothing half-built is listed. Free some memory and build again.",
    )
