"""Runtime of the transformers wrapper: PyTorch, one forward pass a sequence.

Its own loop instead of the library's `generate`: it takes prompts in slices, keeps the cache between turns, and is no
slower (bench/RESULTS.md). Instead of the library's continuous batching: that has no seed per request, and a single turn
runs slower. Sequences are computed one after the other: the library's cache batches only sequences of one length.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from phi3kit.worker.runtime import Logits, TokenSequence, Work
from phi3kit.worker.tokenization import load_tokenizers


class TransformersSequence:
    """See TokenSequence."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.ids: list[int] = []
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._window: int | None = model.config.sliding_window

    def append(self, ids: Sequence[int]) -> Logits:
        """Compute the next tokens; the scores of the token after them."""
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([list(ids)]), past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        self.ids += ids
        scores: Logits = output.logits[0, -1].float().numpy()
        return scores

    def serves(self, longest: int) -> bool:
        """See TokenSequence.serves."""
        return True

    def truncate(self, length: int) -> bool:
        """See TokenSequence.truncate: False once the sliding window has dropped the oldest tokens."""
        surplus = len(self.ids) - length
        if surplus <= 0:
            return True
        if self._window is not None and len(self.ids) >= self._window:
            return False
        self._cache.crop(-surplus)
        del self.ids[length:]
        return True

    def copy(self, other: TokenSequence, length: int) -> bool:
        """See TokenSequence.copy: False once the other's sliding window has dropped tokens."""
        assert isinstance(other, TransformersSequence)
        if self._window is not None and len(other.ids) >= self._window:
            return False
        begin = len(self.ids)
        with torch.inference_mode():
            for number, layer in enumerate(other._cache.layers):
                # update() concatenates into new memory.
                self._cache.update(layer.keys[:, :, begin:length], layer.values[:, :, begin:length], number)
        self.ids += other.ids[begin:length]
        return True

    def close(self) -> None:
        """See TokenSequence.close."""
        del self._cache


class TransformersRuntime:
    """One Phi-3 in PyTorch, in the precision of its weights."""

    block_tokens = 1
    max_sequences = 32

    def __init__(self, model_folder: Path, tokenizer_folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.tokenizer, self.text_tokenizer = load_tokenizers(tokenizer_folder)
        self._model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto", trust_remote_code=False).eval()
        ends = json.loads((model_folder / "generation_config.json").read_text("utf-8"))["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        config = self._model.config
        self.context_tokens = int(config.max_position_embeddings)
        head_size = config.hidden_size // config.num_attention_heads
        self.bytes_per_token = (
            config.num_hidden_layers * 2 * config.num_key_value_heads * head_size * self._model.dtype.itemsize
        )

    def limit(self, longest: int) -> None:
        """See Runtime.limit: no memory is laid out."""

    def open(self, longest: int) -> TransformersSequence:
        """See Runtime.open."""
        return TransformersSequence(self._model)

    def step(self, work: Work) -> list[Logits | Exception]:
        """See Runtime.step."""
        return [_appended(sequence, ids) for sequence, ids in work]


def _appended(sequence: TokenSequence, ids: Sequence[int]) -> Logits | Exception:
    assert isinstance(sequence, TransformersSequence)
    try:
        return sequence.append(ids)
    except Exception as error:
        return error
