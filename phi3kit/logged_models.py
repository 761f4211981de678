"""Logged models: which wrappers were built, where their files lie, and their signatures.

Knows MLflow's logged models and every form of a model URI. Loads no weights.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature

from phi3kit.errors import ModelNotFound
from phi3kit.records import WrapperName
from phi3kit.settings import Settings
from phi3kit.store import BUILDS_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.wrappers.log import ONNX_ARTIFACT

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


@dataclass(frozen=True)
class ResolvedModel:
    """A model URI's files on this machine."""

    model_uri: str
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
    models = [
        LoggedModel(
            model_uri=f"models:/{model.model_id}",
            wrapper=model.tags["phi3kit.wrapper"],  # type: ignore[arg-type]
            source=model.tags.get("phi3kit.source", ""),
            precision=model.tags.get("phi3kit.precision", ""),
            context_tokens=int(model.tags.get("phi3kit.context_tokens", _CONTEXT_TOKENS)),
            created_at=datetime.fromtimestamp(model.creation_timestamp / 1000, UTC),
            run_id=model.source_run_id or "",
        )
        for model in found
    ]
    return [model for model in models if wrapper is None or model.wrapper == wrapper]


def resolve(model_uri: str, settings: Settings) -> ResolvedModel:
    """Find the files behind anything that MLflow resolves. Raises ModelNotFound or StorageFailed."""
    folder = _download(model_uri, settings)
    flavors = _mlmodel(model_uri, folder).flavors
    wrapper: WrapperName
    if "transformers" in flavors:
        wrapper = "transformers"
    elif ONNX_ARTIFACT in (flavors.get("python_function", {}).get("artifacts") or {}):
        wrapper = "onnx"
    else:
        raise ModelNotFound(
            what=f"{model_uri} is not one of the two wrappers.",
            why=f"Its flavors are {', '.join(flavors) or 'none'}.",
            next_step="Choose a model that was made on Build or by phi3kit build.",
        )
    return ResolvedModel(model_uri, wrapper, folder)


def signature_of(model_uri: str, settings: Settings) -> ModelSignature:
    """The signature that a logged model carries. Raises ModelNotFound or StorageFailed."""
    signature = _mlmodel(model_uri, _download(model_uri, settings)).signature
    if signature is None:
        raise ModelNotFound(
            what=f"{model_uri} has no signature.",
            why="It was logged without one.",
            next_step="Choose a model that was made on Build.",
        )
    return signature


def files_of(model_uri: str, settings: Settings) -> list[tuple[str, int]]:
    """The logged files: (path inside the model, bytes), sorted by path."""
    folder = _download(model_uri, settings)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]


def _mlmodel(model_uri: str, folder: Path) -> Model:
    try:
        return Model.load(str(folder))
    except Exception as error:  # a damaged file raises whatever its parser raises
        raise ModelNotFound(
            f"{model_uri} cannot be read.", "Its MLmodel file is missing or damaged.", "Build it again on Build."
        ) from error


def _download(model_uri: str, settings: Settings) -> Path:
    open_store(settings)
    if not model_uri.startswith(("models:/", "runs:/")):
        raise ModelNotFound(
            what=f"{model_uri} is not a model URI.",
            why="A model URI begins with models:/ or runs:/.",
            next_step="Copy one from Build, such as models:/m-… or models:/name@alias.",
        )
    try:
        # A model in a local store is used where it lies; what MLflow must copy goes into the data folder.
        in_place = settings.own_store and model_uri.startswith("models:/")
        local: Any = mlflow.artifacts.download_artifacts(
            artifact_uri=model_uri, dst_path=None if in_place else _cache(model_uri, settings)
        )
    except (MlflowException, OSError) as error:
        raise ModelNotFound(
            what=f"There is no model at {model_uri}.",
            why=f"MLflow says: {str(error).strip().splitlines()[0] if str(error).strip() else 'nothing'}",
            next_step="Check the URI on Build, or build the model again.",
        ) from error
    return Path(local)


def _cache(model_uri: str, settings: Settings) -> str:
    folder = settings.home / "models" / "".join(char if char.isalnum() or char in "-_@" else "_" for char in model_uri)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
