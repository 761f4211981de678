"""KV cache: what a turn finds of its conversation and of others, and that memory stays within the budget."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from phi3kit.worker.kv_cache import KvCache, Slot, budget_for
from phi3kit.worker.runtime import Logits, TokenSequence, Work

BYTES = 3  # a token
BLOCK = 10  # tokens


class ScriptedSequence:
    """Counts tokens and computes nothing."""

    def __init__(self, runtime: "ScriptedRuntime", longest: int) -> None:
        self.ids: list[int] = []
        self.longest = longest
        self.can_go_back = True
        self._runtime = runtime

    def append(self, ids: Sequence[int]) -> None:
        self.ids += ids
        assert len(self.ids) <= self._runtime.longest

    def serves(self, longest: int) -> bool:
        return (longest > self._runtime.short_tokens) == (self.longest > self._runtime.short_tokens)

    def truncate(self, length: int) -> bool:
        if not self.can_go_back:
            return False
        del self.ids[length:]
        return True

    def copy(self, other: TokenSequence, length: int) -> bool:
        assert isinstance(other, ScriptedSequence)
        assert other.ids[: len(self.ids)] == self.ids
        if not other.can_go_back:
            return False
        self.ids += other.ids[len(self.ids) : length]
        return True

    def close(self) -> None:
        self._runtime.sequences.remove(self)


class ScriptedRuntime:
    """Remembers the sequences that are open, in the order in which they were opened."""

    tokenizer = text_tokenizer = Tokenizer(models.WordLevel())
    context_tokens = 4000
    end_ids = frozenset({0})
    bytes_per_token = BYTES
    block_tokens = BLOCK
    max_sequences = 6

    def __init__(self) -> None:
        self.sequences: list[ScriptedSequence] = []
        self.longest = 0
        self.short_tokens = 10**9  # longer sequences are computed otherwise

    def limit(self, longest: int) -> None:
        self.longest = longest

    def open(self, longest: int) -> ScriptedSequence:
        assert len(self.sequences) < self.max_sequences
        self.sequences.append(ScriptedSequence(self, longest))
        return self.sequences[-1]

    def step(self, work: Work) -> list[Logits | Exception]:
        return [np.zeros(1, dtype=np.float32) for _ in work]


def cache_for(tokens: int) -> tuple[ScriptedRuntime, KvCache]:
    """A cache whose budget is so many tokens."""
    runtime = ScriptedRuntime()
    return runtime, KvCache(runtime, tokens * BYTES)


def acquired(cache: KvCache, prompt: Sequence[int], max_tokens: int = 50) -> Slot:
    slot = cache.acquire(prompt, max_tokens)
    assert slot is not None
    return slot


def told(cache: KvCache, prompt: Sequence[int], answer: Sequence[int] = ()) -> Slot:
    """A whole turn: prompt and answer are computed, and the sequence is idle again."""
    slot = acquired(cache, prompt, max_tokens=max(1, len(answer)))
    assert isinstance(slot.sequence, ScriptedSequence)
    slot.sequence.append([*prompt[len(slot.sequence.ids) :], *answer])
    cache.release(slot)
    return slot


def numbers(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


PROMPT, ANSWER = numbers(1000, 60), numbers(2000, 40)


class TestReuse:
    def test_a_conversation_goes_on_with_all_its_tokens_however_long_it_gets(self):
        runtime, cache = cache_for(2000)
        first, talk = told(cache, PROMPT, ANSWER), [*PROMPT, *ANSWER]
        for turn in range(8):
            talk += numbers(3000 + 100 * turn, 100)
            slot = acquired(cache, talk)
            assert slot is first
            assert slot.sequence.ids == talk[:-100]
            cache.release(slot)
            assert told(cache, talk) is first
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

    def test_of_several_the_one_that_shares_most_is_taken(self):
        _, cache = cache_for(2000)
        slots = [told(cache, [*PROMPT[:shared], *numbers(10 * shared, 60)]) for shared in (10, 14, 12)]
        assert len(set(map(id, slots))) == 3
        assert acquired(cache, [*slots[1].sequence.ids, 9]) is slots[1]

    def test_a_sequence_that_cannot_go_back_is_closed_and_replaced(self):
        runtime, cache = cache_for(2000)
        told(cache, PROMPT, ANSWER)
        (stuck,) = runtime.sequences
        stuck.can_go_back = False
        slot = acquired(cache, PROMPT)
        assert runtime.sequences == [slot.sequence] != [stuck]
        assert (slot.sequence.ids, cache.reserved_bytes) == ([], 110 * BYTES)

    def test_one_that_would_be_computed_otherwise_at_that_length_is_not_taken(self):
        runtime, cache = cache_for(2000)
        runtime.short_tokens = 200
        slot = told(cache, PROMPT, ANSWER)
        longer = acquired(cache, [*PROMPT, *ANSWER, 1], max_tokens=100)
        assert (longer.sequence.ids, slot.sequence.ids) == ([], PROMPT + ANSWER)
        assert acquired(cache, [*PROMPT, *ANSWER, 1], max_tokens=99) is slot


class TestCopy:
    def test_a_beginning_that_another_conversation_has_is_copied_from_it(self):
        _, cache = cache_for(2000)
        other = told(cache, PROMPT, ANSWER)
        prompt = [*PROMPT[:35], *numbers(1, 50)]
        slot = acquired(cache, prompt)
        assert (slot is other, slot.sequence.ids) == (False, [])
        assert cache.extend(slot, prompt) == 35
        assert (slot.sequence.ids, other.sequence.ids) == (PROMPT[:35], PROMPT + ANSWER)

    def test_from_one_that_is_being_read_too_and_again_when_it_has_more(self):
        _, cache = cache_for(2000)
        one, other = acquired(cache, PROMPT), acquired(cache, PROMPT)
        one.sequence.append(PROMPT[:40])
        assert cache.extend(other, PROMPT) == 40
        one.sequence.append(PROMPT[40:])
        assert cache.extend(other, PROMPT) == 0  # 19 tokens: computed as fast
        assert other.sequence.ids == PROMPT[:40]

    def test_the_last_token_is_left_to_compute(self):
        _, cache = cache_for(2000)
        one, other = acquired(cache, PROMPT), acquired(cache, PROMPT)
        one.sequence.append(PROMPT)
        assert cache.extend(other, PROMPT) == len(PROMPT) - 1 == len(other.sequence.ids)

    def test_little_is_not_worth_it_and_what_cannot_be_had_is_none(self):
        _, cache = cache_for(2000)
        other = told(cache, PROMPT, ANSWER)
        for prompt in ([*PROMPT[:31], *numbers(1, 60)], [*PROMPT[:40], *numbers(1, 60)]):
            other.sequence.can_go_back = False
            slot = acquired(cache, prompt)
            assert cache.extend(slot, prompt) == 0
            assert slot.sequence.ids == []
            cache.release(slot)


class TestRoom:
    def test_a_new_conversation_leaves_another_alone_that_begins_alike(self):
        runtime, cache = cache_for(2000)
        other = told(cache, PROMPT, ANSWER)
        slot = acquired(cache, [*PROMPT[:10], *numbers(1, 50)])
        assert (slot.sequence.ids, other.sequence.ids) == ([], PROMPT + ANSWER)
        assert len(runtime.sequences) == 2

    def test_an_idle_conversation_costs_what_it_holds_and_a_busy_one_what_it_may_become(self):
        _, cache = cache_for(2000)
        slot = acquired(cache, PROMPT, max_tokens=500)
        assert cache.reserved_bytes == 560 * BYTES
        slot.sequence.append([*PROMPT, 1, 2, 3])
        cache.release(slot)
        assert cache.reserved_bytes == 70 * BYTES  # whole blocks
        acquired(cache, [*slot.sequence.ids, 4], max_tokens=7)
        assert cache.reserved_bytes == 80 * BYTES

    def test_without_room_the_oldest_go_and_no_more_than_needed(self):
        runtime, cache = cache_for(300)
        slots = [told(cache, numbers(first, 60)) for first in (100, 200, 300, 400)]
        told(cache, [*numbers(100, 60), 1])  # the first of them is the latest now
        slot = acquired(cache, numbers(500, 60), max_tokens=50)
        assert runtime.sequences == [*(slots[kept].sequence for kept in (0, 2, 3)), slot.sequence]
        assert cache.reserved_bytes == (70 + 60 + 60 + 110) * BYTES

    def test_the_one_that_has_the_beginning_goes_last_and_is_cut_rather_than_closed(self):
        runtime, cache = cache_for(300)
        begins_alike = told(cache, [*PROMPT[:40], *numbers(100, 60)])
        other = told(cache, numbers(200, 100))
        slot = acquired(cache, [*PROMPT[:40], *numbers(300, 60)], max_tokens=100)
        assert runtime.sequences == [begins_alike.sequence, slot.sequence]
        cache.release(slot, keep=False)
        slot = acquired(cache, [*PROMPT[:40], *numbers(300, 60)], max_tokens=200)
        assert (slot, slot.sequence.ids) == (begins_alike, PROMPT[:40])
        assert runtime.sequences == [slot.sequence] != [other.sequence]

    def test_more_conversations_than_the_model_can_keep_push_out_the_oldest(self):
        runtime, cache = cache_for(2000)
        slots = [told(cache, numbers(first, 20)) for first in range(100, 800, 100)]
        assert runtime.sequences == [slot.sequence for slot in slots[1:]]

    def test_a_busy_sequence_is_never_taken(self):
        runtime, cache = cache_for(2000)
        busy = acquired(cache, PROMPT)
        busy.sequence.append(PROMPT)
        slot = acquired(cache, [*PROMPT, 1])
        assert slot is not busy
        assert (busy.sequence.ids, slot.sequence.ids) == (PROMPT, [])
        assert runtime.sequences == [busy.sequence, slot.sequence]

    def test_none_while_busy_ones_leave_too_little_and_then_no_idle_one_goes(self):
        runtime, cache = cache_for(400)
        idle = told(cache, numbers(1, 100))
        busy = acquired(cache, PROMPT)
        assert cache.acquire(numbers(500, 100), 191) is None
        assert idle.sequence in runtime.sequences
        assert acquired(cache, numbers(500, 100), 190).reserved == 290
        assert idle.sequence not in runtime.sequences
        cache.release(busy)
        assert cache.acquire(numbers(900, 100), 1) is not None

    def test_none_while_all_are_busy(self):
        runtime, cache = cache_for(4000)
        slots = [acquired(cache, numbers(first, 20)) for first in range(100, 700, 100)]
        assert len(slots) == runtime.max_sequences
        assert cache.acquire(PROMPT, 50) is None

    def test_a_sequence_of_unsure_content_is_closed_and_one_that_holds_nothing(self):
        runtime, cache = cache_for(400)
        unsure = acquired(cache, PROMPT)
        unsure.sequence.append(PROMPT)
        cache.release(unsure, keep=False)
        cache.release(acquired(cache, PROMPT))
        assert (runtime.sequences, cache.reserved_bytes) == ([], 0)


class TestBudget:
    def test_fits_says_what_the_whole_budget_could_hold(self):
        _, cache = cache_for(300)
        acquired(cache, PROMPT)
        assert (cache.fits(300), cache.fits(301)) == (True, False)

    @pytest.mark.parametrize(("budget", "longest"), [(300, 300), (5000, 4000)])
    def test_no_sequence_is_longer_than_the_budget_or_the_context(self, budget: int, longest: int):
        assert cache_for(budget)[0].longest == longest

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
    runtime.short_tokens = 200
    conversations: list[list[int]] = [[1]]
    busy: dict[Slot, list[int]] = {}
    resumed = copied = refused = 0
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
        longest = len(prompt) + chance.randint(10, 400)
        found = cache.acquire(prompt, longest - len(prompt))
        assert cache.reserved_bytes <= budget * BYTES
        assert len(runtime.sequences) <= runtime.max_sequences
        held = sum(len(each.ids) for each in runtime.sequences)
        assert held * BYTES <= cache.reserved_bytes
        left = budget - sum(slot.reserved for slot in busy)
        assert (found is None) == (-(-longest // BLOCK) * BLOCK > left or len(busy) == runtime.max_sequences)
        if found is None:
            refused += 1
            continue
        assert found not in busy
        assert found.reserved >= longest
        kept = len(found.sequence.ids)
        resumed += kept > 1
        assert found.sequence.ids == prompt[:kept] != prompt
        copied += cache.extend(found, prompt)
        assert found.sequence.ids == prompt[: len(found.sequence.ids)] != prompt
        busy[found] = prompt
    assert resumed > 10
    assert copied > 100
    assert refused > 5
