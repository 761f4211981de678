"""Text diff: two texts drawn as one, with what each has alone.

Knows colours and marks. Does not know what is alike: word_diff does.
"""

from collections.abc import Sequence

import streamlit as st

from phi3kit.formats.word_diff import Span, similarity, word_diff
from phi3kit.ui.shared.literal import literal

_DRAWN_CHARACTERS = 20_000  # more of it makes a browser slow; a click draws the rest
_LINE_BREAK = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
_SPACE = "\N{OPEN BOX}"


def show_diff(before: str, after: str, key: str, *, names: tuple[str, str] = ("A", "B")) -> None:
    """Draw the word diff from `before` to `after`, with a line that says how to read it.

    key: of the button that draws the rest of a long one. names: what the two texts are called.
    """
    spans = word_diff(before, after)
    if all(span.kind == "same" for span in spans):
        st.caption(f"{literal(names[0])} and {literal(names[1])} are identical.")
    else:
        st.caption(
            f":red-background[~~only {literal(names[0])}~~] · :blue-background[only {literal(names[1])}] · "
            f"{similarity(spans):.0%} of the characters in both"
        )
    shown = _cut(spans, _DRAWN_CHARACTERS)
    left = sum(len(span.text) for span in spans) - sum(len(span.text) for span in shown)
    if left and st.checkbox(f"Show the other {left:,} characters too", key=f"{key}_whole"):
        shown, left = list(spans), 0
    st.markdown(diff_markdown(shown) or ":gray[Both are empty.]")
    if left:
        st.caption(f"{left:,} more characters not shown.")


def diff_markdown(spans: Sequence[Span]) -> str:
    """The spans as Markdown that shows their text and nothing else."""
    drawn = []
    for index, span in enumerate(spans):
        # Inside a line a space must stay one at which the line can break.
        inside = 0 < index < len(spans) - 1 and not spans[index - 1].text.endswith(("\n", "\r"))
        drawn.append(literal(span.text, inside=inside) if span.kind == "same" else _changed(span))
    return "".join(drawn)


def _changed(span: Span) -> str:
    """Line by line, because a colour ends at a line break. A change of white space alone is made visible."""
    lines = span.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    drawn = []
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        shown = line if line.strip() else _SPACE * len(line)
        if marked := shown + ("" if last else _LINE_BREAK):
            drawn.append(_coloured(span.kind == "removed", marked))
        if not last:
            drawn.append("\\\n")
    # A hard break needs something after it.
    return "".join([*drawn, "&nbsp;"] if span.text.endswith(("\n", "\r")) else drawn)


def _coloured(removed: bool, text: str) -> str:
    if not removed:
        return f":blue-background[{literal(text)}]"
    # Markdown strikes nothing through that begins or ends with white space.
    inner = text.strip()
    begin = text[: len(text) - len(text.lstrip())]
    end = text[len(begin) + len(inner) :]
    return f":red-background[{literal(begin)}~~{literal(inner)}~~{literal(end)}]"


def _cut(spans: Sequence[Span], characters: int) -> list[Span]:
    shown: list[Span] = []
    for span in spans:
        if characters <= 0:
            break
        shown.append(Span(span.kind, span.text[:characters]))
        characters -= len(span.text)
    return shown
