"""Builds: what the command line says and leaves behind, and that it works without phi3kit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from phi3kit import snippets
from phi3kit.builds import step_names
from phi3kit.logged_models import list_models, resolve
from phi3kit.records import WRAPPERS, WrapperName
from phi3kit.settings import PROJECT_ROOT
from phi3kit.sources import find_source
from tests.conftest import CHAPTER_PROMPT, Built, run_cli, settings_for

QUESTIONS = {
    "What is the capital of Spain?": "Madrid",
    "スペインの首都はどこですか？": "マドリード",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;": "Μαδρίτη",
}


class TestResult:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_last_line_of_a_wrapper_has_the_contracts_keys(self, built: Built, wrapper: WrapperName) -> None:
        result = built.results[wrapper]
        keys = {"wrapper", "model_uri", "run_id", "signature_inputs", "signature_outputs", "size_bytes", "seconds"}
        assert keys <= set(result)
        assert str(result["model_uri"]).startswith("models:/m-")
        assert 1_000_000 < result["size_bytes"] < 40_000_000

    def test_both_wrappers_take_25_seconds_or_less(self, built: Built) -> None:
        # Measured alone: see the README. Ten times that would be a broken build, not a busy machine.
        assert built.seconds < 250

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_each_step_is_reported_when_it_begins_and_when_it_ends(self, built: Built, wrapper: WrapperName) -> None:
        steps = [line for line in built.lines if line.get("event") == "step" and line["wrapper"] == wrapper]
        begun = [line["step"] for line in steps if line["seconds"] is None]
        ended = [line["step"] for line in steps if line["seconds"] is not None]
        assert begun == ended == list(step_names(wrapper, "int4"))

    def test_the_signatures_are_exact(self, built: Built) -> None:
        assert built.results["onnx"]["signature_inputs"] == "['prompt': string (required)]"
        assert built.results["onnx"]["signature_outputs"] == "[string (required)]"
        assert built.results["transformers"]["signature_inputs"].startswith("['messages': Array({content: string")

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_check_got_the_right_answer_from_plain_mlflow(self, built: Built, wrapper: WrapperName) -> None:
        assert "Madrid" in built.results[wrapper]["check_answer"]

    def test_models_from_code_and_no_pickle(self, built: Built) -> None:
        for wrapper in WRAPPERS:
            folder = resolve(built.uri(wrapper), built.settings).folder
            assert [path.name for path in folder.rglob("*.pkl")] == []
        assert (resolve(built.uri("onnx"), built.settings).folder / "onnx_wrapper.py").is_file()

    def test_the_weights_keep_their_precision(self, built: Built) -> None:
        folder = resolve(built.uri("transformers"), built.settings).folder
        config = json.loads((folder / "model" / "config.json").read_text())
        assert config["dtype"] == "float16"

    def test_the_onnx_config_has_no_sliding_window(self, built: Built) -> None:
        folder = resolve(built.uri("onnx"), built.settings).folder
        (path,) = folder.glob("artifacts/*/genai_config.json")
        assert "sliding_window" not in path.read_text()


class TestWithoutPhi3kit:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_a_logged_model_answers_where_phi3kit_is_not_installed(
        self, built: Built, wrapper: WrapperName, tmp_path: Path
    ) -> None:
        script = tmp_path / "ask.py"
        script.write_text(
            f"""
import importlib.util, json, mlflow
assert importlib.util.find_spec("phi3kit") is None
mlflow.set_tracking_uri({built.settings.tracking_uri!r})
model = mlflow.pyfunc.load_model({built.uri(wrapper)!r})
answers = []
for question in {list(QUESTIONS)!r}:
    if {wrapper!r} == "onnx":
        answers += model.predict({{"prompt": f"<|user|>\\n{{question}}<|end|>\\n<|assistant|>\\n"}})
    else:
        reply = model.predict({{"messages": [{{"role": "user", "content": question}}], "temperature": 0.01}})
        answers.append(reply[0]["choices"][0]["message"]["content"])
