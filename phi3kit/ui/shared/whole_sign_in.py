"""Whole sign-in: a sign-in whose cookie Streamlit has split counts only with the pieces that it was split into.

Streamlit signs each piece with nothing but its name: pieces of a person's two sign-ins, put together, would be a third
one that no provider gave. One more cookie, the seal, is made of all pieces. Knows Streamlit's cookies, and no claims.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

_SEAL = "phi3kit_sign_in"


class WholeSignIn:
    """Seals a split sign-in when it is given, and passes on no split one without its seal. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if not _is_whole(HTTPConnection(scope).cookies):
            headers = [
                (name, _without_sign_in(value) if name == b"cookie" else value) for name, value in scope["headers"]
            ]
            scope = {**scope, "headers": headers}

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                _seal(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, sealed)


def _is_whole(cookies: Mapping[str, str]) -> bool:
    """Whether a request's sign-in is of one piece, or of the pieces that its seal was made of; also without one."""
    pieces = _pieces(cookies)
    given = cookies.get(_SEAL, "").encode("utf-8", "replace")  # of any characters
    return len(pieces) < 2 or hmac.compare_digest(_seal_of(pieces).encode(), given)


def _without_sign_in(header: bytes) -> bytes:
    """A header of cookies as it came, without those: what a cookie's value unpacks to could be a cookie itself."""
    return b";".join(
        each for each in header.split(b";") if not _is_of_sign_in(each.partition(b"=")[0].decode("latin-1").strip())
    )


def _seal(headers: MutableHeaders) -> None:
    """Add the seal to a response that gives a split sign-in, with the attributes of its cookies."""
    given, attributes = {}, ""
    for line in headers.getlist("set-cookie"):
        pair, _, rest = line.partition(";")
        if _is_of_sign_in(pair.partition("=")[0].strip()):
            given.update(cookie_parser(pair))
            attributes = rest
    if len(pieces := _pieces(given)) > 1:
        headers.append("Set-Cookie", f"{_SEAL}={_seal_of(pieces)};{attributes}")


def _is_of_sign_in(name: str) -> bool:
    return name == USER_COOKIE_NAME or name.startswith(f"{USER_COOKIE_NAME}_")


def _pieces(cookies: Mapping[str, str]) -> dict[str, str]:
    """The cookies of which Streamlit puts a sign-in together, in its order."""
    found: dict[str, str] = {}
    secret = get_cookie_secret()

    def piece(name: str) -> bytes | None:
        if (value := cookies.get(name)) is None:
            return None
        found[name] = value
        return decode_signed_value(secret, name, value)

    get_cookie_with_chunks(piece, USER_COOKIE_NAME)
    return found


def _seal_of(pieces: Mapping[str, str]) -> str:
    return hmac.new(get_cookie_secret().encode(), json.dumps([*pieces.items()]).encode(), hashlib.sha256).hexdigest()
