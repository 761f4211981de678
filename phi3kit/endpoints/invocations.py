"""Invocations: MLflow's scoring protocol as `mlflow models serve` has it: one POST, one whole answer, no streams.

Knows the payloads of the two wrappers and the forms of their answers. Knows no turns.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx2

from phi3kit.access.actor import Actor
from phi3kit.core.errors import RequestInvalid, WorkerFailed
from phi3kit.core.records import Endpoint, FinishReason, Interface, Message
from phi3kit.endpoints.records import Request, as_json
from phi3kit.endpoints.transport import Cancellation, errors, http_client, parsing, status_error, whole_characters
from phi3kit.formats import chat_template

_SECONDS = 300.0  # a worker loads MLflow and the model a second time for its first call


@dataclass(frozen=True)
class ScoringResponse:
    """What a server answered, whatever its status."""

    status: int
    text: str
    is_json: bool
    seconds: float


@dataclass(frozen=True)
class Completion:
    """The answer of a model; None for counts that the endpoint did not give."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def payload(request: Request, takes: Interface) -> dict[str, Any]:
    """The JSON for a logged model of either wrapper. Raises RequestInvalid for what the protocol cannot express.

    takes: "raw" for the onnx wrapper's signature, a prompt alone: sampling is the model's own.
    """
    prompt = request.prompt
    if takes == "raw":
        return {"prompt": prompt if isinstance(prompt, str) else _as_raw(prompt)}
    if isinstance(prompt, str):
        why = "Its signature is llm/v1/chat: it takes messages."
        raise RequestInvalid("This endpoint takes no raw prompt.", why, "Send a message.", param="prompt")
    if request.seed is not None:
        why, advice = "MLflow's llm/v1/chat has no such field.", "Clear the seed in the parameters."
        raise RequestInvalid("This endpoint takes no seed.", why, advice, param="seed")
    body: dict[str, Any] = {**as_json(prompt), "max_tokens": request.max_tokens}
    if request.temperature > 0:
        body["temperature"] = request.temperature
    else:
        body["top_k"] = 1  # MLflow's pipeline refuses temperature 0; this is greedy too
    if request.top_p < 1:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    return body


def invoke(
    endpoint: Endpoint, body: Mapping[str, Any], headers: Mapping[str, str], cancellation: Cancellation | None = None
) -> Completion:
    """One question to a remote endpoint. Raises RequestInvalid, Busy or EndpointFailed."""
    with errors(endpoint):
        response = _post(endpoint, json.dumps(body).encode(), headers, cancellation)
        if not response.is_success:
            raise status_error(endpoint, response, response.text)
        with parsing(endpoint):
            return read_completion(response.json(), endpoint.takes)


def send(
    endpoint: Endpoint, payload: str, headers: Mapping[str, str] | None = None, timeout_s: float = _SECONDS
) -> ScoringResponse:
    """POST a payload, character by character as it was written, to a server on this machine; error statuses come back too.

    Raises WorkerFailed without an answer.
    """
    began = time.perf_counter()
    try:
        content = payload.encode("utf-8", errors="surrogatepass")
        response = _post(replace(endpoint, silence_s=timeout_s), content, headers or {})
    except httpx2.HTTPError as error:
        raise WorkerFailed(
            "The worker did not answer the payload.", f"{str(error) or type(error).__name__}.", "Send it again."
        ) from error
    is_json = "json" in response.headers.get("content-type", "")
    return ScoringResponse(response.status_code, response.text, is_json, time.perf_counter() - began)


def score(endpoint: Endpoint, payload: str, actor: Actor, timeout_s: float = _SECONDS) -> ScoringResponse:
    """`send` to a worker, in the actor's name. Raises NotAllowed or WorkerFailed."""
    actor.require("invoke")
    user = quote(actor.name)  # a header is ASCII, a name need not be
    return send(endpoint, payload, {"X-Phi3kit-User": user}, timeout_s)


def read_completion(content: Any, takes: Interface) -> Completion:
    """The completion in MLflow's answer: bare, in a list, or under `predictions`. Raises ValueError in another form."""
    if isinstance(content, dict) and "predictions" in content:
        content = content["predictions"]
    if isinstance(content, list):
        if len(content) != 1:
            raise ValueError(f"{len(content)} answers to one question")
        content = content[0]
    if takes == "raw":
        if not isinstance(content, str):
            raise ValueError("no text")
        return Completion(
            whole_characters(content), "other"
        )  # the onnx wrapper gives text alone, without a finish reason
    choice = content["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("no text")
    usage = content.get("usage") or {}
    return Completion(
        whole_characters(text),
        finish_reason_of(choice.get("finish_reason")),
        count_of(usage.get("prompt_tokens")),
        count_of(usage.get("completion_tokens")),
    )


def finish_reason_of(said: object) -> FinishReason:
    """A remote endpoint's finish reason as one of ours."""
    return said if said in ("stop", "length") else "other"  # type: ignore[return-value]


def count_of(said: object) -> int | None:
    """A count of tokens; None for anything else."""
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < 2**53 else None


def _as_raw(messages: tuple[Message, ...]) -> str:
    """Messages through the chat template. A special token in a message would become structure, so it is refused."""
    for message in messages:
        for token in chat_template.SPECIAL_TOKENS:
            if token in message.content:
                raise RequestInvalid(
                    f"{token} cannot be sent to this endpoint in a message.",
                    "It takes only a raw prompt, in which the token would be structure and not text.",
                    "Remove it, or send a raw prompt on Prompt.",
                    param="messages",
                )
    return chat_template.raw_prompt(messages)


def _post(
    endpoint: Endpoint, content: bytes, headers: Mapping[str, str], cancellation: Cancellation | None = None
) -> httpx2.Response:
    """POST JSON to the endpoint's /invocations: the response, whatever its status. Raises what `errors` translates."""
    sent = {"Content-Type": "application/json", **headers}  # without the content type MLflow answers 500
    with http_client(endpoint, cancellation) as client:
        return client.post(f"{endpoint.base_url}/invocations", content=content, headers=sent)
