"""The onnx engine: ONNX Runtime's generate API."""

import json
from collections.abc import Sequence
from pathlib import Path

from phi3kit.server.genai import Generator, Model
from phi3kit.server.runtime import Logits, load_tokenizers

_FLOAT_BYTES = 4  # keys and values are float32 on the CPU


class OnnxSequence:
    """See TokenSequence."""

    def __init__(self, model: Model, capacity: int) -> None:
        self.ids: list[int] = []
        self._generator = Generator(model, capacity)

    def append(self, ids: Sequence[int]) -> Logits:
        """See TokenSequence.append."""
        self._generator.append(ids)
        self.ids += ids
        return self._generator.logits()

    def truncate(self, length: int) -> bool:
        """See TokenSequence.truncate; always possible."""
        if length < len(self.ids):
            self._generator.rewind(length)
            del self.ids[length:]
        return True

    def close(self) -> None:
        """See TokenSequence.close."""
        self._generator.close()


class OnnxRuntime:
    """One Phi-3 as an ONNX graph on the CPU."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.tokenizer, self.text_tokenizer = load_tokenizers(folder)
        config = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
        ends = config["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.context_tokens = int(config["context_length"])
        decoder = config["decoder"]
        heads = decoder.get("num_key_value_heads", decoder["num_attention_heads"])
        self.bytes_per_token = decoder["num_hidden_layers"] * 2 * heads * decoder["head_size"] * _FLOAT_BYTES
        # Left alone the library takes half of the cores.
        options = {"intra_op_num_threads": threads}
        self._model = Model(folder, {"model": {"decoder": {"session_options": options}}})

    def open(self, capacity: int) -> OnnxSequence:
        """See Runtime.open."""
        return OnnxSequence(self._model, capacity)
