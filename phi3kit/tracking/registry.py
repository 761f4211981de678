"""Registry: names, versions, aliases, tags and descriptions of MLflow's Model Registry, and what can be chosen by them.

Each change raises NotAllowed for a role that may not make it. Knows the registry and the logged models behind its
versions. Reads no turns, loads nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from phi3kit.access.actor import Actor
from phi3kit.core.errors import ModelNotFound, RequestInvalid, StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.tracking import logged_models
from phi3kit.tracking.deleted_models import DeletedModels
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.model_uris import canonical, is_plain, logged_model_uri
from phi3kit.tracking.store import open_store, storage_errors

CHAMPION, CHALLENGER = "champion", "challenger"  # MLflow's own examples of aliases

_PAGE = 1_000
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    description: str
    tags: tuple[tuple[str, str], ...]
    created_at: datetime
    logged_model: str | None  # models:/m-…; None for a version of another kind
    model: LoggedModel | None  # None: not a wrapper of phi3kit, or deleted

    @property
    def model_uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class RegisteredModel:
    """A name of the registry with its versions, newest first."""

    name: str
    description: str
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class ModelChoice:
    """Something that a person can choose to talk to or to deploy: an alias, a version, or a logged model."""

    model_uri: str
    label: str  # the alias or version; empty for a logged model, which pages name by source and date
    model: LoggedModel
    registered_as: str | None = None  # the name of an alias or a version

    @property
    def plain_uri(self) -> str:
        """For files and commands: the logged model's own URI where the name has characters of more than a name."""
        return self.model_uri if is_plain(self.model_uri) else self.model.model_uri


def list_registered(settings: Settings) -> list[RegisteredModel]:
    """The registered models that have a wrapper of phi3kit among their versions, by name. Raises StorageFailed."""
    client = open_store(settings)
    ours = {model.model_uri: model for model in logged_models.list_models(settings)}
    with storage_errors(settings.home):
        names = list(_pages(client.search_registered_models))
        found = list(_pages(client.search_model_versions))
    registered = []
    for entry in sorted(names, key=lambda each: str(each.name)):
        versions = [_version(each, entry.aliases, ours) for each in found if each.name == entry.name]
        if any(each.model or each.logged_model for each in versions):
            newest_first = sorted(versions, key=lambda each: -each.version)
            registered.append(RegisteredModel(entry.name, entry.description or "", tuple(newest_first)))
    return registered


def choices(models: Sequence[LoggedModel], registered: Sequence[RegisteredModel]) -> list[ModelChoice]:
    """What can be chosen: aliases, then versions, then logged models, newest first; no version that leads nowhere."""
    versions = [(each, each.model) for name in registered for each in name.versions if each.model]
    return [
        *(
            ModelChoice(
                f"models:/{each.name}@{alias}", f"{each.name}@{alias} · version {each.version}", model, each.name
            )
            for each, model in versions
            for alias in each.aliases
        ),
        *(
            ModelChoice(each.model_uri, f"{each.name} · version {each.version}", model, each.name)
            for each, model in versions
        ),
        *(ModelChoice(model.model_uri, "", model) for model in models),
    ]


def register(
    model_uri: str, name: str, actor: Actor, settings: Settings, *, description: str = "", aliases: Sequence[str] = ()
) -> Version:
    """Add a version of `name`, which is made when it is new. Raises ModelNotFound, RequestInvalid or StorageFailed."""
    actor.require("register")
    target = canonical(model_uri, settings)
    client = open_store(settings)
    for alias in aliases:
        _check_alias(alias)
    with _errors(settings, f"The model cannot be registered as {name!r}.", "Choose a name without / and :."):
        made = mlflow.register_model(target, name)
        if description.strip():
            client.update_model_version(name, made.version, description.strip())
        for alias in aliases:
            client.set_registered_model_alias(name, alias, made.version)
        entry = client.get_registered_model(name)
        ours = {model.model_uri: model for model in logged_models.list_models(settings)}
        return _version(client.get_model_version(name, made.version), entry.aliases, ours)


def set_alias(name: str, alias: str, version: int, actor: Actor, settings: Settings) -> None:
    """Let an alias point to a version; it leaves the version that it pointed to before.

    Raises RequestInvalid, ModelNotFound or StorageFailed.
    """
    actor.require("register")
    _check_alias(alias)
    with _errors(settings, f"The alias {alias!r} cannot be set.", "Use letters, digits, - and _."):
        open_store(settings).set_registered_model_alias(name, alias, str(version))


