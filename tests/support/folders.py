"""Folders to build from: the embedded model in other forms, and tiny random models of the family.

All are made with plain transformers and have the embedded tokenizer.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from phi3kit.core.embedded_model import MODEL_FOLDER

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

# As microsoft/Phi-3-mini-128k-instruct writes it, for heads of 16.
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + n / 20 for n in range(8)],
    "long_factor": [2.0 + n for n in range(8)],
}


def edit_json(path: Path, **values: Any) -> None:
    """Change a JSON file's keys; None takes one away."""
    content = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")


def in_shards(folder: Path) -> Path:
    """The embedded model in two shards, as transformers saves it."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype="auto")
    model.save_pretrained(folder, max_shard_size="6MB")
    for name in TOKENIZER:
        shutil.copyfile(MODEL_FOLDER / name, folder / name)
    return folder


def tiny(folder: Path, dtype: str, **config: Any) -> Path:
    """A random model of 2 layers; config: what its config.json says besides, as the repositories on the hub write it."""
    import torch
    import transformers

    folder.mkdir()
    written = {
        **json.loads((MODEL_FOLDER / "config.json").read_text("utf-8")),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": 0.5,  # far apart scores: rounding does not change which token is the likeliest
        "torch_dtype": dtype,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        **config,
    }
    for of_transformers_5 in ("dtype", "rope_parameters"):
        written.pop(of_transformers_5)
    (folder / "config.json").write_text(json.dumps(written), "utf-8")
    torch.manual_seed(3)
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype)
    )
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(written), "utf-8")  # save_pretrained writes its own form
    for name in TOKENIZER:
        shutil.copyfile(MODEL_FOLDER / name, folder / name)
    return folder
