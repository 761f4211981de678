"""Time shares: whose answers advance in the engine's next round, so that no user slows down another much.

A round with everybody's answers reads the weights once. For a large model that is nearly free; of a small one each answer costs
what it costs, and one user's many long ones would slow down another's single one. So rounds are measured, a user is
charged with the time that the others wait because of them, and who was charged more than others sits out.
Knows users and seconds. Knows no answers.
"""

from collections.abc import Collection, Mapping

_REMEMBERED = 8  # rounds, whose mean tells how long one takes
_SEVERAL = 2  # times as much counts what several answers of one user cost: others with one wait for it


class TimeShares:
    """What each user had of the engine's time since others are there too. For one thread."""

    def __init__(self) -> None:
        self._used_s: dict[str, float] = {}
        self._alone_s: dict[str, float] = {}  # how long rounds took lately that had this user's answers alone

    def able(self, users: Collection[str]) -> set[str]:
        """Who of the users that are there may advance: nobody who is ahead of another by more than a round."""
        least_s = min((self._used_s[user] for user in users if user in self._used_s), default=0.0)
        self._used_s = {user: self._used_s.get(user, least_s) for user in users}  # who comes has no arrears
        self._alone_s = {user: self._alone_s[user] for user in users if user in self._alone_s}
        most_s = least_s + max(self._alone_s.values(), default=0.0)
        return {user for user, used_s in self._used_s.items() if used_s <= most_s}

    def charge(self, answers: Mapping[str, int], seconds: float) -> None:
        """Note how long a round took. answers: how many of each user advanced."""
        if len(answers) == 1:
            (user,) = answers
            before_s = self._alone_s.get(user, seconds)
            self._alone_s[user] = before_s + (seconds - before_s) / _REMEMBERED
        whole = sum(answers.values())
        for user, number in answers.items():
            others = [self._alone_s.get(other) for other in answers if other != user]
            known = [each for each in others if each is not None]
            # Without this user the round would have taken what the others take alone, at least the longest of them.
            caused_s = seconds - max(known, default=0.0) if len(known) == len(others) else seconds * number / whole
            self.charge_one(user, max(caused_s, 0.0) * (_SEVERAL if number > 1 else 1))

    def charge_one(self, user: str, seconds: float) -> None:
        """Note time that was one user's alone."""
        self._used_s[user] = self._used_s.get(user, 0.0) + seconds
