"""Model URIs: from anything that MLflow resolves to the one logged model behind it.

An alias is followed to where it points now, so whoever keeps a name apart from a model asks here each time.
Reads the registry; opens no files.
"""

import re
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient

from phi3kit.core.errors import ModelNotFound
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import known, open_store, storage_errors

# Letters and digits of any script, _ . and -: what no shell, unit file or YAML reads as more than a name.
_NAME = r"\w[\w.-]*"
_PLAIN_URI = re.compile(rf"models:/{_NAME}([/@]{_NAME})?|runs:/{_NAME}(/{_NAME})*")


def is_plain(model_uri: str) -> bool:
    """Whether the URI may stand in a file or a command that is made of it: other programs register what they like."""
    return bool(_PLAIN_URI.fullmatch(model_uri))


def canonical(model_uri: str, settings: Settings) -> str:
    """The URI that never changes its meaning: `models:/m-…`.

    A version without a logged model behind it (MLflow 2) stays models:/name/version, and artifacts of a run that are
    no logged model keep the run's URI. A logged model's own URI is returned unlooked at.
    Raises ModelNotFound or StorageFailed.
    """
    scheme, _, rest = model_uri.partition(":/")
    if scheme not in ("models", "runs") or not rest.strip("/"):
        raise ModelNotFound(
            what=f"{model_uri} is not a model URI.",
            why="A model URI begins with models:/ or runs:/.",
            next_step="Copy one from Build, such as models:/m-… or models:/name@alias.",
        )
    if scheme == "models" and "@" not in rest and "/" not in rest:
        return model_uri
    client = open_store(settings)
    with storage_errors(settings.home):
        if scheme == "runs":
            return _of_run(client, rest) or model_uri
        if "@" in rest:
            name, _, alias = rest.rpartition("@")
            return _of_version(_version_by_alias(client, name, alias))
        name, _, version = rest.rpartition("/")
        if not version.isdecimal():  # "latest", or a stage of MLflow 2: MLflow knows what it means
            return model_uri
        found = known(lambda: client.get_model_version(name, version))
        if found is None:
            raise ModelNotFound(
                what=f"There is no model at {model_uri}.",
                why=f"The registry has no version {version} of {name}; it may have been deleted.",
                next_step="Choose another version on Models.",
            )
        return _of_version(found)


def logged_model_uri(version: Any) -> str | None:
    """The logged model that one of MLflow's model versions points to; None for a version of another kind."""
    source = str(version.source or "")
    if version.model_id:
        return f"models:/{version.model_id}"
    return source if source.startswith("models:/m-") else None


def _of_version(version: Any) -> str:
    return logged_model_uri(version) or f"models:/{version.name}/{version.version}"


def _version_by_alias(client: MlflowClient, name: str, alias: str) -> Any:
    found = known(lambda: client.get_model_version_by_alias(name, alias))
    if found is None:
        there = known(lambda: client.get_registered_model(name))
        aliases = ", ".join(sorted(there.aliases)) if there else ""
        raise ModelNotFound(
            what=f"models:/{name}@{alias} does not exist.",
            why=f"{name} has {f'the aliases {aliases}' if aliases else 'no aliases'}."
            if there
            else f"No model is registered as {name}.",
            next_step=f"Set the alias on Models, or choose a version such as models:/{name}/1.",
        )
    return found


def _of_run(client: MlflowClient, rest: str) -> str | None:
    run_id, _, name = rest.partition("/")
    run = known(lambda: client.get_run(run_id))
    outputs = run.outputs.model_outputs if run and run.outputs else []
    for output in outputs:
        model = known(_getter(client, output.model_id))
        if model and model.name == name.rstrip("/"):
            return f"models:/{model.model_id}"
    return None


def _getter(client: MlflowClient, model_id: str) -> Callable[[], Any]:
    return lambda: client.get_logged_model(model_id)
