"""Runtime: one loaded model and the sequences in its memory; the interface of both wrappers' runtimes.

Knows tokens in, scores out. Knows neither how a token is chosen nor whose turn it is.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

Logits = np.ndarray[Any, np.dtype[np.float32]]


class TokenSequence(Protocol):
    """Consecutive tokens, and their keys and values in memory."""

    ids: list[int]  # the tokens that were computed

    def serves(self, longest: int) -> bool:
        """Whether it may grow to so many tokens and equal a new one of that length."""

    def truncate(self, length: int) -> bool:
        """Forget all but the first `length` tokens; False when that cannot be."""

    def copy(self, other: "TokenSequence", length: int) -> bool:
        """Copy up to the first `length` tokens of another one that begins like this; False when that cannot be."""

    def close(self) -> None:
        """Give the memory back."""


Work = Sequence[tuple[TokenSequence, Sequence[int]]]  # the next tokens to compute of each sequence


class Runtime(Protocol):
    """One loaded model. It and its sequences belong to one thread."""

    tokenizer: Tokenizer  # reads special tokens as structure
    text_tokenizer: Tokenizer  # reads them as plain text
    context_tokens: int
    end_ids: frozenset[int]  # token ids that end an answer
    bytes_per_token: int  # of keys and values
    block_tokens: int  # memory is taken in blocks of so many tokens
    max_sequences: int  # that may be open together

    def limit(self, longest: int) -> None:
        """Say how many tokens a sequence may have at most, before the first one is opened."""

    def open(self, longest: int) -> TokenSequence:
        """An empty sequence that may grow to so many tokens. It takes memory as it grows."""

    def step(self, work: Work) -> list[Logits | Exception]:
        """Compute tokens of several sequences, each of which is in `work` once.

        Returns for each the scores of the next token, shape (vocabulary,), or the error: the content of a sequence that
        failed is unsure, the others are as if computed alone.
        """
