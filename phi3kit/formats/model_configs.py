"""Model configs: which keys of a model's JSON files reach the libraries that load it, and which values.

Other keys are left out: a config can name native code, code of its repository, files to write and other places to load
from. A known key with a value that is not is told apart: left out, a library would take its own default for it. Opens no
file, loads no library.
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Check = Callable[[Any], bool]
Spec = Mapping[str, "Check | Spec"]

WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
LARGEST = 1_048_576  # of tokens in a context, of tokens in a vocabulary, and of every id
_LARGEST_TEMPLATE = 100_000  # characters
_NAME = re.compile(r"[\w./-]{1,100}")
_NUMBERED_NAME = re.compile(r"[\w./-]{1,100}%d[\w./-]{0,100}")  # a format of C's printf: this and nothing else of it


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _size(value: Any) -> bool:
    return _whole(value) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30


def _within(least: float, most: float) -> Check:
    return lambda value: _number(value) and least <= value <= most


_share = _within(0, 1)
_factor = _within(1e-9, 1e9)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 100


def _one_of(*values: str) -> Check:
    return lambda value: value in values


def _list_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def _table_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, dict) and len(value) <= most and all(map(check, value.values()))


def _ids(value: Any) -> bool:
    return _whole(value) or _list_of(_whole, 100)(value)


def _token(value: Any) -> bool:
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special", "__type", "id")
    return _word(value) or (
        isinstance(value, dict)
        and set(value) <= set(fields)
        and all(_flag(v) or _word(v) or _whole(v) for v in value.values())
    )


def _template(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LARGEST_TEMPLATE


def _anything(value: Any) -> bool:
    return True


_tokens = _list_of(_token, 10_000)
_factors = _list_of(_factor, 4096)
_ROTATION: Spec = {
    **dict.fromkeys(("type", "rope_type"), _one_of("default", "longrope", "su", "yarn")),
    **dict.fromkeys(("short_factor", "long_factor"), _factors),
    **dict.fromkeys(("rope_theta", "factor", "attention_factor", "short_mscale", "long_mscale"), _factor),
    "partial_rotary_factor": _share,
    "original_max_position_embeddings": _size,
}  # fmt: skip
_ENDS: Spec = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _ids)

CONFIG: Spec = {
    "architectures": _list_of(_word, 10),
    "model_type": _one_of("phi3"),
    **_ENDS,
    **dict.fromkeys(
        (
            "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
            "num_key_value_heads", "original_max_position_embeddings", "sliding_window", "vocab_size",
        ),
        _size,
    ),
    **dict.fromkeys(
        (
            "attention_dropout", "embd_pdrop", "initializer_range", "partial_rotary_factor", "resid_pdrop", "rms_norm_eps",
        ),
        _share,
    ),
    "rope_theta": _factor,
    **dict.fromkeys(("attention_bias", "lm_head_bias", "mlp_bias", "tie_word_embeddings", "use_cache"), _flag),
    "hidden_act": _one_of("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"),
    **dict.fromkeys(("dtype", "torch_dtype"), _one_of(*WEIGHT_DTYPES)),
    "layer_types": _list_of(_one_of("sliding_attention", "full_attention"), 512),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), _ROTATION),
    "transformers_version": _word,
}  # fmt: skip

GENERATION: Spec = {
    **_ENDS,
    **dict.fromkeys(("do_sample", "_from_model_config"), _flag),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty"), _within(0, 100)),
    **dict.fromkeys(("top_k", "max_length", "max_new_tokens"), _size),
    "transformers_version": _word,
}

_SPECIAL: Spec = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"), _token
    ),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), lambda value: value == {} or _tokens(value)),
}
# Those that are made of tokenizer.json alone, without code or files of their own.
_TOKENIZER_CLASSES = (
    *("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    *("GPT2Tokenizer", "GPT2TokenizerFast"),
)
TOKENIZER: Spec = {
    **_SPECIAL,
    "tokenizer_class": lambda value: value in _TOKENIZER_CLASSES,
    "added_tokens_decoder": _table_of(_token, 10_000),
    **dict.fromkeys(
        (
            "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "legacy",
            "spaces_between_special_tokens", "split_special_tokens", "use_default_system_prompt",
        ),
        _flag,
    ),
    "model_max_length": _within(1, 1e30),  # which stands for no bound
    **dict.fromkeys(("padding_side", "truncation_side"), _one_of("left", "right")),
    "chat_template": _template,
}  # fmt: skip
SPECIAL_TOKENS: Spec = _SPECIAL

_INPUTS: Spec = {
    **dict.fromkeys(("input_ids", "attention_mask", "position_ids"), lambda value: _matches(_NAME, value)),
    **dict.fromkeys(("past_key_names", "past_value_names"), lambda value: _matches(_NUMBERED_NAME, value)),
}
_OUTPUTS: Spec = {
    "logits": lambda value: _matches(_NAME, value),
    **dict.fromkeys(("present_key_names", "present_value_names"), lambda value: _matches(_NUMBERED_NAME, value)),
}
GENAI: Spec = {
    "model": {
        **_ENDS,
        "type": _one_of("phi3"),
        **dict.fromkeys(("context_length", "vocab_size"), _size),
        "decoder": {
            "session_options": {"log_id": _anything, "provider_options": _anything},  # written anew
            "filename": lambda value: is_plain(value) and value.endswith(".onnx"),
            **dict.fromkeys(
                ("head_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"), _size
            ),
            "inputs": _INPUTS,
            "outputs": _OUTPUTS,
        },
    },
    "search": {
        **dict.fromkeys(("do_sample", "early_stopping", "past_present_share_buffer"), _flag),
        **dict.fromkeys(
            ("diversity_penalty", "length_penalty", "repetition_penalty", "temperature", "top_p"), _within(0, 100)
        ),
        **dict.fromkeys(("max_length", "min_length", "no_repeat_ngram_size", "top_k"), _size),
        **dict.fromkeys(("num_beams", "num_return_sequences"), lambda value: value is not True and value == 1),
    },
}

# The MLmodel file of a logged model: MLflow imports the modules and classes that it names.
_SCHEMA: Check = lambda value: isinstance(value, str) and len(value) <= 100_000  # noqa: E731
MLMODEL: Spec = {
    "flavors": {
        "python_function": {
            "artifacts": _table_of(lambda value: isinstance(value, dict), 1),  # its path is written anew
            "config": _table_of(lambda value: _within(0, LARGEST)(value) or _flag(value), 20),
            "loader_module": _one_of("mlflow.transformers", "mlflow.pyfunc.loaders.code_model"),
            "streamable": _flag,
        },
        "transformers": {
            "components": lambda value: value == ["tokenizer"],
            "inference_task": _one_of("llm/v1/chat"),
            "instance_type": _one_of("TextGenerationPipeline"),
            "pipeline_model_type": _one_of("Phi3ForCausalLM"),
            "source_model_name": _word,
            "task": _one_of("text-generation"),
            "tokenizer_type": lambda value: value in _TOKENIZER_CLASSES,
            "torch_dtype": _one_of(*(f"torch.{dtype}" for dtype in WEIGHT_DTYPES)),
            "transformers_version": _word,
        },
    },
    "signature": dict.fromkeys(("inputs", "outputs", "params"), _SCHEMA),
    "metadata": _table_of(_word, 50),
    **dict.fromkeys(("mlflow_version", "model_id", "model_uuid", "run_id", "utc_time_created"), _word),
    **dict.fromkeys(("is_signature_from_type_hint", "type_hint_from_example"), _flag),
}

# Steps of a tokenizer.json. What they do with a text ends after one pass over it, but for a pattern: see _PATTERNS.
_STEPS = {
    *("Sequence", "Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "Metaspace", "ByteLevel"),
    *("Split", "Digits", "Punctuation", "TemplateProcessing", "ByteFallback", "Fuse"),
}
_LONGEST_PIECE = 64  # characters that one step writes or looks for
_LONGEST_TOKEN = 1_000  # characters
_MOST_STEPS = 16  # that a text goes through, or a token back; Phi-3's and Llama's have 6. Each takes 0.1 s for 100 kB.
_MOST_PARTS = 2_000  # of all steps together
_MOST_GROWTH = 64  # times a text's length, after all steps
# The most that a step makes of one character. Source: unicode.org/faq/normalization.html#12, for the four forms.
_GROWTH = {"NFC": 4, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "ByteLevel": 4, "Metaspace": 2}
_TOKENIZER_KEYS = {
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"),
    "model",
}
_BPE_KEYS = {
    *("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"),
    *("ignore_merges", "vocab", "merges"),
}
# A pattern of somebody else's may take a text's length to the power of anything. These are GPT-2's and its successors'.
_PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_plain(name: Any) -> bool:
    """Whether it is the name of a file in the same folder, and of nothing else on any system."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.+-]{0,150}", name, re.ASCII) is not None and ".." not in name


