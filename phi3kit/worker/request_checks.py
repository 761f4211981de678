"""Request checks: what is refused before a route's own work: other sites' pages, keys, roles, sizes, JSON; errors' shape.

Knows every route by what it asks of its callers, OpenAI's error shape and the worker's bounds. Knows no model.
"""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Message_

from phi3kit.access.keys import PREFIX, KeyStore, looks_like_key
from phi3kit.access.roles import Act, may
from phi3kit.access.roles import refusal as role_refusal
from phi3kit.access.same_origin import ServedNames, is_plain
from phi3kit.core.errors import (
    BudgetSpent,
    PromptTooLong,
    RequestInvalid,
    StorageFailed,
    TryLater,
    longest_context,
)
from phi3kit.core.limits import Limits
from phi3kit.core.profiles import Role
from phi3kit.core.records import Message
from phi3kit.formats import openai_schema
from phi3kit.formats.openai_schema import RawPrompt

Body = TypeVar("Body", bound=BaseModel)

MAX_BODY_BYTES = 2**20
_MOST_BRACKETS = 40_000  # Python's objects take longer to make than their bytes to read
_BYTES_A_TOKEN = 64  # beyond them a text fits no context: a token has 4 bytes or so
# A page of another site sends neither without asking first. MLflow's protocol has the second.
_JSON, _CSV = "application/json", "text/csv"


@dataclass(frozen=True)
class RouteRule:
    """What a route asks of its callers."""

    act: Act | None  # that the role of a key's user must allow; None: no key is asked
    takes: tuple[str, ...] = ()  # content types of its body
    keeps_alive: bool = True  # whether it keeps an idle worker from ending: a monitor does not


# Every route. One that is not here asks for a key, takes JSON alone, and is a 404 behind that.
ROUTES = {
    "/health": RouteRule(None, keeps_alive=False),
    "/metrics": RouteRule("watch", keeps_alive=False),  # before and after a turn it tells what the turn cost
    "/ping": RouteRule(None, keeps_alive=False),
    "/version": RouteRule("talk", keeps_alive=False),
    "/openapi.json": RouteRule("talk"),
    "/v1/models": RouteRule("talk"),
    "/v1/models/{model_id:path}": RouteRule("talk"),
    "/v1/chat/completions": RouteRule("talk", (_JSON,)),
    "/v1/completions": RouteRule("talk", (_JSON,)),
    "/tokenize": RouteRule("talk", (_JSON,)),
    "/detokenize": RouteRule("talk", (_JSON,)),
    "/invocations": RouteRule("invoke", (_JSON, _CSV)),
}
_ANY_OTHER = RouteRule("talk", (_JSON,))


class BodyTooLarge(Exception):
    """More bytes than MAX_BODY_BYTES."""


class LastRequest:
    """When the worker's last request ended; an idle worker ends itself."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._under_way = 0

    def note(self) -> None:
        """Something was asked just now."""
        self._at = time.monotonic()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A request that is being answered, however long that takes."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self.note()

    @property
    def idle_s(self) -> float:
        """Since when nothing is asked."""
        return 0.0 if self._under_way else time.monotonic() - self._at


@dataclass(frozen=True)
class Keys:
    """Which keys a worker accepts, and whom they stand for."""

    own: str | None  # of whoever started the worker
    users: KeyStore | None  # each names its user, whatever the headers say
    required: bool  # whether a request without one is refused
    managed: bool = False  # the own key is the app's alone: its X-Phi3kit-* headers are believed
    role_of: Callable[[str], Role] = lambda user: "user"  # of a key's user, now


class Guard:
    """Checks origin, key, type and size before any route.

    Plain ASGI: FastAPI's middleware helper would hide a client's disconnect.
    """

    def __init__(self, app: ASGIApp, names: ServedNames, keys: Keys, last_request: LastRequest) -> None:
        self._app, self._names, self._keys, self._last_request = app, names, keys, last_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.id = uuid.uuid4().hex
        rule = ROUTES.get(scope["path"], _ANY_OTHER)

        async def send_named(message: Message_) -> None:
            if message["type"] == "http.response.start":
                name_response(MutableHeaders(scope=message), request)
            await send(message)

        with self._last_request.under_way() if rule.keeps_alive else nullcontext():
            await (await self._refused(request, rule) or self._app)(scope, receive, send_named)

    async def _refused(self, request: Request, rule: RouteRule) -> Response | None:
        if not is_plain(request.scope["path"]):
            return refusal(400, "A path must not contain control characters.", "invalid_path")
        if why := self._names.refusal(request.scope["headers"]):
            return refusal(403, why, "origin_not_allowed")
        if rule.act is None:
            request.state.may_watch = await self._refused_key(request, "watch") is None
            return None
        if refused := await self._refused_key(request, rule.act):
            return refused
        if request.method == "POST" and (why := _wrong_type(request, rule.takes)):
            return refusal(415, why, "unsupported_media_type")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return error_response(BodyTooLarge())
        return None

    async def _refused_key(self, request: Request, act: Act) -> Response | None:
        given = _key_in(request)
        if self._keys.own is not None and hmac.compare_digest(given.encode(), self._keys.own.encode()):
            request.state.from_app = self._keys.managed
            return None
        # Also where no key is required: a revoked key must not work as an anonymous caller.
        if self._keys.users is not None and looks_like_key(given):
            try:
                # In a thread: the file may be locked by another process.
                user, role = await asyncio.to_thread(self._user_and_role, self._keys.users, given)
            except StorageFailed as error:
                return error_response(error)
            if user is None:
                why = "The key is unknown, has expired or was revoked. Create a new one on Access."
                return refusal(401, why, "invalid_api_key")
            if not may(role, act):
                return refusal(403, str(role_refusal(role, act)), "role_not_allowed")
            request.state.key_user = user
            return None
        if not self._keys.required:
            return None
        return refusal(401, "The key is missing or wrong. Send it as: Authorization: Bearer KEY.", "invalid_api_key")

    def _user_and_role(self, users: KeyStore, token: str) -> tuple[str | None, Role]:
        """With each request anew: a key ends when it is revoked, and when its user loses the role."""
        user = users.user_of(token)
        return user, "nobody" if user is None else self._keys.role_of(user)


def _key_in(request: Request) -> str:
    """The key that a request brings. One of a person's form is one in whatever scheme: it must not pass for none."""
    given = ", ".join(request.headers.getlist("authorization")).strip()
    scheme, _, key = given.partition(" ")
    if scheme.lower() == "bearer":
        given = key.strip()
    at = given.lower().find(PREFIX)
    return given if at < 0 else given[at:]


