"""Runtime: one loaded model, ready to write tokens. The same face for both wrappers.

Knows what a generation is asked for. The engines behind it are in runtime_transformers and
runtime_onnx; loading chooses one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

# Called with each token id as it is written; False ends the generation.
OnToken = Callable[[int], bool]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy; seed None is a new draw each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Runtime(Protocol):
    """One loaded model. Only one thread may call generate."""

    tokenizer: Tokenizer  # reads special tokens as structure
    text_tokenizer: Tokenizer  # reads them as plain text
    context_tokens: int
    end_ids: frozenset[int]  # token ids that end an answer

    def generate(self, prompt_ids: list[int], max_tokens: int, sampling: Sampling, on_token: OnToken) -> None:
        """Write up to max_tokens tokens behind prompt_ids, an end token too, each through on_token."""
        ...


def load_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The fast tokenizer of a model folder, for structure and for text; both wrappers count and cut tokens with it."""
    structure, text = (Tokenizer.from_file(str(folder / "tokenizer.json")) for _ in range(2))
    text.encode_special_tokens = True
    return structure, text
