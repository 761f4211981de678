"""ONNX file: which operators, data files and inputs a graph names, read before any library opens it.

Walks the protocol buffers itself: the library onnx would take every worker 26 MB and read weights that lie in the graph.
Where the format lets a later value replace an earlier one, all of them are reported. Runs nothing.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MOST_FIELDS = 2_000_000
_DEEPEST = 8  # graphs within graphs


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
    """Field numbers as in onnx.proto3."""

    def __init__(self, found: OnnxFile) -> None:
        self._found, self._fields = found, 0

    def model(self, view: memoryview) -> None:
        graphs = 0
        for number, value in self._messages(view):
            if number == 7:
                graphs += 1
                self._graph(value, 0)
            elif number in (20, 25):
                raise OnnxUnreadable("it has functions or training steps of its own")
        if not graphs:
            raise OnnxUnreadable("it holds no graph")

    def _graph(self, view: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise OnnxUnreadable("its graphs lie too deep in each other")
        for number, value in self._messages(view):
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                self._tensor(value)
            elif number == 11 and not depth:
                self._found.inputs.update(self._texts(value, 1))
            elif number == 15:
                raise OnnxUnreadable("it has sparse weights")

    def _node(self, view: memoryview, depth: int) -> None:
        types, domains, windows = [""], [""], []
        for number, value in self._messages(view):
            if number == 4:
                types.append(_text(value))
            elif number == 7:
                domains.append(_text(value))
            elif number == 5:
                windows += self._attribute(value, depth)
        self._found.operators.update((domain, kind) for domain in domains[1:] or domains for kind in types[1:] or types)
        if "GroupQueryAttention" in types:
            self._found.windows.update(windows or [-1])

    def _attribute(self, view: memoryview, depth: int) -> list[int]:
        """The values of a window, when it is one."""
        numbers, names = [], []
        for number, wire, value in self._all(view):
            if wire == 0:
                numbers += [_signed(value)] if number == 3 and isinstance(value, int) else []
                continue
            assert isinstance(value, memoryview)
            if number == 1:
                names.append(_text(value))
            elif number in (5, 10):
                self._tensor(value)
            elif number in (6, 11):
                self._graph(value, depth + 1)
            elif number in (22, 23):
                raise OnnxUnreadable("it has sparse weights")
        return numbers if "local_window_size" in names else []

    def _tensor(self, view: memoryview) -> None:
        for number, value in self._messages(view):
            if number == 13 and "location" in self._texts(value, 1):
                self._found.data_files.update(self._texts(value, 2))

    def _texts(self, view: memoryview, wanted: int) -> list[str]:
        return [_text(value) for number, value in self._messages(view) if number == wanted]

    def _messages(self, view: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The fields that have a length: messages and texts."""
        return ((number, value) for number, _, value in self._all(view) if isinstance(value, memoryview))

    def _all(self, view: memoryview) -> Iterator[tuple[int, int, "memoryview | int"]]:
        """(number, wire type, value) of each field. Source: protobuf.dev/programming-guides/encoding."""
        at = 0
        while at < len(view):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise OnnxUnreadable("it has too many parts")
            tag, at = _varint(view, at)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, at = _varint(view, at)
                yield number, wire, value
            elif wire == 2:
                length, at = _varint(view, at)
                if at + length > len(view):
                    raise OnnxUnreadable("it ends too early")
                yield number, wire, view[at : at + length]
                at += length
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise OnnxUnreadable("it is no protocol buffer")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise OnnxUnreadable("it is no protocol buffer")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _text(value: memoryview) -> str:
    return str(value[:300], "utf-8", "replace")
