"""Code lines: which lines of a Markdown text are code, and whether that is certain.

Knows CommonMark's fences, indentation, lists and quotes, and where they leave its reading open. Knows no spans.
"""

import re
from collections.abc import Iterator
from typing import Literal

# "perhaps" is code by its indentation or inside a list or a quote: CommonMark may see none there, or its end elsewhere.
# "open" is text in whose paragraph a code span may have begun on a "perhaps" line.
Kind = Literal["text", "open", "code", "perhaps"]

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as CommonMark ends a line, which str.splitlines does not
_SPACE = " \t\r\n"  # all that CommonMark passes over around a fence; str.strip takes Unicode's white space
_START = re.compile(r"((?:[ \t]*>)*)([ \t]*)((?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)")  # quotes, indentation, list markers
_FENCE = re.compile(r"(?:(`{3,})[^`]*|(~{3,}).*)$")
_FENCE_IN_CONTAINERS = re.compile(r"(?:[ \t>]|(?:[-*+]|\d{1,9}[.)])(?=[ \t]))*(?:`{3,}[^`]*|~{3,}.*)$")
_BLOCKS = ("<", "$$", ":::")  # of HTML; of formulas and of directives, which Streamlit knows besides
_MOST = 3  # columns that a fence may be indented by within its list or quote


def kinds_of_lines(text: str) -> Iterator[tuple[str, Kind]]:
    """Each line and what it is."""
    reading = _Reading()
    for line in LINE.findall(text):
        yield line, reading.kind_of(line)


class _Reading:
    """What is known of a text before its next line.

    A fence opens for certain where at most three columns stand before it: in whatever list it is. One that opens
    elsewhere ends at the latest with its list or quote, so at a line that begins in the first column. A line in
    between at which CommonMark may open or close another fence, or open another block that reaches over fences,
    leaves all that follows uncertain.
    """

    def __init__(self) -> None:
        self._fence, self._quoted, self._begun_at = "", False, 0  # of the fence that is open
        self._item, self._free = 0, True  # columns of the list's item; whether indented code may begin
        self._sure, self._lost = True, False  # CommonMark has the same fence open, or none; may never be told again
        self._open = False  # a code span may have begun on a "perhaps" line of this paragraph

    def kind_of(self, line: str) -> Kind:
        """What the next line is."""
        kind = self._kind_of(line)
        if kind == "perhaps":
            self._open = True
        if not line.strip(_SPACE):
            self._open = False
        return "open" if kind == "text" and self._open else kind

    def _kind_of(self, line: str) -> Kind:
        start = _START.match(line)
        assert start is not None  # it matches nothing, too
        quotes, width, markers, rest = start[1], _columns(start[2]), len(start[3]), line[start.end() :]
        blank = not line.strip(_SPACE)
        opens_block = rest.startswith(_BLOCKS) or _FENCE_IN_CONTAINERS.match(line) is not None
        if not self._sure and not self._lost and not quotes and not blank:
            if width == 0:
                self._sure, self._fence = True, ""
            elif width <= _MOST and not markers and opens_block:
                self._lost = True
        if self._fence and self._sure and (kind := self._in_certain_fence(line, blank)):
            return kind
        empty = not rest.strip(_SPACE) and not markers
        if self._fence and (not self._quoted or quotes) and (empty or width >= self._item):
            self._close(line[start.end(1) :])
            return "perhaps"
        self._fence = ""
        if not empty and not markers and self._free and width >= self._item + 4:
            self._sure = self._sure and not opens_block
            return "perhaps"
        if not empty:
            self._item = width + markers if markers else min(self._item, width)
        self._free = empty
        if quotes or markers or width > _MOST:
            self._sure = self._sure and not _FENCE_IN_CONTAINERS.match(line)
        if not (opened := _FENCE.match(rest)) or not (markers or width < self._item + 4):
            return "text"
        self._fence, self._quoted, self._begun_at = opened[1] or opened[2], bool(quotes), width
        if "|" in rest:  # some take it for the head of a table
            self._sure, self._lost = False, True
        return "code" if self._sure else "perhaps"

    def _in_certain_fence(self, line: str, blank: bool) -> Kind | None:
        """None: nothing is certain any more."""
        width = _columns(line[: len(line) - len(line.lstrip(" \t"))])
        outside = not blank and width < self._begun_at  # of the item, if the fence is in one
        closing = self._closes(line)
        if outside or (closing and _MOST < width <= self._begun_at + _MOST):
            self._sure, self._lost = False, True
            return None
        if closing and width <= _MOST:
            self._fence = ""
        return "code"

    def _close(self, content: str) -> None:
        if self._closes(content):
            self._fence = ""

    def _closes(self, content: str) -> bool:
        content = content.strip(_SPACE)
        return content.startswith(self._fence) and not content.strip(self._fence[0])


def _columns(space: str) -> int:
    return len(space.expandtabs(4))
