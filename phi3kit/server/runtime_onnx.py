"""The onnx engine: ONNX Runtime's generate API."""

import json
import secrets
from pathlib import Path

import onnxruntime_genai as og

from phi3kit.server.runtime import OnToken, Sampling, load_tokenizers

_PREFILL_SLICE = 64  # tokens; append_tokens holds the GIL, and between slices /health gets its turn


class OnnxRuntime:
    """One Phi-3 as an ONNX graph on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer, self.text_tokenizer = load_tokenizers(folder)
        config = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
        ends = config["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.context_tokens = int(config["context_length"])
        self._model = og.Model(str(folder))

    def generate(self, prompt_ids: list[int], max_tokens: int, sampling: Sampling, on_token: OnToken) -> None:
        """See Runtime.generate."""
        # max_length counts the prompt too, and its memory is taken at once.
        options: dict[str, float | bool] = {"max_length": len(prompt_ids) + max_tokens, "do_sample": False}
        if sampling.temperature > 0:
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(31)
            options |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            options["random_seed"] = seed % 2**31
        params = og.GeneratorParams(self._model)
        params.set_search_options(**options)
        generator = og.Generator(self._model, params)
        for start in range(0, len(prompt_ids), _PREFILL_SLICE):
            generator.append_tokens(prompt_ids[start : start + _PREFILL_SLICE])
        while not generator.is_done():
            generator.generate_next_token()
            if not on_token(int(generator.get_next_tokens()[0])):
                return
