"""The onnx wrapper: a custom MLflow Python model around ONNX Runtime's generate API.

MLflow stores this file itself (models from code) and runs it wherever the logged model is loaded: it imports
nothing of phi3kit. Input: `prompt`, a raw prompt. Output: one completion a prompt.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import onnxruntime_genai as og
from mlflow.pyfunc import PythonModel, PythonModelContext

ARTIFACT = "phi3-mini-onnx"  # the chapter's name for the ONNX folder
_PREFILL_SLICE = 64  # tokens; append_tokens holds the GIL, a slice lets other threads breathe


class Phi3OnnxModel(PythonModel):
    """Raw prompts in, completions out; greedy unless the logged model_config says otherwise."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load model and tokenizer once, from the artifacts."""
        folder = context.artifacts[ARTIFACT]
        options: dict[str, Any] = dict(context.model_config or {})
        self.max_tokens = int(options.pop("max_tokens", 512))
        self.search_options = options  # what is left is onnxruntime-genai's own: temperature, top_p, ...
        self.context_tokens = int(
            json.loads((Path(folder) / "genai_config.json").read_text())["model"]["context_length"]
        )
        self.model = og.Model(folder)
        self.tokenizer = og.Tokenizer(self.model)

    # No type hints on the two methods below: MLflow would make a schema of them that refuses {"prompt": ...}.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The completions of the prompts, in order: a list of texts.

        model_input: a DataFrame with a column `prompt`, {"prompt": text or texts}, or a list of such records.
        Raises ValueError on a prompt that is missing, empty, or longer than the context.
        """
        return ["".join(self._pieces(prompt)) for prompt in _prompts(model_input)]

    def predict_stream(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The completion of the one prompt, piece by piece. Raises ValueError on several, as predict does."""
        prompts = _prompts(model_input)
        if len(prompts) != 1:
            raise ValueError(f"predict_stream takes one prompt and got {len(prompts)}; predict takes several.")
        yield from self._pieces(prompts[0])

    def _pieces(self, prompt: str) -> Iterator[str]:
        ids = self.tokenizer.encode(prompt)
        if len(ids) >= self.context_tokens:
            raise ValueError(
                f"The prompt has {len(ids)} tokens; the context holds {self.context_tokens}, answer included."
            )
        # max_length counts the prompt too, and its memory is taken at once: ask for what can be used.
        longest = min(len(ids) + self.max_tokens, self.context_tokens)
        params = og.GeneratorParams(self.model)
        params.set_search_options(**{"do_sample": False, **self.search_options, "max_length": longest})
        generator = og.Generator(self.model, params)
        for start in range(0, len(ids), _PREFILL_SLICE):
            generator.append_tokens(ids[start : start + _PREFILL_SLICE])
        stream = self.tokenizer.create_stream()
        # Behind a special token, which adds no text, the first piece carries the space that stands before a word; behind a
        # text that the answer continues, the space is the answer's.
        at_start = self.tokenizer.decode(ids[-9:]) == self.tokenizer.decode(ids[-9:-1])
        while not generator.is_done():
            generator.generate_next_token()
            piece = stream.decode(generator.get_next_tokens()[0])
            if at_start and piece:
                piece, at_start = piece.removeprefix(" "), False
            if piece:
                yield piece


def _prompts(model_input: Any) -> list[str]:
    """Every prompt of the input, which may be a table, a dict or a list of records."""
    if hasattr(model_input, "to_dict"):
        model_input = model_input.to_dict(orient="list")
    if isinstance(model_input, dict):
        model_input = model_input.get("prompt")
    rows = list(model_input) if isinstance(model_input, (list, tuple)) else [model_input]
    # {"prompt": ["a", "b"]} reaches predict as one row that holds a list.
    cells = [cell for row in rows for cell in (row if isinstance(row, (list, tuple)) else [row])]
    prompts = [cell.get("prompt") if isinstance(cell, dict) else cell for cell in cells]
    return [_checked(prompt) for prompt in prompts]


def _checked(prompt: object) -> str:
    # onnxruntime-genai reads a text up to its first NUL character only.
    if not isinstance(prompt, str) or not prompt or "\x00" in prompt:
        raise ValueError("Each prompt must be a text that is not empty and has no NUL character.")
    return prompt


mlflow.models.set_model(Phi3OnnxModel())
