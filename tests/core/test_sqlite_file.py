"""SQLite file: a transaction is kept whole or not at all."""

import threading
from pathlib import Path

import pytest

from phi3kit.core.errors import StorageFailed
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.core.sqlite_file import transaction

KIT = PROJECT_ROOT / "phi3kit"
SCHEMA = "create table if not exists numbers (number integer);"


def numbers(path: Path) -> list[int]:
    with transaction(path, SCHEMA, "The numbers cannot be used.") as connection:
        return [row[0] for row in connection.execute("select number from numbers order by number")]


class TestTransaction:
    def test_an_error_inside_takes_everything_back(self, tmp_path: Path):
        path = tmp_path / "numbers.db"

        def interrupted() -> None:
            with transaction(path, SCHEMA, "The numbers cannot be used.") as connection:
                connection.execute("insert into numbers values (1)")
                raise KeyError

        with pytest.raises(KeyError):
            interrupted()
        assert numbers(path) == []

    def test_threads_wait_for_each_other(self, tmp_path: Path):
        path = tmp_path / "numbers.db"

        def count() -> None:
            for _ in range(20):
                with transaction(path, SCHEMA, "The numbers cannot be used.") as connection:
                    (most,) = connection.execute("select coalesce(max(number), 0) from numbers").fetchone()
                    connection.execute("insert into numbers values (?)", (most + 1,))

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert numbers(path) == list(range(1, 81))

    def test_a_folder_that_cannot_be_written_is_explained(self, tmp_path: Path):
        (tmp_path / "home").write_text("a file in the way")
        with pytest.raises(StorageFailed, match="The numbers cannot be used"):
            numbers(tmp_path / "home" / "numbers.db")


def test_no_other_module_opens_a_database_by_itself():
    users = [path.name for path in KIT.rglob("*.py") if "sqlite3.connect(" in path.read_text("utf-8")]
    assert users == ["sqlite_file.py"]
