"""Foreign values: tags, params and metrics as any program may have written them, each read as what it should be or as nothing.

Knows texts and numbers. Knows no tag's name.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

Word = TypeVar("Word", bound=str)

_MOST = 2**53  # beyond it floats, and the browser, skip numbers
_EARLIEST_MS, _LATEST_MS = 0, 4_102_444_800_000  # 1970 and 2100


def whole(value: object, least: int = 0) -> int | None:
    """A whole number of at least `least`, given as one, as a float or in ASCII digits."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) <= 16 else None
    return value if isinstance(value, int) and least <= value <= _MOST else None


def measure(value: object) -> float | None:
    """A finite number that is not negative."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= _MOST else None


def one_of(value: object, words: Sequence[Word]) -> Word | None:
    """One of the words."""
    return next((word for word in words if word == value), None)


def moment(milliseconds: object) -> datetime | None:
    """A time of this century or the last one's end, in UTC."""
    found = whole(milliseconds, _EARLIEST_MS)
    return datetime.fromtimestamp(found / 1000, UTC) if found is not None and found <= _LATEST_MS else None
