"""Prompt flaws: common mistakes in a raw prompt, made in a correct one to see their effect on the model.

Knows the template's parts. Runs nothing.
"""

import re
from collections.abc import Callable

from phi3kit.formats.chat_template import ASSISTANT, END, SPECIAL_TOKENS

_SPECIAL = "|".join(map(re.escape, SPECIAL_TOKENS))


def _without_line_breaks(prompt: str) -> str:
    return re.sub(rf"({_SPECIAL})\s+", r"\1", prompt)


def _line_break_before_end(prompt: str) -> str:
    return re.sub(rf"(?<!\n){re.escape(END)}", f"\n{END}", prompt)


def _without_last_end(prompt: str) -> str:
    head, end, tail = prompt.rpartition(END)
    return head + tail if end else prompt


def _without_assistant(prompt: str) -> str:
    head, opened, tail = prompt.rpartition(ASSISTANT)
    return head if opened and not tail.strip() else prompt


def _unknown_role(prompt: str) -> str:
    return prompt.replace("<|user|>", "<|human|>")


def _end_of_text(prompt: str) -> str:
    head, opened, tail = prompt.rpartition(ASSISTANT)
    return f"{head}<|endoftext|>{opened}{tail}" if opened else prompt


_FLAWS: dict[str, Callable[[str], str]] = {
    "no line breaks after special tokens": _without_line_breaks,
    f"a line break before {END}": _line_break_before_end,
    f"the last {END} missing": _without_last_end,
    f"{ASSISTANT} missing at the end": _without_assistant,
    "<|human|> for <|user|>": _unknown_role,
    f"<|endoftext|> before {ASSISTANT}": _end_of_text,
}


def flawed(prompt: str) -> dict[str, str]:
    """Name of a flaw to the prompt with it, without flaws that change nothing in this prompt."""
    changed = {name: flaw(prompt) for name, flaw in _FLAWS.items()}
    return {name: text for name, text in changed.items() if text != prompt}
