"""Sources: which folders a build can start from, and what is said of the others."""

import json
from pathlib import Path

import pytest

from phi3kit.embedded import MODEL_FOLDER
from phi3kit.errors import SourceInvalid
from phi3kit.sources import find_source

CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    "max_position_embeddings": 4096,
    "num_hidden_layers": 32,
    "hidden_size": 3072,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a downloaded Phi-3: what a source is judged by, without the gigabytes."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def refusal(name: str | Path) -> SourceInvalid:
    with pytest.raises(SourceInvalid) as caught:
        find_source(str(name))
    return caught.value


class TestFindSource:
    def test_the_embedded_model_is_a_phi3_with_its_context(self):
        source = find_source("embedded")
        assert (source.name, source.folder) == ("embedded", MODEL_FOLDER)
        assert source.context_tokens == 4096
        assert 1_000_000 < source.size_bytes < 20_000_000

    def test_a_folder_is_described_by_its_config(self, folder: Path):
        source = find_source(str(folder))
        assert (source.name, source.folder, source.dtype) == (str(folder), folder, "bfloat16")
        assert (source.context_tokens, source.layers, source.hidden_size) == (4096, 32, 3072)
        assert source.size_bytes == 1000 + 2 * len("{}") + len(json.dumps(CONFIG))

    @pytest.mark.parametrize(
        "name", ["no/such/folder", "./owner/name", "/nowhere", "~nobody-of-that-name/x", "a" * 5000]
    )
    def test_a_folder_that_is_not_there_is_said_to_be_missing(self, name: str):
        assert refusal(name).why == "There is no such folder."

    def test_a_file_is_no_folder(self, folder: Path):
        assert refusal(folder / "config.json").why == "There is no such folder."

    @pytest.mark.parametrize("name", ["microsoft/Phi-3-mini-4k-instruct", "owner/name@main"])
    def test_a_name_on_the_hub_is_answered_with_a_download(self, name: str):
        error = refusal(name)
        assert "Hugging Face" in error.why
        assert error.next_step == "Download the model yourself and give its folder."

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
        assert find_source(str(folder)).layers == 32

    @pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
    def test_a_damaged_index_of_shards_is_named(self, folder: Path, index: str):
        (folder / "model.safetensors.index.json").write_text(index)
        assert refusal(folder).why == "model.safetensors.index.json cannot be read."

    def test_an_onnx_folder_is_told_apart_from_weights(self, folder: Path):
        (folder / "config.json").rename(folder / "genai_config.json")
        assert refusal(folder).why == "It is an ONNX model already; a build starts from transformers weights."