@dataclass
class Cleaned:
    """What a config says, as far as a spec knows it."""

    kept: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # keys that are not known, as a.b.c
    wrong: dict[str, str] = field(default_factory=dict)  # keys that are, and their values, which are not


def cleaned(content: Mapping[str, Any], spec: Spec, inside: str = "") -> Cleaned:
    """A config, judged by a spec. inside: the key that it stands under, and a dot."""
    found = Cleaned()
    for key, value in content.items():
        known, name = spec.get(key), f"{inside}{key}"[:100]
        if known is None:
            found.left_out.append(name)
        elif isinstance(known, Mapping) and isinstance(value, dict):
            part = cleaned(value, known, f"{name}.")
            found.kept[key] = part.kept
            found.left_out += part.left_out
            found.wrong |= part.wrong
        elif value is None or (not isinstance(known, Mapping) and known(value)):
            found.kept[key] = value
        else:
            found.wrong[name] = reprlib.repr(value)
    return found


def tokenizer_flaw(content: Mapping[str, Any]) -> str | None:
    """Why a tokenizer.json is not used, as it follows "Its tokenizer.json"; None when it is."""
    if more := sorted(set(content) - _TOKENIZER_KEYS):
        return f"has {more[0][:100]!r}, which phi3kit does not support"
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or set(model) - _BPE_KEYS or model.get("dropout"):
        return "has another model than byte-pair encoding"
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not _table_of(_whole, LARGEST)(vocabulary) or not isinstance(merges, list) or len(merges) > LARGEST:
        return "has no vocabulary, or too big a one"
    if not _tokens(content.get("added_tokens") or []) or content.get("truncation") or content.get("padding"):
        return "has added tokens, truncation or padding that phi3kit does not support"
    assert isinstance(vocabulary, dict)
    if any(len(token) > _LONGEST_TOKEN for token in vocabulary) or any(
        isinstance(value, str) and len(value) > _LONGEST_PIECE for value in model.values()
    ):
        return "has a token that is too long"
    to_ids = [content.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")]
    return _steps_flaw(to_ids) or _steps_flaw([content.get("decoder")])


def _steps_flaw(waiting: list[Any]) -> str | None:
    """The same of the steps that a text goes through one after the other."""
    if flaw := _count_flaw(waiting):
        return flaw
    growth = 1
    for _ in range(_MOST_PARTS):
        if not waiting:
            return "has steps that together write long texts" if growth > _MOST_GROWTH else None
        part = waiting.pop()
        if isinstance(part, dict):
            if "Regex" in part and part["Regex"] not in _PATTERNS:
                return "splits by a pattern that phi3kit does not support and that may run forever"
            if part.get("String") == "":
                return "searches for an empty text"
            if part.get("type") == "Strip" and not all(part.get(key, 0) in (0, 1) for key in ("start", "stop")):
                return "strips more than the library can"
            growth *= _growth(part)
            waiting += [value for key, value in part.items() if key != "Regex"]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and len(part) > _LONGEST_PIECE:
            return "has a step that writes long texts"
        elif _number(part) and not _whole(part):
            return "has a step with a number that no step needs"
    return "has too many steps"


def _count_flaw(pipeline: list[Any]) -> str | None:
    """The same of their kinds and their number. A step without a type is none: the library would guess it by its keys."""
    waiting, count = [step for step in pipeline if step is not None], 0
    while waiting:
        step = waiting.pop()
        kind = step.get("type") if isinstance(step, dict) else None
        if not isinstance(kind, str) or kind not in _STEPS:
            return f"has a step {str(kind)[:100]!r}, which phi3kit does not support"
        count += 1
        if count > _MOST_STEPS:
            return "has too many steps"
        if kind == "Sequence":
            waiting += [each for value in step.values() if isinstance(value, list) for each in value]
    return None


def _growth(step: Mapping[str, Any]) -> int:
    """How many characters, or tokens, a step makes of one."""
    kind = step.get("type")
    if kind == "Replace":
        pattern = step.get("pattern")
        looked_for = (pattern.get("String") if isinstance(pattern, dict) else None) or " "
        return max(1, -(-len(str(step.get("content"))) // len(str(looked_for))))
    if kind == "Prepend":
        return 1 + len(str(step.get("prepend")))
    if kind == "TemplateProcessing":
        tokens = step.get("special_tokens")
        ids = [len(each["ids"]) for each in tokens.values() if _has_ids(each)] if isinstance(tokens, dict) else []
        pieces = [len(each) for key in ("single", "pair") if isinstance(each := step.get(key), list)]
        return max([1, *pieces]) * max([1, *ids])
    return _GROWTH.get(str(kind), 1)


def _has_ids(token: Any) -> bool:
    return isinstance(token, dict) and isinstance(token.get("ids"), list)
