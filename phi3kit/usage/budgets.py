"""Budgets: how many tokens may be spent a day, by all users and by each, and how many are spent.

Counts the turns of this machine; a day is a day in UTC. Knows the outbox's sums, no MLflow.
"""

import time
from dataclasses import dataclass

from phi3kit.core.errors import BudgetSpent
from phi3kit.core.limits import Limits
from phi3kit.usage.outbox import Outbox, day_of

_DAY_S = 86_400


@dataclass(frozen=True)
class Meter:
    """How much of a budget is spent today."""

    user: str | None  # None: everybody together
    spent_tokens: int
    budget_tokens: int
    renews_at: float  # seconds since the epoch

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(self.spent_tokens / self.budget_tokens, 1.0)


def check(limits: Limits, outbox: Outbox, user: str, prompt_tokens: int = 0, now: float | None = None) -> None:
    """Let a turn begin; its answer may go beyond what is left. Raises BudgetSpent."""
    moment = time.time() if now is None else now
    for meter in meters(limits, outbox, [user], moment):
        if meter.spent_tokens >= meter.budget_tokens or meter.spent_tokens + prompt_tokens > meter.budget_tokens:
            raise _spent(meter, int(meter.renews_at - moment) + 1)


def _spent(meter: Meter, renews_in_s: int) -> BudgetSpent:
    whose = f"The daily token budget of {meter.user}" if meter.user is not None else "The daily token budget"
    hours, minutes = divmod(max(renews_in_s, 60) // 60, 60)
    return BudgetSpent(
        what=f"{whose} is spent.",
        why=f"{meter.spent_tokens:,} of {meter.budget_tokens:,} tokens are used, and the prompt counts too.",
        next_step=f"It resets at 00:00 UTC, in {f'{hours} h ' if hours else ''}{minutes} min.",
        retry_after_s=renews_in_s,
    )


def meters(limits: Limits, outbox: Outbox, users: list[str], now: float | None = None) -> list[Meter]:
    """Every budget that is set: of all users together, then of each of `users`."""
    moment = time.time() if now is None else now
    day = day_of(moment)
    renews_at = (moment // _DAY_S + 1) * _DAY_S
    found = []
    if limits.daily_tokens is not None:
        found.append(Meter(None, outbox.spent_tokens(day), limits.daily_tokens, renews_at))
    if limits.user_daily_tokens is not None:
        found += [Meter(user, outbox.spent_tokens(day, user), limits.user_daily_tokens, renews_at) for user in users]
    return found


def today() -> str:
    """The day that budgets count now (YYYY-MM-DD, UTC)."""
    return day_of(time.time())
