"""Web: what surrounds every page: whose requests are answered, security headers, bounded uploads, unexpected errors.

Knows HTTP and Streamlit's hooks. Draws one sentence.
"""

import logging
import re
import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config as st_config
from streamlit.runtime import get_instance
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

from phi3kit.access.same_origin import ServedNames, is_own_click
from phi3kit.core.errors import SettingInvalid
from phi3kit.core.loopback import check_listening
from phi3kit.core.settings import read_settings
from phi3kit.ui.shared import resources

log = logging.getLogger(__name__)

_UPLOADS = "/_stcore/upload_file/"
_TAB_FILES, _TAB_BIGGEST, _ALL_BIGGEST = (
    10,
    2,
    20,
)  # files of a tab; files of the biggest size of a tab, and of all tabs

# Streamlit's own pages need inline styles, evaluated scripts (plotly, its data grid) and blobs (workers, downloads).
# Nothing is loaded from, or sent to, another host: an image in somebody's text reaches nobody.
_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; worker-src 'self' blob:; "
    "frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self' https: http:"
)


_FRAMES = "frame-ancestors 'self' https://*.streamlit.app https://share.streamlit.io"  # Community Cloud's own pages
_NO_FRAMES = "frame-ancestors 'none'"

_LOGOUT, _MEDIA, _FIRST_ASKED = "/auth/logout", "/media/", "/_stcore/health"
_BROWSER = "phi3kit_browser"  # the cookie that tells browsers apart; its value says nothing of their owners
_FILE = re.compile(rb"/media/([0-9a-f]{16,128})")
_MOST_FILES = 20_000  # that are remembered as sent, the latest


class OwnPages:
    """Answers this app's own pages, and no other site's; signs out only after a click within the app. Plain ASGI."""

    def __init__(self, app: ASGIApp, names: ServedNames) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._names.refusal(scope["headers"]) if scope["type"] in ("http", "websocket") else None
        if refused is None and scope["type"] == "http" and scope["path"].endswith(_LOGOUT):
            refused = None if is_own_click(scope["headers"]) else "Sign out by the button in the app."
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # its connect
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(refused, 403)(scope, receive, send)


class OwnFiles:
    """Gives a page's files (downloads, images) only to the browser to which their address was sent. Plain ASGI.

    Streamlit gives them to whoever knows an address, which is made of the content alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sent: OrderedDict[tuple[str, bytes], None] = OrderedDict()  # browser and file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        browser = _browser_of(scope)
        if scope["type"] == "http" and _MEDIA in scope["path"]:
            found = _FILE.fullmatch((_MEDIA + scope["path"].rpartition(_MEDIA)[2].partition(".")[0]).encode())
            if not browser or not found or (browser, found[1]) not in self._sent:
                await PlainTextResponse("There is no such file.", 404)(scope, receive, send)
                return

        async def noted(message: Message) -> None:
            if message["type"] == "websocket.send" and browser:
                for file in _FILE.findall(message.get("bytes") or b""):
                    self._note(browser, file)
            elif message["type"] == "http.response.start" and not browser and scope["path"].endswith(_FIRST_ASKED):
                cookie = f"{_BROWSER}={secrets.token_urlsafe(24)}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        await self._app(scope, receive, noted)

    def _note(self, browser: str, file: bytes) -> None:
        self._sent[browser, file] = None
        self._sent.move_to_end((browser, file))
        if len(self._sent) > _MOST_FILES:
            self._sent.popitem(last=False)


def _browser_of(scope: Scope) -> str:
    """What the browser's cookie says; empty without one."""
    cookie = Headers(scope=scope).get("cookie", "")
    found = re.search(rf"(?:^|;\s*){_BROWSER}=([\w-]{{32}})(?:;|$)", cookie, re.ASCII)
    return found[1] if found else ""


