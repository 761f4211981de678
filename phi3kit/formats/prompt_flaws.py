"""Prompt variants: what people get wrong in a raw prompt, done to a right one, to see what it does to the model.

Knows the template's parts. Runs nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from phi3kit.formats.chat_template import ASSISTANT, END, SPECIAL_TOKENS

_SPECIAL = "|".join(map(re.escape, SPECIAL_TOKENS))


@dataclass(frozen=True)
class Variant:
    """One thing that is done to a prompt."""

    name: str
    change: Callable[[str], str]


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


VARIANTS: tuple[Variant, ...] = (
    Variant("no line breaks behind special tokens", _without_line_breaks),
    Variant(f"a line break before {END}", _line_break_before_end),
    Variant(f"the last {END} missing", _without_last_end),
    Variant(f"{ASSISTANT} missing at the end", _without_assistant),
    Variant("<|human|> for <|user|>", _unknown_role),
    Variant(f"<|endoftext|> before {ASSISTANT}", _end_of_text),
)


def variants_of(prompt: str) -> dict[str, str]:
    """Name to changed prompt, of the variants that change this prompt."""
    changed = {variant.name: variant.change(prompt) for variant in VARIANTS}
    return {name: text for name, text in changed.items() if text != prompt}
