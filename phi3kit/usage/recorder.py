"""Recorder: admits turns and records them in the outbox; what the disk does not take waits in memory.

Knows when a turn begins and ends. Knows no MLflow and no HTTP.
"""

import hashlib
import hmac
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from phi3kit.core.errors import BudgetSpent, LimitReached, StorageFailed
from phi3kit.core.limits import Limits
from phi3kit.core.records import Message, TurnRecord
from phi3kit.formats.chat_template import raw_prompt
from phi3kit.usage.budgets import check, today
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.request_counts import RequestCounts

log = logging.getLogger(__name__)

_MOST_IN_MEMORY = 1000  # turns; beyond them no new one is admitted, so that none is lost
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


class Recorder(Protocol):
    """What a turn reports to while it is made."""

    log_text: bool  # whether records carry what was said

    def admit(self, turn: TurnRecord, answers: int = 1) -> None:
        """Let a turn begin that asks for so many answers, or raise why not."""

    def withdraw(self, turn: TurnRecord) -> None:
        """Forget a turn that was admitted and could not begin."""

    def begin(self, turn: TurnRecord) -> None:
        """Note a turn that is being made."""

    def end(self, turn: TurnRecord) -> None:
        """Keep a turn that has ended."""

    def prompt_key(self, prompt: Sequence[Message] | str) -> str | None:
        """Equal for equal prompts; None where there can be no key."""


class OutboxRecorder:
    """Records turns in the outbox. Safe from several threads."""

    def __init__(
        self, outbox: Outbox, limits: Limits, *, log_text: bool, count: Callable[[TurnRecord], None] = lambda turn: None
    ) -> None:
        """count: is told of every turn that ended."""
        self.log_text = log_text
        self._outbox, self._limits, self._count = outbox, limits, count
        self._counts = RequestCounts(outbox.home) if limits.paces_users else None
        self._waiting: deque[TurnRecord] = deque()
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._secret: bytes | None = None

    @property
    def in_memory(self) -> int:
        """Turns that are in memory only."""
        return len(self._waiting)

    def admit(self, turn: TurnRecord, answers: int = 1) -> None:
        """Let a turn begin, or refuse it. A refused one is counted and not logged: refusals could fill the log without end.

        Raises LimitReached, BudgetSpent, or StorageFailed when too many turns are in memory only.
        """
        if self.in_memory >= _MOST_IN_MEMORY:
            raise StorageFailed(
                what="Turns cannot be logged, so none are answered.",
                why=f"The data folder cannot store more, and {self.in_memory:,} turns are in memory.",
                next_step="Free some space in the data folder, then send it again.",
            )
        # A batch was admitted as a whole: its rows come one after the other. Only the app says that a turn is of one.
        self._admit(turn.turn_id, turn.user, answers, turn.prompt_tokens, paced=turn.origin != "batch")

    def admit_call(self, call_id: str, user: str, prompt_tokens: int) -> None:
        """Let a call begin that is not logged as a turn, or refuse it. Raises LimitReached or BudgetSpent."""
        self._admit(call_id, user, 1, prompt_tokens, paced=True)

    def _admit(self, request_id: str, user: str, answers: int, prompt_tokens: int, *, paced: bool) -> None:
        try:
            # Counts that cannot be read stop no turn; it is kept in memory if need be.
            if self._counts and paced:
                with suppress(StorageFailed):
                    self._counts.begin(request_id, user, answers, self._limits)
            with suppress(StorageFailed):
                check(self._limits, self._outbox, user, prompt_tokens)
        except (BudgetSpent, LimitReached):
            with suppress(StorageFailed):
                self._outbox.count_refusal(today(), user)
                if self._counts:
                    self._counts.end(request_id, 0)  # what a budget refuses stays among the user's turns of the minute
            raise

    def withdraw(self, turn: TurnRecord) -> None:
        """Forget a turn that was admitted and could not begin."""
        with suppress(StorageFailed):
            self._outbox.withdraw(turn.turn_id)
            if self._counts:
                self._counts.withdraw(turn.turn_id)

    def end_call(self, call_id: str, user: str, tokens: int) -> None:
        """Count what a call took that was admitted and is not logged."""
        with suppress(StorageFailed):
            self._outbox.spend(today(), user, tokens)
            if self._counts:
                self._counts.end(call_id, tokens)

    def begin(self, turn: TurnRecord) -> None:
        """Note a turn that is being made; it is logged as broken when this process dies before it ends."""
        if self._waiting:  # the data folder takes nothing, and each turn would wait for it
            return
        try:
            self._outbox.begin(turn)
        except StorageFailed as error:
            log.warning("turn %s begins unnoted: %s", turn.turn_id, error)

    def end(self, turn: TurnRecord) -> None:
        """Keep a turn that has ended. Never raises: the answer is worth more to its reader than an error about the log."""
        self._count(turn)
        if self._counts:
            with suppress(StorageFailed):
                self._counts.end(turn.turn_id, turn.total_tokens)
        with self._guard:
            if not self._waiting:
                try:
                    self._outbox.add(turn)
                    return
                except StorageFailed as error:
                    log.error("turn %s is in memory only: %s", turn.turn_id, error)
            self._waiting.append(turn)
            if self._thread is None:
                self._thread = threading.Thread(target=self._try_again, name="turn-recorder", daemon=True)
                self._thread.start()

    def prompt_key(self, prompt: Sequence[Message] | str) -> str | None:
        """Equal for equal prompts of this data folder; without the folder's secret it says nothing about them."""
        if self._secret is None:
            with suppress(StorageFailed):
                self._secret = self._outbox.secret("prompt key")
        if self._secret is None:
            return None
        text = prompt if isinstance(prompt, str) else raw_prompt(prompt)
        return hmac.digest(self._secret, text.encode(), hashlib.sha256)[:12].hex()

    def close(self) -> None:
        """Try once more to keep what is in memory; what is lost is logged."""
        self._ended = True
        self._wake.set()
        self._flush()
        for turn in self._waiting:
            log.error("turn lost, the data folder takes no more: %s", turn)

    def _try_again(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._ended and self._waiting:
            self._wake.wait(wait_s)
            wait_s = _FIRST_WAIT_S if self._flush() else min(wait_s * 2, _LONGEST_WAIT_S)
            with self._guard:
                if not self._waiting:
                    self._thread = None
                    return

    def _flush(self) -> bool:
        """Move turns from memory to the outbox, oldest first; whether any was taken."""
        kept = False
        with self._guard:
            while self._waiting:
                try:
                    self._outbox.add(self._waiting[0])
                except StorageFailed:
                    break
                self._waiting.popleft()
                kept = True
        return kept
