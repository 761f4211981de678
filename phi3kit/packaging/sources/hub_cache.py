"""The hub's cache: files in the client's own layout; an interrupted download goes on where it ended.

The bytes are written here, because `hf_hub_download` of `huggingface_hub` 2.4 deletes a partial file when it ends early
and compares no hash, and its `http_get` writes pieces of 10 MB: a break loses up to that much, and a slow download shows
no progress.
Knows hashes, partial files and a disk that fills up. Knows nothing of what a build needs.
"""

import hashlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from phi3kit.core.data_folder import DISK_FULL, writing
from phi3kit.core.errors import DownloadFailed
from phi3kit.core.machine import free_disk_bytes
from phi3kit.core.operating_system import link
from phi3kit.core.settings import Settings
from phi3kit.endpoints.outbound import Bounds
from phi3kit.packaging.sources.hub_client import KEPT, ONLINE, explained, host_of, patiently, url_of
from phi3kit.packaging.sources.hub_names import DownloadProgress, HubFile, HubName, HubSnapshot, OnProgress
from phi3kit.packaging.sources.hub_requests import answered, bounded_client

_LEAST_BYTES_PER_S = 1_000  # over a minute; at that rate the weights of Phi-3-mini would take three months
_WORTH_A_TRY = 2**16  # bytes; a connection that brings less counts as one that brought nothing


@dataclass(frozen=True)
class Cache:
    """Where the files of a snapshot lie: the client's own layout, which its tools list and clean."""

    repo: Path
    commit: str
    subfolder: str

    @classmethod
    def of(cls, snapshot: HubSnapshot, settings: Settings) -> "Cache":
        """The cache of a snapshot."""
        repo = settings.home / "hub" / f"models--{snapshot.name.repo.replace('/', '--')}"
        return cls(repo, snapshot.commit, snapshot.name.subfolder or "")

    @property
    def folder(self) -> Path:
        """The folder that a build reads."""
        return self.repo / "snapshots" / self.commit / self.subfolder

    def blob(self, file: HubFile) -> Path:
        """The whole, checked file."""
        return self.repo / "blobs" / file.key

    def partial(self, file: HubFile) -> Path:
        """What came of a file so far."""
        return self.repo / "blobs" / f"{file.key}.incomplete"

    def holds(self, file: HubFile) -> bool:
        """Whether a file was downloaded and checked."""
        return _size(self.blob(file)) == file.size_bytes

    def lacks(self, files: Iterable[HubFile]) -> int:
        """Bytes that are still to come."""
        missing = {file.key: file for file in files if not self.holds(file)}
        return sum(max(0, file.size_bytes - max(0, _size(self.partial(file)))) for file in missing.values())

    def pointer(self, file: HubFile) -> Path:
        """The link by which a build finds a file."""
        return self.repo / "snapshots" / self.commit / file.path

    def point(self, file: HubFile) -> None:
        """Link a whole file under its name."""
        pointer = self.pointer(file)
        if not pointer.exists():
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)  # a dangling one
            link(pointer, Path(os.path.relpath(self.blob(file), pointer.parent)))


