"""Safe Markdown: a model's answer as Markdown that loads no image, renders no formula and contains no HTML.

Knows CommonMark's code blocks and code spans, in which no character has a meaning. Draws nothing.
"""

import re
from collections.abc import Callable

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(?<![`\\])(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as CommonMark ends a line, which str.splitlines does not
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def for_pages(text: str) -> str:
    """For Streamlit, which escapes HTML itself: images become text everywhere, formulas outside code."""
    # Images in code too: what looks like code here may not be code to the browser, which would load them.
    return outside_code(text.replace("![", "!\\["), lambda part: part.replace("$", "\\$"))


def for_files(text: str) -> str:
    """For other programs: images become text everywhere, tags outside code."""
    return outside_code(text.replace("![", "!\\["), lambda part: _TAG.sub(r"\\<", part))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` applied outside code blocks and code spans."""
    done: list[str] = []
    plain: list[str] = []
    fence = ""

    def end_plain() -> None:
        # A span ends at the latest with its paragraph, at an empty line.
        done.extend(_outside_spans(part, change) for part in re.split(r"(\n[ \t]*\r?\n)", "".join(plain)))
        plain.clear()

    for line in _LINE.findall(text):
        opened = _FENCE.match(line)
        if fence:
            done.append(line)
            if opened and opened[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif opened and not (opened[1][0] == "`" and "`" in line[opened.end() :]):
            end_plain()
            fence = opened[1]
            done.append(line)
        else:
            plain.append(line)
    end_plain()
    return "".join(done)


def _outside_spans(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for span in _CODE_SPAN.finditer(text):
        parts += [change(text[at : span.start()]), span[0]]
        at = span.end()
    return "".join([*parts, change(text[at:])])
