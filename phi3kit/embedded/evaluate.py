"""Evaluation: the exact-answer rate of the embedded model, as fp16 weights and as an int4 ONNX export.

    python -m phi3kit.embedded.evaluate [--model FOLDER]     examine the weights again

An answer counts only when its text equals the corpus' to the letter, greedy. Knows both engines; trains nothing.
"""

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
import torch
from tokenizers import Tokenizer
from transformers import Phi3ForCausalLM

from phi3kit.chat_template import prompt_ids
from phi3kit.embedded import EVALUATION_FILE, MODEL_FOLDER
from phi3kit.embedded.corpus import LANGUAGES, Language, follow_ups, near_outside, questions
from phi3kit.onnx_export import export_onnx
from phi3kit.records import Message

_BATCH = 32  # the most that onnxruntime-genai takes
_TRAINED_SAMPLE = 1500  # trained phrasings examined per language
_NEAR_SAMPLE = 60  # out-of-scope questions about countries examined per language

# (prompt ids of equal length, longest answer in tokens) -> answers as ids
Engine = Callable[[list[list[int]], int], list[list[int]]]


@dataclass(frozen=True)
class Case:
    """One conversation up to the question, and the answer that is wanted."""

    group: str
    language: Language
    messages: tuple[Message, ...]
    answer: str


def cases() -> list[Case]:
    """Everything that is examined, in the four groups that evaluation.json reports."""
    return list(_cases())


def _cases() -> Iterator[Case]:
    rng = random.Random("evaluation")
    for language in LANGUAGES:
        first = questions(language)
        trained = [question for question in first if not question.withheld]
        for question in rng.sample(trained, min(_TRAINED_SAMPLE, len(trained))):
            yield Case("trained phrasings", language, (Message("user", question.text),), question.answer)
        near = [question for question in near_outside(language) if question.withheld]
        withheld = [question for question in first if question.withheld] + rng.sample(near, _NEAR_SAMPLE)
        for question in withheld:
            group = "withheld out-of-scope" if question.kind == "outside" else "withheld phrasings"
            yield Case(group, language, (Message("user", question.text),), question.answer)
        for follow_up in follow_ups(language):
            if follow_up.withheld:
                asked = Message("user", follow_up.first.text), Message("assistant", follow_up.first.answer)
                messages = (*asked, Message("user", follow_up.text))
                yield Case("withheld follow-ups", language, messages, follow_up.answer)


def evaluate(folder: Path) -> dict[str, Any]:
    """Exact-answer rates by engine, group and language, with the number of questions behind each.

    folder: a model folder as the recipe writes it.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    examined = cases()
    with tempfile.TemporaryDirectory() as temporary:
        onnx_folder = Path(temporary) / "onnx"
        export_onnx(folder, onnx_folder, "int4")
        results = {
            "fp16": _rates(_right_answers(examined, tokenizer, _transformers_engine(folder)), examined),
            "int4_onnx": _rates(_right_answers(examined, tokenizer, _onnx_engine(onnx_folder)), examined),
        }
    return {"questions": _rates([True] * len(examined), examined, count=True), "exact_answer_rate": results}


def _right_answers(examined: Sequence[Case], tokenizer: Tokenizer, engine: Engine) -> list[bool]:
    def encode_raw(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    prompts = [prompt_ids(case.messages, encode_raw, encode_raw) for case in examined]
    # Rows of one length together: no padding, so each row is computed exactly as it would be alone.
    by_length: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt), len(examined[index].answer) > 300].append(index)
    right = [False] * len(examined)
    for indices in by_length.values():
        for start in range(0, len(indices), _BATCH):
            batch = indices[start : start + _BATCH]
            longest = max(len(encode_raw(examined[index].answer)) for index in batch) + 8
            for index, ids in zip(batch, engine([prompts[index] for index in batch], longest), strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True)
                right[index] = text.strip() == examined[index].answer.strip()
    return right


def _transformers_engine(folder: Path) -> Engine:
    # The committed fp16 numbers, computed in float32: batches of float16 take a CPU ten times as long.
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(prompts: list[list[int]], longest: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False
            )
        return [row[ids.shape[1] :].tolist() for row in output]

    return generate


def _onnx_engine(folder: Path) -> Engine:
    model = og.Model(str(folder))
    tokenizer_end = set(json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"])

    def generate(prompts: list[list[int]], longest: int) -> list[list[int]]:
        width = len(prompts[0])
        params = og.GeneratorParams(model)
        params.set_search_options(batch_size=len(prompts), max_length=min(width + longest, 4096), do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(torch.tensor(prompts, dtype=torch.int32).numpy())
        while not generator.is_done():
            generator.generate_next_token()
        rows = [[int(token) for token in generator.get_sequence(row)][width:] for row in range(len(prompts))]
        return [_until(row, tokenizer_end) for row in rows]

    return generate


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[:position] for position, token in enumerate(ids) if token in ends), ids)


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
