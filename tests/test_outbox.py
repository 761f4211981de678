"""The outbox: turns are added once, in their order, from several threads and processes."""

import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from phi3kit.errors import StorageFailed
from phi3kit.usage.outbox import Outbox
from tests.samples import turn

SAME_IDS = [f"t{number}" for number in range(25)]


def add_all(home: Path) -> list[str]:
    """Add the same turns as everybody else; the ids that were new."""
    outbox = Outbox(home)
    return [turn_id for turn_id in SAME_IDS if outbox.add(turn(turn_id))]


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path)


class TestAdd:
    def test_a_turn_is_added_once_and_its_first_record_is_kept(self, outbox: Outbox):
        assert outbox.add(turn("t1", completion_tokens=5)) is True
        assert outbox.add(turn("t1", completion_tokens=9)) is False
        assert outbox.waiting() == 1
        assert outbox.find("t1") == turn("t1", completion_tokens=5)

    def test_a_turn_that_was_written_is_not_added_again(self, outbox: Outbox):
        outbox.add(turn())
        outbox.written("t1", "run-1")
        assert outbox.add(turn()) is False
        assert outbox.waiting() == 0

    def test_a_turn_outlives_the_process_that_added_it(self, tmp_path: Path):
        kept = turn(user="Ελένη 🚀", seed=2**63 - 1, time_to_first_token_s=None)
        Outbox(tmp_path).add(kept)
        assert Outbox(tmp_path).find("t1") == kept

    def test_threads_that_add_the_same_turns_add_each_once(self, tmp_path: Path):
        with ThreadPoolExecutor(4) as threads:
            new = [turn_id for ids in threads.map(add_all, [tmp_path] * 4) for turn_id in ids]
        assert sorted(new) == sorted(SAME_IDS)
        assert Outbox(tmp_path).waiting() == len(SAME_IDS)

    def test_processes_that_add_the_same_turns_add_each_once(self, tmp_path: Path):
        with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes:
            new = [turn_id for ids in processes.map(add_all, [tmp_path] * 3) for turn_id in ids]
        assert sorted(new) == sorted(SAME_IDS)
        assert Outbox(tmp_path).waiting() == len(SAME_IDS)


class TestClaimNext:
    def test_nothing_is_claimed_from_an_empty_outbox(self, outbox: Outbox):
        assert outbox.claim_next() is None

    def test_the_oldest_waiting_turn_is_first(self, outbox: Outbox):
        for turn_id in ("b", "a", "c"):
            outbox.add(turn(turn_id))
        assert outbox.claim_next() == (turn("b"), False)
        outbox.written("b", "run-1")
        assert outbox.claim_next() == (turn("a"), False)

    def test_a_turn_that_an_earlier_writer_began_says_so(self, tmp_path: Path):
        Outbox(tmp_path).add(turn())
        assert Outbox(tmp_path).claim_next() == (turn(), False)
        assert Outbox(tmp_path).claim_next() == (turn(), True)
        assert Outbox(tmp_path).waiting() == 1


class TestFind:
    def test_finds_what_waits_and_what_is_written_and_nothing_else(self, outbox: Outbox):
        outbox.add(turn("a"))
        outbox.add(turn("b"))
        outbox.written("a", "run-1")
        assert (outbox.find("a"), outbox.find("b"), outbox.find("c")) == (turn("a"), turn("b"), None)

    def test_an_id_is_data_and_no_sql(self, outbox: Outbox):
        turn_id = "x'); drop table turns; --"
        outbox.add(turn(turn_id))
        assert outbox.find(turn_id) == turn(turn_id)
        assert outbox.find("x' or '1'='1") is None


class TestStorageFailed:
    def test_a_home_that_is_a_file_is_named_as_the_outboxs_trouble(self, tmp_path: Path):
        (tmp_path / "home").write_text("")
        with pytest.raises(StorageFailed, match="The outbox of turns cannot be used"):
            Outbox(tmp_path / "home").add(turn())

    def test_a_damaged_file_is_named(self, tmp_path: Path):
        (tmp_path / "outbox.db").write_bytes(b"garbage" * 1000)
        with pytest.raises(StorageFailed, match=r"outbox\.db: file is not a database"):
            Outbox(tmp_path).waiting()

    def test_a_turn_that_another_process_is_adding_is_waited_for(self, tmp_path: Path):
        outbox = Outbox(tmp_path)
        outbox.add(turn("a"))
        other = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
        other.execute("begin immediate")
        with ThreadPoolExecutor(1) as thread:
            adding = thread.submit(outbox.add, turn("b"))
            with pytest.raises(TimeoutError):
                adding.result(0.2)
            other.execute("commit")
            assert adding.result(5) is True
        other.close()
