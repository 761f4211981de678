"""Charts: the numbers in the figures, in the viewer's zone."""

import pandas as pd
import pytest

from phi3kit.usage.charts import (
    Palette,
    TimeAxis,
    Width,
    as_table,
    bars_at,
    between,
    bin_at,
    bucket,
    conversations_of,
    distribution,
    endings,
    interval,
    measured,
    names_of,
    time_axis,
    tokens_a_conversation,
    tokens_by,
    tokens_over_time,
    turns_at,
    turns_between,
    turns_ended,
)
from phi3kit.usage.summary import REST, conversations
from tests.support.samples import TURN, table, turn

PALETTE = Palette("#0000aa", "#00aa00", "#aa0000", "#aa00aa", "#222222", "#dddddd")
HOUR = 3600.0
NO_TURNS = table(TURN).head(0)


def at(iso: str) -> float:
    return pd.Timestamp(iso).timestamp()


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
        assert bucket(pd.Timedelta(hours=hours)) == width

    @pytest.mark.parametrize(("asked", "width"), [("hour", "1h"), ("day", "1D"), ("week", "7D")])
    def test_a_width_that_is_asked_for_is_taken(self, asked: Width, width: str):
        assert bucket(pd.Timedelta(hours=480), asked) == width

    def test_a_width_that_would_give_thousands_of_bars_is_not(self):
        assert bucket(pd.Timedelta(hours=8760), "hour") == "7D"

    def test_decades_are_shown_by_years(self):
        turns = table(turn("a", at=0), turn("b", at=4_102_000_000))
        axis = all_time(turns)
        assert axis.width == "364D"
        assert len(tokens_over_time(turns, PALETTE, axis).data[0].x) == 2


def all_time(turns: pd.DataFrame, zone: str = "UTC", width: Width = "auto") -> TimeAxis:
    """The axis of all time, long after the turns."""
    return time_axis(turns, zone, width, None, pd.Timestamp("2100-01-01T00:00Z"))


class TestTimeAxis:
    NOW = pd.Timestamp("2026-01-31T22:10Z")

    def test_a_period_is_shown_from_its_begin_until_now_whatever_was_asked_in_it(self):
        turns = table(turn("a", at=at("2026-01-30T12:00Z")), turn("b", at=at("2026-01-30T12:01Z")))
        axis = time_axis(turns, "UTC", "auto", self.NOW - pd.Timedelta("7D"), self.NOW)
        assert (str(axis.begin), str(axis.end)) == ("2026-01-24 21:00:00", "2026-01-31 22:30:00")
        assert axis.width == "6h"
        figure = tokens_over_time(turns, PALETTE, axis)
        assert [pd.Timestamp(edge) for edge in figure.layout.xaxis.range] == [axis.begin, axis.end]

    @pytest.mark.parametrize("width", ["auto", "day", "week"])
    @pytest.mark.parametrize("days", [1, 30, None])
    def test_no_bar_reaches_into_the_next_month(self, width: Width, days: int | None):
        turns = table(turn("a", at=at("2026-01-01T12:00Z")), turn("b", at=at("2026-01-31T22:00Z")))
        begin = None if days is None else self.NOW - pd.Timedelta(days=days)
        assert time_axis(turns, "UTC", width, begin, self.NOW).end <= pd.Timestamp("2026-02-01")

    @pytest.mark.parametrize("width", ["auto", "day", "week"])
    def test_of_a_bar_that_has_just_begun_a_part_is_seen(self, width: Width):
        monday = pd.Timestamp("2026-02-02T00:05Z")
        turns = table(turn("a", at=at("2026-02-02T00:04Z")))
        axis = time_axis(turns, "UTC", width, monday - pd.Timedelta("30D"), monday)
        (bars, _) = tokens_over_time(turns, PALETTE, axis).data
        assert axis.end > bars.x[0] + pd.Timedelta(milliseconds=bars.offset)

    def test_it_stays_the_same_for_a_while(self):
        turns = table(turn("a", at=at("2026-01-30T12:00Z")))
        axes = {
            time_axis(turns, "UTC", "auto", now - pd.Timedelta("24h"), now)
            for now in (self.NOW, self.NOW + pd.Timedelta("4min"))
        }
        assert len(axes) == 1

    def test_a_turn_of_a_machine_whose_clock_is_ahead_is_seen(self):
        turns = table(turn("a", at=at("2026-01-31T23:40Z")))
        axis = time_axis(turns, "UTC", "auto", self.NOW - pd.Timedelta("24h"), self.NOW)
        assert axis.end >= pd.Timestamp("2026-01-31 23:40")

    def test_it_is_on_the_viewers_clock_and_says_so(self):
        turns = table(turn("a", at=at("2026-01-31T22:00Z")))
        axis = time_axis(turns, "Europe/Athens", "hour", self.NOW - pd.Timedelta("24h"), self.NOW)
        assert (str(axis.begin), str(axis.end)) == ("2026-01-31 00:00:00", "2026-02-01 00:15:00")
        figure = tokens_over_time(turns, PALETTE, axis)
        assert figure.layout.xaxis.title.text == "time, Europe/Athens"
        assert (figure.layout.yaxis.title.text, figure.layout.yaxis.tickformat) == ("tokens", ",")

    def test_no_turns_have_an_axis_too(self):
        assert all_time(NO_TURNS).begin < all_time(NO_TURNS).end


