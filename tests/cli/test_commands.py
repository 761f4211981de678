"""Command line: what is printed, and the exit codes. `build` has its own file, `serve` is with the workers."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from phi3kit.core.records import WRAPPERS
from phi3kit.core.settings import PROJECT_ROOT
from tests.conftest import CHAPTER_PROMPT, Built, run_cli

COMMANDS = ("app", "build", "serve", "chat", "signatures", "usage", "batch", "evaluate", "keys")


class TestChat:
    def test_a_question_is_answered_on_stdout(self, built: Built) -> None:
        done = run_cli("chat", built.uri("onnx"), "スペインの首都はどこですか？", home=built.home)
        assert (done.returncode, done.stdout) == (0, "スペインの首都はマドリードです。\n")

    def test_a_raw_prompt_is_answered(self, built: Built) -> None:
        done = run_cli("chat", built.uri("transformers"), CHAPTER_PROMPT, "--raw", home=built.home)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Alright, here's a little atom-related joke for you!")

    @pytest.mark.parametrize("uri", ["models:/m-unknown", "models:/nobody/1", "models:/nobody@champion", "nonsense"])
    def test_an_unknown_model_is_one_line_and_exit_code_2(self, built: Built, uri: str) -> None:
        done = run_cli("chat", uri, "hello", home=built.home)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.strip().splitlines()) == 1
        assert uri in done.stderr

    def test_an_empty_message_is_refused(self, built: Built) -> None:
        done = run_cli("chat", built.uri("onnx"), " ", home=built.home)
        assert done.returncode == 2
        assert "empty" in done.stderr


class TestRegister:
    def test_a_registered_model_is_found_by_version(self, tmp_path: Path) -> None:
        done = run_cli("build", "--wrapper", "onnx", "--register", "phi3", home=tmp_path)
        lines = done.stderr.splitlines()
        assert [line for line in lines if not line.startswith(("onnx: ", "compare: "))] == []  # none of MLflow's
        assert json.loads(done.stdout.splitlines()[-1])["registered"] == "models:/phi3/1"
        answer = run_cli("chat", "models:/phi3/1", "What is the capital of Spain?", home=tmp_path)
        assert "Madrid" in answer.stdout


class TestAReaderThatGoes:
    """`phi3kit … | head`: the command ends without a traceback, in it and behind it."""

    @pytest.mark.parametrize(
        "command",
        [
            ("signatures", "TRANSFORMERS", "ONNX"),
            ("signatures", "TRANSFORMERS", "ONNX", "--json"),
            ("keys", "list", "--json"),
        ],
        ids=" ".join,
    )
    def test_is_no_error(self, built: Built, command: tuple[str, ...]) -> None:
        uris = {wrapper.upper(): built.uri(wrapper) for wrapper in WRAPPERS}
        process = subprocess.Popen(
            [sys.executable, "-m", "phi3kit", *(uris.get(word, word) for word in command)],
            cwd=PROJECT_ROOT, env={**os.environ, "PHI3KIT_HOME": str(built.home)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)
        process.stderr.close()


class TestSignatures:
    def test_both_notations_and_every_field_are_printed(self, built: Built) -> None:
        done = run_cli("signatures", built.uri("transformers"), built.uri("onnx"), home=built.home)
        assert done.returncode == 0, done.stderr
        assert "['prompt': string (required)]" in done.stdout
        assert "messages[].role" in done.stdout

    def test_json_has_both_signatures_and_the_comparison(self, built: Built) -> None:
        done = run_cli("signatures", built.uri("transformers"), built.uri("onnx"), "--json", home=built.home)
        result = json.loads(done.stdout)
        assert result["b"] == {
            "inputs": "['prompt': string (required)]",
            "outputs": "[string (required)]",
            "params": "None",
        }
        verdicts = {(row["part"], row["name"]): row["verdict"] for row in result["fields"]}
        assert verdicts["inputs", "messages"] == "only A"
        assert verdicts["inputs", "prompt"] == "only B"


class TestUsage:
    def test_the_turns_come_in_every_format(self, built: Built, tmp_path: Path) -> None:
        run_cli("chat", built.uri("onnx"), "hello", home=built.home)
        as_csv = run_cli("usage", "--since", "1d", "--format", "csv", home=built.home)
        rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
        as_json = json.loads(run_cli("usage", "--since", "all", "--format", "json", home=built.home).stdout)
        file = tmp_path / "usage.parquet"
        run_cli("usage", "--format", "parquet", "-o", str(file), home=built.home)
        table = run_cli("usage", home=built.home).stdout
        assert len(rows) == len(as_json) == len(pd.read_parquet(file)) >= 1
        assert int(rows[0]["total_tokens"]) == int(rows[0]["prompt_tokens"]) + int(rows[0]["completion_tokens"])
        assert "completion_tokens" in table

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--since", "yesterday"], "period"),
            (["--format", "parquet"], "binary"),
            (["--format", "xml"], "invalid choice"),
            (["-o", "/no/such/folder/usage.csv", "--format", "csv"], "cannot be written"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_2(self, built: Built, arguments: list[str], reason: str) -> None:
        done = run_cli("usage", *arguments, home=built.home)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert reason in done.stderr


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, command: str, tmp_path: Path) -> None:
        done = run_cli(command, "--help", home=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: python -m phi3kit {command}")

    def test_a_wrong_setting_is_one_line_and_exit_code_2(self, tmp_path: Path) -> None:
        done = run_cli("usage", home=tmp_path, PHI3KIT_MAX_QUEUE="many")
        assert done.returncode == 2
        assert "PHI3KIT_MAX_QUEUE" in done.stderr
