"""Batch request: the file, the meaning of its columns, how rows are answered; and a row's prompt.

Knows columns and messages. Reads no file and asks no model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi3kit.access.actor import Actor
from phi3kit.batch.tables import ReadOptions, Table
from phi3kit.core.errors import RequestInvalid, TableInvalid
from phi3kit.core.records import MESSAGE_ROLES, FinishReason, Message
from phi3kit.endpoints.records import Request
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS, joined_text_parts

PromptFormat = Literal["message", "prompt", "messages"]
# A column of this name holds prompts of this format unless the request says otherwise.
PROMPT_FORMATS: tuple[PromptFormat, ...] = ("message", "prompt", "messages")

AT_ONCE = 8  # requests under way together: as many answers as a worker writes at once
RESULT_COLUMNS = ("completion", "prompt_tokens", "completion_tokens", "finish_reason", "error")


@dataclass(frozen=True)
class Mapped:
    """The meaning of a table's columns."""

    column: str
    format: PromptFormat
    system_column: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that a row's prompt is made of."""
        return [self.column, *([self.system_column] if self.system_column else [])]


@dataclass(frozen=True)
class SamplingParams:
    """How each row is answered; names and meanings are those of a request."""

    temperature: float = 0.0
    max_tokens: int = DEFAULT_MAX_TOKENS
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def request(self, prompt: tuple[Message, ...] | str) -> Request:
        """A row's request."""
        return Request(prompt, self.temperature, self.max_tokens, self.top_p, self.seed, self.stop)


def sampling_params_of(request: Request) -> SamplingParams:
    """The parameters of one request, for many rows."""
    return SamplingParams(request.temperature, request.max_tokens, request.top_p, request.seed, request.stop)


@dataclass(frozen=True)
class BatchRequest:
    """A batch that is asked for."""

    model_uri: str
    input: Path
    output: Path
    column: str | None = None  # None: the column that is called message, prompt or messages
    format: PromptFormat | None = None
    system_column: str | None = None
    system: str | None = None  # a system message for every row that has none of its own
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reading: ReadOptions = field(default_factory=ReadOptions)
    at_once: int | None = None  # requests under way together; None: AT_ONCE
    spark: str | None = None  # a Spark master
    fresh: bool = False  # compute also what was computed before

    def command(self) -> list[str]:
        """The same batch as a command line."""
        options: list[tuple[str, object]] = [
            (f"--{self.format or 'message'}-column", self.column),
            ("--system-column", self.system_column),
            ("--system", self.system),
            ("--encoding", self.reading.encoding),
            ("--delimiter", self.reading.delimiter),
            ("--at-once", self.at_once),
            ("--spark", self.spark),
        ]
        default = asdict(SamplingParams())
        for name, value in asdict(self.sampling).items():
            if name != "stop" and value != default[name]:
                options.append((f"--{name.replace('_', '-')}", value))
        options += [("--stop", each) for each in self.sampling.stop]
        # With an equals sign a value may begin with a dash.
        given = [f"{name}={value}" for name, value in options if value is not None]
        flags = [*(["--no-header"] if not self.reading.header else []), *(["--fresh"] if self.fresh else [])]
        return ["batch", self.model_uri, str(self.input), "-o", str(self.output), *given, *flags]


@dataclass(frozen=True)
class RowResult:
    """The result of a row. Field names are the output's columns, but for `row`, `final` and `duration_s`."""

    row: int  # from 0
    completion: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    error: str | None = None
    final: bool = True  # False: another try may succeed
    duration_s: float = 0.0  # by the engine; 0 for a row that was not asked, or that an earlier run asked


def failed(row: int, error: Exception | str, *, final: bool) -> RowResult:
    """The result of a row that could not be answered."""
    return RowResult(row, "", 0, 0, "error", " ".join(str(error).split()), final)


