"""Finding a source: from a user's name for it to weights that can be built from.

A name is `embedded`, a folder, or a repository on Hugging Face: owner/name[@revision][/folder].
Builds nothing.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from phi3kit.access.actor import Actor
from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import Phi3KitError, SourceInvalid
from phi3kit.core.settings import Settings
from phi3kit.formats.model_folder import JUDGED_BY, Files, Shape, SourceKind, judge, refuse_big_configs, sizes_of
from phi3kit.packaging.sources import hub
from phi3kit.packaging.sources.hub_names import HubSnapshot, OnProgress, parse

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Source:
    """Weights that can be used. Those of a repository may not be downloaded yet."""

    name: str  # as the user wrote it
    folder: Path
    files: Files
    snapshot: HubSnapshot | None = None
    download_bytes: int = 0  # not on this machine yet

    @property
    def kind(self) -> SourceKind:
        """Weights for transformers, or an ONNX folder."""
        return self.files.kind

    @property
    def shape(self) -> Shape:
        """Its size, from its config."""
        return self.files.shape

    def is_kept(self, settings: Settings) -> bool:
        """Whether nobody changes its files in place: it lies in the data folder, or beside the kit's own code."""
        folder = self.folder.resolve()
        return folder == MODEL_FOLDER.resolve() or folder.is_relative_to(settings.home.resolve())

    @property
    def commit(self) -> str | None:
        """The repository's commit; None for a folder."""
        return self.snapshot.commit if self.snapshot else None

    @property
    def license(self) -> str | None:
        """The license that the repository's model card names."""
        return self.snapshot.license if self.snapshot else None


def find_source(name: str, actor: Actor, settings: Settings) -> Source:
    """Look at a source; of a repository only small files are downloaded.

    Raises SourceInvalid with the reason, DownloadFailed, or NotAllowed.
    """
    allow_source(name, actor)
    folder = _folder(name) if name == EMBEDDED or actor.may("build_folder") else None
    if folder is not None:
        return Source(name, folder, judge(name, folder, sizes_of(folder)))
    repository = parse(name)
    if repository is None:
        raise SourceInvalid(
            what=f"The source {name} cannot be used.",
            why="There is no such folder.",
            next_step="Choose the embedded model or another source on Build.",
        )
    try:
        snapshot = hub.look_up(repository, settings)
    except Phi3KitError as error:  # a mistyped folder looks like a repository too
        if not actor.may("build_folder"):
            raise
        raise type(error)(
            error.what, f"{error.why} There is no such folder on this machine either.", error.next_step
        ) from error
    inside = f"{repository.subfolder}/" if repository.subfolder else ""
    sizes = {file.path.removeprefix(inside): file.size_bytes for file in snapshot.files}
    refuse_big_configs(name, sizes)
    folder = hub.fetch_small(snapshot, settings, [name for name in JUDGED_BY if name in sizes])
    return Source(name, folder, judge(name, folder, sizes), snapshot, hub.bytes_to_download(snapshot, settings))


def allow_source(name: str, actor: Actor) -> None:
    """Let the actor name this source. Raises NotAllowed, before anything is looked for on this machine."""
    actor.require("build" if name == EMBEDDED else "build_any")
    if name != EMBEDDED and parse(name) is None:
        actor.require("build_folder")


def lies_on_the_hub(name: str) -> bool:
    """Whether a source would be looked for on the hub: it looks like a repository's name and is no folder here."""
    return _folder(name) is None and parse(name) is not None


def _folder(name: str) -> Path | None:
    """The folder that a name means; None when there is none."""
    # os.path, not Path: an unknown ~user or a name that is too long is no exception there.
    folder = MODEL_FOLDER if name == EMBEDDED else Path(os.path.expanduser(name))
    return folder.resolve() if name and os.path.isdir(folder) else None


def fetch(source: Source, settings: Settings, on_progress: OnProgress) -> Source:
    """A repository's source with all its files on this machine. Raises SourceInvalid or DownloadFailed."""
    assert source.snapshot
    folder = hub.download(source.snapshot, settings, on_progress)
    return replace(source, folder=folder, files=judge(source.name, folder, sizes_of(folder)), download_bytes=0)
