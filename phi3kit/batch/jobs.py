"""Jobs: batches as processes of their own, one at a time.

Knows what a batch reports. Imports nothing that a batch needs.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.access.actor import Actor
from phi3kit.batch.events import BatchSummary, RowProgress
from phi3kit.batch.request import BatchRequest
from phi3kit.core.data_folder import check_room, writing
from phi3kit.core.errors import TableInvalid
from phi3kit.core.settings import Settings
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import Job
from phi3kit.jobs.job_list import JobList
from phi3kit.jobs.kinds import BATCHES

_GO_ON = "What was computed is kept. Start the same batch again and it goes on from there."
_UPLOADS_KEPT = 20


@dataclass(frozen=True)
class BatchJob(Job):
    """A batch as it stands now."""

    request: BatchRequest
    progress: RowProgress | None
    summary: BatchSummary | None

    @property
    def own_output(self) -> bool:
        """Whether its output lies in its own folder; that of a terminal's batch lies elsewhere."""
        return self.request.output.parent == self.folder


class BatchJobs(JobList[BatchJob]):
    """The batches of one data folder. What a cancelled one computed is kept."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(BATCHES, settings, _read)

    def start(self, request: BatchRequest, actor: Actor) -> BatchJob:
        """Start a batch, which waits for those before it; its output goes into its folder.

        actor: who asks. Raises NotAllowed, LimitReached or StorageFailed.
        """
        actor.require("batch")
        check_room(self._settings)
        with writing(self._settings.home):
            folder = BATCHES.new_folder(self._settings)
        request = replace(request, output=folder / request.output.name)
        return self.launch(request, actor, folder)


def keep_upload(name: str, content: bytes, settings: Settings) -> Path:
    """Put an uploaded table into the data folder; the oldest uploads make room for it.

    Raises TableInvalid, LimitReached or StorageFailed.
    """
    most = settings.limits.upload_mb
    if most is not None and len(content) > most * 1_000_000:
        raise TableInvalid(
            "The file is too big.", f"It has {len(content) / 1e6:,.1f} MB, and {most:,} are allowed.", "Split it."
        )
    check_room(settings)
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


def _read(folder: Path) -> BatchJob:
    request = job_folder.read_request(folder, BatchRequest)
    lines = job_folder.read_lines(folder)
    found: dict[str, Any] | None = next((line for line in lines if "completion_tokens" in line), None)
    at = job_folder.read_progress(folder)
    return BatchJob(
        **vars(BATCHES.job(folder, lines, _GO_ON)),
        request=request,
        progress=RowProgress(**at) if at else None,
        summary=BatchSummary(**found) if found else None,
    )
