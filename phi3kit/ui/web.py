"""Web: what surrounds every page of the app: headers that bind the browser, and the last word on an unexpected error.

Knows HTTP and Streamlit's hooks. Draws one sentence.
"""

import logging
import os

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# Streamlit's own pages need inline styles, evaluated scripts (plotly, its data grid) and blobs (workers, downloads).
# Nothing is loaded from, or sent to, another host: an image in somebody's text reaches nobody.
_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; "
    "frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self' https: http:"
)


class SecurityHeaders:
    """Adds them to every response. Plain ASGI: a web socket passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # A public demo is shown inside other sites (Community Cloud does so itself) and has no account to be abused.
        public = os.environ.get("PHI3KIT_PROFILE", "").strip().lower() == "public"
        self._headers = {
            "Content-Security-Policy": _CONTENT if public else f"{_CONTENT}; frame-ancestors 'self'",
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


def on_script_error(error: Exception) -> bool:
    """An error that nobody foresaw: its traceback goes to the log, and the page says so. True: Streamlit draws nothing."""
    log.error("a page failed", exc_info=error)
    st.error(
        "**This page failed.** That is a mistake in phi3kit; what you did until now is kept.\n\n"
        "Load the page again. The app's log has the details.",
        icon=":material/error:",
    )
    return True
