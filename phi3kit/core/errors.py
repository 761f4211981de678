"""Errors: every deliberate error says what happened, why, and what to do next.

Phi3KitError
├── SourceInvalid        the weights cannot be used
├── DownloadFailed       the weights did not arrive, and trying again may help
├── ConnectionInvalid    a remote endpoint's URL, name or key cannot be used
├── EndpointFailed       a remote endpoint did not answer as it should
├── ModelNotFound        a model URI leads nowhere
├── BuildFailed          a step of a build did not succeed
├── WorkerFailed         a worker did not start, or died
│   └── OutOfMemory      it had too little memory for an answer, or for the model
├── TableInvalid         a file of prompts cannot be read, or has no column to take them from
├── BatchFailed          a batch cannot go on; what it computed is kept
├── RequestInvalid       a request's value is wrong (the API's 400)
│   └── PromptTooLong    more tokens than the context
├── TryLater             it may work later
│   ├── Busy             the worker's queue is full (the API's 429)
│   ├── BudgetSpent      the day's tokens are spent (the API's 429, insufficient_quota)
│   └── LimitReached     one user's turns or tokens a minute, a day or at once (the API's 429, rate_limit_exceeded)
├── NotAllowed           the profile or the role does not allow it (the API's 403)
├── StorageFailed        the data folder or the tracking store cannot be written or read
└── SettingInvalid       an environment variable or secret has a wrong value
"""

import math
import re
from typing import Literal

from phi3kit.core.redaction import without_secrets

Failure = Literal[
    "refused", "host", "tls", "timeout", "redirect", "unauthorized", "not found", "protocol", "server", "not allowed"
]


_LONGEST_PART = 1_000  # characters
# All but tab and new line; those that turn the direction of a text, and halves of one, which no file or terminal takes.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def without_controls(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


class Phi3KitError(Exception):
    """Base of every deliberate error; a page shows its three parts."""

    def __init__(self, what: str, why: str, next_step: str) -> None:
        # A part may quote a file or a server of anybody's.
        parts = (without_secrets(without_controls(part[:_LONGEST_PART])) for part in (what, why, next_step))
        what, why, next_step = parts
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        return f"{self.what} {self.why} {self.next_step}"


class SourceInvalid(Phi3KitError):
    """The weights that a build should start from cannot be used."""


class DownloadFailed(Phi3KitError):
    """The weights did not arrive whole: the network, the server or the disk failed. What arrived is kept."""


class ModelNotFound(Phi3KitError):
    """A model URI leads nowhere, or to something that is no Phi-3 wrapper."""


class ConnectionInvalid(Phi3KitError):
    """A connection to a remote endpoint cannot be used: its URL, its name, its key."""


class EndpointFailed(Phi3KitError):
    """A remote endpoint did not answer as it should; `kind` says in one word how."""

    def __init__(self, what: str, why: str, next_step: str, *, kind: Failure) -> None:
        super().__init__(what, why, next_step)
        self.kind = kind


class BuildFailed(Phi3KitError):
    """A step of a build did not succeed; nothing half-logged is left."""


class WorkerFailed(Phi3KitError):
    """A worker did not start, or died."""


def panicked(panic: BaseException) -> WorkerFailed:
    """A panic in a library's Rust as an error of one request: PyO3 raises it past every `except Exception`."""
    error = WorkerFailed(
        "The request was interrupted.",
        "The model's tokenizer failed on it.",
        "Ask something else, or check the worker's log.",
    )
    error.__cause__ = panic
    return error


class OutOfMemory(WorkerFailed):
    """A worker had too little memory for its model, or for one answer, which then has ended."""


class TableInvalid(Phi3KitError):
    """A file of prompts cannot be read, or has no column to take them from."""


class BatchFailed(Phi3KitError):
    """A batch cannot begin or go on; what it computed is kept, and the same batch goes on from there."""


class RequestInvalid(Phi3KitError):
    """A request's value is wrong. `param` names the field, `code` is OpenAI's word where it has one."""

    def __init__(
        self, what: str, why: str, next_step: str, *, param: str | None = None, code: str = "invalid_value"
    ) -> None:
        super().__init__(what, why, next_step)
        self.param, self.code = param, code


def longest_context(context_tokens: int) -> str:
    """In the words by which LiteLLM, LangChain and others know this error."""
    return f"This model's maximum context length is {context_tokens} tokens"


class PromptTooLong(RequestInvalid):
    """The prompt has more tokens than the context holds."""

    def __init__(self, prompt_tokens: int, context_tokens: int, param: str = "messages") -> None:
        super().__init__(
            what="The prompt is too long.",
            why=f"{longest_context(context_tokens)}, answer included, and the prompt has {prompt_tokens:,} tokens.",
            next_step="Shorten the prompt or start a new conversation.",
            param=param,
            code="context_length_exceeded",
        )


def seconds_to_wait(estimate_s: float) -> int:
    """A Retry-After of at least a second; more than a minute would be read as none by the `openai` client."""
    return math.ceil(min(max(estimate_s, 1.0), 60.0))


class TryLater(Phi3KitError):
    """It may work after `retry_after_s` seconds."""

    def __init__(self, what: str, why: str, next_step: str, *, retry_after_s: int) -> None:
        super().__init__(what, why, next_step)
        self.retry_after_s = retry_after_s


class Busy(TryLater):
    """The worker's queue is full."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(
            what="The model is busy.",
            why=f"{waiting} requests are waiting already." if waiting else "It accepts no more requests at the moment.",
            next_step=f"Try again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )


class BudgetSpent(TryLater):
    """The day's tokens of all users, or of one, are spent; the next day has new ones."""


class LimitReached(TryLater):
    """One user asks too much at once, a minute or a day."""


class NotAllowed(Phi3KitError):
    """The app's profile or the person's role does not allow it."""


class StorageFailed(Phi3KitError):
    """The data folder or the tracking store cannot be written or read."""


class SettingInvalid(Phi3KitError):
    """An environment variable or secret has a value that cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of what any error says, as a sentence."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line}."
