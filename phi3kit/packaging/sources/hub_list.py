"""The hub's list: what the hub says of a repository, in records of our own.

Knows the two forms in which a hub tells a file's size and hash. Chooses no files.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from phi3kit.core.settings import Settings
from phi3kit.packaging.sources.hub_names import HubName
from phi3kit.packaging.sources.hub_requests import answered

if TYPE_CHECKING:
    import httpx2

_LARGEST_FILE = 10**15  # bytes


@dataclass(frozen=True)
class ListedFile:
    """A file of a repository. What the list of a mirror does not tell is None."""

    path: str
    size_bytes: int | None
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Listed:
    """A repository at one commit."""

    commit: str
    license: str | None
    gated: bool
    files: tuple[ListedFile, ...]


def read_list(client: "httpx2.Client", name: HubName, settings: Settings, timeout_s: float) -> Listed:
    """What a repository holds at a revision, by one request.

    Raises ValueError for an answer of something else than a hub, and what `answered` does.
    """
    url = f"{settings.hub_endpoint.reveal().rstrip('/')}/api/models/{name.repo}"
    url += f"/revision/{quote(name.revision, safe='')}" if name.revision else ""
    with answered(client, "GET", f"{url}?blobs=True", settings, timeout_s) as response:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("It is compressed, which was not asked for.")
        content = b"".join(response.iter_raw())
    try:
        return _listed(json.loads(content))
    except RecursionError as error:
        raise ValueError("It is nested too deeply.") from error


def read_headers(client: "httpx2.Client", url: str, settings: Settings, timeout_s: float) -> tuple[int | None, str]:
    """A file's size, where it is told, and its hash, from its own headers. Raises what `answered` does."""
    with answered(client, "HEAD", url, settings, timeout_s) as response:
        headers, elsewhere = response.headers, response.is_redirect
    size = headers.get("X-Linked-Size") or (not elsewhere and headers.get("Content-Length")) or ""
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    return int(size) if re.fullmatch("[0-9]{1,15}", size) else None, etag.removeprefix("W/").strip('"')


def _listed(answer: Any) -> Listed:
    """Raises ValueError for anything that a hub does not say."""
    commit, files = _part(answer, dict).get("sha"), _part(answer.get("siblings") or [], list)
    if not isinstance(commit, str) or not re.fullmatch(r"\w{1,100}", commit, re.ASCII):
        raise ValueError("It names no commit.")
    card = answer.get("cardData")
    license = card.get("license") if isinstance(card, dict) else None
    licenses = license if isinstance(license, list) else [license]
    return Listed(
        commit=commit,
        license=", ".join(each for each in licenses if isinstance(each, str)) or None,
        gated=bool(answer.get("gated")),
        files=tuple(map(_file, files)),
    )


def _file(sibling: Any) -> ListedFile:
    path, size, blob_id = (_part(sibling, dict).get(key) for key in ("rfilename", "size", "blobId"))
    sha256 = _part(sibling.get("lfs") or {}, dict).get("sha256")
    if not isinstance(path, str) or not path.isprintable():
        raise ValueError("A file has no name.")
    if size is not None and (type(size) is not int or not 0 <= size <= _LARGEST_FILE):
        raise ValueError("A file's size is not a number of bytes.")
    if not all(isinstance(key, str | None) for key in (sha256, blob_id)):
        raise ValueError("A file's hash is not text.")
    return ListedFile(path, size, sha256 or None, blob_id or None)


def _part(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"There is no {kind.__name__} where one should be.")
    return value
