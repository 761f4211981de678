"""Requests to the app: no other site's page reaches it, signs anybody out, frames it, or opens somebody's files."""

import asyncio
import base64
import json
import random
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from streamlit.web.server.starlette.starlette_auth_routes import _set_auth_cookie
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from phi3kit.access.people import People
from phi3kit.core.profiles import PROFILES
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import free_port
from phi3kit.ui.shared import resources, visitors, web
from tests.pages.test_access import TEAM, page_of
from tests.security.test_same_origin import FROM_ELSEWHERE
from tests.support.in_app import app_on, click, words
from tests.support.in_browser import App, running_app
from tests.support.samples import new_store

SECRET = "c" * 32
PATHS = ("/", "/access", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics", "/auth/login", "/auth/logout")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A team's app, behind a proxy that names itself phi.lab.example."""
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    secrets = folder / "secrets.toml"
    secrets.write_text(
        f"""[auth]
redirect_uri = "https://phi.lab.example/oauth2callback"
cookie_secret = "{SECRET}"
client_id = "phi3kit"
client_secret = "secret"
server_metadata_url = "http://127.0.0.1:1/nowhere"
"""
    )
    options = ["--secrets.files", str(secrets)]
    with running_app(folder / "home", port=port, options=options, PHI3KIT_PROFILE="team") as app:
        yield app


def headers_from(how: str, app: App) -> dict[str, str]:
    return {name: value.format(port=app.url.rpartition(":")[2]) for name, value in FROM_ELSEWHERE[how].items()}


@contextmanager
def socket_of(app: App, cookie: str = "", **headers: str) -> Iterator[ClientConnection]:
    """Streamlit's socket, as a page opens it."""
    address = f"{app.url.replace('http://', 'ws://')}/_stcore/stream"
    with connect(
        address,
        additional_headers={"Cookie": cookie, **headers},
        subprotocols=["streamlit"],  # type: ignore[list-item]
    ) as socket:
        yield socket


def file_that_is_sent_to(app: App, cookie: str) -> str:
    """The path of a file of the page (its logo), as the socket tells it."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    with socket_of(app, cookie) as socket:
        socket.send(message.SerializeToString())
        while True:
            part = socket.recv(timeout=300)
            if found := re.search(rb"/media/[0-9a-f]+\.\w+", part if isinstance(part, bytes) else part.encode()):
                return found[0].decode()


def browser_of(app: App) -> str:
    """The cookie of a new browser."""
    return f"phi3kit_browser={httpx2.get(f'{app.url}/_stcore/health').cookies['phi3kit_browser']}"


def test_a_sign_in_of_many_cookies_opens_the_socket(team: App):
    with socket_of(team, "; ".join(f"c{number}={'x' * 3_000}" for number in range(12))) as socket:
        socket.send(back_message(app_heartbeat=True))
        assert socket.recv(timeout=300)


class TestOtherSites:
    @pytest.mark.parametrize("how", FROM_ELSEWHERE)
    def test_none_reaches_any_route(self, team: App, how: str):
        headers = headers_from(how, team)
        assert {path: httpx2.get(team.url + path, headers=headers).status_code for path in PATHS} == dict.fromkeys(
            PATHS, 403
        )
        put = httpx2.put(f"{team.url}/_stcore/upload_file/session/file", headers=headers, content=b"x")
        assert put.status_code == 403

    @pytest.mark.parametrize("how", [how for how in FROM_ELSEWHERE if "image" not in how])
    def test_none_opens_the_socket_by_which_pages_come(self, team: App, how: str):
        headers = headers_from(how, team)
        with pytest.raises(InvalidStatus) as caught, socket_of(team, **headers):
            pass
        assert caught.value.response.status_code == 403

    def test_its_own_pages_and_followed_links_do(self, team: App):
        for headers in (
            {},
            {"Host": "phi.lab.example", "Origin": "https://phi.lab.example"},
            {"Origin": "https://phi.lab.example"},  # the proxy sends a Host of its own
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        ):
            assert httpx2.get(f"{team.url}/access", headers=headers).status_code == 200
            with socket_of(team, **{name: each for name, each in headers.items() if name == "Origin"}):
                pass

    def test_none_frames_it(self, team: App):
        headers = httpx2.get(team.url).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


class TestSigningOut:
    COOKIE = create_signed_value(SECRET, "_streamlit_user", json.dumps({"sub": "1", "is_logged_in": True})).decode()

    def sign_out(self, app: App, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.get(f"{app.url}/auth/logout", headers={"Cookie": f"_streamlit_user={self.COOKIE}", **named})

    @pytest.mark.parametrize("headers", [
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},  # a link in another program
        {"Referer": "https://attacker.example/"},
        {"Referer": "https://attacker.example/http://127.0.0.1/"},
        {},
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},  # in somebody's text
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Dest": "image", "Sec_Fetch_Mode": "no-cors", "Referer": "{app}/access"},
    ], ids=str)  # fmt: skip
    def test_no_link_of_elsewhere_and_no_image_signs_anybody_out(self, team: App, headers: dict[str, str]):
        answer = self.sign_out(team, **{name: each.format(app=team.url) for name, each in headers.items()})
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)

    def test_a_click_within_the_app_does(self, team: App):
        fetched = {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        for headers in (fetched, {"Referer": f"{team.url}/access"}):
            answer = self.sign_out(team, **headers)
            assert answer.status_code == 302
            assert "_streamlit_user=" in answer.headers["Set-Cookie"]


class TestFiles:
    def test_a_file_opens_in_the_browser_to_which_it_was_sent_and_nowhere_else(self, team: App):
        mine, other = browser_of(team), browser_of(team)
        url = team.url + file_that_is_sent_to(team, mine)

        def status(cookie: str, method: str = "GET", **more: Any) -> int:
            return httpx2.request(method, url, headers={"Cookie": cookie, **more}).status_code

        assert [status(mine), status(mine, "HEAD"), status(f"a=b; {mine}; c=d")] == [200, 200, 200]
        assert [status(""), status(other), status(other, "HEAD"), status(f"x{mine}"), status(mine[:-1])] == [404] * 5
        assert status("", Range="bytes=0-3") == 404
        file_that_is_sent_to(team, other)
        assert status(other) == 200

    def test_a_browser_keeps_its_cookie_which_no_script_reads(self, team: App):
        answer = httpx2.get(f"{team.url}/_stcore/health")
        assert "HttpOnly; SameSite=Lax" in answer.headers.get_list("Set-Cookie")[-1]
        again = httpx2.get(f"{team.url}/_stcore/health", headers={"Cookie": browser_of(team)})
        assert "phi3kit_browser" not in again.headers.get("Set-Cookie", "")

    def test_streamlits_own_fonts_are_everybodys(self, team: App):
        fonts = [path.name for path in (Path(st.__file__).parent / "static/static/media").glob("*.woff2")]
        assert any(name.startswith("MaterialSymbols") for name in fonts)
        for name in fonts:
            assert httpx2.get(f"{team.url}/static/media/{name}").status_code == 200, name

    @pytest.mark.parametrize(
        "path",
        [
            "/media/",
            "/media/x",
            f"/static/media/{'0' * 64}.png",
            "/media/../media/0",
            "/media/%2e%2e/a",
            f"/media/{'0' * 64}.png",
        ],
    )
    def test_an_address_that_nobody_was_sent_is_no_file(self, team: App, path: str):
        assert httpx2.get(team.url + path, headers={"Cookie": browser_of(team)}).status_code in (400, 404)


class TestEveryProfile:
    """The same before each profile's pages, without a process: what surrounds them is made of settings."""

    def answers(self, headers: dict[str, str], *paths: str) -> list[httpx2.Response]:
        async def ok(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("a page")(scope, receive, send)

        async def ask() -> list[httpx2.Response]:
            app = Starlette(routes=[Mount("/", ok)], middleware=web.middleware())
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:2") as client:
                return [await client.get(path, headers=headers) for path in paths]

        return asyncio.run(ask())

    @pytest.mark.parametrize("profile", PROFILES)
    def test_other_sites_pages_are_refused(self, profile: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PHI3KIT_PROFILE", profile)
        for how, headers in FROM_ELSEWHERE.items():
            # In public a page of any name is let in, as every stranger is.
            expected = 200 if profile == "public" and "Host" in headers else 403
            sent = {name: value.format(port=2) for name, value in headers.items()}
            assert (how, [each.status_code for each in self.answers(sent, "/", "/access")]) == (how, [expected] * 2)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_a_page_of_this_machine_is_answered_and_its_headers_hold(
        self, profile: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("PHI3KIT_PROFILE", profile)
        page, media, logout = self.answers({}, "/", f"/media/{'0' * 32}.csv", "/auth/logout")
        assert [page.status_code, media.status_code, logout.status_code] == [200, 404, 403]
        for each in (page, media, logout):
            framing = re.search(r"frame-ancestors [^;]+", each.headers["Content-Security-Policy"])
            assert framing is not None
            assert ("'none'" in framing[0]) == (profile != "public")
            assert "*" not in framing[0].replace("https://*.streamlit.app", "")

    def test_settings_that_cannot_be_read_open_nothing(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PHI3KIT_HOST_NAMES", "https://wrong.example")
        assert [each.status_code for each in self.answers({"Host": "wrong.example"}, "/")] == [403]
        assert [each.status_code for each in self.answers({}, "/")] == [200]

    @pytest.mark.parametrize("profile", PROFILES)
    def test_no_path_has_a_line_end_that_a_router_might_pass_over(self, profile: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PHI3KIT_PROFILE", profile)
        paths = ("/auth/logout%0a", "/auth/logout%0D", "/%00", "/a%1f", "/%7f", "/%c2%85", "/media/a%0a")
        assert [each.status_code for each in self.answers({}, *paths)] == [400] * len(paths)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_streamlits_figures_and_its_interface_for_agents_are_not_served(
        self, profile: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("PHI3KIT_PROFILE", profile)
        paths = ("/_stcore/metrics", "/_stcore/metrics/", "/_stcore/agent/mcp", "/_stcore/agent/openapi.json")
        assert [each.status_code for each in self.answers({}, *paths)] == [404] * len(paths)

    def test_a_cookie_that_came_by_tls_goes_by_tls_alone(self):
        for headers, expected in (({}, False), ({"Referer": "https://127.0.0.1:2/"}, True)):
            (answer,) = self.answers(headers, "/_stcore/health")
            assert ("; Secure" in answer.headers["Set-Cookie"]) == expected


SOCKET = "ws://127.0.0.1:2/_stcore/stream"


def surrounded(streamlit: ASGIApp) -> TestClient:
    """What stands for Streamlit, behind what surrounds it in the app."""
    app = Starlette(routes=[Mount("/", streamlit)], middleware=web.middleware())
    return TestClient(app, base_url="http://127.0.0.1:2")


def back_message(**fields: Any) -> bytes:
    return BackMsg(**fields).SerializeToString()


LISTED = [
    back_message(rerun_script={"query_string": "a=b"}),
    back_message(rerun_script={"fragment_id": "1", "is_auto_rerun": True}),
    back_message(stop_script=True),
    back_message(app_heartbeat=True),
    back_message(file_urls_request={"file_names": ["a.csv"]}),
    back_message(backend_operation_request={"deferred_file": {"file_id": "1"}}),
    back_message(backend_operation_request={"dataframe_chunk": {}}),
]


class TestMessages:
    """What a browser sends over the socket, and what Streamlit gets of it."""

    def got(self, sent: bytes | str) -> Message:
        """What Streamlit gets; it answers late, also to a socket that is closed."""
        got: list[Message] = []

        async def streamlit(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            got.append(await receive())
            await send({"type": "websocket.send", "bytes": b"late"})

        with surrounded(streamlit).websocket_connect(SOCKET) as socket:
            socket.send_bytes(sent) if isinstance(sent, bytes) else socket.send_text(sent)
            last = socket.receive()
        assert last["type"] == ("websocket.send" if got[0]["type"] == "websocket.receive" else "websocket.close")
        return got[0]

    @pytest.mark.parametrize("sent", LISTED)
    def test_what_pages_need_is_passed_on(self, sent: bytes):
        assert self.got(sent)["bytes"] == sent

    @pytest.mark.parametrize("sent", [
        back_message(clear_cache=True),
        back_message(set_run_on_save=True),
        back_message(load_git_info=True),
        back_message(debug_shutdown_runtime=True),
        back_message(debug_disconnect_websocket=True),
        back_message(backend_operation_request={"install_skills": {}}),
        back_message(backend_operation_request={"dismiss_skills_nudge": {}}),
        back_message(backend_operation_request={}),
        back_message(rerun_script={}) + back_message(clear_cache=True),
        back_message(rerun_script={"widget_states": {"widgets": [{"id": "a"}] * 2_001}}),
        b"", b"\xff\xff", b"\xa2\x06\x00", "text",
    ])  # fmt: skip
    def test_all_else_closes_the_socket(self, sent: bytes | str):
        assert self.got(sent) == {"type": "websocket.disconnect", "code": 1008}

    def test_a_message_that_is_too_big_is_not_read_at_all(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(web, "BackMsg", lambda: pytest.fail("it was read"))
        assert self.got(b"\x5a" * 200_000_001) == {"type": "websocket.disconnect", "code": 1009}

    def test_who_has_not_signed_in_sends_little(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        sent = back_message(rerun_script={"query_string": "a" * 70_000})
        assert self.got(sent)["bytes"] == sent
        monkeypatch.setenv("PHI3KIT_PROFILE", "team")
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        assert self.got(sent) == {"type": "websocket.disconnect", "code": 1009}

    def test_a_tab_sends_and_keeps_two_megabytes_at_most(self):
        server = tomllib.loads((PROJECT_ROOT / ".streamlit" / "config.toml").read_text())["server"]
        assert (server["maxWidgetStateSize"], server["maxMessageSize"]) == (2, 50)


class TestSentFiles:
    """Which fields of Streamlit's messages make a file somebody's, without a process."""

    FILE, OTHER = "a" * 56, "b" * 56

    @pytest.fixture
    def client(self) -> TestClient:
        """A server that sends what a test puts into its state, and gives out every file."""

        async def streamlit(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await PlainTextResponse("a file")(scope, receive, send)
                return
            await receive()
            await send({"type": "websocket.accept"})
            for each in to_send:
                await send({"type": "websocket.send", "bytes": each.SerializeToString()})
            await receive()

        to_send: list[ForwardMsg] = []
        client = surrounded(streamlit)
        client.app_state["to_send"] = to_send
        return client

    def send(self, client: TestClient, browser: str, *messages: ForwardMsg) -> None:
        to_send = client.app_state["to_send"]
        to_send[:] = messages
        headers = {"Cookie": f"phi3kit_browser={browser * 32}"}
        with client.websocket_connect(SOCKET, headers=headers) as socket:
            for _ in messages:
                socket.receive()

    def status(self, client: TestClient, browser: str, file: str = FILE) -> int:
        return client.get(f"/media/{file}.csv", headers={"Cookie": f"phi3kit_browser={browser * 32}"}).status_code

    @pytest.mark.parametrize("field", [
        "delta.new_element.download_button.url", "logo.image", "logo.icon_image", "page_config_changed.favicon",
        "backend_operation_response.deferred_file.url", "delta.add_block.chat_message.avatar",
    ])  # fmt: skip
    def test_a_field_for_addresses_does(self, client: TestClient, field: str):
        self.send(client, "m", message_with(field, f"/media/{self.FILE}.csv"))
        assert [self.status(client, "m"), self.status(client, "m", self.OTHER), self.status(client, "n")] == [
            200,
            404,
            404,
        ]

    @pytest.mark.parametrize("field", [
        "new_session.page_script_hash", "new_session.main_script_path", "delta.new_element.markdown.body",
        "delta.new_element.text_input.default", "delta.new_element.link_button.url", "page_not_found.page_name",
    ])  # fmt: skip
    def test_what_repeats_a_browsers_words_does_not(self, client: TestClient, field: str):
        self.send(client, "m", message_with(field, f"/media/{self.FILE}.csv"))
        assert self.status(client, "m") == 404

    def test_nobody_makes_the_server_forget_what_others_were_sent(self, client: TestClient):
        button = "delta.new_element.download_button.url"
        self.send(client, "m", message_with(button, f"/media/{self.FILE}.csv"))
        many = "".join(f"/media/{number:016x}." for number in range(20_100))
        self.send(client, "n", message_with("new_session.page_script_hash", many))
        self.send(client, "n", *(message_with(button, f"/media/{number:016x}.csv") for number in range(1_100)))
        assert self.status(client, "m") == 200
        assert [self.status(client, "n", f"{number:016x}") for number in (0, 1_099)] == [404, 200]


def message_with(field: str, value: str) -> ForwardMsg:
    message = part = ForwardMsg()
    *path, last = field.split(".")
    for each in path:
        part = getattr(part, each)
    setattr(part, last, value)
    return message


class TestEndedSignIns:
    """What a tab that was opened while somebody was signed in may do when the sign-in has ended."""

    @pytest.fixture(autouse=True)
    def _team(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("PHI3KIT_PROFILE", "team")
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        self.now = 1_000.0
        monkeypatch.setattr(visitors.time, "time", lambda: self.now)
        yield
        visitors.forget()

    def headers(self, **claims: Any) -> dict[str, str]:
        """A browser's, with the cookie of somebody who signed in until 2,000 s."""
        claims = {"is_logged_in": True, "iss": "https://id.example", "sub": "bob", "exp": 2_000.0, **claims}
        value = create_signed_value(get_cookie_secret(), "_streamlit_user", json.dumps(claims)).decode()
        return {"Cookie": f"_streamlit_user={value}; phi3kit_browser={'m' * 32}"}

    def client(self) -> TestClient:
        """A Streamlit that notes what it gets and sends a file's address for each message."""

        async def streamlit(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await PlainTextResponse("a file")(scope, receive, send)
                return
            protocols.append(dict(scope["headers"]).get(b"sec-websocket-protocol", b"").decode())
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                got.append(message["bytes"])
                address = message_with("backend_operation_response.deferred_file.url", f"/media/{'a' * 56}.csv")
                await send({"type": "websocket.send", "bytes": address.SerializeToString()})

        client = surrounded(streamlit)
        client.app_state |= {"got": (got := []), "protocols": (protocols := [])}
        return client

    @pytest.mark.parametrize("sent", LISTED)
    def test_no_message_is_passed_on_and_the_socket_closes(self, sent: bytes):
        client = self.client()
        with client.websocket_connect(SOCKET, headers=self.headers()) as tab:
            tab.send_bytes(sent)
            assert tab.receive()["type"] == "websocket.send"
            self.now = 2_000.0
            tab.send_bytes(sent)
            assert ForwardMsg.FromString(tab.receive_bytes()).auth_redirect.url == "./"
            assert tab.receive() == {"type": "websocket.close", "code": 1008}
        assert client.app_state["got"] == [sent]

    @pytest.mark.parametrize("path", ["/auth/logout", "/base/auth/logout"])
    def test_a_kept_cookie_opens_nothing_after_streamlits_own_sign_out(self, path: str, tmp_path: Path):
        client, headers = self.client(), self.headers()
        own_click = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        with client.websocket_connect(SOCKET, headers=headers) as tab:
            assert client.get(path, headers=headers | own_click).status_code == 200
            tab.send_bytes(back_message(app_heartbeat=True))
            assert ForwardMsg.FromString(tab.receive_bytes()).auth_redirect.url == "./"
        visitors.forget()  # as another app, which reads what was written
        named = {"Sec-WebSocket-Protocol": "streamlit, token, session"}
        with client.websocket_connect(SOCKET, headers=headers | named) as tab:
            tab.send_bytes(back_message(app_heartbeat=True))
            tab.receive()
        assert client.app_state["protocols"][-1] == "streamlit, token"

    def test_no_file_is_given_that_was_sent_before(self):
        client, headers = self.client(), self.headers()
        with client.websocket_connect(SOCKET, headers=headers) as tab:
            tab.send_bytes(back_message(app_heartbeat=True))
            tab.receive()
            file = f"/media/{'a' * 56}.csv"
            assert client.get(file, headers=headers).status_code == 200
            self.now = 2_000.0
            assert client.get(file, headers=headers).status_code == 404
        with client.websocket_connect(SOCKET, headers=headers) as door:  # whose own images open
            door.send_bytes(back_message(app_heartbeat=True))
            door.receive()
            assert client.get(file, headers=headers).status_code == 200

    def test_a_tab_that_comes_back_goes_on_with_its_session_while_the_sign_in_counts_alone(self):
        client, named = self.client(), {"Sec-WebSocket-Protocol": "streamlit, token, session"}
        for now in (1_999.0, 2_000.0):
            self.now = now
            with client.websocket_connect(SOCKET, headers=self.headers() | named) as tab:
                tab.send_bytes(back_message(app_heartbeat=True))  # by which the door is drawn, and signs in
                assert tab.receive()["type"] == "websocket.send"
        assert client.app_state["protocols"] == ["streamlit, token, session", "streamlit, token"]

    def test_another_app_on_the_data_folder_ends_it_within_a_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        clock = 5.0
        monkeypatch.setattr(visitors.time, "monotonic", lambda: clock)
        client, sent = self.client(), back_message(app_heartbeat=True)
        with client.websocket_connect(SOCKET, headers=self.headers()) as tab:
            claims = visitors.claims_of_cookies({"_streamlit_user": self.headers()["Cookie"].split(";")[0][16:]})
            People(tmp_path).end_sign_in(visitors._key(claims), 9_000.0)  # as the other process does
            clock += 1.0
            tab.send_bytes(sent)
            assert ForwardMsg.FromString(tab.receive_bytes()).auth_redirect.url == "./"
        assert client.app_state["got"] == []

    def test_nobody_is_inside_while_it_cannot_be_known_who_left(self, tmp_path: Path):
        (tmp_path / "people.db").write_bytes(b"no database" * 100)
        client = self.client()
        with client.websocket_connect(SOCKET, headers=self.headers() | {"Sec-WebSocket-Protocol": "a, b, c"}):
            pass
        assert client.app_state["protocols"] == ["a, b"]

    def test_elsewhere_nobody_signs_in_and_no_cookie_is_asked(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PHI3KIT_PROFILE", "public")
        client = self.client()
        headers = self.headers() | {"Sec-WebSocket-Protocol": "streamlit, token, session"}
        with client.websocket_connect(SOCKET, headers=headers) as tab:
            self.now = 2_000.0
            tab.send_bytes(back_message(app_heartbeat=True))
            assert tab.receive()["type"] == "websocket.send"
        assert client.app_state["protocols"] == ["streamlit, token, session"]


class TestUploads:
    """Who may upload, and that nobody keeps others from it."""

    @pytest.fixture(autouse=True)
    def _runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Streamlit's sessions: of a user, of somebody without a role, and of somebody who has not signed in."""
        signed_in = {"is_logged_in": True, "iss": "https://id.example", "exp": 4e9}
        people = {"bob": {**signed_in, "sub": "bob"}, "nemo": {**signed_in, "sub": "nemo"}, "nobody": {}}
        sessions = {name: SimpleNamespace(_user_info=each) for name, each in people.items()}
        manager = MemoryUploadedFileManager("/_stcore/upload_file")
        runtime = SimpleNamespace(uploaded_file_mgr=manager, get_app_session=sessions.get)
        monkeypatch.setattr(web, "get_instance", lambda: runtime)
        monkeypatch.setenv("PHI3KIT_PROFILE", "team")
        monkeypatch.setenv("PHI3KIT_USERS", "sub:https://id.example#bob")

    async def put(self, app: ASGIApp, place: str, body: list[bytes], cookie: str = "", method: str = "PUT") -> int:
        """The status; a body that is never whole leaves it open."""
        parts, status = list(body), 0

        async def receive() -> Message:
            if not parts:
                await asyncio.Event().wait()
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": not part}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        headers = [(b"host", b"127.0.0.1:2"), (b"content-length", b"150000000"), (b"cookie", cookie.encode())]
        path = f"/_stcore/upload_file/{place}"
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": headers,
            "scheme": "http",
            "query_string": b"",
        }
        await app(scope, receive, send)
        return status

    def app(self) -> ASGIApp:
        async def streamlit(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
            code = 204 if message["type"] == "http.request" else 499
            await PlainTextResponse("", code)(scope, receive, send)

        return Starlette(routes=[Mount("/", streamlit)], middleware=web.middleware())

    def cookie(self, who: str) -> str:
        claims = {"is_logged_in": True, "iss": "https://id.example", "sub": who, "exp": 4e9}
        return f"_streamlit_user={create_signed_value(get_cookie_secret(), '_streamlit_user', json.dumps(claims)).decode()}"

    def test_only_people_with_a_role_into_their_own_sessions(self):
        app = self.app()
        tabs = ("bob", "nemo", "nobody", "unknown")
        assert [asyncio.run(self.put(app, f"{tab}/1", [b"x"], self.cookie(tab))) for tab in tabs] == [
            204,
            403,
            403,
            403,
        ]
        for method in ("PUT", "DELETE"):
            found = [asyncio.run(self.put(app, "bob/1", [b"x"], each, method)) for each in ("", self.cookie("nemo"))]
            assert found == [403, 403]
        assert asyncio.run(self.put(app, "bob/1", [b"x"], self.cookie("bob"), "DELETE")) == 204

    def test_what_is_promised_and_does_not_come_keeps_nobody_out(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PHI3KIT_PROFILE", "public")

        async def beside_many_that_wait() -> int:
            app = self.app()
            waiting = [asyncio.create_task(self.put(app, f"{number // 2}/{number}", [])) for number in range(40)]
            await asyncio.sleep(0)
            status = await self.put(app, "mine/1", [b"x"])
            for each in waiting:
                each.cancel()
            return status

        monkeypatch.setenv("PHI3KIT_UPLOAD_MB", "160")
        assert asyncio.run(beside_many_that_wait()) == 204

    def test_a_body_that_does_not_come_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(web, "_BODY_S", 0.01, raising=False)
        assert asyncio.run(asyncio.wait_for(self.put(self.app(), "bob/1", [b""], self.cookie("bob")), 10)) == 499


class TestSplitSignIns:
    """A sign-in that is too big for one cookie, and its pieces among those of another."""

    @pytest.fixture
    def client(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
        """A Streamlit that signs in who asks with a name, and says who else asks."""
        monkeypatch.setenv("PHI3KIT_PROFILE", "team")
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))

        async def streamlit(scope: Scope, receive: Receive, send: Send) -> None:
            claims = visitors.claims_of_cookies(HTTPConnection(scope).cookies)
            response = PlainTextResponse(str(claims.get("sub", "nobody")))
            if sub := HTTPConnection(scope).query_params.get("sub"):
                more = int(HTTPConnection(scope).query_params["more"])
                filler = {"groups": base64.b85encode(random.Random(sub).randbytes(more)).decode()}
                await _set_auth_cookie(response, {"is_logged_in": True, **filler, "sub": sub, "exp": 4e9}, {})
            await response(scope, receive, send)

        return surrounded(streamlit)

    def signed_in(self, client: TestClient, sub: str, more: int) -> dict[str, str]:
        """The browser's cookies."""
        client.cookies.clear()
        client.get(f"/oauth2callback?sub={sub}&more={more}")
        found = dict(client.cookies.items())
        client.cookies.clear()
        return found

    def who(self, client: TestClient, cookies: dict[str, str]) -> str:
        header = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return str(client.get("/", headers={b"Cookie": header.encode("latin-1")}).text)

    @pytest.mark.parametrize("more", [0, 3_000, 9_000])
    def test_count_whole(self, client: TestClient, more: int):
        assert self.who(client, self.signed_in(client, "bob", more)) == "bob"

    def test_count_in_no_other_sign_in(self, client: TestClient):
        bob, eve = self.signed_in(client, "bob", 9_000), self.signed_in(client, "eve", 9_000)
        names = sorted(name for name in bob if re.fullmatch(r"_streamlit_user_\d+", name))
        assert len(names) > 2
        for name in names:
            assert self.who(client, {**eve, name: bob[name]}) == "nobody"
        assert self.who(client, {**bob, "phi3kit_sign_in": eve["phi3kit_sign_in"]}) == "nobody"
        assert self.who(client, {**bob, "phi3kit_sign_in": "\xe9"}) == "nobody"
        del bob["phi3kit_sign_in"]
        assert self.who(client, bob) == "nobody"

    def test_come_in_no_other_cookies_value(self, client: TestClient):
        bob = self.signed_in(client, "bob", 9_000)
        hidden = "\\073 ".join(f"{name}={value}" for name, value in bob.items() if name != "phi3kit_sign_in")
        del bob["phi3kit_sign_in"]
        assert self.who(client, {**bob, "x": f'"a\\073 {hidden}"'}) == "nobody"


class TestStreamlitsCaches:
    """What one message of a browser would clear."""

    def test_they_hold_nothing_that_everybody_needs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        closed: list[str] = []
        monkeypatch.setattr(resources.WorkerPool, "close", lambda pool: closed.append("workers"))
        new_store(tmp_path)
        with app_on(tmp_path):
            kit = resources.kit()
            st.cache_resource.clear()
            assert (resources.kit() is kit, closed) == (True, [])
        assert closed == ["workers"]

    def test_an_ended_sign_in_stays_ended_when_they_are_cleared_and_when_the_app_is_started_again(self, tmp_path: Path):
        new_store(tmp_path)
        with app_on(tmp_path, **TEAM):
            click(page_of("bob", "home", iat=1), "Sign out")
            assert "Your session has ended" in words(page_of("bob", "home", iat=1))
            st.cache_resource.clear()
            assert "Your session has ended" in words(page_of("bob", "home", iat=1))
            assert "Your session has ended" not in words(page_of("bob", "home", iat=2))
        with app_on(tmp_path, **TEAM):
            assert "Your session has ended" in words(page_of("bob", "home", iat=1))
