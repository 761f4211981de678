"""Sign-in in headless chromium: the app of a team, and a real OpenID Connect provider beside it.

What a provider's people may do and see, how they leave, and what does not let anybody in.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

from phi3kit.deployment.servers import free_port
from tests.conftest import Built
from tests.support.in_browser import (
    CHROMIUM,
    FLAGS,
    App,
    go,
    idle,
    main_text,
    needs_browser,
    running_app,
    send,
    watch_runs,
)
from tests.support.oidc_provider import Running, running_provider
from tests.support.samples import copy_of_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = needs_browser

COOKIE = "_streamlit_user"
LAB = "lab.example"
PEOPLE: dict[str, Any] = {
    "ada": {"sub": "1", "email": f"Ada@{LAB}", "email_verified": True},
    "bob": {"sub": "2", "email": f"bob@{LAB}", "email_verified": True},
    "bea": {"sub": "3", "preferred_username": "bea", "groups": ["staff", "phi3kit-user"]},
    "vera": {"sub": "4", "preferred_username": "vera"},
    "nemo": {"sub": "5", "email": f"nemo@{LAB}", "email_verified": True, "groups": ["staff"]},
    "brief": {"sub": "6", "email": f"ada@{LAB}", "email_verified": True, "_lifetime_s": 8},
    # Nobody of these is who they say.
    "not said": {"sub": "7", "email": f"ada@{LAB}", "preferred_username": f"ada@{LAB}"},
    "null": {"sub": f"ada@{LAB}", "email": f"ada@{LAB}", "email_verified": None},
    "no": {"sub": "8", "email": f"ada@{LAB}", "email_verified": "no", "name": f"ada@{LAB}"},
    "zero": {"sub": "9", "email": f"ada@{LAB}", "email_verified": 0, "groups": [f"email:ada@{LAB}", f"ada@{LAB}"]},
    "unverified": {"sub": "mallory-7", "email": f"ada@{LAB}", "email_verified": False, "preferred_username": "vera"},
    "other key": {"sub": "8", "email": f"ada@{LAB}", "email_verified": True, "_key": "other"},
    "no signature": {"sub": "9", "email": f"ada@{LAB}", "email_verified": True, "_key": "none"},
    "public key as secret": {"sub": "10", "email": f"ada@{LAB}", "email_verified": True, "_key": "public"},
    "other app": {"sub": "11", "email": f"ada@{LAB}", "email_verified": True, "aud": "another-app"},
    "other issuer": {"sub": "12", "email": f"ada@{LAB}", "email_verified": True, "iss": "https://evil.example"},
    "other nonce": {"sub": "13", "email": f"ada@{LAB}", "email_verified": True, "nonce": "replayed"},
    "run out": {"sub": "14", "email": f"ada@{LAB}", "email_verified": True, "_lifetime_s": -3600},
}
ROLES = {
    "PHI3KIT_PROFILE": "team", "PHI3KIT_ADMINS": f"ada@{LAB}", "PHI3KIT_USERS": f"email:bob@{LAB}",
    "PHI3KIT_ROLE_CLAIM": "groups",
}  # fmt: skip


@dataclass(frozen=True)
class Team:
    """The app, its provider, and a browser in which each context is somebody else's."""

    app: App
    provider: Running
    browser: "Browser"

    @contextmanager
    def tab(self, **options: Any) -> Iterator["Page"]:
        context: BrowserContext = self.browser.new_context(**options)
        context.set_default_timeout(300_000)
        watch_runs(context)
        page = context.new_page()
        page.goto(self.app.url)
        yield page
        context.close()


@pytest.fixture(scope="module")
def team(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp("team")
    copy_of_store(built.settings, home)
    port = free_port()
    callback = f"http://127.0.0.1:{port}/oauth2callback"
    with running_provider(callback, PEOPLE) as provider:
        secrets = tmp_path_factory.mktemp("secrets") / "secrets.toml"
        secrets.write_text(provider.secrets_toml(callback))
        roles = ROLES | {"PHI3KIT_VIEWERS": f"sub:{provider.url}#4"}
        with (
            running_app(home, port=port, options=["--secrets.files", str(secrets)], **roles) as app,
            sync_playwright() as engine,
        ):
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield Team(app, provider, browser)
            browser.close()


def choose_person(page: "Page", person: str) -> None:
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="Who are you?").wait_for()
    page.get_by_role("button", name=person, exact=True).click()


def sign_in(page: "Page", person: str) -> None:
    choose_person(page, person)
    page.get_by_role("button", name="Sign out").wait_for()
    idle(page)


def assert_outside(page: "Page", words: str = "sign in to use it", why: str = "") -> None:
    page.get_by_text(words).wait_for()
    idle(page)
    assert page.get_by_test_id("stSidebarNav").count() == 0, why
    assert page.get_by_role("button", name="Sign out").count() == 0


