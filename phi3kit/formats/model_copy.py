"""Model copy: a model's folder as libraries get to see it, written anew from what the allow-lists know.

Every build and every worker loads from such a copy, never from the folder that somebody else wrote. Weights are put there
as the caller says, and judged where they were put. Knows both kinds of folders; loads no library.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from phi3kit.core.errors import SourceInvalid
from phi3kit.core.operating_system import open_real
from phi3kit.formats import model_configs as configs
from phi3kit.formats import onnx_file
from phi3kit.formats.model_folder import (
    CONFIG,
    GENAI_CONFIG,
    WEIGHTS_INDEX,
    Shape,
    files_in,
    judge,
    read_found_json,
    refuse_wrong_values,
    sizes_found,
)

_SPECS = {
    CONFIG: configs.CONFIG,
    GENAI_CONFIG: configs.GENAI,
    "generation_config.json": configs.GENERATION,
    "tokenizer_config.json": configs.TOKENIZER,
    "special_tokens_map.json": configs.SPECIAL_TOKENS,
}
_TEXTS = re.compile(r"LICENSE[\w.-]{0,20}|README\.md|chat_template\.jinja", re.ASCII)
_LARGEST_TEXT = 1_000_000  # bytes
_LARGEST_HEADER = 16_000_000  # bytes, of a file of weights; Phi-3's have 30 kB
_PIECE = 2**20  # bytes that are copied at once
_LAYER = re.compile(r"model\.layers\.(\d{1,6})\..+")

# What onnxruntime-genai's builder makes a Phi-3 of. Nothing here loops, or opens a file.
_OPERATORS = {
    "": (
        "Add And Cast Clip Concat Constant ConstantOfShape Cos DequantizeLinear Div Equal Exp Expand Flatten Gather "
        "Gelu Greater GreaterOrEqual Identity If LayerNormalization Less LessOrEqual Log MatMul Mul Neg Not Or Pow "
        "QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Shape Sigmoid "
        "SimplifiedLayerNormalization Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where"
    ),
    "com.microsoft": (
        "FastGelu FusedMatMul GatherBlockQuantized GroupQueryAttention MatMulNBits MultiHeadAttention QuickGelu "
        "RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization"
    ),
}
_KNOWN = {(domain, kind) for domain, kinds in _OPERATORS.items() for kind in kinds.split()}
_KNOWN |= {("ai.onnx", kind) for domain, kind in _KNOWN if not domain}


class FileChanged(OSError):
    """A file was judged, and at its place there is now something else: a link, a pipe, nothing, another file."""


def copy_file(source: Path, target: Path) -> None:
    """Copy a file that was judged. source: its real path. Raises FileChanged, or OSError of the target."""
    with _opened(source) as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, _PIECE)


def link_or_copy(source: Path, target: Path) -> None:
    """Put the same file at a second place too, as a copy where the file system has no hard links. Otherwise as `copy_file`."""
    with _opened(source) as read:
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            with target.open("wb") as write:
                shutil.copyfileobj(read, write, _PIECE)
        else:
            if not os.path.samestat(os.fstat(read.fileno()), target.lstat()):  # another one came after it was opened
                target.unlink()
                raise FileChanged(f"{source.name} was replaced")


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    try:
        opened = open_real(source)
    except OSError as error:
        raise FileChanged(f"{source.name} is gone, or a link or a pipe") from error
    with opened:
        yield opened


Place = Callable[[Path, Path], object]


def copy_model(name: str, folders: Sequence[Path], target: Path, place: Place = link_or_copy) -> list[str]:
    """Write the copy to `target`, a new folder; remarks on what was left out or mended.

    name: of the model, in errors. folders: where its files lie, the configs in the first; the last one that has a file counts. place: puts a
    file of weights at a second place.
    Raises SourceInvalid when something in it is not known or changes meanwhile, or OSError.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        found |= files_in(folder)
    judge(name, folders[0], sizes_found(found))
    target.mkdir(parents=True)
    try:
        return _copy_found(name, found, target.resolve(), place)
    except FileChanged as error:
        raise SourceInvalid(
            f"The source {name} cannot be used.",
            f"It changes while it is copied: {error}.",
            "Find out what writes to its folder, then build again.",
        ) from error


