"""People: the role of everybody who signed in, for whoever acts in their name when they are not there.

The app notes people as they come, and reads its lists anew when it starts; a worker asks with each request by key.
Ended sign-ins lie beside them: a kept copy of a cookie stays ended when the app is started again.
One SQLite file under the data folder. Knows no HTTP and no page.
"""

import json
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from sqlite3 import Connection

from phi3kit.access.sign_in_claims import Person, is_persons_name, role_of, same_name
from phi3kit.core.profiles import Role
from phi3kit.core.settings import RoleLists, Settings
from phi3kit.core.sqlite_file import connect, sqlite_errors, transaction

_SCHEMA = """
create table if not exists people (
    name text primary key,
    issuer text not null,
    subject text not null,
    email text,
    groups text not null,  -- a JSON list
    role text not null
);
create table if not exists ended_sign_ins (
    id text primary key,  -- a hash of the claims
    until real not null  -- when the cookie ends, seconds since the epoch
);
"""


_UNUSABLE = "The list of people cannot be used."


class People:
    """Everybody who signed in. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "people.db"

    def note(self, person: Person, role: Role) -> None:
        """Keep a person with their role of now."""
        with self._transaction() as connection:
            _write(connection, person, role)

    def reread(self, lists: RoleLists) -> None:
        """Give everybody the role that the lists give them now."""
        if not self._path.exists():
            return
        with self._transaction() as connection:
            rows = connection.execute("select issuer, subject, email, groups from people").fetchall()
            for issuer, subject, email, groups in rows:
                person = Person(issuer, subject, email, tuple(json.loads(groups)))
                _write(connection, person, role_of(person, lists))

    def role(self, name: str) -> Role:
        """A person's role; `nobody` for who never signed in."""
        if not self._path.exists():
            return "nobody"
        with self._transaction() as connection:
            row = connection.execute("select role from people where name = ?", (name,)).fetchone()
        return row[0] if row else "nobody"

    def end_sign_in(self, id: str, until: float) -> None:
        """Keep that a sign-in was ended, as long as its cookie would count (seconds since the epoch); older ones go."""
        with self._transaction() as connection:
            connection.execute("delete from ended_sign_ins where until < ?", (time.time(),))
            connection.execute("insert or replace into ended_sign_ins values (?, ?)", (id, until))

    def ended_sign_ins(self) -> dict[str, float]:
        """What was ended, and until when its cookie would count. Waits for nobody who writes."""
        if not self._path.exists():
            return {}
        with sqlite_errors(self._path, _UNUSABLE), closing(connect(self._path, _SCHEMA)) as connection:
            return dict(connection.execute("select id, until from ended_sign_ins").fetchall())

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._path, _SCHEMA, _UNUSABLE)


def role_of_key(user: str, settings: Settings) -> Role:
    """The role, now, of whoever a key stands for.

    A person's is their own. A key for another name was made by an admin for a program: it may what a user may. On one's own
    machine nobody signs in. Raises StorageFailed.
    """
    if settings.profile == "team" and is_persons_name(user):
        return People(settings.home).role(same_name(user))
    return "user"


def _write(connection: Connection, person: Person, role: Role) -> None:
    values = (person.name, person.issuer, person.subject, person.email, json.dumps(person.groups), role)
    connection.execute("insert or replace into people values (?, ?, ?, ?, ?, ?)", values)
