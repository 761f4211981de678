"""Logging a wrapper: what a logged model holds, and that its weights were neither changed nor copied about."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.models.model import ModelInfo

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.model_copy import FileChanged, copy_file, copy_model, link_or_copy
from phi3kit.formats.model_folder import files_in
from phi3kit.packaging.wrappers.check import answer_of, load
from phi3kit.packaging.wrappers.log import log_onnx, log_transformers
from phi3kit.tracking.logged_models import files_of, resolve
from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, open_store
from tests.conftest import Built
from tests.support.folders import edit_json, in_shards
from tests.support.samples import new_store

OTHER_DISK = Path("/dev/shm")
two_file_systems = pytest.mark.skipif(
    not OTHER_DISK.is_dir() or os.stat(OTHER_DISK).st_dev == os.stat("/tmp").st_dev, reason="one file system"
)


@dataclass(frozen=True)
class Logged:
    """A source and the model that was logged from it."""

    source: Path
    info: ModelInfo
    folder: Path  # of the logged model
    weights: Path  # in it
    settings: Settings


def log(wrapper: WrapperName, source: Path, settings: Settings) -> Logged:
    """Log the known part of a folder, as a build does."""
    open_store(settings)
    with tempfile.TemporaryDirectory(dir=settings.home) as temporary:
        known = Path(temporary) / source.name
        copy_model("a name", [source], known)
        info = _logged(wrapper, known, settings)
    folder = resolve(info.model_uri, settings).folder
    inside = folder / "model" if wrapper == "transformers" else next((folder / "artifacts").iterdir())
    return Logged(source, info, folder, inside, settings)


def _logged(wrapper: WrapperName, source: Path, settings: Settings) -> ModelInfo:
    with mlflow.start_run(experiment_id=experiment_id(settings, BUILDS_EXPERIMENT)):
        if wrapper == "transformers":
            return log_transformers(source, "a name", {"phi3kit.source": "a name"})
        return log_onnx(source, {"phi3kit.source": "a name"})


def weight_files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx", ".data")}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return new_store(tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in two shards, with all that lies about in a repository besides."""
    folder = in_shards(tmp_path_factory.mktemp("repository") / "phi")
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"})
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_phi3.Phi3Tokenizer", None]})
    for name in ("modeling_phi3.py", "configuration_phi3.py", "sample_finetune.py"):
        (folder / name).write_text("raise SystemExit\n")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(b"pickle")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").write_text("MIT License")
    (folder / "notes.json").write_text('{"auto_map": "of something else", "half": ')  # none of our business
    (folder / "LICENSES").mkdir()
    (folder / "figures.json").mkdir()
    return folder


