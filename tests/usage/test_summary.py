"""Summary: the numbers that turns come down to."""

import pytest

from phi3kit.usage.summary import (
    REST,
    Faster,
    Totals,
    change,
    conversations,
    faster_wrapper,
    outcomes,
    percentiles,
    same_prompts,
    served,
    served_by,
    totals,
)
from tests.support.samples import TURN, table, turn

NO_TURNS = table(TURN).head(0)


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

    def test_turns_without_counts_are_said_and_cached_tokens_are_summed(self):
        turns = table(
            turn("a", cached_prompt_tokens=4), turn("b", prompt_tokens=0, completion_tokens=0, tokens_counted=False)
        )
        sums = totals(turns)
        assert (sums.cached_prompt_tokens, sums.uncounted_turns, sums.total_tokens) == (4, 1, 15)


class TestChange:
    @pytest.mark.parametrize(
        ("now", "before", "share"), [(15, 10, 0.5), (0, 10, -1.0), (10, 0, None), (10, None, None), (None, 10, None)]
    )
    def test_is_the_share_that_came_or_went(self, now: float | None, before: float | None, share: float | None):
        assert change(now, before) == share


class TestServed:
    def test_wrappers_come_first_and_other_programs_last(self):
        turns = table(*(turn(name, wrapper=name) for name in ("zephyr", "remote", "onnx", "transformers")))
        assert served(served_by(turns)) == ["transformers", "onnx", "remote", "zephyr"]

    def test_of_many_of_other_programs_those_with_most_turns_are_named(self):
        turns = table(turn("ours"), turn("m", wrapper="many"), *(turn(f"t{n}", wrapper=f"w{n:02}") for n in range(40)),
                      turn("n", wrapper="many"))  # fmt: skip
        names = served(served_by(turns))
        assert (names[0], names[1], names[-1], len(names)) == ("onnx", "many", REST, 14)
        assert (served_by(turns) == REST).sum() == 29
        assert list(percentiles(turns, "duration_s")["wrapper"]) == names


class TestPercentiles:
    def test_are_those_of_each_wrapper_that_has_the_measure(self):
        turns = table(
            *(turn(f"t{n}", time_to_first_token_s=n / 100, duration_s=9) for n in range(1, 101)),
            turn("x", wrapper="transformers", time_to_first_token_s=None),
        )
        (row,) = percentiles(turns, "time_to_first_token_s").to_dict("records")
        expected = {"wrapper": "onnx", "turns": 100, "p50": 0.505, "p95": 0.9505, "p99": 0.9901}
        assert row == {name: pytest.approx(value) if name != "wrapper" else value for name, value in expected.items()}


class TestOutcomes:
    def test_errors_are_told_apart_by_their_code_and_the_most_come_first(self):
        turns = table(
            turn("a"), turn("b"), turn("c", finish_reason="error", error_code="worker_died"),
            turn("d", finish_reason="error"), turn("e", wrapper="transformers"),
        )  # fmt: skip
        rows = outcomes(turns).to_dict("records")
        assert [(row["outcome"], row["wrapper"], row["turns"]) for row in rows][:2] == [
            ("stop", "onnx", 2), ("stop", "transformers", 1),
        ]  # fmt: skip
        assert {row["outcome"] for row in rows} == {"stop", "error", "error: worker_died"}


class TestConversations:
    def test_sum_their_turns_and_the_largest_is_first(self):
        turns = table(turn("a"), turn("b", conversation_id="c2"), turn("c", conversation_id="c2", at=TURN.at + 60))
        first, second = conversations(turns).to_dict("records")
        assert (first["conversation_id"], first["turns"], first["total_tokens"]) == ("c2", 2, 30)
        assert first["at"].timestamp() == TURN.at + 60
        assert (second["conversation_id"], second["total_tokens"]) == ("c1", 15)


class TestSamePrompts:
    def test_only_prompts_that_both_were_asked_are_compared_by_medians(self):
        turns = table(
            turn("a", prompt_key="p", **speed(10)),
            turn("b", prompt_key="p", **speed(30)),
            turn("c", prompt_key="p", wrapper="transformers", **speed(5)),
            turn("d", prompt_key="only onnx", **speed(1000)),
            turn("e", prompt_key="p", wrapper="transformers", finish_reason="error", completion_tokens=0),
            turn("f", **speed(2000)),
        )
        transformers, onnx = same_prompts(turns).to_dict("records")
        assert (transformers["wrapper"], transformers["prompts"], transformers["turns"]) == ("transformers", 1, 1)
        assert transformers["tokens_per_second"] == pytest.approx(5)
        assert (onnx["wrapper"], onnx["turns"], onnx["tokens_per_second"]) == ("onnx", 2, pytest.approx(20))

    def test_without_common_prompts_there_is_nothing_to_compare(self):
        assert same_prompts(table(turn("a", prompt_key="p"))).empty
        assert same_prompts(NO_TURNS).empty


class TestFasterWrapper:
    def test_is_the_one_with_the_higher_median_and_how_many_times(self):
        speeds = [("onnx", 30), ("onnx", 10), ("onnx", 20), ("transformers", 50)]
        turns = table(*(turn(str(n), wrapper=wrapper, **speed(each)) for n, (wrapper, each) in enumerate(speeds)))
        assert faster_wrapper(turns) == Faster("transformers", pytest.approx(2.5))

    def test_is_nobody_until_both_have_answered(self):
        unmeasured = turn("b", wrapper="transformers", completion_tokens=1)
        assert faster_wrapper(table(turn("a"), unmeasured)) is None
        assert faster_wrapper(NO_TURNS) is None
