"""Sources: which folders a build can start from, and what is said of the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import SourceInvalid
from phi3kit.core.settings import PROJECT_ROOT, read_settings
from phi3kit.formats.model_folder import Shape, judge, sizes_of
from phi3kit.packaging.sources.find import Source, find_source, lies_on_the_hub
from tests.support.actors import ADMIN
from tests.support.folders import edit_json

# No hub is asked: nothing listens there.
SETTINGS = read_settings({"PHI3KIT_HOME": "/no/such/home", "HF_ENDPOINT": "http://127.0.0.1:9"})

CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    "max_position_embeddings": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_size": 3072,
    "vocab_size": 32064,
    "torch_dtype": "bfloat16",
}
WEIGHT_BYTES = 15_300_000_000  # as float32
# What microsoft/Phi-3-mini-4k-instruct-onnx says of itself, as far as it is read.
GENAI_CONFIG: dict[str, Any] = {
    "model": {
        "type": "phi3",
        "context_length": 4096,
        "vocab_size": 32064,
        "decoder": {
            "filename": "model.onnx",
            "head_size": 96,
            "hidden_size": 3072,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        },
    }
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a downloaded Phi-3: what a source is judged by, without the gigabytes."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(WEIGHT_BYTES)  # takes no room on the disk
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.fixture
def onnx_folder(tmp_path: Path) -> Path:
    """A folder that looks like an exported Phi-3."""
    (tmp_path / "genai_config.json").write_text(json.dumps(GENAI_CONFIG))
    (tmp_path / "model.onnx").write_bytes(b"x" * 10)
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 1000)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def find(name: str | Path) -> Source:
    return find_source(str(name), ADMIN, SETTINGS)


def refusal(name: str | Path) -> SourceInvalid:
    with pytest.raises(SourceInvalid) as caught:
        find(name)
    return caught.value


def edit_decoder(folder: Path, **values: Any) -> None:
    """Change the decoder's part of a genai_config.json; None takes a key away."""
    model = json.loads((folder / "genai_config.json").read_text())["model"]
    decoder = {key: value for key, value in {**model["decoder"], **values}.items() if value is not None}
    edit_json(folder / "genai_config.json", model={**model, "decoder": decoder})


