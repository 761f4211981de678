"""Comparison: one message, the answers of two or three targets, and what a vote on them means.

Knows turns and their order. Sends and draws nothing.
"""

from dataclasses import dataclass

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.endpoints.targets import Target
from phi3kit.usage.votes import Outcome, Vote

LETTERS = ("A", "B", "C")


@dataclass(frozen=True)
class Comparison:
    """A message and its answers, in the order of `targets`."""

    text: str
    targets: tuple[Target, ...]
    answers: Conversation  # its turns are the answers, logged under its id

    @property
    def id(self) -> str:
        """The conversation id of its turns."""
        return self.answers.id

    @property
    def turns(self) -> list[ChatTurn]:
        """The answers."""
        return self.answers.turns

    @property
    def votable(self) -> bool:
        """Whether every target has answered: nobody can prefer an answer to a failure."""
        return len(self.turns) > 1 and all(turn.error is None and turn.answer.text for turn in self.turns)

    def votes(self, winner: int | None) -> list[Vote]:
        """The vote on each turn when the one at `winner` is the best; None: a tie."""
        return [
            Vote(turn.turn_id, target.wrapper, target.model_uri, _outcome(index, winner))
            for index, (target, turn) in enumerate(zip(self.targets, self.turns, strict=True))
        ]

    def verdict(self, outcomes: dict[str, Outcome]) -> str | None:
        """The vote in words; None before a vote. outcomes: by turn id."""
        found = [outcomes.get(turn.turn_id) for turn in self.turns]
        if "won" in found:
            return f"{LETTERS[found.index('won')]} is {'better' if len(found) == 2 else 'best'}"
        return "a tie" if "tie" in found else None


def _outcome(index: int, winner: int | None) -> Outcome:
    if winner is None:
        return "tie"
    return "won" if index == winner else "lost"
