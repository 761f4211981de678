"""Evaluation: the exact-answer rate of the embedded model, as fp16 weights and as an int4 ONNX export.

    python -m phi3kit.embedded.evaluate [--model FOLDER]     examine the weights again

A greedy answer counts only when its text equals the corpus' to the letter. Knows both engines. Trains nothing.
"""

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
import torch
from tokenizers import Tokenizer
from transformers import Phi3ForCausalLM

from phi3kit.core.embedded_model import EVALUATION_FILE, MODEL_FOLDER
from phi3kit.core.records import Message
from phi3kit.embedded.corpus import LANGUAGES, Language, follow_ups, near_outside, questions
from phi3kit.embedded.tokenizer import CONTEXT_TOKENS
from phi3kit.formats.chat_template import prompt_ids
from phi3kit.packaging.export import export_onnx
from phi3kit.packaging.wrappers.compare import greedy_answers

_BATCH = 32  # the most that onnxruntime-genai takes
_TRAINED_SAMPLE = 1500  # trained pairs of subject and form examined per language
_LONG_ANSWER = 150  # tokens; batched apart, because a batch runs to its longest answer
_NEAR_SAMPLE = 60  # out-of-scope questions about countries examined per language


@dataclass(frozen=True)
class Case:
    """One conversation up to the question, and the wanted answer."""

    group: str
    language: Language
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Wanted:
    """A case as token ids; the answer's last one is the end token."""

    prompt: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.answer


def cases() -> list[Case]:
    """All cases, in the four groups that evaluation.json reports."""
    return list(_cases())


def _cases() -> Iterator[Case]:
    rng = random.Random("evaluation")
    for language in LANGUAGES:
        first = questions(language)
        trained = [question for question in first if not question.withheld]
        for question in rng.sample(trained, min(_TRAINED_SAMPLE, len(trained))):
            yield Case("trained pairs", language, (Message("user", question.text),), question.answer)
        near = [question for question in near_outside(language) if question.withheld]
        withheld = [question for question in first if question.withheld] + rng.sample(near, _NEAR_SAMPLE)
        for question in withheld:
            group = "withheld out-of-scope" if question.kind == "outside" else "withheld pairs"
            yield Case(group, language, (Message("user", question.text),), question.answer)
        for follow_up in follow_ups(language):
            if follow_up.withheld:
                before = Message("user", follow_up.first.text), Message("assistant", follow_up.first.answer)
                messages = (*before, Message("user", follow_up.text))
                yield Case("withheld follow-ups", language, messages, follow_up.answer)


def evaluate(folder: Path) -> dict[str, Any]:
    """Exact-answer rates by engine, group and language, and the number of questions of each.

    folder: a model folder as the recipe writes it.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    examined = cases()
    wanted = [_as_ids(case, tokenizer) for case in examined]
    with tempfile.TemporaryDirectory() as temporary:
        onnx_folder = Path(temporary) / "onnx"
        export_onnx(folder, onnx_folder, "int4")
        results = {
            "fp16": _rates(_right_in_transformers(folder, wanted), examined),
            "int4_onnx": _rates(_right_in_onnx(onnx_folder, wanted), examined),
        }
    return {"questions": _rates([True] * len(examined), examined, count=True), "exact_answer_rate": results}


def _as_ids(case: Case, tokenizer: Tokenizer) -> Wanted:
    def encode_raw(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Wanted(prompt_ids(case.messages, encode_raw, encode_raw), encode_raw(f"{case.answer.strip()}<|end|>"))


def _right_in_transformers(folder: Path, wanted: Sequence[Wanted]) -> list[bool]:
    """Whether each token of an answer is the likeliest one behind those before it: then greedy writes that answer."""
    # The committed fp16 numbers in float32: a CPU takes ten times as long for batches of float16.
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = [False] * len(wanted)
    by_length = sorted(range(len(wanted)), key=lambda index: len(wanted[index].ids))
    for start in range(0, len(by_length), _BATCH):
        batch = [(index, wanted[index]) for index in by_length[start : start + _BATCH]]
        width = len(batch[-1][1].ids)
        # Padded at the end, where no token of the answer attends.
        ids = torch.tensor([each.ids + [0] * (width - len(each.ids)) for _, each in batch])
        with torch.inference_mode():
            likeliest = model(input_ids=ids, use_cache=False).logits.argmax(dim=-1)
        for row, (index, each) in zip(likeliest.tolist(), batch, strict=True):
            right[index] = row[len(each.prompt) - 1 : len(each.ids) - 1] == each.answer
    return right


def _right_in_onnx(folder: Path, wanted: Sequence[Wanted]) -> list[bool]:
    """Whether greedy generation writes each answer."""
    model = og.Model(str(folder))
    ends = set(json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["eos_token_id"])
    # Prompts of one length together: no padding, so each row is computed exactly as it would be alone.
    by_length: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, each in enumerate(wanted):
        by_length[len(each.prompt), len(each.answer) > _LONG_ANSWER].append(index)
    right = [False] * len(wanted)
    for indices in by_length.values():
        for start in range(0, len(indices), _BATCH):
            batch = [wanted[index] for index in indices[start : start + _BATCH]]
            longest = max(len(each.ids) for each in batch) + 1  # so that an answer that does not end is seen
            prompts = [each.prompt for each in batch]
            answers = greedy_answers(model, prompts, min(longest, CONTEXT_TOKENS), ends)
            for index, each, answer in zip(indices[start:], batch, answers, strict=False):
                right[index] = answer == each.answer[:-1]
    return right


def _rates(right: Sequence[bool], examined: Sequence[Case], *, count: bool = False) -> dict[str, dict[str, float]]:
    tally: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for case, is_right in zip(examined, right, strict=True):
        for language in (case.language, "all"):
            tally[case.group][language].append(is_right)
    return {
        group: {
            language: len(values) if count else round(sum(values) / len(values), 4)
            for language, values in languages.items()
        }
        for group, languages in tally.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Examine the embedded model on its corpus.")
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    arguments = parser.parse_args()
    report = json.loads(EVALUATION_FILE.read_text("utf-8")) | evaluate(arguments.model)
    EVALUATION_FILE.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
