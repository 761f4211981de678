"""Runtime: one loaded model, ready to write tokens. The same face for both wrappers.

Knows what a generation is asked for. The engines behind it are in runtime_transformers and runtime_onnx.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from tokenizers import Tokenizer

from phi3kit.errors import ModelNotFound
from phi3kit.records import WrapperName

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

    tokenizer: Tokenizer
    context_tokens: int
    end_ids: frozenset[int]  # token ids that end an answer

    def generate(self, prompt_ids: list[int], max_tokens: int, sampling: Sampling, on_token: OnToken) -> None:
        """Write up to max_tokens tokens behind prompt_ids, an end token too, each through on_token."""
        ...


def load_runtime(folder: Path, wrapper: WrapperName) -> Runtime:
    """Load the logged model that lies in `folder`.

    Reads the MLmodel file and the parts that it names, without MLflow: that saves 150 MB a worker.
    Raises ModelNotFound when a part is missing.
    """
    try:
        flavors: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))["flavors"]
        if wrapper == "transformers":
            from phi3kit.server.runtime_transformers import TransformersRuntime

            return TransformersRuntime(
                folder / flavors["transformers"]["model_binary"], folder / "components/tokenizer"
            )
        from phi3kit.server.runtime_onnx import OnnxRuntime

        (artifact,) = flavors["python_function"]["artifacts"].values()
        return OnnxRuntime(folder / artifact["path"])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelNotFound(
            what="The logged model cannot be loaded.",
            why=f"Its artifacts are missing or damaged: {str(error).strip().splitlines()[0] if str(error) else error!r}.",
            next_step="Build it again on Build.",
        ) from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model folder; both wrappers count and cut tokens with it."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
