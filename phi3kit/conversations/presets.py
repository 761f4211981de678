"""Presets: chat settings that a person saved under a name.

Kept by user in one SQLite file under the data folder. Draws nothing.
"""

import json
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from phi3kit.conversations.chat_settings import ChatSettings, read
from phi3kit.core.errors import RequestInvalid
from phi3kit.core.sqlite_file import transaction

MAX_NAME_CHARACTERS = 60
_SCHEMA = """
create table if not exists presets (
    user text not null, name text not null, settings text not null, primary key (user, name)
);
"""


class Presets:
    """One user's presets. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, user: str) -> None:
        self._path, self._user = home / "presets.db", user

    def names(self) -> list[str]:
        """All names, sorted."""
        with self._transaction() as connection:
            rows = connection.execute("select name from presets where user = ?", (self._user,)).fetchall()
        return sorted((str(row[0]) for row in rows), key=str.casefold)

    def save(self, name: str, settings: ChatSettings) -> str:
        """Save settings under a name, replacing those that had it; the name as saved.

        Raises RequestInvalid for a name that cannot be used.
        """
        kept = " ".join(name.split())
        if not kept or len(kept) > MAX_NAME_CHARACTERS or not kept.isprintable():
            raise RequestInvalid(
                what="The preset was not saved.",
                why=f"Its name needs 1 to {MAX_NAME_CHARACTERS} printable characters.",
                next_step="Give it another name.",
                param="name",
            )
        with self._transaction() as connection:
            connection.execute(
                "insert or replace into presets values (?, ?, ?)", (self._user, kept, json.dumps(settings.to_json()))
            )
        return kept

    def load(self, name: str) -> tuple[ChatSettings, list[str]] | None:
        """The settings of a name, and a sentence for each unusable value; None for an unknown name."""
        with self._transaction() as connection:
            row = connection.execute(
                "select settings from presets where user = ? and name = ?", (self._user, name)
            ).fetchone()
        if row is None:
            return None
        try:
            values = json.loads(row[0])
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return ChatSettings(), [f"The preset {name} cannot be read. Nothing was changed."]
        return read(values)

    def delete(self, name: str) -> None:
        """Delete a preset, if there is one of that name."""
        with self._transaction() as connection:
            connection.execute("delete from presets where user = ? and name = ?", (self._user, name))

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The saved presets cannot be used.")