def cookie_of(page: "Page") -> Any:
    return next(each for each in page.context.cookies() if each["name"] == COOKIE)


def sidebar(page: "Page") -> str:
    return str(page.get_by_test_id("stSidebar").inner_text())


class TestRoles:
    def test_before_signing_in_every_address_shows_the_sign_in_page_only(self, team: Team):
        with team.tab() as page:
            assert_outside(page)
            for path in ("chat", "access", "models", "usage"):
                page.goto(f"{team.app.url}/{path}")
                assert_outside(page)
                assert page.get_by_role("heading", level=1).inner_text() == "phi3kit"

    def test_an_admin_sees_everybodys_keys_and_use(self, team: Team):
        with team.tab() as page:
            sign_in(page, "ada")
            assert f"ada@{LAB} · admin" in sidebar(page)
            go(page, "Access")
            idle(page)
            page.get_by_text("Everybody's keys").wait_for()
            text = main_text(page)
            assert ("Everybody's use" in text, "Not:" in text) == (True, False), text

    def test_a_users_role_may_come_from_a_claim_and_does_not_administer(self, team: Team):
        with team.tab() as page:
            sign_in(page, "bea")
            assert "sub:3 · user" in sidebar(page)
            go(page, "Access")
            idle(page)
            text = main_text(page)
            assert ("Everybody's use" in text, "change what belongs to others" in text.partition("Not:")[2]) == (
                False,
                True,
            )

    def test_a_viewer_asks_nothing_and_makes_no_key(self, team: Team):
        with team.tab() as page:
            sign_in(page, "vera")
            assert "sub:4 · viewer" in sidebar(page)
            for name in ("Chat", "Compare"):
                go(page, name)
                page.get_by_text("Your role is viewer; it takes user.").wait_for()
                assert page.get_by_test_id("stChatInputTextArea").is_disabled()
            go(page, "Prompt")
            page.get_by_text("Your role is viewer; it takes user.").wait_for()
            assert page.get_by_role("button", name="Send").count() == 0
            go(page, "Access")
            page.get_by_text("You may not make or revoke API keys here.").wait_for()
            assert page.get_by_role("button", name="Create a key").count() == 0

    def test_who_is_on_no_list_is_told_the_name_that_was_seen(self, team: Team):
        with team.tab() as page:
            sign_in(page, "nemo")
            assert "You may not use this app yet." in main_text(page)
            assert f"nemo@{LAB}" in main_text(page)
            assert page.get_by_test_id("stSidebarNav").count() == 0
            page.goto(f"{team.app.url}/models")
            page.get_by_text("You may not use this app yet.").wait_for()

    @pytest.mark.parametrize(
        ("person", "subject"),
        [("unverified", "mallory-7"), ("not said", "7"), ("null", f"ada@{LAB}"), ("no", "8"), ("zero", "9")],
    )
    def test_an_address_that_was_not_verified_gives_nobodys_rights(self, team: Team, person: str, subject: str):
        with team.tab() as page:
            sign_in(page, person)
            assert "You may not use this app yet." in main_text(page)
            page.get_by_test_id("stCode").get_by_text(f"sub:{team.provider.url}#{subject}").wait_for()


class TestConversations:
    def test_ones_conversation_is_not_seen_by_another_also_by_its_link(self, team: Team):
        with team.tab() as page:
            sign_in(page, "bob")
            go(page, "Chat")
            idle(page)
            send(page, "What is the capital of Spain?")
            page.get_by_text("The capital of Spain is Madrid.").wait_for()
            idle(page)
            page.get_by_text("What is the capital of Spain?").first.wait_for()
            page.wait_for_url(re.compile("conversation="))
            link = page.url
            page.goto(link)
            page.get_by_text("The capital of Spain is Madrid.").wait_for()
        for other in ("bea", "ada"):
            with team.tab() as page:
                sign_in(page, other)
                page.goto(link)
                page.get_by_role("heading", name="Chat", exact=True, level=1).wait_for()
                page.get_by_text("The conversation of this link does not exist").wait_for()
                idle(page)
                assert "Madrid" not in page.content()


