"""Jobs: builds as processes of their own, one at a time.

Knows what a build reports. Imports nothing that a build needs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import check_room
from phi3kit.core.errors import LimitReached
from phi3kit.core.settings import Settings
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import Job
from phi3kit.jobs.job_list import JobList
from phi3kit.jobs.kinds import BUILDS
from phi3kit.packaging.events import BuildRequest, BuildStep, Note, StepProgress, from_line
from phi3kit.packaging.plan import allow

_KEPT = "Unfinished models are not listed."
_NEXT_STEP = "Build again, with more free memory if it ran out."


@dataclass(frozen=True)
class BuildJob(Job):
    """A build as it stands now."""

    request: BuildRequest
    steps: tuple[BuildStep, ...]
    progress: StepProgress | None  # of the running step
    notes: tuple[Note, ...]
    built: tuple[dict[str, Any], ...]  # the CLI's JSON, one a wrapper


class BuildJobs(JobList[BuildJob]):
    """The builds of one data folder. A cancelled one takes back what it half did."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(BUILDS, settings, _read)

    def start(self, request: BuildRequest, actor: Actor, *, accept_tight: bool = False) -> BuildJob:
        """Start a build, which waits for those before it.

        actor: who asks. Raises NotAllowed, LimitReached or StorageFailed.
        """
        allow(request, actor)
        check_room(self._settings)
        _check_models(len(request.wrappers), self._settings)
        return self.launch(lambda folder: request, actor, ["--yes"] if accept_tight else [])


def _check_models(more: int, settings: Settings) -> None:
    if (most := settings.limits.models) is None:
        return
    from phi3kit.tracking.logged_models import list_models

    if (there := len(list_models(settings))) + more > most:
        raise LimitReached(
            "The limit of models is reached.",
            f"{there} models are logged here; the limit is {most}.",
            "Talk to one of them on Chat. Old models are deleted automatically.",
            retry_after_s=3600,
        )


def _read(folder: Path) -> BuildJob:
    lines = job_folder.read_lines(folder)
    steps: list[BuildStep] = []
    notes: list[Note] = []
    built: list[dict[str, Any]] = []
    progress: StepProgress | None = None
    for line in lines:
        event = from_line(line)
        if isinstance(event, BuildStep):
            again = bool(steps) and steps[-1] == replace(event, seconds=None)
            steps[-1 if again else len(steps) :] = [event]
            progress = None
        elif isinstance(event, StepProgress):
            progress = event
        elif isinstance(event, Note):
            notes.append(event)
        elif "model_uri" in line:
            built.append(line)
    return BuildJob(
        **vars(BUILDS.job(folder, lines, _KEPT, _NEXT_STEP)),
        request=job_folder.read_request(folder, BuildRequest),
        steps=tuple(steps),
        progress=progress,
        notes=tuple(notes),
        built=tuple(built),
    )
