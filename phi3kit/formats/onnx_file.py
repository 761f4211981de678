"""ONNX file: which operators, data files and inputs a graph names, read before any library opens it.

Walks the protocol buffers itself: the library onnx would take every worker 26 MB and read weights that lie in the graph.
Where the format lets a later value replace an earlier one, all of them are reported; a field that is in no table is refused,
because a library may read it otherwise. Runs nothing.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MOST_FIELDS = 2_000_000
_DEEPEST = 8  # graphs within graphs

# The fields of each message, as in onnx.proto3. ONNX Runtime may know a field that is passed over here, so one that is in
# no table is refused. A kind is a scalar, a message, or what is refused by name.
_FUNCTIONS, _SPARSE = "functions or training steps of its own", "sparse weights"
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {
        1: "int",
        **dict.fromkeys((2, 3, 4, 6), "bytes"),
        5: "int",
        7: "Graph",
        8: "OperatorSetId",
        14: "StringStringEntry",
        20: _FUNCTIONS,
        25: _FUNCTIONS,
    },
    "Graph": {
        1: "Node",
        2: "bytes",
        5: "Tensor",
        10: "bytes",
        **dict.fromkeys((11, 12, 13), "ValueInfo"),
        14: "TensorAnnotation",
        15: _SPARSE,
        16: "StringStringEntry",
    },
    "Node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8), "bytes"), 5: "Attribute", 9: "StringStringEntry"},
    "Attribute": {
        1: "bytes",
        2: "fixed32",
        3: "int",
        4: "bytes",
        5: "Tensor",
        6: "Graph",
        7: "fixed32s",
        8: "ints",
        9: "bytes",
        10: "Tensor",
        11: "Graph",
        13: "bytes",
        14: "Type",
        15: "Type",
        20: "int",
        22: _SPARSE,
        23: _SPARSE,
    },
    "Tensor": {
        1: "ints",
        2: "int",
        4: "fixed32s",
        5: "ints",
        6: "bytes",
        7: "ints",
        8: "bytes",
        9: "bytes",
        10: "fixed64s",
        11: "ints",
        12: "bytes",
        13: "StringStringEntry",
        14: "int",
        16: "StringStringEntry",
    },
    "ValueInfo": {1: "bytes", 2: "Type", 3: "bytes", 4: "StringStringEntry"},
    "Type": {1: "Type.Tensor", 6: "bytes"},
    "Type.Tensor": {1: "int", 2: "TensorShape"},
    "TensorShape": {1: "TensorShape.Dimension"},
    "TensorShape.Dimension": {1: "int", 2: "bytes", 3: "bytes"},
    "TensorAnnotation": {1: "bytes", 2: "StringStringEntry"},
    "StringStringEntry": {1: "bytes", 2: "bytes"},
    "OperatorSetId": {1: "bytes", 2: "int"},
}
_WIRES = {  # a list of numbers comes packed or not
    **dict.fromkeys(("bytes", *MESSAGES), (2,)),
    "int": (0,),
    "ints": (0, 2),
    "fixed32": (5,),
    "fixed32s": (5, 2),
    "fixed64s": (1, 2),
}


class OnnxUnreadable(ValueError):
    """The file is no ONNX graph, or has parts that nothing here needs. The message says which."""


@dataclass
class OnnxFile:
    """What a graph names."""

    operators: set[tuple[str, str]] = field(default_factory=set)  # (domain, type)
    data_files: set[str] = field(default_factory=set)  # locations of weights, as they are written
    inputs: set[str] = field(default_factory=set)  # of the outermost graph
    windows: set[int] = field(default_factory=set)  # local_window_size of the attention nodes; -1: none


def read(path: Path) -> OnnxFile:
    """Look at a graph. Raises OnnxUnreadable, or OSError."""
    if not path.stat().st_size:
        raise OnnxUnreadable("it is empty")
    found = OnnxFile()
    with path.open("rb") as file:
        content = mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ
        )  # closed with its last view, which an error may hold
    try:
        _Walk(found).model(memoryview(content))
    except IndexError as error:
        raise OnnxUnreadable("it ends too early") from error
    return found


class _Walk:
    """Field numbers as in MESSAGES."""

    def __init__(self, found: OnnxFile) -> None:
        self._found, self._count = found, 0

    def model(self, view: memoryview) -> None:
        graphs = 0
        for number, kind, value in self._fields(view, "Model"):
            if number == 7:
                graphs += 1
                self._graph(value, 0)
            else:
                self._rest(value, kind)
        if not graphs:
            raise OnnxUnreadable("it holds no graph")

    def _graph(self, view: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise OnnxUnreadable("its graphs are nested too deeply")
        for number, kind, value in self._fields(view, "Graph"):
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                self._tensor(value)
            else:
                self._rest(value, kind)
                if number == 11 and not depth:
                    self._found.inputs.update(self._texts(value, kind, 1))

    def _node(self, view: memoryview, depth: int) -> None:
        types, domains, windows = [""], [""], []
        for number, kind, value in self._fields(view, "Node"):
            if number == 4:
                types.append(_text(value))
            elif number == 7:
                domains.append(_text(value))
            elif number == 5:
                windows += self._attribute(value, depth)
            else:
                self._rest(value, kind)
        self._found.operators.update((domain, kind) for domain in domains[1:] or domains for kind in types[1:] or types)
        if "GroupQueryAttention" in types:
            self._found.windows.update(windows or [-1])

    def _attribute(self, view: memoryview, depth: int) -> list[int]:
        """The values of a window, when it is one."""
        numbers, names = [], []
        for number, kind, value in self._fields(view, "Attribute"):
            if number == 1:
                names.append(_text(value))
            elif number == 3:
                numbers.append(_signed(value))
            elif kind == "Tensor":
                self._tensor(value)
            elif kind == "Graph":
                self._graph(value, depth + 1)
            else:
                self._rest(value, kind)
        return numbers if "local_window_size" in names else []

    def _tensor(self, view: memoryview) -> None:
        for number, kind, value in self._fields(view, "Tensor"):
            self._rest(value, kind)
            if number == 13 and "location" in self._texts(value, kind, 1):
                self._found.data_files.update(self._texts(value, kind, 2))

    def _rest(self, value: Any, kind: str) -> None:
        """Look through what names nothing of interest."""
        if kind in MESSAGES:
            for _, inner, each in self._fields(value, kind):
                self._rest(each, inner)

    def _texts(self, view: memoryview, kind: str, wanted: int) -> list[str]:
        return [_text(value) for number, _, value in self._fields(view, kind) if number == wanted]

    def _fields(self, view: memoryview, message: str) -> Iterator[tuple[int, str, Any]]:
        """(number, kind, value) of each field; a value is a memoryview, an int, or None for a fixed number.

        Source: protobuf.dev/programming-guides/encoding.
        """
        known, at = MESSAGES[message], 0
        while at < len(view):
            self._count += 1
            if self._count > _MOST_FIELDS:
                raise OnnxUnreadable("it has too many parts")
            tag, at = _varint(view, at)
            number, wire = tag >> 3, tag & 7
            kind = known.get(number, "")  # a tag of more than 32 bits, of which others read 32, is in no table either
            if kind and kind not in _WIRES:
                raise OnnxUnreadable(f"it has {kind}")
            if wire not in _WIRES.get(kind, ()):
                raise OnnxUnreadable(
                    f"it is not a protocol buffer of ONNX: field {number} of a {message} is not known here"
                )
            value: Any = None
            if wire == 0:
                value, at = _varint(view, at)
            elif wire == 2:
                length, at = _varint(view, at)
                if at + length > len(view):
                    raise OnnxUnreadable("it ends too early")
                value = view[at : at + length]
                at += length
            else:
                at += 8 if wire == 1 else 4
                if at > len(view):
                    raise OnnxUnreadable("it ends too early")
            yield number, kind, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends. Of more bytes than it needs, or more than 64 bits, libraries make different things."""
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (shift and not byte) or value >= 2**64:
                break
            return value, at
    raise OnnxUnreadable("it is not a protocol buffer")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _text(value: memoryview) -> str:
    return str(value[:300], "utf-8", "replace")
