"""ONNX graph: an exported Phi-3 on ONNX Runtime, one run at a time over rows of keys and values.

Knows the inputs and outputs of the model builder's graphs, and refuses others. The session releases the GIL while it
computes; onnxruntime-genai's Generator, which could run the same graph, does not, and fixes its batch at the prompt.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from phi3kit.core.errors import WorkerFailed
from phi3kit.worker.kv_rows import KvRows

_DTYPES: "dict[str, np.dtype[Any]]" = {
    "tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64), "tensor(int32)": np.dtype(np.int32),
}  # fmt: skip
_IF_NODE = b'"\x02If'  # a node's type in a file of protocol buffers: field 4, two bytes, "If"
_ROUNDING = 0.05  # of the scores' spread; rounding differs by a hundredth at most, another row's keys by much more


class OnnxGraph:
    """One loaded graph."""

    def __init__(self, folder: Path, threads: int) -> None:
        """folder: what the model builder wrote. Raises WorkerFailed when the graph cannot be run here."""
        model = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
        decoder = model["decoder"]
        ends = model["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.context_tokens = int(model["context_length"])
        self.layers = int(decoder["num_hidden_layers"])
        self.heads = int(decoder.get("num_key_value_heads", decoder["num_attention_heads"]))
        self.head_size = int(decoder["head_size"])
        self._vocabulary = int(model["vocab_size"])
        path = folder / decoder["filename"]
        # None for most. Phi-3's 128k models rotate positions by other factors in texts that are longer than this; the
        # graph chooses by the width of the mask, for all rows of a run.
        self.short_tokens = _short_tokens(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors are raised, warnings are for the model builder
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = _Names(decoder)
        self._dtypes = _checked_dtypes(self._session, self._names, self.layers)
        self.kv_dtype = self._dtypes[next(self._names.past(0))]
        self._kept: tuple[tuple[int, int], _Bound] | None = None  # of the last run of one token a row: (first, count)
        self._rows: KvRows | None = None
        self._ones = np.ones((1, 0), dtype=self._dtypes[self._names.mask])

    def rows(self, count: int, tokens: int) -> KvRows:
        """Rows for so many sequences of so many tokens; later runs use them. Raises OSError without address space."""
        self._kept = None
        self._rows = KvRows(self.layers, self.heads, self.head_size, self.kv_dtype, count, tokens)
        self._ones = np.ones((1, self._rows.tokens), dtype=self._ones.dtype)
        return self._rows

    def run(self, first_row: int, ids: Sequence[Sequence[int]], held: Sequence[int], long: bool) -> Any:
        """Compute the next tokens of rows, and write their keys and values there.

        ids: equally many tokens for each row from `first_row` on; more than one only for one row. held: tokens in each
        row. long: whether to use the factors for long texts.
        Returns the scores after each row's last token, shape (rows, vocabulary).
        """
        assert self._rows is not None
        count, tokens = len(ids), len(ids[0])
        lengths = [each + tokens for each in held]
        width = max(lengths)
        assert width <= self._rows.tokens
        if long and self.short_tokens is not None:
            width = max(width, self.short_tokens + 1)
        # Answers are written a token at a time; a new binding each time would take a fifth of a small model's step.
        bound = self._one_token(first_row, count) if tokens == 1 else self._bound(first_row, count, tokens)
        bound.ids[:] = ids
        if count == 1 and width == lengths[0]:
            mask = self._ones[:, :width]
        else:
            mask = (np.arange(width) < np.array(lengths)[:, None]).astype(self._ones.dtype)
        _bind(bound.binding.bind_input, self._names.mask, mask)
        self._session.run_with_iobinding(bound.binding)
        return bound.scores[:, -1].astype(np.float32)  # a copy, without the other tokens' scores

    def prove(self) -> None:
        """Compute a token alone and beside a longer row. Raises WorkerFailed when that fails or the scores differ.

        Another program's export may have the same inputs with another meaning, and would answer with noise.
        """
        self.rows(2, 8)
        tokens = list(range(10, 16))
        try:
            self.run(1, [tokens[1:]], [0], long=False)
            self.run(0, [tokens[:2]], [0], long=False)
            # Two tokens in both runs: one token is often rounded differently from two.
            alone = self.run(0, [tokens[2:4]], [2], long=False)[0]
            beside = self.run(0, [tokens[3:4], tokens[:1]], [3, 5], long=False)[0]
        except Exception as error:
            raise _unusable(f"ONNX Runtime says: {str(error).strip()}.") from error
        if not np.abs(alone - beside).max() <= _ROUNDING * np.ptp(alone):
            raise _unusable("A token beside another conversation's gets other scores than alone.")

    def _one_token(self, first: int, count: int) -> "_Bound":
        if self._kept is None or self._kept[0] != (first, count):
            self._kept = (first, count), self._bound(first, count, 1)
        return self._kept[1]

    def _bound(self, first: int, count: int, tokens: int) -> "_Bound":
        assert self._rows is not None
        bound = _Bound(
            self._session.io_binding(),
            np.empty((count, tokens), dtype=self._dtypes[self._names.ids]),
            np.empty((count, tokens, self._vocabulary), dtype=self._dtypes[self._names.logits]),
        )
        _bind(bound.binding.bind_input, self._names.ids, bound.ids)
        _bind(bound.binding.bind_output, self._names.logits, bound.scores)
        arrays = iter(self._rows.arrays)
        for layer in range(self.layers):
            for past, present in zip(self._names.past(layer), self._names.present(layer), strict=True):
                rows = next(arrays)[first : first + count]
                _bind(bound.binding.bind_input, past, rows)
                # The same memory: nothing is copied, new tokens are added.
                _bind(bound.binding.bind_output, present, rows)
        return bound


@dataclass(frozen=True)
class _Bound:
    """Inputs and outputs of a run, without the mask, which grows. Holds the arrays: the binding has their addresses."""

    binding: Any
    ids: "np.ndarray[Any, Any]"  # (rows, tokens)
    scores: "np.ndarray[Any, Any]"  # (rows, tokens, vocabulary)


class _Names:
    """The names of the graph's inputs and outputs."""

    def __init__(self, decoder: dict[str, Any]) -> None:
        inputs, outputs = decoder.get("inputs", {}), decoder.get("outputs", {})
        self.ids = str(inputs.get("input_ids", "input_ids"))
        self.mask = str(inputs.get("attention_mask", "attention_mask"))
        self.logits = str(outputs.get("logits", "logits"))
        self._past = [str(inputs.get(f"past_{kind}_names", f"past_key_values.%d.{kind}")) for kind in ("key", "value")]
        self._present = [str(outputs.get(f"present_{kind}_names", f"present.%d.{kind}")) for kind in ("key", "value")]

    def past(self, layer: int) -> Iterator[str]:
        """The inputs of a layer's keys and values."""
        return (name % layer for name in self._past)

    def present(self, layer: int) -> Iterator[str]:
        """Their outputs."""
        return (name % layer for name in self._present)


