"""The bare libraries to compare with: nothing around the token loop."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.worker import Stream


class BareOnnx:
    """onnxruntime-genai's own Python binding."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        """threads: None leaves the library's default, as the chapter's code does."""
        import onnxruntime_genai as og

        self._og = og
        (genai_config,) = folder.glob("artifacts/*/genai_config.json")
        config = og.Config(str(genai_config.parent))
        if threads is not None:
            options = f'{{"intra_op_num_threads": {threads}}}'
            config.overlay(f'{{"model": {{"decoder": {{"session_options": {options}}}}}}}')
        self._model = og.Model(config)

    def ask(self, ids: Sequence[int], tokens: int) -> Stream:
        """Read the prompt and generate exactly so many tokens."""
        stream = Stream(prompt_tokens=len(ids))
        generator = self._generator(len(ids) + tokens)
        generator.append_tokens(list(ids))
        return _written(generator, tokens, stream)

    def asker(self, ids: Sequence[int], tokens: int) -> Callable[[], Stream]:
        """A repeatable `ask`, which keeps all but the last token of the prompt in memory."""
        generator = self._generator(len(ids) + tokens)
        generator.append_tokens(list(ids))

        def again() -> Stream:
            stream = Stream(prompt_tokens=len(ids), cached_tokens=len(ids) - 1)
            generator.rewind_to(len(ids) - 1)
            generator.append_tokens(list(ids[-1:]))
            return _written(generator, tokens, stream)

        return again

    def _generator(self, length: int) -> Any:
        params = self._og.GeneratorParams(self._model)
        # Random weights would generate end tokens at random: min_length forbids them.
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        return self._og.Generator(self._model, params)


def _written(generator: Any, tokens: int, stream: Stream) -> Stream:
    for count in range(1, tokens + 1):
        generator.generate_next_token()
        stream.at.append(time.perf_counter())
        stream.tokens.append(count)
    return stream


class BareTransformers:
    """transformers' own generate."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto").eval()

    def asker(self, ids: Sequence[int], tokens: int) -> Callable[[], Stream]:
        """A repeatable `ask`, which reads the prompt each time."""
        return lambda: self.ask(ids, tokens)

    def ask(self, ids: Sequence[int], tokens: int) -> Stream:
        """Read the prompt and generate exactly so many tokens."""
        from transformers.generation.streamers import BaseStreamer

        stream = Stream(prompt_tokens=len(ids))

        class Clock(BaseStreamer):  # type: ignore[misc]
            def put(self, value: Any) -> None:
                stream.at.append(time.perf_counter())

            def end(self) -> None:
                pass

        given = self._torch.tensor([list(ids)])
        with self._torch.inference_mode():
            self._model.generate(
                given, attention_mask=self._torch.ones_like(given), min_new_tokens=tokens, max_new_tokens=tokens,
                do_sample=False, streamer=Clock(),
            )  # fmt: skip
        del stream.at[0]  # the first call of a streamer carries the prompt
        stream.tokens = list(range(1, len(stream.at) + 1))
        return stream
