"""SQLite file: a small database under the data folder, opened anew for each call.

Knows SQLite's traps and how its errors read. Knows no table.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phi3kit.core.errors import StorageFailed


@contextmanager
def transaction(path: Path, schema: str, what: str) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it is kept or nothing. Safe from several threads and processes.

    schema: statements that make the tables where they are missing. what: the file's content in words, for the error.
    Raises StorageFailed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # what people write is theirs
        # A connection a call: it costs 0.1 ms, and a connection must not be shared by threads.
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma secure_delete=on")
            connection.executescript(schema)
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(
            what=f"{what} cannot be used.",
            why=f"{path.name}: {error}.",
            next_step="Free some space in the data folder and check that it can be written.",
        ) from error
