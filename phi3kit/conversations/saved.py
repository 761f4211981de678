"""Saved conversations: one user's chats on the server, found by title and text.

One SQLite file under the data folder. Turns never change, so two tabs on one conversation save the union of theirs.
A deleted turn or conversation leaves its id without its text, so that another tab does not save it again; a tab that
has a new turn below it does. Draws nothing.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.conversations import chat_settings
from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation, messages_of
from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.records import Message
from phi3kit.core.sqlite_file import transaction
from phi3kit.endpoints.records import Answer

MAX_TITLE_CHARACTERS = 120
# Fields of a turn that JSON takes as they are.
_AS_THEY_ARE = ("turn_id", "parent", "at", "text", "continues", "begun", "model_uri", "wrapper", "settled")
_SCHEMA = """
create table if not exists conversations (
    id text not null,
    user text not null,
    title text not null,       -- given by a person, or ''
    name text not null,        -- in the list
    leaf text,
    changed_at real not null,  -- seconds since the epoch
    version integer not null,  -- grows with each change
    deleted integer not null default 0,
    primary key (user, id)
);
create table if not exists turns (
    number integer primary key autoincrement,
    user text not null,
    conversation_id text not null,
    turn_id text not null,
    record text not null,      -- JSON; '' when the turn was deleted
    words text not null,       -- message and answer, for the search
    settled integer not null,
    unique (user, conversation_id, turn_id)
);
"""


@dataclass(frozen=True)
class ListedConversation:
    """A conversation in the list."""

    id: str
    name: str
    turns: int
    changed_at: float  # seconds since the epoch


@dataclass(frozen=True)
class OtherTabChanges:
    """What another tab did to a conversation that is open here."""

    new_turns: int = 0
    deleted_turns: int = 0
    deleted: bool = False  # the whole conversation


class SavedConversations:
    """One user's conversations. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, user: str, *, keeps: bool = True) -> None:
        """keeps: False where words stay in the tab: nothing is ever saved."""
        self._path, self._user, self._keeps = home / "conversations.db", user, keeps

    def find(self, text: str = "", limit: int = 50, offset: int = 0) -> tuple[list[ListedConversation], int]:
        """A page of the conversations that have `text` in name, message or answer, newest first; and their number."""
        wanted = text.strip().casefold()
        where = "c.user = :user and not c.deleted"
        if wanted:
            where += """ and (instr(casefold(c.name), :text) or exists (select 1 from turns t
                where t.user = c.user and t.conversation_id = c.id and t.record != '' and instr(t.words, :text)))"""
        values = {"user": self._user, "text": wanted, "limit": limit, "offset": offset}
        with self._transaction() as connection:
            connection.create_function("casefold", 1, str.casefold, deterministic=True)
            total = connection.execute(f"select count(*) from conversations c where {where}", values).fetchone()[0]  # noqa: S608
            rows = connection.execute(
                f"""select c.id, c.name, (select count(*) from turns t where t.user = c.user
                and t.conversation_id = c.id and t.record != ''), c.changed_at from conversations c where {where}
                order by c.changed_at desc, c.id limit :limit offset :offset""",  # noqa: S608
                values,
            ).fetchall()
        return [ListedConversation(*row) for row in rows], int(total)

    def among(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids, a few hundred at most, that are saved conversations; none is opened."""
        marks = ", ".join("?" * len(ids))
        query = f"select id from conversations where user = ? and not deleted and id in ({marks})"  # noqa: S608
        with self._transaction() as connection:
            return {str(row[0]) for row in connection.execute(query, (self._user, *ids))}

    def open(self, conversation_id: str) -> Conversation | None:
        """A saved conversation; None when this user has none of that id."""
        with self._transaction() as connection:
            head = self._head(connection, conversation_id)
            records = self._records(connection, conversation_id)
        if head is None or head["deleted"]:
            return None
        conversation = Conversation(conversation_id, title=head["title"], version=head["version"])
        conversation.merge(self._turns(conversation, records))
        if conversation.turns:
            end = conversation.turn(head["leaf"]) or conversation.turns[-1]
            conversation.leaf = end.turn_id
        return conversation

    def save(self, conversation: Conversation) -> bool:
        """Save new turns and which branch is shown; True when this restored deleted turns."""
        if not self._keeps:
            conversation.unsaved = False
            return False
        with self._transaction() as connection:
            head = self._head(connection, conversation.id)
            records = self._records(connection, conversation.id)
            new = {turn.turn_id for turn in conversation.turns if turn.turn_id not in records}
            needed = {turn.turn_id for turn_id in new for turn in conversation.path(turn_id)}
            back = {turn_id for turn_id in needed if records.get(turn_id) == ""}
            unsettled = self._unsettled(connection, conversation.id)
            for turn in conversation.turns:
                if turn.turn_id in new | back or (turn.settled and turn.turn_id in unsettled):
                    self._put(connection, conversation.id, turn)
            deleted = bool(head and head["deleted"])
            version = (head["version"] if head else 0) + 1
            connection.execute(
                """insert into conversations values (?, ?, ?, ?, ?, ?, ?, 0) on conflict do update set
                name = excluded.name, leaf = excluded.leaf, changed_at = excluded.changed_at,
                version = excluded.version, deleted = 0""",
                (conversation.id, self._user, conversation.title, conversation.name, conversation.leaf, time.time(),
                 version),
            )  # fmt: skip
        # Another tab may have saved in between: then refresh must still read its turns.
        if head is None or head["version"] == conversation.version:
            conversation.version = version
        conversation.unsaved = False
        return bool(deleted or back)

    def refresh(self, conversation: Conversation) -> OtherTabChanges:
        """Take over what other tabs have saved since; the shown branch stays. Does nothing before the first save."""
        if not conversation.version:
            return OtherTabChanges()
        with self._transaction() as connection:
            head = self._head(connection, conversation.id)
            if head is None or head["version"] == conversation.version:
                return OtherTabChanges()
            records = self._records(connection, conversation.id)
        if head["deleted"]:
            conversation.version = head["version"]
            return OtherTabChanges(deleted=True)
        gone = [turn_id for turn_id, record in records.items() if not record and conversation.turn(turn_id)]
        # An unsaved turn is not lost with its deleted parent: saving it restores both.
        gone = [each for each in gone if all(turn.turn_id in records for turn in conversation.subtree(each))]
        conversation.remove(gone)
        new = conversation.merge(self._turns(conversation, records))
        conversation.title, conversation.version = head["title"], head["version"]
        return OtherTabChanges(new, len(gone))

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a title; an empty one makes the first message the title again."""
        conversation = self.open(conversation_id)
        if conversation is None:
            return
        conversation.title = " ".join(title.split())[:MAX_TITLE_CHARACTERS]
        with self._transaction() as connection:
            connection.execute(
                "update conversations set title = ?, name = ?, version = version + 1 where user = ? and id = ?",
                (conversation.title, conversation.name, self._user, conversation_id),
            )

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation and its text."""
        with self._transaction() as connection:
            connection.execute(
                "delete from turns where user = ? and conversation_id = ?", (self._user, conversation_id)
            )
            connection.execute(
                """update conversations set title = '', name = '', leaf = null, deleted = 1, version = version + 1
                where user = ? and id = ?""",
                (self._user, conversation_id),
            )

    def remove(self, conversation: Conversation, turn_id: str) -> None:
        """Delete a turn and its descendants, here and on the server."""
        gone = [turn.turn_id for turn in conversation.subtree(turn_id)]
        conversation.remove([turn_id])
        with self._transaction() as connection:
            connection.executemany(
                "update turns set record = '', words = '' where user = ? and conversation_id = ? and turn_id = ?",
                [(self._user, conversation.id, each) for each in gone],
            )
        self.save(conversation)

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The saved conversations cannot be used.")

    def _head(self, connection: sqlite3.Connection, conversation_id: str) -> dict[str, Any] | None:
        row = connection.execute(
            "select title, leaf, version, deleted from conversations where user = ? and id = ?",
            (self._user, conversation_id),
        ).fetchone()
        return dict(zip(("title", "leaf", "version", "deleted"), row, strict=True)) if row else None

    def _records(self, connection: sqlite3.Connection, conversation_id: str) -> dict[str, str]:
        rows = connection.execute(
            "select turn_id, record from turns where user = ? and conversation_id = ? order by number",
            (self._user, conversation_id),
        )
        return {str(row[0]): str(row[1]) for row in rows}

    def _unsettled(self, connection: sqlite3.Connection, conversation_id: str) -> set[str]:
        rows = connection.execute(
            "select turn_id from turns where user = ? and conversation_id = ? and not settled and record != ''",
            (self._user, conversation_id),
        )
        return {str(row[0]) for row in rows}

    def _put(self, connection: sqlite3.Connection, conversation_id: str, turn: ChatTurn) -> None:
        words = f"{turn.text}\n{turn.answer_text}".casefold()
        connection.execute(
            """insert into turns (user, conversation_id, turn_id, record, words, settled) values (?, ?, ?, ?, ?, ?)
            on conflict do update set record = excluded.record, words = excluded.words, settled = excluded.settled""",
            (self._user, conversation_id, turn.turn_id, json.dumps(to_record(turn)), words, turn.settled),
        )

    def _turns(self, conversation: Conversation, records: dict[str, str]) -> list[ChatTurn]:
        """The turns of stored records that were not deleted, parents before children."""
        whole = Conversation(turns=list(conversation.turns))
        turns = []
        for record in filter(None, records.values()):
            try:
                turn = from_record(json.loads(record), whole)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise StorageFailed(
                    what="This conversation cannot be read.",
                    why="One of its saved turns is damaged.",
                    next_step="Start a new chat, or delete the conversation.",
                ) from error
            whole.merge([turn])
            turns.append(turn)
        return turns


def to_record(turn: ChatTurn) -> dict[str, Any]:
    """A turn as JSON, without the history of its request, which is in the turns before it."""
    error = turn.error
    return {name: getattr(turn, name) for name in _AS_THEY_ARE} | {
        "answer": asdict(turn.answer),
        "settings": ChatSettings.of(turn.request).to_json(),
        "error": [error.what, error.why, error.next_step] if error else None,
    }


def from_record(record: dict[str, Any], conversation: Conversation) -> ChatTurn:
    """The turn of a record; `conversation` has the turns before it. Raises ValueError, KeyError or TypeError."""
    settings, _ = chat_settings.read(record["settings"])
    history = messages_of(conversation.path(record["parent"]), settings.system_prompt)
    new = [Message("user", record["text"])] if record["text"] else []
    begun = [Message("assistant", record["begun"])] if record["continues"] else []
    return ChatTurn(
        **{name: record[name] for name in _AS_THEY_ARE},
        answer=Answer(**record["answer"]),
        request=replace(settings.request((*history, *new, *begun)), continues=bool(record["continues"])),
        error=Phi3KitError(*record["error"]) if record["error"] else None,
    )
