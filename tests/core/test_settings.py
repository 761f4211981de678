"""Settings: names, defaults, and what a wrong value says."""

import os
from pathlib import Path

import pytest

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import SettingInvalid
from phi3kit.core.secret import Secret, SecretUrl
from phi3kit.core.settings import PROJECT_ROOT, read_settings
from phi3kit.tracking.store import open_store


class TestReadSettings:
    def test_everything_has_a_default(self):
        settings = read_settings({})
        assert settings.home == PROJECT_ROOT / ".phi3kit"
        assert settings.tracking_uri.reveal() == f"sqlite:///{PROJECT_ROOT}/.phi3kit/mlflow.db"
        assert (settings.api_key, settings.user) == (None, "local")
        assert (settings.idle_seconds, settings.start_seconds, settings.max_queue) == (900, 120, 32)
        assert (str(settings.hub_endpoint), settings.hub_token) == ("https://huggingface.co", None)

    def test_installed_the_data_folder_is_the_users(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setattr("phi3kit.core.settings.INSTALLED", True)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read_settings({}).home == tmp_path / ".phi3kit"

    def test_the_environment_is_read_when_no_values_are_given(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.setenv("PHI3KIT_MAX_QUEUE", "5")
        assert (read_settings().home, read_settings().max_queue) == (tmp_path, 5)

    def test_an_empty_value_is_no_value(self):
        names = ("PHI3KIT_HOME", "MLFLOW_TRACKING_URI", "PHI3KIT_API_KEY", "PHI3KIT_MAX_QUEUE", "PHI3KIT_USER")
        names += ("HF_ENDPOINT", "PHI3KIT_HF_TOKEN", "HF_TOKEN")
        assert read_settings(dict.fromkeys(names, "")) == read_settings({})

    def test_a_relative_home_is_made_absolute_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.chdir(tmp_path)
        settings = read_settings({"PHI3KIT_HOME": "data"})
        assert settings.home == tmp_path / "data"
        assert settings.tracking_uri.reveal() == f"sqlite:///{tmp_path}/data/mlflow.db"

    def test_a_home_below_the_users_home_is_found(self):
        assert read_settings({"PHI3KIT_HOME": "~/phi"}).home == Path.home().resolve() / "phi"

    def test_a_home_of_a_user_that_does_not_exist_is_refused(self):
        with pytest.raises(SettingInvalid, match="PHI3KIT_HOME"):
            read_settings({"PHI3KIT_HOME": "~nobody-of-that-name/phi"})

    @pytest.mark.parametrize("name", ["a?b=c", "a%41", "%2e%2e", "a%3Fmode=ro"])
    def test_a_folder_that_a_databases_uri_cannot_name_is_refused(self, tmp_path: Path, name: str):
        with pytest.raises(SettingInvalid, match=r"without \? and %"):
            read_settings({"PHI3KIT_HOME": str(tmp_path / name)})

    @pytest.mark.parametrize("name", ["100 %", "a#b;c", "データ", "a b\\c", "${HOME}@:x"])
    def test_the_store_of_an_odd_folder_lies_in_it(self, tmp_path: Path, name: str):
        settings = read_settings({"PHI3KIT_HOME": str(tmp_path / name)})
        open_store(settings)
        assert (tmp_path / name / "mlflow.db").is_file()
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("name", ["PHI3KIT_IDLE_SECONDS", "PHI3KIT_START_SECONDS", "PHI3KIT_MAX_QUEUE"])
    @pytest.mark.parametrize("value", ["0", "-3", "1.5", "many", 0, True], ids=repr)
    def test_what_is_no_whole_number_above_zero_is_refused_by_its_name(self, name: str, value: object):
        with pytest.raises(SettingInvalid, match=f"The setting {name} cannot be used") as caught:
            read_settings({name: value})
        assert repr(str(value)) in caught.value.why

    def test_a_number_from_a_secrets_file_need_not_be_text(self):
        assert read_settings({"PHI3KIT_MAX_QUEUE": 7}).max_queue == 7

    def test_the_hub_is_where_its_own_variable_says(self):
        assert read_settings({"HF_ENDPOINT": "https://mirror.example/"}).hub_endpoint == SecretUrl(
            "https://mirror.example"
        )

    @pytest.mark.parametrize(
        ("values", "token"),
        [
            ({"HF_TOKEN": "hf_a"}, "hf_a"),
            ({"PHI3KIT_HF_TOKEN": "hf_b"}, "hf_b"),
            ({"HF_TOKEN": "hf_a", "PHI3KIT_HF_TOKEN": "hf_b"}, "hf_b"),
        ],
    )
    def test_our_own_name_of_the_hubs_token_wins(self, values: dict[str, str], token: str):
        assert read_settings(values).hub_token == Secret(token)

    def test_no_key_is_shown_where_settings_are_printed(self):
        settings = read_settings({"PHI3KIT_API_KEY": " sk-secret\n", "PHI3KIT_HF_TOKEN": "hf_secret"})
        assert (settings.api_key, settings.hub_token) == (Secret("sk-secret"), Secret("hf_secret"))
        assert "secret" not in repr(settings) + str(settings)


class TestStoreName:
    def test_the_own_store_is_named_without_its_path(self, tmp_path: Path):
        settings = read_settings({"PHI3KIT_HOME": str(tmp_path)})
        assert (settings.own_store, settings.store_name) == (True, "mlflow.db")

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            ("http://mlflow.example:5000", "mlflow.example:5000"),
            ("postgresql://ada:secret@db.example/mlflow", "db.example/mlflow"),
            ("https://ada:p@ss@mlflow.example", "mlflow.example"),
        ],
    )
    def test_a_server_is_named_without_its_password(self, uri: str, name: str):
        settings = read_settings({"MLFLOW_TRACKING_URI": uri})
        assert (settings.own_store, settings.store_name) == (False, name)


