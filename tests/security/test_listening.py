"""Where things listen, and what goes into an image: in the profile local nothing beyond this machine."""

import re
import subprocess
from pathlib import Path

import pytest
import streamlit as st
import yaml

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.loopback import check_listening
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment import compose
from phi3kit.ui.shared import web
from phi3kit.worker import __main__ as worker
from tests.conftest import settings_for
from tests.security.test_hostile_names import MODEL

EVERYWHERE = ["0.0.0.0", "::", "192.168.1.5", "lab.example", "", None]  # noqa: S104


@pytest.mark.parametrize("host", EVERYWHERE)
def test_local_listens_on_this_machine_alone(host: str | None) -> None:
    with pytest.raises(SettingInvalid, match="The profile local does not listen on") as caught:
        check_listening(host, "local")
    assert "PHI3KIT_PROFILE to team or public" in caught.value.next_step
    check_listening(host, "team")
    check_listening(host, "public")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_itself_is_no_matter_of_profile(host: str) -> None:
    check_listening(host, "local")


def test_serve_with_a_key_listens_beyond_it_for_a_team(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="The profile local does not listen on"):
        worker._keys(settings_for(tmp_path, PHI3KIT_API_KEY="k"), "0.0.0.0", managed=False)  # noqa: S104
    team = settings_for(tmp_path, PHI3KIT_API_KEY="k", PHI3KIT_PROFILE="team")
    assert worker._keys(team, "0.0.0.0", managed=False).required  # noqa: S104


@pytest.mark.parametrize("address", ["0.0.0.0", None])  # noqa: S104
def test_the_app_ends_before_it_serves(
    address: str | None, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(st, "get_option", lambda name: address)
    monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        web.check_address()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("phi3kit: The profile local does not listen on")
    assert said.count("\n") == 1
    monkeypatch.setenv("PHI3KIT_PROFILE", "team")
    web.check_address()


def test_the_entry_asks_before_it_makes_the_application() -> None:
    assert "    web.check_address()\n" in (PROJECT_ROOT / "streamlit_app.py").read_text().partition("else:")[2]


class TestImage:
    """By Docker's rules: the last pattern that matches decides; `**` is any number of folders."""

    @pytest.fixture
    def rules(self) -> list[tuple[bool, re.Pattern[str]]]:
        recipe = compose.compose(MODEL, None)
        lines = [line for line in recipe.files[2].text.splitlines() if line and not line.startswith("#")]
        return [(line.startswith("!"), pattern(line.removeprefix("!"))) for line in lines]

    def taken(self, rules: list[tuple[bool, re.Pattern[str]]], path: str) -> bool:
        found = True
        for takes, rule in rules:
            if rule.fullmatch(path) or (not takes and rule.fullmatch(path.split("/")[0])):
                found = takes
        return found

    @pytest.mark.parametrize(
        "path",
        [".streamlit/secrets.toml", ".env", "mlflow.db", "phi3kit/mlflow.db", ".phi3kit/mlflow.db", "venv/bin/python",
         "env/x.py", "phi3kit/secrets.toml", "phi3kit/.env", "pages/.env", "notes.txt", "id_rsa", "phi3kit/embedded/key.pem",
         ".git/config", "mlruns/0/meta.yaml", "phi3kit/ui/__pycache__/a.pyc", "pages/secrets.toml", "tests/conftest.py"],
    )  # fmt: skip
    def test_what_is_not_listed_stays_outside(self, rules: list[tuple[bool, re.Pattern[str]]], path: str) -> None:
        assert not self.taken(rules, path)

    def test_all_that_the_app_is_made_of_goes_in(self, rules: list[tuple[bool, re.Pattern[str]]]) -> None:
        kept = ["requirements.txt", "streamlit_app.py", ".streamlit/config.toml", "pages", "phi3kit"]
        listed = subprocess.run(
            ["git", "ls-files", *kept], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert len(listed) > 200
        assert [path for path in listed if not self.taken(rules, path)] == []

    def test_the_teams_containers_are_of_the_team(self) -> None:
        services = yaml.safe_load(compose.compose(MODEL, None).files[0].text)["services"]
        profiles = [services[name]["environment"]["PHI3KIT_PROFILE"] for name in ("app", "worker")]
        assert profiles == ["team", "team"]


def pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*)", glob)
    known = {"**/": "(.*/)?", "*": "[^/]*"}
    return re.compile("".join(known.get(each) or re.escape(each) for each in parts))
