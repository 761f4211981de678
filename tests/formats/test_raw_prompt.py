"""Raw prompts: their messages and findings, and whether tokenizer and model behave as the findings say."""

import pytest
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import Endpoint, Message
from phi3kit.endpoints import client
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.formats.chat_template import CHAPTER_EXAMPLE, EXAMPLE, raw_prompt
from phi3kit.formats.raw_prompt import ParsedPrompt, parse_raw_prompt, place
from tests.conftest import Built
from tests.support.actors import admin

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
QUESTION = "What is the capital of Spain?"


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def found(parsed: ParsedPrompt) -> list[tuple[str, str]]:
    return [(finding.weight, finding.what) for finding in parsed.findings]


class TestMessages:
    @pytest.mark.parametrize(
        "messages",
        [
            [Message("user", "Hi")],
            [
                Message("system", "Be brief."),
                Message("user", "a\nb"),
                Message("assistant", "Ja."),
                Message("user", "日本?"),
            ],
            [Message("user", "<script>alert(1)</script> $x$ **b** `c` ![i](u)")],
        ],
        ids=len,
    )
    def test_a_rendered_conversation_comes_back_without_a_finding(self, messages: list[Message]) -> None:
        parsed = parse_raw_prompt(raw_prompt(messages))
        assert parsed == ParsedPrompt(tuple(messages), "", ())

    def test_the_chapters_prompt_is_read_and_its_missing_line_breaks_are_harmless(self) -> None:
        parsed = parse_raw_prompt(CHAPTER_EXAMPLE)
        assert parsed.messages == (
            Message("system", "You are a stand-up comedian."),
            Message("user", "Tell me a joke about atom"),
        )
        assert found(parsed) == [("harmless", "No line break after 5 special tokens.")]

    def test_a_begun_answer_is_told_from_an_opened_one(self) -> None:
        assert parse_raw_prompt(EXAMPLE + "The capital").begun_answer == "The capital"
        assert parse_raw_prompt(EXAMPLE).begun_answer == ""
        assert parse_raw_prompt("<|user|>\nHi<|end|>\n").begun_answer is None

    def test_nothing_is_nothing(self) -> None:
        assert parse_raw_prompt("") == ParsedPrompt((), None, ())

    def test_a_text_of_a_hundred_thousand_characters_is_kept_whole(self) -> None:
        text = "<b>é</b> " * 12_000
        assert parse_raw_prompt(raw_prompt([Message("user", text + ".")])).messages == (Message("user", text + "."),)