def _size(path: Path) -> int:
    """Bytes; -1 where there is no file."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


class _Meter:
    """Counts bytes and reports them, four times a second at most."""

    def __init__(self, total: int, lacking: int, on_progress: OnProgress) -> None:
        self._total, self._done, self._tell = total, total - lacking, on_progress
        self._recent = deque([(time.perf_counter(), self._done)], maxlen=40)  # ten seconds of reports

    def add(self, count: int) -> None:
        """Count bytes that came; a negative count when the file begins again."""
        self._done += count
        if time.perf_counter() - self._recent[-1][0] >= 0.25:
            self.report()

    def report(self) -> None:
        """Report how far it is now."""
        now, (since, before) = time.perf_counter(), self._recent[0]
        rate = max(0.0, (self._done - before) / max(now - since, 1e-6))
        left = self._total - self._done
        self._recent.append((now, self._done))
        self._tell(DownloadProgress(self._done, self._total, rate, left / rate if rate else None if left else 0.0))


def fetch(snapshot: HubSnapshot, settings: Settings, files: tuple[HubFile, ...], on_progress: OnProgress) -> Path:
    """Bring the files that the cache lacks, each checked against its hash; the folder that holds them.

    Raises SourceInvalid, DownloadFailed or StorageFailed.
    """
    cache, total = Cache.of(snapshot, settings), sum({file.key: file.size_bytes for file in files}.values())
    if all(cache.holds(file) and cache.pointer(file).exists() for file in files):
        _Meter(total, 0, on_progress).report()
        return cache.folder
    with _storing(cache, snapshot, settings, files), _alone(cache, snapshot.name), ONLINE:
        lacking = cache.lacks(files)
        if free_disk_bytes(cache.repo) < lacking:
            raise _disk_full("the disk is too full", cache, snapshot.name, files)
        meter = _Meter(total, lacking, on_progress)
        # Small files first: a refusal or a missing file is then known before the gigabytes.
        for file in sorted(files, key=lambda file: file.size_bytes):
            if not cache.holds(file):
                with explained(snapshot.name, settings, file.path):
                    _bring(file, cache, snapshot, settings, meter)
            cache.point(file)
        meter.report()
    return cache.folder


def _bring(file: HubFile, cache: Cache, snapshot: HubSnapshot, settings: Settings, meter: _Meter) -> None:
    """Fetch a file, or the rest of it, and place it when its hash is right."""
    partial = cache.partial(file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    while _size(partial) < file.size_bytes:
        patiently(lambda: _stream(file, partial, snapshot, settings, meter))
    if not _is_right(partial, file):
        partial.unlink()
        raise DownloadFailed(
            what=f"{snapshot.name} could not be downloaded.",
            why=f"{file.path} arrived damaged: its bytes do not match the hash from {host_of(settings)}.",
            next_step="Try again: the damaged file was removed, the others are kept.",
        )
    os.replace(partial, cache.blob(file))


def _stream(file: HubFile, partial: Path, snapshot: HubSnapshot, settings: Settings, meter: _Meter) -> None:
    """Append until the file is whole or the connection ends. Raises only when the connection brought next to nothing."""
    import httpx2
    from huggingface_hub import constants

    url, timeout_s = url_of(snapshot.name, snapshot.commit, file.path, settings), constants.HF_HUB_DOWNLOAD_TIMEOUT
    with partial.open("ab") as out, bounded_client(settings, _bounds(file, snapshot.name, settings)) as client:
        began = have = out.tell()
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with answered(client, "GET", url, settings, timeout_s, headers) as response:
                if have and response.status_code != 206:  # the server sends the whole file again
                    out.truncate(0)
                    meter.add(-have)
                    have = 0
                for piece in response.iter_raw():
                    out.write(piece)
                    have += len(piece)
                    meter.add(len(piece))
                    if have > file.size_bytes:  # another file, as its hash will show
                        return
                if have < file.size_bytes:
                    raise httpx2.RemoteProtocolError("The file ended early.")
        except httpx2.TransportError:
            if have - began < _WORTH_A_TRY:
                raise


def _bounds(file: HubFile, name: HubName, settings: Settings) -> Bounds:
    """Of a connection that brings a file: its bytes with what frames them, no whole time, and a least rate."""
    what, host = f"{name} could not be downloaded.", host_of(settings)
    return Bounds(
        math.inf,
        2 * file.size_bytes + _WORTH_A_TRY,
        lambda: DownloadFailed(
            what,
            f"The connection stalled: {host} sent less than {_LEAST_BYTES_PER_S:,} bytes of {file.path} a second.",
            f"Check the network and try again. {KEPT}",
        ),
        lambda: DownloadFailed(
            what, f"{host} sent more than twice the bytes of {file.path}.", f"Check HF_ENDPOINT. {KEPT}"
        ),
        _LEAST_BYTES_PER_S,
    )


def _is_right(partial: Path, file: HubFile) -> bool:
    """Whether the bytes have the repository's hash. A mirror's own ETag is none: then the size must do."""
    with partial.open("rb") as read:
        os.fsync(read.fileno())  # a file in the cache must be the checked one after a power cut too
        if file.sha256:
            return hashlib.file_digest(read, "sha256").hexdigest() == file.sha256
        if re.fullmatch("[0-9a-f]{40}", file.key):
            git = hashlib.sha1(b"blob %d\0" % _size(partial), usedforsecurity=False)
            return hashlib.file_digest(read, lambda: git).hexdigest() == file.key
    return _size(partial) == file.size_bytes


@contextmanager
def _alone(cache: Cache, name: HubName) -> Iterator[None]:
    """Let one process at a time download a repository: two would write the same partial file."""
    lock = cache.repo.parent / ".locks" / cache.repo.name / "phi3kit.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock, timeout=10).acquire()  # a cancelled download may take so long to end
    except Timeout as error:
        raise DownloadFailed(
            what=f"{name} cannot be downloaded now.",
            why="Another process is downloading it into the same data folder.",
            next_step="Wait until it has finished. The files are then here.",
        ) from error
    with held:
        yield


@contextmanager
def _storing(cache: Cache, snapshot: HubSnapshot, settings: Settings, files: tuple[HubFile, ...]) -> Iterator[None]:
    """Translate the errors of the disk."""
    try:
        cache.repo.mkdir(parents=True, exist_ok=True)
        yield
    except ConnectionError:  # the listener to the progress has gone
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _disk_full(f"{error.strerror}", cache, snapshot.name, files) from error
        with writing(settings.home):
            raise


def _disk_full(reason: str, cache: Cache, name: HubName, files: tuple[HubFile, ...]) -> DownloadFailed:
    needed, free = cache.lacks(files), free_disk_bytes(cache.repo)
    return DownloadFailed(
        what=f"{name} could not be downloaded.",
        why=f"The data folder cannot store more ({reason}): {needed:,} bytes are still needed, {free:,} are free.",
        next_step=f"Free some space or set PHI3KIT_HOME to a folder on a larger disk. {KEPT}",
    )
