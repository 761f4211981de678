"""Limits: how much one user, and all users together, may do; None: no bound.

Knows numbers and their variables. Counts nothing.
"""

from dataclasses import dataclass, fields

from phi3kit.core.profiles import Profile


@dataclass(frozen=True)
class Limits:
    """Bounds of one app. A day is a day in UTC, a minute the last sixty seconds."""

    daily_tokens: int | None = None  # of all users together, on this machine
    user_daily_tokens: int | None = None
    user_daily_turns: int | None = None
    user_minute_tokens: int | None = None
    user_minute_turns: int | None = None
    user_turns_at_once: int | None = None
    prompt_characters: int | None = None  # of one request
    upload_mb: int | None = None  # of one file
    waiting_jobs: int | None = None  # of each kind, under way or waiting; one person has a third of them
    models: int | None = None  # a build beyond them is refused
    workers: int | None = None  # at once; the one that was idle longest makes room
    disk_mb: int | None = None  # of the whole data folder
    keep_hours: int | None = None  # what is older, and not registered, is cleaned up

    @property
    def paces_users(self) -> bool:
        """Whether turns are counted by user and minute, which costs each turn some milliseconds."""
        bounds = (self.user_daily_turns, self.user_minute_tokens, self.user_minute_turns, self.user_turns_at_once)
        return any(bound is not None for bound in bounds)

    @property
    def bounds_users(self) -> bool:
        """Whether it matters whose a turn is."""
        return self.paces_users or self.user_daily_tokens is not None


# The environment variables; the first two are older than the rule.
VARIABLES: dict[str, str] = {
    "daily_tokens": "PHI3KIT_DAILY_TOKENS",
    "user_daily_tokens": "PHI3KIT_DAILY_TOKENS_PER_USER",
    **{
        each.name: f"PHI3KIT_{each.name.upper()}"
        for each in fields(Limits)
        if each.name not in ("daily_tokens", "user_daily_tokens")
    },
}

# Three turns at once: a visitor of Compare asks three models.
DEFAULTS: dict[Profile, Limits] = {
    "local": Limits(),
    "team": Limits(user_minute_turns=60, user_turns_at_once=4, waiting_jobs=10),
    "public": Limits(
        daily_tokens=1_000_000,
        user_daily_tokens=40_000,
        user_daily_turns=200,
        user_minute_tokens=8_000,
        user_minute_turns=12,
        user_turns_at_once=3,
        prompt_characters=8_000,
        upload_mb=1,
        waiting_jobs=2,
        models=6,
        workers=2,
        disk_mb=700,
        keep_hours=24,
    ),
}
