"""Web: what surrounds every page: whose requests are answered, security headers, bounded uploads, unexpected errors.

Knows HTTP and Streamlit's hooks. Draws one sentence.
"""

import asyncio
import logging
import re
import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config as st_config
from streamlit.proto.AuthRedirect_pb2 import AuthRedirect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import get_instance
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.runtime_util import get_max_widget_state_size_bytes
from websockets import http11

from phi3kit.access.same_origin import ServedNames, is_own_click, is_plain
from phi3kit.access.sign_in_claims import role_of
from phi3kit.core.errors import SettingInvalid, StorageFailed
from phi3kit.core.loopback import check_listening
from phi3kit.core.settings import Settings, read_settings
from phi3kit.ui.shared import resources, visitors
from phi3kit.ui.shared.early_charts import EarlyCharts
from phi3kit.ui.shared.whole_sign_in import WholeSignIn

Claims = Mapping[str, Any]

log = logging.getLogger(__name__)

_UPLOADS = "/_stcore/upload_file/"
_TAB_FILES = 10
_TAB_BIGGEST, _OWNER_BIGGEST, _ALL_BIGGEST = 2, 6, 20  # files of the biggest size: of a tab, of one who uploads, of all
_LONGEST_LINE = 2**16  # bytes of a header of Streamlit's socket
_BODY_S = 60.0  # for the body of a request

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
_NOT_SERVED = ("/_stcore/metrics", "/_stcore/agent")  # figures of all sessions; an interface that nobody here uses
_REFUSED, _TOO_BIG = 1008, 1009  # why a socket is closed
_MESSAGES = ("rerun_script", "stop_script", "file_urls_request", "app_heartbeat")
_OPERATIONS = ("deferred_file", "dataframe_chunk")
_MOST_WIDGETS = 2_000  # that a message tells of: Streamlit goes through them all, and a page has a hundred
_MOST_OF_OUTSIDERS = 64_000  # bytes of a message of somebody who has not signed in
_FREE_BYTES, _BYTES_PER_S = 200_000, 1_000_000  # a socket's bigger messages rest as long as their bytes take

_FILE = re.compile(r"/media/([0-9a-f]{16,128})(?:\.\w+)?", re.ASCII)
# Where Streamlit itself puts the address of a file. Other fields repeat what a browser sent.
_ADDRESSES = {
    ("DownloadButton", "url"), ("DeferredFileResponsePayload", "url"), ("Image", "url"), ("Logo", "image"),
    ("Logo", "icon_image"), ("PageConfig", "favicon"), ("Favicon", "url"), ("ChatMessage", "avatar"), ("Audio", "url"),
    ("Video", "url"), ("SubtitleTrack", "url"),
}  # fmt: skip
_MOST_FILES = 1_000  # that are remembered as sent to a browser, the latest
_MOST_GONE = 1_000  # browsers without an open tab that are remembered, the latest


