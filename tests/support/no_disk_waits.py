"""No disk waits: what tests write outlives a killed process, and not a power cut, which no test makes.

Half of the time of a test with a store is SQLite's waiting for the disk behind each commit. Knows SQLite and `os.fsync`; applies to
this process and to those that are forked from it, MLflow's database and phi3kit's own alike.
"""

import contextlib
import os
import sqlite3
from typing import Any

_connect = sqlite3.connect


class _Connection(sqlite3.Connection):
    """A connection whose commits do not wait, whatever it is told."""

    def __init__(self, database: Any, timeout: float = 5.0, *given: Any, **named: Any) -> None:
        super().__init__(database, timeout, *given, **named)
        super().execute("pragma busy_timeout=0")  # the next line reads the file, which another program may have locked
        with contextlib.suppress(sqlite3.Error):
            super().execute("pragma synchronous=off")
        super().execute(f"pragma busy_timeout={int(timeout * 1000)}")

    def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
        return super().execute("" if statement.startswith("pragma synchronous") else statement, *given)


def _connect_without_waits(*given: Any, **named: Any) -> sqlite3.Connection:
    return _connect(*given, **{"factory": _Connection, **named})


def install() -> None:
    """From now on this process, and those that are forked from it, do not wait for the disk."""
    sqlite3.connect = sqlite3.dbapi2.connect = _connect_without_waits  # type: ignore[assignment,attr-defined]
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
