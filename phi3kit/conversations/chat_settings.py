"""Chat settings: the system prompt and the sampling parameters of a message, as a link and as a preset.

Knows which values are valid, and says why others are not. Stores and draws nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from math import nan
from typing import Any
from urllib.parse import urlencode

from phi3kit.core.records import Message
from phi3kit.endpoints.records import Request
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS, MAX_STOP_STRINGS

MAX_SEED = 2**31 - 1
MIN_TOP_P = 0.05
MAX_LINK_CHARACTERS = 8_000  # proxies refuse much longer addresses


@dataclass(frozen=True)
class ChatSettings:
    """How a message is sent; the content of a preset."""

    system_prompt: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = DEFAULT_MAX_TOKENS
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request) -> "ChatSettings":
        """The settings of a request."""
        first = request.prompt[0] if isinstance(request.prompt, tuple) and request.prompt else None
        system = first.content if first and first.role == "system" else ""
        return cls(system, request.temperature, request.top_p, request.max_tokens, request.seed, tuple(request.stop))

    def request(self, prompt: tuple[Message, ...] | str) -> Request:
        """A request with these parameters; `prompt` already has the system prompt."""
        return Request(prompt, self.temperature, self.max_tokens, self.top_p, self.seed, self.stop)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not the usual ones, by name."""
        usual = ChatSettings().to_json()
        return {name: value for name, value in self.to_json().items() if value != usual[name]}

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON has them."""
        return asdict(self) | {"stop": list(self.stop)}


NAMES = tuple(field.name for field in fields(ChatSettings))


def read(values: Mapping[str, Any], base: ChatSettings | None = None) -> tuple[ChatSettings, list[str]]:
    """`base` with the given values, and a sentence for each value that cannot be used.

    values: by a setting's name; numbers may be texts, as in a link.
    """
    settings, problems = base or ChatSettings(), []
    for name in NAMES:
        if name not in values:
            continue
        try:
            settings = replace(settings, **{name: _checked(name, values[name])})
        except ValueError as error:
            problems.append(f"{name} is {_short(values[name])}: {error} is needed. It was not changed.")
    return settings, problems


def link(address: str, settings: ChatSettings, **names: str | None) -> str:
    """An address that opens Chat with these settings, without those that have their default.

    names: further query parameters: wrapper, model, preset. Raises ValueError when it would be too long.
    """
    query = urlencode({name: value for name, value in names.items() if value} | settings.changed, doseq=True)
    url = f"{address}?{query}" if query else address
    if len(url) > MAX_LINK_CHARACTERS:
        raise ValueError(
            f"The link would have {len(url):,} characters. Save the settings as a preset and link to that."
        )
    return url


def _checked(name: str, value: Any) -> Any:
    """The value in its type. Raises ValueError with what is needed."""
    if name == "system_prompt":
        return _text(value, "a text")
    if name == "stop":
        return _stop(value)
    if name == "seed" and value in (None, ""):
        return None
    bounds = {"temperature": (0.0, 2.0), "top_p": (MIN_TOP_P, 1.0)}
    if name in bounds:
        return _number(value, *bounds[name])
    return _whole(value, 0 if name == "seed" else 1, MAX_SEED)


def _number(value: Any, low: float, high: float) -> float:
    number = nan
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not low <= number <= high:  # NaN is in no range
        raise ValueError(f"a number from {low:g} to {high:g}")
    return number


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"a whole number from {low:,} to {high:,}")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    needed = f"a list of at most {MAX_STOP_STRINGS} non-empty texts of one line"
    given = [value] if isinstance(value, str) else value
    valid = isinstance(given, Sequence) and len(given) <= MAX_STOP_STRINGS
    if not valid or not all(_text(each, needed) and "\n" not in each for each in given):
        raise ValueError(needed)
    return tuple(given)


def _text(value: Any, needed: str) -> str:
    if not isinstance(value, str):
        raise ValueError(needed)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{needed} without lone surrogates") from None
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
