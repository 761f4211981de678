"""Table cells: what a payload's table may have, against the table that pandas makes of it."""

import time
from typing import Any

import pandas as pd
import pytest

from phi3kit.formats.table_cells import MOST_CELLS, cells_of_csv, cells_of_json

KEYS = [f"k{number}" for number in range(60)]
SQUARES = {
    "records with a field each": {"dataframe_records": [{key: 0} for key in KEYS]},
    "one long row": {"dataframe_split": {"data": [[0] * 60, *[[0]] * 59]}},
    "columns and index": {"dataframe_split": {"columns": KEYS, "index": KEYS, "data": []}},
    "columns and index of levels": {"dataframe_split": {"columns": [KEYS], "index": [KEYS], "data": []}},
    "objects of objects": {"dataframe_split": {"data": {f"c{key}": {key: 0} for key in KEYS}}},
    "one value for many rows": {"dataframe_split": {"data": {"a": [0] * 60, **dict.fromkeys(KEYS, 0)}}},
    "rows of records and columns": {"dataframe_split": {"columns": KEYS, "data": [{"k0": 0}] * 60}},
}


@pytest.mark.filterwarnings("ignore:Constructing a DataFrame from a list of sequences with mismatched lengths")
@pytest.mark.parametrize("payload", SQUARES.values(), ids=SQUARES)
def test_no_table_of_json_is_bigger_than_was_told(payload: dict[str, Any]) -> None:
    (form,) = payload.values()
    table = pd.DataFrame(**form) if isinstance(form, dict) else pd.DataFrame(form)
    assert 3_600 <= table.size <= cells_of_json(payload)


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": [{"role": "user", "content": "Hi"}] * 500},
        {"dataframe_records": [{"prompt": "Hi", "max_tokens": 8}] * 5_000},
        {"inputs": {"prompt": ["Hi"] * 5_000, "max_tokens": [8] * 5_000}},
        {
            "dataframe_split": {
                "columns": ["prompt", "max_tokens"],
                "index": [*range(5_000)],
                "data": [["Hi", 8]] * 5_000,
            }
        },
        [],
        5,
    ],
    ids=["messages", "records", "columns", "split", "empty", "number"],
)
def test_what_people_send_is_far_from_the_most(payload: object) -> None:
    assert cells_of_json(payload) <= MOST_CELLS / 10


def test_counting_is_linear_in_the_names() -> None:
    began = time.process_time()
    assert cells_of_json([{f"k{number}": 0} for number in range(200_000)]) == 200_000**2
    assert time.process_time() - began < 20  # half a second; what copies all names at each object takes minutes


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        (",".join(KEYS) + "\n" + "1\n" * 59, 3_600),
        ("a\r" + ",".join("1" * 60) + "\r1\r", 180),  # a row longer than the head
        ('prompt\n"one, two,\nthree"\n', 2),  # a text's own commas and lines are none of the table's
        ("prompt\n" + "x" * 200_000, 2),
        ("", 0),
    ],
    ids=["short rows", "a long row", "quoted", "a long text", "empty"],
)
def test_csv_counts_its_lines_and_the_longest_of_them(text: str, cells: int) -> None:
    assert cells_of_csv(text) == cells