class OwnPages:
    """Answers this app's own pages, and no other site's; signs out only after a click within the app. Plain ASGI."""

    def __init__(self, app: ASGIApp, names: ServedNames) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # its connect
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(refused[1], refused[0])(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and why."""
        path = scope["path"]
        if not is_plain(path):
            return 400, "A path must not contain control characters."
        if (why := self._names.refusal(scope["headers"])) is not None:
            return 403, why
        if scope["type"] == "http" and path.endswith(_LOGOUT) and not is_own_click(scope["headers"]):
            return 403, "Sign out with the button in the app."
        return (404, "There is no such page.") if any(each in path for each in _NOT_SERVED) else None


@dataclass(frozen=True)
class SignIns:
    """How a request is judged by who signed in."""

    of: Callable[[Scope], Claims]  # the claims of the request's cookie, empty where they let nobody in
    counts: Callable[[Claims], bool]  # whether such claims still let somebody in
    end: Callable[[Claims], None]  # let them, and every copy of their cookie, let nobody in any more


# A page that only comes back would go on to show what it showed.
_LOAD_AGAIN = ForwardMsg(auth_redirect=AuthRedirect(url="./")).SerializeToString()


class JudgedMessages:
    """Lets a browser send over Streamlit's socket what pages need, while its sign-in counts; else closes it. Plain ASGI.

    Streamlit takes more, of everybody: to clear the caches of all, to ask for its folder's git, to change its options.
    It reads the sign-in once, when a tab opens: what was drawn then would act, and give files, when it has ended.
    Its own sign-out takes the cookie from the browser alone: a kept copy would go on to open the app.
    """

    def __init__(self, app: ASGIApp, sign_ins: SignIns | None) -> None:
        """sign_ins: None where nobody signs in."""
        self._app, self._sign_ins = app, sign_ins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sign_ins = self._sign_ins
        if scope["type"] != "websocket":
            leaves = scope["type"] == "http" and scope["path"].endswith(_LOGOUT)
            if sign_ins and leaves and (left := sign_ins.of(scope)):
                await asyncio.to_thread(sign_ins.end, left)
            await self._app(scope, receive, send)
            return
        closed = False
        claims = sign_ins.of(scope) if sign_ins else {}
        most = _MOST_OF_OUTSIDERS if sign_ins and not claims else get_max_widget_state_size_bytes()
        if sign_ins and not claims:  # the tab is shown the door, whose button must work
            scope = _without_session(scope)

        async def listed() -> Message:
            nonlocal closed
            message = await receive()
            if closed or message["type"] != "websocket.receive":
                return message
            ended = sign_ins is not None and bool(claims) and not sign_ins.counts(claims)
            data = message.get("bytes") or b""
            code = _TOO_BIG if len(data) > most else _REFUSED
            if not ended and len(data) <= most and _is_listed(data):
                await asyncio.sleep(max(len(data) - _FREE_BYTES, 0) / _BYTES_PER_S)
                return message
            closed = True
            if ended:
                await send({"type": "websocket.send", "bytes": _LOAD_AGAIN})
            await send({"type": "websocket.close", "code": code})
            return {"type": "websocket.disconnect", "code": code}

        async def open_only(message: Message) -> None:
            if not closed:
                await send(message)

        await self._app(scope, listed, open_only)


def _without_session(scope: Scope) -> Scope:
    """A socket's opening that goes on with no session: the third of its protocols names one, of when the sign-in counted."""
    headers = [
        (name, b",".join(value.split(b",")[:2]) if name == b"sec-websocket-protocol" else value)
        for name, value in scope["headers"]
    ]
    return {**scope, "headers": headers}


def _is_listed(data: bytes) -> bool:
    message = BackMsg()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return False
    if len(message.rerun_script.widget_states.widgets) > _MOST_WIDGETS:
        return False
    kind = message.WhichOneof("type")
    if kind == "backend_operation_request":
        return message.backend_operation_request.WhichOneof("payload") in _OPERATIONS
    return kind in _MESSAGES


class OwnFiles:
    """Gives a page's files (downloads, images) only to the browser to which their address was sent. Plain ASGI.

    Streamlit gives them to whoever knows an address, which is made of the content alone. A file that was sent to
    somebody who had signed in is given to the same person, while that sign-in counts.
    """

    def __init__(self, app: ASGIApp, sign_ins: SignIns | None) -> None:
        """sign_ins: None where nobody signs in."""
        self._app, self._sign_ins = app, sign_ins
        self._sent: OrderedDict[str, _Browser] = OrderedDict()  # in the order in which they opened or closed a tab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        browser = _browser_of(scope)
        if scope["type"] == "http" and _MEDIA in scope["path"]:
            before, _, name = scope["path"].rpartition(_MEDIA)
            found = _FILE.fullmatch(_MEDIA + name)
            of_streamlit = not found and before.endswith("/static")  # its fonts
            if not of_streamlit and not (found and self._may_open(scope, browser, found[1])):
                await PlainTextResponse("There is no such file.", 404)(scope, receive, send)
                return

        claims = self._sign_ins.of(scope) if self._sign_ins and scope["type"] == "websocket" else {}

        async def noted(message: Message) -> None:
            if message["type"] == "websocket.send" and browser:
                self._note(browser, message.get("bytes") or b"", claims)
            elif message["type"] == "http.response.start" and not browser and scope["path"].endswith(_FIRST_ASKED):
                MutableHeaders(scope=message).append("Set-Cookie", _new_cookie(scope))
            await send(message)

        if scope["type"] == "http" or not browser:
            await self._app(scope, receive, noted)
            return
        self._count_tab(browser, 1)
        try:
            await self._app(scope, receive, noted)
        finally:
            self._count_tab(browser, -1)

    def _count_tab(self, browser: str, more: int) -> None:
        """A tab opens or closes. Browsers without one make room for each other, and for no browser that has one."""
        self._sent.setdefault(browser, _Browser()).tabs += more
        self._sent.move_to_end(browser)
        gone = [name for name, each in self._sent.items() if not each.tabs]
        for name in gone[:-_MOST_GONE]:
            del self._sent[name]

    def _may_open(self, scope: Scope, browser: str, file: str) -> bool:
        files = self._sent[browser].files if browser in self._sent else {}
        if file not in files:
            return False
        if not (sent_to := files[file]) or self._sign_ins is None:
            return True
        asks = self._sign_ins.of(scope)
        return self._sign_ins.counts(sent_to) and all(asks.get(name) == sent_to.get(name) for name in ("iss", "sub"))

    def _note(self, browser: str, data: bytes, claims: Claims) -> None:
        if _MEDIA.encode() not in data:
            return
        files = self._sent[browser].files
        for file in _files_in(ForwardMsg.FromString(data)):
            files[file] = claims
            files.move_to_end(file)
            if len(files) > _MOST_FILES:
                files.popitem(last=False)


@dataclass
class _Browser:
    tabs: int = 0  # that are open
    # That were sent, the latest last, each with the claims of who had signed in there.
    files: OrderedDict[str, Claims] = field(default_factory=OrderedDict)


def _files_in(message: ProtobufMessage) -> Iterator[str]:
    """The files that a message's fields of addresses name, at any depth."""
    for entry, value in message.ListFields():
        if (message.DESCRIPTOR.name, entry.name) in _ADDRESSES:
            if found := _FILE.fullmatch(value):
                yield found[1]
        elif entry.message_type is not None:
            for each in (value,) if isinstance(value, ProtobufMessage) else value:
                if isinstance(each, ProtobufMessage):  # and no key of a map
                    yield from _files_in(each)


def _new_cookie(scope: Scope) -> str:
    by_tls = scope["scheme"] == "https" or Headers(scope=scope).get("referer", "").startswith("https://")
    cookie = f"{_BROWSER}={secrets.token_urlsafe(24)}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
    return f"{cookie}; Secure" if by_tls else cookie


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

    def __init__(
        self,
        app: ASGIApp,
        most_bytes: int,
        held: Callable[[], MemoryUploadedFileManager],
        uploader: Callable[[str, Scope], str | None],
    ) -> None:
        """most_bytes: of one file. held: the files that are there. uploader: whose a session is; None: not the request's."""
        self._app, self._most, self._held, self._uploader = app, most_bytes, held, uploader
        self._coming: list[_Coming] = []
        self._owners: dict[str, str] = {}  # sessions to who uploaded there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST", "DELETE"):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most:
            await PlainTextResponse("The file is too big for this app.", 413)(scope, receive, send)
            return
        if _UPLOADS not in scope["path"]:
            await self._pass(scope, receive, send)
            return
        tab, file = scope["path"].rpartition(_UPLOADS)[2].partition("/")[::2]
        if (owner := self._uploader(tab, scope)) is None:
            await PlainTextResponse("Sign in to upload files.", 403)(scope, receive, send)
            return
        if scope["method"] == "DELETE":
            await self._pass(scope, receive, send)
            return
        owner = owner or _browser_of(scope)
        coming = _Coming(tab, owner)
        if not self._has_room(coming, file, int(length) or self._most):
            await PlainTextResponse("This tab holds too many files. Load the page again.", 413)(scope, receive, send)
            return
        self._owners[tab] = owner
        self._coming.append(coming)
        try:
            await self._pass(scope, receive, send, coming, file)
        finally:
            self._coming.remove(coming)
            held = self._held().file_storage
            kept = {*held, *(each.tab for each in self._coming)}
            self._owners = {tab: owner for tab, owner in self._owners.items() if tab in kept}

    def _has_room(self, coming: "_Coming", file: str, size: int) -> bool:
        """Whether so many bytes may come of a file, which may be there already. What others promise counts as it comes."""
        files = [
            (tab, self._owners.get(tab, ""), len(each.data))
            for tab, held in list(self._held().file_storage.items())
            for name, each in list(held.items())
            if (tab, name) != (coming.tab, file)
        ]
        files += [(each.tab, each.owner, each.came) for each in self._coming if each is not coming]
        own = [bytes_ for tab, _, bytes_ in files if tab == coming.tab]
        owners = sum(bytes_ for _, owner, bytes_ in files if owner == coming.owner)
        return (
            len(own) < _TAB_FILES
            and sum(own) + size <= _TAB_BIGGEST * self._most
            and owners + size <= _OWNER_BIGGEST * self._most
            and sum(bytes_ for _, _, bytes_ in files) + size <= _ALL_BIGGEST * self._most
        )

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, coming: "_Coming | None" = None, file: str = ""
    ) -> None:
        came, loop = 0, asyncio.get_running_loop()
        ends_at: float | None = loop.time() + _BODY_S

        async def bounded() -> Message:
            nonlocal came, ends_at
            try:
                async with asyncio.timeout_at(ends_at):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            came += len(message.get("body", b""))
            if not message.get("more_body"):
                ends_at = None
            fits = came <= self._most
            if coming is not None:
                coming.came = came
                fits = fits and self._has_room(coming, file, came)
            # A client that gave a wrong length, or is too slow: to the app it looks as if it had gone.
            return message if fits else {"type": "http.disconnect"}

        await self._app(scope, bounded, send)