class TestChildEnvironment:
    def test_a_child_reads_the_same_settings_in_another_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        for name in [name for name in os.environ if name.startswith(("PHI3KIT_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        values = {"PHI3KIT_IDLE_SECONDS": "7", "PHI3KIT_START_SECONDS": "8", "PHI3KIT_MAX_QUEUE": "9"}
        values |= {"HF_ENDPOINT": "https://mirror.example", "PHI3KIT_HF_TOKEN": "hf_a"}
        settings = read_settings({"PHI3KIT_HOME": str(tmp_path / "data"), "PHI3KIT_USER": "ada", **values})
        monkeypatch.chdir(tmp_path)
        assert read_settings(child_environment(settings)) == settings

    def test_a_child_finds_phi3kit_and_asks_no_hub(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        environment = child_environment(read_settings({}))
        assert (environment["PYTHONPATH"], environment["HF_HUB_OFFLINE"]) == (str(PROJECT_ROOT), "1")
        assert environment["PATH"] == os.environ["PATH"]

    def test_installed_a_child_does_not_look_into_the_folder_it_is_started_in(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("phi3kit.core.child_environment.INSTALLED", True)
        monkeypatch.delenv("PYTHONPATH", raising=False)
        environment = child_environment(read_settings({}))
        assert (environment["PYTHONSAFEPATH"], environment.get("PYTHONPATH")) == ("1", None)


class TestUsageSettings:
    @pytest.mark.parametrize(
        ("uri", "logged"),
        [
            ("", True),
            ("sqlite:////data/mlflow.db", True),
            ("http://127.0.0.1:5000", True),
            ("http://localhost:5000", True),
            ("https://mlflow.example", False),
            ("postgresql://db.example/mlflow", False),
        ],
    )
    def test_text_is_logged_by_default_where_it_stays_on_this_machine(self, uri: str, logged: bool):
        assert read_settings({"MLFLOW_TRACKING_URI": uri}).log_text is logged

    @pytest.mark.parametrize(
        ("value", "logged"), [("0", False), ("off", False), (False, False), ("1", True), (True, True)]
    )
    def test_text_is_logged_as_it_is_said(self, value: object, logged: bool):
        assert read_settings({"PHI3KIT_LOG_TEXT": value, "MLFLOW_TRACKING_URI": "https://x"}).log_text is logged

    def test_a_word_that_is_neither_on_nor_off_is_refused(self):
        with pytest.raises(SettingInvalid, match="PHI3KIT_LOG_TEXT"):
            read_settings({"PHI3KIT_LOG_TEXT": "maybe"})

    def test_budgets_are_whole_numbers_or_none(self):
        settings = read_settings({"PHI3KIT_DAILY_TOKENS": "1000"})
        assert (settings.limits.daily_tokens, settings.limits.user_daily_tokens) == (1000, None)
        with pytest.raises(SettingInvalid, match="PHI3KIT_DAILY_TOKENS_PER_USER"):
            read_settings({"PHI3KIT_DAILY_TOKENS_PER_USER": "0"})

    def test_mlflows_pages_are_at_the_tracking_server_without_its_password(self):
        url = read_settings({"MLFLOW_TRACKING_URI": "https://ada:secret@mlflow.example/team/"}).mlflow_url
        assert url == "https://mlflow.example/team"
        assert read_settings({}).mlflow_url == "http://127.0.0.1:5000"
        assert read_settings({"PHI3KIT_MLFLOW_URL": "https://ml.example/"}).mlflow_url == "https://ml.example"

    def test_a_tracking_uri_that_is_none_is_refused_by_its_name(self):
        with pytest.raises(SettingInvalid, match="MLFLOW_TRACKING_URI"):
            read_settings({"MLFLOW_TRACKING_URI": "http://["})

    def test_children_have_the_same_settings(self):
        given = {
            "PHI3KIT_LOG_TEXT": "0", "PHI3KIT_DAILY_TOKENS": "7", "PHI3KIT_DAILY_TOKENS_PER_USER": "5",
            "MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "secret",
        }  # fmt: skip
        environment = child_environment(read_settings(given))
        assert {name: environment[name] for name in given} == given

    def test_passwords_are_not_in_the_records_text(self):
        text = repr(read_settings({"MLFLOW_TRACKING_PASSWORD": "secret", "MLFLOW_TRACKING_TOKEN": "secret"}))
        assert "secret" not in text


@pytest.mark.parametrize("name", ["PHI3KIT_API_KEY", "PHI3KIT_HF_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_TOKEN"])
@pytest.mark.parametrize("key", ["schlüssel-12", "two\nlines", "nul\x00", "鍵-secret"], ids=ascii)
def test_a_key_that_no_header_carries_is_refused_without_its_text(name: str, key: str) -> None:
    with pytest.raises(SettingInvalid, match=name) as caught:
        read_settings({name: key})
    assert key not in str(caught.value)