class TestFindSource:
    def test_the_embedded_model_is_a_phi3_with_its_context(self):
        source = find("embedded")
        assert (source.name, source.folder, source.kind) == ("embedded", MODEL_FOLDER, "weights")
        assert source.shape == Shape(4096, 4, 256, 4, 64, 4096, "float16")
        assert source.files.weight_bytes == (MODEL_FOLDER / "model.safetensors").stat().st_size
        assert source.files.size_bytes == sum(path.stat().st_size for path in MODEL_FOLDER.iterdir() if path.is_file())
        assert (source.commit, source.license, source.download_bytes) == (None, None, 0)

    def test_a_folder_is_described_by_its_config(self, folder: Path):
        source = find(folder)
        assert (source.name, source.folder) == (str(folder), folder)
        assert source.shape == Shape(4096, 32, 3072, 32, 96, 32064, "bfloat16")
        assert source.shape.kv_numbers == 2 * 32 * 32 * 96
        assert source.files.weight_bytes == WEIGHT_BYTES
        assert source.files.size_bytes == WEIGHT_BYTES + 2 * len("{}") + len(json.dumps(CONFIG))

    def test_a_relative_folder_is_found_whatever_the_working_folder_is_later(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(folder.parent)
        assert find(folder.name).folder == folder

    @pytest.mark.parametrize(
        "name", ["no such/folder", "./owner/name", "/nowhere", "~nobody-of-that-name/x", "a" * 5000, ""]
    )
    def test_a_folder_that_is_not_there_is_said_to_be_missing(self, name: str):
        assert refusal(name).why == "There is no such folder."

    @pytest.mark.parametrize(
        ("name", "on_the_hub"),
        [
            ("microsoft/Phi-3-mini-4k-instruct@main", True),
            ("embedded", False),
            ("phi3kit/packaging", False),
            ("/x", False),
        ],
    )
    def test_a_repository_is_told_from_a_folder_by_its_form_and_by_what_is_here(
        self, name: str, on_the_hub: bool, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(PROJECT_ROOT)
        assert lies_on_the_hub(name) is on_the_hub

    def test_a_file_is_no_folder(self, folder: Path):
        assert refusal(folder / "config.json").why == "There is no such folder."

    def test_another_architecture_is_named(self, folder: Path):
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        assert refusal(folder).why == "Its config.json names LlamaForCausalLM; Phi3ForCausalLM is needed."

    @pytest.mark.parametrize("config", ["[]", "{}", "null", '{"architectures": null}', '{"architectures": 3}'])
    def test_a_config_without_an_architecture_is_not_phi3(self, folder: Path, config: str):
        (folder / "config.json").write_text(config)
        assert refusal(folder).what == f"The source {folder} is not a Phi-3 model."

    @pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
    def test_a_damaged_config_is_named(self, folder: Path, content: bytes):
        (folder / "config.json").write_bytes(content)
        assert refusal(folder).why == "config.json cannot be read as JSON."

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    def test_a_missing_file_is_named(self, folder: Path, name: str):
        (folder / name).unlink()
        assert refusal(folder).why == f"{name} is missing."

    def test_missing_weights_are_said_to_be_missing(self, folder: Path):
        (folder / "model.safetensors").unlink()
        assert refusal(folder).why == "It has no weights: no file ends in .safetensors."

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
    def test_pickled_weights_are_refused_because_they_run_code(self, folder: Path, name: str):
        (folder / "model.safetensors").rename(folder / name)
        assert "a pickle can run any code" in refusal(folder).why

    def test_a_missing_shard_is_named(self, folder: Path):
        shards = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        assert refusal(folder).why == "model-00002-of-00002.safetensors is missing."
        (folder / shards["b"]).write_bytes(b"x")
        source = find(folder)
        assert (source.shape.layers, source.files.weight_bytes) == (32, WEIGHT_BYTES + 1)

    @pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
    def test_a_damaged_index_of_shards_is_named(self, folder: Path, index: str):
        (folder / "model.safetensors.index.json").write_text(index)
        assert refusal(folder).why == "model.safetensors.index.json cannot be read."


class TestConfigOfWeights:
    """What a damaged or foreign config.json would only show after an hour of export."""

    @pytest.mark.parametrize(
        "key", ["num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"]
    )
    def test_a_missing_number_is_named(self, folder: Path, key: str):
        edit_json(folder / "config.json", **{key: None})
        why = f"{key} in its config.json is None; a whole number of 1 or more is needed."
        assert refusal(folder).why == why

    @pytest.mark.parametrize("value", ["32", 0, -1, 2.5, True, [32], {}], ids=repr)
    def test_what_is_no_number_is_shown(self, folder: Path, value: object):
        edit_json(folder / "config.json", num_hidden_layers=value)
        assert refusal(folder).why.startswith(f"num_hidden_layers in its config.json is {value!r}; a whole number")

    def test_every_head_has_its_own_keys_when_nothing_is_said(self, folder: Path):
        edit_json(folder / "config.json", num_key_value_heads=None)
        assert find(folder).shape.kv_heads == 32

    def test_grouped_heads_share_theirs(self, folder: Path):
        edit_json(folder / "config.json", num_key_value_heads=8)
        assert find(folder).shape.kv_numbers == 2 * 32 * 8 * 96

    def test_a_context_that_no_phi3_has_is_refused(self, folder: Path):
        edit_json(folder / "config.json", max_position_embeddings=10**12)
        error = refusal(folder)
        assert (
            error.why == "max_position_embeddings in its config.json is 1,000,000,000,000 tokens, which no Phi-3 has."
        )
        assert error.next_step == "Correct max_position_embeddings: 4096 or 131072."

    def test_the_long_context_is_one(self, folder: Path):
        edit_json(folder / "config.json", max_position_embeddings=131072)
        assert find(folder).shape.context_tokens == 131072

    @pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
    def test_a_dtype_that_is_not_known_is_refused(self, folder: Path, key: str):
        edit_json(folder / "config.json", **{"torch_dtype": None, key: "float8_e4m3fn"})
        error = refusal(folder)
        assert error.why == "Its config.json says that the weights are float8_e4m3fn."
        assert error.next_step == "Use weights in float32, float16, bfloat16."

    def test_weights_are_float32_when_nothing_is_said(self, folder: Path):
        edit_json(folder / "config.json", torch_dtype=None)
        assert find(folder).shape.dtype == "float32"


class TestOnnxFolder:
    def test_is_described_by_its_genai_config(self, onnx_folder: Path):
        source = find(onnx_folder)
        assert (source.kind, source.folder) == ("onnx", onnx_folder)
        assert source.shape == Shape(4096, 32, 3072, 32, 96, 32064, "")
        assert source.files.weight_bytes == 1010
        assert source.files.size_bytes == sum(sizes_of(onnx_folder).values())
        assert not source.files.sliding_window

    def test_a_config_of_the_weights_beside_it_is_not_read(self, onnx_folder: Path):
        (onnx_folder / "config.json").write_text("{")
        assert find(onnx_folder).kind == "onnx"

    def test_a_missing_graph_is_named(self, onnx_folder: Path):
        (onnx_folder / "model.onnx").rename(onnx_folder / "other.onnx")
        assert refusal(onnx_folder).why == "model.onnx, the graph that its genai_config.json names, is missing."

    @pytest.mark.parametrize("graph", ["../model.onnx", "/etc/passwd", "deep/model.onnx", "", 7], ids=repr)
    def test_a_graph_outside_the_folder_is_refused(self, onnx_folder: Path, graph: object):
        edit_decoder(onnx_folder, filename=graph)
        assert refusal(onnx_folder).why == "Its genai_config.json names no graph in the folder."

    def test_another_type_of_model_is_named(self, onnx_folder: Path):
        edit_json(onnx_folder / "genai_config.json", model={**GENAI_CONFIG["model"], "type": "llama"})
        error = refusal(onnx_folder)
        assert error.what == f"The source {onnx_folder} is not a Phi-3 model."
        assert error.why == "Its genai_config.json says type llama; phi3 is needed."

    @pytest.mark.parametrize("provider", [{"cuda": {"enable_cuda_graph": "0"}}, {"DML": {}}, "cuda"], ids=str)
    def test_one_that_was_made_for_another_device_is_refused(self, onnx_folder: Path, provider: object):
        edit_decoder(onnx_folder, session_options={"provider_options": [provider]})
        error = refusal(onnx_folder)
        name = provider if isinstance(provider, str) else next(iter(provider))  # type: ignore[call-overload]
        assert error.why == f"It was made for {name}, and this machine's CPU cannot run it."
        assert error.next_step == "Choose a folder for the CPU."

    @pytest.mark.parametrize("options", [None, {}, {"provider_options": None}, {"provider_options": [{"cpu": {}}]}])
    def test_one_that_names_the_cpu_or_nothing_is_for_the_cpu(self, onnx_folder: Path, options: object):
        edit_decoder(onnx_folder, session_options=options)
        assert find(onnx_folder).kind == "onnx"

    def test_a_sliding_window_that_caps_the_cache_is_noticed(self, onnx_folder: Path):
        edit_decoder(onnx_folder, sliding_window={"window_size": 2047, "slide_key_value_cache": True})
        assert find(onnx_folder).files.sliding_window

    @pytest.mark.parametrize("key", ["head_size", "hidden_size", "num_hidden_layers", "num_key_value_heads"])
    def test_a_missing_number_is_named(self, onnx_folder: Path, key: str):
        edit_decoder(onnx_folder, **{key: None})
        assert refusal(onnx_folder).why.startswith(f"{key} in its genai_config.json is None")

    @pytest.mark.parametrize("key", ["context_length", "vocab_size"])
    def test_a_missing_number_of_the_model_is_named(self, onnx_folder: Path, key: str):
        model = {name: value for name, value in GENAI_CONFIG["model"].items() if name != key}
        edit_json(onnx_folder / "genai_config.json", model=model)
        assert refusal(onnx_folder).why.startswith(f"{key} in its genai_config.json is None")

    def test_a_context_that_no_phi3_has_is_refused(self, onnx_folder: Path):
        edit_json(onnx_folder / "genai_config.json", model={**GENAI_CONFIG["model"], "context_length": 10**12})
        assert "1,000,000,000,000 tokens, which no Phi-3 has" in refusal(onnx_folder).why

    @pytest.mark.parametrize("model", [None, [], {"type": "phi3"}, {"type": "phi3", "decoder": "model.onnx"}], ids=str)
    def test_a_config_without_a_decoder_is_refused(self, onnx_folder: Path, model: object):
        (onnx_folder / "genai_config.json").write_text(json.dumps({"model": model}))
        assert refusal(onnx_folder).why == "Its genai_config.json describes no decoder."

    def test_a_config_that_is_no_json_is_named(self, onnx_folder: Path):
        (onnx_folder / "genai_config.json").write_text("{")
        assert refusal(onnx_folder).why == "genai_config.json cannot be read as JSON."

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    def test_a_missing_tokenizer_is_named(self, onnx_folder: Path, name: str):
        (onnx_folder / name).unlink()
        assert refusal(onnx_folder).why == f"{name} is missing."


class TestJudge:
    def test_needs_only_the_small_files_on_this_machine(self, folder: Path):
        sizes = sizes_of(folder) | {"model.safetensors": 7_642_181_880, "tokenizer.json": 1_937_869}
        for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        files = judge("owner/name", folder, sizes)
        assert (files.kind, files.weight_bytes) == ("weights", 7_642_181_880)
        assert files.size_bytes == sum(sizes.values())
