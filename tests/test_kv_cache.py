"""The cache of sequences: what a turn finds of its conversation, and that memory stays within the budget."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from phi3kit.server.kv_cache import KvCache, Slot, budget_for
from phi3kit.server.runtime import Logits

BYTES = 3  # a token


class ScriptedSequence:
    """Counts tokens and computes nothing."""

    def __init__(self, runtime: "ScriptedRuntime", capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self.can_go_back = True
        self._runtime = runtime

    def append(self, ids: Sequence[int]) -> Logits:
        self.ids += ids
        return np.zeros(1, dtype=np.float32)

    def truncate(self, length: int) -> bool:
        if not self.can_go_back:
            return False
        del self.ids[length:]
        return True

    def close(self) -> None:
        self._runtime.sequences.remove(self)


class ScriptedRuntime:
    """Remembers the sequences that are open, in the order in which they were opened."""

    tokenizer = text_tokenizer = Tokenizer(models.WordLevel())
    context_tokens = 4000
    end_ids = frozenset({0})
    bytes_per_token = BYTES

    def __init__(self) -> None:
        self.sequences: list[ScriptedSequence] = []

    def open(self, capacity: int) -> ScriptedSequence:
        self.sequences.append(ScriptedSequence(self, capacity))
        return self.sequences[-1]


def cache_for(tokens: int) -> tuple[ScriptedRuntime, KvCache]:
    """A cache whose budget is so many tokens."""
    runtime = ScriptedRuntime()
    return runtime, KvCache(runtime, tokens * BYTES, first_room=256)


def acquired(cache: KvCache, prompt: Sequence[int], max_tokens: int = 50) -> Slot:
    slot = cache.acquire(prompt, max_tokens)
    assert slot is not None
    return slot


def told(cache: KvCache, prompt: Sequence[int], answer: Sequence[int] = ()) -> Slot:
    """A whole turn: the prompt is computed, the answer too, and the sequence is idle again."""
    slot = acquired(cache, prompt, max_tokens=max(1, len(answer)))
    slot.sequence.append([*prompt[len(slot.sequence.ids) :], *answer])
    cache.release(slot)
    return slot


def numbers(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


PROMPT, ANSWER = numbers(1000, 60), numbers(2000, 40)


class TestReuse:
    def test_a_conversation_goes_on_with_all_its_tokens(self):
        runtime, cache = cache_for(2000)
        slot = told(cache, PROMPT, ANSWER)
        assert acquired(cache, [*PROMPT, *ANSWER, *numbers(1, 130)], max_tokens=20) is slot
        assert slot.sequence.ids == PROMPT + ANSWER
        assert len(runtime.sequences) == 1

    @pytest.mark.parametrize("answer", [[], ANSWER])
    def test_the_same_prompt_again_leaves_one_token_to_compute(self, answer: list[int]):
        _, cache = cache_for(2000)
        slot = told(cache, PROMPT, answer)
        assert acquired(cache, PROMPT) is slot
        assert slot.sequence.ids == PROMPT[:-1]

    @pytest.mark.parametrize(("answer", "kept"), [(40, 55), (140, 40)])  # half of the sequence, or of the new prompt
    def test_an_edit_keeps_what_is_before_it(self, answer: int, kept: int):
        _, cache = cache_for(2000)
        slot = told(cache, PROMPT, numbers(2000, answer))
        assert acquired(cache, [*PROMPT[:kept], *numbers(1, 40)]) is slot
        assert slot.sequence.ids == PROMPT[:kept]

    def test_a_conversation_that_outgrows_its_sequence_leaves_no_useless_one_behind(self):
        runtime, cache = cache_for(2000)
        told(cache, PROMPT, ANSWER)
        slot = acquired(cache, [*PROMPT, *ANSWER, *numbers(1, 130)], max_tokens=100)
        assert (slot.capacity, slot.sequence.ids) == (512, [])
        assert runtime.sequences == [slot.sequence]

    def test_of_several_the_one_that_shares_most_is_taken(self):
        _, cache = cache_for(2000)
        slots = [told(cache, [*PROMPT[:shared], *numbers(10 * shared, 60)]) for shared in (10, 14, 12)]
        assert len(set(map(id, slots))) == 3
        assert acquired(cache, [*PROMPT[:14], *numbers(140, 60), 9]) is slots[1]

    def test_a_sequence_that_cannot_go_back_is_closed_and_replaced(self):
        runtime, cache = cache_for(2000)
        told(cache, PROMPT, ANSWER)
        (stuck,) = runtime.sequences
        stuck.can_go_back = False
        slot = acquired(cache, PROMPT)
        assert runtime.sequences == [slot.sequence] != [stuck]
        assert (slot.sequence.ids, cache.reserved_bytes) == ([], 256 * BYTES)


class TestRoom:
    def test_a_new_conversation_leaves_another_alone_that_begins_alike(self):
        runtime, cache = cache_for(2000)
        other = told(cache, PROMPT, ANSWER)
        slot = acquired(cache, [*PROMPT[:10], *numbers(1, 50)])
        assert (slot.sequence.ids, other.sequence.ids) == ([], PROMPT + ANSWER)
        assert len(runtime.sequences) == 2

    def test_without_room_it_takes_the_shortest_and_of_equals_the_one_that_was_used_longest_ago(self):
        runtime, cache = cache_for(4 * 256)
        told(cache, [5, *numbers(1, 60)])
        slots = [told(cache, [5, *numbers(first, 59)]) for first in (100, 200, 300)]
        told(cache, [5, *numbers(100, 59)])  # the first of them is the latest now
        assert acquired(cache, [5, *numbers(400, 59)]) is slots[1]
        assert slots[1].sequence.ids == [5]
        assert len(runtime.sequences) == 4

    def test_when_none_is_large_enough_the_oldest_go_and_no_more_than_needed(self):
        runtime, cache = cache_for(3 * 256)
        slots = [told(cache, numbers(first, 60)) for first in (100, 200, 300)]
        told(cache, numbers(100, 60))
        slot = acquired(cache, numbers(400, 250))
        assert slot.capacity == 300  # what it needs: there is no room for a doubling step
        assert runtime.sequences == [slots[0].sequence, slot.sequence]

    def test_a_busy_sequence_is_never_taken(self):
        runtime, cache = cache_for(2000)
        busy = acquired(cache, PROMPT)
        busy.sequence.append(PROMPT)
        slot = acquired(cache, [*PROMPT, 1])
        assert slot is not busy
        assert (busy.sequence.ids, slot.sequence.ids) == (PROMPT, [])
        assert runtime.sequences == [busy.sequence, slot.sequence]

    def test_none_while_busy_ones_leave_too_little(self):
        _, cache = cache_for(400)
        busy = acquired(cache, PROMPT)
        assert cache.acquire(numbers(1, 100), 45) is None
        assert acquired(cache, numbers(1, 100), 44).capacity == 144
        cache.release(busy)
        assert acquired(cache, numbers(1, 100), 45).capacity == 256

    def test_a_sequence_of_unsure_content_is_closed(self):
        runtime, cache = cache_for(400)
        cache.release(acquired(cache, PROMPT), keep=False)
        assert (runtime.sequences, cache.reserved_bytes) == ([], 0)


class TestCapacity:
    @pytest.mark.parametrize(("needed", "capacity"), [(2, 256), (256, 256), (257, 512), (2049, 4000), (4000, 4000)])
    def test_grows_in_doubling_steps_up_to_the_context(self, needed: int, capacity: int):
        _, cache = cache_for(8 * 4000 - 1)
        assert acquired(cache, [1], needed - 1).capacity == capacity
        assert cache.reserved_bytes == capacity * BYTES

    def test_fits_says_what_the_whole_budget_could_hold(self):
        _, cache = cache_for(300)
        acquired(cache, PROMPT)
        assert (cache.fits(300), cache.fits(301)) == (True, False)


class TestBudget:
    @pytest.mark.parametrize(
        ("setting_mb", "free", "budget"),
        [(3, 10**12, 3 * 2**20), (None, 10**12, 2 * 4000 * BYTES), (None, 60_000, 20_000)],
    )
    def test_is_the_setting_or_two_contexts_or_a_third_of_free_memory(
        self, setting_mb: int | None, free: int, budget: int
    ):
        assert budget_for(ScriptedRuntime(), setting_mb, free) == budget


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [600, 1500, 3000])
def test_turns_in_any_order_stay_within_the_budget_and_find_only_their_own_beginning(budget: int, seed: int):
    chance = random.Random(seed)
    runtime, cache = cache_for(budget)
    conversations: list[list[int]] = [[1]]
    busy: dict[Slot, list[int]] = {}
    resumed = refused = 0
    for step in range(600):
        if busy and chance.random() < 0.5:
            slot = chance.choice(list(busy))
            slot.sequence.append([*busy.pop(slot)[len(slot.sequence.ids) :], *numbers(10 * step, chance.randint(0, 9))])
            conversations.append(list(slot.sequence.ids))
            chance.choice(runtime.sequences).can_go_back = chance.random() < 0.9
            cache.release(slot, keep=chance.random() < 0.9)
            continue
        before = chance.choice(conversations[-9:])
        prompt = [*before[: chance.choice((1, len(before) // 2, len(before), len(before)))], *numbers(step, 40)]
        needed = len(prompt) + chance.randint(10, 400)
        found = cache.acquire(prompt, needed - len(prompt))
        assert cache.reserved_bytes == BYTES * sum(each.capacity for each in runtime.sequences) <= budget * BYTES
        assert (found is None) == (needed > budget - sum(slot.capacity for slot in busy))
        if found is None:
            refused += 1
            continue
        kept = len(found.sequence.ids)
        assert found not in busy
        assert found.sequence.ids == prompt[:kept] != prompt
        assert found.capacity >= needed
        resumed += kept > 1
        busy[found] = prompt
    assert resumed > 20
    assert refused > 5
