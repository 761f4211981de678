"""The Access page and the door before all pages, through Streamlit's own test runner: who sees, may and makes what."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.access.keys import KeyStore
from phi3kit.access.sign_in_claims import Person
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.usage.outbox import Outbox
from tests.support.in_app import app_on, click, errors, label_of, open_page, read, words
from tests.support.samples import new_store, turn

PAGES = tuple(sorted(path.stem for path in (PROJECT_ROOT / "pages").glob("*.py")))
ISSUER = "https://id.example"
TEAM = {
    "PHI3KIT_PROFILE": "team", "PHI3KIT_ADMINS": f"sub:{ISSUER}#ada", "PHI3KIT_USERS": f"sub:{ISSUER}#bob",
    "PHI3KIT_VIEWERS": f"sub:{ISSUER}#vera",
}  # fmt: skip
BOB = Person(ISSUER, "bob", None, ()).name
AUTH = {
    "redirect_uri": "https://phi.example/oauth2callback",
    "cookie_secret": "c" * 32,
    "client_id": "phi3kit",
    "client_secret": "word-of-the-client",
    "server_metadata_url": "https://id.example/.well-known/openid-configuration",
}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path) -> None:
    new_store(tmp_path)


def page_of(name: str, page: str = "access", auth: dict[str, Any] | None = AUTH, **claims: Any) -> AppTest:
    """A page as somebody sees it who signed in; the empty name has not."""
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300)
    if auth is not None:
        app.secrets["auth"] = auth
    app.user = {"is_logged_in": True, "iss": ISSUER, "sub": name, **claims} if name else {"is_logged_in": False}
    app = app.run()
    if page != "home":
        app = app.switch_page(f"pages/{page}.py").run()
    assert not app.exception, app.exception
    return app


def labels(app: AppTest) -> list[str]:
    return [label_of(each) for each in app.button]


class TestDoor:
    def test_who_has_not_signed_in_sees_one_sentence_and_one_button(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            app = page_of("", "home")
        assert ([each.value for each in app.title], labels(app)) == (["phi3kit"], ["Sign in"])
        assert words(app) == "This app is open to its team. Sign in to use it."

    def test_a_page_that_runs_without_the_door_before_it_shows_nothing_either(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            for page in (each for each in PAGES if each != "home"):
                app = page_of("", page)
                assert (words(app), labels(app), len(app.dataframe), len(app.text_input)) == ("", [], 0, 0), page

    @pytest.mark.parametrize(
        "claims",
        [
            {"is_logged_in": "true"},
            {"is_logged_in": 1},
            {"exp": 1_700_000_000.0},
            {"exp": "never"},
            {"sub": None},
            {"sub": "x" * 300},
        ],
        ids=str,
    )
    def test_claims_that_do_not_count_let_nobody_in(self, tmp_path: Path, claims: dict[str, Any]):
        with app_on(tmp_path, **TEAM):
            app = page_of("ada", "home", **claims)
        assert labels(app) == ["Sign in"]

    def test_a_session_that_ran_out_is_told_so(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            assert "Your session has ended" in words(page_of("ada", "home", exp=time.time() - 1))
            assert "role **admin**" in words(page_of("ada", exp=time.time() + 60))

    def test_who_is_on_no_list_is_told_their_name_and_whom_to_ask(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            app = page_of("nemo", "home")
        assert "You signed in as sub:nemo, but you have no role here." in app.warning[0].value.replace("\\", "")
        assert app.code[0].value == f"sub:{ISSUER}#nemo"
        assert labels(app) == ["Sign out"]

    @pytest.mark.parametrize(
        ("auth", "said"),
        [
            (None, "There is no [auth] in secrets.toml."),
            ({**AUTH, "client_secret": ""}, "client_secret in [auth]"),
            ({**AUTH, "redirect_uri": "https://phi.example"}, "/oauth2callback"),
            ({**AUTH, "cookie_secret": "short"}, "cookie_secret"),
            (
                {name: AUTH[name] for name in ("redirect_uri", "cookie_secret")} | {"lab": {"client_id": "x"}},
                "[auth.lab]",
            ),
        ],
        ids=["none", "no secret", "address", "short secret", "provider"],
    )
    def test_what_is_missing_for_signing_in_is_said_with_what_to_set(
        self, tmp_path: Path, auth: dict[str, Any] | None, said: str
    ):
        with app_on(tmp_path, **TEAM):
            app = page_of("", "home", auth=auth)
        (error,) = errors(app)
        assert said in error.replace("\\", "")
        assert "server_metadata_url" in app.code[0].value
        assert labels(app) == []

    def test_where_headers_name_users_nobody_is_let_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from streamlit import config

        before = config.get_option("server.trustedUserHeaders")
        config.set_option("server.trustedUserHeaders", '{"X-Forwarded-User": "sub"}')
        try:
            with app_on(tmp_path, **TEAM):
                app = page_of("ada", "home")
        finally:
            config.set_option("server.trustedUserHeaders", before)
        assert "trustedUserHeaders" in errors(app)[0]
        assert labels(app) == []


class TestWho:
    @pytest.mark.parametrize(
        ("name", "role", "allowed", "forbidden"),
        [
            ("ada", "admin", "change what belongs to others", None),
            ("bob", "user", "create or revoke API keys", "change the remote endpoints"),
            ("vera", "viewer", "see what others used", "ask a model"),
        ],
    )
    def test_name_role_and_rights_are_said(
        self, tmp_path: Path, name: str, role: str, allowed: str, forbidden: str | None
    ):
        with app_on(tmp_path, **TEAM):
            app = page_of(name)
        text = words(app)
        shown = Person(ISSUER, name, None, ()).name
        assert f"You are **{shown}**, role **{role}**." in text
        assert any(":material/check:" in each.value and allowed in each.value for each in app.markdown)
        assert forbidden is None or any(
            "Not allowed:" in each.value and forbidden in each.value for each in app.markdown
        )

    def test_name_role_and_the_way_out_are_in_the_sidebar(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            app = page_of("bob", "home")
        assert any("sub:bob · user" in each.value.replace("\\", "") for each in app.sidebar.markdown)
        assert [label_of(each) for each in app.sidebar.button] == ["Sign out"]

    def test_on_ones_own_machine_everything_is_on_and_nobody_signs_out(self, tmp_path: Path):
        with app_on(tmp_path):
            app = open_page("access")
        assert "You are **local**, role **admin**. This is your own machine" in words(app)
        assert "Sign out" not in labels(app)

    def test_the_public_profile_has_no_keys(self, tmp_path: Path):
        with app_on(tmp_path, PHI3KIT_PROFILE="public"):
            app = open_page("access")
        assert any("You may not create or revoke API keys here." in read(each.proto.title) for each in app.info)
        assert "Create a key" not in labels(app)


class TestLimits:
    def test_each_limit_says_how_much_of_it_is_used(self, tmp_path: Path):
        Outbox(tmp_path).add(turn("a", user=BOB, at=time.time()))
        with app_on(tmp_path, **TEAM, PHI3KIT_DAILY_TOKENS_PER_USER="60"):
            said = [each.proto.text for each in page_of("bob").get("progress")]
        assert said == ["0 of 60 turns in the last minute", "0 of 4 answers in progress", "15 of 60 tokens today"]

    def test_without_limits_it_says_so(self, tmp_path: Path):
        with app_on(tmp_path):
            assert "No limits are set." in words(open_page("access"))


class TestKeys:
    def create(self, app: AppTest, note: str) -> AppTest:
        next(each for each in app.text_input if each.label == "Note").set_value(note)
        app = next(each for each in app.button if label_of(each) == "Create a key").click().run()
        assert not app.exception, app.exception
        return app

    def test_a_new_key_is_shown_once_with_a_request_and_is_its_makers(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            app = self.create(page_of("bob"), "notebook")
            token, request = [each.value for each in app.code]
            assert re.fullmatch(r"phi3kit_[0-9a-f]{12}_[\w-]{43}", token)
            assert f"Authorization: Bearer {token}" in request
            assert KeyStore(tmp_path).user_of(token) == BOB
            app = app.run()
            assert token[-43:] not in str([each.value for each in app.code])
            (row,) = app.dataframe[0].value.to_dict("records")
        assert (row["User"], row["Note"], row["State"]) == (BOB, "notebook", "live")

    def test_a_viewer_makes_none(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            app = page_of("vera")
        assert "Create a key" not in labels(app)
        assert any("Your role is viewer; this needs user." in read(each.value) for each in app.info)

    def test_only_an_admin_sees_everybodys_keys_and_use(self, tmp_path: Path):
        Outbox(tmp_path).add(turn("a", user=BOB, at=time.time()))
        with app_on(tmp_path, **TEAM):
            self.create(page_of("bob"), "of bob")
            admin = page_of("ada")
            assert [each.label for each in admin.toggle] == ["Keys of all users"]
            assert "No API keys yet." in words(admin)
            admin = admin.toggle[0].set_value(True).run()
            keys, uses = (each.value.to_dict("records") for each in admin.dataframe)
            user = page_of("bob")
        assert [row["Note"] for row in keys] == ["of bob"]
        assert [(row["User"], row["Tokens today"]) for row in uses] == [(BOB, 15)]
        assert (len(user.toggle), len(user.dataframe), "Usage by user" in words(user)) == (0, 1, False)


class TestDataFolder:
    def test_an_admin_cleans_up_what_is_old_after_being_asked(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM, PHI3KIT_DISK_MB="500"):
            app = page_of("ada")
            old, new = tmp_path / "logs" / "old.log", tmp_path / "logs" / "new.log"
            for log in (old, new):
                log.parent.mkdir(exist_ok=True)
                log.write_bytes(b"x" * 2_000_000)
            os.utime(old, (time.time() - 2 * 86_400,) * 2)
            app = click(app.run(), "Clean up")
            assert "**with their results**" in words(app)
            app = click(app, "Delete")
            assert [read(each.value) for each in app.toast] == ["Cleaned up: 2.0 MB freed."]
            assert (old.exists(), new.exists()) == (False, True)
            assert re.search(r"\d of 500 MB \(PHI3KIT_DISK_MB\)", app.get("progress")[-1].proto.text)

    def test_it_is_no_users_matter(self, tmp_path: Path):
        with app_on(tmp_path, **TEAM):
            assert "Clean up" not in labels(page_of("bob"))
