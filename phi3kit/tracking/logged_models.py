"""Logged models: which wrappers were built, where their files lie, their signatures, and how they are deleted.

Knows MLflow's logged models. Loads no weights.
"""

import contextlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from phi3kit.core.data_folder import disk_bytes, files_under, writing
from phi3kit.core.errors import ModelNotFound
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.mlmodel import MlmodelUnreadable, read_mlmodel
from phi3kit.tracking import foreign_values
from phi3kit.tracking.model_uris import canonical
from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, known, open_store, storage_errors

SIZE_TAG = "phi3kit.size_bytes"
ONNX_ARTIFACT = "phi3-mini-onnx"  # the exported folder's name among an onnx model's artifacts, as in the chapter

_LASTING = re.compile(r"models:/(m-[^/@]+|[^@]+/\d+)")  # a logged model, or a version
_CONTEXT_TOKENS = 4096  # of a model that was logged before builds wrote it down


@dataclass(frozen=True)
class LoggedModel:
    """A built and checked wrapper, as the pages list it."""

    model_uri: str
    wrapper: WrapperName
    source: str
    precision: str
    context_tokens: int
    created_at: datetime
    run_id: str
    size_bytes: int | None = None  # None: remote, and logged before builds wrote it down
    files_gone: bool = False  # the store lists it, and its folder is not there any more


@dataclass(frozen=True)
class ResolvedModel:
    """A model URI's files on this machine."""

    model_uri: str  # the logged model's own; an alias or a version was followed
    wrapper: WrapperName
    folder: Path


def list_models(settings: Settings, wrapper: WrapperName | None = None) -> list[LoggedModel]:
    """The wrappers that were built whole, newest first. Raises StorageFailed."""
    open_store(settings)
    experiment = experiment_id(settings, BUILDS_EXPERIMENT)
    with storage_errors(settings.home):
        found = mlflow.search_logged_models(
            experiment_ids=[experiment],
            filter_string="tags.`phi3kit.checked` = 'true'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
            output_format="list",
        )
    models = filter(None, map(_listed, found))
    return [model for model in models if wrapper is None or model.wrapper == wrapper]


def _listed(model: Any) -> LoggedModel | None:
    """None for another program's model that has the tag of a checked one."""
    kind = foreign_values.one_of(model.tags.get("phi3kit.wrapper"), WRAPPERS)
    created_at = foreign_values.moment(model.creation_timestamp)
    if kind is None or created_at is None:
        return None
    folder = _local_folder(model)
    size = disk_bytes(folder) if folder and folder.is_dir() else foreign_values.whole(model.tags.get(SIZE_TAG), 1)
    return LoggedModel(
        model_uri=f"models:/{model.model_id}",
        wrapper=kind,
        source=model.tags.get("phi3kit.source", ""),
        precision=model.tags.get("phi3kit.precision", ""),
        context_tokens=foreign_values.whole(model.tags.get("phi3kit.context_tokens"), 1) or _CONTEXT_TOKENS,
        created_at=created_at,
        run_id=model.source_run_id or "",
        size_bytes=size,
        files_gone=folder is not None and not (folder / "MLmodel").is_file(),
    )


def resolve(model_uri: str, settings: Settings) -> ResolvedModel:
    """Find the files behind anything that MLflow resolves. Raises ModelNotFound or StorageFailed."""
    model_uri = canonical(model_uri, settings)
    folder = _download(model_uri, settings)
    flavors = _mlmodel(model_uri, folder)["flavors"]
    wrapper: WrapperName
    if "transformers" in flavors:
        wrapper = "transformers"
    elif ONNX_ARTIFACT in ((flavors.get("python_function") or {}).get("artifacts") or {}):
        wrapper = "onnx"
    else:
        raise ModelNotFound(
            what=f"{model_uri} is not one of the two wrappers.",
            why=f"Its flavors are {', '.join(flavors) or 'none'}.",
            next_step="Choose a model that was built on Build or by phi3kit build.",
        )
    return ResolvedModel(model_uri, wrapper, folder)


def signature_of(model_uri: str, settings: Settings) -> ModelSignature:
    """The signature that a logged model carries. Raises ModelNotFound or StorageFailed."""
    described = _mlmodel(model_uri, _download(model_uri, settings)).get("signature")
    if not described:
        raise ModelNotFound(
            what=f"{model_uri} has no signature.",
            why="It was logged without one.",
            next_step="Choose a model that was built on Build.",
        )
    try:
        return ModelSignature.from_dict(described)
    except Exception as error:  # MLflow raises whatever its parser meets
        raise ModelNotFound(
            f"The signature of {model_uri} cannot be read.", "It is damaged.", "Build it again on Build."
        ) from error


