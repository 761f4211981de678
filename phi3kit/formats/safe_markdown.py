"""Safe Markdown: a model's answer as Markdown that loads no image, renders no formula and contains no HTML.

Knows where CommonMark certainly has code, in which no character has a meaning, and what Streamlit makes of a text beyond
CommonMark: arrows, dashes, emoji, icons, colours, formulas. Draws nothing.
"""

import itertools
import re
import string
from collections.abc import Callable, Container

from phi3kit.formats.code_lines import LINE, Kind, kinds_of_lines

Change = Callable[[str, bool], str]  # a paragraph, and whether its code spans may be certain, to a safe one

# Signs that stand alone and that Streamlit turns into arrows and dashes, escaped or not.
TYPOGRAPHIC = "<->|->|<-|--|>=|<=|~="
# The colon and the first sign of a name that Streamlit turns into an emoji, an icon or its logo, escaped or not.
NAMED = r":(?P<first>[+-]?[A-Za-z0-9_])(?=[A-Za-z0-9_+-]*:)"
# The signs by which GFM knows an address of the web or of mail, escaped or not.
ADDRESS = r"://|[Ww]{3}\.|@"

_PUNCTUATION = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation})
_CODE_SPAN = re.compile(
    r"(?<![`\\])(`+)(?!`).{1,5000}?(?<!`)\1(?!`)", re.DOTALL
)  # bounded: else runs of every length take seconds
_TAG = re.compile(r"(?<!\\)((?:\\\\)*)\\?<(?=[A-Za-z/!?])")  # with the sign that escapes it, if one does
_TAG_BEGINS_A_LINE = re.compile(r"[\r\n][ \t>]*<")
# What certainly takes no backtick along: the rest of a link or of a footnote's mark that has none.
_ENDED_LINK = re.compile(r"""\]\([^\s()<>`'"\\]*\)|\]\[[^`\[\]\\]*(?=\])|\[\^[^`\[\]\\]*(?=\])""")
# What is read before a span, or may be, and takes backticks along: escapes, tags, links, footnotes' marks.
_TAKES_BACKTICKS = re.compile(r"\\|<(?=[A-Za-z/!?])|\]\(|\]\[|\[\^")
_ADDRESS = re.compile(r"://|www\.", re.IGNORECASE)
# C0 and C1 without tab and line ends, and what changes the direction of the text behind it.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The links that stay links. Others lead to this app's own addresses, sign-out among them, or to files.
_WEB = r"(?:https?://|mailto:)"
_AUTOLINK = rf"<{_WEB}[^\s<>]*>"
_LINK_ELSEWHERE = (
    rf"(?<=\])[(:](?![ \t]*(?:{_WEB}|{_AUTOLINK}))"  # its sign after the words; a definition has a colon there
)
_STREAMLIT = re.compile(
    rf"""(?P<code>(?P<ticks>`+)(?!`).{{1,5000}}?(?<!`)(?P=ticks)(?!`))
    |(?P<kept>`+ | \\[^\w\s:$<!]
        | ^[ \t>]*[|:-][|:\- \t]*$                         # the row below a table's head, a line, a heading's underline
        | ^[ ]{{0,3}}\[[^\]\n]+\]:[ \t]*{_WEB}\S*          # where a link leads
        | ^[ ]{{0,3}}\[\^[\w-]{{1,99}}\]:                  # a footnote
        | {_AUTOLINK}
        | (?:https?://|www\.)[^\s<>()\[\]!]*)
    |\\?(?P<named>{NAMED})
    |(?<![\w<>=~-])(?P<typographic>{TYPOGRAPHIC})(?![\w<>=~-])
    |\\?(?P<sign>\$ | <(?=[A-Za-z/!?]) | :(?=[\w:]))
    |(?P<link>{_LINK_ELSEWHERE})
    |!\[
    |(?P<material>(?<=:)material/)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE | re.IGNORECASE,
)


def for_pages(text: str) -> str:
    """For Streamlit, which escapes HTML itself.

    Images, formulas, all that only Streamlit reads, and links to elsewhere than the web become text; control characters
    are named.
    """
    seen = _CONTROL.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    return _outside_code(seen, _as_streamlit_shows_it, text_kinds=("text", "open"))


def for_files(text: str) -> str:
    """For other programs: images and tags become text where no code is for certain."""
    return _outside_code(text, _for_files, text_kinds=("text", "open", "perhaps"))


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


def address_kept_apart(address: str) -> str:
    """The signs that `ADDRESS` finds, so that they are not read as the beginning or the middle of an address."""
    at = next(index for index, sign in enumerate(address) if sign in "/.@")
    return f"{escaped(address[:at])}{_alone(address[at])}{escaped(address[at + 1 :])}"


def _alone(sign: str) -> str:
    return f":color[{escaped(sign)}]"  # a span, and without attributes nothing else


def _as_streamlit_shows_it(part: str, known: bool) -> str:
    certain = known and _spans_are_certain(part)

    def change(found: re.Match[str]) -> str:
        if code := found["code"]:
            return code if certain else _perhaps_a_span(code)
        if found["named"]:
            return name_kept_apart(found["first"])
        if signs := found["typographic"]:
            return kept_apart(signs)
        if sign := found["sign"] or found["link"]:
            return f"\\{sign}"
        return "material\\/" if found["material"] else _without_images(found[0])

    return _STREAMLIT.sub(change, part)


def _perhaps_a_span(code: str) -> str:
    # A tag that begins a line ends the paragraph, and with it the span.
    code = _as_text(code) if _TAG_BEGINS_A_LINE.search(code) else _without_images(code)
    return re.sub(_LINK_ELSEWHERE, r"\\\g<0>", code, flags=re.IGNORECASE)


def _for_files(part: str, known: bool) -> str:
    safe, at = [], 0
    for span in _CODE_SPAN.finditer(part):
        safe += [_as_text(part[at : span.start()]), span[0]]
        at = span.end()
    safe.append(_as_text(part[at:]))
    shown = "".join(safe)
    return shown if known and _spans_are_certain(shown) else _as_text(part)


def _as_text(part: str) -> str:
    return _without_images(_without_tags(part))


def _without_images(text: str) -> str:
    return text.replace("![", "!\\[")


def _without_tags(text: str) -> str:
    # A backslash would be text itself, and the tag a tag, behind another one.
    return _TAG.sub(r"\1&lt;", text)


def _spans_are_certain(part: str) -> bool:
    """Whether the code spans of some lines begin and end where we see them, whatever lists and quotes the lines are in.

    Every line has whole spans, no cell of a table ends within one, and nothing between them takes a backtick along.
    An image that would be loaded from elsewhere is not trusted to a span.
    """
    spans = [span[0] for span in _CODE_SPAN.finditer(part)]
    if any("|" in span or ("![" in span and _ADDRESS.search(span)) for span in spans):
        return False
    lines = LINE.findall(part)
    if any("`" in _CODE_SPAN.sub("", line) for line in lines):
        return False
    between = _ENDED_LINK.sub("", _CODE_SPAN.sub("`", part))
    return not _TAKES_BACKTICKS.search(between) and not any(
        map(_is_address_with_a_backtick, re.split(r"[\s<]", between))
    )


def _is_address_with_a_backtick(word: str) -> bool:
    address = _ADDRESS.search(word)
    return address is not None and "`" in word[address.end() :]


def _outside_code(text: str, change: Change, text_kinds: Container[Kind]) -> str:
    """The text with `change` applied to its paragraphs, and without images where no code is for certain."""
    done: list[str] = []
    for kind, lines in itertools.groupby(kinds_of_lines(text), key=lambda line: line[1]):
        block = "".join(line for line, _ in lines)
        if kind in text_kinds:
            # A span ends at the latest with its paragraph, at an empty line.
            done.extend(change(part, kind == "text") for part in re.split(r"(\n[ \t]*\r?\n)", block))
        else:
            done.append(block if kind == "code" else _without_images(block))
    return "".join(done)
