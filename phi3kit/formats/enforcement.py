"""Enforcement: what MLflow's scoring server makes of a payload, from the signature alone.

Runs the server's own code in front of a model that only keeps what reaches it, so what is refused here is refused there
in the same words. Loads no weights, and does not know what `predict` makes of a payload: the model says it when asked.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Object

from phi3kit.formats.table_cells import MOST_CELLS, cells_of_json

# How a payload holds its data. bare: at its top, under messages, prompt or input.
Form = Literal["bare", "inputs", "instances", "dataframe_split", "dataframe_records"]
_MOST_CHARACTERS = 1_000_000
_BARE_KEYS = ("messages", "prompt", "input")
_WRAPPED: tuple[Form, ...] = ("inputs", "instances", "dataframe_split", "dataframe_records")

# What each MLflow type takes: Python's type of the JSON value, and how to write it.
_SCALARS: dict[DataType, tuple[type, str]] = {
    DataType.string: (str, 'a text, in quotes: "…"'),
    DataType.double: (float, "a number with a decimal point: 2.0"),
    DataType.long: (int, "a whole number, without decimal point or quotes: 2"),
    DataType.boolean: (bool, "true or false"),
}
_FIELDS = {"messages": "messages, a list of objects with role and content", "prompt": "prompt, one text"}


@dataclass(frozen=True)
class Refusal:
    """Why a payload does not get through."""

    reason: str  # in one sentence, MLflow's own where it has one
    message: str  # the whole message, as the server answers it
    change: str  # what to change


@dataclass(frozen=True)
class Enforced:
    """A payload after MLflow's schema enforcement."""

    form: Form | None  # None: the payload has none
    refusal: Refusal | None
    rows: tuple[dict[str, Any], ...] = ()  # what predict receives, a dict a row
    dropped: tuple[str, ...] = ()  # fields that do not reach predict
    ignored_params: tuple[str, ...] = ()


def enforce(signature: ModelSignature, text: str) -> Enforced:
    """What becomes of the JSON payload `text` at POST /invocations. Never raises."""
    if len(text) > _MOST_CHARACTERS:
        return Enforced(None, _too_big(f"It has {len(text):,} characters; {_MOST_CHARACTERS:,} are checked here."))
    try:
        payload = json.loads(text)
    except ValueError as error:
        return Enforced(None, _broken_json(text, error))
    except RecursionError as error:
        return Enforced(None, Refusal("The payload is nested too deeply.", str(error), "Send a flat object."))
    form = form_of(payload)
    if (cells := cells_of_json(payload)) > MOST_CELLS:
        return Enforced(form, _too_big(f"It makes a table of up to {cells:,} cells; {MOST_CELLS:,} are checked here."))
    try:
        data = _through_the_server(signature, text)
    except Exception as error:  # MLflow raises its own kind, pandas and NumPy theirs; the server answers 400 for each
        return Enforced(form, _refusal(error, payload, form, signature))
    params = payload.get("params") if form != "bare" else None
    known = {param.name for param in signature.params.params} if signature.params else set()
    return Enforced(
        form,
        None,
        rows=tuple(_plain(row) for row in data.to_dict("records")),
        dropped=tuple(name for name in _fields(_rows(payload, form)) if name not in set(data.columns)),
        ignored_params=tuple(name for name in params if name not in known) if isinstance(params, dict) else (),
    )


def form_of(payload: object) -> Form | None:
    """How a payload holds its data; None when it has none of the forms, or more than one."""
    if not isinstance(payload, dict):
        return None
    if any(key in payload for key in _BARE_KEYS):
        return "bare"
    found = [form for form in _WRAPPED if form in payload]
    return found[0] if len(found) == 1 else None


class _Keeps:
    """Stands where the model stands, and keeps what reaches it."""

    data: Any = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[Any]:
        self.data = data
        return []


def _through_the_server(signature: ModelSignature, text: str) -> Any:
    from mlflow.pyfunc import PyFuncModel, scoring_server  # at the first payload: it takes a second

    metadata = Model(flavors={"python_function": {"loader_module": "mlflow.pyfunc.model"}}, signature=signature)
    keeps = _Keeps()
    model = PyFuncModel(metadata, keeps)
    scoring_server.invocations(text, "application/json", model, metadata.get_input_schema())
    return keeps.data


def _plain(value: Any) -> Any:
    """NumPy's and pandas' values as JSON's."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray":
        return [_plain(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def _rows(payload: dict[str, Any], form: Form | None) -> list[dict[str, Any]]:
    """The rows of a payload as it was written; none where it is not shaped like its form."""
    data = payload if form == "bare" else payload.get(form or "")
    if form == "dataframe_split":
        columns, lines = (data.get("columns"), data.get("data")) if isinstance(data, dict) else (None, None)
        if not isinstance(columns, list) or not isinstance(lines, list):
            return []
        return [dict(zip(map(str, columns), line, strict=False)) for line in lines if isinstance(line, list)]
    return [row for row in (data if isinstance(data, list) else [data]) if isinstance(row, dict)]


def _fields(rows: list[dict[str, Any]]) -> list[str]:
    """The fields that rows name, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _too_big(why: str) -> Refusal:
    return Refusal("The payload is too big to be checked here.", why, "Send fewer rows at a time.")


