"""Shared conversations: what a person lets the team read, by links that nobody can guess.

Kept in one SQLite file under the data folder: which link leads to whose conversation. The words stay where they are saved
(see `saved`): a reader sees the conversation as it is now, and nothing once its owner has deleted it, ended the link or lost
the role that shares.
Draws nothing.
"""

import secrets
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from phi3kit.access.actor import Actor
from phi3kit.access.people import People
from phi3kit.access.roles import may
from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.saved import SavedConversations
from phi3kit.core.sqlite_file import transaction

_SCHEMA = """
create table if not exists shared (
    token text primary key, user text not null, conversation_id text not null, unique (user, conversation_id)
);
"""


@dataclass(frozen=True)
class SharedConversation:
    """A conversation that somebody shared, and who."""

    conversation: Conversation
    owner: str


class SharedConversations:
    """The links of all users. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def token(self, conversation_id: str, actor: Actor) -> str | None:
        """What the link to one's own conversation ends in; None while it is not shared."""
        with self._transaction() as connection:
            return _token(connection, actor.name, conversation_id)

    def share(self, conversation_id: str, actor: Actor) -> str:
        """Share one's own conversation; what its link ends in, the same one each time. Raises NotAllowed."""
        actor.require("keep")
        with self._transaction() as connection:
            made = (secrets.token_urlsafe(24), actor.name, conversation_id)
            connection.execute("insert or ignore into shared values (?, ?, ?)", made)
            return str(_token(connection, actor.name, conversation_id))

    def end(self, conversation_id: str, actor: Actor) -> None:
        """Let one's own conversation be shared no longer; its link leads nowhere, also when it is shared again."""
        with self._transaction() as connection:
            connection.execute(
                "delete from shared where user = ? and conversation_id = ?", (actor.name, conversation_id)
            )

    def open(self, token: str, actor: Actor) -> SharedConversation | None:
        """What a link leads to; None when it leads nowhere (any more). Raises NotAllowed."""
        actor.require("read")
        with self._transaction() as connection:
            row = connection.execute("select user, conversation_id from shared where token = ?", (token,)).fetchone()
        if row is None or not may(People(self._home).role(row[0]), "keep"):  # whoever lost their role shares nothing
            return None
        found = SavedConversations(self._home, row[0]).open(row[1])
        return SharedConversation(found, row[0]) if found else None

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._home / "shared.db", _SCHEMA, "The shared conversations cannot be used.")


def _token(connection: sqlite3.Connection, user: str, conversation_id: str) -> str | None:
    row = connection.execute(
        "select token from shared where user = ? and conversation_id = ?", (user, conversation_id)
    ).fetchone()
    return str(row[0]) if row else None
