"""KV rows: they move and are freed without touching a number of another row."""

import random

import numpy as np
import pytest

from phi3kit.worker.kv_rows import KvRows, block_tokens, gathering

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)


def some_rows(held: list[int], head_size: int = 64) -> KvRows:
    """Rows that hold so many tokens each; every number encodes its row, head and token."""
    rows = KvRows(layers=2, heads=3, head_size=head_size, dtype=FLOAT32, rows=len(held), tokens=200)
    for number, array in enumerate(rows.arrays):
        for row, tokens in enumerate(held):
            for head in range(3):
                array[row, head, :tokens] = content(number, row, head, tokens)
    return rows


def content(array: int, row: int, head: int, tokens: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    column = 1000 * array + 100 * (row + 1) + 10 * head + np.arange(tokens, dtype=np.float32) / 1000
    return column[:, None]


def holds(rows: KvRows, row: int, original: int, tokens: int) -> bool:
    return all(
        np.array_equal(
            array[row, head, :tokens], np.broadcast_to(content(number, original, head, tokens), (tokens, 64))
        )
        for number, array in enumerate(rows.arrays)
        for head in range(3)
    )


class TestMemory:
    @pytest.mark.parametrize(
        ("head_size", "dtype", "tokens"), [(64, FLOAT32, 16), (96, FLOAT32, 32), (96, FLOAT16, 64)]
    )
    def test_a_block_is_the_fewest_tokens_that_fill_whole_pages(
        self, head_size: int, dtype: "np.dtype[float]", tokens: int
    ):
        assert block_tokens(head_size, dtype) == tokens

    def test_each_row_has_room_for_whole_blocks(self):
        rows = some_rows([0, 0])
        assert (rows.tokens, rows.block_tokens) == (208, 16)
        assert [array.shape for array in rows.arrays] == [(2, 3, 208, 64)] * 4

    def test_freed_tokens_are_gone_and_all_others_stay(self):
        rows = some_rows([100, 100, 100])
        rows.free(1, 40, 100)
        assert holds(rows, 0, 0, 100)
        assert holds(rows, 2, 2, 100)
        assert holds(rows, 1, 1, 48)  # the block that the 40th token lies within stays
        assert all(not array[1, :, 48:].any() for array in rows.arrays)

    def test_a_freed_row_is_gone_whole(self):
        rows = some_rows([100, 100, 100])
        rows.free(1, 0, 100)
        assert holds(rows, 0, 0, 100)
        assert holds(rows, 2, 2, 100)
        assert all(not array[1].any() for array in rows.arrays)

    def test_more_addresses_than_there_are_is_an_error(self):
        with pytest.raises((OSError, OverflowError)):
            KvRows(layers=1, heads=32, head_size=128, dtype=FLOAT32, rows=32, tokens=2**40)


class TestMoves:
    def test_a_copy_has_the_tokens_asked_for_and_the_source_keeps_its_own(self):
        rows = some_rows([50, 20, 10])
        rows.copy(0, 1, 20, 40)
        assert holds(rows, 0, 0, 50)
        assert holds(rows, 1, 1, 20)
        assert all(np.array_equal(array[1, :, 20:40], array[0, :, 20:40]) for array in rows.arrays)
        assert all(not array[1, :, 40:].any() for array in rows.arrays)

    @pytest.mark.parametrize("held", [[100, 30, 7], [30, 100, 7], [50, 0, 7], [0, 50, 7], [64, 64, 7]])
    def test_exchanged_rows_have_each_others_tokens_and_give_back_what_is_left(self, held: list[int]):
        rows = some_rows(held)
        rows.swap(0, 1, held[0], held[1])
        assert holds(rows, 0, 1, held[1])
        assert holds(rows, 1, 0, held[0])
        assert holds(rows, 2, 2, held[2])
        whole_blocks = -(-min(held[:2]) // 16) * 16
        shorter = 0 if held[1] < held[0] else 1
        assert all(not array[shorter, :, whole_blocks:].any() for array in rows.arrays)


class TestGathering:
    def test_rows_that_lie_together_stay(self):
        assert gathering([9, 9, 9, 9], [2, 1]) == (1, [])
        assert gathering([9, 9, 9, 9], [3]) == (3, [])

    def test_a_gap_is_closed_where_the_fewest_tokens_move(self):
        assert gathering([5, 0, 9], [0, 2]) == (1, [(0, 1)])
        assert gathering([9, 0, 5], [0, 2]) == (0, [(2, 1)])
        assert gathering([9, 40, 5, 0], [0, 2]) == (2, [(0, 3)])  # past an idle row that holds much

    def test_rows_end_up_together_whichever_they_were(self):
        chance = random.Random(2)
        for _ in range(300):
            held = [chance.choice((0, chance.randint(1, 2000))) for _ in range(chance.randint(1, 12))]
            wanted = chance.sample(range(len(held)), chance.randint(1, len(held)))
            first, exchanges = gathering(held, wanted)
            place = dict(zip(range(len(held)), range(len(held)), strict=True))
            for one, other in exchanges:
                place[one], place[other] = other, one
            assert sorted(place[row] for row in wanted) == list(range(first, first + len(wanted)))
            assert len({row for pair in exchanges for row in pair}) == 2 * len(exchanges)
