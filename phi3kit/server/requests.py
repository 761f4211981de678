"""Requests: what comes in, and what is refused before any route: keys, sizes, JSON, the shape of errors.

Knows OpenAI's error shape and the worker's bounds. Knows no model.
"""

import hmac
import json
import time
from collections.abc import Iterable
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from phi3kit import openai_schema
from phi3kit.access.limits import Limits
from phi3kit.errors import BudgetSpent, Busy, LimitReached, RequestInvalid

Body = TypeVar("Body", bound=BaseModel)

MAX_BODY_BYTES = 4 * 2**20


class BodyTooLarge(Exception):
    """More bytes than MAX_BODY_BYTES."""


class Activity:
    """When the worker was last asked something; an idle worker ends itself."""

    def __init__(self) -> None:
        self.last_request_at = time.monotonic()


class Guard:
    """Keys and sizes, before any route. Plain ASGI: FastAPI's middleware helper would hide that a client went away."""

    def __init__(self, app: ASGIApp, api_key: str | None, activity: Activity) -> None:
        self._app, self._api_key, self._activity = app, api_key, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        if request.url.path == "/health":
            return None
        if request.url.path != "/metrics":  # who only watches does not keep a worker from ending when idle
            self._activity.last_request_at = time.monotonic()
        if self._api_key is not None and not _key_matches(request, self._api_key):
            return refusal(
                401, "The key is missing or wrong. Send it as: Authorization: Bearer KEY.", "invalid_api_key"
            )
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return too_large()
        return None


async def read_body(request: Request) -> bytes:
    """The whole body, bounded also when the client does not say how long it is. Raises BodyTooLarge."""
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


def check_length(texts: Iterable[str], limits: Limits, param: str) -> None:
    """Refuse a text before it is cut into tokens, which takes seconds for megabytes. Raises RequestInvalid."""
    length = sum(len(text) for text in texts)
    if limits.prompt_characters is not None and length > limits.prompt_characters:
        raise RequestInvalid(
            "The text is too long.",
            f"It has {length:,} characters, and {limits.prompt_characters:,} are allowed here.",
            "Shorten it or start a new conversation.",
            param=param,
            code="string_above_max_length",
        )


def _key_matches(request: Request, key: str) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return hmac.compare_digest(given.encode(), key.encode())


def error_response(error: Exception) -> Response:
    """Any error as OpenAI's JSON with the right status."""
    if isinstance(error, BodyTooLarge):
        return too_large()
    status, body = openai_schema.error_body(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, (Busy, LimitReached)) else None
    if isinstance(error, BudgetSpent):
        # The `openai` client would try again at once, twice; it is told not to.
        headers = {"Retry-After": str(error.renews_in_s), "X-Should-Retry": "false"}
    if status == 503:
        headers = {"Retry-After": "2"}
    return JSONResponse(body, status, headers)


def too_large() -> Response:
    """413."""
    return refusal(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.", "body_too_large")


def refusal(status: int, message: str, code: str) -> Response:
    """What the server itself refuses, as OpenAI's JSON."""
    return JSONResponse(openai_schema.simple_error(status, message, code), status)