def files_of(model_uri: str, settings: Settings) -> list[tuple[str, int]]:
    """The logged files: (path inside the model, bytes), sorted by path. Raises ModelNotFound or StorageFailed."""
    folder = _download(model_uri, settings)
    _mlmodel(model_uri, folder)  # a version's source may be any folder of this machine
    return sorted((path.relative_to(folder).as_posix(), stat.st_size) for path, stat in files_under(folder))


def _mlmodel(model_uri: str, folder: Path) -> dict[str, Any]:
    try:
        return read_mlmodel(folder)
    except MlmodelUnreadable as error:
        raise ModelNotFound(f"{model_uri} cannot be read.", str(error), "Build it again on Build.") from error


def _download(model_uri: str, settings: Settings) -> Path:
    model_uri = canonical(model_uri, settings)
    client = open_store(settings)
    try:
        # A model in a local store is used where it lies; what MLflow must copy goes into the data folder.
        if settings.own_store and model_uri.startswith("models:/"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri))
        return _fetched(model_uri, _cache_folder(model_uri, settings))
    except (
        MlflowException,
        OSError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:  # the last three: of a foreign server
        with storage_errors(settings.home):
            model = known(lambda: client.get_logged_model(model_uri.removeprefix("models:/")))
        if model and (folder := _local_folder(model)) and not folder.is_dir():
            raise ModelNotFound(
                what=f"The files of {model_uri} are missing.",
                why=f"The store lists it, but there is no folder {folder.parent.name} among its artifacts.",
                next_step="Delete it on Models and build it again.",
            ) from error
        raise ModelNotFound(
            what=f"There is no model at {model_uri}.",
            why=f"MLflow says: {str(error).strip().splitlines()[0] if str(error).strip() else 'nothing'}",
            next_step="Check the URI on Build, or build the model again.",
        ) from error


def _fetched(model_uri: str, folder: Path) -> Path:
    """A copy of the files that MLflow fetches. A logged model's files never change, so they are fetched once.

    A copy is put in its place whole, and an older one is moved away: workers may have its files mapped.
    """
    whole = folder / "whole"
    if _LASTING.fullmatch(model_uri) and (whole / "MLmodel").is_file():
        with contextlib.suppress(OSError):
            os.utime(folder)  # upkeep takes what was not used for long
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=str(new))).relative_to(new)
        with contextlib.suppress(FileNotFoundError):
            whole.rename(old)
        try:
            new.rename(whole)
        except OSError:  # another process was faster
            if not whole.is_dir():
                raise
    return whole / local


def _cache_folder(model_uri: str, settings: Settings) -> Path:
    return settings.home / "models" / "".join(char if char.isalnum() or char in "-_@" else "_" for char in model_uri)


def delete(model_uri: str, settings: Settings) -> None:
    """Delete a logged model: its files, those that were fetched from a remote store too, and its entry.

    Registered versions of it would lead nowhere afterwards; the registry deletes those first.
    Raises ModelNotFound or StorageFailed; what could not be deleted stays listed.
    """
    client = open_store(settings)
    model_id = canonical(model_uri, settings).removeprefix("models:/")
    with storage_errors(settings.home):
        model = known(lambda: client.get_logged_model(model_id))
        if model is None:
            raise ModelNotFound(
                f"There is no model at {model_uri}.", "It may have been deleted.", "Check the list on Models again."
            )
        with writing(settings.home):
            delete_files(model)
            shutil.rmtree(_cache_folder(f"models:/{model_id}", settings), ignore_errors=True)
        client.delete_logged_model(model_id)


def delete_files(model: Any) -> None:
    """Delete the artifacts of one of MLflow's logged models: MLflow keeps them, and they may be gigabytes.

    Only a folder that has the model's own id in its path is removed.
    """
    folder = _local_folder(model)
    if folder is None:
        with contextlib.suppress(NotImplementedError):  # a store that deletes nothing
            get_artifact_repository(model.artifact_location).delete_artifacts()
        return
    own = next((each for each in (folder, folder.parent) if each.name == model.model_id), None)
    if own is not None and own.exists():
        shutil.rmtree(own)


def _local_folder(model: Any) -> Path | None:
    """Where a logged model's artifacts lie, when that is a folder of this machine."""
    location = str(model.artifact_location)
    return Path(local_file_uri_to_path(location)) if location.startswith(("file:", "/")) else None
