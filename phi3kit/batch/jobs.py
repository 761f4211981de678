"""Jobs: batches as processes of their own, one at a time.

Knows what a batch reports. Imports nothing that a batch needs.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.access.actor import Actor
from phi3kit.batch.events import BatchSummary, RowProgress
from phi3kit.batch.request import BatchRequest
from phi3kit.core.data_folder import changed_at, check_room, disk_bytes, writing
from phi3kit.core.errors import TableInvalid
from phi3kit.core.settings import Settings
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import Job
from phi3kit.jobs.job_list import JobList
from phi3kit.jobs.kinds import BATCHES

_KEPT = "Finished rows are kept."
_GO_ON = "Start the same batch again to resume it."
_UPLOADS_KEPT = 20  # of each person
_UPLOADED_BYTES_KEPT = 1_000_000_000  # of each person; the newest upload is kept whatever it has


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

        def request_in(folder: Path) -> BatchRequest:
            kept = keep_input(request.input, folder, self._settings)
            return replace(request, input=kept, output=folder / request.output.name)

        return self.launch(request_in, actor)


def keep_upload(name: str, content: bytes, actor: Actor, settings: Settings) -> Path:
    """Put an uploaded table into the data folder; the same person's oldest uploads make room for it.

    Raises NotAllowed, TableInvalid, LimitReached or StorageFailed.
    """
    actor.require("batch")
    most = settings.limits.upload_mb
    if most is not None and len(content) > most * 1_000_000:
        raise TableInvalid(
            "The file is too big.", f"It has {len(content) / 1e6:,.1f} MB; the limit is {most:,} MB.", "Split it."
        )
    check_room(settings)
    folder = _uploads(settings) / _digest(actor.name.encode()) / _digest(content)
    file = folder / Path(name).name
    with writing(settings.home):
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            draft = file.with_name(f"{file.name}.part")
            draft.write_bytes(content)
            draft.replace(file)
        folder.touch()
        _make_room(folder.parent)
    return file


def find_upload(identifier: str, actor: Actor, settings: Settings) -> Path | None:
    """A table that this person has uploaded, by the name of its folder; None when it is not there (any more).

    Of several of the same content, the newest.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", identifier):
        return None
    folder = _uploads(settings) / _digest(actor.name.encode()) / identifier
    try:
        found = [file for file in folder.iterdir() if file.suffix != ".part"]
    except OSError:  # not there, or another tab makes room
        return None
    return max(found, key=changed_at, default=None)


def keep_input(file: Path, folder: Path, settings: Settings) -> Path:
    """An uploaded table under a second name in its job's folder, so that it stays until the job is gone; others as they are.

    Raises OSError.
    """
    if not file.is_relative_to(_uploads(settings)) and not file.is_relative_to(BATCHES.home(settings)):
        return file
    kept = folder / "input" / file.name
    kept.parent.mkdir()
    try:
        kept.hardlink_to(file)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(file, kept)
    return kept


def _uploads(settings: Settings) -> Path:
    return BATCHES.home(settings) / "uploads"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _make_room(uploads: Path) -> None:
    """Remove one person's oldest uploads. Another tab may do the same at this moment."""
    held = 0
    newest = sorted(uploads.iterdir(), key=changed_at, reverse=True)
    for place, folder in enumerate(newest):
        held += disk_bytes(folder)
        if place and (place >= _UPLOADS_KEPT or held > _UPLOADED_BYTES_KEPT):
            shutil.rmtree(folder, ignore_errors=True)


def _here(file: Path, folder: Path) -> Path:
    """A file of the job's own, where its folder lies now: a data folder may be copied or moved."""
    if folder.name not in file.parts:
        return file
    return folder.joinpath(*file.parts[file.parts.index(folder.name) + 1 :])


def _read(folder: Path) -> BatchJob:
    request = job_folder.read_request(folder, BatchRequest)
    request = replace(request, input=_here(request.input, folder), output=_here(request.output, folder))
    lines = job_folder.read_lines(folder)
    found: dict[str, Any] | None = next((line for line in lines if "completion_tokens" in line), None)
    at = job_folder.read_progress(folder)
    return BatchJob(
        **vars(BATCHES.job(folder, lines, _KEPT, _GO_ON)),
        request=request,
        progress=RowProgress(**at) if at else None,
        summary=BatchSummary(**found) if found else None,
    )
