"""Signatures: a model's inputs, outputs and params, field by field, and the differences between two of them.

Knows MLflow's ModelSignature and the chapter's notation. Loads no model, opens no run, draws nothing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Map, Object, ParamSchema, Property, Schema

from phi3kit.core.records import WrapperName

Part = Literal["inputs", "outputs", "params"]
PARTS: tuple[Part, ...] = ("inputs", "outputs", "params")
FieldVerdict = Literal["same", "differs", "only A", "only B"]


def chapter_signature(wrapper: WrapperName) -> ModelSignature:
    """The signature that the chapter printed in 2024, field by field as MLflow objects."""
    text, whole, number, flag = DataType.string, DataType.long, DataType.double, DataType.boolean
    if wrapper == "onnx":
        return ModelSignature(inputs=Schema([ColSpec(text, "prompt")]), outputs=Schema([ColSpec(text)]))
    message = Object([Property("content", text), Property("name", text, required=False), Property("role", text)])
    choice = Object([Property("finish_reason", text), Property("index", whole), Property("message", message)])
    usage = Object([Property(name, whole) for name in ("completion_tokens", "prompt_tokens", "total_tokens")])
    optional = {"temperature": number, "max_tokens": whole, "stop": Array(text), "n": whole, "stream": flag}
    outputs = {"id": text, "object": text, "created": whole, "model": text, "choices": Array(choice), "usage": usage}
    inputs = [
        ColSpec(Array(message), "messages"),
        *(ColSpec(optional[name], name, required=False) for name in optional),
    ]
    return ModelSignature(Schema(inputs), Schema([ColSpec(outputs[name], name) for name in outputs]))


@dataclass(frozen=True)
class Field:
    """One field of a schema; the name of a nested one is its path: messages[].content."""

    part: Part
    name: str
    type: str
    required: bool
    depth: int = dataclasses.field(default=0, compare=False)  # how many fields it lies in; they stand before it

    def __str__(self) -> str:
        return f"{self.type} ({'required' if self.required else 'optional'})"


@dataclass(frozen=True)
class Description:
    """A signature as text and as fields."""

    notation: str  # as the chapter prints it
    inputs: str
    outputs: str
    params: str
    fields: tuple[Field, ...]

    def as_json(self) -> dict[str, object]:
        """For the CLI."""
        return {"inputs": self.inputs, "outputs": self.outputs, "params": self.params}


@dataclass(frozen=True)
class FieldNode:
    """A field with the fields that lie in it."""

    name: str  # without the path of the field that it lies in
    field: Field
    nodes: tuple["FieldNode", ...]


@dataclass(frozen=True)
class ComparedField:
    """One field in A and in B; None where it is missing."""

    part: Part
    name: str
    a: Field | None
    b: Field | None

    @property
    def verdict(self) -> FieldVerdict:
        """Whether both have it, and whether it is equal."""
        if self.a is None:
            return "only B"
        if self.b is None:
            return "only A"
        return "same" if self.a == self.b else "differs"

    @property
    def in_a(self) -> str | None:
        """Type and whether it is required, in A."""
        return None if self.a is None else str(self.a)

    @property
    def in_b(self) -> str | None:
        """The same in B."""
        return None if self.b is None else str(self.b)

    @property
    def type(self) -> str:
        """The type, or that in A and that in B."""
        return self._both([each.type for each in (self.a, self.b) if each])

    @property
    def required(self) -> str:
        """Whether it is required, or that in A and that in B."""
        return self._both(["required" if each.required else "optional" for each in (self.a, self.b) if each])

    def as_json(self) -> dict[str, object]:
        """For the CLI."""
        return {"part": self.part, "name": self.name, "in_a": self.in_a, "in_b": self.in_b, "verdict": self.verdict}

    def _both(self, words: list[str]) -> str:
        return " → ".join(dict.fromkeys(words))


def describe(signature: ModelSignature) -> Description:
    """A signature in the chapter's notation and as a list of fields."""
    inputs, outputs, params = repr(signature.inputs), repr(signature.outputs), repr(signature.params)
    return Description(
        notation=f"{{inputs:\n  {inputs},\noutputs:\n  {outputs},\nparams:\n  {params}}}",
        inputs=inputs,
        outputs=outputs,
        params=params,
        fields=(
            *_fields("inputs", signature.inputs),
            *_fields("outputs", signature.outputs),
            *_param_fields(signature.params),
        ),
    )


