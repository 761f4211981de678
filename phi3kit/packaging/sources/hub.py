"""The hub: what a repository on Hugging Face holds, and its files on this machine.

Knows which files a build needs. Loads no weights, and fetches neither code nor pickles.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.core.errors import DownloadFailed, SourceInvalid, without_controls
from phi3kit.core.settings import Settings
from phi3kit.endpoints.outbound import Bounds
from phi3kit.packaging.sources.hub_cache import Cache, fetch
from phi3kit.packaging.sources.hub_client import ONLINE, explained, host_of, not_a_hub, patiently, url_of
from phi3kit.packaging.sources.hub_list import ListedFile, read_headers, read_list
from phi3kit.packaging.sources.hub_names import HubFile, HubName, HubSnapshot, OnProgress
from phi3kit.packaging.sources.hub_requests import bounded_client

if TYPE_CHECKING:
    import httpx2

_MOST_LIST_BYTES = 8_000_000  # read as JSON it may take 25 times as much memory; that of Phi-3 has 10 kB
_MOST_LIST_S = 60  # four tries that wait 10 s each have room in it
_LONGEST_LICENSE = 100  # characters
_WEIGHTS = ("*.safetensors", "*.onnx")
_NEEDED = (*_WEIGHTS, "*.onnx.data", "*.onnx_data", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NEVER = (*_PICKLES, "*.py")


def look_up(name: HubName, settings: Settings) -> HubSnapshot:
    """What a repository holds at a revision, by one request.

    Raises SourceInvalid when it does not exist or holds nothing for a build, or DownloadFailed.
    """
    from huggingface_hub import constants

    timeout_s = constants.HF_HUB_ETAG_TIMEOUT
    with ONLINE, explained(name, settings), bounded_client(settings, _bounds(name, settings)) as client:
        try:
            listed = patiently(lambda: read_list(client, name, settings, timeout_s))
        except ValueError as error:  # a proxy's page, or another service
            raise not_a_hub(name, settings) from error
        files = []
        for each in _choose(name, listed.files):
            if each.size_bytes is None or not (each.sha256 or each.blob_id):
                each = _asked_for(each, name, listed.commit, settings, client, timeout_s)
            files.append(_hub_file(each, name, settings))
    return HubSnapshot(
        name=name,
        commit=listed.commit,
        license=listed.license and without_controls(listed.license[:_LONGEST_LICENSE]),
        gated=listed.gated,
        card_url=f"{settings.hub_endpoint}/{name.repo}",
        files=tuple(files),
    )


def _bounds(name: HubName, settings: Settings) -> Bounds:
    """Of all that is asked to know what a repository holds."""
    what, host, next_step = f"{name} could not be downloaded.", host_of(settings), "Check the network and HF_ENDPOINT."
    return Bounds(
        _MOST_LIST_S,
        _MOST_LIST_BYTES,
        lambda: DownloadFailed(what, f"{host} took longer than {_MOST_LIST_S} s to say what it holds.", next_step),
        lambda: DownloadFailed(what, f"{host} says more than {_MOST_LIST_BYTES:,} bytes of what it holds.", next_step),
    )


def bytes_to_download(snapshot: HubSnapshot, settings: Settings) -> int:
    """Bytes that the cache lacks; of a partial file, the rest."""
    return Cache.of(snapshot, settings).lacks(snapshot.files)


def download(snapshot: HubSnapshot, settings: Settings, on_progress: OnProgress = lambda progress: None) -> Path:
    """The folder with the snapshot's files. Fetches only what the cache lacks, and checks it against its hash.

    on_progress: called about four times a second, and at the end. However a download ends, also with its process,
    the next one goes on from there. Raises SourceInvalid, DownloadFailed or StorageFailed.
    """
    return fetch(snapshot, settings, snapshot.files, on_progress)


def fetch_small(snapshot: HubSnapshot, settings: Settings, names: Collection[str]) -> Path:
    """The same folder with those of the named files that the snapshot has: to judge it before the gigabytes."""
    files = tuple(file for file in snapshot.files if file.path.rpartition("/")[2] in names)
    return fetch(snapshot, settings, files, lambda progress: None)


def _choose(name: HubName, files: Iterable[ListedFile]) -> list[ListedFile]:
    """The files directly in the named folder that a build needs. Raises SourceInvalid when no weights are there."""
    paths = {file.path: file for file in files}
    folder = name.subfolder or ""
    here = [path for path in paths if path.rpartition("/")[0] == folder]
    if _any_like(here, _WEIGHTS):
        return [paths[path] for path in here if _any_like([path], _NEEDED) and not _any_like([path], _NEVER)]
    elsewhere = sorted({path.rpartition("/")[0] for path in paths if "/" in path and _any_like([path], _WEIGHTS)})
    where = f"The folder {folder}" if folder else "It"
    if _any_like(here, _PICKLES):
        why = "Its weights are pickled, and a pickle can run any code when it is loaded."
        next_step = "Use a model whose weights are safetensors."
    elif elsewhere:
        has = "has no weights" if here or not folder else "does not exist"
        why = f"{where} {has}; the weights are in {', '.join(elsewhere[:8])}."
        bare = HubName(name.repo, name.revision)
        next_step = f"Name one of these folders, as in {bare}/{elsewhere[0]}."
    else:
        why = f"{where} has no weights: no file ends in .safetensors or .onnx."
        next_step = "Use a model whose weights are safetensors."
    raise SourceInvalid(f"The source {name} cannot be used.", why, next_step)


def _any_like(paths: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path.rpartition("/")[2], pattern) for path in paths for pattern in patterns)


def _asked_for(
    file: ListedFile, name: HubName, commit: str, settings: Settings, client: "httpx2.Client", timeout_s: float
) -> ListedFile:
    """Size and hash from the file's own headers, as a mirror's list has none."""
    url = url_of(name, commit, file.path, settings)
    with explained(name, settings, file.path):
        size, etag = patiently(lambda: read_headers(client, url, settings, timeout_s))
    is_sha256 = re.fullmatch("[0-9a-f]{64}", etag)
    return ListedFile(file.path, size, etag if is_sha256 else None, None if is_sha256 else etag)


def _hub_file(file: ListedFile, name: HubName, settings: Settings) -> HubFile:
    """The file with all that a download needs to know of it. Raises DownloadFailed."""
    known = HubFile(file.path, file.size_bytes or 0, file.sha256, None if file.sha256 else file.blob_id)
    if file.size_bytes is None or not re.fullmatch(r"\w[\w.-]{0,150}", known.key, re.ASCII):
        raise not_a_hub(name, settings)
    return known
