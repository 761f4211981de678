"""Safe Markdown: a model's answer as Markdown that loads no image, renders no formula and contains no HTML.

Knows where CommonMark has code, in which no character has a meaning, and what Streamlit makes of a text beyond
CommonMark: arrows, dashes, emoji, icons, colours, formulas. Draws nothing.
"""

import itertools
import re
import string
from collections.abc import Callable, Container, Iterator
from typing import Literal

# "perhaps" is code inside a list or a quote, or by its indentation: a browser may see its end elsewhere.
Kind = Literal["text", "code", "perhaps"]

# Signs that stand alone and that Streamlit turns into arrows and dashes, escaped or not.
TYPOGRAPHIC = "<->|->|<-|--|>=|<=|~="
# The colon and the first sign of a name that Streamlit turns into an emoji, an icon or its logo, escaped or not.
NAMED = r":(?P<first>[+-]?[A-Za-z0-9_])(?=[A-Za-z0-9_+-]*:)"

_PUNCTUATION = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation})
_START = re.compile(r"((?:[ \t]*>)*)([ \t]*)((?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)")  # quotes, indentation, list markers
_FENCE = re.compile(r"(?:(`{3,})[^`]*|(~{3,}).*)$")
_CODE_SPAN = re.compile(
    r"(?<![`\\])(`+)(?!`).{1,5000}?(?<!`)\1(?!`)", re.DOTALL
)  # bounded: else runs of every length take seconds
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as CommonMark ends a line, which str.splitlines does not
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_TAG_BEGINS_A_LINE = re.compile(r"[\r\n][ \t>]*<")
_SPLITS_SPANS = re.compile(r"[\\<|]|://|www\.", re.IGNORECASE)  # addresses, tags, escapes, cells: read before a span
_STREAMLIT = re.compile(
    rf"""(?P<code>(?P<ticks>`+)(?!`).{{1,5000}}?(?<!`)(?P=ticks)(?!`))
    |(?P<kept>`+ | \\[^\w\s:$<]
        | ^[ \t>]*[|:-][|:\- \t]*$                         # the row below a table's head, a line, a heading's underline
        | ^[ ]{{0,3}}\[[^\]\n]+\]:[ \t]*\S*                # where a link leads
        | <[A-Za-z][A-Za-z0-9+.-]{{1,31}}:[^\s<>]*>
        | (?:https?://|www\.)[^\s<>()\[\]!]*)
    |\\?(?P<named>{NAMED})
    |(?<![\w<>=~-])(?P<typographic>{TYPOGRAPHIC})(?![\w<>=~-])
    |\\?(?P<sign>\$ | <(?=[A-Za-z/!?]) | :(?=[\w:]))
    |!\[
    |(?P<material>(?<=:)material/)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE | re.IGNORECASE,
)


def for_pages(text: str) -> str:
    """For Streamlit, which escapes HTML itself: images, formulas and all that only Streamlit reads become text."""
    return _outside_code(text, _as_streamlit_shows_it, text_kinds=("text",))


def for_files(text: str) -> str:
    """For other programs: images become text, tags outside code."""
    return _outside_code(text, _for_files, text_kinds=("text", "perhaps"))


def escaped(text: str) -> str:
    """`text` with every sign escaped that Markdown may read."""
    return text.translate(_PUNCTUATION)


def kept_apart(signs: str) -> str:
    """Some of `TYPOGRAPHIC`: one sign is a text of its own, so that they are not read together. It looks as without."""
    at = next(index for index, sign in enumerate(signs) if sign in "-=")
    return f"{escaped(signs[:at])}{_alone(signs[at])}{escaped(signs[at + 1 :])}"


def name_kept_apart(first: str) -> str:
    """A colon and the first sign of a name, as `NAMED` finds them, so that they are not read together."""
    return f"\\:{_alone(first)}"


def _alone(sign: str) -> str:
    return f":color[{escaped(sign)}]"  # a span, and without attributes nothing else


def _as_streamlit_shows_it(part: str) -> str:
    certain = _spans_are_certain(part)

    def change(found: re.Match[str]) -> str:
        if code := found["code"]:
            return _span(code, certain)
        if found["named"]:
            return name_kept_apart(found["first"])
        if signs := found["typographic"]:
            return kept_apart(signs)
        if sign := found["sign"]:
            return f"\\{sign}"
        return "material\\/" if found["material"] else _without_images(found[0])

    return _STREAMLIT.sub(change, part)


def _for_files(part: str) -> str:
    certain, parts, at = _spans_are_certain(part), [], 0
    for span in _CODE_SPAN.finditer(part):
        parts += [_TAG.sub(r"\\<", _without_images(part[at : span.start()]))]
        parts += [_span(span[0], certain)]
        at = span.end()
    return "".join([*parts, _TAG.sub(r"\\<", _without_images(part[at:]))])


def _span(code: str, certain: bool) -> str:
    if _TAG_BEGINS_A_LINE.search(code):  # it ends the paragraph, and with it the span
        return _TAG.sub(r"\\<", _without_images(code))
    return code if certain else _without_images(code)


def _without_images(text: str) -> str:
    return text.replace("![", "!\\[")


def _spans_are_certain(part: str) -> bool:
    """Whether the code spans of some lines begin and end where we see them, whatever lists and quotes the lines are in."""
    if _SPLITS_SPANS.search(part):
        return False
    return all("`" not in _CODE_SPAN.sub("", line) for line in _LINE.findall(part))


def _outside_code(text: str, change: Callable[[str], str], text_kinds: Container[Kind]) -> str:
    """The text with `change` applied to its paragraphs, and without images where no code is for certain."""
    done: list[str] = []
    for kind, lines in itertools.groupby(_lines(text), key=lambda line: line[1]):
        block = "".join(line for line, _ in lines)
        if kind in text_kinds:
            # A span ends at the latest with its paragraph, at an empty line.
            done.extend(change(part) for part in re.split(r"(\n[ \t]*\r?\n)", block))
        else:
            done.append(block if kind == "code" else _without_images(block))
    return "".join(done)


def _lines(text: str) -> Iterator[tuple[str, Kind]]:
    """Each line and what it is."""
    fence, quoted, begun_at, certain = "", False, 0, False  # of the fence that is open
    item, free = 0, True  # columns that the list's item is indented by; whether indented code may begin
    for line in _LINE.findall(text):
        start = _START.match(line)
        assert start is not None  # it matches nothing, too
        quotes, rest = start[1], line[start.end() :]
        width, markers = len(start[2].expandtabs(4)), len(start[3])
        empty = not rest.strip() and not markers
        if fence and (not quoted or quotes) and (empty or width >= item):
            content = line[start.end(1) :].strip()
            certain = certain and (empty or width >= begun_at)
            yield line, "code" if certain else "perhaps"
            if content.startswith(fence) and not content.strip(fence[0]):
                fence = ""
            continue
        fence = ""
        if not empty and not markers and free and width >= item + 4:
            yield line, "perhaps"
            continue
        if not empty:
            item = width + markers if markers else min(item, width)
        if (opened := _FENCE.match(rest)) and (markers or width < item + 4):
            fence, quoted, begun_at = opened[1] or opened[2], bool(quotes), width
            certain = not quotes and not markers and width < 4
            yield line, "code" if certain else "perhaps"
        else:
            yield line, "text"
        free = empty