def _copy_found(name: str, found: dict[str, Path], target: Path, place: Place) -> list[str]:
    """Copy what was found and judged; the same remarks. Raises FileChanged too."""
    kind = GENAI_CONFIG if GENAI_CONFIG in found else CONFIG
    notes = []
    # 1. The small files, as far as they are known.
    for file, spec in _SPECS.items():
        if file in found and file not in {CONFIG, GENAI_CONFIG} - {kind}:
            left_out = _copy_config(name, _read(name, found[file], file), target / file, spec)
            if file == GENAI_CONFIG and left_out:
                notes.append(f"Its {file} has settings that a build does not use; left out: {', '.join(left_out[:8])}.")
    if "tokenizer.json" in found:
        tokenizer = _read(name, found["tokenizer.json"], "tokenizer.json")
        if flaw := configs.tokenizer_flaw(tokenizer):
            raise _unfit(name, f"Its tokenizer.json {flaw}.")
        _write(name, target / "tokenizer.json", tokenizer)
    for file, path in found.items():
        if _TEXTS.fullmatch(file):
            with _opened(path) as read:
                text = read.read(_LARGEST_TEXT + 1)
            if len(text) <= _LARGEST_TEXT:
                (target / file).write_bytes(text)
    # 2. The weights, and the shape that they must have.
    if kind == GENAI_CONFIG:
        model = _read(name, target / kind, kind).get("model") or {}
        if remark := _place_graph(name, model.get("decoder") or {}, found, target, place):
            notes.append(remark)
    else:
        tensors = _place_weights(name, found, target, place)
    shape = judge(name, target, {path.name: path.stat().st_size for path in target.iterdir()}).shape
    if kind == CONFIG:
        _check_tensors(name, tensors, shape)
    return notes


def _copy_config(name: str, content: dict[str, Any], target: Path, spec: configs.Spec) -> list[str]:
    found = configs.cleaned(content, spec)
    refuse_wrong_values(name, target.name, found.wrong)
    kept = found.kept
    if target.name == CONFIG:
        kept["model_type"] = "phi3"
    if (
        target.name == GENAI_CONFIG
        and isinstance(kept.get("model"), dict)
        and isinstance(kept["model"].get("decoder"), dict)
    ):
        kept["model"]["decoder"]["session_options"] = {"log_id": "onnxruntime-genai", "provider_options": []}
    _write(name, target, kept)
    # The window is spoken of elsewhere; the other is written anew just above.
    return [key for key in found.left_out if not key.endswith((".sliding_window", ".session_options"))]


def _place_graph(name: str, decoder: dict[str, Any], found: dict[str, Path], target: Path, place: Place) -> str | None:
    """The graph and the data files that it names, when all that it names is known; a remark when it was mended."""
    file = decoder.get("filename")
    if file not in found:
        return None  # judge says what is missing
    place(found[file], target / file)
    try:
        graph = onnx_file.read(target / file)
    except onnx_file.OnnxUnreadable as error:
        raise _unfit(name, f"Its graph {file} cannot be used: {error}.") from error
    if unknown := sorted(graph.operators - _KNOWN):
        domain, kind = unknown[0]
        raise _unfit(
            name,
            f"Its graph has the operator {kind[:80]!r} of {domain[:80] or 'ONNX'!r}, which phi3kit does not support.",
        )
    for data in sorted(graph.data_files):
        if not configs.is_plain(data) or not data.endswith((".data", ".onnx_data")) or data not in found:
            raise _unfit(name, f"Its graph takes weights from {data[:150]!r}, which is not a file in the folder.")
        place(found[data], target / data)
    past = (decoder.get("inputs") or {}).get("past_key_names") or "past_key_values.%d.key"
    layers = decoder.get("num_hidden_layers")
    pasts = sum(past % layer in graph.inputs for layer in range(512))
    if layers != pasts:
        raise _unfit(name, f"Its genai_config.json says {layers} layers, and its graph has {pasts}.")
    window = _window(name, found)
    if window is None or graph.windows == {window}:
        return None
    if graph.windows != {-1} or not _set_window(target / file, window):
        back = ", ".join(f"{each:,}" for each in sorted(graph.windows - {-1})) or "to the beginning"
        raise _unfit(name, f"Its config says a sliding window of {window:,} tokens, and its graph attends back {back}.")
    return (
        f"Its graph attends to everything, and its config says a sliding window of {window:,} tokens: after longer texts it "
        "would produce noise. The logged graph has the window."
    )


