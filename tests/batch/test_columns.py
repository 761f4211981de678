"""Guessed columns: which one holds the prompts, and in which format, by name and by content."""

import json
from typing import Any

import pytest

from phi3kit.batch.columns import guess_columns

RAW = "<|user|>\nHi<|end|>\n<|assistant|>\n"
MESSAGES = [{"role": "user", "content": "Hi"}]


def guessed(*rows: dict[str, Any]) -> tuple[str, str]:
    found = guess_columns(list(rows[0]), rows)
    return found.column, found.formats[found.column]


class TestGuessColumns:
    @pytest.mark.parametrize(
        ("row", "column", "format"),
        [
            ({"id": "1", "message": "Hi"}, "message", "message"),
            ({"id": "1", "prompt": RAW}, "prompt", "prompt"),
            ({"id": "1", "prompt": "Hi"}, "prompt", "message"),
            ({"id": "1", "messages": MESSAGES}, "messages", "messages"),
            ({"id": "1", "messages": json.dumps(MESSAGES)}, "messages", "messages"),
            ({"id": "1", "messages": "Hi"}, "messages", "message"),
            ({"id": "1", "message": json.dumps(MESSAGES)}, "message", "messages"),
            ({"id": "1", "message": f"What does {RAW} mean?"}, "message", "message"),
            ({"prompt": "Hi", "message": "a"}, "message", "message"),
        ],
    )
    def test_a_known_name_is_the_column_and_its_cells_say_the_format(
        self, row: dict[str, Any], column: str, format: str
    ) -> None:
        assert guessed(row) == (column, format)

    @pytest.mark.parametrize(
        ("row", "column", "format"),
        [
            ({"id": "12345678", "question": "What is the capital of Spain?", "kind": "geo"}, "question", "message"),
            ({"id": "1", "text": RAW}, "text", "prompt"),
            ({"note": "a long remark about it, longer than the rest of the row", "chat": MESSAGES}, "chat", "messages"),
            ({"n": 12345678, "q": "Hi"}, "q", "message"),
            ({"a": 1, "b": 2.5}, "a", "message"),
        ],
    )
    def test_otherwise_it_is_the_column_of_messages_or_of_the_longest_text(
        self, row: dict[str, Any], column: str, format: str
    ) -> None:
        assert guessed(row) == (column, format)

    @pytest.mark.parametrize("name", ["message", "prompt", "messages"])
    def test_without_content_the_name_says_the_format(self, name: str) -> None:
        assert guessed({"id": "1", name: ""}, {"id": "2", name: None}) == (name, name)

    def test_an_empty_cell_among_others_says_nothing(self) -> None:
        assert guessed({"prompt": ""}, {"prompt": RAW}) == ("prompt", "prompt")
        assert guessed({"chat": None}, {"chat": MESSAGES}) == ("chat", "messages")

    def test_one_list_that_is_none_of_messages_makes_the_column_one_of_texts(self) -> None:
        assert guessed({"chat": json.dumps(MESSAGES)}, {"chat": "[1, 2]"}) == ("chat", "message")

    def test_only_the_first_rows_are_read(self) -> None:
        rows = iter([{"prompt": "Hi"}] * 1000)
        guess_columns(["prompt"], rows)
        assert len(list(rows)) == 990
