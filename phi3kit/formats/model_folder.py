"""A model's folder: whether it holds a Phi-3 that the kit can wrap, and what its config says.

Judges by names, sizes and small JSON files: of a repository, before its weights are downloaded. Follows no link out of the
folder. Reads no weights.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi3kit.core.errors import SourceInvalid
from phi3kit.core.operating_system import open_real
from phi3kit.formats import model_configs as configs
from phi3kit.formats.model_configs import LARGEST, WEIGHT_DTYPES, is_plain

SourceKind = Literal["weights", "onnx"]

CONFIG, GENAI_CONFIG, WEIGHTS_INDEX = "config.json", "genai_config.json", "model.safetensors.index.json"
JUDGED_BY = (CONFIG, GENAI_CONFIG, WEIGHTS_INDEX)  # the files that are read here

_ARCHITECTURE = "Phi3ForCausalLM"
_CHOOSE = "Choose the embedded model or another source on Build."
_AGAIN = "Download the model again, or choose another source."
_MOST_LAYERS = 512
_LARGEST_SIZE = 65_536  # of a layer's side, and of heads
_LARGEST_JSON = 1_000_000  # bytes; Phi-3's configs have 4 kB
# Read as JSON, a file may take 25 times as much memory. That of Phi-3's tokens has 2 MB, of Phi-4's 16 MB; the index 20 kB.
_LARGER_JSON = {"tokenizer.json": 32_000_000, WEIGHTS_INDEX: 2_000_000}
_WEIGHTS_AT_LEAST = 0.9  # of what the config promises
NUMBER_BYTES = {dtype: 4 if dtype == "float32" else 2 for dtype in WEIGHT_DTYPES}


@dataclass(frozen=True)
class Shape:
    """The size of a Phi-3, from its config."""

    context_tokens: int
    layers: int
    hidden_size: int
    kv_heads: int
    head_size: int
    vocabulary: int
    dtype: str  # of the weights; "" for an ONNX folder, whose graph says it

    @property
    def kv_numbers(self) -> int:
        """Numbers in the KV cache for one token: a key and a value for each layer and head."""
        return 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Files:
    """A judged folder."""

    kind: SourceKind
    shape: Shape
    weight_bytes: int
    size_bytes: int  # of all files
    sliding_window: bool  # of an ONNX folder: its config caps the KV cache, which ends in a crash


def judge(name: str, folder: Path, sizes: Mapping[str, int]) -> Files:
    """What a folder holds. Raises SourceInvalid with the reason.

    folder: holds at least the files of JUDGED_BY. sizes: every file of the source, in bytes.
    """
    refuse_big_configs(name, sizes)
    kind: SourceKind = "onnx" if GENAI_CONFIG in sizes else "weights"
    sliding_window = False
    if kind == "onnx":
        shape, graph, sliding_window = _onnx_shape(name, folder)
        if graph not in sizes:
            raise _unusable(name, f"{graph}, the graph that its genai_config.json names, is missing.", _AGAIN)
        weights = [file for file in sizes if file.endswith((".onnx", ".data", ".onnx_data"))]
    else:
        shape, promised_bytes = _weights_shape(name, folder)
        weights = _weight_files(name, folder, sizes)
        if (there := sum(sizes[file] for file in weights)) < _WEIGHTS_AT_LEAST * promised_bytes:
            why = f"Its config.json describes {promised_bytes:,} bytes of weights, and it has {there:,}."
            raise _unusable(name, why, _AGAIN)
    for needed in ("tokenizer.json", "tokenizer_config.json"):
        if needed not in sizes:
            raise _unusable(name, f"{needed} is missing.", _AGAIN)
    return Files(kind, shape, sum(sizes[file] for file in weights), sum(sizes.values()), sliding_window)


def files_in(folder: Path) -> dict[str, Path]:
    """The files directly in a folder: their names, and where they really lie. To be opened by `open_real` alone.

    A link counts only where it leads to another file of the folder, or from a snapshot of the hub's cache to its blobs:
    whoever can write the folder could name any file of this machine by one.
    """
    folder = folder.resolve()
    allowed = {folder} | {above.parent / "blobs" for above in folder.parents if above.name == "snapshots"}
    real = {path.name: path.resolve() for path in folder.iterdir()}
    return {name: path for name, path in real.items() if path.parent in allowed and _size(path) is not None}


def sizes_of(folder: Path) -> dict[str, int]:
    """The files directly in a folder, in bytes."""
    return sizes_found(files_in(folder))


def sizes_found(found: Mapping[str, Path]) -> dict[str, int]:
    """The sizes in bytes of files that were found, without those that are gone since."""
    return {name: size for name, path in found.items() if (size := _size(path)) is not None}


def _size(path: Path) -> int | None:
    """Bytes of a regular file; None of anything else, of a link to one too."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _weights_shape(name: str, folder: Path) -> tuple[Shape, int]:
    """The shape, and the bytes of weights that make a model of it."""
    config = _json(name, folder, CONFIG)
    if config.get("model_type", "phi3") != "phi3":
        raise _not_phi3(name, f"Its config.json says model_type {config['model_type']!r}; phi3 is needed.")
    if config.get("quantization_config"):
        raise _unusable(name, "Its weights are quantized already.", "Use the model that they were made from.")
    architectures = config.get("architectures") or []
    architectures = architectures if isinstance(architectures, list) else [architectures]
    if _ARCHITECTURE not in architectures:
        found = ", ".join(map(str, architectures)) or "no architecture"
        raise _not_phi3(name, f"Its config.json names {found}; {_ARCHITECTURE} is needed.")
    hidden_size = _number(name, config, CONFIG, "hidden_size", _LARGEST_SIZE)
    heads = _number(name, config, CONFIG, "num_attention_heads", hidden_size)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in NUMBER_BYTES:
        why = f"Its config.json says that the weights are {dtype}."
        raise _unusable(name, why, f"Use weights in {', '.join(NUMBER_BYTES)}.")
    shape = Shape(
        context_tokens=_context(name, config, CONFIG, "max_position_embeddings"),
        layers=_number(name, config, CONFIG, "num_hidden_layers", _MOST_LAYERS),
        hidden_size=hidden_size,
        kv_heads=_number(name, {"num_key_value_heads": heads, **config}, CONFIG, "num_key_value_heads", heads),
        head_size=hidden_size // heads,
        vocabulary=_number(name, config, CONFIG, "vocab_size", LARGEST),
        dtype=dtype,
    )
    refuse_wrong_values(name, CONFIG, configs.cleaned(config, configs.CONFIG).wrong)
    # As Phi3Config has it when nothing is said.
    inner = _number(name, {"intermediate_size": 8192, **config}, CONFIG, "intermediate_size", _LARGEST_SIZE)
    attention = 2 * hidden_size**2 + 2 * hidden_size * shape.kv_heads * shape.head_size
    weights = shape.layers * (attention + 3 * hidden_size * inner) + shape.vocabulary * hidden_size
    return shape, weights * NUMBER_BYTES[dtype]


