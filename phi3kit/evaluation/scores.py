"""Scores: how close an answer is to the expected one; the same two texts always score the same.

Knows texts. Knows neither models nor MLflow.
"""

import re
from collections import Counter

SCORES = ("exact", "contains", "word_f1")  # from 0 to 1, more is better

# A word, or one character of a script that writes none apart.
_WORDS = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]|[^\W぀-ヿ㐀-䶿一-鿿豈-﫿]+")


def exact(answer: str, expected: str) -> float:
    """1 when both are the same to the letter, white space around them aside."""
    return float(answer.strip() == expected.strip())


def contains(answer: str, expected: str) -> float:
    """1 when the answer contains the expected one, case and width of white space aside."""
    return float(_plain(expected) in _plain(answer))


def word_f1(answer: str, expected: str) -> float:
    """The harmonic mean of two shares: of the expected words that were said, and of the said words that were expected."""
    said, wanted = Counter(words(answer)), Counter(words(expected))
    common = (said & wanted).total()
    if not said or not wanted:
        return float(said == wanted)
    return 2 * common / (said.total() + wanted.total())


def words(text: str) -> list[str]:
    """The words of a text in lower case; Japanese and Chinese characters one by one."""
    return _WORDS.findall(text.casefold())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
