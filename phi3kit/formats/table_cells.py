"""Table cells: how big a table a payload of /invocations becomes, judged before pandas makes it.

A payload of some kilobytes can name rows and columns whose table has gigabytes: rows with a field of their own each, or a
long head above short rows. Knows JSON and CSV. Makes no table.
"""

import csv
import io
from typing import Any

MOST_CELLS = 250_000
_COLUMNS = "columns"  # of a split: a side of its own, though it stands beside the rows


def cells_of_json(payload: Any) -> int:
    """The most cells that a table of the payload can have: its two longest sides.

    A side is the longest list of a depth, a split's columns, or all names that objects have.
    """
    longest: dict[int | str, int] = {}  # by depth; columns by their name
    names: set[str] = set()
    left: list[tuple[Any, int, str | None]] = [(payload, 0, None)]
    while left:
        value, depth, name = left.pop()
        if isinstance(value, dict):
            names.update(value)  # not |=, which copies all names for an object's keys
            left += [(each, depth + 1, key) for key, each in value.items() if isinstance(each, (dict, list))]
        elif isinstance(value, list):
            side = name if name == _COLUMNS else depth
            longest[side] = max(longest.get(side, 0), len(value))
            within = name if name == _COLUMNS else None  # columns of several levels are lists in a list
            left += [(each, depth + 1, within) for each in value if isinstance(each, (dict, list))]
    # Names count twice: in an object of objects the outer ones are columns and the inner ones rows.
    *_, second, first = sorted([*longest.values(), len(names), len(names), 1, 1])
    return first * second


def cells_of_csv(text: str) -> int:
    """The cells of a table in CSV: its lines, and in each as many as the longest one has. Raises csv.Error."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a prompt may be longer than the module's 131,072
    lengths = [len(row) for row in csv.reader(io.StringIO(text, newline=""))]
    return len(lengths) * max(lengths, default=0)
