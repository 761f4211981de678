"""Keys: API keys that a person's own programs send to a worker, whose turns then count as that person's.

A key is shown once, when it is made. Only its SHA-256 is kept: for 256 random bits that is as good as a slow hash.
One SQLite file under the data folder, read with each request: a revoked key ends at once, in every worker.
Knows no HTTP and no page.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from phi3kit.access.actor import Actor
from phi3kit.core.errors import RequestInvalid
from phi3kit.core.sqlite_file import transaction

PREFIX = "phi3kit_"
_TOKEN = re.compile(rf"{PREFIX}([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})", re.ASCII)
_LONGEST_NOTE, _LONGEST_NAME = 200, 200  # characters
MOST_KEYS = 20  # live ones of one user
_USED_FRESH_S = 60.0  # a key's last use is written once in so long
_SCHEMA = """
create table if not exists keys (
    id text primary key,
    user text not null,
    note text not null,
    digest text not null,      -- SHA-256 of the whole key
    created_at real not null,  -- seconds since the epoch
    last_used_at real,
    revoked_at real
);
create index if not exists keys_of on keys (user, created_at);
"""


@dataclass(frozen=True)
class ApiKey:
    """One key as it is listed; the key itself is not kept."""

    id: str
    user: str
    note: str
    created_at: float  # seconds since the epoch
    last_used_at: float | None  # within a minute
    revoked_at: float | None


class KeyStore:
    """The keys of one data folder. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / "keys.db", clock

    def create(self, user: str, note: str, actor: Actor) -> tuple[ApiKey, str]:
        """A new key, and what its owner must send, which is not kept. Raises NotAllowed or RequestInvalid."""
        _require(actor, user)
        user, note = user.strip(), " ".join(note.split())[:_LONGEST_NOTE]
        if not user or not user.isprintable() or len(user) > _LONGEST_NAME:
            raise RequestInvalid(
                "The key cannot be made.",
                f"{user[:40]!r} is no name of a user.",
                "Give the name that Access shows for that person.",
            )
        key = ApiKey(secrets.token_hex(6), user, note, self._clock(), None, None)
        token = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
        with self._transaction() as connection:
            query = "select count(*) from keys where user = ? and revoked_at is null"
            if connection.execute(query, (user,)).fetchone()[0] >= MOST_KEYS:
                raise RequestInvalid(
                    "The key cannot be made.",
                    f"{user} has {MOST_KEYS} keys already.",
                    "Revoke one that is not used any more.",
                )
            connection.execute(
                "insert into keys values (?, ?, ?, ?, ?, null, null)",
                (key.id, key.user, key.note, _digest(token), key.created_at),
            )
        return key, token

    def list(self, actor: Actor, *, everybody: bool = False) -> list[ApiKey]:
        """The actor's keys, newest first, or everybody's. Raises NotAllowed."""
        if everybody:
            actor.require("administer")
        if not self._path.exists():
            return []
        columns = "id, user, note, created_at, last_used_at, revoked_at"
        with self._transaction() as connection:
            query = f"select {columns} from keys where ? or user = ? order by created_at desc, id"  # noqa: S608
            return [ApiKey(*row) for row in connection.execute(query, (everybody, actor.name))]

    def revoke(self, key_id: str, actor: Actor) -> None:
        """End a key for good. Raises NotAllowed, or RequestInvalid when there is no such key."""
        with self._transaction() as connection:
            row = connection.execute("select user from keys where id = ? and revoked_at is null", (key_id,)).fetchone()
            # Others do not learn that the key exists.
            if row is None or (row[0] != actor.name and not actor.may("administer")):
                raise RequestInvalid(
                    "The key cannot be revoked.",
                    f"There is no live key {key_id[:40]!r} that is yours.",
                    "See the list of keys: python -m phi3kit keys list.",
                )
            _require(actor, row[0])
            connection.execute("update keys set revoked_at = ? where id = ?", (self._clock(), key_id))

    def any_live(self) -> bool:
        """Whether there is a key that is not revoked."""
        if not self._path.exists():
            return False
        with self._transaction() as connection:
            return connection.execute("select 1 from keys where revoked_at is null limit 1").fetchone() is not None

    def user_of(self, token: str) -> str | None:
        """The user of a key; None for an unknown or revoked one."""
        found = _TOKEN.fullmatch(token)
        if found is None or not self._path.exists():
            return None
        now = self._clock()
        with self._transaction() as connection:
            query = "select user, digest, last_used_at from keys where id = ? and revoked_at is null"
            row = connection.execute(query, (found[1],)).fetchone()
            if row is None or not hmac.compare_digest(row[1], _digest(token)):
                return None
            if row[2] is None or not 0 <= now - row[2] < _USED_FRESH_S:
                connection.execute("update keys set last_used_at = ? where id = ?", (now, found[1]))
            return str(row[0])

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._path, _SCHEMA, "The list of API keys cannot be used.")


def looks_like_key(token: str) -> bool:
    """Whether a token has the form of a user's key."""
    return token.startswith(PREFIX)


def _require(actor: Actor, user: str) -> None:
    actor.require("keys")
    if user.strip() != actor.name:
        actor.require("administer")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
