"""Load times: how long each model's worker took to load last time, for those who wait for it.

Kept in one SQLite file under the data folder. Draws nothing.
"""

import contextlib
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from phi3kit.core.errors import StorageFailed
from phi3kit.core.sqlite_file import transaction

_SCHEMA = "create table if not exists load_times (model_uri text primary key, seconds real not null);"


class LoadTimes:
    """The last load time of each logged model. Safe from several threads and processes.

    A store that cannot be used costs the estimate and nothing else: whoever waits is told so by what needs the store.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "load_times.db"

    def seconds(self, model_uri: str) -> float | None:
        """From the start of its process until it was ready; None where it was never loaded."""
        with contextlib.suppress(StorageFailed), self._transaction() as connection:
            row = connection.execute("select seconds from load_times where model_uri = ?", (model_uri,)).fetchone()
            return float(row[0]) if row else None
        return None

    def keep(self, model_uri: str, seconds: float) -> None:
        """Remember the newest."""
        with contextlib.suppress(StorageFailed), self._transaction() as connection:
            connection.execute("insert or replace into load_times values (?, ?)", (model_uri, seconds))

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The load times cannot be read.")
