"""Raw prompts: a text with special tokens parsed into messages, and where it differs from what the template writes.

Knows the template and its parts. Runs no tokenizer and no model; tests measure what is said here of their behaviour.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from phi3kit.core.records import Message, MessageRole
from phi3kit.formats.chat_template import ASSISTANT, END, SPECIAL_TOKENS

# harmless: the model reads the same tokens. changes: it reads others. breaks: it reads other turns than were meant.
Weight = Literal["harmless", "changes", "breaks"]

_END_OF_TEXT = "<|endoftext|>"
_ROLE_OF: dict[str, MessageRole] = {"<|system|>": "system", "<|user|>": "user", ASSISTANT: "assistant"}
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
# Text that looks like a special token: another model's, a wrong role, a missing sign.
_LOOKALIKE = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?\|?(?:system|user|assistant|end|endoftext|human|bot)\|?>|\[/?INST\]", re.I
)


@dataclass(frozen=True)
class Finding:
    """A difference from what the template writes."""

    at: int  # character of the prompt
    weight: Weight
    what: str
    effect: str  # on the model
    fix: str  # "" for a harmless one


@dataclass(frozen=True)
class ParsedPrompt:
    """The messages of a raw prompt and its findings."""

    messages: tuple[Message, ...]
    begun_answer: str | None  # the text after the last <|assistant|>; None if the answer is not opened
    findings: tuple[Finding, ...]  # in the order of the text


def parse_raw_prompt(text: str) -> ParsedPrompt:
    """The messages and findings of a raw prompt. Text outside turns is in no message, and a finding says so."""
    parser = _Parser(text)
    for part in _parts(text):
        parser.take(part)
    return parser.finish()


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column of a character, from 1."""
    before = text[:at]
    return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1


@dataclass(frozen=True)
class _Part:
    """A special token and the text up to the next one; the first part of a prompt has no token."""

    token: str
    at: int
    text: str

    @property
    def text_at(self) -> int:
        return self.at + len(self.token)


def _parts(text: str) -> Iterator[_Part]:
    found = list(_SPECIAL.finditer(text))
    begins = [each.start() for each in found] + [len(text)]
    yield _Part("", 0, text[: begins[0]])
    for each, end in zip(found, begins[1:], strict=True):
        yield _Part(each[0], each.start(), text[each.end() : end])


