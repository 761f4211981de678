"""Web: what surrounds every page: security headers, bounded uploads, and what is said of an unexpected error.

Knows HTTP and Streamlit's hooks. Draws one sentence.
"""

import logging

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.settings import read_settings
from phi3kit.ui.shared import resources

log = logging.getLogger(__name__)

# Streamlit's own pages need inline styles, evaluated scripts (plotly, its data grid) and blobs (workers, downloads).
# Nothing is loaded from, or sent to, another host: an image in somebody's text reaches nobody.
_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; "
    "frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self' https: http:"
)


class SecurityHeaders:
    """Adds security headers to every response. Plain ASGI: a web socket passes through."""

    def __init__(self, app: ASGIApp, framed: bool) -> None:
        """framed: other sites may show the app inside theirs. Community Cloud does so; no account can be abused there."""
        self._app = app
        self._headers = {
            "Content-Security-Policy": _CONTENT if framed else f"{_CONTENT}; frame-ancestors 'self'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


class BoundedUploads:
    """Refuses uploads bigger than allowed while they arrive: Streamlit holds them in memory."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST"):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most:
            await PlainTextResponse("The file is too big for this app.", 413)(scope, receive, send)
            return
        came = 0

        async def bounded() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            # A client that gave a wrong length: to the app it looks as if it had gone.
            return {"type": "http.disconnect"} if came > self._most else message

        await self._app(scope, bounded, send)


def middleware() -> list[Middleware]:
    """What every request passes. Settings that cannot be read are reported by the pages."""
    try:
        settings = read_settings(resources.secrets())
    except SettingInvalid:
        return [Middleware(SecurityHeaders, framed=False)]
    found = [Middleware(SecurityHeaders, framed=settings.profile == "public")]
    if upload_mb := settings.limits.upload_mb:
        found.append(Middleware(BoundedUploads, most_bytes=upload_mb * 1_000_000))
    return found


def on_script_error(error: Exception) -> bool:
    """Log an unexpected error and say so on the page. True: Streamlit draws nothing."""
    log.error("a page failed", exc_info=error)
    st.error(
        "That is a mistake in phi3kit; what you did until now is kept.\n\n"
        "Load the page again. The app's log has the details.",
        title="This page failed.",
        icon=":material/error:",
    )
    return True
