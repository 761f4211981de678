"""The embedded model's tokenizer: Phi-3's kind (Llama-style BPE with byte fallback), learned from the corpus.

Knows text and special tokens. Knows no questions. Trains no weights.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from phi3kit.formats.chat_template import JINJA_TEMPLATE

# Phi-3's own, in the order of their ids. The role tokens swallow white space behind them (rstrip): a prompt with and
# without newlines gives the same ids, the chapter's raw prompt too.
SPECIAL_TOKENS = (
    ("<|endoftext|>", False),
    ("<|assistant|>", True),
    ("<|end|>", True),
    ("<|system|>", True),
    ("<|user|>", True),
)
CONTEXT_TOKENS = 4096

# Merges are learned inside runs of one script. Without the split at punctuation onnxruntime-genai and transformers
# give different ids for a text; without the split at Japanese scripts a name merges with its particle.
_RUNS = Regex(r"\p{Han}+|\p{Hiragana}+|[\p{Katakana}ー]+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer of exactly `vocab_size` entries, special tokens included."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(_RUNS, behavior="isolated"),
        ]
    )
    bytes_and_marks = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), special_tokens=bytes_and_marks, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Phi-3's form: no pre-tokenizer, and a normalizer that writes spaces as U+2581. The merges keep their boundaries.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if not token["content"].startswith("<0x")
    ]  # byte tokens are ordinary vocabulary: a typed "<0x41>" is six characters, not the letter A
    state["pre_tokenizer"] = None
    # onnxruntime-genai never joins a newline to a word: merges that do (of list items) must go.
    state["model"]["merges"] = [
        merge for merge in state["model"]["merges"] if "\n" not in (text := "".join(merge)) or not text.strip("\n")
    ]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, rstrip=rstrip, special=True) for text, rstrip in SPECIAL_TOKENS]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers and onnxruntime-genai read them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": JINJA_TEMPLATE,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(text)): {
                "content": text,
                "lstrip": False,
                "normalized": False,
                "rstrip": rstrip,
                "single_word": False,
                "special": True,
            }
            for text, rstrip in (("<unk>", False), ("<s>", False), ("</s>", False), *SPECIAL_TOKENS)
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