def _onnx_shape(name: str, folder: Path) -> tuple[Shape, str, bool]:
    """The shape, the graph's file name, and whether a sliding window caps the cache."""
    config = _json(name, folder, GENAI_CONFIG)
    model = config.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(decoder, dict):
        raise _unusable(name, "Its genai_config.json describes no decoder.", _AGAIN)
    if model.get("type") != "phi3":
        raise _not_phi3(name, f"Its genai_config.json says type {model.get('type')}; phi3 is needed.")
    options = decoder.get("session_options")
    providers = (options.get("provider_options") if isinstance(options, dict) else None) or []
    for provider in providers if isinstance(providers, list) else [providers]:
        device = next(iter(provider), "") if isinstance(provider, dict) else provider
        if str(device).lower() not in ("cpu", ""):
            why = f"It was made for {device}, and this machine's CPU cannot run it."
            raise _unusable(name, why, "Choose a folder for the CPU.")
    graph = decoder.get("filename")
    if not is_plain(graph) or not str(graph).endswith(".onnx"):
        raise _unusable(name, "Its genai_config.json names no graph in the folder.", _AGAIN)
    shape = Shape(
        context_tokens=_context(name, model, GENAI_CONFIG, "context_length"),
        layers=_number(name, decoder, GENAI_CONFIG, "num_hidden_layers", _MOST_LAYERS),
        hidden_size=_number(name, decoder, GENAI_CONFIG, "hidden_size", _LARGEST_SIZE),
        kv_heads=_number(name, decoder, GENAI_CONFIG, "num_key_value_heads", _LARGEST_SIZE),
        head_size=_number(name, decoder, GENAI_CONFIG, "head_size", _LARGEST_SIZE),
        vocabulary=_number(name, model, GENAI_CONFIG, "vocab_size", LARGEST),
        dtype="",
    )
    if shape.kv_heads * shape.head_size > _LARGEST_SIZE:
        raise _unusable(name, "Its genai_config.json describes bigger heads than any Phi-3 has.", _AGAIN)
    refuse_wrong_values(name, GENAI_CONFIG, configs.cleaned(config, configs.GENAI).wrong)
    return shape, str(graph), "sliding_window" in decoder


