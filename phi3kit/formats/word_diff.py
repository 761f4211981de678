"""Word diff: which words of two texts are the same, and which are only in one of them.

A word is a run of letters and digits. In scripts without spaces (Japanese, Chinese, Thai) each character is a word, and
so is each other sign. Draws nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

SpanKind = Literal["same", "removed", "added"]

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"(?P<word>[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]|)(?P<space>\s*)")
# difflib takes quadratic time on long texts with little in common: above this they are compared line by line, and above
# the other bound not at all.
_MOST_PAIRS = 4_000_000  # words of the one times words of the other
_MOST_LINE_PAIRS = 500_000  # of equal lines, each in one of the texts


@dataclass(frozen=True)
class Span:
    """A stretch of text that is in both texts, only in the first (removed) or only in the second (added)."""

    kind: SpanKind
    text: str


@dataclass(frozen=True)
class _Word:
    """A word and the white space after it, which is not compared."""

    word: str
    space: str


def word_diff(before: str, after: str) -> tuple[Span, ...]:
    """The spans that lead from `before` to `after`; neighbours differ in kind.

    Same and removed spans together are `before`, same and added ones `after`, to the character.
    """
    a, b = _words(before), _words(after)
    begin, end = _common_ends(a, b)
    inner_a, inner_b = a[begin : len(a) - end], b[begin : len(b) - end]
    if len(inner_a) * len(inner_b) > _MOST_PAIRS:
        inner = _line_spans(_text(inner_a), _text(inner_b))
    else:
        inner = _word_spans(inner_a, inner_b)
    head, tail = zip(a[:begin], b[:begin], strict=True), zip(a[len(a) - end :], b[len(b) - end :], strict=True)
    return tuple(_merged([*_alike(head), *inner, *_alike(tail)]))


def similarity(spans: Sequence[Span]) -> float:
    """The share of the two texts' characters that is in both, 0 to 1; 1 for two empty texts."""
    same = sum(2 * len(span.text) for span in spans if span.kind == "same")
    total = same + sum(len(span.text) for span in spans if span.kind != "same")
    return same / total if total else 1.0


def _words(text: str) -> list[_Word]:
    return [_Word(found["word"], found["space"]) for found in _PIECE.finditer(text) if found[0]]


def _text(words: Sequence[_Word]) -> str:
    return "".join(each.word + each.space for each in words)


def _common_ends(a: list[_Word], b: list[_Word]) -> tuple[int, int]:
    """Lengths of the common prefix and, without it, of the common suffix, in words."""
    shorter = min(len(a), len(b))
    begin = next((at for at in range(shorter) if a[at].word != b[at].word), shorter)
    rest = shorter - begin
    end = next((at for at in range(rest) if a[-1 - at].word != b[-1 - at].word), rest)
    return begin, end


def _word_spans(a: list[_Word], b: list[_Word]) -> Iterator[Span]:
    matcher = SequenceMatcher(None, [each.word for each in a], [each.word for each in b], autojunk=False)
    for tag, a_begin, a_end, b_begin, b_end in matcher.get_opcodes():
        if tag == "equal":
            yield from _alike(zip(a[a_begin:a_end], b[b_begin:b_end], strict=True))
        else:
            yield from _replaced(_text(a[a_begin:a_end]), _text(b[b_begin:b_end]))


def _replaced(before: str, after: str) -> Iterator[Span]:
    """A replaced stretch, without the white space that both sides end with."""
    space = before[len(before.rstrip()) :]
    if not before or not after or space != after[len(after.rstrip()) :]:
        space = ""
    yield Span("removed", before.removesuffix(space))
    yield Span("added", after.removesuffix(space))
    yield Span("same", space)


def _line_spans(a: str, b: str) -> Iterator[Span]:
    lines_a, lines_b = a.splitlines(keepends=True), b.splitlines(keepends=True)
    if _line_pairs(lines_a, lines_b) > _MOST_LINE_PAIRS:
        yield from (Span("removed", a), Span("added", b))
        return
    matcher = SequenceMatcher(None, lines_a, lines_b)  # autojunk: frequent lines must not make it slow
    for tag, a_begin, a_end, b_begin, b_end in matcher.get_opcodes():
        if tag == "equal":
            yield Span("same", "".join(lines_a[a_begin:a_end]))
        else:
            yield Span("removed", "".join(lines_a[a_begin:a_end]))
            yield Span("added", "".join(lines_b[b_begin:b_end]))


def _line_pairs(a: list[str], b: list[str]) -> int:
    """The pairs of equal lines that difflib looks at; of those in a hundredth of a long text it looks at none."""
    in_a, in_b = Counter(a), Counter(b)
    most = len(b) // 100 + 1 if len(b) >= 200 else len(b)
    return sum(count * in_a[line] for line, count in in_b.items() if count <= most)


def _alike(pairs: "zip[tuple[_Word, _Word]]") -> Iterator[Span]:
    """Equal words; the white space after them may differ."""
    for a, b in pairs:
        if a.space == b.space:
            yield Span("same", a.word + a.space)
        else:
            yield Span("same", a.word)
            yield Span("removed", a.space)
            yield Span("added", b.space)


def _merged(spans: Sequence[Span]) -> Iterator[Span]:
    """Without empty spans, and with neighbours of one kind joined."""
    for kind, group in groupby((span for span in spans if span.text), key=lambda span: span.kind):
        yield Span(kind, "".join(span.text for span in group))