def map_columns(request: BatchRequest, table: Table) -> Mapped:
    """Find the column of prompts. Raises TableInvalid."""
    if taken := [name for name in RESULT_COLUMNS if name in table.columns]:
        raise TableInvalid(
            f"{table.path.name} already has a column {taken[0]}.",
            "The output adds a column with this name.",
            "Rename or remove it.",
        )
    for name in (request.column, request.system_column):
        if name is not None and name not in table.columns:
            raise TableInvalid(f"{table.path.name} has no column {name!r}.", _has(table), "Choose one of these.")
    if request.column is not None:
        return Mapped(request.column, request.format or "message", request.system_column)
    if not table.header and len(table.columns) == 1:
        return Mapped(table.columns[0], request.format or "message", request.system_column)
    found = [name for name in PROMPT_FORMATS if name in table.columns]
    if len(found) == 1:
        return Mapped(found[0], found[0], request.system_column)
    if found:
        raise TableInvalid(
            f"It is unclear which column of {table.path.name} holds the prompts.",
            f"It has {' and '.join(found)}.",
            f"Choose one: --{found[0]}-column {found[0]} or --{found[1]}-column {found[1]}.",
        )
    raise TableInvalid(
        f"{table.path.name} has no column message or prompt.",
        _has(table),
        "Name the column with the prompts (--message-column NAME), or use --no-header if the first row is not a header.",
    )


def _has(table: Table) -> str:
    names = ", ".join(repr(name[:40]) for name in table.columns[:8])
    more = f" and {len(table.columns) - 8} more" if len(table.columns) > 8 else ""
    return f"Its columns are {names}{more}."


def row_prompt(values: Mapping[str, Any], mapped: Mapped, system: str | None) -> tuple[Message, ...] | str:
    """A row's prompt: messages, or a raw prompt. Raises RequestInvalid."""
    value = values[mapped.column]
    if mapped.format == "prompt":
        return _text(value, "prompt")
    own = values[mapped.system_column] if mapped.system_column else None
    first = _text(own, "system message") if own not in (None, "") else system
    begin = (Message("system", first),) if first else ()
    if mapped.format == "message":
        return (*begin, Message("user", _text(value, "message")))
    messages = row_messages(value)
    return messages if messages[0].role == "system" else (*begin, *messages)


def _text(value: object, what: str) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise RequestInvalid(f"The {what} is empty.", "There is nothing to answer.", "Fill the cell.")
    if not isinstance(value, str):
        raise RequestInvalid(f"The {what} is not text.", f"It is {str(value)[:40]}.", "Write text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestInvalid(
            f"The {what} is not text.", f"Character {error.start} is a lone surrogate.", "Correct it."
        ) from error
    return value


def row_messages(value: object) -> tuple[Message, ...]:
    """A cell's list of OpenAI messages; in a CSV it is JSON. Raises RequestInvalid."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RequestInvalid("The messages are not JSON.", f"{error}.", "Write a list of messages.") from error
    if not isinstance(value, list) or not value:
        raise RequestInvalid("The messages are not a list.", f"It is {str(value)[:40]}.", "Write a list of messages.")
    found = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in MESSAGE_ROLES:
            raise RequestInvalid(
                "A message has no role.", f"It is {str(message)[:40]}.", f"Give each one of {', '.join(MESSAGE_ROLES)}."
            )
        try:
            content = joined_text_parts(message.get("content"))
        except ValueError as error:
            raise RequestInvalid("A content is not text.", f"{error}.", "Write text.") from error
        found.append(Message(message["role"], _text(content, "message")))
    return tuple(found)


def key_of(request: BatchRequest, table: Table, mapped: Mapped, model_digest: str, actor: Actor) -> str:
    """What makes two batches the same: person, input, columns, model and parameters, wherever they are computed."""
    same = {
        "user": actor.name,
        "input": table.sha256,
        "reading": [table.format, table.header, table.encoding, table.delimiter],
        "mapped": asdict(mapped),
        "system": request.system,
        "model": model_digest,
        "sampling": asdict(request.sampling),
    }
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:24]
