"""Builds: what the command line says and leaves behind, and that it works without phi3kit."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.chat_template import JINJA_TEMPLATE
from phi3kit.packaging import snippets
from phi3kit.packaging.events import BuildRequest, step_names
from phi3kit.packaging.wrappers.template import template_difference
from phi3kit.tracking.logged_models import files_of, list_models, resolve
from tests.conftest import CHAPTER_PROMPT, Built, run_cli, settings_for
from tests.support.folders import LONGROPE, TOKENIZER, edit_json, in_shards, tiny
from tests.support.samples import new_store

QUESTIONS = {
    "What is the capital of Spain?": "Madrid",
    "スペインの首都はどこですか？": "マドリード",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;": "Μαδρίτη",
}

# Whose configs: Phi-3-mini-128k's, Phi-3-medium's, and the type in which all of them are published.
FAMILY: dict[str, dict[str, Any]] = {
    "128k": {  # and, as medium has them, fewer heads of keys and values than of queries
        "dtype": "float32",
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": LONGROPE,
    },
    "bfloat16": {"dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Made:
    """A build with a store of its own, and what the command line said."""

    source: Path
    settings: Settings
    code: int
    stdout: str
    stderr: str

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Every line of `build --json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last line of each wrapper."""
        return {line["wrapper"]: line for line in self.lines if "model_uri" in line}


class Builds:
    """Builds by name, two at a time, each made once and before it is asked for: a test alone would wait a minute."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._threads = folder, ThreadPoolExecutor(2)
        self._made: dict[str, Future[Made]] = {}
        self._one_source_at_a_time = threading.Lock()

    def begin(
        self, name: str, wrapper: str, source: Callable[[Path], Path], *arguments: str,
        file_bytes: int | None = None, store: Callable[[Path], object] = new_store,
    ) -> None:  # fmt: skip
        """Build soon. source: makes it in a folder. file_bytes: no file may become bigger."""

        def make() -> Made:
            place = self._folder / name.replace(" ", "-")
            home = place / "home"
            home.mkdir(parents=True)
            store(home)
            with self._one_source_at_a_time:  # transformers sets the process' default type while it makes a model
                made = source(place / "source")
            command = ["build", "--wrapper", wrapper, "--source", str(made), *arguments, "--json"]
            done = run_cli(*command, home=home, timeout=300, file_bytes=file_bytes)
            return Made(made, settings_for(home), done.returncode, done.stdout, done.stderr)

        self._made[name] = self._threads.submit(make)

    def made(self, name: str) -> Made:
        """The build, when it has ended."""
        return self._made[name].result()

    def close(self) -> None:
        """Wait for what runs; begin nothing more."""
        self._threads.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def builds(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    """Every build of this file, begun at once."""
    all_builds = Builds(tmp_path_factory.mktemp("builds"))
    all_builds.begin("repository", "both", repository, "--precision", "fp32")
    (config,) = (built.settings.home / "artifacts").rglob("genai_config.json")
    all_builds.begin("onnx folder", "onnx", lambda folder: exported_with_a_window(config.parent, folder))
    for name, values in FAMILY.items():
        precision = "int4" if name == "bfloat16" else "fp32"
        all_builds.begin(name, "both", lambda folder, of=values: tiny(folder, **of), "--precision", precision)
    for wrapper in WRAPPERS:
        all_builds.begin(f"damaged {wrapper}", wrapper, damaged)
    all_builds.begin("full disk: export", "onnx", lambda folder: MODEL_FOLDER, file_bytes=2_000_000)
    all_builds.begin(
        "full disk: store",
        "transformers",
        lambda folder: MODEL_FOLDER,
        file_bytes=STORE_BYTES,
        store=store_without_room,
    )
    yield all_builds
    all_builds.close()


def repository(folder: Path) -> Path:
    """The embedded model in shards, with a template that ignores system messages, and code that says when it is run."""
    in_shards(folder)
    code = f"open({str(folder / 'this-code-was-run')!r}, 'w')\n"
    for name in ("configuration_phi3", "modeling_phi3", "tokenization_phi3"):
        (folder / f"{name}.py").write_text(
            f"{code}class Phi3Config: pass\nclass Phi3ForCausalLM: pass\nclass T: pass\n"
        )
    edit_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        },
    )
    ignores_system = JINJA_TEMPLATE.replace("{% if message['role'] == 'system' %}", "{% if false %}")
    edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_phi3.T", "tokenization_phi3.T"]},
        chat_template=ignores_system,
    )
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


def exported_with_a_window(exported: Path, folder: Path) -> Path:
    """An export as onnxruntime-genai's builder makes it when nobody asks otherwise."""
    shutil.copytree(exported, folder)
    model = json.loads((folder / "genai_config.json").read_text())["model"]
    window = {"window_size": 2047, "pad_value": 0, "alignment": "right", "slide_key_value_cache": True}
    edit_json(folder / "genai_config.json", model={**model, "decoder": {**model["decoder"], "sliding_window": window}})
    return folder


