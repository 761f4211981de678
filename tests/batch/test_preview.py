"""Previews: what a page draws of a table is small, whatever the table holds."""

from collections.abc import Iterator
from typing import Any

import pytest

from phi3kit.batch.preview import CELL_CHARACTERS, TABLE_CHARACTERS, preview, prompt_text
from phi3kit.batch.request import Mapped
from phi3kit.core.errors import RequestInvalid


class TestPreview:
    def test_a_small_table_is_drawn_as_it_is(self) -> None:
        rows = [{"a": "x" * CELL_CHARACTERS, "b": 1, "c": None, "d": [1, {"e": "f"}], "g": b"h"}]
        drawn = preview(rows, 5)
        assert (drawn.rows, drawn.more, drawn.cut, drawn.said(1)) == (rows, False, False, "")
        assert drawn.rows[0]["d"] is rows[0]["d"]

    @pytest.mark.parametrize(
        ("value", "begin"),
        [("é" * 3000, "é" * 2000), (["y" * 3000], '["' + "y" * 1998), ({"k": "y" * 3000}, '{"k": "' + "y" * 1993),
         (b"z" * 3000, "b'" + "z" * 1998)],
    )  # fmt: skip
    def test_a_long_cell_of_any_kind_is_cut(self, value: object, begin: str) -> None:
        drawn = preview([{"a": value}], 5)
        assert drawn.rows == [{"a": f"{begin}…"}]
        assert drawn.said(1) == "Cells are cut off after 2,000 characters."

    def test_rows_stop_at_a_number_and_no_more_are_read(self) -> None:
        read = []

        def rows() -> Iterator[dict[str, Any]]:
            for number in range(100):
                read.append(number)
                yield {"a": number}

        drawn = preview(rows(), 3)
        assert [row["a"] for row in drawn.rows] == [0, 1, 2]
        assert len(read) == 4
        assert drawn.said(100) == "The first 3 of 100 rows."
        assert drawn.said() == "The first 3 rows."
        assert not preview(({"a": number} for number in range(3)), 3).more

    def test_rows_stop_at_a_million_characters(self) -> None:
        drawn = preview(({f"{place}": "x" * 5000 for place in range(10)} for _ in range(500)), 500)
        assert (len(drawn.rows), drawn.more, drawn.cut) == (49, True, True)  # of 20,010 characters each
        assert sum(len(cell) for row in drawn.rows for cell in row.values()) <= TABLE_CHARACTERS
        assert drawn.said(500) == "The first 49 of 500 rows. Cells are cut off after 2,000 characters."

    def test_one_row_is_drawn_however_wide_it_is(self) -> None:
        drawn = preview(({f"{place}": "x" * 2000 for place in range(1000)} for _ in range(2)), 5)
        assert (len(drawn.rows), drawn.more) == (1, True)


class TestPromptText:
    def test_a_message_is_written_as_the_chat_template_does(self) -> None:
        row = {"message": "Hi", "system": "Be brief."}
        assert prompt_text(row, Mapped("message", "message"), None) == "<|user|>\nHi<|end|>\n<|assistant|>\n"
        assert (
            prompt_text(row, Mapped("message", "message", "system"), "Not this one.")
            == "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
        )

    def test_a_raw_prompt_is_left_as_it_is(self) -> None:
        assert prompt_text({"p": "<|user|>Hi<|end|>"}, Mapped("p", "prompt"), "Be brief.") == "<|user|>Hi<|end|>"

    def test_a_row_without_one_says_why(self) -> None:
        with pytest.raises(RequestInvalid, match="The message is empty"):
            prompt_text({"message": ""}, Mapped("message", "message"), None)
