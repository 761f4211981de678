"""KV cache: sequences that stay in memory between turns, and how much memory they may take.

A turn reuses the idle sequence that begins like its prompt and computes only the rest. A beginning that another sequence
holds, such as a system message, is copied. Only sequences of the same user are looked at: what is found in memory shows in
counts and times, and would tell one user what another has asked. Of other users' sequences a turn finds no more than the
beginning that the operator marked as shared. Knows tokens and bytes. Not thread-safe: the engine's alone.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from phi3kit.worker.runtime import Runtime, TokenSequence

_FEW = 32  # tokens; fewer are computed as fast as they are copied
_CONTEXTS_WANTED = 2  # whole ones, or four conversations that fill half of one
_SHARE_OF_FREE = 3  # without a setting: at most a third of the memory that is free once the model is loaded


@dataclass(eq=False)
class Slot:
    """A sequence and the memory that is reserved for it."""

    sequence: TokenSequence
    reserved: int  # tokens: the most it may grow to while busy, what it holds while idle
    user: str = ""  # whose turns it serves
    busy: bool = True
    used_at: float = field(default_factory=time.monotonic)


class KvCache:
    """All sequences of one model, within a budget."""

    def __init__(self, runtime: Runtime, budget_bytes: int, shared_ids: Sequence[int] = ()) -> None:
        """shared_ids: the beginning of prompts that all users share."""
        self._runtime = runtime
        self._shared_ids = shared_ids
        self._slots: list[Slot] = []
        self.budget_bytes = budget_bytes
        runtime.limit(min(runtime.context_tokens, budget_bytes // runtime.bytes_per_token))

    @property
    def reserved_bytes(self) -> int:
        """Reserved for all sequences together."""
        return sum(slot.reserved for slot in self._slots) * self._runtime.bytes_per_token

    def fits(self, tokens: int) -> bool:
        """Whether one sequence of so many tokens is within the whole budget."""
        return self._rounded(tokens) <= self._budget

    def leaves_room(self, tokens: int, user: str) -> bool:
        """Whether one more sequence leaves others half the budget. A user's first one may have what it needs."""
        busy = [slot.reserved for slot in self._slots if slot.busy and slot.user == user]
        return not busy or 2 * (sum(busy) + self._rounded(tokens)) <= self._budget

    def acquire(self, prompt_ids: Sequence[int], max_tokens: int, user: str = "", *, reuse: bool = True) -> Slot | None:
        """A sequence with memory reserved for prompt and answer; it holds the beginning of the prompt where one is kept.

        It holds fewer tokens than the prompt has. None while busy sequences leave too little memory: try again when
        one is released. reuse: else it is empty, for scores of every token of the prompt.
        """
        longest = len(prompt_ids) + max_tokens
        needed = self._rounded(longest)
        busy = [slot for slot in self._slots if slot.busy]
        if sum(slot.reserved for slot in busy) + needed > self._budget or len(busy) == self._runtime.max_sequences:
            return None
        shared = {slot: self._common(slot, prompt_ids, user) for slot in self._slots if slot.sequence.serves(longest)}
        shared = shared if reuse else {}
        own = {slot: length for slot, length in shared.items() if slot.user == user}
        slot = self._to_go_on_with(own, prompt_ids)
        slot = self._after_evictions(slot, self._to_copy(shared), needed)
        # The last token is always computed: its scores are needed.
        if slot is not None and not slot.sequence.truncate(min(shared[slot], len(prompt_ids) - 1)):
            self._close(slot)
            slot = None
        if slot is None:
            slot = Slot(self._runtime.open(longest), needed)
            self._slots.append(slot)
        slot.busy, slot.reserved, slot.user = True, needed, user
        return slot

    def extend(self, slot: Slot, prompt_ids: Sequence[int]) -> int:
        """Copy the part of the prompt that another sequence has beyond this one, if it is long; how many tokens."""
        held = len(slot.sequence.ids)
        others = {
            other: min(self._common(other, prompt_ids, slot.user), len(prompt_ids) - 1)
            for other in self._slots
            if other is not slot and len(other.sequence.ids) >= held + _FEW
        }
        source = max(others, key=lambda other: others[other], default=None)
        if source is None or others[source] < held + _FEW:
            return 0
        return others[source] - held if slot.sequence.copy(source.sequence, others[source]) else 0

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a sequence back. It stays for the next turn of its conversation; keep=False: its content is unsure."""
        slot.busy, slot.used_at = False, time.monotonic()
        slot.reserved = self._rounded(len(slot.sequence.ids))
        if not keep or not slot.sequence.ids:
            self._close(slot)

    def _common(self, slot: Slot, prompt_ids: Sequence[int], user: str) -> int:
        """How many tokens of the prompt a user's turn may find in a slot."""
        common = _common(slot.sequence.ids, prompt_ids)
        return common if slot.user == user else min(common, _common(self._shared_ids, prompt_ids))

    def _to_go_on_with(self, shared: dict[Slot, int], prompt_ids: Sequence[int]) -> Slot | None:
        """The idle sequence that shares most with the prompt, if it is worth cutting to that."""
        idle = [slot for slot in shared if not slot.busy]
        # Of equals the one that loses fewer tokens, then the one that was used longest ago.
        slot = max(idle, key=lambda each: (shared[each], -len(each.sequence.ids), -each.used_at), default=None)
        if slot is None:
            return None
        # The cut-off part is lost to the conversation that it belongs to: worth it when most of the sequence is shared,
        # or most of a longer prompt (an edit).
        length, whole = shared[slot], len(slot.sequence.ids)
        return slot if 2 * length >= whole or (length >= _FEW and 2 * length >= len(prompt_ids)) else None

    def _to_copy(self, shared: dict[Slot, int]) -> Slot | None:
        """The idle sequence with the longest part of the prompt, if that is worth copying."""
        idle = [slot for slot in shared if not slot.busy and shared[slot] >= _FEW]
        return max(idle, key=lambda slot: shared[slot], default=None)

    def _after_evictions(self, slot: Slot | None, source: Slot | None, needed: int) -> Slot | None:
        """Close idle sequences other than `slot` until there is memory, the least recently used first.

        The sequence to reuse: `slot`; without one, `source` when it would have to be closed too.
        """
        idle = [each for each in self._slots if not each.busy and each is not slot]
        idle.sort(key=lambda each: (each is source, each.used_at))
        for oldest in idle:
            others = [each for each in self._slots if each is not slot]
            enough = sum(each.reserved for each in others) + needed <= self._budget
            if enough and len(others) < self._runtime.max_sequences:
                break
            if oldest is source and slot is None:
                return source
            self._close(oldest)
        return slot

    @property
    def _budget(self) -> int:
        """Tokens that all sequences together may hold."""
        return self.budget_bytes // self._runtime.bytes_per_token

    def _rounded(self, tokens: int) -> int:
        """As many tokens, in whole blocks of memory."""
        block = self._runtime.block_tokens
        return math.ceil(tokens / block) * block

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
