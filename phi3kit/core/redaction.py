"""Redaction: no secret that this process was told stands in a log line, whoever writes the line.

Knows what secrets are called, and logging. Changes no text that a person reads on a page.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

SECRET_WORDS = ("KEY", "TOKEN", "PASSWORD", "SECRET", "CREDENTIAL")  # in the name of a variable
MASK = "•••"
_SHORTEST = 6  # characters; masking less than that would eat ordinary words

_hidden: set[str] = set()


def hide_in_logs(told: Mapping[str, object]) -> None:
    """Mask the secrets among these variables in every log record of this process from now on."""
    found = {value for value in secrets_among(told) if len(value) >= _SHORTEST}
    if found and not _hidden:  # once: each call would wrap the factory of the one before
        logging.setLogRecordFactory(_masking(logging.getLogRecordFactory()))
    _hidden.update(found)


def secrets_among(told: Mapping[str, object]) -> Iterator[str]:
    """Values of variables that are named as secrets, and passwords in addresses; sections of secrets.toml too."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from secrets_among(value)
        elif not isinstance(value, str):
            continue
        elif any(word in name.upper() for word in SECRET_WORDS):
            yield value
        elif "://" in value:
            with suppress(ValueError):  # no address after all
                yield urlsplit(value).password or ""


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without these; the longest first, for one may be the beginning of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _masking(make: Any) -> Any:
    def record_of(*args: Any, **values: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **values)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments: the handler says so
            said = record.getMessage()
            if (hidden := masked(said, _hidden)) != said:
                record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters take this text as it is, and format the exception themselves only where there is none.
            record.exc_text = masked(logging.Formatter().formatException(record.exc_info), _hidden)
        return record

    return record_of
