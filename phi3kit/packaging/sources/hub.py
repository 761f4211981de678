"""The hub: what a repository on Hugging Face holds, and its files on this machine.

Knows which files a build needs. Loads no weights, and fetches neither code nor pickles.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.core.errors import SourceInvalid, without_controls
from phi3kit.core.settings import Settings
from phi3kit.packaging.sources.hub_cache import Cache, fetch
from phi3kit.packaging.sources.hub_client import ONLINE, explained, not_a_hub, patiently, token_of, url_of
from phi3kit.packaging.sources.hub_names import HubFile, HubName, HubSnapshot, OnProgress

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_LONGEST_LICENSE = 100  # characters
_WEIGHTS = ("*.safetensors", "*.onnx")
_NEEDED = (*_WEIGHTS, "*.onnx.data", "*.onnx_data", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NEVER = (*_PICKLES, "*.py")


def look_up(name: HubName, settings: Settings) -> HubSnapshot:
    """What a repository holds at a revision, by one request.

    Raises SourceInvalid when it does not exist or holds nothing for a build, or DownloadFailed.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=settings.hub_endpoint.reveal(), token=token_of(settings), library_name="phi3kit")
    with ONLINE, explained(name, settings):
        try:
            info = patiently(
                lambda: api.model_info(
                    name.repo, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
                )
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # a proxy's page, or another service
            raise not_a_hub(name, settings) from error
        commit = str(info.sha or "")
        if not re.fullmatch(r"\w+", commit):
            raise not_a_hub(name, settings)
        chosen = _choose(name, info.siblings or [])
        files = tuple(_hub_file(each, name, commit, settings) for each in chosen)
    license = getattr(info.card_data, "license", None)
    license = ", ".join(map(str, license)) if isinstance(license, list) else license and str(license)
    return HubSnapshot(
        name=name,
        commit=commit,
        license=license and without_controls(license[:_LONGEST_LICENSE]),
        gated=bool(info.gated),
        card_url=f"{settings.hub_endpoint}/{name.repo}",
        files=files,
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


def _choose(name: HubName, siblings: Iterable["RepoSibling"]) -> list["RepoSibling"]:
    """The files directly in the named folder that a build needs. Raises SourceInvalid when no weights are there."""
    paths = {sibling.rfilename: sibling for sibling in siblings}
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


def _hub_file(sibling: "RepoSibling", name: HubName, commit: str, settings: Settings) -> HubFile:
    """Size and hash from the repository's list; from the file's own headers where a mirror's list has none."""
    from huggingface_hub import constants, get_hf_file_metadata

    path, size, blob_id = sibling.rfilename, sibling.size, sibling.blob_id
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    if size is None or not (sha256 or blob_id):
        url, token = url_of(name, commit, path, settings), token_of(settings)
        with explained(name, settings, path):
            found = patiently(lambda: get_hf_file_metadata(url, token, constants.HF_HUB_ETAG_TIMEOUT))
        size, etag = found.size, found.etag or ""
        sha256, blob_id = (etag, None) if re.fullmatch("[0-9a-f]{64}", etag) else (None, etag)
    file = HubFile(path, size or 0, sha256, None if sha256 else blob_id)
    if size is None or not re.fullmatch(r"\w[\w.-]*", file.key):
        raise not_a_hub(name, settings)
    return file
