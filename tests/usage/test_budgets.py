"""Budgets: who may still spend, and what is said to who may not."""

from pathlib import Path

import pytest

from phi3kit.core.errors import BudgetSpent
from phi3kit.core.limits import Limits
from phi3kit.usage.budgets import Meter, check, meters
from phi3kit.usage.outbox import Outbox
from tests.support.samples import TURN, turn

NOON = TURN.at + 43_200
MIDNIGHT = TURN.at + 86_400


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """15 tokens of ada's and 15 of bob's on the first of January."""
    outbox = Outbox(tmp_path)
    outbox.add(turn("a", user="ada"))
    outbox.add(turn("b", user="bob"))
    return outbox


class TestCheck:
    def test_without_budgets_everything_is_let_in(self, outbox: Outbox):
        check(Limits(), outbox, "ada", 10**9, NOON)

    @pytest.mark.parametrize(("everybody", "each_user"), [(31, None), (None, 16), (31, 16)])
    def test_below_its_budgets_a_turn_is_let_in(self, outbox: Outbox, everybody: int | None, each_user: int | None):
        check(Limits(everybody, each_user), outbox, "ada", 1, NOON)

    @pytest.mark.parametrize("prompt_tokens", [0, 1])
    def test_at_the_budget_of_all_everybody_is_refused(self, outbox: Outbox, prompt_tokens: int):
        with pytest.raises(BudgetSpent, match=r"The daily token budget is spent\. 30 of 30 tokens") as caught:
            check(Limits(daily_tokens=30), outbox, "carol", prompt_tokens, NOON)
        assert "in 12 h 0 min" in caught.value.next_step
        assert caught.value.retry_after_s == 43_201

    def test_at_their_own_budget_only_that_user_is_refused(self, outbox: Outbox):
        with pytest.raises(BudgetSpent, match="of ada is spent"):
            check(Limits(user_daily_tokens=15), outbox, "ada", 0, NOON)
        check(Limits(user_daily_tokens=15), outbox, "carol", 15, NOON)

    def test_a_prompt_that_does_not_fit_is_refused(self, outbox: Outbox):
        with pytest.raises(BudgetSpent):
            check(Limits(user_daily_tokens=20), outbox, "ada", 6, NOON)

    def test_a_new_day_has_a_new_budget(self, outbox: Outbox):
        check(Limits(30, 15), outbox, "ada", 15, MIDNIGHT)


class TestMeters:
    def test_says_what_is_spent_of_what_until_when(self, outbox: Outbox):
        assert meters(Limits(100, 60), outbox, ["ada", "carol"], NOON) == [
            Meter(None, 30, 100, MIDNIGHT),
            Meter("ada", 15, 60, MIDNIGHT),
            Meter("carol", 0, 60, MIDNIGHT),
        ]

    def test_no_budget_has_no_meter(self, outbox: Outbox):
        assert meters(Limits(), outbox, ["ada"], NOON) == []

    def test_a_share_is_never_more_than_the_whole(self):
        assert Meter(None, 150, 100, 0).share == 1.0
