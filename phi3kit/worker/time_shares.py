"""Time shares: whose answers advance in the engine's next round, so that no user slows down another much.

A round with everybody's answers reads the weights once. For a large model that is nearly free; of a small one each answer costs
what it costs, and one user's many long ones would slow down another's single one. So rounds are measured: a user is charged
with what the round takes longer because of them, and who was charged more than others sits out.
Knows users and seconds. Knows no answers.
"""

from collections.abc import Collection, Mapping

_REMEMBERED = 8  # rounds, whose mean tells how long one takes
_TRUE_FOR = 64  # rounds in which a measure of a user alone is believed: answers grow, and others take their place
_SEVERAL = 2  # times as much counts what several answers of one user cost: others with one wait for it


class TimeShares:
    """What each user had of the engine's time since others are there too. For one thread."""

    def __init__(self) -> None:
        self._used_s: dict[str, float] = {}
        self._alone_s: dict[str, float] = {}  # how long rounds took lately that had this user's answers alone
        self._measured: dict[str, int] = {}  # the round in which that was measured last
        self._round = 0

    def able(self, users: Collection[str], writing: Collection[str]) -> set[str]:
        """Who of the users that are there may advance: nobody who is ahead of another by more than a round.

        writing: those of them with an answer that is being written. Who was not measured alone lately advances alone once.
        """
        self._round += 1
        least_s = min((self._used_s[user] for user in users if user in self._used_s), default=0.0)
        self._used_s = {user: self._used_s.get(user, least_s) for user in users}  # who comes has no arrears
        self._alone_s = {user: self._alone_s[user] for user in users if user in self._alone_s}
        self._measured = {user: self._measured[user] for user in users if user in self._measured}
        most_s = least_s + max(self._alone_s.values(), default=0.0)
        able = {user for user, used_s in self._used_s.items() if used_s <= most_s}
        if len(able) > 1:
            unknown = next((user for user in writing if user in able and self._is_stale(user)), None)
            return able if unknown is None else {unknown}
        return able

    def charge(self, answers: Mapping[str, int], seconds: float) -> None:
        """Note how long a round took. answers: how many of each user advanced."""
        if len(answers) == 1:
            (user,) = answers
            before_s = seconds if self._is_stale(user) else self._alone_s[user]
            self._alone_s[user] = before_s + (seconds - before_s) / _REMEMBERED
            self._measured[user] = self._round
            self.charge_one(user, seconds * _weight(answers[user]))
            return
        alone_s = {user: self._alone_s.get(user, seconds / len(answers)) for user in answers}
        # What a round takes whoever is in it, so that it is saved by each user but one.
        saved_s = (sum(alone_s.values()) - seconds) / (len(answers) - 1)
        fixed_s = min(max(saved_s, 0.0), *alone_s.values())
        for user, number in answers.items():
            self.charge_one(user, (alone_s[user] - fixed_s) * _weight(number))

    def charge_one(self, user: str, seconds: float) -> None:
        """Note time that was one user's alone."""
        self._used_s[user] = self._used_s.get(user, 0.0) + seconds

    def _is_stale(self, user: str) -> bool:
        return user not in self._measured or self._round - self._measured[user] > _TRUE_FOR


def _weight(answers: int) -> int:
    return _SEVERAL if answers > 1 else 1
