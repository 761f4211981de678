"""Runtime: one loaded model, and sequences of tokens in its memory. The same face for both wrappers.

Knows tokens in, scores out. How a token is chosen sampling knows, who is next the engine.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

Logits = np.ndarray[Any, np.dtype[np.float32]]


class TokenSequence(Protocol):
    """Tokens behind each other, and their keys and values in memory."""

    ids: list[int]  # what was computed

    def serves(self, longest: int) -> bool:
        """Whether it may go on up to so many tokens and be what a new one of that length would be."""
        ...

    def truncate(self, length: int) -> bool:
        """Forget what is behind the first `length` tokens; False when it cannot go back so far."""
        ...

    def copy(self, other: "TokenSequence", length: int) -> bool:
        """Take over the first `length` tokens of another one that begins like this; False when that cannot be."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


Work = Sequence[tuple[TokenSequence, Sequence[int]]]  # for each sequence, the tokens to compute behind its others


class Runtime(Protocol):
    """One loaded model. It and its sequences belong to one thread."""

    tokenizer: Tokenizer  # reads special tokens as structure
    text_tokenizer: Tokenizer  # reads them as plain text
    context_tokens: int
    end_ids: frozenset[int]  # token ids that end an answer
    bytes_per_token: int  # of keys and values
    block_tokens: int  # memory for keys and values is taken in steps of so many tokens
    max_sequences: int  # that may be open together

    def limit(self, longest: int) -> None:
        """No sequence will have more tokens than that. Before the first one is opened."""
        ...

    def open(self, longest: int) -> TokenSequence:
        """An empty sequence that may get so many tokens. It takes memory as it grows."""
        ...

    def step(self, work: Work) -> list[Logits | Exception]:
        """Compute tokens of several sequences, each of which is in `work` once.

        For each the scores of what comes next, shape (vocabulary,), or why there are none; a sequence that failed
        is unsure, and the others are as if they had been alone.
        """
        ...
