"""The transformers engine: PyTorch weights, the library's own generate."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from phi3kit.server.runtime import OnToken, Sampling, load_tokenizers


class _EachToken(StoppingCriteria):
    """Hands every new token on, and stops when the reader has enough."""

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        more = self._on_token(int(input_ids[0, -1]))
        return torch.tensor([not more])


class TransformersRuntime:
    """One Phi-3 in PyTorch, in the precision of its weights."""

    def __init__(self, model_folder: Path, tokenizer_folder: Path) -> None:
        self.tokenizer, self.text_tokenizer = load_tokenizers(tokenizer_folder)
        self._model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto", trust_remote_code=False).eval()
        ends = json.loads((model_folder / "generation_config.json").read_text("utf-8"))["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.context_tokens = int(self._model.config.max_position_embeddings)

    def generate(self, prompt_ids: list[int], max_tokens: int, sampling: Sampling, on_token: OnToken) -> None:
        """See Runtime.generate."""
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=sorted(self.end_ids),
            pad_token_id=min(self.end_ids),
        )
        if config.do_sample:
            config.temperature, config.top_p, config.top_k = sampling.temperature, sampling.top_p, 0
            # One thread generates, so the global generator is this generation's own.
            torch.manual_seed(sampling.seed) if sampling.seed is not None else torch.seed()
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_EachToken(on_token)]),
            )
