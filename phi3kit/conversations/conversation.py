"""Conversation: a tree of turns, the branch that is shown, and the messages that the next turn sends.

A turn follows its parent; regenerating and editing make siblings, so nothing is lost. Sends, stores and draws nothing.
"""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Message, Served, TurnRecord
from phi3kit.endpoints.records import Answer, Request

_TITLE_CHARACTERS = 60
_RECORDED_WITHIN_S = 600.0  # after that a cancelled turn has no record and stays as it is
# What an answer and its record both have.
_COUNTS = (
    *("prompt_tokens", "cached_prompt_tokens", "completion_tokens"),
    *("time_to_first_token_s", "duration_s", "tokens_per_second"),
)


@dataclass(frozen=True)
class ChatTurn:
    """One message and its answer."""

    text: str  # the user's message, or the raw prompt; "" where an imported conversation begins with an answer
    answer: Answer
    request: Request
    model_uri: str
    wrapper: Served | None  # None: imported from a file
    turn_id: str
    error: Phi3KitError | None = None
    settled: bool = False  # a cancelled turn that has the counts of its record
    parent: str | None = None  # turn_id; None at the root
    continues: str | None = None  # turn_id of the sibling whose cut answer this turn completes
    begun: str = ""  # that cut answer's text; this turn's own answer follows it
    at: float = field(default_factory=time.time)  # seconds since the epoch

    @property
    def answer_text(self) -> str:
        """The whole answer, including the text of the turn that this one continues."""
        return self.begun + self.answer.text

    @property
    def imported(self) -> bool:
        """Whether it came from a file."""
        return self.wrapper is None

    @property
    def cut(self) -> bool:
        """Whether its answer has text and ended early, so that it can be continued."""
        return bool(self.answer_text) and self.answer.finish_reason in ("length", "cancelled", "error")


@dataclass
class Conversation:
    """A growing tree of turns; `leaf` is the last turn of the shown branch."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[ChatTurn] = field(default_factory=list)  # of all branches, parents before children
    leaf: str | None = None
    title: str = ""  # given by a person; "": the first message is the title
    version: int = 0  # of the saved conversation that this one last equalled; 0: never saved
    unsaved: bool = False  # some turns are only here

    @property
    def name(self) -> str:
        """The title, or the beginning of the first message."""
        first = next((turn.text or turn.answer_text for turn in self.turns), "")
        line = " ".join(first.split())
        short = line if len(line) <= _TITLE_CHARACTERS else f"{line[: _TITLE_CHARACTERS - 1].rstrip()}…"
        return self.title or short or "New chat"

    def turn(self, turn_id: str | None) -> ChatTurn | None:
        """A turn by its id."""
        return next((turn for turn in self.turns if turn.turn_id == turn_id), None)

    @property
    def shown(self) -> list[ChatTurn]:
        """The turns of the shown branch, from root to leaf."""
        return self.path(self.leaf)

    def path(self, end: str | None) -> list[ChatTurn]:
        """The turns from the root to the one with the id `end`; none for None."""
        by_id = {turn.turn_id: turn for turn in self.turns}
        found: list[ChatTurn] = []
        while end is not None and (turn := by_id.pop(end, None)):
            found.append(turn)
            end = turn.parent
        return found[::-1]

    def siblings(self, turn: ChatTurn) -> list[ChatTurn]:
        """The turns with the same parent, this one included. A cut answer that was completed is hidden."""
        completed = self._completed()
        found = [
            each
            for each in self.turns
            if each.parent == turn.parent and (each.turn_id not in completed or each.turn_id == turn.turn_id)
        ]
        return sorted(found, key=lambda each: each.at)  # turns of another tab are appended late

    def add(self, turn: ChatTurn) -> None:
        """Add a turn that was made here, and show it."""
        self.turns.append(turn)
        self.leaf = turn.turn_id
        self.unsaved = True

    def show(self, turn_id: str) -> None:
        """Show the branch through a turn, down to its newest leaf."""
        completed = self._completed()
        newest: dict[str | None, str] = {
            turn.parent: turn.turn_id
            for turn in sorted(self.turns, key=lambda each: each.at)
            if turn.turn_id not in completed
        }
        while child := newest.pop(turn_id, None):
            turn_id = child
        self.leaf = turn_id

    def subtree(self, turn_id: str) -> list[ChatTurn]:
        """A turn and all its descendants."""
        inside = {turn_id}
        for turn in self.turns:
            if turn.parent in inside:
                inside.add(turn.turn_id)
        return [turn for turn in self.turns if turn.turn_id in inside]

    def remove(self, turn_ids: Iterable[str]) -> None:
        """Remove turns with their descendants. If they were shown, their newest sibling is shown now, or their parent."""
        gone = {turn.turn_id for turn_id in set(turn_ids) for turn in self.subtree(turn_id)}
        shown = self.shown
        self.turns = [turn for turn in self.turns if turn.turn_id not in gone]
        lost = next((turn for turn in shown if turn.turn_id in gone), None)
        if lost is None:
            return
        if beside := self.siblings(lost):
            self.show(beside[-1].turn_id)
        else:
            self.leaf = lost.parent

    def merge(self, others: Iterable[ChatTurn]) -> int:
        """Take over turns made elsewhere; how many were new. A known turn changes only by being settled."""
        at = {turn.turn_id: index for index, turn in enumerate(self.turns)}
        new = 0
        for turn in others:
            if turn.turn_id not in at:
                self.turns.append(turn)
                new += 1
            elif turn.settled and not self.turns[at[turn.turn_id]].settled:
                self.turns[at[turn.turn_id]] = turn
        return new

    def settle(self, find: Callable[[str], TurnRecord | None]) -> bool:
        """Give cancelled turns the counts of their record; whether any was settled.

        The page stops reading a token or two before the worker stops writing, and the record has the real cost.
        find: a turn's record by its id; None when there is none (yet).
        """
        settled = False
        for index, turn in enumerate(self.turns):
            if turn.answer.finish_reason != "cancelled" or turn.settled or turn.imported:
                continue
            answer = turn.answer
            if record := find(turn.turn_id):
                answer = replace(answer, **{name: getattr(record, name) for name in _COUNTS})
            elif time.time() - turn.at < _RECORDED_WITHIN_S:
                continue  # its worker may still read the prompt
            self.turns[index] = replace(turn, answer=answer, settled=True)
            settled = self.unsaved = True
        return settled

    def messages(self, system_prompt: str, text: str, parent: str | None) -> tuple[Message, ...]:
        """The messages of a request that follows the turn `parent`; an empty text adds no message."""
        new = [Message("user", text)] if text else []
        return (*messages_of(self.path(parent), system_prompt), *new)

    def _completed(self) -> set[str | None]:
        """Ids of cut answers that another turn completes and that have no children."""
        return {turn.continues for turn in self.turns} - {turn.parent for turn in self.turns}


def messages_of(path: Iterable[ChatTurn], system_prompt: str) -> tuple[Message, ...]:
    """The messages along a path. Leaves out a turn that failed before its first token, unless it was imported."""
    messages = [Message("system", system_prompt)] if system_prompt.strip() else []
    for turn in path:
        if turn.text and (turn.answer_text or turn.imported):
            messages.append(Message("user", turn.text))
        if turn.answer_text:
            messages.append(Message("assistant", turn.answer_text))
    return tuple(messages)
