"""Compare: an export is asked what its source says, and a difference shows."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.packaging.wrappers.compare import PROMPTS, same_beginnings
from phi3kit.tracking.logged_models import resolve
from tests.conftest import Built


@pytest.fixture(scope="module")
def int4(built: Built) -> mlflow.pyfunc.PyFuncModel:
    """The int4 wrapper as plain MLflow loads it."""
    mlflow.set_tracking_uri(built.settings.tracking_uri.reveal())
    return mlflow.pyfunc.load_model(built.uri("onnx"))


def edited(folder: Path, name: str, change: Any) -> Path:
    """The embedded model with one matrix changed."""
    import safetensors.torch

    shutil.copytree(MODEL_FOLDER, folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


class TestSameBeginnings:
    def test_there_are_fifty_prompts_and_none_twice(self):
        assert len(PROMPTS) == len(set(PROMPTS)) == 50

    def test_int4_begins_at_least_45_of_them_as_its_source_does(self, built: Built, int4: mlflow.pyfunc.PyFuncModel):
        said: list[int] = []
        same = same_beginnings(int4, MODEL_FOLDER, on_done=said.append)
        assert built.results["onnx"]["same_beginnings"] == f"{same} of 50"
        assert 45 <= same <= 50
        assert said == sorted(said)
        assert said[-1] == 50

    def test_one_prompt_alone_counts_as_it_does_among_others(self, int4: mlflow.pyfunc.PyFuncModel):
        assert same_beginnings(int4, MODEL_FOLDER, PROMPTS[:1]) == 1

    @pytest.mark.parametrize(
        ("name", "most"), [("model.layers.2.mlp.down_proj.weight", 30), ("model.layers.0.self_attn.o_proj.weight", 30)]
    )
    def test_a_source_with_one_matrix_changed_is_another_model(
        self, int4: mlflow.pyfunc.PyFuncModel, tmp_path: Path, name: str, most: int
    ):
        assert same_beginnings(int4, edited(tmp_path / "other", name, lambda matrix: -matrix)) <= most

    def test_a_source_that_ends_each_answer_later_is_another_model(
        self, int4: mlflow.pyfunc.PyFuncModel, tmp_path: Path
    ):
        source = tmp_path / "endless"
        shutil.copytree(MODEL_FOLDER, source)
        # The same weights, and an end token that none of them writes.
        for name in ("generation_config.json", "config.json"):
            config = json.loads((source / name).read_text())
            (source / name).write_text(json.dumps(config | {"eos_token_id": [4091]}))
        short = [prompt for prompt in PROMPTS if "capital of" in prompt]
        assert same_beginnings(int4, MODEL_FOLDER, short) >= 9
        assert same_beginnings(int4, source, short) == 0

    def test_damaged_weights_of_the_export_show(self, built: Built, tmp_path: Path):
        shutil.copytree(resolve(built.uri("onnx"), built.settings).folder, tmp_path / "damaged")
        (weights,) = (tmp_path / "damaged").rglob("model.onnx.data")
        data = bytearray(weights.read_bytes())
        begin = len(data) * 7 // 10  # behind the table of embeddings
        data[begin : begin + 400_000] = bytes(400_000)
        weights.unlink()  # a link to the built model's own
        weights.write_bytes(data)
        assert same_beginnings(mlflow.pyfunc.load_model(str(tmp_path / "damaged")), MODEL_FOLDER) < 25