def remove_alias(name: str, alias: str, actor: Actor, settings: Settings) -> None:
    """Let an alias point nowhere. Raises ModelNotFound or StorageFailed."""
    actor.require("register")
    with _errors(settings, f"The alias {alias!r} cannot be removed.", "Check the list again."):
        open_store(settings).delete_registered_model_alias(name, alias)


def describe(name: str, version: int | None, description: str, actor: Actor, settings: Settings) -> None:
    """Set the description of a version, or of the name itself. Raises ModelNotFound or StorageFailed."""
    actor.require("register")
    client = open_store(settings)
    with _errors(settings, "The description cannot be saved.", "Shorten it."):
        if version is None:
            client.update_registered_model(name, description.strip())
        else:
            client.update_model_version(name, str(version), description.strip())


def set_tags(name: str, version: int, tags: dict[str, str], actor: Actor, settings: Settings) -> None:
    """Give a version exactly these tags. Raises RequestInvalid, ModelNotFound or StorageFailed."""
    actor.require("register")
    client = open_store(settings)
    with _errors(settings, "The tags cannot be saved.", "Use letters, digits, spaces and - _ . / in a key."):
        before = dict(client.get_model_version(name, str(version)).tags)
        for key, value in tags.items():
            if before.get(key) != value:
                client.set_model_version_tag(name, str(version), key, value)
        for key in before.keys() - tags.keys():
            client.delete_model_version_tag(name, str(version), key)


def delete_version(name: str, version: int, actor: Actor, settings: Settings) -> None:
    """Delete a version and its aliases; the logged model stays. The name goes with its last version.

    Raises ModelNotFound or StorageFailed.
    """
    actor.require("delete")
    with _errors(settings, f"Version {version} of {name} cannot be deleted.", "Check the list again."):
        _delete_version(open_store(settings), name, str(version))


def _delete_version(client: MlflowClient, name: str, version: str) -> None:
    client.delete_model_version(name, version)
    if not any(each.name == name for each in _pages(client.search_model_versions)):
        client.delete_registered_model(name)


def withdraw(model_id: str, client: MlflowClient) -> None:
    """Delete the versions of a logged model that a build takes back. Raises what MLflow raises."""
    for each in _pages(client.search_model_versions):
        if logged_model_uri(each) == f"models:/{model_id}":
            _delete_version(client, str(each.name), str(each.version))


def delete_model(model_uri: str, actor: Actor, settings: Settings) -> None:
    """Delete a logged model with its files, and first every version that points to it.

    Raises ModelNotFound or StorageFailed.
    """
    actor.require("delete")
    target = canonical(model_uri, settings)
    known = next((model for model in logged_models.list_models(settings) if model.model_uri == target), None)
    client = open_store(settings)
    with storage_errors(settings.home):
        pointing = [each for each in _pages(client.search_model_versions) if logged_model_uri(each) == target]
    for each in pointing:
        delete_version(str(each.name), int(each.version), actor, settings)
    logged_models.delete(target, settings)
    if known:
        with suppress(StorageFailed):  # its name is lost, and it is deleted all the same
            DeletedModels(settings.home).keep(known)


def _version(found: Any, aliases: dict[str, Any], ours: dict[str, LoggedModel]) -> Version:
    logged = logged_model_uri(found)
    number = int(found.version)
    return Version(
        name=found.name,
        version=number,
        aliases=tuple(sorted(alias for alias, at in aliases.items() if int(at) == number)),
        description=found.description or "",
        tags=tuple(sorted(found.tags.items())),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        logged_model=logged,
        model=ours.get(logged or ""),
    )


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _check_alias(alias: str) -> None:
    # MLflow takes "1" for an alias, and then no URI can tell it from a version.
    if alias.isdecimal():
        raise RequestInvalid(
            f"The alias {alias!r} cannot be set.", "It looks like a version.", "Use a word.", param="alias"
        )


@contextmanager
def _errors(settings: Settings, what: str, next_step: str) -> Iterator[None]:
    """What the registry refuses, in three parts; what a store says that does not answer is left to its own words."""
    with storage_errors(settings.home):
        try:
            yield
        except MlflowException as error:
            why = str(error).strip().splitlines()[0].removeprefix(f"{error.error_code}: ")
            if error.error_code in _UNKNOWN:
                raise ModelNotFound(
                    what, f"{why} It may have been deleted.", "Check the list on Models again."
                ) from error
            if error.error_code in _REFUSALS:
                raise RequestInvalid(what, why, next_step, param="name") from error
            raise
