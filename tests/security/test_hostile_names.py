"""Hostile names: what another program called its model, or typed as a URL, is a name in every file and command."""

import ast
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from phi3kit.conversations.request_snippets import Snippet, remote_snippets, snippets
from phi3kit.core.errors import ConnectionInvalid, RequestInvalid
from phi3kit.core.records import Message
from phi3kit.core.secret import SecretUrl
from phi3kit.core.settings import Settings
from phi3kit.deployment import compose, recipes
from phi3kit.endpoints.connections import Connection
from phi3kit.endpoints.records import Request
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import ModelChoice
from tests.conftest import settings_for
from tests.support.hostile import HOSTILE

MODEL = LoggedModel("models:/m-1", "onnx", "embedded", "int4", 4096, datetime(2026, 1, 1, tzinfo=UTC), "r1")
NAMES = [
    "x\nExecStartPre=/bin/touch pwned\n#", 'x", --privileged, "', "x $(touch pwned)", "x`touch pwned`", "x;touch pwned;",
    "%h", "$HOME", "x\\", "x'", "x\u2028y", "x\x1b[2J", "x y", "../x", "-x",
]  # fmt: skip
QUESTION = Request((Message("user", "What is the capital of Spain?"),))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


@pytest.mark.parametrize("name", [*NAMES, *HOSTILE])
class TestFiles:
    def test_no_file_and_no_command_is_made_of_it(self, settings: Settings, name: str) -> None:
        uri = f"models:/{name}@champion"
        for make in (recipes.worker, recipes.unit):
            if not re.fullmatch(r"\w[\w.-]*", name):
                with pytest.raises(RequestInvalid, match="cannot be used in a file"):
                    make(uri, 8000, settings)
        for make_for in (recipes.scoring_server, recipes.image):
            if not re.fullmatch(r"\w[\w.-]*", name):
                with pytest.raises(RequestInvalid, match="cannot be used in a file"):
                    make_for(uri, "onnx", 8000, settings)

    def test_the_page_takes_the_models_own_uri_instead(self, name: str) -> None:
        choice = ModelChoice(f"models:/{name}/1", "", MODEL, name)
        assert choice.plain_uri == ("models:/m-1" if not re.fullmatch(r"\w[\w.-]*", name) else choice.model_uri)

    def test_compose_is_as_with_a_plain_name(self, name: str) -> None:
        made, usual = compose.compose(MODEL, name), compose.compose(MODEL, "phi3-onnx")
        if not re.fullmatch(r"\w[\w.-]*", name):
            assert made == usual
        services = yaml.safe_load(made.files[0].text)["services"]
        assert set(services) == {"app", "mlflow", "db", "worker"}
        assert len(services["worker"]["command"]) == 9


@pytest.mark.parametrize("source", ["-x", "/models:/etc", "/models\n--privileged", "/models\u2028x"])
def test_a_source_is_no_argument_of_docker(source: str) -> None:
    recipe = compose.compose(LoggedModel(**{**vars(MODEL), "source": source}), None)
    assert not [step for step in recipe.steps if "--source" in step.command]


def test_a_data_folder_is_one_word_of_a_unit(tmp_path: Path) -> None:
    home = tmp_path / "a\nExecStartPre=x $HOME %h \"'\\ ü"
    text = recipes.unit("models:/phi3/1", 8000, settings_for(home)).files[0].text
    assert [line for line in text.splitlines() if line.startswith("Exec")] == [
        line for line in text.splitlines() if line.startswith("ExecStart=")
    ]
    (line,) = [line for line in text.splitlines() if "PHI3KIT_HOME" in line]
    assert line == f'Environment="PHI3KIT_HOME={tmp_path}/a\\x0aExecStartPre=x $HOME %%h \\"\'\\\\ ü"'


class TestSnippets:
    @pytest.fixture
    def shell(self, tmp_path: Path):  # type: ignore[no-untyped-def]
        """Run a snippet in a shell whose curl prints what it is given."""
        curl = tmp_path / "bin" / "curl"
        curl.parent.mkdir()
        curl.write_text('#!/bin/sh\nfor each; do printf "%s\\n" "$each"; done\n')
        curl.chmod(0o755)
        folder = tmp_path / "empty"
        folder.mkdir()

        def run(code: str) -> list[str]:
            environment = {"PATH": f"{curl.parent}:/usr/bin:/bin"}
            done = subprocess.run(
                ["bash", "-eu"], input=code, cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            assert list(folder.iterdir()) == []
            assert done.stderr == ""
            return done.stdout.splitlines()

        return run

    @pytest.mark.parametrize(
        "path", ["$(touch${IFS}pwned)", "`touch${IFS}pwned`", ";touch${IFS}pwned;", "a&touch%20p", "'", '"']
    )
    def test_a_url_is_one_argument(self, shell, path: str) -> None:  # type: ignore[no-untyped-def]
        for protocol, route in (("openai", "/chat/completions"), ("invocations", "/invocations")):
            url = f"http://lab.example/{path}"
            found = remote_snippets(QUESTION, Connection("lab", url, protocol, model="phi3"))  # type: ignore[arg-type]
            *_, curl = found
            assert shell(curl.code)[1] == f"{url}{route}"
            for snippet in found[:-1]:
                assert f"{url}" in literals(snippet)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_models_name_stays_in_its_comment_and_its_literal(self, shell, name: str) -> None:  # type: ignore[no-untyped-def]
        uri = f"models:/{name}"
        for snippet in snippets(QUESTION, "onnx", uri, SecretUrl("sqlite:///mlflow.db")):
            if snippet.language == "bash":
                shell(snippet.code)
            else:
                assert uri in literals(snippet)

    @pytest.mark.parametrize("key", ["PHI3KIT_KEY_é", "PHI3KIT_KEY_X}$(id)", "PHI3KIT_KEY_X\n"])
    def test_a_keys_name_is_a_name_of_a_shell(self, key: str) -> None:
        with pytest.raises(ConnectionInvalid):
            Connection("lab", "http://lab.example", model="phi3", key_name=key)


def literals(snippet: Snippet) -> list[str]:
    """The texts in Python code."""
    tree = ast.walk(ast.parse(snippet.code))
    return [each.value for each in tree if isinstance(each, ast.Constant) and isinstance(each.value, str)]
