"""SQLite file: how every database under the data folder is opened, and how its errors read.

Knows SQLite's traps. Knows no table.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from phi3kit.core.errors import StorageFailed

_WAIT_S = 10.0  # for another process that writes


def connect(
    path: Path,
    schema: str,
    *,
    upgrade: Callable[[sqlite3.Connection], None] = lambda connection: None,
    durable: bool = True,
    any_thread: bool = False,
) -> sqlite3.Connection:
    """Open a database; the file and its tables are made where they are missing.

    schema: statements that make the tables. upgrade: brings the tables of an earlier phi3kit up to date.
    durable: a commit waits for the disk; else it outlives this process, and not a power cut.
    Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # nobody else reads what people write, also where a process has not called keep_private
    connection = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=not any_thread)
    try:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma secure_delete=on")  # deleted text must not stay in free pages
        connection.execute(f"pragma synchronous={'full' if durable else 'normal'}")
        connection.executescript(schema)
        upgrade(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(path: Path, schema: str, what: str) -> Iterator[sqlite3.Connection]:
    """One transaction on a connection of its own; it holds the file's write lock from the beginning.

    A connection a call costs 0.1 ms, and threads must not share one. what: see `sqlite_errors`. Raises StorageFailed.
    """
    with sqlite_errors(path, what), closing(connect(path, schema)) as connection, connection:
        connection.execute("begin immediate")
        yield connection


class OpenFile:
    """A database that stays open: to open it and to close its last connection costs 20 ms. Safe from several threads.

    Threads take turns here: those that wait for SQLite's own lock look for it at intervals, and the one that came last may
    get it first.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        what: str,
        *,
        upgrade: Callable[[sqlite3.Connection], None] = lambda connection: None,
    ) -> None:
        """A commit is the operating system's at once: it outlives this process, and not a power cut.

        schema, upgrade: see `connect`. what: see `sqlite_errors`.
        """
        self._path, self._schema, self._what, self._upgrade = path, schema, what, upgrade
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None

    @contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. writes: it holds the file's write lock from the beginning. Raises StorageFailed."""
        with sqlite_errors(self._path, self._what), self._turn():
            try:
                with self._opened() as connection:
                    if writes:
                        connection.execute("begin immediate")
                    yield connection
            except (sqlite3.Error, OSError):
                self._close()
                raise

    def close(self) -> None:
        """Close it; the next transaction opens it again. Raises StorageFailed."""
        with sqlite_errors(self._path, self._what), self._turn():
            self._close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        # As long as SQLite itself waits: where another process holds the file, nobody waits for all who came before.
        if not self._guard.acquire(timeout=_WAIT_S):
            raise sqlite3.OperationalError("database is locked")
        try:
            yield
        finally:
            self._guard.release()

    def _opened(self) -> sqlite3.Connection:
        # Somebody may have removed the file.
        try:
            inode: int | None = os.stat(self._path).st_ino
        except OSError:
            inode = None
        if self._connection is None or inode is None or inode != self._inode:
            self._close()
            self._connection = connect(self._path, self._schema, upgrade=self._upgrade, durable=False, any_thread=True)
            self._inode = os.stat(self._path).st_ino
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def sqlite_errors(path: Path, what: str) -> Iterator[None]:
    """Translate what SQLite and the file system say. what: the sentence that says what happened. Raises StorageFailed."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(
            what,
            f"{path.name}: {error}.",
            "Free some space in the data folder and check that it can be written.",
        ) from error


@contextmanager
def anothers(path: Path, wait_s: float) -> Iterator[sqlite3.Connection]:
    """One transaction on another program's database, which is left in its own modes. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path, timeout=wait_s)) as connection, connection:
        yield connection


def probe(path: Path, wait_s: float) -> None:
    """Read the first page of another program's database, and change nothing. Raises sqlite3.Error."""
    with anothers(path, wait_s) as connection:
        connection.execute("pragma schema_version")
