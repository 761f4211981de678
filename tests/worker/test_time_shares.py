"""Time shares of the engine, with made durations: what a round takes, by whose answers advance in it."""

import itertools
from collections.abc import Mapping

import pytest

from phi3kit.worker.time_shares import TimeShares

ADA, EVE = {"ada": 1}, {"eve": 2}


def rounds(shares: TimeShares, takes: Mapping[str, float], answers: Mapping[str, int], count: int) -> list[str]:
    """Who advanced in each of so many rounds. takes: seconds of a round, by the users in it in order."""
    seen = []
    for _ in range(count):
        able = "+".join(sorted(shares.able(answers, list(answers))))
        shares.charge({user: answers[user] for user in able.split("+")}, takes[able])
        seen.append(able)
    return seen


def test_a_user_alone_advances_in_every_round():
    assert rounds(TimeShares(), {"ada": 1.0}, ADA, 50) == ["ada"] * 50


def test_where_a_round_with_all_is_nearly_free_all_advance_in_nearly_every_one():
    """As of a large model, whose weights are read once for everybody."""
    takes = {"ada": 0.100, "eve": 0.105, "ada+eve": 0.110}
    seen = rounds(TimeShares(), takes, ADA | EVE, 200)
    assert sum("ada" in each for each in seen) >= 190
    assert sum("eve" in each for each in seen) >= 150


def test_where_each_answer_costs_its_own_time_several_of_one_user_make_anothers_at_most_twice_as_slow():
    """As of a small model: measured 0.4, 1.2 and 2.2 ms."""
    takes = {"ada": 0.4, "eve": 1.2, "ada+eve": 2.2}
    seen = rounds(TimeShares(), takes, ADA | EVE, 500)
    a_token = sum(takes[each] for each in seen) / sum("ada" in each for each in seen)
    assert a_token <= 2 * takes["ada"]
    assert sum("eve" in each for each in seen) >= 50, "nobody starves"


def test_users_with_one_answer_each_advance_alike():
    takes = {"ada": 0.4, "bob": 0.4, "ada+bob": 0.7}
    seen = rounds(TimeShares(), takes, {"ada": 1, "bob": 1}, 300)
    ada, bob = (sum(user in each for each in seen) for user in ("ada", "bob"))
    assert ada == pytest.approx(bob, abs=3)


def test_who_comes_later_has_neither_arrears_nor_a_lead():
    shares = TimeShares()
    rounds(shares, {"eve": 1.2}, EVE, 1000)
    takes = {"ada": 0.4, "eve": 1.2, "ada+eve": 2.2}
    seen = rounds(shares, takes, ADA | EVE, 30)
    assert "eve" in "".join(seen)
    assert sum("ada" in each for each in seen) >= 25


def test_reading_a_prompt_counts_too():
    shares = TimeShares()
    rounds(shares, {"ada": 0.4}, ADA, 1)
    shares.able(ADA | EVE, ["ada"])
    shares.charge_one("eve", 5.0)
    assert shares.able(ADA | EVE, ["ada"]) == {"ada"}


def test_who_reads_a_prompt_does_not_advance_alone_to_be_measured():
    shares = TimeShares()
    rounds(shares, {"ada": 0.4}, ADA, 1)
    assert shares.able(ADA | EVE, ["ada"]) == {"ada", "eve"}


@pytest.mark.parametrize(
    ("others", "most_s"), [({"eve": 1.2, "fay": 1.2}, 1.4), ({"eve": 2.0, "fay": 2.0}, 1.4), ({"eve": 2.0}, 0.9)]
)
def test_among_users_with_dearer_answers_one_with_a_cheap_one_has_an_equal_share(
    others: dict[str, float], most_s: float
):
    """All begin at once, and nobody was measured. An equal share of N users is N times the time alone, 0.4 s."""
    alone = {"bob": 0.4} | others
    answers = dict.fromkeys(alone, 1)
    takes = {
        "+".join(sorted(group)): sum(alone[user] for user in group)
        for size in range(1, len(alone) + 1)
        for group in itertools.combinations(alone, size)
    }
    seen = rounds(TimeShares(), takes, answers, 3000)
    assert sum(takes[each] for each in seen) / sum("bob" in each for each in seen) <= most_s


def test_a_user_whose_next_answer_is_dearer_is_measured_anew():
    shares = TimeShares()
    rounds(shares, {"bob": 1.0, "eve": 1.0, "bob+eve": 2.0}, {"bob": 1, "eve": 1}, 300)
    takes = {"bob": 1.0, "eve": 20.0, "bob+eve": 21.0}
    seen = rounds(shares, takes, {"bob": 1, "eve": 1}, 3000)
    assert sum(takes[each] for each in seen) / sum("bob" in each for each in seen) <= 6.0