class TestFindings:
    @pytest.mark.parametrize(
        ("text", "weight", "what"),
        [
            ("<|user|>\nHi\n<|assistant|>\n", "breaks", "This user turn has no <|end|>."),
            ("<|user|>\nHi<|end|>\n", "breaks", "The answer is not opened: <|assistant|> is missing at the end."),
            ("<|user|>\nHi\n<|end|>\n<|assistant|>\n", "changes", "There is white space before this <|end|>."),
            (
                "<|user|>\n\n\nHi<|end|>\n<|assistant|>\n",
                "harmless",
                "More than one line break after one special token.",
            ),
            (
                "Hello\n<|user|>\nHi<|end|>\n<|assistant|>\n",
                "breaks",
                "There is text before the first turn, outside any turn.",
            ),
            ("<|user|>\nHi<|end|>\nBye<|assistant|>\n", "breaks", "There is text after <|end|>, outside any turn."),
            (
                "\n<|user|>\nHi<|end|>\n<|assistant|>\n",
                "changes",
                "There is white space before the first special token.",
            ),
            ("<|end|>\n<|assistant|>\n", "breaks", "This <|end|> closes nothing: no turn is open."),
            ("<|user|>\n<|end|>\n<|assistant|>\n", "changes", "This user turn is empty."),
            ("<|user|>\nHi<|endoftext|><|end|>\n<|assistant|>\n", "breaks", "The prompt contains <|endoftext|>."),
            (
                "<|user|>\n<|im_start|>Hi<|end|>\n<|assistant|>\n",
                "breaks",
                "<|im_start|> is not a special token of Phi-3.",
            ),
            ("<|user|>\n<user>Hi<|end|>\n<|assistant|>\n", "breaks", "<user> is not a special token of Phi-3."),
            ("<|user|>\na<|end|>\n<|user|>\nb<|end|>\n<|assistant|>\n", "changes", "Two user turns follow each other."),
            (
                "<|user|>\na<|end|>\n<|system|>\nb<|end|>\n<|assistant|>\n",
                "changes",
                "A system turn follows another turn.",
            ),
            ("<|user|>\na<|end|>\n<|assistant|>\nThe ", "changes", "The begun answer ends in white space."),
        ],
    )
    def test_each_flaw_is_named_once_with_its_effect_and_cure(self, text: str, weight: str, what: str) -> None:
        parsed = parse_raw_prompt(text)
        assert found(parsed) == [(weight, what)]
        (finding,) = parsed.findings
        assert finding.effect
        assert bool(finding.fix) == (weight != "harmless")

    def test_an_unknown_role_says_all_that_follows_from_it(self) -> None:
        parsed = parse_raw_prompt("<|human|>\nHi<|end|>\n<|assistant|>\n")
        assert [what for _, what in found(parsed)] == [
            "There is text before the first turn, outside any turn.",
            "<|human|> is not a special token of Phi-3.",
            "This <|end|> closes nothing: no turn is open.",
        ]
        assert parsed.messages == ()

    def test_plain_text_is_in_no_turn_and_gets_no_answer_opened(self) -> None:
        assert [weight for weight, _ in found(parse_raw_prompt("Hello"))] == ["breaks", "breaks"]

    def test_a_finding_points_at_its_place(self) -> None:
        text = "<|user|>\nHi<|end|>\nBye<|assistant|>\n"
        (finding,) = parse_raw_prompt(text).findings
        assert place(text, finding.at) == (3, 1)
        assert text[finding.at :].startswith("Bye")


class TestTheTokenizer:
    """What the findings say of tokens, against the tokenizer itself."""

    @pytest.mark.parametrize(
        "text",
        [
            "<|user|>Hi<|end|><|assistant|>",
            "<|user|>\n\n  Hi<|end|>\n\n<|assistant|>\n\n",
            "<|user|>\nHi<|end|>\n<|assistant|>",
        ],
    )
    def test_what_is_called_harmless_has_the_same_tokens(self, text: str) -> None:
        assert {finding.weight for finding in parse_raw_prompt(text).findings} <= {"harmless"}
        assert ids(text) == ids("<|user|>\nHi<|end|>\n<|assistant|>\n")

    @pytest.mark.parametrize("space", ["\n", " ", "\n\n", "\t"])
    def test_white_space_before_the_end_is_a_token(self, space: str) -> None:
        assert len(ids(f"<|user|>\nHi{space}<|end|>")) > len(ids("<|user|>\nHi<|end|>"))

    @pytest.mark.parametrize("text", ["<|human|>", "<|im_start|>", "<user>", "[INST]"])
    def test_a_lookalike_is_cut_into_pieces(self, text: str) -> None:
        assert len(ids(text)) > 2


class TestTheModel:
    """What the findings say of the model, as far as the embedded one confirms it."""

    def answer(self, built: Built, endpoint: Endpoint, prompt: str) -> str:
        return client.ask(
            endpoint, Request(prompt, max_tokens=40), TurnContext(admin("tests"), "api"), built.settings
        ).text

    def test_harmless_flaws_change_no_answer(self, built: Built, endpoint: Endpoint) -> None:
        for prompt in (f"<|user|>{QUESTION}<|end|><|assistant|>", f"<|user|>\n\n {QUESTION}<|end|>\n\n<|assistant|>\n"):
            assert self.answer(built, endpoint, prompt) == "The capital of Spain is Madrid."

    def test_without_an_opened_answer_there_is_no_answer(self, built: Built, endpoint: Endpoint) -> None:
        assert "Madrid" not in self.answer(built, endpoint, f"<|user|>\n{QUESTION}<|end|>\n")

    def test_a_begun_answer_goes_on(self, built: Built, endpoint: Endpoint) -> None:
        assert self.answer(
            built, endpoint, f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\nThe capital of Spain"
        ).endswith("is Madrid.")