def _window(name: str, found: dict[str, Path]) -> int | None:
    """The sliding window that an ONNX folder's configs name; None when they name none, or one of the whole context."""
    try:
        model = _read(name, found[GENAI_CONFIG], GENAI_CONFIG)["model"]
        block, context_tokens = model["decoder"].get("sliding_window"), int(model["context_length"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileChanged(f"{GENAI_CONFIG} is another one now") from error
    window = block.get("window_size") if isinstance(block, dict) else None
    if window is None and CONFIG in found:  # of the weights that it was made from
        window = _read(name, found[CONFIG], CONFIG).get("sliding_window")
    return window if isinstance(window, int) and 0 < window < context_tokens else None


def _set_window(graph: Path, window: int) -> bool:
    """Write a graph anew, its attention nodes with the window; whether all of them got it."""
    import onnx  # 26 MB: only where needed

    model = onnx.load(str(graph), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            kept = [each for each in node.attribute if each.name != "local_window_size"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("local_window_size", window)])
    graph.unlink()  # it may be a second name of the source's own file
    graph.write_bytes(model.SerializeToString())
    return onnx_file.read(graph).windows == {window}


def _place_weights(name: str, found: dict[str, Path], target: Path, place: Place) -> dict[str, list[int]]:
    """The files of weights; each tensor's shape."""
    files = [file for file in found if file.endswith(".safetensors") and configs.is_plain(file)]
    if WEIGHTS_INDEX in found:
        places = _read(name, found[WEIGHTS_INDEX], WEIGHTS_INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise _unfit(name, f"Its {WEIGHTS_INDEX} cannot be read.")
        _write(name, target / WEIGHTS_INDEX, {"metadata": {}, "weight_map": places})
        files = [file for file in files if file in {*places.values(), "model.safetensors"}]
    shapes: dict[str, list[int]] = {}
    for file in files:
        place(found[file], target / file)
        shapes |= _shapes(name, target / file)
    return shapes


def _shapes(name: str, path: Path) -> dict[str, list[int]]:
    """Each tensor's shape, from the header of a file of weights. Source: github.com/huggingface/safetensors, Format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise _unfit(name, f"{path.name} is damaged: its header says that it has {length:,} bytes.")
        try:
            header = json.loads(file.read(length))
            tensors = {key: value for key, value in header.items() if key != "__metadata__"}
            for value in tensors.values():
                begin, end = value["data_offsets"]
                if not 0 <= begin <= end <= size - 8 - length or not all(type(side) is int for side in value["shape"]):
                    raise ValueError
            return {key: list(value["shape"]) for key, value in tensors.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _unfit(name, f"{path.name} is damaged: its header cannot be read.") from error


def _check_tensors(name: str, tensors: dict[str, list[int]], shape: Shape) -> None:
    """Whether the weights are those that the config describes: what is missing would be made up by chance."""
    layers = {int(found[1]) for key in tensors if (found := _LAYER.fullmatch(key))}
    if layers != set(range(shape.layers)):
        raise _unfit(name, f"Its config.json says {shape.layers} layers, and its weights have {len(layers)}.")
    table = tensors.get("model.embed_tokens.weight")
    if table != [shape.vocabulary, shape.hidden_size]:
        said = f"{shape.vocabulary:,} tokens of {shape.hidden_size:,} numbers"
        raise _unfit(name, f"Its config.json says {said}, and its weights have {str(table)[:50]}.")


def _read(name: str, path: Path, file: str) -> dict[str, Any]:
    """A JSON object that was found. file: its name in the folder; in the hub's cache it lies under its hash."""
    with contextlib.suppress(ValueError, RecursionError):
        try:
            content = read_found_json(path, file)
        except OSError as error:
            raise FileChanged(f"{file} is gone, or a link or a pipe") from error
        if isinstance(content, dict):
            return content
    raise _unfit(name, f"Its {file} cannot be read as a JSON object.")


def _write(name: str, path: Path, content: dict[str, Any]) -> None:
    indent = None if path.name == "tokenizer.json" else 2
    try:
        text = json.dumps(content, ensure_ascii=False, indent=indent).encode("utf-8")
    except (UnicodeEncodeError, RecursionError) as error:
        raise _unfit(name, f"Its {path.name} has half a character, or parts that are nested too deeply.") from error
    path.write_bytes(text)


def _unfit(name: str, why: str) -> SourceInvalid:
    return SourceInvalid(
        f"The source {name} cannot be used.", why, "Use another source, or the weights that it was made from."
    )