class TestInterval:
    @pytest.mark.parametrize(
        ("begin", "end", "words"),
        [
            ("2026-01-05", "2026-01-06", "5 Jan 2026"),
            ("2025-12-29", "2026-01-05", "29 Dec 2025 to 4 Jan 2026"),
            ("2026-01-05 18:00", "2026-01-06 00:00", "5 Jan 2026, 18:00 to 00:00"),
            ("2026-01-05 18:00", "2026-01-05 18:01", "5 Jan 2026, 18:00 to 18:01"),
            ("2026-01-05 18:00:55", "2026-01-05 18:01", "5 Jan 2026, 18:00:55 to 18:01:00"),
        ],
    )
    def test_is_a_day_days_or_a_part_of_a_day(self, begin: str, end: str, words: str):
        assert interval(pd.Timestamp(begin), pd.Timestamp(end)) == words


class TestTokensOverTime:
    def test_prompt_and_completion_are_stacked_and_summed_by_bucket(self):
        turns = table(turn("a"), turn("b", at=TURN.at + 20), turn("c", at=TURN.at + 3000, prompt_tokens=1))
        figure = tokens_over_time(turns, PALETTE, all_time(turns))
        prompt, completion = figure.data
        assert [str(time)[:16] for time in prompt.x] == ["2026-01-01T00:00", "2026-01-01T00:50"]
        assert (list(prompt.y), list(completion.y)) == ([20, 1], [10, 5])
        assert list(prompt.customdata) == [30, 6]
        assert (prompt.name, completion.name, figure.layout.barmode) == ("prompt", "completion", "stack")
        assert (prompt.marker.color, completion.marker.color) == (PALETTE.prompt, PALETTE.completion)

    def test_each_part_has_a_pattern_of_its_own(self):
        turns = table(turn("a", cached_prompt_tokens=4))
        for figure in (tokens_over_time(turns, PALETTE, all_time(turns)), tokens_by(turns, "user", PALETTE)):
            assert len({bars.marker.pattern.shape for bars in figure.data}) == 3

    def test_a_bar_says_when_it_is(self):
        turns = table(turn("a", at=at("2026-01-05T01:10Z")))
        prompt = tokens_over_time(turns, PALETTE, all_time(turns, width="hour")).data[0]
        assert list(prompt.hovertext) == ["5 Jan 2026, 01:00 to 02:00"]
        assert "%{hovertext}" in prompt.hovertemplate

    def test_cached_prompt_tokens_are_a_part_of_the_bar_and_not_counted_twice(self):
        turns = table(turn("a", cached_prompt_tokens=4))
        prompt, cached, completion = tokens_over_time(turns, PALETTE, all_time(turns)).data
        assert [list(part.y) for part in (prompt, cached, completion)] == [[6], [4], [5]]
        assert (cached.name, list(prompt.customdata)) == ("cached prompt", [15])

    def test_a_week_begins_on_monday(self):
        turns = table(turn("sunday", at=at("2026-01-04T23:00Z")), turn("monday", at=at("2026-01-05T01:00Z")))
        prompt = tokens_over_time(turns, PALETTE, all_time(turns, width="week")).data[0]
        assert [str(time)[:10] for time in prompt.x] == ["2025-12-29", "2026-01-05"]

    @pytest.mark.parametrize("width", ["auto", "hour", "day", "week"])
    def test_the_turns_of_a_bar_are_found_by_its_middle_which_a_click_names(self, width: Width):
        turns = table(turn("a"), turn("b", at=TURN.at + 20), turn("c", at=TURN.at + 30 * 24 * HOUR))
        axis = all_time(turns, "Asia/Tokyo", width)
        bars = tokens_over_time(turns, PALETTE, axis).data[0]
        middles = [str(time + pd.Timedelta(milliseconds=bars.offset + bars.width / 2)) for time in bars.x]
        for clicked, found in ((middles[:1], ["a", "b"]), (middles[::-1], ["a", "b", "c"])):
            begins = bars_at(axis, clicked)
            assert begins == list(bars.x[: len(clicked)])
            assert sorted(turns_at(turns, axis, begins)["turn_id"]) == found

    def test_a_bar_stands_within_its_hours(self):
        turns = table(turn("a", at=at("2026-01-05T01:10Z")), turn("b", at=at("2026-01-05T01:50Z")))
        figure = tokens_over_time(turns, PALETTE, all_time(turns, width="hour"))
        hour_ms = 3_600_000
        for bars in figure.data:
            assert [str(time)[11:16] for time in bars.x] == ["01:00"]
            assert 0 < bars.offset < bars.offset + bars.width < hour_ms
            assert bars.offset + bars.width / 2 == pytest.approx(hour_ms / 2)
        begin, end = (pd.Timestamp(edge) for edge in figure.layout.xaxis.range)
        assert begin + (end - begin) / 2 == pd.Timestamp("2026-01-05T01:30")

    def test_few_bars_have_room_around_them(self):
        axis = all_time(table(turn("a")))
        assert (axis.end - axis.begin).total_seconds() == 24

    def test_days_begin_at_midnight_where_the_viewer_is(self):
        late, month_later = turn("a", at=at("2026-01-01T22:30Z")), turn("b", at=at("2026-02-10T12:00Z"))
        turns = table(late, month_later)
        prompt = tokens_over_time(turns, PALETTE, all_time(turns, "Europe/Athens")).data[0]
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
        prompt, completion = tokens_over_time(turns, PALETTE, all_time(turns, zone)).data
        assert (sum(prompt.y), sum(completion.y)) == (20, 10)

    def test_no_turns_are_a_chart_without_bars(self):
        assert [len(bars.x) for bars in tokens_over_time(NO_TURNS, PALETTE, all_time(NO_TURNS)).data] == [0, 0]


