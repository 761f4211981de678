"""Safe Markdown against CommonMark: a parser of its own finds no image and no HTML in what is made of random texts."""

import random
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from phi3kit.formats.safe_markdown import for_files, for_pages

IMAGE, TAG = "![x](/y)", "<img src=/y>"
# Each line is a beginning and some pieces: what opens, ends, hides or continues a block or a span.
BEGINNINGS = [
    "", "", "", "", " ", "  ", "   ", "    ", "     ", "      ", "\t", " \t", "\xa0", "\u3000", "> ", ">", "> > ", "- ", "-\t", "1. ", "10. ",
    "1.\t", "- - ", "- > ", "> - ", "# ", "[a]: ", "[`]: ", "[^`]: ", "| ", "-     ", "+ 1. ",
]  # fmt: skip
PIECES = [
    "`", "``", "```", "````", "~~~", "~~~~", "[a](", "[a][", "[^", "]", ")", "(", "'", '"', "<", ">", "\\", "\\\\", " ", "\t", "\xa0", "\x0b",
    "|", "a", "!", "/x", "https://e.example/", "www.e.example", "[a]", "[a](/x '", "<a title='", "<!--", "-->", "<http://a", "\\`",
]  # fmt: skip
ENDS = ["\n", "\n", "\n", "\n", "\n\n", "\r\n", "\r", "\n \n"]
RULES = ["|--|--|", "---", "===", "```", "```", "~~~", "    ```", "  ```", "```\xa0", "\u3000```"]
JUDGES = {
    "CommonMark": MarkdownIt("commonmark"),
    "with tables": MarkdownIt("commonmark").enable(["table", "strikethrough"]),
}


def texts(seed: int, count: int) -> Iterator[str]:
    """Random short texts, each of a few pieces that come again: else hardly any backtick would find another one."""
    draw = random.Random(seed)
    for _ in range(count):
        beginnings, pieces = draw.sample(BEGINNINGS, 3), [IMAGE, TAG, *draw.sample(PIECES, 4)]
        rules = draw.sample(RULES, 2)
        lines = (_line(draw, beginnings, pieces, rules) for _ in range(draw.randint(1, 7)))
        yield "".join(each + draw.choice(ENDS) for each in lines)


def _line(draw: random.Random, beginnings: list[str], pieces: list[str], rules: list[str]) -> str:
    if draw.random() < 0.3:
        return draw.choice(["", draw.choice(beginnings)]) + draw.choice(rules)
    return draw.choice(beginnings) + "".join(draw.choices(pieces, k=draw.randint(0, 6)))


def tokens(judge: MarkdownIt, text: str) -> Iterator[Token]:
    """All tokens, those within paragraphs too."""
    for token in judge.parse(text):
        yield token
        yield from token.children or ()


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
@pytest.mark.parametrize("seed", range(3))
class TestRandomTexts:
    def test_pages_have_no_image(self, judge: MarkdownIt, seed: int) -> None:
        for text in texts(seed, 2_000):
            assert [each.type for each in tokens(judge, for_pages(text)) if each.type == "image"] == [], repr(text)

    def test_files_have_neither_image_nor_html(self, judge: MarkdownIt, seed: int) -> None:
        unsafe = ("image", "html_block", "html_inline")
        for text in texts(seed, 2_000):
            assert [each.type for each in tokens(judge, for_files(text)) if each.type in unsafe] == [], repr(text)