class SecurityHeaders:
    """Adds security headers to every response. Plain ASGI: a web socket passes through."""

    def __init__(self, app: ASGIApp, framed: bool) -> None:
        """framed: Community Cloud may show the app inside its page; no account can be abused there."""
        self._app = app
        self._headers = {
            "Content-Security-Policy": f"{_CONTENT}; {_FRAMES if framed else _NO_FRAMES}",
            **({} if framed else {"X-Frame-Options": "DENY"}),
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
    """Refuses what is more than allowed while it arrives: Streamlit holds uploads in memory as long as their tab lives."""

    def __init__(self, app: ASGIApp, most_bytes: int, held: Callable[[], MemoryUploadedFileManager]) -> None:
        """most_bytes: of one file. held: the files that are there."""
        self._app, self._most, self._held = app, most_bytes, held
        self._coming: list[tuple[str, int]] = []  # tab and bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST"):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most:
            await PlainTextResponse("The file is too big for this app.", 413)(scope, receive, send)
            return
        if _UPLOADS not in scope["path"]:
            await self._pass(scope, receive, send)
            return
        tab, _, file = scope["path"].rpartition("/")
        coming = (tab, int(length) or self._most)
        if not self._has_room(tab, file, coming[1]):
            await PlainTextResponse("This tab holds too many files. Load the page again.", 413)(scope, receive, send)
            return
        self._coming.append(coming)
        try:
            await self._pass(scope, receive, send)
        finally:
            self._coming.remove(coming)

    def _has_room(self, tab: str, file: str, size: int) -> bool:
        """Whether the file may come, which may be there already."""
        stored = self._held().file_storage
        own = [len(each.data) for name, each in stored.get(tab.rpartition("/")[2], {}).items() if name != file]
        own += [bytes_ for other, bytes_ in self._coming if other == tab]
        everybody = sum(len(each.data) for files in list(stored.values()) for each in list(files.values()))
        everybody += sum(bytes_ for _, bytes_ in self._coming)
        return (
            len(own) < _TAB_FILES
            and sum(own) + size <= _TAB_BIGGEST * self._most
            and everybody + size <= _ALL_BIGGEST * self._most
        )

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        came = 0

        async def bounded() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            # A client that gave a wrong length: to the app it looks as if it had gone.
            return {"type": "http.disconnect"} if came > self._most else message

        await self._app(scope, bounded, send)


def check_address() -> None:
    """End the process, with a sentence, where Streamlit is about to listen beyond what the profile allows."""
    try:
        settings = read_settings(resources.secrets())
    except SettingInvalid:  # nothing but this error is served
        return
    try:
        check_listening(st.get_option("server.address"), settings.profile)
    except SettingInvalid as error:
        print(f"phi3kit: {error}", file=sys.stderr)
        sys.exit(2)


def middleware() -> list[Middleware]:
    """What every request passes. Settings that cannot be read are reported by the pages."""
    try:
        settings = read_settings(resources.secrets())
        names = ServedNames.read(settings.host_names)
    except SettingInvalid as error:
        log.error("%s", error)
        return [Middleware(SecurityHeaders, framed=False), Middleware(OwnPages, names=ServedNames(frozenset()))]
    # Streamlit judges the origin of its socket too, and knows no name of a proxy that sends a Host of its own.
    listed = [f"https://{name}" for name in settings.host_names if "*" not in name]
    st_config.set_option("server.corsAllowedOrigins", [*st_config.get_option("server.corsAllowedOrigins"), *listed])
    found = [Middleware(SecurityHeaders, framed=settings.profile == "public")]
    found += [Middleware(OwnPages, names=names), Middleware(OwnFiles)]
    # Streamlit's own bound is of a file; a request has some lines around it.
    streamlits = (int(st.get_option("server.maxUploadSize")) + 1) * 2**20
    most_bytes = settings.limits.upload_mb * 1_000_000 if settings.limits.upload_mb else streamlits
    found.append(Middleware(BoundedUploads, most_bytes=most_bytes, held=_uploads))
    return found


def _uploads() -> MemoryUploadedFileManager:
    manager = get_instance().uploaded_file_mgr
    assert isinstance(manager, MemoryUploadedFileManager)
    return manager


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
