"""KV cache: sequences that stay in memory between turns, and how much memory they may take.

A turn takes the idle sequence that begins like its prompt and computes only the rest. Knows tokens and bytes.
Not for several threads: the engine's alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from phi3kit.server.runtime import Runtime, TokenSequence

_FIRST_ROOM = 2048  # tokens; a conversation that outgrows its room is read anew, so this should not happen often
_EDIT = 32  # tokens; less is computed anew as fast as it is argued about
_CONTEXTS_WANTED = 2  # whole ones, or twice as many conversations that fill half of one
_SHARE_OF_FREE = 3  # without a setting a third of the memory that is free when the model is loaded, at most


@dataclass(eq=False)
class Slot:
    """A sequence and the room that was taken for it."""

    sequence: TokenSequence
    capacity: int  # tokens
    busy: bool = True
    used_at: float = field(default_factory=time.monotonic)


class KvCache:
    """All sequences of one model, within a budget."""

    def __init__(self, runtime: Runtime, budget_bytes: int, first_room: int = _FIRST_ROOM) -> None:
        """first_room: tokens that a new conversation gets where memory allows; doubled as it grows."""
        self._runtime = runtime
        self._slots: list[Slot] = []
        self._first_room = first_room
        self.budget_bytes = budget_bytes

    @property
    def reserved_bytes(self) -> int:
        """What all sequences together may grow to."""
        return sum(slot.capacity for slot in self._slots) * self._runtime.bytes_per_token

    def fits(self, tokens: int) -> bool:
        """Whether one sequence of so many tokens is within the whole budget."""
        return tokens * self._runtime.bytes_per_token <= self.budget_bytes

    def acquire(self, prompt_ids: Sequence[int], max_tokens: int) -> Slot | None:
        """A sequence with room for prompt and answer, which holds the beginning of the prompt as far as one is kept.

        Its ids are the cached prompt tokens, always fewer than the prompt has. None while busy sequences leave too
        little memory: try again when one is released.
        """
        needed = len(prompt_ids) + max_tokens
        slot = self._resumed(prompt_ids, needed)
        if slot is None:
            slot = self._opened(needed)
        if slot is not None:
            slot.busy = True
        return slot

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a sequence back; it stays for the next turn of its conversation, or goes when its content is unsure."""
        slot.busy, slot.used_at = False, time.monotonic()
        if not keep:
            self._close(slot)

    def _resumed(self, prompt_ids: Sequence[int], needed: int) -> Slot | None:
        """The idle sequence that shares most with the prompt, cut to what it shares."""
        idle = [slot for slot in self._slots if not slot.busy]
        shared = {slot: _common(slot.sequence.ids, prompt_ids) for slot in idle}
        # Of two that share as much, the one that loses less, then the one that was used longest ago.
        slot = max(idle, key=lambda each: (shared[each], -len(each.sequence.ids), -each.used_at), default=None)
        if slot is None:
            return None
        length = shared[slot]
        # Cutting a sequence costs the conversation that it belongs to, should it go on: worth it when most of the
        # sequence is shared, when most of a longer prompt is (an edit), or when there is no room for another.
        worth_it = 2 * length >= len(slot.sequence.ids) or (length >= _EDIT and 2 * length >= len(prompt_ids))
        if not worth_it and self._room() >= needed:
            return None
        if slot.capacity < needed:
            if worth_it:
                self._close(slot)  # its conversation has outgrown it
            return None
        length = min(length, len(prompt_ids) - 1)  # the last token must be computed: its scores are wanted
        if not slot.sequence.truncate(length):
            self._close(slot)
            return None
        return slot

    def _opened(self, needed: int) -> Slot | None:
        """A new sequence; idle ones go for it, the one that was used longest ago first."""
        capacity = self._capacity_for(needed)
        if self._room() < capacity:
            capacity = needed
        idle = sorted((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.used_at)
        while self._room() < capacity and idle:
            self._close(idle.pop(0))
        if self._room() < capacity:
            return None
        slot = Slot(self._runtime.open(capacity), capacity)
        self._slots.append(slot)
        return slot

    def _room(self) -> int:
        """Tokens that the budget has left."""
        return (self.budget_bytes - self.reserved_bytes) // self._runtime.bytes_per_token

    def _capacity_for(self, needed: int) -> int:
        """Room to take so that the conversation's next turns find some too: doubling steps up to the context."""
        capacity = self._first_room
        while capacity < needed:
            capacity *= 2
        return max(min(capacity, self._runtime.context_tokens), needed)

    def _close(self, slot: Slot) -> None:
        self._slots.remove(slot)
        slot.sequence.close()


def budget_for(runtime: Runtime, setting_mb: int | None, free_bytes: int) -> int:
    """Bytes for all sequences: PHI3KIT_KV_BUDGET_MB, or two whole contexts as far as memory allows."""
    if setting_mb is not None:
        return setting_mb * 2**20
    wanted = _CONTEXTS_WANTED * runtime.context_tokens * runtime.bytes_per_token
    return min(wanted, free_bytes // _SHARE_OF_FREE)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(one), len(other))
    return next((index for index in range(length) if one[index] != other[index]), length)
