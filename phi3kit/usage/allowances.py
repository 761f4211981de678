"""Allowances: how much of each limit one user has used, and for admins how much everybody has.

Knows the counts of the last day and the day's tokens. Knows no page.
"""

from contextlib import closing
from dataclasses import dataclass

from phi3kit.access.actor import Actor
from phi3kit.core.limits import Limits
from phi3kit.usage import budgets
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.request_counts import RequestCounts, UserCounts


@dataclass(frozen=True)
class Allowance:
    """One limit and what of it is used."""

    what: str  # in words, behind the numbers
    used: int
    most: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(self.used / self.most, 1.0)


@dataclass(frozen=True)
class UserUsage:
    """What one user used lately."""

    counts: UserCounts
    tokens_today: int  # of this day in UTC
    refused_today: int  # requests beyond a limit or a budget


def allowances(limits: Limits, outbox: Outbox, user: str) -> list[Allowance]:
    """Every limit that counts what this user does. Raises StorageFailed."""
    counts = UserCounts(user)
    if limits.paces_users:
        with closing(RequestCounts(outbox.home)) as kept:
            counts = kept.of(user)
    found = [
        ("turns in the last minute", counts.minute_turns, limits.user_minute_turns),
        ("tokens in the last minute", counts.minute_tokens, limits.user_minute_tokens),
        ("answers in progress", counts.at_once, limits.user_turns_at_once),
        ("turns in the last 24 hours", counts.daily_turns, limits.user_daily_turns),
    ]
    allowed = [Allowance(what, used, most) for what, used, most in found if most is not None]
    for meter in budgets.meters(limits, outbox, [user]):
        what = "tokens today, all users" if meter.user is None else "tokens today"
        allowed.append(Allowance(what, meter.spent_tokens, meter.budget_tokens))
    return allowed


def sizes(limits: Limits) -> list[str]:
    """The limits of one request, file or build, in words."""
    found = [
        ("{:,} characters per request", limits.prompt_characters),
        ("{:,} MB per file", limits.upload_mb),
        ("{:,} waiting builds, batches and evaluations each, at most a third yours", limits.waiting_jobs),
        ("{:,} models", limits.models),
        ("{:,} models loaded at once", limits.workers),
        ("{:,} MB of disk space", limits.disk_mb),
        ("{:,} hours until anything that is not registered is deleted", limits.keep_hours),
    ]
    return [words.format(most) for words, most in found if most is not None]


def everybody(actor: Actor, limits: Limits, outbox: Outbox) -> list[UserUsage]:
    """What each user used, most tokens of today first. Raises NotAllowed or StorageFailed."""
    actor.require("administer")
    counted: dict[str, UserCounts] = {}
    if limits.paces_users:
        with closing(RequestCounts(outbox.home)) as kept:
            counted = {each.user: each for each in kept.all()}
    day = budgets.today()
    spent, refused = outbox.spenders(day), outbox.refusals(day)
    found = [
        UserUsage(counted.get(user, UserCounts(user)), spent.get(user, 0), refused.get(user, 0))
        for user in {**counted, **spent, **refused}
    ]
    return sorted(found, key=lambda each: (-each.tokens_today, each.counts.user))
