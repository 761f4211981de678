"""Literal: any text as Markdown that shows exactly this text.

Knows what Streamlit's Markdown makes of characters. Knows nothing of the text's meaning.
"""

import re

from phi3kit.formats.safe_markdown import (
    ADDRESS,
    NAMED,
    TYPOGRAPHIC,
    address_kept_apart,
    escaped,
    kept_apart,
    name_kept_apart,
)

_JOINED = re.compile(rf"(?<![^\s\0])(?:{TYPOGRAPHIC})(?![^\s\0])|{NAMED}|(?P<address>{ADDRESS})")
# Characters without a glyph, or that change the direction of what follows.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def literal(text: str, *, inside: bool = False) -> str:
    """`text` for the inside of Markdown.

    Line breaks become hard breaks, runs of spaces stay as wide as they are, invisible characters are named.
    inside: Markdown precedes and follows it on its line, so white space at its ends needs no care.
    """
    lines = named(text).split("\n")
    drawn = [_line(line, inside and index == 0, inside and index == len(lines) - 1) for index, line in enumerate(lines)]
    # A hard break needs something after it.
    return "\\\n".join([*drawn[:-1], drawn[-1] or ("&nbsp;" if len(lines) > 1 else "")])


def named(text: str) -> str:
    """`text` with its invisible characters named: [U+200B]."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return _INVISIBLE.sub(lambda found: f"[U+{ord(found[0]):04X}]", lines)


def _line(line: str, joined_before: bool, joined_behind: bool) -> str:
    wide = "\0"  # named() leaves none in a text
    line = re.sub(" (?= )", wide, line)
    if line.startswith(" ") and not joined_before:
        line = wide + line[1:]
    if line.endswith(" ") and not joined_behind:
        line = line[:-1] + wide
    parts, at = [], 0
    for found in _JOINED.finditer(line):
        parts += [escaped(line[at : found.start()]), _apart(found)]
        at = found.end()
    return "".join([*parts, escaped(line[at:])]).replace(wide, "&nbsp;")


def _apart(found: re.Match[str]) -> str:
    if found["first"]:
        return name_kept_apart(found["first"])
    return address_kept_apart(found[0]) if found["address"] else kept_apart(found[0])