print(json.dumps(answers))
""",
            "utf-8",
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answers = json.loads(done.stdout.splitlines()[-1])
        for answer, wanted in zip(answers, QUESTIONS.values(), strict=True):
            assert wanted in answer

    def test_the_requirements_name_no_phi3kit(self, built: Built) -> None:
        for wrapper in WRAPPERS:
            text = (resolve(built.uri(wrapper), built.settings).folder / "requirements.txt").read_text()
            assert "phi3kit" not in text
            assert all("==" in line for line in text.split())


@pytest.fixture(scope="module")
def model(built: Built) -> mlflow.pyfunc.PyFuncModel:
    """The onnx wrapper as plain MLflow loads it."""
    mlflow.set_tracking_uri(built.settings.tracking_uri)
    return mlflow.pyfunc.load_model(built.uri("onnx"))


class TestOnnxPredict:
    """The custom wrapper's predict, through plain MLflow."""

    def test_the_chapters_comedian_prompt(self, model: mlflow.pyfunc.PyFuncModel) -> None:
        (answer,) = model.predict({"prompt": CHAPTER_PROMPT})
        assert answer.startswith("Alright, here's a little atom-related joke for you!")

    def test_every_row_is_answered_in_order(self, model: mlflow.pyfunc.PyFuncModel) -> None:
        prompts = [
            f"<|user|>What is the capital of {name}?<|end|><|assistant|>" for name in ("Spain", "Japan", "Greece")
        ]
        for payload in ({"prompt": prompts}, [{"prompt": prompt} for prompt in prompts]):
            answers = model.predict(payload)
            assert ["Madrid" in answers[0], "Tokyo" in answers[1], "Athens" in answers[2]] == [True, True, True]

    @pytest.mark.parametrize("prompt", ["", None, "a\x00b"])
    def test_a_prompt_without_text_is_refused(self, model: mlflow.pyfunc.PyFuncModel, prompt: str | None) -> None:
        with pytest.raises(Exception, match=r"[Pp]rompt"):
            model.predict({"prompt": prompt})

    def test_a_prompt_beyond_the_context_names_both_numbers(self, model: mlflow.pyfunc.PyFuncModel) -> None:
        with pytest.raises(ValueError, match=r"\d+ tokens; the context holds 4096"):
            model.predict({"prompt": "word " * 5000})

    def test_a_stream_is_the_answer_in_pieces(self, model: mlflow.pyfunc.PyFuncModel) -> None:
        payload = {"prompt": "<|user|>What is the capital of Spain?<|end|><|assistant|>"}
        pieces = list(model.predict_stream(payload))
        assert len(pieces) > 3
        assert "".join(pieces) == model.predict(payload)[0]


class TestFailure:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--wrapper", "onnx", "--source", "/no/such/folder"], "There is no such folder"),
            (["--wrapper", "nothing"], "invalid choice"),
            (["--wrapper", "onnx", "--precision", "int2"], "invalid choice"),
            ([], "required"),
        ],
    )
    def test_a_users_mistake_is_one_line_and_exit_code_2(
        self, tmp_path: Path, arguments: list[str], reason: str
    ) -> None:
        done = run_cli("build", *arguments, home=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.strip().splitlines()) == 1
        assert reason in done.stderr

    def test_damaged_weights_leave_nothing_listed(self, tmp_path: Path) -> None:
        import shutil

        from phi3kit.embedded import MODEL_FOLDER

        source = tmp_path / "broken"
        shutil.copytree(MODEL_FOLDER, source)
        (source / "model.safetensors").write_bytes(b"not weights")
        home = tmp_path / "home"
        for wrapper in WRAPPERS:
            done = run_cli("build", "--wrapper", wrapper, "--source", str(source), home=home)
            assert done.returncode == 2
            assert len(done.stderr.strip().splitlines()[-1:]) == 1
            assert "Traceback" not in done.stderr
        assert list_models(settings_for(home)) == []
        client = MlflowClient(settings_for(home).tracking_uri)
        experiment = client.get_experiment_by_name("phi3kit-builds")
        assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FAILED"}

    def test_a_cancelled_build_leaves_nothing_listed_and_no_process(self, tmp_path: Path) -> None:
        environment = {**os.environ, "PHI3KIT_HOME": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "phi3kit", "build", "--wrapper", "onnx", "--json"],
            cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # the first step has begun
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert list_models(settings_for(tmp_path)) == []
        assert list((tmp_path / "exports").iterdir()) == []

    def test_a_data_folder_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("in the way")
        done = run_cli("build", "--wrapper", "onnx", home=tmp_path / "home")
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


class TestSnippets:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_code_beside_a_build_runs_as_shown(self, wrapper: WrapperName, tmp_path: Path) -> None:
        settings = settings_for(tmp_path / "home")
        (tmp_path / "home").mkdir()
        code = snippets.build_code(wrapper, find_source("embedded"), "int4", settings)
        (tmp_path / "notebook.py").write_text(code, "utf-8")
        if wrapper == "onnx":
            (tmp_path / "onnx_wrapper.py").write_text(snippets.onnx_wrapper_code(), "utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "notebook.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Madrid" in done.stdout