class TestTokensBy:
    def test_sums_the_tokens_of_each_value(self):
        turns = table(turn("a", user="ada"), turn("b", user="bob"), turn("c", user="ada"))
        prompt, completion = tokens_by(turns, "user", PALETTE).data
        assert (list(prompt.y), list(prompt.x), list(completion.x)) == (["ada", "bob"], [20, 10], [10, 5])

    def test_the_most_come_first_and_many_small_ones_are_one_bar(self):
        turns = table(*(turn(f"t{n}", user=f"u{n:02}", completion_tokens=n) for n in range(1, 21)))
        prompt, completion = tokens_by(turns, "user", PALETTE).data
        assert list(prompt.y) == [*(f"u{n:02}" for n in range(20, 8, -1)), REST]
        assert (sum(prompt.x), sum(completion.x)) == (200, 210)
        assert (names_of(turns, "user") == REST).sum() == 8

    def test_a_missing_value_is_unknown(self):
        turns = table(turn("a", user="ada")).assign(user=pd.array([None], dtype="str"))
        assert list(tokens_by(turns, "user", PALETTE).data[0].y) == ["unknown"]


class TestNames:
    HOSTILE = '<a href="http://evil.example">x</a> %{y} &'
    SHOWN = '&lt;a href="http://evil.example"&gt;x&lt;/a&gt; %&#123;y} &amp;'

    def test_of_another_program_are_text_in_every_chart_and_no_link(self):
        turns = table(turn("a", user=self.HOSTILE, wrapper=self.HOSTILE, finish_reason=self.HOSTILE))
        assert list(tokens_by(turns, "user", PALETTE).data[0].y) == [self.SHOWN]
        for figure in (endings(turns, PALETTE), distribution(turns, "duration_s", PALETTE)):
            assert figure.data[0].name == self.SHOWN
            assert "<a" not in str(figure.to_dict())
            assert "%{y} &" not in str(figure.to_dict())

    def test_a_click_on_such_a_bar_finds_its_turns(self):
        turns = table(turn("a", user=self.HOSTILE, wrapper=self.HOSTILE), turn("b", user="bob"))
        assert list(turns[names_of(turns, "user") == self.SHOWN]["user"]) == [self.HOSTILE]
        (bar,) = (each for each in distribution(turns, "duration_s", PALETTE).data if each.name == self.SHOWN)
        low, high = next(each for each, count in zip(bar.customdata, bar.y, strict=True) if count)
        assert len(turns_between(turns, "duration_s", bar.name, low, high)) == 1


