"""Evaluation request: the model and the questions; and the questions of a table.

Knows columns. Asks no model.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phi3kit.batch.request import BatchRequest, SamplingParams, map_columns, row_prompt
from phi3kit.batch.tables import Table, open_table, read_rows
from phi3kit.core.embedded_model import QUESTIONS_FILE
from phi3kit.core.errors import RequestInvalid, TableInvalid
from phi3kit.core.records import Message

EMBEDDED_QUESTIONS = "embedded"
EMBEDDED_NAME = "embedded (withheld pairs)"  # of their set; no table is called so
EMBEDDED_NAMES = {EMBEDDED_NAME, "embedded (withheld phrasings)"}  # the second one, which says too much, in older runs
EXPECTED_COLUMN = "expected"
_MOST_CHARACTERS = 20_000_000  # of all questions, which are in memory at once


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation that is asked for."""

    model_uri: str
    data: str = EMBEDDED_QUESTIONS  # or the path of a table
    expected_column: str = EXPECTED_COLUMN
    limit: int | None = None  # questions, taken evenly from the table; None: all
    at_once: int = 1  # more is faster, and each answer takes longer
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def command(self) -> list[str]:
        """The same evaluation as a command line."""
        options: list[tuple[str, object]] = [("--data", self.data), ("--expected-column", self.expected_column)]
        options += [("--limit", self.limit), ("--at-once", self.at_once), ("--max-tokens", self.sampling.max_tokens)]
        return ["evaluate", self.model_uri, *(f"{name}={value}" for name, value in options if value is not None)]


@dataclass(frozen=True)
class EvaluationQuestion:
    """One question and the expected answer."""

    shown: str  # the cell as the table has it
    prompt: tuple[Message, ...] | str
    expected: str


@dataclass(frozen=True)
class QuestionSet:
    """The questions of an evaluation; the same digest means the same questions."""

    name: str
    digest: str
    questions: tuple[EvaluationQuestion, ...]


def read_questions(request: EvaluationRequest) -> QuestionSet:
    """Read and check all questions of the table. Raises TableInvalid."""
    embedded = request.data == EMBEDDED_QUESTIONS
    table = open_table(QUESTIONS_FILE if embedded else Path(request.data))
    if request.expected_column not in table.columns:
        raise TableInvalid(
            f"{table.path.name} has no column {request.expected_column}.",
            f"Its columns are {', '.join(table.columns[:8])}.",
            "Name the column with the expected answers: --expected-column NAME.",
        )
    if table.rows == 0:
        raise TableInvalid(f"{table.path.name} has no questions.", "It has only a header.", "Add some rows.")
    chosen = _evenly(table.rows, request.limit)
    questions = tuple(_questions(request, table, chosen))
    told = json.dumps([[each.shown, each.expected] for each in questions])
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    return QuestionSet(EMBEDDED_NAME if embedded else table.path.name, digest, questions)


def _questions(request: EvaluationRequest, table: Table, chosen: Collection[int]) -> Iterator[EvaluationQuestion]:
    """The chosen ones; all are checked. Raises TableInvalid."""
    characters = 0
    mapped = map_columns(BatchRequest(request.model_uri, table.path, table.path), table)
    for number, row in enumerate(read_rows(table), start=1):
        expected = row[request.expected_column]
        try:
            prompt = row_prompt(row, mapped, None)
            if not isinstance(expected, str) or not expected.strip():
                raise RequestInvalid("The expected answer is empty.", "Nothing can be scored.", "Fill the cell.")
        except RequestInvalid as error:
            raise TableInvalid(
                f"Row {number} of {table.path.name} is not a question.", f"{error.what} {error.why}", error.next_step
            ) from error
        shown = row[mapped.column]
        if number - 1 not in chosen:
            continue
        question = EvaluationQuestion(shown if isinstance(shown, str) else json.dumps(shown), prompt, expected)
        characters += len(question.shown) + len(expected)
        if characters > _MOST_CHARACTERS:
            raise TableInvalid(
                f"{table.path.name} is too long for an evaluation.",
                f"Its questions have more than {_MOST_CHARACTERS:,} characters.",
                "Ask fewer of them: --limit N.",
            )
        yield question


def _evenly(rows: int, limit: int | None) -> Collection[int]:
    """The rows that are asked: all, or so many at equal distances."""
    if limit is None or limit >= rows:
        return range(rows)
    return {place * rows // limit for place in range(limit)}
