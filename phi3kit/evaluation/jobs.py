"""Jobs: evaluations as processes of their own, one at a time, and what became of each.

Knows what an evaluation reports. Folders and processes are job_folder's. Imports none of what an evaluation needs.
"""

from dataclasses import dataclass
from pathlib import Path

from phi3kit import job_folder
from phi3kit.batch.events import Progress
from phi3kit.errors import BatchFailed, Phi3KitError
from phi3kit.evaluation.request import EvaluationRequest
from phi3kit.job_folder import JobKind, JobState, Launcher
from phi3kit.settings import Settings

EVALUATIONS = JobKind("evaluations", "evaluation", BatchFailed)


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation as it stands now."""

    job_id: str
    request: EvaluationRequest
    state: JobState
    began_at: float  # seconds since the epoch
    seconds: float  # so far, or in all
    ahead: int  # evaluations that go first, while it is queued
    progress: Progress | None
    run_id: str | None  # of the run that it logged
    error: Phi3KitError | None
    folder: Path

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.state in ("queued", "running")


class EvaluationJobs:
    """The evaluations of one data folder. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._launcher = Launcher(EVALUATIONS, settings)

    def start(self, request: EvaluationRequest) -> EvaluationJob:
        """Start an evaluation; it waits for those before it. Raises StorageFailed."""
        job = _read(self._launcher.start(request.command(), request.as_json()))
        assert job is not None
        return job

    def latest(self) -> EvaluationJob | None:
        """The one that a page shows: the oldest one under way, or the one that ended last."""
        self._launcher.reap()
        jobs = [job for folder in reversed(EVALUATIONS.folders(self._settings)) if (job := _read(folder))]
        under_way = [job for job in jobs if job.active]
        return under_way[-1] if under_way else jobs[0] if jobs else None

    def cancel(self, job: EvaluationJob) -> None:
        """End an evaluation; nothing of it is logged. Returns when its process is gone."""
        self._launcher.cancel(job.folder, job.began_at)

    def close(self) -> None:
        """End what this process started."""
        self._launcher.close()


def _read(folder: Path) -> EvaluationJob | None:
    """A job as it stands now; None when its files are damaged, or were removed a moment ago."""
    try:
        return _job(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job(folder: Path) -> EvaluationJob:
    request = EvaluationRequest.from_json(job_folder.read_request(folder))
    lines = job_folder.read_lines(folder)
    ahead = next((int(line["ahead"]) for line in reversed(lines) if line.get("event") == "queued"), 0)
    at = job_folder.read_progress(folder)
    standing = EVALUATIONS.standing(folder, lines, ahead, "Evaluate again.")
    return EvaluationJob(
        job_id=folder.name,
        request=request,
        state=standing.state,
        began_at=standing.began_at,
        seconds=standing.seconds,
        ahead=ahead,
        progress=Progress(**at) if at else None,
        run_id=next((line["run_id"] for line in lines if "run_id" in line), None),
        error=standing.error,
        folder=folder,
    )
