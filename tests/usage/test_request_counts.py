"""RequestCounts: one user's turns a minute, a day and at once, counted across threads and processes."""

import threading
from pathlib import Path

import pytest

from phi3kit.core.errors import LimitReached
from phi3kit.core.limits import Limits
from phi3kit.usage.request_counts import RequestCounts, UserCounts


class Clock:
    """A clock that one sets."""

    now = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(tmp_path: Path, clock: Clock) -> RequestCounts:
    return RequestCounts(tmp_path, clock)


def finished(counts: RequestCounts, count: int, user: str = "ada", tokens: int = 10, **limits: int) -> None:
    for number in range(count):
        counts.begin(f"{user}-{number}", user, 1, Limits(**limits))
        counts.end(f"{user}-{number}", tokens)


class TestTurns:
    def test_a_minutes_turns_are_bounded_by_user_and_free_again_after_it(self, counts: RequestCounts, clock: Clock):
        limits = Limits(user_minute_turns=3)
        finished(counts, 3)
        clock.now += 20
        with pytest.raises(LimitReached, match="3 turns in the last minute; the limit is 3") as caught:
            counts.begin("more", "ada", 1, limits)
        assert caught.value.retry_after_s == 41
        counts.begin("other", "bob", 1, limits)
        clock.now += 41
        counts.begin("more", "ada", 1, limits)
        assert counts.of("ada") == UserCounts("ada", 1, 0, 4, 1, clock.now, clock.now)

    def test_a_minutes_tokens_are_bounded(self, counts: RequestCounts):
        finished(counts, 2, tokens=50)
        with pytest.raises(LimitReached, match="100 tokens in the last minute"):
            counts.begin("more", "ada", 1, Limits(user_minute_tokens=100))
        counts.begin("more", "ada", 1, Limits(user_minute_tokens=101))

    def test_no_sum_of_them_is_too_big_to_be_judged(self, counts: RequestCounts):
        finished(counts, 3, tokens=2**62)
        with pytest.raises(LimitReached):
            counts.begin("more", "ada", 1, Limits(user_minute_tokens=100))

    def test_a_days_turns_are_bounded(self, counts: RequestCounts, clock: Clock):
        finished(counts, 2)
        clock.now += 3600
        with pytest.raises(LimitReached, match="turns for today"):
            counts.begin("more", "ada", 1, Limits(user_daily_turns=2))
        clock.now += 86_400
        counts.begin("more", "ada", 1, Limits(user_daily_turns=2))

    def test_a_clock_that_was_set_back_locks_nobody_out(self, counts: RequestCounts, clock: Clock):
        finished(counts, 3)
        clock.now -= 7 * 86_400
        counts.begin("more", "ada", 1, Limits(user_minute_turns=1, user_daily_turns=1))


class TestAtOnce:
    def test_answers_count_and_not_requests(self, counts: RequestCounts, clock: Clock):
        counts.begin("a", "ada", 2, Limits())
        clock.now += 17
        with pytest.raises(LimitReached, match="You have 2 answers in progress and asked for 2 more") as caught:
            counts.begin("b", "ada", 2, Limits(user_turns_at_once=3))
        assert caught.value.retry_after_s == 17  # it may take as long again
        counts.end("a", 5)
        counts.begin("b", "ada", 2, Limits(user_turns_at_once=3))

    def test_a_turn_that_could_not_begin_takes_no_place(self, counts: RequestCounts):
        counts.begin("a", "ada", 1, Limits())
        counts.withdraw("a")
        assert counts.of("ada") == UserCounts("ada")

    def test_a_turn_whose_process_died_gives_its_place_back(self, counts: RequestCounts, clock: Clock):
        counts.begin("a", "ada", 1, Limits())
        clock.now += 601
        counts.begin("b", "ada", 1, Limits(user_turns_at_once=1))

    def test_of_forty_at_the_same_moment_only_the_allowed_come_in(self, tmp_path: Path):
        begun: list[str] = []
        gate = threading.Barrier(40)

        def ask(number: int) -> None:
            mine = RequestCounts(tmp_path)
            gate.wait()
            try:
                mine.begin(f"turn-{number}", "ada", 1, Limits(user_turns_at_once=3))
            except LimitReached:
                return
            begun.append(f"turn-{number}")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(begun) == 3


def test_all_lists_everybody_most_turns_first(counts: RequestCounts):
    finished(counts, 1, "ada")
    finished(counts, 2, "bob")
    assert [(each.user, each.daily_turns, each.minute_tokens) for each in counts.all()] == [
        ("bob", 2, 20),
        ("ada", 1, 10),
    ]
