"""Models to measure: Phi-3-mini's shape with random weights. Speed depends on their number, not on their values."""

import json
from pathlib import Path

from phi3kit.core.embedded_model import MODEL_FOLDER

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
    with torch.no_grad():  # generate nothing that the small tokenizer cannot decode
        model.lm_head.weight[given["vocab_size"] :] = 0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL_FOLDER / name, folder / name)
