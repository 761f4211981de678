"""The ONNX export attends where the source does: within the sliding window of a model that has one, else everywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.packaging.export import export_onnx, window_of
from phi3kit.worker.runtime_onnx import OnnxRuntime

TEXT = [int(token) for token in np.random.default_rng(0).integers(300, 4000, 60)]


def source_with(folder: Path, window: int | None) -> Path:
    """The embedded model with another sliding window."""
    shutil.copytree(MODEL_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": window}), "utf-8")
    return folder


def windows_of(folder: Path) -> set[int]:
    """The window of each attention node of an export."""
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    return {
        attribute.i
        for node in graph.node
        if node.op_type == "GroupQueryAttention"
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    }


@pytest.mark.parametrize("window", [16, None], ids=["a window of 16", "none"])
def test_scores_beyond_the_window_are_those_of_transformers(tmp_path: Path, window: int | None) -> None:
    source = source_with(tmp_path / "source", window)
    export_onnx(source, tmp_path / "onnx", "fp32")
    assert windows_of(tmp_path / "onnx") == {window or -1}
    assert window_of(tmp_path / "onnx") == window
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([TEXT])).logits[0].numpy()
    runtime = OnnxRuntime(tmp_path / "onnx", threads=1)
    runtime.limit(2048)
    sequence = runtime.open(len(TEXT))
    for place, token in enumerate(TEXT):
        (scores,) = runtime.step([(sequence, [token])])
        np.testing.assert_allclose(scores, expected[place], atol=2e-3)
    assert not list(tmp_path.glob("*-source"))


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    source = source_with(tmp_path / "source", 16)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    export_onnx(source, tmp_path / "onnx", "fp32")
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
