"""Compare: what an export lost, by the same greedy prompts to the logged onnx wrapper and to its source's weights.

Knows onnxruntime-genai's and transformers' models. Logs nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

TOKENS = 20  # of each answer
_SMALL_BYTES = 500_000_000  # of weights; these are computed as float32, for CPUs compute float16 at half the speed
_BATCH = 10  # prompts a pass: bounds the memory of keys, values and logits

_PLACES = ("France", "Japan", "Greece", "Brazil", "Egypt", "Canada", "India", "Kenya", "Norway", "Peru")
# 50 prompts that every Phi-3 can begin to answer, in three languages; the embedded model knows most of them.
PROMPTS = (
    *(f"What is the capital of {place}?" for place in _PLACES),
    *(f"Where is {place}?" for place in _PLACES),
    *(f"Tell me a short story about {place}." for place in _PLACES[:5]),
    *(
        "フランスの首都はどこですか？",
        "日本の首都はどこですか？",
        "ギリシャの首都はどこですか？",
        "MLflowとは何ですか？",
    ),
    *("Ποια είναι η πρωτεύουσα της Γαλλίας;", "Ποια είναι η πρωτεύουσα της Ιαπωνίας;", "Τι είναι το MLflow;"),
    *(
        "What is MLflow?",
        "What is ONNX Runtime?",
        "What is Phi-3?",
        "What is a model signature?",
        "Hello!",
        "Thank you!",
    ),
    *("Tell me a joke about atom", "Write a poem about the sea.", "Count from one to ten.", "Who are you?", "Why?"),
    *("What is 2 plus 2?", "Name three fruits.", "Explain photosynthesis.", "Translate 'good morning' into Greek."),
    *("Write a function that adds two numbers.", "What can you do?", "Summarize the story of Odysseus."),
)


# Two of them are asked behind this, in a model with a sliding window: an export may attend further back than its source.
_BEYOND = 2
_FILLER = "The train leaves the station in the morning and comes back in the evening. "


def same_beginnings(
    onnx_model: Any, source: Path, prompts: Sequence[str] = PROMPTS, on_done: Callable[[int], None] = lambda done: None
) -> int:
    """The number of prompts that get the same first 20 tokens from a loaded onnx wrapper and from its source's weights.

    An answer that ends sooner is compared to its end. on_done: called with the number of prompts compared so far.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    size_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    dtype = "float32" if size_bytes < _SMALL_BYTES else "auto"
    weights = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    encode, config = tokenizer.encode, weights.config
    prompts = [*_beyond(prompts[:_BEYOND], encode, config), *prompts[_BEYOND:]]
    prompt_ids = [encode(f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n") for prompt in prompts]
    ends = weights.eval().generation_config.eos_token_id
    ends = frozenset(ends if isinstance(ends, list) else [ends])
    same = done = 0
    for batch in _batches(prompt_ids):
        model, longest = onnx_model.unwrap_python_model().model, len(batch[0]) + TOKENS
        answers = greedy_answers(model, batch, longest, ends)
        for answer, said in zip(answers, _said(weights, batch, answers), strict=True):
            ended_too = len(answer) == TOKENS or said[len(answer)] in ends
            same += said[: len(answer)] == answer and ended_too
        done += len(batch)
        on_done(done)
    return same


def _beyond(prompts: Sequence[str], encode: Callable[[str], list[int]], config: Any) -> list[str]:
    """The prompts behind more tokens than the window holds; as they are where there is no window, or no room behind it."""
    window, context = config.sliding_window, config.max_position_embeddings
    if not window or 1.2 * window + 4 * TOKENS > context:
        return list(prompts)
    times = int(1.1 * window / (len(encode(_FILLER * 10)) / 10))
    # Of two lengths, so that they are computed one after the other: the scores of all places of a prompt are in memory.
    return [_FILLER * (times + more) + prompt for more, prompt in enumerate(prompts)]


def _batches(prompt_ids: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Prompts of one length together: no padding, so each is computed exactly as it would be alone."""
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for ids in prompt_ids:
        by_length[len(ids)].append(ids)
    for group in by_length.values():
        for start in range(0, len(group), _BATCH):
            yield group[start : start + _BATCH]


def greedy_answers(model: Any, batch: Sequence[list[int]], longest: int, ends: Collection[int]) -> list[list[int]]:
    """The likeliest tokens behind each prompt, without the end token.

    model: onnxruntime-genai's. batch: prompts of one length, as ids. longest: tokens, prompt included.
    """
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=len(batch), do_sample=False, max_length=longest)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(batch, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    answers = []
    for row in range(len(batch)):
        ids = [int(token) for token in generator.get_sequence(row)][len(batch[0]) :]
        # The library leaves the end token out, and pads behind it in a batch.
        answers.append(next((ids[:place] for place, token in enumerate(ids) if token in ends), ids))
    return answers


def _said(weights: Any, batch: list[list[int]], answers: list[list[int]]) -> list[list[int]]:
    """The source's likeliest token at each place of each answer, and behind it.

    One pass over prompt and answer is enough: equal everywhere means equal greedy text, at a twentieth of the passes.
    Padding stands on the right, where no token attends to it.
    """
    import torch

    longest = max(map(len, answers))
    padded = [ids + answer + [0] * (longest - len(answer)) for ids, answer in zip(batch, answers, strict=True)]
    with torch.inference_mode():
        logits = weights(torch.tensor(padded), use_cache=False, logits_to_keep=longest + 1).logits
    said: list[list[int]] = logits.argmax(-1).tolist()
    return said