class TestDistribution:
    def test_a_wrapper_with_the_measure_is_a_histogram_in_its_colour_and_unit(self):
        turns = table(turn("a"), turn("b"), turn("c", wrapper="transformers", time_to_first_token_s=None))
        (bars,) = distribution(turns, "time_to_first_token_s", PALETTE).data
        assert (bars.name, sum(bars.y), bars.marker.color) == ("onnx", 2, PALETTE.onnx)
        (filled,) = [number for number, count in enumerate(bars.y) if count]
        low, high = bars.customdata[filled]
        assert low <= 0.5 < high
        assert bars.hovertext[filled] == between("time_to_first_token_s", low, high) == "487 ms to 562 ms"

    def test_a_remote_endpoint_is_gray(self):
        (bars,) = distribution(table(turn(wrapper="remote")), "duration_s", PALETTE).data
        assert bars.marker.color == PALETTE.neutral

    def test_what_answered_is_told_apart_by_patterns_too_and_no_bar_hides_another(self):
        turns = table(turn("a"), turn("b", wrapper="transformers"), turn("c", wrapper="remote"))
        for figure in (distribution(turns, "duration_s", PALETTE), endings(turns, PALETTE)):
            assert len({bars.marker.pattern.shape for bars in figure.data}) == 3
            assert {bars.opacity for bars in figure.data} == {None}
            assert figure.layout.barmode == "stack"

    def test_times_are_labelled_in_the_unit_that_one_would_say(self):
        turns = table(turn("a"), turn("b")).assign(duration_s=[0.004, 90.0])
        axis = distribution(turns, "duration_s", PALETTE).layout.xaxis
        labels = dict(zip(axis.tickvals, axis.ticktext, strict=True))
        seen = [text for at, text in labels.items() if 0.001 <= at <= 600]
        assert seen == ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "1 min", "10 min"]
        assert axis.title.text == "duration"

    def test_a_short_axis_has_ticks_at_2_and_5_too(self):
        turns = table(turn("a"), turn("b")).assign(duration_s=[0.15, 0.3])
        axis = distribution(turns, "duration_s", PALETTE).layout.xaxis
        seen = [text for at, text in zip(axis.tickvals, axis.ticktext, strict=True) if 0.1 <= at <= 1]
        assert seen == ["100 ms", "200 ms", "500 ms", "1 s"]

    def test_a_speed_has_its_unit(self):
        (bars,) = distribution(table(turn("a")), "tokens_per_second", PALETTE).data
        (filled,) = [number for number, count in enumerate(bars.y) if count]
        assert bars.hovertext[filled].endswith(" tokens/s")

    def test_every_turn_is_in_exactly_one_bar_and_found_by_it(self):
        turns = table(*(turn(f"t{n}", duration_s=0.6 + n / 7, time_to_first_token_s=0.5) for n in range(50)))
        (bars,) = distribution(turns, "duration_s", PALETTE).data
        found = [turns_between(turns, "duration_s", "onnx", low, high) for low, high in bars.customdata]
        assert [len(each) for each in found] == list(bars.y)
        assert sorted(pd.concat(found)["turn_id"]) == sorted(turns["turn_id"])

    def test_no_measure_is_a_chart_without_bars(self):
        turns = table(turn(time_to_first_token_s=None))
        assert distribution(turns, "time_to_first_token_s", PALETTE).data == ()

    def test_measures_far_apart_are_in_a_bounded_number_of_bins(self):
        turns = table(turn("a"), turn("b")).assign(duration_s=[1e-300, 9e8])
        (bars,) = distribution(turns, "duration_s", PALETTE).data
        assert (len(bars.x) <= 300, sum(bars.y)) == (True, 2)


