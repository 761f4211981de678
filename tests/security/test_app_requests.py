"""Requests to the app: no other site's page reaches it, signs anybody out, frames it, or opens somebody's files."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from phi3kit.core.profiles import PROFILES
from phi3kit.deployment.servers import free_port
from phi3kit.ui.shared import web
from tests.security.test_same_origin import FROM_ELSEWHERE
from tests.support.in_browser import App, running_app

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
            part = socket.recv(timeout=60)
            if found := re.search(rb"/media/[0-9a-f]+\.\w+", part if isinstance(part, bytes) else part.encode()):
                return found[0].decode()


def browser_of(app: App) -> str:
    """The cookie of a new browser."""
    return f"phi3kit_browser={httpx2.get(f'{app.url}/_stcore/health').cookies['phi3kit_browser']}"


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
    ], ids=str)  # fmt: skip
    def test_no_link_of_elsewhere_signs_anybody_out(self, team: App, headers: dict[str, str]):
        answer = self.sign_out(team, **headers)
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)

    def test_a_click_within_the_app_does(self, team: App):
        for headers in ({"Sec_Fetch_Site": "same-origin"}, {"Referer": f"{team.url}/access"}):
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

    @pytest.mark.parametrize(
        "path", ["/media/", "/media/x", "/media/../media/0", "/media/%2e%2e/a", f"/media/{'0' * 64}.png"]
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
