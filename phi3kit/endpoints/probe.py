"""Probe: what a remote endpoint is, tested before a connection to it is kept.

Knows what each protocol tells about itself. Records no turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from phi3kit.access.actor import Actor
from phi3kit.core.errors import EndpointFailed, RequestInvalid
from phi3kit.core.records import Endpoint, Interface, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints import invocations
from phi3kit.endpoints.connections import Connection, endpoint_of
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.transport import json_of, not_the_protocol, parsing, whole_characters

_SILENCE_S = 15.0  # for a list of models; an answer may take as long as the connection allows
_MOST_MODELS = 200
_LONGEST_NAME = 200  # characters of a model's name
_QUESTION = Request((Message("user", "What is MLflow?"),), max_tokens=8)
_WRAPPERS = {"openai": "messages, like the transformers wrapper", "raw": "a prompt, like the onnx wrapper"}


@dataclass(frozen=True)
class Probe:
    """What the endpoint is."""

    says: str
    models: tuple[str, ...] = ()  # of OpenAI's protocol
    takes: Interface = "openai"
    context_tokens: int | None = None  # where the endpoint says it (vLLM does)


def probe(connection: Connection, keys: Mapping[str, object], actor: Actor, settings: Settings) -> Probe:
    """Ask the endpoint. Raises NotAllowed, ConnectionInvalid, RequestInvalid, Busy, or EndpointFailed with the failure."""
    actor.require("connect")
    endpoint = endpoint_of(connection, keys, settings.allowed_hosts)
    return _models(endpoint, connection.model) if connection.protocol == "openai" else _invocations(endpoint)


def _models(endpoint: Endpoint, model: str) -> Probe:
    content = json_of(replace(endpoint, silence_s=_SILENCE_S), "GET", f"{endpoint.api_path}/models")
    with parsing(endpoint):
        named = ((whole_characters(str(each["id"])), each) for each in content["data"])
        found = {name: each for name, each in named if len(name) <= _LONGEST_NAME}
    models = tuple(found)[:_MOST_MODELS]
    if not models:
        raise not_the_protocol(endpoint, "Its list of models is empty.")
    says = f"It answered and has {'one model' if len(models) == 1 else f'{len(models):,} models'}."
    if model and model not in found:
        says += f" None of them is called {model}."
    chosen = found.get(model or models[0]) or {}
    return Probe(says, models, context_tokens=invocations.count_of(chosen.get("max_model_len")) or None)


def _invocations(endpoint: Endpoint) -> Probe:
    """One short question in each format, until one is understood."""
    refused: RequestInvalid | EndpointFailed | None = None
    formats: tuple[Interface, ...] = ("openai", "raw")
    for takes in formats:
        try:
            invocations.invoke(replace(endpoint, takes=takes), invocations.payload(_QUESTION, takes), {})
        except (RequestInvalid, EndpointFailed) as error:
            if isinstance(error, EndpointFailed) and error.kind != "protocol":
                raise
            refused = refused or error
            continue
        return Probe(f"It answered a question and takes {_WRAPPERS[takes]}.", takes=takes)
    assert refused is not None
    raise refused
