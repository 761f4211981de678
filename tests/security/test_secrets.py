"""Secrets: what was given to reach a store or a hub stands on no page, in no snippet, error, log line, file or command line."""

import copy
import json
import logging
import re
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from phi3kit.conversations.request_snippets import snippets
from phi3kit.core.child_environment import bare_environment, child_environment, worker_environment
from phi3kit.core.errors import SettingInvalid, StorageFailed
from phi3kit.core.records import Message
from phi3kit.core.redaction import hide_in_logs
from phi3kit.core.secret import MASK, Secret, SecretUrl
from phi3kit.core.settings import PROJECT_ROOT, Settings, read_settings
from phi3kit.deployment import recipes
from phi3kit.endpoints.records import Request
from phi3kit.packaging.snippets import build_code
from phi3kit.tracking.store import storage_errors
from tests.conftest import settings_for

WORD = "tell-nobody-7"
STORES = [
    f"postgresql://ada:{WORD}@db.example:5432/mlflow", f"mysql+pymysql://ada:{WORD}@db.example/mlflow?charset=utf8",
    f"https://{WORD}@mlflow.example", f"https://ada:{WORD}@mlflow.example/base", f"postgresql://db/mlflow?password={WORD}",
    f"mssql+pyodbc://ada:p@{WORD}@db/mlflow", f"postgresql:///mlflow?user=ada&password={WORD}",
    f"https://mlflow.example/#{WORD}", f"http://[{WORD}", f"https://ada:{WORD}@mlflow.example:x/",
]  # fmt: skip
SECRETS = ("PHI3KIT_API_KEY", "PHI3KIT_HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# The only places that give a secret to somebody: the store's own library, the hub's, and children that need it.
REVEALING = {
    "core/secret.py", "core/child_environment.py", "tracking/store.py", "usage/writer.py", "usage/details.py", "usage/reader.py",
    "packaging/sources/hub_list.py", "packaging/sources/hub_requests.py", "packaging/sources/hub_client.py", "packaging/snippets.py", "conversations/request_snippets.py",
    "cli/serve.py", "worker/__main__.py",
}  # fmt: skip


def settings_with(uri: str, home: Path) -> Settings:
    return settings_for(
        home, MLFLOW_TRACKING_URI=uri, HF_ENDPOINT=f"https://ada:{WORD}@hub.example", **dict.fromkeys(SECRETS, WORD)
    )


class TestSecret:
    @pytest.mark.parametrize("secret", [Secret(WORD), *map(SecretUrl, STORES)], ids=lambda each: each.reveal())
    def test_no_way_of_writing_it_tells_it(self, secret: Secret):
        written = [
            str(secret),
            repr(secret),
            f"{secret}",
            f"{secret!r}",
            f"{[secret]}",
            " ".join(map(str, [secret])),
            str({"a": secret}),
        ]
        written += [repr(copy.deepcopy(secret)), str(ValueError(secret))]
        assert not [each for each in written if WORD in each]
        with pytest.raises(TypeError):
            json.dumps(secret)
        assert WORD in secret.reveal()

    def test_an_address_without_a_secret_stays_readable(self):
        for uri in (
            "sqlite:////data/mlflow.db",
            "http://mlflow.example:5000",
            "databricks",
            "file:///srv/mlruns",
            "./mlruns",
        ):
            assert (str(SecretUrl(uri)), SecretUrl(uri).hides_something) == (uri, False)
        assert str(SecretUrl(STORES[0])) == f"postgresql://ada:{MASK}@db.example:5432/mlflow"

    def test_equal_ones_are_equal_and_no_text_is_one(self):
        assert Secret("a") == Secret("a") != Secret("b")
        assert Secret("a") != "a"
        assert Secret("a") != SecretUrl("a")

    def test_it_is_revealed_where_it_is_sent_and_nowhere_else(self):
        kit = PROJECT_ROOT / "phi3kit"
        found = {str(path.relative_to(kit)) for path in kit.rglob("*.py") if ".reveal()" in path.read_text("utf-8")}
        found |= {
            str(path.relative_to(kit))
            for path in kit.rglob("*.py")
            if re.search(r"\brevealed\(", path.read_text("utf-8"))
        }
        assert found == REVEALING


@pytest.mark.parametrize("uri", STORES[:7])
class TestStore:
    def test_no_setting_shows_it(self, uri: str, tmp_path: Path):
        settings = settings_with(uri, tmp_path)
        assert WORD not in repr(settings) + settings.store_name + settings.mlflow_url + str(settings)

    def test_no_snippet_holds_it(self, uri: str, tmp_path: Path):
        settings = settings_with(uri, tmp_path)
        request = Request((Message("user", "hello"),))
        for wrapper in ("transformers", "onnx"):
            code = build_code(wrapper, "embedded", None, "int4", settings)
            compile(code, "snippet", "exec")
            texts = [code, *(each.code for each in snippets(request, wrapper, "models:/m-1", settings.tracking_uri))]
            made = [recipes.worker("models:/m-1", 8000, settings), recipes.unit("models:/m-1", 8000, settings)]
            made += [
                recipes.scoring_server("models:/m-1", wrapper, 5001, settings),
                recipes.image("models:/m-1", wrapper, 5001, settings),
            ]
            assert not [text for text in [*texts, *map(str, made)] if WORD in text]
            assert 'os.environ["MLFLOW_TRACKING_URI"]' in code

    def test_no_error_and_no_log_line_holds_it(
        self, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("phi3kit.core.redaction._hidden", set())
        factory = logging.getLogRecordFactory()
        hide_in_logs({"MLFLOW_TRACKING_URI": uri})
        try:
            with pytest.raises(StorageFailed) as caught, storage_errors(tmp_path):
                raise MlflowException(f"Model registry functionality is unavailable; got {uri}")
            logging.getLogger("mlflow").error("cannot reach %s", uri)
        finally:
            logging.setLogRecordFactory(factory)
        assert WORD not in str(caught.value) + caplog.text

    def test_a_worker_is_not_told_it(self, uri: str, tmp_path: Path):
        assert WORD not in str(worker_environment(settings_with(uri, tmp_path)))


@pytest.mark.parametrize("uri", [f"http://ada:{WORD}@[db", f"http://ada:{WORD}@d\u2100b"])
def test_a_setting_that_is_no_address_is_refused_without_its_text(uri: str):
    with pytest.raises(SettingInvalid, match="MLFLOW_TRACKING_URI") as caught:
        read_settings({"MLFLOW_TRACKING_URI": uri})
    assert WORD not in str(caught.value)


@pytest.mark.parametrize("name", ["PHI3KIT_MLFLOW_URL", "MLFLOW_S3_ENDPOINT_URL", "SPARK_MASTER", "HF_MIRROR"])
def test_an_address_with_a_password_is_told_to_who_works_with_the_store_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"https://ops:{WORD}@lab.example")
    settings = settings_for(tmp_path)
    seen = [worker_environment(settings), bare_environment(), child_environment(settings)]
    assert [each.get(name) for each in seen] == [None, None, f"https://ops:{WORD}@lab.example"]