def _wrong_type(request: Request, taken: tuple[str, ...]) -> str | None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return None if given in taken else f"Send the body with Content-Type: {' or '.join(taken) or _JSON}."


def is_from_app(request: Request) -> bool:
    """Whether the app itself sent a request, with the key that only it and its worker have."""
    return getattr(request.state, "from_app", False)


def may_watch(request: Request) -> bool:
    """Whether a request that needs no key may see what others do: with a key of the right role, or where none is asked."""
    return bool(request.state.may_watch)


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


def parsed(body: bytes, kind: type[Body]) -> Body:
    """A body as one of the schema's requests. Raises RequestInvalid or pydantic's ValidationError."""
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:
        raise RequestInvalid(
            "The body has too many parts.", f"It has more than {_MOST_BRACKETS:,} brackets.", "Send a smaller one."
        )
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid("The body cannot be read.", "It is not JSON.", "Send a JSON object.") from error
    if not isinstance(values, dict):
        raise RequestInvalid("The body cannot be read.", "It is not a JSON object.", "Send a JSON object.")
    return kind.model_validate(values)


def check_length(prompt: tuple[Message, ...] | str, limits: Limits, context_tokens: int) -> None:
    """Refuse a text before it is cut into tokens, which takes seconds for megabytes. Raises RequestInvalid."""
    check_characters(prompt, limits)
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    if (size := sum(len(text.encode()) for text in texts)) > context_tokens * _BYTES_A_TOKEN:
        raise RequestInvalid(
            "The prompt is too long.",
            f"{longest_context(context_tokens)}, answer included, and the prompt has {size:,} bytes.",
            "Shorten the prompt or start a new conversation.",
            param=_param(prompt),
            code="context_length_exceeded",
        )


def check_raw_length(prompts: tuple[RawPrompt, ...], limits: Limits, context_tokens: int) -> None:
    """The same of raw prompts, each of which may be token ids: these are not cut. Raises RequestInvalid."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    check_characters("".join(texts), limits)
    for text in texts:
        check_length(text, limits, context_tokens)
    for ids in (prompt for prompt in prompts if not isinstance(prompt, str)):
        if len(ids) > context_tokens:
            raise PromptTooLong(len(ids), context_tokens, "prompt")


def check_characters(prompt: tuple[Message, ...] | str, limits: Limits) -> None:
    """Refuse a text with more characters than are allowed. Raises RequestInvalid."""
    length = len(prompt) if isinstance(prompt, str) else sum(len(message.content) for message in prompt)
    if limits.prompt_characters is not None and length > limits.prompt_characters:
        raise RequestInvalid(
            "The text is too long.",
            f"It has {length:,} characters; the limit here is {limits.prompt_characters:,}.",
            "Shorten it or start a new conversation.",
            param=_param(prompt),
            code="string_above_max_length",
        )


def _param(prompt: tuple[Message, ...] | str) -> str:
    return "prompt" if isinstance(prompt, str) else "messages"


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


def refusal(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal by the server itself, as OpenAI's JSON."""
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(openai_schema.simple_error(status, message, code), status, headers)


def request_id(request: Request) -> str:
    """What every response is named by; of a caller from outside the turn's id, too."""
    return str(request.state.id)


def name_response(headers: MutableHeaders, request: Request) -> None:
    """Put the request's id into a response."""
    headers["x-request-id"] = request_id(request)
