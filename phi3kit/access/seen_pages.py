"""Seen pages: which pages a person has opened, so that Home can mark the steps that were taken.

Kept by user in one SQLite file under the data folder. Draws nothing.
"""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from phi3kit.core.sqlite_file import transaction

_SCHEMA = "create table if not exists seen (user text not null, page text not null, primary key (user, page));"


class SeenPages:
    """One user's seen pages. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, user: str) -> None:
        self._path, self._user = home / "seen_pages.db", user

    def add(self, page: str) -> None:
        """Remember a page."""
        with self._transaction() as connection:
            connection.execute("insert or ignore into seen values (?, ?)", (self._user, page))

    def names(self) -> set[str]:
        """All remembered pages."""
        with self._transaction() as connection:
            rows = connection.execute("select page from seen where user = ?", (self._user,)).fetchall()
        return {str(row[0]) for row in rows}

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The pages seen before cannot be read.")