class TestMeasured:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (1e-300, "1e-294 µs"),
            (0.0000025, "2.5 µs"),
            (0.0125, "12.5 ms"),
            (1.7783, "1.78 s"),
            (90, "1.5 min"),
            (9e8, "250,000 h"),
        ],
    )
    def test_a_time_has_three_digits_and_its_unit(self, seconds: float, words: str):
        assert measured("duration_s", seconds) == words

    def test_a_speed_is_in_tokens_a_second(self):
        assert measured("tokens_per_second", 4812.3) == "4,810 tokens/s"


class TestAsTable:
    def test_has_a_row_for_each_bar_and_a_column_for_each_series(self):
        turns = table(turn("a"), turn("b", at=TURN.at + 3 * HOUR, cached_prompt_tokens=4))
        axis = all_time(turns, width="hour")
        rows = as_table(tokens_over_time(turns, PALETTE, axis))
        assert list(rows.columns) == ["bar", "prompt", "cached prompt", "completion"]
        assert rows.to_numpy().tolist() == [
            ["1 Jan 2026, 00:00 to 01:00", 10, 0, 5],
            ["1 Jan 2026, 03:00 to 04:00", 6, 4, 5],
        ]

    def test_a_row_of_time_finds_the_turns_that_its_bar_has(self):
        turns = table(turn("a"), turn("b", at=TURN.at + 3 * HOUR))
        axis = all_time(turns, "Asia/Tokyo", "hour")
        _, second = as_table(tokens_over_time(turns, PALETTE, axis)).index
        clicked = "2026-01-01 09:30"  # the first bar's middle, as Plotly writes it
        assert list(turns_at(turns, axis, bars_at(axis, [str(second)]))["turn_id"]) == ["b"]
        assert sorted(turns_at(turns, axis, bars_at(axis, [clicked, str(second)]))["turn_id"]) == ["a", "b"]

    def test_a_row_of_a_distribution_has_all_that_answered_and_a_bar_only_one(self):
        turns = table(turn("a"), turn("b", wrapper="transformers"), turn("c", duration_s=9.0))
        rows = as_table(distribution(turns, "duration_s", PALETTE))
        assert list(rows["transformers"]) == [1, 0]
        assert list(rows["onnx"]) == [1, 1]
        low, high = bin_at(turns, "duration_s", float(rows.index[0]))
        assert rows["bar"].iloc[0] == between("duration_s", low, high)
        assert sorted(turns_between(turns, "duration_s", None, low, high)["turn_id"]) == ["a", "b"]
        assert list(turns_between(turns, "duration_s", "onnx", low, high)["turn_id"]) == ["a"]

    def test_rows_of_endings_and_of_conversations_find_their_turns(self):
        failed = turn("b", finish_reason="error", error_code="quota", conversation_id="c2")
        turns = table(turn("a"), failed, turn("c", conversation_id="c3"))
        rows = as_table(endings(turns, PALETTE))
        assert rows.to_numpy().tolist() == [["stop", 2], ["error: quota", 1]]
        assert list(turns_ended(turns, ["error: quota"])["turn_id"]) == ["b"]
        groups = conversations(turns)
        rows = as_table(tokens_a_conversation(groups, PALETTE))
        assert rows.to_numpy().tolist() == [["8–15", 3]]
        assert sorted(conversations_of(groups, ["8–15"])) == ["c1", "c2", "c3"]
        assert list(conversations_of(groups, ["16–31"])) == []

    def test_names_are_as_they_were_given(self):
        turns = table(turn("a", user=TestNames.HOSTILE, wrapper=TestNames.HOSTILE))
        assert list(as_table(tokens_by(turns, "user", PALETTE))["bar"]) == [TestNames.HOSTILE]
        assert list(as_table(endings(turns, PALETTE)).columns) == ["bar", TestNames.HOSTILE]

    def test_no_bars_are_no_rows(self):
        assert as_table(tokens_a_conversation(conversations(NO_TURNS), PALETTE)).empty
        assert as_table(tokens_over_time(NO_TURNS, PALETTE, all_time(NO_TURNS))).empty


