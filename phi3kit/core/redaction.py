"""Redaction: masks the secrets of this process in every log line, whoever writes it.

Knows what secrets are called, and logging. Changes no text on a page.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from phi3kit.core.secret import MASK, SECRET_WORDS, secrets_of_url

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
        elif not isinstance(value, str):
            continue
        elif any(word in name.upper() for word in SECRET_WORDS):
            yield value
        elif "://" in value:
            yield from secrets_of_url(value)


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without these; the longest first, as one may begin with another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def without_secrets(text: str) -> str:
    """A text of somebody else's without the secrets that this process was told."""
    return masked(text, _hidden)


def _masking(make: Any) -> Any:
    def record_of(*args: Any, **values: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **values)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments: the handler says so
            said = record.getMessage()
            if (hidden := masked(said, _hidden)) != said:
                record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters use this text instead of formatting the exception.
            record.exc_text = masked(logging.Formatter().formatException(record.exc_info), _hidden)
        return record

    return record_of
