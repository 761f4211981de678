"""Sources: where weights come from, and whether they are a Phi-3 that the kit can wrap.

Knows `embedded` and local folders. Loads no weights.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from phi3kit.embedded import MODEL_FOLDER
from phi3kit.errors import SourceInvalid

EMBEDDED = "embedded"
_ARCHITECTURE = "Phi3ForCausalLM"
_CHOOSE = "Choose the embedded model or another folder on Build."


@dataclass(frozen=True)
class Source:
    """A folder of weights that was looked at and can be used."""

    name: str  # as the user wrote it: "embedded" or a folder
    folder: Path
    size_bytes: int
    context_tokens: int
    layers: int
    hidden_size: int
    dtype: str


def find_source(name: str) -> Source:
    """Look at a source and say what it is. Raises SourceInvalid with the reason."""
    # os.path, not Path: an unknown ~user or a name that is too long is no folder, and no exception.
    folder = MODEL_FOLDER if name == EMBEDDED else Path(os.path.expanduser(name))
    if not os.path.isdir(folder):
        looks_like_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
        raise SourceInvalid(
            what=f"The source {name} cannot be used.",
            why="Downloads from Hugging Face are not part of this version, and there is no such folder."
            if looks_like_hub
            else "There is no such folder.",
            next_step="Download the model yourself and give its folder." if looks_like_hub else _CHOOSE,
        )
    config = _config(name, folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise SourceInvalid(
            what=f"The source {name} cannot be used.",
            why="Its weights are pickled, and a pickle can run any code when it is loaded."
            if pickled
            else "It has no weights: no file ends in .safetensors.",
            next_step="Use a folder whose weights are safetensors.",
        )
    for missing in _missing_shards(name, folder):
        raise SourceInvalid(
            what=f"The source {name} cannot be used.",
            why=f"{missing} is missing.",
            next_step="Download the model again, or choose another folder.",
        )
    for needed in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise SourceInvalid(
                what=f"The source {name} cannot be used.",
                why=f"{needed} is missing.",
                next_step="Download the model again, or choose another folder.",
            )
    return Source(
        name=name,
        folder=folder.resolve(),
        size_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        context_tokens=_number(config, "max_position_embeddings"),
        layers=_number(config, "num_hidden_layers"),
        hidden_size=_number(config, "hidden_size"),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
    )


def _config(name: str, folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if (folder / "genai_config.json").is_file() and not path.is_file():
        raise SourceInvalid(
            what=f"The source {name} cannot be used.",
            why="It is an ONNX model already; a build starts from transformers weights.",
            next_step="Choose the folder that the ONNX model was made from.",
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SourceInvalid(f"The source {name} cannot be used.", "config.json is missing.", _CHOOSE) from error
    except (OSError, ValueError) as error:
        raise SourceInvalid(
            f"The source {name} cannot be used.", "config.json cannot be read as JSON.", _CHOOSE
        ) from error
    architectures = config.get("architectures") or [] if isinstance(config, dict) else []
    architectures = architectures if isinstance(architectures, list) else [architectures]
    if _ARCHITECTURE not in architectures:
        found = ", ".join(map(str, architectures)) or "no architecture"
        raise SourceInvalid(
            what=f"The source {name} is not a Phi-3 model.",
            why=f"Its config.json names {found}; {_ARCHITECTURE} is needed.",
            next_step=_CHOOSE,
        )
    return dict(config)


def _missing_shards(name: str, folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceInvalid(f"The source {name} cannot be used.", f"{index.name} cannot be read.", _CHOOSE) from error
    return sorted(shard for shard in shards if not (folder / str(shard)).is_file())


def _number(config: dict[str, object], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) else 0
