"""Jobs: builds as processes of their own, one at a time, and what became of each.

Knows what a build reports. Folders and processes are job_folder's. Imports none of what a build needs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit import job_folder
from phi3kit.builds.events import BuildRequest, Event, Note, Progress, Queued, Step, as_line, from_line
from phi3kit.errors import BuildFailed, Phi3KitError
from phi3kit.job_folder import JobKind, JobState, Launcher
from phi3kit.settings import Settings

BUILDS = JobKind("builds", "build", BuildFailed)

_NEXT_STEP = "Nothing half-built is listed. Build again, with more free memory if it ran out."


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
        return job_folder.log(self.folder)[-characters:]


class Jobs:
    """The builds of one data folder. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._launcher = Launcher(BUILDS, settings)

    def start(self, request: BuildRequest, *, accept_tight: bool = False) -> Job:
        """Start a build; it waits for the builds before it. Raises StorageFailed."""
        command = [*request.command(), *(["--yes"] if accept_tight else [])]
        job = _read(self._launcher.start(command, asdict(request)))
        assert job is not None
        return job

    def all(self) -> list[Job]:
        """Every job that is known, newest first."""
        self._launcher.reap()
        return [job for folder in reversed(BUILDS.folders(self._settings)) if (job := _read(folder))]

    def latest(self) -> Job | None:
        """The build that a page shows: the oldest one under way, or the one that ended last."""
        jobs = self.all()
        under_way = [job for job in jobs if job.active]
        return under_way[-1] if under_way else jobs[0] if jobs else None

    def cancel(self, job: Job) -> None:
        """End a build; it takes back what it half did. Returns when its process is gone."""
        self._launcher.cancel(job.folder, job.began_at)

    def close(self) -> None:
        """End what this process started."""
        self._launcher.close()


class OwnJob:
    """The build that this process is: what it reports goes to the job's file."""

    def __init__(self, job: job_folder.OwnJob) -> None:
        self._job = job
        self.line = job.line

    def wait(self, on_queued: Callable[[Queued], None]) -> None:
        """Wait until every build that was asked for before has ended. Raises StorageFailed.

        on_queued is called whenever the number of builds before this one changes.
        """
        self._job.wait(lambda ahead: on_queued(Queued(ahead)))

    def report(self, event: Event) -> None:
        """Keep an event. Raises StorageFailed."""
        self._job.line(as_line(event))


@contextmanager
def own_job(request: BuildRequest, settings: Settings) -> Iterator[OwnJob]:
    """Be a job of the data folder: the one that the app made, or a new one. Raises StorageFailed."""
    with job_folder.own_job(BUILDS, asdict(request), settings) as job:
        yield OwnJob(job)


def _read(folder: Path) -> Job | None:
    """A job as it stands now; None when its files are damaged, or were removed a moment ago."""
    try:
        return _job(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job(folder: Path) -> Job:
    asked = job_folder.read_request(folder)
    lines = job_folder.read_lines(folder)
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
    at = BUILDS.standing(folder, lines, ahead, _NEXT_STEP)
    return Job(
        job_id=folder.name,
        request=BuildRequest(tuple(asked["wrappers"]), asked["source"], asked["precision"], asked["register"]),
        state=at.state,
        began_at=at.began_at,
        seconds=at.seconds,
        ahead=ahead,
        steps=tuple(steps),
        progress=progress,
        notes=tuple(notes),
        built=tuple(built),
        error=at.error,
        folder=folder,
    )
