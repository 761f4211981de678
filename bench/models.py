"""Models to measure: a full-shape Phi-3-mini with random weights, laid out as the workers load it.

Speed does not depend on what the weights say, only on how many there are.
"""

import json
from pathlib import Path

import yaml

from phi3kit.embedded import MODEL_FOLDER
from phi3kit.onnx_export import export_onnx
from phi3kit.records import WrapperName
from phi3kit.wrappers.log import ONNX_ARTIFACT

# Phi-3-mini-4k-instruct's own config.json.
MINI = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "vocab_size": 32064,
}


def random_weights(folder: Path, layers: int) -> None:
    """A folder with `layers` of Phi-3-mini's 32 layers in bfloat16, and the embedded model's tokenizer."""
    import shutil

    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    given = json.loads((MODEL_FOLDER / "config.json").read_text("utf-8"))
    ends = {name: given[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Phi3ForCausalLM(Phi3Config(**MINI, **ends, num_hidden_layers=layers))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL_FOLDER / name, folder / name)


def as_logged_model(folder: Path, weights: Path, wrapper: WrapperName) -> Path:
    """The files that a worker needs of a logged model, without the logging. onnx is exported in int4."""
    folder.mkdir(parents=True)
    if wrapper == "onnx":
        export_onnx(weights, folder / "artifacts/onnx", "int4")
        flavors = {"python_function": {"artifacts": {ONNX_ARTIFACT: {"path": "artifacts/onnx"}}}}
    else:
        (folder / "components").mkdir()
        (folder / "model").symlink_to(weights)
        (folder / "components/tokenizer").symlink_to(weights)
        flavors = {"transformers": {"model_binary": "model"}}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}), "utf-8")
    return folder
