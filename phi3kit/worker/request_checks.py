"""Request checks: what is refused before a route's own work: other sites' pages, keys, sizes, JSON; the shape of errors.

Knows OpenAI's error shape and the worker's bounds. Knows no model.
"""

import asyncio
import hmac
import json
import time
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from phi3kit.access.keys import KeyStore, looks_like_key
from phi3kit.access.same_origin import ServedNames
from phi3kit.core.errors import BudgetSpent, RequestInvalid, StorageFailed, TryLater
from phi3kit.core.limits import Limits
from phi3kit.core.records import Message
from phi3kit.formats import openai_schema

Body = TypeVar("Body", bound=BaseModel)

MAX_BODY_BYTES = 2**20
_CHARACTERS_A_TOKEN = 64  # beyond them a text fits no context: a token has 4 characters or so
# A page of another site sends neither without asking first. MLflow's protocol has the second.
_JSON, _CSV = "application/json", "text/csv"


class BodyTooLarge(Exception):
    """More bytes than MAX_BODY_BYTES."""


class LastRequest:
    """When the worker got its last request; an idle worker ends itself."""

    def __init__(self) -> None:
        self.at = time.monotonic()


@dataclass(frozen=True)
class Keys:
    """Which keys a worker accepts."""

    own: str | None  # of whoever started the worker: its X-Phi3kit-* headers are believed
    users: KeyStore | None  # each names its user, whatever the headers say
    required: bool  # whether a request without one is refused


class Guard:
    """Checks origin, key, type and size before any route.

    Plain ASGI: FastAPI's middleware helper would hide a client's disconnect.
    """

    def __init__(self, app: ASGIApp, names: ServedNames, keys: Keys, last_request: LastRequest) -> None:
        self._app, self._names, self._keys, self._last_request = app, names, keys, last_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = await self._refused(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    async def _refused(self, request: Request) -> Response | None:
        if why := self._names.refusal(request.scope["headers"]):
            return refusal(403, why, "origin_not_allowed")
        if request.url.path == "/health":
            return None
        if request.url.path != "/metrics":  # a monitor does not keep an idle worker alive
            self._last_request.at = time.monotonic()
        if refused := await self._refused_key(request):
            return refused
        if request.method == "POST" and (why := _wrong_type(request)):
            return refusal(415, why, "unsupported_media_type")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return error_response(BodyTooLarge())
        return None

    async def _refused_key(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._keys.own is not None and hmac.compare_digest(given.encode(), self._keys.own.encode()):
            return None
        # Also where no key is required: a revoked key must not work as an anonymous caller.
        if self._keys.users is not None and looks_like_key(given):
            try:
                # In a thread: the file may be locked by another process.
                user = await asyncio.to_thread(self._keys.users.user_of, given)
            except StorageFailed as error:
                return error_response(error)
            if user is not None:
                request.state.key_user = user
                return None
            return refusal(401, "The key is unknown or was revoked. Make a new one on Access.", "invalid_api_key")
        if not self._keys.required:
            return None
        return refusal(401, "The key is missing or wrong. Send it as: Authorization: Bearer KEY.", "invalid_api_key")


def _wrong_type(request: Request) -> str | None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    taken = (_JSON, _CSV) if request.url.path == "/invocations" else (_JSON,)
    return None if given in taken else f"Send the body with Content-Type: {' or '.join(taken)}."


def key_user(request: Request) -> str | None:
    """Whose key came with a request; None for the worker's own key, or without one."""
    return getattr(request.state, "key_user", None)


async def read_body(request: Request) -> bytes:
    """The whole body, bounded also without a Content-Length. Raises BodyTooLarge."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
    return bytes(body)


async def parse(request: Request, kind: type[Body]) -> Body:
    """The body as one of the schema's requests. Raises RequestInvalid, pydantic's ValidationError or BodyTooLarge."""
    body = await read_body(request)
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid("The body cannot be read.", "It is not JSON.", "Send a JSON object.") from error
    if not isinstance(values, dict):
        raise RequestInvalid("The body cannot be read.", "It is not a JSON object.", "Send a JSON object.")
    return kind.model_validate(values)


def check_length(prompt: tuple[Message, ...] | str, limits: Limits, context_tokens: int) -> None:
    """Refuse a text before it is cut into tokens, which takes seconds for megabytes. Raises RequestInvalid."""
    length = len(prompt) if isinstance(prompt, str) else sum(len(message.content) for message in prompt)
    param = "prompt" if isinstance(prompt, str) else "messages"
    if limits.prompt_characters is not None and length > limits.prompt_characters:
        raise RequestInvalid(
            "The text is too long.",
            f"It has {length:,} characters, and {limits.prompt_characters:,} are allowed here.",
            "Shorten it or start a new conversation.",
            param=param,
            code="string_above_max_length",
        )
    if length > context_tokens * _CHARACTERS_A_TOKEN:
        raise RequestInvalid(
            "The prompt is too long.",
            f"It has {length:,} characters, and the model's context holds {context_tokens:,} tokens, answer included.",
            "Shorten the prompt or start a new conversation.",
            param=param,
            code="context_length_exceeded",
        )


def error_response(error: Exception) -> Response:
    """Any error as OpenAI's JSON with the right status."""
    if isinstance(error, BodyTooLarge):
        return refusal(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.", "body_too_large")
    status, body = openai_schema.error_body(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TryLater) else {}
    if isinstance(error, BudgetSpent):
        headers["X-Should-Retry"] = "false"  # the `openai` client would try again at once, twice
    if status == 503:
        headers = {"Retry-After": "2"}
    return JSONResponse(body, status, headers)


def refusal(status: int, message: str, code: str) -> Response:
    """A refusal by the server itself, as OpenAI's JSON."""
    return JSONResponse(openai_schema.simple_error(status, message, code), status)
