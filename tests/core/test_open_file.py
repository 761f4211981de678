"""A database that stays open: threads, a file that is removed meanwhile, and another process that holds it."""

import threading
import time
from pathlib import Path

import pytest

from phi3kit.core import sqlite_file
from phi3kit.core.errors import StorageFailed
from phi3kit.core.sqlite_file import OpenFile, anothers

SCHEMA = "create table if not exists numbers (number integer)"


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    return OpenFile(tmp_path / "numbers.db", SCHEMA, "The numbers cannot be used.")


def add(file: OpenFile, number: int) -> None:
    with file.transaction(writes=True) as connection:
        connection.execute("insert into numbers values (?)", (number,))


def numbers(file: OpenFile) -> list[int]:
    with file.transaction() as connection:
        return [number for (number,) in connection.execute("select number from numbers order by number")]


def test_many_threads_lose_nothing(file: OpenFile):
    threads = [threading.Thread(target=add, args=(file, number)) for number in range(40)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert numbers(file) == list(range(40))


def test_what_fails_half_way_changes_nothing(file: OpenFile):
    def half() -> None:
        with file.transaction(writes=True) as connection:
            connection.execute("insert into numbers values (1)")
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        half()
    assert numbers(file) == []


def test_after_somebody_removed_the_file_there_is_a_new_one(file: OpenFile, tmp_path: Path):
    add(file, 1)
    for each in tmp_path.iterdir():
        each.unlink()
    add(file, 2)
    assert numbers(file) == [2]
    assert (tmp_path / "numbers.db").exists()


def test_closed_it_opens_again(file: OpenFile):
    add(file, 1)
    file.close()
    assert numbers(file) == [1]


def test_while_another_program_holds_it_each_waits_its_own_time_and_is_told_why(
    file: OpenFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite_file, "_WAIT_S", 0.5)
    add(file, 1)
    file.close()  # opened again below, with the shorter wait
    told: list[str] = []

    def try_to_add() -> None:
        with pytest.raises(StorageFailed) as caught:
            add(file, 2)
        told.append(str(caught.value))

    with anothers(tmp_path / "numbers.db", 1) as connection:
        connection.execute("begin exclusive")
        threads = [threading.Thread(target=try_to_add) for _ in range(40)]
        began = time.monotonic()
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        waited_s = time.monotonic() - began
    assert len(told) == 40
    assert all("The numbers cannot be used." in each and "locked" in each for each in told)
    assert waited_s < 10, "one behind the other they would wait 20 s"
    assert numbers(file) == [1]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageFailed, match="cannot be used"):
        numbers(OpenFile(tmp_path / "file" / "numbers.db", SCHEMA, "The numbers cannot be used."))