@pytest.fixture(scope="module")
def onnx_folder(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export under a name that MLflow takes for a part of a URL, with the window that phi3kit's exports lack."""
    (config,) = (built.settings.home / "artifacts").rglob("genai_config.json")
    folder = tmp_path_factory.mktemp("export") / "cpu int4 #1 %41 Φ"
    shutil.copytree(config.parent, folder)
    model = read_json(config)["model"]
    window = {"window_size": 2047, "pad_value": 0, "alignment": "right", "slide_key_value_cache": True}
    decoder = {**model["decoder"], "sliding_window": window}
    edit_json(folder / "genai_config.json", model={**model, "decoder": decoder})
    return folder


@pytest.fixture(scope="module")
def transformers_logged(repository: Path, settings: Settings) -> Logged:
    return log("transformers", repository, settings)


@pytest.fixture(scope="module")
def onnx_logged(onnx_folder: Path, settings: Settings) -> Logged:
    return log("onnx", onnx_folder, settings)


@pytest.fixture(params=WRAPPERS)
def logged(request: pytest.FixtureRequest) -> Logged:
    """A logged model of each wrapper: a test that takes it runs twice."""
    return request.getfixturevalue(f"{request.param}_logged")


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than the data folder."""
    folder = OTHER_DISK / f"phi3kit-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


class TestWeights:
    def test_are_the_sources_own_files_under_a_second_name(self, logged: Logged):
        here, there = weight_files(logged.source), weight_files(logged.weights)
        assert set(here) == set(there)
        assert len(there) == 2
        for name in there:
            assert os.path.samefile(here[name], there[name])
            assert not there[name].is_symlink()

    def test_keep_their_shards_and_their_dtype(self, transformers_logged: Logged):
        folder = transformers_logged.weights
        assert sorted(weight_files(folder)) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        index = "model.safetensors.index.json"
        places = (read_json(each / index)["weight_map"] for each in (folder, transformers_logged.source))
        assert next(places) == next(places)
        assert read_json(folder / "config.json")["dtype"] == "float16"

    @two_file_systems
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_of_another_file_system_are_copied_once(
        self, wrapper: WrapperName, logged_sources: dict[str, Path], settings: Settings, other_disk: Path
    ):
        source = other_disk / "phi"
        shutil.copytree(logged_sources[wrapper], source)
        before = set(settings.home.rglob("*"))
        logged = log(wrapper, source, settings)
        here, there = weight_files(source), weight_files(logged.weights)
        assert set(here) == set(there)
        for name in there:
            assert here[name].read_bytes() == there[name].read_bytes()
            assert here[name].stat().st_dev != there[name].stat().st_dev
        new = [path for path in set(settings.home.rglob("*")) - before if path.name in here]
        assert sorted(new) == sorted(there.values())

    def test_that_are_links_into_a_downloads_cache_become_files(self, tmp_path: Path):
        snapshot, blob = tmp_path / "snapshots" / "c0ffee", tmp_path / "blobs" / "hash"
        snapshot.mkdir(parents=True)
        blob.parent.mkdir()
        blob.write_bytes(b"weights")
        (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
        link_or_copy(files_in(snapshot)["model.safetensors"], tmp_path / "logged")
        assert not (tmp_path / "logged").is_symlink()
        assert os.path.samefile(blob, tmp_path / "logged")

    def test_that_are_links_themselves_are_not_followed(self, tmp_path: Path):
        (tmp_path / "private").write_bytes(b"secret")
        (tmp_path / "model.safetensors").symlink_to("private")
        for place in (link_or_copy, copy_file):
            with pytest.raises(FileChanged, match=r"model\.safetensors is gone, or a link or a pipe"):
                place(tmp_path / "model.safetensors", tmp_path / "logged")
        assert not os.path.lexists(tmp_path / "logged")


@pytest.fixture(scope="module")
def logged_sources(repository: Path, onnx_folder: Path) -> dict[str, Path]:
    return {"transformers": repository, "onnx": onnx_folder}


class TestSmallFiles:
    def test_hold_no_code_and_no_pickle_of_the_source(self, logged: Logged):
        names = {Path(name).name for name, _ in files_of(logged.info.model_uri, logged.settings)}
        assert not {name for name in names if name.endswith((".bin", ".pt", ".pkl"))}
        assert {name for name in names if name.endswith(".py")} <= {"onnx_wrapper.py"}

    def test_name_no_code_of_the_source(self, transformers_logged: Logged):
        configs = list(transformers_logged.folder.rglob("*config.json"))
        assert len(configs) >= 4
        for path in configs:
            assert "auto_map" not in path.read_text("utf-8"), path
        assert "auto_map" in (transformers_logged.source / "config.json").read_text("utf-8")

    def test_keep_the_window_that_the_transformers_model_needs(self, transformers_logged: Logged):
        logged, source = (read_json(each / "config.json") for each in (transformers_logged.weights, MODEL_FOLDER))
        assert logged["sliding_window"] == source["sliding_window"] == 2047

    def test_lack_the_window_that_would_end_in_a_crash(self, onnx_logged: Logged):
        assert "sliding_window" not in (onnx_logged.weights / "genai_config.json").read_text("utf-8")
        source = read_json(onnx_logged.source / "genai_config.json")["model"]["decoder"]
        assert source.pop("sliding_window")["window_size"] == 2047  # the source is as it was
        assert read_json(onnx_logged.weights / "genai_config.json")["model"]["decoder"] == source

    def test_have_the_sources_license_and_what_is_known_and_nothing_else(self, transformers_logged: Logged):
        assert (transformers_logged.folder / "LICENSE.txt").read_text() == "MIT License"
        for name in ("README.md", "LICENSE"):
            assert (transformers_logged.weights / name).read_bytes() == (transformers_logged.source / name).read_bytes()
        for name in ("tokenizer.json", "generation_config.json"):
            assert read_json(transformers_logged.weights / name) == read_json(transformers_logged.source / name)
        assert not (transformers_logged.weights / "notes.json").exists()

    def test_lie_under_a_name_that_mlflow_can_read(self, onnx_logged: Logged):
        assert onnx_logged.weights.name == "cpu-int4--1--41--"


class TestModel:
    def test_says_how_big_it_is(self, logged: Logged):
        said = mlflow.models.Model.load(logged.info.model_uri).model_size_bytes
        real = sum(size for _, size in files_of(logged.info.model_uri, logged.settings))
        assert said <= real < said + 20_000  # MLmodel and the requirements are written after counting

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_answers_through_plain_mlflow(self, wrapper: WrapperName, request: pytest.FixtureRequest):
        logged = request.getfixturevalue(f"{wrapper}_logged")
        mlflow.set_tracking_uri(logged.settings.tracking_uri.reveal())
        assert answer_of(load(logged.info.model_uri, wrapper), wrapper) == "The capital of Spain is Madrid."

    def test_carries_what_is_known_of_its_source_and_no_path(self, logged: Logged):
        model = mlflow.models.Model.load(logged.info.model_uri)
        assert model.metadata is not None
        assert model.metadata["phi3kit.source"] == "a name"
        described = (logged.folder / "MLmodel").read_text("utf-8")
        assert not re.search(r"(?<![\w.])/\w+/|file:", described.replace("llm/v1/chat", "")), "a path of this machine"
        assert str(logged.settings.home) not in described
        example = model.load_input_example(str(logged.folder))
        assert example is not None
        assert "capital of Spain" in str(example)
        mlflow.set_tracking_uri(logged.settings.tracking_uri.reveal())

    def test_what_a_loader_overrides_reaches_onnx_runtime(self, onnx_logged: Logged):
        prompt = "<|user|>\nTell me a joke<|end|>\n<|assistant|>\n"
        mlflow.set_tracking_uri(onnx_logged.settings.tracking_uri.reveal())
        config = {"max_tokens": 24, "do_sample": True, "temperature": 50.0, "top_p": 1.0}
        hot = mlflow.pyfunc.load_model(onnx_logged.info.model_uri, model_config=config)
        assert len({hot.predict({"prompt": prompt})[0] for _ in range(3)}) > 1
        with pytest.raises(ValueError, match="one prompt and got 2"):
            list(hot.predict_stream({"prompt": [prompt, prompt]}))