def _weight_files(name: str, folder: Path, sizes: Mapping[str, int]) -> list[str]:
    found = [file for file in sizes if file.endswith(".safetensors")]
    if not found:
        why = "It has no weights: no file ends in .safetensors."
        if any(file.endswith((".bin", ".pt", ".pth")) for file in sizes):
            why = "Its weights are pickled, and a pickle can run any code when it is loaded."
        raise _unusable(name, why, "Use a source whose weights are safetensors.")
    if WEIGHTS_INDEX in sizes:
        try:
            shards = set(read_json(folder, WEIGHTS_INDEX)["weight_map"].values())
            missing = sorted(shards - set(sizes))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise _unusable(name, f"{WEIGHTS_INDEX} cannot be read.", _AGAIN) from error
        if missing:
            raise _unusable(name, f"{missing[0]} is missing.", _AGAIN)
    return found


def read_json(folder: Path, file: str) -> Any:
    """A JSON file of a folder. Raises OSError, ValueError or RecursionError.

    FileNotFoundError also for a link that leads out, ValueError also for a file that is too big.
    """
    path = files_in(folder).get(file)
    if path is None:
        raise FileNotFoundError(file)
    return read_found_json(path, file)


def read_found_json(path: Path, file: str) -> Any:
    """The JSON of a file that `files_in` found. file: its name in the folder. Raises as `read_json` does."""
    most = _largest(file)
    with open_real(path) as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError("It is too big.")
    return json.loads(content.decode("utf-8"))


def _largest(file: str) -> int:
    return _LARGER_JSON.get(file, _LARGEST_JSON)


def _json(name: str, folder: Path, file: str) -> dict[str, Any]:
    try:
        config = read_json(folder, file)
    except FileNotFoundError as error:
        raise _unusable(name, f"{file} is missing.", _CHOOSE) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(name, f"{file} cannot be read as JSON.", _CHOOSE) from error
    if not isinstance(config, dict):
        raise _not_phi3(name, f"Its {file} is no JSON object.")
    return config


def _number(name: str, config: Mapping[str, Any], file: str, key: str, most: int | None = None) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _unusable(name, f"{key} in its {file} is {value!r:.80}; a whole number of 1 or more is needed.", _AGAIN)
    if most is not None and value > most:
        raise _unusable(name, f"{key} in its {file} is {value:,}; the limit is {most:,}.", _AGAIN)
    return value


def _context(name: str, config: Mapping[str, Any], file: str, key: str) -> int:
    tokens = _number(name, config, file, key)
    if tokens > LARGEST:
        why = f"{key} in its {file} is {tokens:,} tokens, which no Phi-3 has."
        raise _unusable(name, why, f"Correct {key}: 4096 or 131072.")
    return tokens


def refuse_big_configs(name: str, sizes: Mapping[str, int]) -> None:
    """Refuse the small files that are none, by their listed sizes: before they are downloaded or read. Raises SourceInvalid."""
    for file in JUDGED_BY:
        if sizes.get(file, 0) > _largest(file):
            raise _unusable(name, f"Its {file} cannot be read: it has {sizes[file]:,} bytes.", _AGAIN)


def refuse_wrong_values(name: str, file: str, wrong: Mapping[str, str]) -> None:
    """Refuse a config with values that are not known: without them a library takes its own default. Raises SourceInvalid.

    wrong: those values by their keys.
    """
    if wrong:
        key, value = next(iter(wrong.items()))
        why = f"{key} in its {file} is {value}, which phi3kit does not support; a library would use its own default instead."
        raise _unusable(name, why, f"Correct {key}, or choose another source.")


def _unusable(name: str, why: str, next_step: str) -> SourceInvalid:
    return SourceInvalid(f"The source {name} cannot be used.", why, next_step)


def _not_phi3(name: str, why: str) -> SourceInvalid:
    return SourceInvalid(f"The source {name} is not a Phi-3 model.", why, _CHOOSE)