def _broken_json(text: str, error: ValueError) -> Refusal:
    if not isinstance(error, json.JSONDecodeError):
        return Refusal("The payload is not JSON.", str(error), "Write a JSON object.")
    line = text.splitlines()[error.lineno - 1] if error.lineno <= len(text.splitlines()) else ""
    begin = max(error.colno - 41, 0)
    excerpt = f"{line[begin : begin + 80]}\n{' ' * (error.colno - 1 - begin)}^"
    return Refusal(
        f"The payload is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
        excerpt,
        _json_advice(text, error),
    )


def _json_advice(text: str, error: json.JSONDecodeError) -> str:
    here = text[error.pos : error.pos + 1]
    before = text[: error.pos].rstrip()[-1:]
    if not text.strip():
        return "Write a payload, or take one of the examples."
    if here == "'":
        return "JSON uses only double quotes: write \" instead of '."
    if "trailing comma" in error.msg or (before == "," and here and here in "}]"):  # newer Pythons see it themselves
        return "Delete the comma after the last value."
    if re.match(r"(None|True|False)\b", text[error.pos :]):
        return "This is Python: JSON uses null, true and false."
    if "control character" in error.msg:
        return "Write a line break inside a text as \\n."
    if "delimiter" in error.msg:
        return f"Put a {error.msg.split(chr(39))[1]} there, or close the text or the list before it."
    if here == "":
        return 'The payload ends too early: close what is open, with ", ] or }.'
    return "Correct that position."


def _refusal(error: Exception, payload: Any, form: Form | None, signature: ModelSignature) -> Refusal:
    # MLflow puts the reason behind the whole payload and the whole schema; it is the error that it caught.
    wrapped = getattr(error, "error_class", "") == "SCHEMA_ENFORCEMENT_FAILED"
    reason = str(error.__context__ if wrapped and error.__context__ else error).removeprefix("Invalid input. ").strip()
    short = re.split(r"\. (?:IMPORTANT|Hint):? ", reason)[0].strip().removesuffix(".")
    return Refusal(f"{short}.", str(error), _advice(payload, form, signature))


def _advice(payload: Any, form: Form | None, signature: ModelSignature) -> str:
    """What to change in a refused payload, from it and the signature: MLflow's wording changes with its versions."""
    if form is None:
        return (
            "Send an object with messages or prompt at its top, or with exactly one of "
            "inputs, instances, dataframe_split, dataframe_records."
        )
    rows = _rows(payload, form)
    if not rows and form in ("dataframe_split", "dataframe_records"):
        return 'A split is {"columns": ["prompt"], "data": [["…"]]}, records are [{"prompt": "…"}].'
    columns = {each.name: each for each in signature.inputs.inputs if isinstance(each, ColSpec) and each.name}
    missing = [name for name, each in columns.items() if each.required and all(row.get(name) is None for row in rows)]
    if missing:
        wanted = " and ".join(_FIELDS.get(name, name) for name in missing)
        other = next((name for name in _fields(rows) if name in _FIELDS and name not in columns), None)
        return f"This model does not take {other}. Send {wanted}." if other else f"Add {wanted}."
    wrong = (
        each for row in rows for name in columns if name in row for each in _wrong(name, row[name], columns[name].type)
    )
    return next(wrong, "Compare it with the fields above.")


def _wrong(name: str, value: Any, type_: object) -> Iterator[str]:
    """What to change for `value` to be of an MLflow type. Too strict to refuse anything by: MLflow converts some values."""
    if value is None:
        return
    if isinstance(type_, Array):
        if not isinstance(value, list):
            yield f"Put {name} into a list: [ … ]."
            return
        for index, each in enumerate(value):
            yield from _wrong(f"{name}[{index}]", each, type_.dtype)
    elif isinstance(type_, Object):
        yield from _wrong_object(name, value, type_)
    elif isinstance(type_, DataType) and type_ in _SCALARS:
        kind, said = _SCALARS[type_]
        values = value if isinstance(value, list) else [value]  # a list is a column
        if any(type(each) is not kind for each in values if each is not None):
            yield f"Make {name} {said}."


def _wrong_object(name: str, value: Any, type_: Object) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"Make {name} an object: {{ … }}."
        return
    known = {each.name: each for each in type_.properties}
    if unknown := [repr(each) for each in value if each not in known]:
        yield f"Delete {', '.join(unknown)}: inside an object MLflow takes no unknown field."
    if missing := [repr(each.name) for each in known.values() if each.required and each.name not in value]:
        yield f"Add {', '.join(missing)} to {name}."
    for each in value:
        if each in known:
            yield from _wrong(f"{name}.{each}", value[each], known[each].dtype)
