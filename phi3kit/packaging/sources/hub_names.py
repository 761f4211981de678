"""Records of the hub: names, files, snapshots, and the progress of a download.

Knows the form of a name. Makes no request.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

_NAME = re.compile(
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>refs/[\w.+-]+/[\w.+-]+|[\w.+%-]+))?(?:/(?P<subfolder>[\w .+/-]+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubName:
    """A repository, or a folder in it: owner/name[@revision][/folder/in/repo].

    A revision with slashes is written refs/pr/1, or feature%2Fx; None is the repository's own default.
    """

    repo: str
    revision: str | None = None
    subfolder: str | None = None

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{self.repo}{revision}{'/' + self.subfolder if self.subfolder else ''}"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. It has one of the two hashes, which also names it in the cache."""

    path: str  # in the repository
    size_bytes: int
    sha256: str | None  # of what Git LFS stores
    blob_id: str | None = None  # of what git itself stores: the SHA-1 of a header and the bytes

    @property
    def key(self) -> str:
        """Its name in the cache."""
        return self.sha256 or self.blob_id or ""


@dataclass(frozen=True)
class HubSnapshot:
    """A repository at one commit, with the files that a build needs and no others."""

    name: HubName
    commit: str
    license: str | None
    gated: bool  # its owner asks for an agreement, so files need a token
    card_url: str
    files: tuple[HubFile, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class DownloadProgress:
    """The progress of a download, including what the cache had before."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: float  # over the last ten seconds
    seconds_left: float | None  # None while nothing comes


OnProgress = Callable[[DownloadProgress], None]


def parse(name: str) -> HubName | None:
    """The repository that a name means; None when the name has another form."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    repo, revision, subfolder = found["repo"], unquote(found["revision"] or ""), found["subfolder"] or ""
    owner, _, model = repo.partition("/")
    badly_named = any(len(part) > 96 or part[-1] in ".-" for part in (owner, model)) or repo.endswith(".git")
    badly_placed = any(part in ("", ".", "..") for part in (subfolder or "x").split("/"))
    bad_revision = not re.fullmatch(r"(?:\w[\w.+-]*(?:/\w[\w.+-]*)*)?", revision, re.ASCII)
    if badly_named or badly_placed or bad_revision or "--" in repo or ".." in repo + revision:
        return None
    return HubName(repo, revision or None, subfolder or None)
