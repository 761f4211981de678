"""Runtime: one loaded model, and sequences of tokens in its memory. The same face for both wrappers.

Knows tokens in, scores out. How a token is chosen sampling knows, who is next the engine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

Logits = np.ndarray[Any, np.dtype[np.float32]]


class TokenSequence(Protocol):
    """Tokens behind each other, and their keys and values in memory."""

    ids: list[int]  # what was computed

    def append(self, ids: Sequence[int]) -> Logits:
        """Compute tokens behind the others; the scores of what comes next, shape (vocabulary,)."""
        ...

    def truncate(self, length: int) -> bool:
        """Forget what is behind the first `length` tokens; False when it cannot go back so far."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Runtime(Protocol):
    """One loaded model. It and its sequences belong to one thread."""

    tokenizer: Tokenizer  # reads special tokens as structure
    text_tokenizer: Tokenizer  # reads them as plain text
    context_tokens: int
    end_ids: frozenset[int]  # token ids that end an answer
    bytes_per_token: int  # of keys and values

    def open(self, capacity: int) -> TokenSequence:
        """An empty sequence with room for `capacity` tokens."""
        ...


def load_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The fast tokenizer of a model folder, for structure and for text; both wrappers count and cut tokens with it."""
    structure, text = (Tokenizer.from_file(str(folder / "tokenizer.json")) for _ in range(2))
    text.encode_special_tokens = True
    return structure, text
