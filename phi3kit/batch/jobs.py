"""Jobs: batches as processes of their own, one at a time, and what became of each.

Knows what a batch reports. Folders and processes are job_folder's. Imports none of what a batch needs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit import job_folder
from phi3kit.batch.events import Progress, Summary
from phi3kit.batch.request import BatchRequest
from phi3kit.data_folder import writing
from phi3kit.errors import BatchFailed, Phi3KitError
from phi3kit.job_folder import JobKind, JobState, Launcher
from phi3kit.settings import Settings

BATCHES = JobKind("batches", "batch", BatchFailed)

_GO_ON = "What was computed is kept. Start the same batch again and it goes on from there."
_UPLOADS_KEPT = 20


@dataclass(frozen=True)
class BatchJob:
    """A batch as it stands now."""

    job_id: str
    request: BatchRequest
    state: JobState
    began_at: float  # seconds since the epoch
    seconds: float  # so far, or in all
    ahead: int  # batches that go first, while it is queued
    progress: Progress | None
    summary: Summary | None
    error: Phi3KitError | None
    folder: Path

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.state in ("queued", "running")

    @property
    def own_output(self) -> bool:
        """Whether its output lies in its own folder, not where a terminal's user wanted it."""
        return self.request.output.parent == self.folder

    def log(self, characters: int = 20_000) -> str:
        """The end of what the batch printed; nothing when it was started in a terminal."""
        return job_folder.log(self.folder)[-characters:]


class BatchJobs:
    """The batches of one data folder. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._launcher = Launcher(BATCHES, settings)

    def start(self, request: BatchRequest) -> BatchJob:
        """Start a batch; it waits for the batches before it. Its output goes into its folder. Raises StorageFailed."""
        with writing(self._settings.home):
            folder = BATCHES.new_folder(self._settings)
        request = replace(request, output=folder / request.output.name)
        self._launcher.start(request.command(), request.as_json(), folder)
        job = _read(folder)
        assert job is not None
        return job

    def all(self) -> list[BatchJob]:
        """Every job that is known, newest first."""
        self._launcher.reap()
        return [job for folder in reversed(BATCHES.folders(self._settings)) if (job := _read(folder))]

    def find(self, job_id: str) -> BatchJob | None:
        """One job."""
        self._launcher.reap()
        return next((_read(each) for each in BATCHES.folders(self._settings) if each.name == job_id), None)

    def cancel(self, job: BatchJob) -> None:
        """Stop a batch; what it computed is kept. Returns when its process is gone."""
        self._launcher.cancel(job.folder, job.began_at)

    def close(self) -> None:
        """End what this process started."""
        self._launcher.close()


def keep_upload(name: str, content: bytes, settings: Settings) -> Path:
    """Put an uploaded table into the data folder; the oldest uploads make room for it. Raises StorageFailed."""
    import hashlib

    folder = settings.home / "batches" / "uploads" / hashlib.sha256(content).hexdigest()[:16]
    file = folder / Path(name).name
    with writing(settings.home):
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            draft = file.with_name(f"{file.name}.part")
            draft.write_bytes(content)
            draft.replace(file)
        folder.touch()
        for old in sorted(folder.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-_UPLOADS_KEPT]:
            for each in old.iterdir():
                each.unlink()
            old.rmdir()
    return file


def _read(folder: Path) -> BatchJob | None:
    """A job as it stands now; None when its files are damaged, or were removed a moment ago."""
    try:
        return _job(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _job(folder: Path) -> BatchJob:
    request = BatchRequest.from_json(job_folder.read_request(folder))
    lines = job_folder.read_lines(folder)
    ahead = next((int(line["ahead"]) for line in reversed(lines) if line.get("event") == "queued"), 0)
    found: dict[str, Any] | None = next((line for line in lines if "completion_tokens" in line), None)
    at = job_folder.read_progress(folder)
    standing = BATCHES.standing(folder, lines, ahead, _GO_ON)
    return BatchJob(
        job_id=folder.name,
        request=request,
        state=standing.state,
        began_at=standing.began_at,
        seconds=standing.seconds,
        ahead=ahead,
        progress=Progress(**at) if at else None,
        summary=Summary(**found) if found else None,
        error=standing.error,
        folder=folder,
    )
