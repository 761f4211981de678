"""Charts: the numbers in the figures, in the viewer's zone."""

import pandas as pd
import pytest

from phi3kit.usage.charts import (
    Faster,
    Palette,
    Totals,
    bucket,
    by_wrapper,
    faster_wrapper,
    tokens_by,
    tokens_over_time,
    totals,
)
from tests.samples import TURN, table, turn

PALETTE = Palette("#0000aa", "#00aa00", "#aa0000", "#aa00aa", "#222222", "#dddddd")
HOUR = 3600.0
NO_TURNS = table(TURN).head(0)


def at(iso: str) -> float:
    return pd.Timestamp(iso).timestamp()


def speed(tokens_per_second: float) -> dict[str, float | int]:
    """Values that give a turn this decoding speed: 11 tokens, 10 of them behind the first."""
    first = 0.5
    return {
        "completion_tokens": 11,
        "time_to_first_token_s": first,
        "duration_s": first + 10 / tokens_per_second,
    }


class TestTotals:
    def test_tokens_are_summed_and_times_are_quantiles(self):
        turns = table(*(turn(str(n), time_to_first_token_s=n / 100, duration_s=n / 100 + 1) for n in range(1, 101)))
        assert totals(turns) == Totals(100, 1000, 500, 1500, pytest.approx(0.9505), pytest.approx(4.0))

    def test_turns_without_a_measure_do_not_count_as_zero(self):
        turns = table(turn("a", **speed(20)), turn("b", completion_tokens=0, time_to_first_token_s=None))
        assert totals(turns) == Totals(2, 20, 11, 31, pytest.approx(0.5), pytest.approx(20))

    def test_no_turns_are_zeros_and_no_measures(self):
        assert totals(NO_TURNS) == Totals(0, 0, 0, 0, None, None)


class TestBucket:
    @pytest.mark.parametrize(
        ("hours", "width"),
        [
            (0, "1s"),
            (0.1, "5s"),
            (1, "1min"),
            (2, "5min"),
            (20, "15min"),
            (72, "1h"),
            (480, "6h"),
            (720, "1D"),
            (8760, "7D"),
        ],
    )
    def test_the_bars_are_as_wide_as_the_period_asks(self, hours: float, width: str):
        assert bucket(table(turn("a"), turn("b", at=TURN.at + hours * HOUR))) == width

    def test_no_turns_have_a_width_too(self):
        assert bucket(NO_TURNS) == "1h"


class TestTokensOverTime:
    def test_prompt_and_completion_are_stacked_and_summed_by_bucket(self):
        turns = table(turn("a"), turn("b", at=TURN.at + 20), turn("c", at=TURN.at + 3000, prompt_tokens=1))
        figure = tokens_over_time(turns, PALETTE, "UTC")
        prompt, completion = figure.data
        assert [str(time)[:16] for time in prompt.x] == ["2026-01-01T00:00", "2026-01-01T00:50"]
        assert (list(prompt.y), list(completion.y)) == ([20, 1], [10, 5])
        assert list(prompt.customdata) == [30, 6]
        assert (prompt.name, completion.name, figure.layout.barmode) == ("prompt", "completion", "stack")
        assert (prompt.marker.color, completion.marker.color) == (PALETTE.prompt, PALETTE.completion)

    def test_few_bars_have_room_around_them(self):
        figure = tokens_over_time(table(turn("a")), PALETTE, "UTC")
        begin, end = (pd.Timestamp(edge) for edge in figure.layout.xaxis.range)
        assert (end - begin).total_seconds() == 24

    def test_days_begin_at_midnight_where_the_viewer_is(self):
        late, month_later = turn("a", at=at("2026-01-01T22:30Z")), turn("b", at=at("2026-02-10T12:00Z"))
        prompt = tokens_over_time(table(late, month_later), PALETTE, "Europe/Athens").data[0]
        assert [str(time)[:16] for time in prompt.x] == ["2026-01-02T00:00", "2026-02-10T00:00"]

    @pytest.mark.parametrize(
        ("zone", "moments"),
        [
            ("Europe/Athens", ["2026-10-25T00:30Z", "2026-10-25T01:30Z"]),  # 03:30 comes twice
            ("Europe/Athens", ["2026-03-29T00:30Z", "2026-03-29T01:30Z"]),  # 03:30 does not come
            ("America/Santiago", ["2026-08-01T12:00Z", "2026-09-06T05:00Z"]),  # a day that begins at 01:00
        ],
    )
    def test_no_token_is_lost_when_clocks_change(self, zone: str, moments: list[str]):
        turns = table(*(turn(moment, at=at(moment)) for moment in moments))
        prompt, completion = tokens_over_time(turns, PALETTE, zone).data
        assert (sum(prompt.y), sum(completion.y)) == (20, 10)

    def test_no_turns_are_a_chart_without_bars(self):
        assert [len(bars.x) for bars in tokens_over_time(NO_TURNS, PALETTE, "UTC").data] == [0, 0]


class TestTokensBy:
    def test_sums_the_tokens_of_each_value(self):
        turns = table(turn("a", user="ada"), turn("b", user="bob"), turn("c", user="ada"))
        prompt, completion = tokens_by(turns, "user", PALETTE).data
        assert (list(prompt.y), list(prompt.x), list(completion.x)) == (["ada", "bob"], [20, 10], [10, 5])


class TestByWrapper:
    def test_a_wrapper_with_the_measure_is_a_box_in_its_colour_and_unit(self):
        turns = table(turn("a"), turn("b"), turn("c", wrapper="transformers", time_to_first_token_s=None))
        (box,) = by_wrapper(turns, "time_to_first_token_s", "ms", PALETTE).data
        assert (box.name, list(box.x), box.marker.color) == ("onnx", [500, 500], PALETTE.onnx)

    def test_other_units_are_not_scaled(self):
        (box,) = by_wrapper(table(turn(**speed(20))), "tokens_per_second", "tokens/s", PALETTE).data
        assert list(box.x) == pytest.approx([20])


class TestFasterWrapper:
    def test_is_the_one_with_the_higher_median_and_how_many_times(self):
        speeds = [("onnx", 30), ("onnx", 10), ("onnx", 20), ("transformers", 50)]
        turns = table(*(turn(str(n), wrapper=wrapper, **speed(each)) for n, (wrapper, each) in enumerate(speeds)))
        assert faster_wrapper(turns) == Faster("transformers", pytest.approx(2.5))

    def test_is_nobody_until_both_have_answered(self):
        unmeasured = turn("b", wrapper="transformers", completion_tokens=1)
        assert faster_wrapper(table(turn("a"), unmeasured)) is None
        assert faster_wrapper(NO_TURNS) is None
