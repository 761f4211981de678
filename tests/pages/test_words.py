"""Words: how the pages write numbers."""

import pytest

from phi3kit.ui.shared import words


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "no token"),
        (0.0021, "2 ms"),
        (0.25, "250 ms"),
        (1.5, "1.50 s"),
        (59.99, "59.99 s"),
        (59.999, "1 min 0 s"),
        (90, "1 min 30 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_a_time_is_in_the_units_that_one_would_say(value: float | None, written: str) -> None:
    assert words.seconds(value) == written
