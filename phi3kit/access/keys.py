"""Keys: API keys that a person's own programs send to a worker, whose turns then count as that person's.

A key is shown once, when it is made. Only its SHA-256 is kept: for 256 random bits that is as good as a slow hash.
One SQLite file under the data folder, read with each request: a revoked key ends at once, in every worker, and each ends by
itself one day.
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
from typing import Literal

from phi3kit.access.actor import Actor
from phi3kit.access.sign_in_claims import same_name
from phi3kit.core.errors import RequestInvalid
from phi3kit.core.sqlite_file import transaction

PREFIX = "phi3kit_"
_TOKEN = re.compile(rf"{PREFIX}([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})", re.ASCII)
_LONGEST_NOTE, _LONGEST_NAME = 200, 200  # characters
MOST_KEYS = 20  # live ones of one user
USUAL_DAYS, MOST_DAYS = 90, 365  # of a key's life
_DAY_S = 86_400.0
_USED_FRESH_S = 60.0  # a key's last use is written once in so long
_SCHEMA = """
drop table if exists keys;     -- an earlier phi3kit's, which never ended
create table if not exists api_keys (
    id text primary key,
    user text not null,
    note text not null,
    digest text not null,      -- SHA-256 of the whole key
    created_at real not null,  -- seconds since the epoch
    expires_at real not null,
    last_used_at real,
    revoked_at real
);
create index if not exists api_keys_of on api_keys (user, created_at);
"""


@dataclass(frozen=True)
class ApiKey:
    """One key as it is listed; the key itself is not kept."""

    id: str
    user: str
    note: str
    created_at: float  # seconds since the epoch
    expires_at: float
    last_used_at: float | None  # within a minute
    revoked_at: float | None

    def state(self, now: float) -> Literal["live", "expired", "revoked"]:
        """Whether it still opens anything."""
        return "revoked" if self.revoked_at else "live" if now < self.expires_at else "expired"


class KeyStore:
    """The keys of one data folder. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = home / "keys.db", clock

    def create(self, user: str, note: str, actor: Actor, days: int = USUAL_DAYS) -> tuple[ApiKey, str]:
        """A new key that lives for so many days, and what its owner must send, which is not kept.

        Raises NotAllowed or RequestInvalid.
        """
        _require(actor, user)
        if not 1 <= days <= MOST_DAYS:
            raise RequestInvalid(
                "The key cannot be created.", f"A key cannot be valid for {days} days.", f"Use 1 to {MOST_DAYS} days."
            )
        user, note = same_name(user), " ".join(note.split())[:_LONGEST_NOTE]
        if not user or not user.isprintable() or len(user) > _LONGEST_NAME:
            raise RequestInvalid(
                "The key cannot be created.",
                f"{user[:40]!r} is not a user name.",
                "Use the name that Access shows for that user.",
            )
        now = self._clock()
        key = ApiKey(secrets.token_hex(6), user, note, now, now + days * _DAY_S, None, None)
        token = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
        with self._transaction() as connection:
            query = "select count(*) from api_keys where user = ? and revoked_at is null and expires_at > ?"
            if connection.execute(query, (user, now)).fetchone()[0] >= MOST_KEYS:
                raise RequestInvalid(
                    "The key cannot be created.",
                    f"{user} has {MOST_KEYS} keys already.",
                    "Revoke one that is no longer used.",
                )
            connection.execute(
                "insert into api_keys values (?, ?, ?, ?, ?, ?, null, null)",
                (key.id, key.user, key.note, _digest(token), key.created_at, key.expires_at),
            )
        return key, token

    def list(self, actor: Actor, *, everybody: bool = False) -> list[ApiKey]:
        """The actor's keys, newest first, or everybody's. Raises NotAllowed."""
        if everybody:
            actor.require("administer")
        if not self._path.exists():
            return []
        columns = "id, user, note, created_at, expires_at, last_used_at, revoked_at"
        with self._transaction() as connection:
            query = f"select {columns} from api_keys where ? or user = ? order by created_at desc, id"  # noqa: S608
            return [ApiKey(*row) for row in connection.execute(query, (everybody, same_name(actor.name)))]

    def revoke(self, key_id: str, actor: Actor) -> None:
        """End a key for good. Raises NotAllowed, or RequestInvalid when there is no such key."""
        with self._transaction() as connection:
            query = "select user from api_keys where id = ? and revoked_at is null"
            row = connection.execute(query, (key_id,)).fetchone()
            # Others do not learn that the key exists.
            if row is None or (same_name(row[0]) != same_name(actor.name) and not actor.may("administer")):
                raise RequestInvalid(
                    "The key cannot be revoked.",
                    f"You have no live key {key_id[:40]!r}.",
                    "See the list of keys: python -m phi3kit keys list.",
                )
            _require(actor, row[0])
            connection.execute("update api_keys set revoked_at = ? where id = ?", (self._clock(), key_id))

    def any_live(self) -> bool:
        """Whether there is a key that opens anything."""
        if not self._path.exists():
            return False
        with self._transaction() as connection:
            query = "select 1 from api_keys where revoked_at is null and expires_at > ? limit 1"
            return connection.execute(query, (self._clock(),)).fetchone() is not None

    def user_of(self, token: str) -> str | None:
        """The user of a key; None for one that is unknown, revoked or expired."""
        found = _TOKEN.fullmatch(token)
        if found is None or not self._path.exists():
            return None
        now = self._clock()
        with self._transaction() as connection:
            query = (
                "select user, digest, last_used_at from api_keys where id = ? and revoked_at is null and expires_at > ?"
            )
            row = connection.execute(query, (found[1], now)).fetchone()
            if row is None or not hmac.compare_digest(row[1], _digest(token)):
                return None
            if row[2] is None or not 0 <= now - row[2] < _USED_FRESH_S:
                connection.execute("update api_keys set last_used_at = ? where id = ?", (now, found[1]))
            return same_name(row[0])

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._path, _SCHEMA, "The list of API keys cannot be used.")


def looks_like_key(token: str) -> bool:
    """Whether a token has the form of a user's key."""
    return token.lower().startswith(PREFIX)


def _require(actor: Actor, user: str) -> None:
    actor.require("keys")
    if same_name(user) != same_name(actor.name):
        actor.require("administer")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