class _Parser:
    """Takes the parts once, in order. `_role` is that of the open turn."""

    def __init__(self, text: str) -> None:
        self._whole = text
        self._messages: list[Message] = []
        self._findings: list[Finding] = []
        self._bare: list[int] = []  # places of special tokens without the template's line break after them
        self._wide: list[int] = []  # places of more white space than that
        self._role: MessageRole | None = None
        self._opened_at = 0
        self._content = ""

    def take(self, part: _Part) -> None:
        if part.token in _ROLE_OF:
            self._open(part)
        elif part.token == END:
            self._close(part)
        elif part.token == _END_OF_TEXT:
            self._end_of_text(part)
        else:
            self._outside(part, "before the first turn")
        self._lookalikes(part)

    def finish(self) -> ParsedPrompt:
        begun = self._content if self._role == "assistant" else None
        if begun is not None:
            self._begun(begun)
        else:
            self._not_opened()
        self._white_space()
        findings = sorted(self._findings, key=lambda finding: finding.at)
        return ParsedPrompt(tuple(self._messages), begun, tuple(findings))

    def _open(self, part: _Part) -> None:
        if self._role is not None:
            self._find(
                self._opened_at,
                "breaks",
                f"This {self._role} turn has no {END}.",
                f"The next turn begins inside it: {part.token} follows where the model has always seen {END} first.",
                f"Write {END} at its end.",
            )
            self._keep()
        role = _ROLE_OF[part.token]
        self._order(role, part.at)
        self._role, self._opened_at, self._content = role, part.at, part.text.removeprefix("\n")
        self._note_white_space(part)

    def _close(self, part: _Part) -> None:
        if self._role is None:
            self._find(
                part.at,
                "breaks",
                f"This {END} closes nothing: no turn is open.",
                "The model reads the end of a turn that it has not seen.",
                "Delete it, or open a turn before it, such as <|user|>.",
            )
        else:
            trailing = self._content[len(self._content.rstrip()) :]
            if trailing and self._content.strip():
                self._find(
                    part.at - len(trailing),
                    "changes",
                    f"There is white space before this {END}.",
                    "It is removed only after a special token; here it becomes tokens that the template would not write.",
                    f"Write {END} directly after the text.",
                )
            if not self._content.strip():
                self._find(
                    self._opened_at,
                    "changes",
                    f"This {self._role} turn is empty.",
                    "The model reads a turn in which nothing is said.",
                    "Write something in it, or delete it.",
                )
            self._keep()
        self._outside(part, f"after {END}")
        self._note_white_space(part)

    def _end_of_text(self, part: _Part) -> None:
        self._find(
            part.at,
            "breaks",
            f"The prompt contains {_END_OF_TEXT}.",
            "It marks the end of a text: in training, the text after it has nothing to do with the text before it.",
            "Delete it.",
        )
        if self._role is None:
            self._outside(part, f"after {_END_OF_TEXT}")
        else:
            self._content += part.text

    def _outside(self, part: _Part, where: str) -> None:
        if part.text.strip():
            start = part.text_at + len(part.text) - len(part.text.lstrip())
            self._find(
                start,
                "breaks",
                f"There is text {where}, outside any turn.",
                "The model reads it, but it belongs to no message.",
                "Put it into a turn, after <|system|> or <|user|>.",
            )
        elif part.text and not part.token:
            self._find(
                0,
                "changes",
                "There is white space before the first special token.",
                "It is removed only after a special token; here it becomes tokens.",
                "Begin with <|system|> or <|user|>.",
            )

    def _order(self, role: MessageRole, at: int) -> None:
        before = self._messages[-1].role if self._messages else None
        if role == "system" and before is not None:
            self._find(
                at,
                "changes",
                "A system turn follows another turn.",
                "The template allows it, but models are trained with one system turn, at the beginning.",
                "Move it to the beginning.",
            )
        elif role == before and role != "system":
            self._find(
                at,
                "changes",
                f"Two {role} turns follow each other.",
                "The template allows it, but models are trained with turns that alternate.",
                "Join them, or put the other's turn between them.",
            )

    def _begun(self, begun: str) -> None:
        if begun.strip() and begun != begun.rstrip():
            self._find(
                len(self._whole.rstrip()),
                "changes",
                "The begun answer ends in white space.",
                "A word carries the space before it in its own token; after a separate space it must begin without one.",
                "End with a letter or a punctuation mark.",
            )

    def _not_opened(self) -> None:
        if self._role is not None:
            self._find(
                self._opened_at,
                "breaks",
                f"This {self._role} turn has no {END}.",
                f"The text continues where it stops: the model writes more of the {self._role}'s turn, or closes it.",
                f"Write {END} after it, then {ASSISTANT}.",
            )
            self._keep()
        if self._whole.strip():
            self._find(
                len(self._whole.rstrip()),
                "breaks",
                f"The answer is not opened: {ASSISTANT} is missing at the end.",
                f"A model begins its answers only after {ASSISTANT}. Without it, it continues the text before: noise, or nothing.",
                f"Write {ASSISTANT} at the end.",
            )

    def _lookalikes(self, part: _Part) -> None:
        for found in _LOOKALIKE.finditer(part.text):
            self._find(
                part.text_at + found.start(),
                "breaks",
                f"{found[0]} is not a special token of Phi-3.",
                "The tokenizer cuts it into pieces like any text, so it opens and closes nothing.",
                "Phi-3's are " + ", ".join(SPECIAL_TOKENS) + ".",
            )

    def _note_white_space(self, part: _Part) -> None:
        space = part.text[: len(part.text) - len(part.text.lstrip())]
        at_end = part.text_at + len(part.text) == len(self._whole)
        if not space and not (at_end and part.token == END):
            self._bare.append(part.at)
        elif space not in ("", "\n"):
            self._wide.append(part.text_at)

    def _white_space(self) -> None:
        reason = "Phi-3's tokenizer removes the white space after a special token, so the tokens are the same."
        if self._bare:
            self._find(
                self._bare[0], "harmless", f"No line break after {_count(self._bare)}.",
                f"{reason} The chapter writes its prompt this way.", "",
            )  # fmt: skip
        if self._wide:
            self._find(
                self._wide[0], "harmless", f"More than one line break after {_count(self._wide)}.", reason, ""
            )  # fmt: skip

    def _keep(self) -> None:
        assert self._role is not None
        self._messages.append(Message(self._role, self._content))
        self._role, self._content = None, ""

    def _find(self, at: int, weight: Weight, what: str, effect: str, fix: str) -> None:
        self._findings.append(Finding(at, weight, what, effect, fix))


def _count(places: list[int]) -> str:
    return "one special token" if len(places) == 1 else f"{len(places)} special tokens"
