"""Probe: ask a remote endpoint what it is, before a connection to it is kept.

Knows what each protocol can tell about itself. Records no turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from phi3kit.access.actor import Actor
from phi3kit.core.errors import EndpointFailed, RequestInvalid
from phi3kit.core.records import Endpoint, Interface, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints import invocations
from phi3kit.endpoints.connections import Connection, endpoint_of
from phi3kit.endpoints.transport import errors, http_client, not_the_protocol, parsing, status_error
from phi3kit.formats import chat_template

_SILENCE_S = 15.0  # for a list of models; an answer may take as long as the connection allows
_MOST_MODELS = 200
_QUESTION = (Message("user", "What is MLflow?"),)
_WRAPPERS = {"openai": "messages, as the transformers wrapper", "raw": "a prompt, as the onnx wrapper"}


@dataclass(frozen=True)
class Probe:
    """What answered."""

    says: str
    models: tuple[str, ...] = ()  # of OpenAI's protocol
    takes: Interface = "openai"
    context_tokens: int | None = None  # where the endpoint says it (vLLM does)


def probe(connection: Connection, keys: Mapping[str, object], actor: Actor, settings: Settings) -> Probe:
    """Ask the endpoint.

    actor: who tests it. Raises NotAllowed, ConnectionInvalid, RequestInvalid, Busy or EndpointFailed,
    which names the failure.
    """
    actor.require("connect")
    endpoint = endpoint_of(connection, keys, settings.allowed_hosts)
    if connection.protocol == "openai":
        return _models(endpoint, connection.model)
    return _invocations(endpoint)


def _models(endpoint: Endpoint, model: str) -> Probe:
    content = _get(replace(endpoint, silence_s=_SILENCE_S), f"{endpoint.api_path}/models")
    with parsing(endpoint):
        found = {str(each["id"]): each for each in content["data"]}
    models = tuple(found)[:_MOST_MODELS]
    if not models:
        raise not_the_protocol(endpoint, "Its list of models is empty.")
    says = f"It answered, and has {'one model' if len(models) == 1 else f'{len(models):,} models'}."
    if model and model not in found:
        says += f" None of them is called {model}."
    chosen = found.get(model or models[0]) or {}
    return Probe(says, models, context_tokens=invocations.count_of(chosen.get("max_model_len")) or None)


def _invocations(endpoint: Endpoint) -> Probe:
    """One short question in each form, until one is understood."""
    refused: RequestInvalid | EndpointFailed | None = None
    forms: tuple[Interface, ...] = ("openai", "raw")
    for takes in forms:
        prompt = _QUESTION if takes == "openai" else chat_template.raw_prompt(_QUESTION)
        body = invocations.payload(prompt, takes, temperature=0, max_tokens=8, top_p=1, seed=None, stop=())
        try:
            invocations.invoke(replace(endpoint, takes=takes), body, {})
        except (RequestInvalid, EndpointFailed) as error:
            if isinstance(error, EndpointFailed) and error.kind != "protocol":
                raise
            refused = refused or error
            continue
        return Probe(f"It answered a question, and takes {_WRAPPERS[takes]}.", takes=takes)
    assert refused is not None
    raise refused


def _get(endpoint: Endpoint, path: str) -> Any:
    """A path's JSON."""
    with errors(endpoint), http_client(endpoint) as client:
        response = client.get(f"{endpoint.base_url}{path}")
        if not response.is_success:
            raise status_error(endpoint, response, response.text)
        with parsing(endpoint):
            return response.json()
