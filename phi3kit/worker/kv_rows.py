"""KV rows: keys and values of several sequences in common arrays, so that one run of the graph computes many.

A row is a sequence's place in every layer's array. A run takes neighbouring rows, so rows are moved together first.
Addresses for the longest sequence are reserved at once; memory is taken and given back page by page.
Knows arrays and pages. Does not know which tokens a row holds.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from phi3kit.core.operating_system import advise, private_memory

Array = np.ndarray[Any, np.dtype[Any]]


class KvRows:
    """Keys and values in arrays of shape (rows, heads, tokens, head size): a key and a value array a layer."""

    def __init__(self, layers: int, heads: int, head_size: int, dtype: "np.dtype[Any]", rows: int, tokens: int) -> None:
        """tokens: the most that a row will hold. Raises OSError when the system refuses the address space."""
        self.block_tokens = block_tokens(head_size, dtype)
        self.tokens = self._whole_blocks(tokens)
        shape = (rows, heads, self.tokens, head_size)
        self._head_bytes = self.tokens * head_size * dtype.itemsize
        self._token_bytes = head_size * dtype.itemsize
        self._heads = heads
        self._maps = [private_memory(rows * heads * self._head_bytes) for _ in range(2 * layers)]
        for pages in self._maps:
            # With huge pages one token in a head would take 2 MB. A kernel without them refuses the advice.
            with contextlib.suppress(OSError):
                advise(pages, "MADV_NOHUGEPAGE", 0, len(pages))
        self.arrays: list[Array] = [np.frombuffer(pages, dtype=dtype).reshape(shape) for pages in self._maps]

    def free(self, row: int, begin: int, end: int) -> None:
        """Give back the memory of the tokens from `begin` to `end`, except for a block that `begin` lies within."""
        for pages in self._maps:
            self._free(pages, row, self._whole_blocks(begin), self._whole_blocks(end))

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        """Copy the tokens from `begin` to `end` of one row to the same place in another."""
        for array in self.arrays:
            array[target, :, begin:end] = array[source, :, begin:end]

    def swap(self, one: int, other: int, held_one: int, held_other: int) -> None:
        """Exchange two rows that hold so many tokens, array by array: no row is in memory twice."""
        # Allocated before anything moves: a MemoryError leaves both rows as they were.
        kept = np.empty_like(self.arrays[0][one, :, :held_one])
        less, begin, end = (one, held_other, held_one) if held_one > held_other else (other, held_one, held_other)
        begin, end = self._whole_blocks(begin), self._whole_blocks(end)
        for array, pages in zip(self.arrays, self._maps, strict=True):
            kept[:] = array[one, :, :held_one]
            array[one, :, :held_other] = array[other, :, :held_other]
            array[other, :, :held_one] = kept
            self._free(pages, less, begin, end)

    def _whole_blocks(self, tokens: int) -> int:
        return math.ceil(tokens / self.block_tokens) * self.block_tokens

    def _free(self, pages: mmap.mmap, row: int, begin: int, end: int) -> None:
        for start, length in self._ranges(row, begin, end):
            advise(pages, "MADV_DONTNEED", start, length)

    def _ranges(self, row: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where tokens lie in a map: (first byte, bytes), one range a head, or one for a whole row."""
        row_start = row * self._heads * self._head_bytes
        if begin == 0:  # the rest of the row was never touched
            yield row_start, self._heads * self._head_bytes
        elif begin < end:
            for head in range(self._heads):
                start = row_start + head * self._head_bytes + begin * self._token_bytes
                yield start, (end - begin) * self._token_bytes


def block_tokens(head_size: int, dtype: "np.dtype[Any]") -> int:
    """The fewest tokens of a head that fill whole pages."""
    token_bytes = head_size * dtype.itemsize
    return mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, token_bytes)


def gathering(held: Sequence[int], wanted: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """How to bring rows together: the first of their neighbouring places, and the pairs of rows to exchange.

    held: tokens in each row. wanted: the rows to bring together. The place that moves the fewest tokens is chosen.
    """
    within, count = set(wanted), len(wanted)
    if max(within) - min(within) < count:  # nearly always
        return min(within), []

    def exchanges(first: int) -> list[tuple[int, int]]:
        place = range(first, first + count)
        outside = (row for row in sorted(within) if row not in place)
        inside = (row for row in place if row not in within)
        return list(zip(outside, inside, strict=True))

    def tokens_moved(first: int) -> int:
        return sum(held[one] + held[other] for one, other in exchanges(first))

    first = min(range(len(held) - count + 1), key=tokens_moved)
    return first, exchanges(first)