def compare(a: ModelSignature, b: ModelSignature) -> list[ComparedField]:
    """Every field of both, by part, in A's order; the fields that only B has follow."""
    fields_a = {(field.part, field.name): field for field in describe(a).fields}
    fields_b = {(field.part, field.name): field for field in describe(b).fields}
    keys = sorted({**fields_a, **fields_b}, key=lambda key: PARTS.index(key[0]))  # stable: keeps each part's order
    return [ComparedField(part, name, fields_a.get((part, name)), fields_b.get((part, name))) for part, name in keys]


def field_tree(fields: Sequence[Field], search: str = "") -> dict[Part, tuple[FieldNode, ...]]:
    """Fields in each other, by part; a part without any is left out.

    search: only fields that have it in their path or type, and those that they lie in.
    """
    outer: list[int | None] = []
    path: list[int] = []  # to the field at hand
    for index, field in enumerate(fields):
        del path[field.depth :]
        outer.append(path[-1] if path else None)
        path.append(index)
    kept: set[int] = set()
    for index, field in enumerate(fields):
        each = index if search.casefold() in f"{field.name} {field.type}".casefold() else None
        while each is not None and each not in kept:
            kept.add(each)
            each = outer[each]
    inside: dict[int | None, list[int]] = {}
    for index in sorted(kept):
        inside.setdefault(outer[index], []).append(index)

    def node(index: int) -> FieldNode:
        field, around = fields[index], outer[index]
        name = field.name if around is None else field.name.removeprefix(fields[around].name).lstrip("[]{}.")
        return FieldNode(name, field, tuple(node(each) for each in inside.get(index, [])))

    nodes = [node(index) for index in inside.get(None, [])]
    return {part: found for part in PARTS if (found := tuple(each for each in nodes if each.field.part == part))}


def _fields(part: Part, schema: Schema | None) -> Iterator[Field]:
    for column in schema.inputs if schema is not None else []:
        if not isinstance(column, ColSpec):  # a tensor; no Phi-3 wrapper has one
            yield Field(part, getattr(column, "name", None) or "(tensor)", "tensor", True)
            continue
        yield from _unfold(part, column.name or "(unnamed)", column.type, bool(column.required))


def _param_fields(params: ParamSchema | None) -> Iterator[Field]:
    for param in params.params if params is not None else []:
        array = "" if param.shape is None else f" of shape {param.shape}"
        # Never required: each has a default.
        yield Field("params", param.name, f"{_type_name(param.dtype)}{array}, default {param.default!r}", False)


def _unfold(part: Part, name: str, type_: object, required: bool, depth: int = 0) -> Iterator[Field]:
    yield Field(part, name, _type_name(type_), required, depth)
    inner, path = type_, name
    while isinstance(inner, (Array, Map)):
        inner, path = (inner.dtype, f"{path}[]") if isinstance(inner, Array) else (inner.value_type, f"{path}{{}}")
    if isinstance(inner, Object):
        for prop in inner.properties:
            assert isinstance(prop, Property)
            yield from _unfold(part, f"{path}.{prop.name}", prop.dtype, bool(prop.required), depth + 1)


def _type_name(type_: object) -> str:
    if isinstance(type_, DataType):
        return str(type_.name)
    if isinstance(type_, Array):
        return f"Array({_type_name(type_.dtype)})"
    if isinstance(type_, Map):
        return f"Map(str -> {_type_name(type_.value_type)})"
    if isinstance(type_, AnyType):
        return "Any"
    return "object"
