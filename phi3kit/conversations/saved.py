"""Saved conversations: one user's chats on the server, found again by title and text.

One SQLite file under the data folder. Turns never change, so two tabs on one conversation save the union of theirs.
A deleted turn or conversation leaves its id, without its text, so that another tab does not bring it back unasked;
who goes on from it does. Knows no page.
"""

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phi3kit.conversations import chat_settings as chat_settings
from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation, messages_of
from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.records import Message
from phi3kit.core.sqlite_file import transaction
from phi3kit.endpoints.client import Answer

MAX_TITLE_CHARACTERS = 120
_SCHEMA = """
create table if not exists conversations (
    id text not null,
    user text not null,
    title text not null,       -- given by a person, or ''
    name text not null,        -- as it is listed
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
    record text not null,      -- '' when it was deleted
    words text not null,       -- message and answer, for the search
    settled integer not null,
    unique (user, conversation_id, turn_id)
);
"""


@dataclass(frozen=True)
class Listed:
    """A conversation in the list."""

    id: str
    name: str
    turns: int
    changed_at: float  # seconds since the epoch


@dataclass(frozen=True)
class Elsewhere:
    """What another tab did to a conversation that is open here."""

    new_turns: int = 0
    deleted_turns: int = 0
    deleted: bool = False  # the whole conversation


class SavedConversations:
    """One user's conversations. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, user: str, *, keeps: bool = True) -> None:
        """keeps: False for somebody whose words stay in the tab alone; then nothing is ever saved."""
        self._path, self._user, self._keeps = home / "conversations.db", user, keeps

    def find(self, text: str = "", limit: int = 50, offset: int = 0) -> tuple[list[Listed], int]:
        """A page of the conversations in whose name, messages or answers `text` stands, newest first; how many there are."""
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
                f"""select c.id, c.name, c.changed_at, (select count(*) from turns t where t.user = c.user
                and t.conversation_id = c.id and t.record != '') from conversations c where {where}
                order by c.changed_at desc, c.id limit :limit offset :offset""",  # noqa: S608
                values,
            ).fetchall()
        return [Listed(row[0], row[1], row[3], row[2]) for row in rows], int(total)

    def open(self, conversation_id: str) -> Conversation | None:
        """A saved conversation, whole; None when this user has none of that id."""
        with self._transaction() as connection:
            head = self._head(connection, conversation_id)
            records = self._records(connection, conversation_id)
        if head is None or head["deleted"]:
            return None
        conversation = Conversation(conversation_id, title=head["title"], version=head["version"])
        conversation.merge(self._turns(conversation, (record for record in records.values() if record)))
        if conversation.turns:
            end = conversation.turn(head["leaf"]) or conversation.turns[-1]
            conversation.leaf = end.turn_id
        return conversation

    def save(self, conversation: Conversation) -> bool:
        """Keep every turn that is not kept yet, and which branch is shown; True when this brought back deleted ones."""
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
        # Others may have saved in between: then this one is not like the saved one yet, and refresh must look.
        if head is None or head["version"] == conversation.version:
            conversation.version = version
        conversation.unsaved = False
        return bool(deleted or back)

    def refresh(self, conversation: Conversation) -> Elsewhere:
        """Take in what other tabs have saved since; the shown branch stays. Nothing happens to one that was never saved."""
        if not conversation.version:
            return Elsewhere()
        with self._transaction() as connection:
            head = self._head(connection, conversation.id)
            if head is None or head["version"] == conversation.version:
                return Elsewhere()
            records = self._records(connection, conversation.id)
        if head["deleted"]:
            conversation.version = head["version"]
            return Elsewhere(deleted=True)
        gone = [turn_id for turn_id, record in records.items() if not record and conversation.turn(turn_id)]
        # What was never saved is not lost with the turn that it goes on from: saving it brings both back.
        gone = [each for each in gone if all(turn.turn_id in records for turn in conversation.behind(each))]
        conversation.remove(gone)
        new = conversation.merge(self._turns(conversation, (record for record in records.values() if record)))
        conversation.title, conversation.version = head["title"], head["version"]
        return Elsewhere(new, len(gone))

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a title; an empty one lets the first message stand for it again."""
        kept = " ".join(title.split())[:MAX_TITLE_CHARACTERS]
        conversation = self.open(conversation_id)
        if conversation is None:
            return
        conversation.title = kept
        with self._transaction() as connection:
            connection.execute(
                "update conversations set title = ?, name = ?, version = version + 1 where user = ? and id = ?",
                (kept, conversation.name, self._user, conversation_id),
            )

    def delete(self, conversation_id: str) -> None:
        """Forget a conversation and its text."""
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
        """Take a turn and all behind it away, here and on the server."""
        gone = [turn.turn_id for turn in conversation.behind(turn_id)]
        conversation.remove([turn_id])
        with self._transaction() as connection:
            connection.executemany(
                """update turns set record = '', words = '' where user = ? and conversation_id = ? and turn_id = ?""",
                [(self._user, conversation.id, each) for each in gone],
            )
        self.save(conversation)

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The saved conversations")

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

    def _turns(self, conversation: Conversation, records: Iterable[str]) -> list[ChatTurn]:
        """The turns of stored records, each behind its parent, as they are stored."""
        whole = Conversation(turns=list(conversation.turns))
        turns = []
        for record in records:
            try:
                turn = from_record(json.loads(record), whole)
            except (ValueError, KeyError, TypeError) as error:
                raise StorageFailed(
                    what="This conversation cannot be read.",
                    why="One of its saved turns is damaged.",
                    next_step="Start a new chat, or delete the conversation.",
                ) from error
            whole.merge([turn])
            turns.append(turn)
        return turns


def to_record(turn: ChatTurn) -> dict[str, Any]:
    """A turn as JSON. What was said before it is in the turns before it, and left out here."""
    error = turn.error
    return {
        "turn_id": turn.turn_id,
        "parent": turn.parent,
        "at": turn.at,
        "text": turn.text,
        "continues": turn.continues,
        "begun": turn.begun,
        "answer": asdict(turn.answer),
        "settings": ChatSettings.of(turn.request).to_json(),
        "model_uri": turn.model_uri,
        "wrapper": turn.wrapper,
        "settled": turn.settled,
        "error": [error.what, error.why, error.next_step] if error else None,
    }


def from_record(record: dict[str, Any], conversation: Conversation) -> ChatTurn:
    """The turn of a record, in a conversation that has the turns before it. Raises ValueError, KeyError or TypeError."""
    settings, _ = chat_settings.read(record["settings"])
    history = messages_of(conversation.path(record["parent"]), settings.system_prompt)
    asked = [Message("user", record["text"])] if record["text"] else []
    begun = [Message("assistant", record["begun"])] if record["continues"] else []
    return ChatTurn(
        text=record["text"],
        answer=Answer(**record["answer"]),
        request=replace(settings.request((*history, *asked, *begun)), continues=bool(record["continues"])),
        model_uri=record["model_uri"],
        wrapper=record["wrapper"],
        turn_id=record["turn_id"],
        error=Phi3KitError(*record["error"]) if record["error"] else None,
        settled=record["settled"],
        parent=record["parent"],
        continues=record["continues"],
        begun=record["begun"],
        at=record["at"],
    )