class TestLeaving:
    def test_signing_out_ends_it_here_in_the_other_tab_and_for_a_kept_cookie(self, team: Team):
        with team.tab() as page:
            sign_in(page, "bob")
            kept = cookie_of(page)
            assert (kept["httpOnly"], kept["sameSite"]) == (True, "Lax")
            other = page.context.new_page()
            other.goto(f"{team.app.url}/access")
            other.get_by_role("heading", name="Access", exact=True, level=1).wait_for()
            idle(other)
            page.get_by_role("button", name="Sign out").click()
            assert_outside(page)
            assert not [each for each in page.context.cookies() if each["name"] == COOKIE]
            other.get_by_test_id("stSidebarNav").get_by_role("link", name="Models", exact=True).click()
            assert_outside(other, "Your session has ended")
            page.context.add_cookies([kept])
            page.goto(team.app.url)
            assert_outside(page, "Your session has ended")
            sign_in(page, "bob")  # and the same person comes in again
            assert f"bob@{LAB} · user" in sidebar(page)

    def test_a_session_that_has_run_out_must_sign_in_again(self, team: Team):
        from playwright.sync_api import TimeoutError as GoneMeanwhile

        with team.tab() as page:
            sign_in(page, "brief")
            assert "· admin" in sidebar(page)
            pages, links = itertools.cycle(["Models", "Usage"]), page.get_by_test_id("stSidebarNav")
            while links.count():  # its eight seconds are not over yet
                with contextlib.suppress(GoneMeanwhile):
                    links.get_by_role("link", name=next(pages), exact=True).click(timeout=5_000)
                idle(page)
            assert_outside(page, "Your session has ended")
            page.reload()
            assert_outside(page, "Your session has ended")


class TestAttacks:
    @pytest.mark.parametrize(
        "person",
        ["other key", "no signature", "public key as secret", "other app", "other issuer", "other nonce", "run out"],
    )
    def test_a_token_that_is_not_the_providers_word_for_this_app_signs_nobody_in(self, team: Team, person: str):
        with team.tab() as page:
            choose_person(page, person)
            assert_outside(page)
            assert not [each for each in page.context.cookies() if each["name"] == COOKIE]

    def test_an_edited_or_forged_cookie_signs_nobody_in(self, team: Team):
        with team.tab() as page:
            sign_in(page, "bob")
            real = cookie_of(page)
        claims = json.dumps(PEOPLE["ada"] | {"is_logged_in": True, "origin": team.app.url, "provider": "default"})
        payload, *signature = str(real["value"]).rsplit(".", 2)
        other_payload = create_signed_value("guess", COOKIE, claims).decode().rsplit(".", 2)[0]
        forged = {
            "edited": ".".join([f"{payload[:-4]}AAAA", *signature]),
            "other claims under a real signature": ".".join([other_payload, *signature]),
            "signed by a guess": create_signed_value("guess", COOKIE, claims).decode(),
            "signed by nothing": create_signed_value("", COOKIE, claims).decode(),
            "for another cookie's name": create_signed_value("guess", "_streamlit_user_tokens", claims).decode(),
            "not signed": claims.encode().hex(),
        }
        for how, value in forged.items():
            with team.tab() as page:
                page.context.add_cookies([real | {"value": value}])
                page.goto(team.app.url)
                assert_outside(page, why=how)
        with team.tab() as page:  # the real one, so that this test would see a cookie that counts
            page.context.add_cookies([real])
            page.goto(team.app.url)
            page.get_by_role("button", name="Sign out").wait_for()

    def test_a_proxys_headers_sign_nobody_in(self, team: Team):
        names = (
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "X-Forwarded-Preferred-Username",
            "Remote-User",
            "X-Auth-Request-Email",
        )
        names += ("X-Streamlit-User", "X-Phi3kit-User", "X-Remote-User", "X-Email")
        headers = dict.fromkeys(names, f"ada@{LAB}") | {"X-Forwarded-Groups": "phi3kit-admin"}
        with team.tab(extra_http_headers=headers) as page:
            assert_outside(page)
        # Chromium may leave them out of the socket by which pages come: there too, byte by byte.
        assert "sign in to use it" in what_a_socket_is_shown(team.app, headers)

    def test_a_way_back_that_the_provider_did_not_begin_signs_nobody_in(self, team: Team):
        with team.tab() as page:
            sign_in(page, "bob")
            used: list[str] = []
        with team.tab() as page:
            page.on("request", lambda request: used.append(request.url) if "/oauth2callback?" in request.url else None)
            sign_in(page, "bob")
        (callback,) = used
        state = re.sub(r"code=[^&]+", "code=guess", callback)
        for address in (
            callback,
            state,
            f"{team.app.url}/oauth2callback?code=a&state=b",
            f"{team.app.url}/auth/login?provider=x",
        ):
            with team.tab() as page:
                page.goto(address)
                assert_outside(page)


def what_a_socket_is_shown(app: App, headers: dict[str, str]) -> str:
    """Everything that the app sends to a client that speaks Streamlit's socket itself."""
    from websockets.sync.client import connect

    address = app.url.replace("http://", "ws://")
    message = BackMsg()
    message.rerun_script.query_string = ""
    shown = b""
    with connect(f"{address}/_stcore/stream", additional_headers=headers, subprotocols=["streamlit"]) as socket:  # type: ignore[list-item]
        socket.send(message.SerializeToString())
        while b"sign in to use it" not in shown and b"Loaded models" not in shown:
            part = socket.recv(timeout=300)
            shown += part if isinstance(part, bytes) else part.encode()
    return shown.decode("utf-8", errors="replace")
