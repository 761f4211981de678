"""Literal: any text as Markdown that shows exactly this text.

Knows what Streamlit's Markdown makes of characters. Knows nothing of the text's meaning.
"""

import re
import string

_PUNCTUATION = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation})
# Signs that stand alone and that Streamlit turns into arrows and dashes, escaped or not: see _kept_apart.
_TYPOGRAPHIC = re.compile(r"(?<![^\s\0])(?:<->|->|<-|--|>=|<=|~=)(?![^\s\0])")
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
    for found in _TYPOGRAPHIC.finditer(line):
        parts += [_escaped(line[at : found.start()]), _kept_apart(found[0])]
        at = found.end()
    return "".join([*parts, _escaped(line[at:])]).replace(wide, "&nbsp;")


def _escaped(part: str) -> str:
    # Streamlit turns the whole word into its logo, escaped or not.
    return part.translate(_PUNCTUATION).replace(r"\:streamlit\:", r"\:*s*treamlit\:")


def _kept_apart(signs: str) -> str:
    """Each sign as a piece of Markdown of its own, so that they are not read together."""
    at = next(index for index, sign in enumerate(signs) if sign in "-=")
    return f"{_escaped(signs[:at])}*\\{signs[at]}*{_escaped(signs[at + 1 :])}"
