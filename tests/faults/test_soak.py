"""The soak's own counting: what is lost or doubled, slopes, percentiles."""

from collections import Counter

import pytest

from bench.soak import Watched, after_warm_up, balance, percentile, slope_per_hour


class TestBalance:
    def test_an_answered_turn_that_is_not_kept_is_lost_and_one_that_is_kept_twice_is_doubled(self):
        asked = {"a": "answered", "b": "answered", "c": "answered", "d": "refused: busy", "e": "broken off"}
        found = balance(asked, Counter({"a": 1, "b": 2, "of a tab": 1}), waiting=3)
        assert (found.lost, found.doubled, found.waiting) == (["c"], ["b"], 3)


class TestSlope:
    def test_is_by_the_hour_and_of_the_best_line(self):
        at_s, one = [0.0, 60.0, 120.0, 180.0], [1] * 4
        assert slope_per_hour(at_s, [10.0, 11.0, 12.0, 13.0], one) == pytest.approx(60)
        assert slope_per_hour(at_s, [10.0, 12.0, 12.0, 10.0], one) == pytest.approx(0)

    def test_a_new_process_that_begins_lower_or_higher_is_no_slope(self):
        assert slope_per_hour([0.0, 60.0, 120.0, 180.0], [100.0, 100.0, 10.0, 10.0], [1, 1, 2, 2]) == pytest.approx(0)
        assert slope_per_hour([0.0, 60.0, 120.0, 180.0], [100.0, 101.0, 10.0, 11.0], [1, 1, 2, 2]) == pytest.approx(60)

    def test_of_too_little_is_none(self):
        assert (slope_per_hour([], [], []), slope_per_hour([1.0], [5.0], [1])) == (0, 0)


class TestBehind:
    def test_leaves_out_the_warm_up(self):
        seen = Watched([1.0, 2.0, 3.0], [7, 7, 8], [10.0, 20.0, 30.0], [1.0, 2.0, 3.0])
        assert after_warm_up(seen, 2.0) == Watched([2.0, 3.0], [7, 8], [20.0, 30.0], [2.0, 3.0])


class TestPercentile:
    def test_is_one_of_the_values(self):
        values = [float(number) for number in range(100, 0, -1)]
        assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
        assert percentile([], 0.5) == 0