class TestManyNames:
    """Runs of other programs may name as many wrappers, endings and users as they like."""

    TURNS = table(
        turn("ours"),
        *(turn(f"w{n}", wrapper=f"w{n // 2:03}", finish_reason=f"f{n // 2:03}", at=TURN.at + n) for n in range(400)),
        *(turn(f"x{n}", wrapper="w007", finish_reason="f007") for n in range(9)),
    )

    def test_beyond_a_dozen_and_ours_are_one_series_of_a_distribution(self):
        bars = distribution(self.TURNS, "duration_s", PALETTE).data
        names = [each.name for each in bars]
        assert (names[0], names[-1], len(names), "w007" in names) == ("onnx", REST, 14, True)
        assert sum(sum(each.y) for each in bars) == len(self.TURNS)
        for each in bars:
            ((low, high),) = (cut for cut, count in zip(each.customdata, each.y, strict=True) if count)
            assert len(turns_between(self.TURNS, "duration_s", each.name, low, high)) == sum(each.y)

    def test_so_are_they_and_their_endings_of_how_turns_ended(self):
        figure = endings(self.TURNS, PALETTE)
        outcomes = {outcome for each in figure.data for outcome in each.y}
        assert (len(figure.data), len(outcomes), REST in outcomes) == (14, 13, True)
        assert sum(sum(each.x) for each in figure.data) == len(self.TURNS)
        assert figure.layout.height < 600

    def test_of_any_length_are_cut(self):
        turns = table(turn("a", user="u" * 5000, wrapper="w" * 5000))
        assert tokens_by(turns, "user", PALETTE).data[0].y[0] == "u" * 120 + "…"
        (bars,) = distribution(turns, "duration_s", PALETTE).data
        low, high = next(cut for cut, count in zip(bars.customdata, bars.y, strict=True) if count)
        assert len(turns_between(turns, "duration_s", bars.name, low, high)) == 1


class TestEndings:
    def test_counts_turns_by_how_they_ended_and_errors_by_their_code(self):
        turns = table(
            turn("a"),
            turn("b"),
            turn("c", finish_reason="error", error_code="insufficient_quota"),
            turn("d", wrapper="transformers", finish_reason="error"),
        )
        transformers, onnx = endings(turns, PALETTE).data
        assert (transformers.name, list(transformers.y), list(transformers.x)) == ("transformers", ["error"], [1])
        assert dict(zip(onnx.y, onnx.x, strict=True)) == {"stop": 2, "error: insufficient_quota": 1}


class TestTokensAConversation:
    def test_conversations_are_counted_in_bins_that_double(self):
        turns = table(turn("a"), turn("b", conversation_id="c2"), turn("c", conversation_id="c2"))
        (bars,) = tokens_a_conversation(conversations(turns), PALETTE).data
        assert (list(bars.x), list(bars.y)) == (["8–15", "16–31"], [1, 1])

    def test_none_are_a_chart_without_bars(self):
        assert tokens_a_conversation(conversations(NO_TURNS), PALETTE).data == ()