def _bind(bind: Any, name: str, array: "np.ndarray[Any, Any]") -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _checked_dtypes(session: Any, names: _Names, layers: int) -> "dict[str, np.dtype[Any]]":
    """The dtype of each input and output. Raises WorkerFailed when they are not those of the model builder."""
    inputs = {each.name: each.type for each in session.get_inputs()}
    outputs = {each.name: each.type for each in session.get_outputs()}
    pasts = [name for layer in range(layers) for name in names.past(layer)]
    presents = [name for layer in range(layers) for name in names.present(layer)]
    for what, found, expected in (
        ("input", inputs, [names.ids, names.mask, *pasts]),
        ("output", outputs, [names.logits, *presents]),
    ):
        if missing := [name for name in expected if name not in found]:
            raise _unusable(f"Its graph has no {what} {missing[0]}.")
        if more := sorted(set(found) - set(expected)):
            raise _unusable(f"Its graph has the {what} {more[0]}, which this worker does not support.")
    types = inputs | outputs
    for name, kind in types.items():
        if kind not in _DTYPES:
            raise _unusable(f"{name} of its graph is a {kind}.")
    for name in (*pasts, *presents):
        if types[name] != types[pasts[0]]:
            raise _unusable(f"{name} is a {types[name]}, and {pasts[0]} a {types[pasts[0]]}.")
    return {name: _DTYPES[kind] for name, kind in types.items()}


def _short_tokens(path: Path) -> int | None:
    """The longest text that takes the factors for short ones; None when the graph has one kind of factors."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_IF_NODE) < 0:
            return None
    import onnx  # 26 MB: only where needed

    graph = onnx.load(path, load_external_data=False).graph
    nodes = {output: node for node in graph.node for output in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "If":
            compared = nodes.get(node.input[0])
            if compared is None or compared.op_type != "Greater":
                raise _unusable("Its graph chooses between positions in a way that this worker does not support.")
            bound = compared.input[1]
            value = values[bound] if bound in values else nodes[bound].attribute[0].t
            return int(onnx.numpy_helper.to_array(value))
    return None


def _unusable(why: str) -> WorkerFailed:
    return WorkerFailed(
        what="This ONNX export cannot be served.",
        why=why,
        next_step="Build it from its weights on Build, which exports it anew.",
    )
