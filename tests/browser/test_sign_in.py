"""Sign-in: the app of a team, and a real OpenID Connect provider beside it.

What a provider's people may do and see, how they leave, and what does not let anybody in. In chromium is what a page draws
and keeps; for the rest somebody speaks with the app as a browser does.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from websockets.exceptions import ConnectionClosed

from phi3kit.deployment.servers import free_port
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.registry import list_registered, register
from tests.conftest import Built, settings_for
from tests.support.actors import ADMIN
from tests.support.in_browser import App, go, idle, main_text, needs_browser, running_app, send, tab_on, wait_for_text
from tests.support.oidc_provider import Running, running_provider
from tests.support.samples import copy_of_store
from tests.support.visitor import Shown, Tab, Visitor
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
    """The app and its provider."""

    app: App
    provider: Running

    @contextmanager
    def visitor(self, headers: dict[str, str] | None = None, cookie: str = "") -> Iterator[Visitor]:
        """Somebody who draws nothing. cookie: the value of the one that says who is signed in."""
        with Visitor(self.app.url, headers) as visitor:
            if cookie:
                visitor.http.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
            yield visitor


@pytest.fixture(scope="module")
def team(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team")
    copy_of_store(built.settings, home)
    port = free_port()
    callback = f"http://127.0.0.1:{port}/oauth2callback"
    with running_provider(callback, PEOPLE) as provider:
        file = tmp_path_factory.mktemp("secrets") / "secrets.toml"
        file.write_text(provider.secrets_toml(callback))
        roles = ROLES | {"PHI3KIT_VIEWERS": f"sub:{provider.url}#4"}
        with running_app(home, port=port, options=["--secrets.files", str(file)], **roles) as app:
            yield Team(app, provider)


@pytest.fixture(scope="module")
def page(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    """One browser for everybody, one after the other, with a tab on the app."""
    with tab_on(team.app.url, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def sign_in(page: "Page", person: str) -> None:
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="Who are you?").wait_for()
    page.get_by_role("button", name=person, exact=True).click()
    page.get_by_role("button", name="Sign out").wait_for()
    idle(page)


def assert_outside_in(page: "Page", words: str) -> None:
    wait_for_text(page, words)
    idle(page)
    assert page.get_by_test_id("stSidebarNav").count() == 0
    assert page.get_by_role("button", name="Sign out").count() == 0


def is_outside(shown: Shown, words: str = "Sign in to use it") -> bool:
    """Whether the page to sign in is all that is shown, with these words."""
    return (
        words in shown.text
        and shown.labels("button") == ["Sign in"]
        and [kind for kind, _ in shown.elements] == ["heading", "markdown", "button"]
    )


def cookie_of(page: "Page") -> Any:
    return next(each for each in page.context.cookies() if each["name"] == COOKIE)


class TestRoles:
    def test_before_signing_in_every_address_shows_the_sign_in_page_only(self, team: Team):
        with team.visitor() as visitor:
            for path in ("", "chat", "access", "models", "usage"):
                assert is_outside(visitor.open(path)), path

    def test_a_users_role_may_come_from_a_claim_and_does_not_administer(self, team: Team):
        with team.visitor() as visitor:
            assert "sub:3 · user" in visitor.sign_in("bea").text
            text = visitor.open("access").text
            assert "Usage by user" not in text
            assert "change what belongs to others" in text.partition("Not allowed:")[2]

    def test_a_viewer_asks_nothing_and_makes_no_key(self, team: Team):
        with team.visitor() as visitor:
            assert "sub:4 · viewer" in visitor.sign_in("vera").text
            for name in ("chat", "compare"):
                shown = visitor.open(name)
                assert "Your role is viewer; this needs user." in shown.text
                assert [each.disabled for kind, each in shown.elements if kind == "chat_input"] == [True]
            shown = visitor.open("prompt")
            assert "Your role is viewer; this needs user." in shown.text
            assert "Send" not in shown.labels("button")
            shown = visitor.open("access")
            assert "You may not create or revoke API keys here." in shown.text
            assert "Create a key" not in shown.labels("button")

    def test_who_is_on_no_list_is_told_the_name_that_was_seen(self, team: Team):
        with team.visitor() as visitor:
            for shown in (visitor.sign_in("nemo"), visitor.open("models")):
                assert "You do not have access yet." in shown.text
                assert f"nemo@{LAB}" in shown.text
                assert shown.labels("button") == ["Sign out"]

    @pytest.mark.parametrize(
        ("person", "subject"),
        [("unverified", "mallory-7"), ("not said", "7"), ("null", f"ada@{LAB}"), ("no", "8"), ("zero", "9")],
    )
    def test_an_address_that_was_not_verified_gives_nobodys_rights(self, team: Team, person: str, subject: str):
        with team.visitor() as visitor:
            shown = visitor.sign_in(person)
            assert "You do not have access yet." in shown.text
            (entries,) = (each.code_text for kind, each in shown.elements if kind == "code")
            assert f"sub:{team.provider.url}#{subject}" in entries


@pytest.mark.browser
@needs_browser[1]
class TestInABrowser:
    """In this order: bob comes, asks and leaves; then ada comes."""

    def test_1_ones_conversation_is_not_seen_by_another_also_by_its_link(self, team: Team, page: "Page"):
        assert_outside_in(page, "Sign in to use it")
        sign_in(page, "bob")
        go(page, "Chat")
        send(page, "What is the capital of Spain?")
        wait_for_text(page, "The capital of Spain is Madrid.")
        idle(page)
        page.wait_for_url(re.compile("conversation="))
        page.reload()
        wait_for_text(page, "The capital of Spain is Madrid.")
        query = page.url.partition("?")[2]
        bobs = cookie_of(page)["value"]
        with team.visitor(cookie=bobs) as visitor:
            assert "Madrid" in visitor.open("chat", query).text
        for other in ("bea", "ada"):
            with team.visitor() as visitor:
                visitor.sign_in(other)
                shown = visitor.open("chat", query)
                assert "The conversation in this link does not exist" in shown.text
                assert "Madrid" not in shown.text

    def test_2_signing_out_ends_it_here_in_the_other_tab_and_for_a_kept_cookie(self, team: Team, page: "Page"):
        kept = cookie_of(page)
        assert (kept["httpOnly"], kept["sameSite"]) == (True, "Lax")
        other = page.context.new_page()
        other.goto(f"{team.app.url}/access")
        other.get_by_role("heading", name="Access", exact=True, level=1).wait_for()
        idle(other)
        page.get_by_role("button", name="Sign out").click()
        assert_outside_in(page, "Sign in to use it")
        assert not [each for each in page.context.cookies() if each["name"] == COOKIE]
        other.get_by_test_id("stSidebarNav").get_by_role("link", name="Models", exact=True).click()
        assert_outside_in(other, "Sign in to use it")  # it comes back without the cookie
        other.close()
        with team.visitor(cookie=kept["value"]) as visitor:
            assert is_outside(visitor.open(), "Your session has ended")
            assert f"bob@{LAB} · user" in visitor.sign_in("bob").text  # and the same person comes in again

    def test_3_an_admin_sees_everybodys_keys_and_use(self, page: "Page"):
        sign_in(page, "ada")
        assert f"ada@{LAB} · admin" in str(page.get_by_test_id("stSidebar").inner_text())
        go(page, "Access")
        wait_for_text(page, "Keys of all users")
        text = main_text(page)
        assert ("Usage by user" in text, "Not allowed:" in text) == (True, False), text


class TestLeaving:
    def test_a_session_that_has_run_out_must_sign_in_again(self, team: Team):
        with team.visitor() as visitor:
            assert "· admin" in visitor.sign_in("brief").text
            with visitor.tab() as tab:

                def ended(tab: Tab = tab) -> bool:  # its eight seconds are over
                    try:
                        tab.open("models")
                    except ConnectionClosed:
                        return True
                    return False

                wait_for("the session's end", ended)
                session = tab.session
            with visitor.tab(session) as tab:  # as a browser comes back
                assert is_outside(tab.open("usage"), "Your session has ended")

    def test_a_tab_that_is_still_open_acts_no_more_after_signing_out_in_another(self, team: Team):
        settings = settings_for(team.app.home)
        uri = list_models(settings)[0].model_uri
        register(uri, "prod", ADMIN, settings)
        with team.visitor() as visitor:
            visitor.sign_in("ada")
            with visitor.tab() as one, visitor.tab() as other:

                def shows(tab: Tab = other) -> bool:  # lists of the store are a few seconds old
                    return "Make champion" in tab.open("models", "models_view=Registered").labels("button")

                wait_for("the version", shows)
                one.open()
                one.click("Sign out")
                with pytest.raises(ConnectionClosed):
                    other.click("Make champion")
            with visitor.tab(other.session) as again:
                assert is_outside(again.open("models"), "Your session has ended")
        assert [version.aliases for each in list_registered(settings) for version in each.versions] == [()]


class TestAttacks:
    @pytest.mark.parametrize(
        "person",
        ["other key", "no signature", "public key as secret", "other app", "other issuer", "other nonce", "run out"],
    )
    def test_a_token_that_is_not_the_providers_word_for_this_app_signs_nobody_in(self, team: Team, person: str):
        with team.visitor() as visitor:
            assert is_outside(visitor.sign_in(person))
            assert visitor.cookie(COOKIE) is None

    def test_an_edited_or_forged_cookie_signs_nobody_in(self, team: Team):
        with team.visitor() as visitor:
            visitor.sign_in("bob")
            real = visitor.cookie(COOKIE)
        assert real is not None
        claims = json.dumps(PEOPLE["ada"] | {"is_logged_in": True, "origin": team.app.url, "provider": "default"})
        payload, *signature = real.strip('"').rsplit(".", 2)
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
            with team.visitor(cookie=value) as visitor:
                assert is_outside(visitor.open()), how
        with team.visitor(cookie=real) as visitor:  # so that this test would see a cookie that counts
            assert visitor.open().labels("button")[0] == "Sign out"

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
        with team.visitor(headers) as visitor:
            assert is_outside(visitor.open())

    def test_a_way_back_that_the_provider_did_not_begin_signs_nobody_in(self, team: Team):
        with team.visitor() as visitor:
            visitor.sign_in("bob")
            (callback,) = visitor.ways_back
        for address in (
            callback,
            re.sub(r"code=[^&]+", "code=guess", callback),
            f"{team.app.url}/oauth2callback?code=a&state=b",
            f"{team.app.url}/auth/login?provider=x",
        ):
            with team.visitor() as visitor:
                visitor.http.get(address)
                assert is_outside(visitor.open()), address