@dataclass(eq=False)
class _Coming:
    """A file on its way."""

    tab: str
    owner: str
    came: int = 0  # bytes


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
    sign_ins = _sign_ins(settings) if settings.profile == "team" else None
    found = [Middleware(SecurityHeaders, framed=settings.profile == "public"), Middleware(EarlyCharts)]
    found += [Middleware(OwnPages, names=names), Middleware(JudgedMessages, sign_ins=sign_ins)]
    if sign_ins:
        found.insert(-1, Middleware(WholeSignIn))
        # A provider's long list of groups makes long cookies. Longer lines than this one's leave a socket unanswered.
        http11.MAX_LINE_LENGTH = _LONGEST_LINE
    found.append(Middleware(OwnFiles, sign_ins=sign_ins))
    # Streamlit's own bound is of a file; a request has some lines around it.
    streamlits = (int(st.get_option("server.maxUploadSize")) + 1) * 2**20
    most_bytes = settings.limits.upload_mb * 1_000_000 if settings.limits.upload_mb else streamlits
    found.append(
        Middleware(BoundedUploads, most_bytes=most_bytes, held=_uploads, uploader=_uploader(settings, sign_ins))
    )
    return found


def _sign_ins(settings: Settings) -> SignIns:
    def counts(claims: Claims) -> bool:
        try:
            return visitors.person_signed_in(claims, settings) is not None
        except StorageFailed:  # nobody is let in while nothing can be known; the page says why
            return False

    def of(scope: Scope) -> Claims:
        claims = visitors.claims_of_cookies(HTTPConnection(scope).cookies)
        return claims if counts(claims) else {}

    return SignIns(of, counts, lambda claims: visitors.end(claims, settings))


def _uploader(settings: Settings, sign_ins: SignIns | None) -> Callable[[str, Scope], str | None]:
    """Who may upload into a session: in a team, its own person with a role, by name; elsewhere everybody, without a name."""

    def of(tab: str, scope: Scope) -> str | None:
        if sign_ins is None:
            return ""
        session = get_instance().get_app_session(tab)
        person = visitors.person_signed_in(session._user_info, settings) if session else None
        if person is None or person != visitors.person_signed_in(sign_ins.of(scope), settings):
            return None
        return person.name if role_of(person, settings.role_lists) != "nobody" else None

    return of


def _uploads() -> MemoryUploadedFileManager:
    manager = get_instance().uploaded_file_mgr
    assert isinstance(manager, MemoryUploadedFileManager)
    return manager


def on_script_error(error: Exception) -> bool:
    """Log an unexpected error and say so on the page. True: Streamlit draws nothing."""
    log.error("a page failed", exc_info=error)
    st.error(
        "This is a bug in phi3kit. Your work so far is kept.\n\nLoad the page again. The app's log has the details.",
        title="This page failed.",
        icon=":material/error:",
    )
    return True
