"""Redaction: masks the secrets of this process in every log line, whoever writes it.

Knows what secrets are called, and logging. Changes no text on a page.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from phi3kit.core.secret import MASK, is_secret_name, secrets_of_url

_SHORTEST = 6  # characters; shorter ones may be ordinary words

_hidden: set[str] = set()


def hide_in_logs(told: Mapping[str, object]) -> None:
    """Mask the secrets among these variables in every log record of this process from now on."""
    found = {value for value in secrets_among(told) if len(value) >= _SHORTEST}
    if found and not _hidden:  # once: a second call would wrap the first one's factory
        logging.setLogRecordFactory(_masking(logging.getLogRecordFactory()))
    _hidden.update(found)


def secrets_among(told: Mapping[str, object]) -> Iterator[str]:
    """Values of variables named as secrets, and passwords in addresses; also within sections of secrets.toml."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from secrets_among(value)
        if not isinstance(value, str):
            continue
        if is_secret_name(name):
            yield value
        if "://" in value:
            yield from secrets_of_url(value)


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without these, however it spells them; the longest first, as one may begin with another."""
    for form in sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


@lru_cache(maxsize=1024)
def _forms(secret: str) -> frozenset[str]:
    """A secret as it is, as an address has it, as it is read from one, and as Python and JSON print it."""
    plain = {secret, unquote(secret)}
    spelled = {each for text in plain for each in (quote(text), quote(text, safe=""))}
    printed = {each[1:-1] for text in plain for each in (repr(text), ascii(text), json.dumps(text))}
    return frozenset(form for form in plain | spelled | printed if len(form) >= min(len(secret), _SHORTEST) > 0)


def without_secrets(text: str) -> str:
    """A text of somebody else's without the secrets that this process was told."""
    return masked(text, _hidden)


def _masking(make: Any) -> Any:
    def record_of(*args: Any, **values: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **values)
        try:
            said = record.getMessage()
        except Exception:  # logging itself would print message and arguments as they are
            record.args = ()
            said = f"{record.msg!r} does not fit its arguments"
            record.msg = masked(said, _hidden)
        if (hidden := masked(said, _hidden)) != said:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters use this text instead of formatting the exception.
            record.exc_text = masked(logging.Formatter().formatException(record.exc_info), _hidden)
        return record

    return record_of
