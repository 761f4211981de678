"""Prompt flaws: each changes one thing in a correct prompt, and nothing in a prompt without the place for it."""

import pytest

from phi3kit.formats.chat_template import EXAMPLE
from phi3kit.formats.prompt_flaws import flawed
from phi3kit.formats.raw_prompt import parse_raw_prompt

QUESTION = "What is the capital of Spain?"


class TestVariants:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("no line breaks after special tokens", f"<|user|>{QUESTION}<|end|><|assistant|>"),
            ("a line break before <|end|>", f"<|user|>\n{QUESTION}\n<|end|>\n<|assistant|>\n"),
            ("the last <|end|> missing", f"<|user|>\n{QUESTION}\n<|assistant|>\n"),
            ("<|assistant|> missing at the end", f"<|user|>\n{QUESTION}<|end|>\n"),
            ("<|human|> for <|user|>", f"<|human|>\n{QUESTION}<|end|>\n<|assistant|>\n"),
            ("<|endoftext|> before <|assistant|>", f"<|user|>\n{QUESTION}<|end|>\n<|endoftext|><|assistant|>\n"),
        ],
    )
    def test_each_is_what_its_name_says(self, name: str, text: str) -> None:
        assert flawed(EXAMPLE)[name] == text

    def test_each_is_found_by_the_reader_of_raw_prompts(self) -> None:
        assert parse_raw_prompt(EXAMPLE).findings == ()
        assert all(parse_raw_prompt(text).findings for text in flawed(EXAMPLE).values())

    @pytest.mark.parametrize("prompt", ["", "Hello"])
    def test_a_text_without_special_tokens_has_none(self, prompt: str) -> None:
        assert flawed(prompt) == {}

    def test_a_begun_answer_is_not_taken_for_a_missing_one(self) -> None:
        assert "<|assistant|> missing at the end" not in flawed(EXAMPLE + "The capital")
