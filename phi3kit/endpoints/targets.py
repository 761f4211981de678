"""Targets: what a person can talk to, a logged model of this app or a remote connection, and the endpoint of each.

Knows the worker pool and connections. Draws nothing, sends nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from phi3kit.access.actor import Actor
from phi3kit.core.records import Endpoint, Served
from phi3kit.core.settings import Settings
from phi3kit.endpoints import connections
from phi3kit.endpoints.connections import Connection
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.tracking.logged_models import LoggedModel


@dataclass(frozen=True)
class Target:
    """A logged model or a remote connection, as choosers list it."""

    label: str
    wrapper: Served
    model_uri: str  # as it was chosen, perhaps an alias; turns are logged under the logged model's own URI
    context_tokens: int | None  # None: a remote endpoint whose context is unknown
    connection: Connection | None = None  # None for a logged model
    source: str | None = None  # of a logged model: where its weights came from


def of_model(model: LoggedModel, label: str, model_uri: str | None = None) -> Target:
    """A logged model as a target. model_uri: the alias or version that was chosen."""
    return Target(label, model.wrapper, model_uri or model.model_uri, model.context_tokens, source=model.source)


def of_connection(connection: Connection) -> Target:
    """A remote connection as a target."""
    return Target(connection.label, "remote", connection.model_uri, connection.context_tokens, connection)


def endpoint_of(
    target: Target,
    pool: WorkerPool,
    keys: Mapping[str, object],
    actor: Actor,
    settings: Settings,
    on_wait: Callable[[str], None] = lambda what: None,
) -> Endpoint:
    """Where the target answers: its worker, started when it has none, or the remote URL with its key.

    keys: names to secrets. Raises NotAllowed; for a logged model ModelNotFound or WorkerFailed, for a connection
    ConnectionInvalid.
    """
    actor.require("talk")
    if target.connection is None:
        return pool.endpoint(target.model_uri, on_wait)
    return connections.endpoint_of(target.connection, keys, settings.allowed_hosts)