def damaged(folder: Path) -> Path:
    """Weights whose header can be read, with a tensor of another length than its shape says."""
    shutil.copytree(MODEL_FOLDER, folder)
    content = (folder / "model.safetensors").read_bytes()
    shape = b'"model.norm.weight":{"dtype":"F16","shape":[256]'
    assert content.count(shape) == 1
    (folder / "model.safetensors").write_bytes(content.replace(shape, shape.replace(b"256", b"255")))
    return folder


STORE_BYTES = 600_000  # more than any small file of a model


def store_without_room(home: Path) -> None:
    """A store that is packed full up to the limit."""
    new_store(home)
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("pragma page_size = 512")
        connection.execute("vacuum")
        used = (home / "mlflow.db").stat().st_size
        connection.execute("create table room (taken blob)")
        connection.execute("insert into room values (zeroblob(?))", (STORE_BYTES - used - 2_000,))


def assert_nothing_half_built(settings: Settings) -> None:
    """No model, no run under way, no files of either."""
    client = MlflowClient(settings.tracking_uri.reveal())
    experiment = client.get_experiment_by_name("phi3kit-builds")
    assert experiment is not None
    assert list_models(settings) == []
    assert client.search_logged_models([experiment.experiment_id]) == []
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FAILED"}
    assert list((settings.home / "exports").iterdir()) == []
    assert [path for path in (settings.home / "artifacts").rglob("*") if path.is_file()] == []


