"""Invocations: MLflow's scoring protocol, as `mlflow models serve` speaks it: one POST, one whole answer.

Knows the payloads of the two wrappers and the forms of their answers. Streams nothing, because the protocol does not.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from phi3kit.core.errors import EndpointFailed, RequestInvalid
from phi3kit.core.records import Endpoint, FinishReason, Interface, Message
from phi3kit.endpoints.transport import Line, errors, http_client, not_the_protocol, parsing, status_error
from phi3kit.formats import chat_template

_MOST_BYTES = 32 * 2**20  # of an answer


@dataclass(frozen=True)
class Reply:
    """What came back; None where the endpoint did not say it."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def payload(
    prompt: tuple[Message, ...] | str,
    takes: Interface,
    *,
    temperature: float,
    max_tokens: int,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
) -> dict[str, Any]:
    """The JSON for a logged model of either wrapper.

    takes: "raw" for the onnx wrapper's signature, a prompt alone: sampling is the model's own.
    Raises RequestInvalid for what the protocol cannot say.
    """
    if takes == "raw":
        return {"prompt": prompt if isinstance(prompt, str) else _as_raw(prompt)}
    if isinstance(prompt, str):
        raise RequestInvalid(
            "This endpoint takes no raw prompt.",
            "Its signature is llm/v1/chat: it takes messages.",
            "Send a message.",
            param="prompt",
        )
    if seed is not None:
        raise RequestInvalid(
            "This endpoint takes no seed.",
            "MLflow's llm/v1/chat has no such field.",
            "Clear the seed among the parameters.",
            param="seed",
        )
    body: dict[str, Any] = {"messages": [asdict(message) for message in prompt], "max_tokens": max_tokens}
    if temperature > 0:
        body["temperature"] = temperature
    else:
        body["top_k"] = 1  # MLflow's pipeline refuses temperature 0, and this is the same: the likeliest token
    if top_p < 1:
        body["top_p"] = top_p
    if stop:
        body["stop"] = list(stop)
    return body


def invoke(endpoint: Endpoint, body: Mapping[str, Any], headers: Mapping[str, str], line: Line | None = None) -> Reply:
    """Ask once. Raises RequestInvalid, Busy or EndpointFailed."""
    with errors(endpoint), http_client(endpoint, line) as client:
        url = f"{endpoint.base_url}/invocations"
        with client.stream("POST", url, json=dict(body), headers=dict(headers)) as response:
            content = _read(endpoint, response)
            if not response.is_success:
                raise status_error(endpoint, response, content.decode(errors="replace"))
        with parsing(endpoint):
            return read_reply(json.loads(content), endpoint.takes)


def read_reply(content: Any, takes: Interface) -> Reply:
    """The reply in MLflow's answer: bare, in a list, or under `predictions`. Raises ValueError when it is none."""
    if isinstance(content, dict) and "predictions" in content:
        content = content["predictions"]
    if isinstance(content, list):
        if len(content) != 1:
            raise ValueError(f"{len(content)} answers to one question")
        content = content[0]
    if takes == "raw":
        if not isinstance(content, str):
            raise ValueError("no text")
        return Reply(content, "other")  # the onnx wrapper answers with text alone: why it ended, it does not say
    choice = content["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("no text")
    usage = content.get("usage") or {}
    return Reply(
        text,
        finish_reason_of(choice.get("finish_reason")),
        count_of(usage.get("prompt_tokens")),
        count_of(usage.get("completion_tokens")),
    )


def finish_reason_of(said: object) -> FinishReason:
    """A remote endpoint's reason as ours."""
    return said if said in ("stop", "length") else "other"  # type: ignore[return-value]


def count_of(said: object) -> int | None:
    """A number of tokens, where it is one."""
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < 2**53 else None


def _as_raw(messages: tuple[Message, ...]) -> str:
    """Through the chat template, as text: a special token inside a message would become structure, so it is refused."""
    for message in messages:
        for token in chat_template.SPECIAL_TOKENS:
            if token in message.content:
                raise RequestInvalid(
                    f"{token} cannot be sent to this endpoint in a message.",
                    "It takes a raw prompt alone, in which the token would be structure and not text.",
                    "Take it out, or send a raw prompt on Prompt.",
                    param="messages",
                )
    return chat_template.raw_prompt(messages)


def _read(endpoint: Endpoint, response: httpx2.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MOST_BYTES:
            raise too_long(endpoint)
    return bytes(content)


def too_long(endpoint: Endpoint) -> EndpointFailed:
    """The error for an answer without measure."""
    return not_the_protocol(endpoint, f"Its answer is longer than {_MOST_BYTES // 2**20} MB.")
