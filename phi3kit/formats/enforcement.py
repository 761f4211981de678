"""Enforcement: what MLflow's scoring server makes of a payload, from the signature alone.

The server's own code reads the payload and enforces the schema, in front of a model that only keeps what reaches it; so
no weights are loaded, and what is refused here is refused there in the same words. What a wrapper's `predict` refuses
later, predict_rules know.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mlflow.models import Model, ModelSignature

# How a payload holds its data: bare has the key messages, prompt or input at its top.
Form = Literal["bare", "inputs", "instances", "dataframe_split", "dataframe_records"]
_BARE_KEYS = ("messages", "prompt", "input")
_WRAPPED: tuple[Form, ...] = ("inputs", "instances", "dataframe_split", "dataframe_records")

# MLflow's names of types, as a person would say them.
_SAID = {
    "<U0": 'a text, in quotes: "…"',
    "float64": "a number with a decimal point: 2.0",
    "int64": "a whole number, without decimal point or quotes: 2",
    "bool": "true or false",
}


@dataclass(frozen=True)
class Refusal:
    """Why a payload does not get through."""

    reason: str  # in one sentence, MLflow's own where it has one
    message: str  # the whole message, as the server answers it
    change: str  # what to change


@dataclass(frozen=True)
class Enforced:
    """A payload behind MLflow's schema enforcement."""

    form: Form | None  # None: the payload has none
    refusal: Refusal | None
    rows: tuple[dict[str, Any], ...] = ()  # what predict receives, a dict a row
    as_arrays: bool = False  # lists arrive as NumPy arrays
    dropped: tuple[str, ...] = ()  # fields that do not reach predict
    ignored_params: tuple[str, ...] = ()


def enforce(signature: ModelSignature, text: str) -> Enforced:
    """What becomes of the JSON payload `text` at POST /invocations. Never raises."""
    try:
        payload = json.loads(text)
    except ValueError as error:
        return Enforced(None, _broken_json(text, error))
    except RecursionError as error:
        return Enforced(None, Refusal("The payload is nested too deeply.", str(error), "Send a flat object."))
    form = form_of(payload)
    try:
        data = _through_the_server(signature, text)
    except Exception as error:  # MLflow raises its own kind, pandas and NumPy theirs; the server answers 400 for each
        return Enforced(form, _refusal(error, payload, signature))
    rows = tuple(_plain(row) for row in data.to_dict("records"))
    given = _given(payload, form)
    params = payload.get("params") if form != "bare" else None
    known = {param.name for param in signature.params.params} if signature.params else set()
    return Enforced(
        form,
        None,
        rows,
        as_arrays=_has_arrays(data),
        dropped=tuple(name for name in given if name not in set(data.columns)),
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


def _has_arrays(data: Any) -> bool:
    return any(type(cell).__name__ == "ndarray" for column in data.columns for cell in data[column])


def _plain(value: Any) -> Any:
    """NumPy's and pandas' values as JSON's."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray":
        return [_plain(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def _given(payload: dict[str, Any], form: Form | None) -> list[str]:
    """The fields that a payload names, in its order."""
    data = payload if form == "bare" else payload.get(form or "")
    if form == "dataframe_split":
        columns = data.get("columns") if isinstance(data, dict) else None
        return [str(name) for name in columns or []]
    records = data if isinstance(data, list) else [data]
    return list(dict.fromkeys(str(name) for each in records if isinstance(each, dict) for name in each))


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
        return "JSON has double quotes only: write \" instead of '."
    if "trailing comma" in error.msg or (before == "," and here and here in "}]"):  # newer Pythons see it themselves
        return "Delete the comma behind the last value."
    if re.match(r"(None|True|False)\b", text[error.pos :]):
        return "That is Python: JSON writes null, true and false."
    if "control character" in error.msg:
        return "A line break inside a text is written \\n."
    if "delimiter" in error.msg:
        return f"Put a {error.msg.split(chr(39))[1]} there, or close the text or the list before it."
    if here == "":
        return 'The payload ends too early: close what is open, with ", ] or }.'
    return "Correct that place."


def _refusal(error: Exception, payload: Any, signature: ModelSignature) -> Refusal:
    # MLflow puts the reason behind the whole payload and the whole schema; it is the error that it caught.
    inner = error.__context__ if "Failed to enforce schema of data" in str(error) and error.__context__ else error
    reason = str(inner).removeprefix("Invalid input. ").strip()
    short = re.split(r"\. (?:IMPORTANT|Hint):? ", reason)[0].strip()
    return Refusal(short if short.endswith(".") else f"{short}.", str(error), _change(reason, payload, signature))


def _change(reason: str, payload: Any, signature: ModelSignature) -> str:
    for pattern, said in _CHANGES:
        if found := re.search(pattern, reason, re.DOTALL):
            return said(found, payload, signature)
    return "Compare it with the fields above."


def _missing(found: re.Match[str], payload: Any, signature: ModelSignature) -> str:
    names = re.findall(r"'([^']*)'", found[1])
    wanted = " and ".join(_wanted(name, signature) for name in names)
    other = next((key for key in ("prompt", "messages") if isinstance(payload, dict) and key in payload), None)
    if other and other not in names:
        return f"This model does not take {other}. Send {wanted}."
    return f"Add {wanted}."


def _wanted(name: str, signature: ModelSignature) -> str:
    known = {"messages": "messages, a list of objects with role and content", "prompt": "prompt, one text"}
    return known.get(name, name)


def _not_a_list(found: re.Match[str], payload: Any, signature: ModelSignature) -> str:
    lists = [column.name for column in signature.inputs.inputs if repr(column.type).startswith("Array")]
    wrong = [
        name for name in lists if isinstance(payload, dict) and name in payload and not isinstance(payload[name], list)
    ]
    return f"Put {wrong[0] if wrong else 'it'} into a list: [ … ]."


Said = Callable[[re.Match[str], Any, ModelSignature], str]
_CHANGES: tuple[tuple[str, Said], ...] = (
    (r"Model is missing inputs (\[.*?\])", _missing),
    (
        r"Incompatible input types for column (\S+)\. Can not safely convert \S+ to (\S+?)\.?(?:\s|$)",
        lambda found, payload, signature: f"Make {found[1]} {_SAID.get(found[2], found[2])}.",
    ),
    (
        r"Failed to enforce schema for key `(.*?)`\. Expected type (\S+), received type (\S+)",
        lambda found, payload, signature: f"Make {found[1]} a {found[2]}; it is a {found[3]}.",
    ),
    (
        r"Invalid properties not defined in the schema found: \{(.*)\}",
        lambda found, payload, signature: f"Delete {found[1]}: inside an object MLflow takes no unknown field.",
    ),
    (r"Missing required properties: \{(.*)\}", lambda found, payload, signature: f"Add {found[1]}."),
    (r"Expected data to be list or numpy array, got", _not_a_list),
    (
        r"exactly one of the input fields",
        lambda found, payload, signature: (
            "Send an object with messages or prompt at its top, or with exactly one of "
            "inputs, instances, dataframe_split, dataframe_records."
        ),
    ),
    (
        r"error casting the input data to a DataFrame",
        lambda found, payload, signature: (
            "Without lists or objects in the signature, each value must be a text or number."
        ),
    ),
    (
        r"must be a list of records|must be a dictionary|must have 'data' field|valid dataframe representation",
        lambda found, payload, signature: (
            'A split is {"columns": ["prompt"], "data": [["…"]]}, records are [{"prompt": "…"}].'
        ),
    ),
)