class TestResult:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_last_line_of_a_wrapper_has_the_contracts_keys(self, built: Built, wrapper: WrapperName) -> None:
        result = built.results[wrapper]
        keys = {"wrapper", "model_uri", "run_id", "signature_inputs", "signature_outputs", "size_bytes", "seconds"}
        assert keys <= set(result)
        assert str(result["model_uri"]).startswith("models:/m-")
        assert 1_000_000 < result["size_bytes"] < 40_000_000

    def test_both_wrappers_take_25_seconds_or_less(self, built: Built) -> None:
        # Measured alone: see bench/RESULTS.md. A busy machine takes longer for the same work.
        assert built.cpu_seconds < 50

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_each_step_is_reported_when_it_begins_and_when_it_ends(self, built: Built, wrapper: WrapperName) -> None:
        steps = [line for line in built.lines if line.get("event") == "step" and line["wrapper"] == wrapper]
        begun = [line["step"] for line in steps if line["seconds"] is None]
        ended = [line["step"] for line in steps if line["seconds"] is not None]
        assert begun == ended == step_names(BuildRequest(WRAPPERS, "embedded", "int4"), wrapper)

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
    @pytest.mark.usefixtures("cold_python")
    def test_the_logged_models_answer_where_phi3kit_is_not_installed(self, built: Built, tmp_path: Path) -> None:
        script = tmp_path / "ask.py"
        script.write_text(
            f"""
import importlib.util, json, mlflow
assert importlib.util.find_spec("phi3kit") is None
mlflow.set_tracking_uri({built.settings.tracking_uri.reveal()!r})
chat, raw = (mlflow.pyfunc.load_model(uri) for uri in {[built.uri("transformers"), built.uri("onnx")]!r})
answers = []
for question in {list(QUESTIONS)!r}:
    reply = chat.predict({{"messages": [{{"role": "user", "content": question}}], "temperature": 0.01}})
    answers.append(reply[0]["choices"][0]["message"]["content"])
    answers += raw.predict({{"prompt": f"<|user|>\\n{{question}}<|end|>\\n<|assistant|>\\n"}})
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
        for number, wanted in enumerate(QUESTIONS.values()):
            assert wanted in answers[2 * number], "the transformers wrapper"
            assert wanted in answers[2 * number + 1], "the onnx wrapper"

    def test_the_requirements_name_no_phi3kit(self, built: Built) -> None:
        for wrapper in WRAPPERS:
            text = (resolve(built.uri(wrapper), built.settings).folder / "requirements.txt").read_text()
            assert "phi3kit" not in text
            assert all("==" in line for line in text.split())


@pytest.fixture(scope="module")
def model(built: Built) -> mlflow.pyfunc.PyFuncModel:
    """The onnx wrapper as plain MLflow loads it."""
    mlflow.set_tracking_uri(built.settings.tracking_uri.reveal())
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

    def test_a_begun_answer_goes_on_with_its_space(self, model: mlflow.pyfunc.PyFuncModel) -> None:
        begun = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\nThe capital"
        assert model.predict({"prompt": begun}) == [" of Spain is Madrid."]
        assert next(model.predict_stream({"prompt": begun})).startswith(" ")

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

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_damaged_weights_leave_nothing_listed(self, builds: Builds, wrapper: WrapperName) -> None:
        made = builds.made(f"damaged {wrapper}")
        assert made.code == 2
        assert "Traceback" not in made.stderr
        last = made.stderr.strip().splitlines()[-1]
        assert last.startswith(("phi3kit: Building the transformers wrapper failed", "phi3kit: The ONNX export failed"))
        assert "Error while deserializing header: " in last
        assert_nothing_half_built(made.settings)

    def test_a_data_folder_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("in the way")
        done = run_cli("build", "--wrapper", "onnx", home=tmp_path / "home")
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


class TestOneBuildOfARepositorysFiles:
    """Weights in two shards with code, pickles and another chat template beside them; both wrappers, fp32."""

    @pytest.fixture
    def made(self, builds: Builds) -> Made:
        return builds.made("repository")

    def test_builds_both_wrappers(self, made: Made) -> None:
        assert made.code == 0, made.stderr
        assert [made.results[wrapper]["precision"] for wrapper in WRAPPERS] == ["float16", "fp32"]
        assert {made.results[wrapper]["check_answer"] for wrapper in WRAPPERS} == {"The capital of Spain is Madrid."}

    def test_runs_no_code_of_the_source(self, made: Made) -> None:
        assert not (made.source / "this-code-was-run").exists()

    def test_an_export_without_quantization_says_what_its_source_says(self, made: Made) -> None:
        assert made.results["onnx"]["same_beginnings"] == "50 of 50"
        assert made.results["transformers"]["same_beginnings"] is None

    def test_notes_the_other_chat_template(self, made: Made) -> None:
        (note,) = made.results["transformers"]["notes"]
        assert note.startswith("Its own chat template renders a system message differently from Phi-3's")
        assert "<|system|>" in note
        assert made.results["onnx"]["notes"] == [note]
        assert {"wrapper": "onnx", "text": note, "event": "note"} in made.lines

    def test_copies_the_weights_once(self, made: Made) -> None:
        """Whoever changes the source's files afterwards changes no logged model."""
        logged = resolve(made.results["transformers"]["model_uri"], made.settings).folder / "model"
        shards = sorted(path.name for path in made.source.glob("*.safetensors"))
        assert len(shards) == 2
        for name in shards:
            assert (logged / name).stat().st_nlink == 1
            assert (logged / name).read_bytes() == (made.source / name).read_bytes()
        assert list((made.settings.home / "exports").iterdir()) == []
        big = [path for path in made.settings.home.rglob("*") if path.is_file() and path.stat().st_size > 2_000_000]
        assert sorted(path.name for path in big) == [*shards, "model.onnx.data"]

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_says_how_big_the_logged_models_are(self, made: Made, wrapper: WrapperName) -> None:
        result = made.results[wrapper]
        real = sum(size for _, size in files_of(result["model_uri"], made.settings))
        assert result["size_bytes"] <= real < result["size_bytes"] + 20_000

    def test_the_embedded_models_template_needs_no_note(self, built: Built) -> None:
        assert [built.results[wrapper]["notes"] for wrapper in WRAPPERS] == [[], []]
        assert [line for line in built.lines if line.get("event") == "note"] == []


class TestChatTemplateNote:
    """What is said of a template that is not Phi-3's; the embedded tokenizer does the counting."""

    def note(self, tmp_path: Path, template: str | None) -> str | None:
        for name in TOKENIZER:
            (tmp_path / name).write_bytes((MODEL_FOLDER / name).read_bytes())
        edit_json(tmp_path / "tokenizer_config.json", chat_template=template)
        return template_difference(tmp_path)

    def test_there_is_none_for_phi3s_own(self, tmp_path: Path) -> None:
        assert self.note(tmp_path, JINJA_TEMPLATE) is None

    def test_line_breaks_that_the_tokenizer_takes_away_are_no_difference(self, tmp_path: Path) -> None:
        assert self.note(tmp_path, JINJA_TEMPLATE.replace("|>\n'", "|>'")) is None

    def test_another_structure_is_shown_beside_phi3s(self, tmp_path: Path) -> None:
        note = self.note(tmp_path, "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}")
        assert note is not None
        assert note.startswith("Its own chat template renders messages differently")
        assert "'[INST] Hello [/INST]' vs. '<|user|>\\nHello<|end|>\\n<|assistant|>\\n'" in note

    def test_earlier_answers_are_looked_at_too(self, tmp_path: Path) -> None:
        note = self.note(tmp_path, JINJA_TEMPLATE.replace("'<|assistant|>\n' + message", "message"))
        assert note is not None
        assert note.startswith("Its own chat template renders an earlier answer differently")

    def test_one_that_refuses_a_role_is_no_failure(self, tmp_path: Path) -> None:
        refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role!') }}{% endif %}"
        note = self.note(tmp_path, refusing + JINJA_TEMPLATE)
        assert (
            note == "Its own chat template refuses a system message: No system role! phi3kit's workers apply Phi-3's."
        )

    def test_a_damaged_one_is_no_failure(self, tmp_path: Path) -> None:
        note = self.note(tmp_path, "{% for")
        assert note is not None
        assert note.startswith("Its own chat template refuses messages: ")

    def test_none_at_all_is_said(self, tmp_path: Path) -> None:
        note = self.note(tmp_path, None)
        assert note == "It has no chat template of its own; phi3kit's workers apply Phi-3's."


class TestOnnxFolder:
    @pytest.fixture
    def made(self, builds: Builds) -> Made:
        return builds.made("onnx folder")

    def test_is_wrapped_without_an_export(self, made: Made) -> None:
        assert made.code == 0, made.stderr
        assert [line["step"] for line in made.lines if line.get("event") == "step" and line["seconds"]] == step_names(
            BuildRequest(("onnx",), "", "int4"), "onnx", exported=True
        )
        result = made.results["onnx"]
        assert (result["precision"], result["same_beginnings"]) == ("as exported", None)
        assert result["check_answer"] == "The capital of Spain is Madrid."

    def test_its_window_is_taken_out_of_the_logged_copy_with_a_note(self, made: Made) -> None:
        assert made.results["onnx"]["notes"] == [
            "Its genai_config.json caps the KV cache at the sliding window, which causes a crash past 2,063 tokens; "
            "the logged copy does not."
        ]
        folder = resolve(made.results["onnx"]["model_uri"], made.settings).folder
        (logged,) = folder.rglob("genai_config.json")
        assert "sliding_window" not in logged.read_text()
        assert "sliding_window" in (made.source / "genai_config.json").read_text()

    @pytest.mark.parametrize("wrapper", ["transformers", "both"])
    def test_is_no_source_for_the_transformers_wrapper(self, made: Made, tmp_path: Path, wrapper: str) -> None:
        home = tmp_path / "home"
        done = run_cli("build", "--wrapper", wrapper, "--source", str(made.source), home=home)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert "its weights are in a form that only ONNX Runtime reads" in done.stderr
        assert [path.name for path in home.iterdir()] == ["builds"]


class TestTheFamily:
    """Random models with two layers, as far as their configs go like the repositories of Phi-3."""

    @pytest.mark.parametrize("name", FAMILY)
    def test_both_wrappers_are_built_and_answer(self, builds: Builds, name: str) -> None:
        made = builds.made(name)
        assert made.code == 0, made.stderr
        assert all(made.results[wrapper]["check_answer"] for wrapper in WRAPPERS)
        assert made.results["transformers"]["precision"] == FAMILY[name]["dtype"]
        config = json.loads((made.source / "config.json").read_text())
        for wrapper in WRAPPERS:
            tags = MlflowClient(made.settings.tracking_uri.reveal()).get_run(made.results[wrapper]["run_id"]).data.tags
            assert tags["phi3kit.context_tokens"] == str(config["max_position_embeddings"])

    def test_the_export_computes_what_the_source_computes(self, builds: Builds) -> None:
        assert builds.made("128k").results["onnx"]["same_beginnings"] == "50 of 50"

    def test_bfloat16_weights_stay_bfloat16(self, builds: Builds) -> None:
        made = builds.made("bfloat16")
        folder = resolve(made.results["transformers"]["model_uri"], made.settings).folder
        assert (folder / "model/model.safetensors").read_bytes() == (made.source / "model.safetensors").read_bytes()
        assert json.loads((folder / "model" / "config.json").read_text())["torch_dtype"] == "bfloat16"
        assert made.results["onnx"]["same_beginnings"].endswith(" of 50")


class TestFullDisk:
    """A limit on the size of files stands for a disk that takes no more."""

    def test_an_export_that_cannot_be_written_is_one_clear_error(self, builds: Builds) -> None:
        made = builds.made("full disk: export")
        assert made.code == 2
        assert made.stderr.strip().splitlines()[-1] == (
            f"phi3kit: The data folder {made.settings.home} cannot be written. File too large. "
            "Free some space or set PHI3KIT_HOME to a folder that you may write to."
        )
        assert "Traceback" not in made.stderr
        assert_nothing_half_built(made.settings)

    def test_a_store_that_cannot_grow_is_one_clear_error(self, builds: Builds) -> None:
        made = builds.made("full disk: store")
        assert made.code == 2
        assert made.stderr.strip().splitlines()[-1] == (
            "phi3kit: The tracking store did not answer. (sqlite3.OperationalError) disk I/O error. "
            f"Check MLFLOW_TRACKING_URI and the free space in {made.settings.home}, then try again."
        )
        assert "Traceback" not in made.stderr
        assert "Traceback" not in made.stdout
        assert_nothing_half_built(made.settings)


class TestSnippets:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_code_beside_a_build_runs_as_shown(self, wrapper: WrapperName, tmp_path: Path) -> None:
        settings = settings_for(tmp_path / "home")
        (tmp_path / "home").mkdir()
        code = snippets.build_code(wrapper, "embedded", None, "int4", settings)
        (tmp_path / "notebook.py").write_text(code, "utf-8")
        if wrapper == "onnx":
            (tmp_path / "onnx_wrapper.py").write_text(snippets.onnx_wrapper_code(), "utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "notebook.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Madrid" in done.stdout
