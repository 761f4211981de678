"""Jobs: builds as processes of their own, one at a time, and what became of each.

Knows what a build reports. Folders and processes are job_folder's and job_list's. Imports none of what a build needs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import check_room
from phi3kit.core.errors import LimitReached
from phi3kit.core.settings import Settings
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import KnownJob
from phi3kit.jobs.job_list import JobList
from phi3kit.jobs.kinds import BUILDS
from phi3kit.packaging.events import BuildRequest, Event, Note, Progress, Queued, Step, as_line, from_line
from phi3kit.packaging.plan import allow

_NEXT_STEP = "Nothing half-built is listed. Build again, with more free memory if it ran out."


@dataclass(frozen=True)
class Job(KnownJob):
    """A build as it stands now."""

    request: BuildRequest
    steps: tuple[Step, ...]
    progress: Progress | None  # of the running step
    notes: tuple[Note, ...]
    built: tuple[dict[str, Any], ...]  # the CLI's JSON, one a wrapper


class Jobs(JobList[Job]):
    """The builds of one data folder; a cancelled one takes back what it half did."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(BUILDS, settings, _read)

    def start(self, request: BuildRequest, actor: Actor, *, accept_tight: bool = False) -> Job:
        """Start a build; it waits for the builds before it.

        actor: who asks. Raises NotAllowed, LimitReached or StorageFailed.
        """
        allow(request, actor)
        check_room(self._settings)
        _check_models(len(request.wrappers), self._settings)
        _check_queue(sum(job.active for job in self.all()), self._settings.limits.waiting_builds)
        return self.launch([*request.command(), *(["--yes"] if accept_tight else [])], asdict(request), actor)


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
def own_job(request: BuildRequest, actor: Actor, settings: Settings) -> Iterator[OwnJob]:
    """Be a job of the data folder: the one that the app made, or a new one. Raises StorageFailed."""
    with job_folder.own_job(BUILDS, asdict(request), actor, settings) as job:
        yield OwnJob(job)


def _check_models(more: int, settings: Settings) -> None:
    if (most := settings.limits.models) is None:
        return
    from phi3kit.tracking.logged_models import list_models

    if (there := len(list_models(settings))) + more > most:
        raise LimitReached(
            "There are models enough.",
            f"{there} are logged here, and there is room for {most}.",
            "Talk to one of those on Chat. Old ones go by themselves.",
            retry_after_s=3600,
        )


def _check_queue(under_way: int, most: int | None) -> None:
    if most is not None and under_way >= most:
        raise LimitReached(
            "The build cannot begin.",
            f"{under_way} builds are under way or wait, and there is room for {most}.",
            "Ask for it again when one has ended; Build shows them.",
            retry_after_s=60,
        )


def _read(folder: Path) -> Job:
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
    return Job(
        **vars(BUILDS.standing(folder, lines, ahead, _NEXT_STEP)),
        request=BuildRequest(tuple(asked["wrappers"]), asked["source"], asked["precision"], asked["register"]),
        steps=tuple(steps),
        progress=progress,
        notes=tuple(notes),
        built=tuple(built),
    )
