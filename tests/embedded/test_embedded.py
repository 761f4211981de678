"""The embedded model: what its corpus holds, what its examination says, and that both tokenizers agree."""

import json
import random
from collections import Counter

import onnxruntime_genai as og
import pytest
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import EVALUATION_FILE, MODEL_FOLDER
from phi3kit.embedded import corpus
from phi3kit.embedded.conversations import ConversationSource
from phi3kit.tracking.logged_models import resolve
from tests.conftest import CHAPTER_PROMPT, Built

LANGUAGES = corpus.LANGUAGES
REPORT = json.loads(EVALUATION_FILE.read_text("utf-8"))
WANTED = {
    "trained pairs": 0.99,
    "withheld pairs": 0.95,
    "withheld follow-ups": 0.90,
    "withheld out-of-scope": 0.90,
}


def hostile_strings(count: int = 500, seed: int = 7) -> list[str]:
    """Emoji, mixed scripts, runs of white space, look-alikes of special tokens, very long words."""
    rng = random.Random(seed)
    pools = [
        "abc XYZ 0123456789", " \t\n  ", "😀👍🏽🇯🇵👩‍🚀", "日本語カタカナひらがなー", "Ελληνικά άέήίόύώ", "!?.,;:«»「」、。",
        "кириллица", "한국어", "المغرب", "\u200b\u200d\ufeff", "é́e\u0301", "ﬁ𝔘①",
    ]  # fmt: skip
    tokens = [
        "<|end|>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|endoftext|>",
        "<|End|>",
        "<|end",
        "|>",
        "<s>",
        "</s>",
    ]
    fixed = [
        "x" * 4000,
        "あ" * 4000,
        "ω" * 4000,
        "😀" * 1000,
        " " * 300,
        "\n" * 300,
        "a  b   c    d",
        "<0x41>",
        "<unk>",
        " x ",
        CHAPTER_PROMPT,
    ]
    made = [
        "".join(
            rng.choice(tokens) if rng.random() < 0.06 else rng.choice(rng.choice(pools))
            for _ in range(rng.choice((1, 3, 10, 40, 120)))
        )
        for _ in range(count - len(fixed))
    ]
    return fixed + made


class TestCorpus:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_capital_is_asked_in_eight_or_more_phrasings(self, language: corpus.Language) -> None:
        phrasings = Counter(q.subject for q in corpus.questions(language) if q.kind == "capital")
        assert len(phrasings) == 197
        assert min(phrasings.values()) >= 8

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_more_than_120_topics_have_four_or_more_phrasings(self, language: corpus.Language) -> None:
        phrasings = Counter(q.subject for q in corpus.questions(language) if q.kind == "topic")
        assert len(phrasings) >= 120
        assert min(phrasings.values()) >= 4

    def test_there_are_thirty_long_answers_or_more(self) -> None:
        tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
        answers = {q.answer for language in LANGUAGES for q in corpus.questions(language) if len(q.answer) > 250}
        assert sum(len(tokenizer.encode(answer).ids) >= 150 for answer in answers) >= 30

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_there_are_200_out_of_scope_questions_or_more(self, language: corpus.Language) -> None:
        outside = [q for q in corpus.questions(language) if q.kind == "outside"]
        assert len(outside) >= 200
        assert {q.answer for q in outside} == {corpus.language_file(language)["cannot"]}

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_no_question_has_two_answers(self, language: corpus.Language) -> None:
        answers: dict[str, set[str]] = {}
        for question in corpus.questions(language):
            answers.setdefault(question.text.lower(), set()).add(question.answer)
        assert [text for text, found in answers.items() if len(found) > 1] == []

    def test_training_never_draws_what_is_withheld(self) -> None:
        withheld = {(q.language, q.text) for language in LANGUAGES for q in corpus.questions(language) if q.withheld}
        taught = {q.text for language in LANGUAGES for q in corpus.questions(language) if not q.withheld}
        source = ConversationSource(seed=5)
        drawn = {message.content for _ in range(4000) for message in source.draw() if message.role == "user"}
        assert {text for _, text in withheld} & drawn - taught == set()

    def test_the_same_seed_draws_the_same_conversations(self) -> None:
        first, second = ConversationSource(seed=9), ConversationSource(seed=9)
        assert [first.draw() for _ in range(50)] == [second.draw() for _ in range(50)]


class TestEvaluation:
    @pytest.mark.parametrize("engine", ["fp16", "int4_onnx"])
    @pytest.mark.parametrize("group", WANTED)
    def test_the_committed_weights_reach(self, engine: str, group: str) -> None:
        rates = REPORT["exact_answer_rate"][engine][group]
        assert set(rates) == {"all", *LANGUAGES}
        assert min(rates.values()) >= WANTED[group]  # in every language

    def test_hundreds_of_withheld_questions_stand_behind_each_rate(self) -> None:
        assert all(REPORT["questions"][group]["all"] >= 250 for group in WANTED)

    def test_the_weights_are_small_enough_to_commit(self) -> None:
        assert (MODEL_FOLDER / "model.safetensors").stat().st_size <= 16e6


@pytest.fixture(scope="module")
def both(built: Built) -> tuple[Tokenizer, og.Tokenizer]:
    """transformers' tokenizer and onnxruntime-genai's own."""
    folder = resolve(built.uri("onnx"), built.settings).folder
    (exported,) = folder.glob("artifacts/*/genai_config.json")
    return Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json")), og.Tokenizer(og.Model(str(exported.parent)))


class TestTokenizers:
    """Ids of transformers' tokenizer against onnxruntime-genai's own, from the exported model."""

    def test_ids_are_equal_on_the_whole_corpus(self, both: tuple[Tokenizer, og.Tokenizer]) -> None:
        ours, theirs = both
        different = [
            text
            for text in set(corpus.texts())
            if ours.encode(text, add_special_tokens=False).ids != [int(i) for i in theirs.encode(text)]
        ]
        assert different == []

    def test_ids_are_equal_on_500_hostile_strings(self, both: tuple[Tokenizer, og.Tokenizer]) -> None:
        ours, theirs = both
        strings = hostile_strings(500)
        assert len(strings) == 500
        different = [
            text
            for text in strings
            if ours.encode(text, add_special_tokens=False).ids != [int(i) for i in theirs.encode(text)]
        ]
        assert different == []

    def test_transformers_loads_the_same_tokenizer(self, both: tuple[Tokenizer, og.Tokenizer]) -> None:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(MODEL_FOLDER)
        for text in hostile_strings(100):
            assert loaded.encode(text, add_special_tokens=False) == both[0].encode(text, add_special_tokens=False).ids

    def test_the_chapters_prompt_is_the_template_without_newlines(self, both: tuple[Tokenizer, og.Tokenizer]) -> None:
        spaced = CHAPTER_PROMPT.replace("|>", "|>\n")
        assert both[0].encode(spaced).ids == both[0].encode(CHAPTER_PROMPT).ids
