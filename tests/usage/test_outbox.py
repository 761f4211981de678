"""The outbox: turns are added once, in their order, from several threads and processes."""

import json
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from phi3kit.core.errors import StorageFailed
from phi3kit.core.records import Message, TurnText
from phi3kit.usage.outbox import Outbox, day_of
from tests.support.samples import TURN, turn
from tests.support.system_limits import fill, small_disk

LATER = time.time() + 3600
OLD_FIELDS = {
    "turn_id", "at", "wrapper", "model_uri", "interface", "origin", "user", "conversation_id", "finish_reason",
    "prompt_tokens", "completion_tokens", "cached_prompt_tokens", "duration_s", "time_to_first_token_s", "temperature",
    "max_tokens", "top_p", "seed",
}  # fmt: skip

SAME_IDS = [f"t{number}" for number in range(25)]


def add_all(home: Path) -> list[str]:
    """Add the same turns as everybody else; the ids that were new."""
    outbox = Outbox(home)
    return [turn_id for turn_id in SAME_IDS if outbox.add(turn(turn_id))]


def _begin(home: Path, turn_id: str) -> None:
    Outbox(home).begin(turn(turn_id, completion_tokens=0))
    os._exit(9)  # as if killed: nothing is cleaned up


def begin_and_die(home: Path, turn_id: str) -> None:
    """A process that begins a turn and does not live to keep it."""
    process = multiprocessing.get_context("spawn").Process(target=_begin, args=(home, turn_id))
    process.start()
    process.join()
    assert process.exitcode == 9


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a disk of 4 MiB."""
    with small_disk(tmp_path / "disk", megabytes=4) as folder:
        yield folder


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
        outbox.mark_written("t1", "run-1")
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
        outbox.mark_written("b", "run-1")
        assert outbox.claim_next() == (turn("a"), False)

    def test_a_turn_that_an_earlier_writer_began_says_so(self, tmp_path: Path):
        Outbox(tmp_path).add(turn())
        assert Outbox(tmp_path).claim_next() == (turn(), False)
        assert Outbox(tmp_path).claim_next() == (turn(), True)
        assert Outbox(tmp_path).waiting() == 1


class TestBegin:
    def test_a_turn_that_is_being_made_neither_waits_nor_is_found(self, outbox: Outbox):
        outbox.begin(turn(finish_reason="error", completion_tokens=0))
        assert (outbox.waiting(), outbox.claim_next(), outbox.find("t1")) == (0, None, None)
        assert outbox.add(turn()) is True
        assert (outbox.waiting(), outbox.find("t1")) == (1, turn())

    def test_a_turn_that_was_kept_is_not_begun_again(self, outbox: Outbox):
        outbox.add(turn())
        outbox.begin(turn(completion_tokens=0))
        assert outbox.find("t1") == turn()

    def test_a_turn_of_this_living_process_is_left_alone(self, tmp_path: Path):
        busy, other = Outbox(tmp_path), Outbox(tmp_path)
        busy.begin(turn())
        assert (other.adopt_orphans(), other.adopt_orphans(LATER), busy.adopt_orphans(LATER)) == (0, 0, 0)

    def test_the_turns_of_a_process_that_died_are_kept_as_they_were_begun(self, tmp_path: Path):
        begin_and_die(tmp_path, "t1")
        outbox = Outbox(tmp_path)
        assert (outbox.adopt_orphans(), outbox.waiting()) == (0, 0), "its client may know better what it cost"
        assert outbox.adopt_orphans(LATER) == 1
        assert outbox.find("t1") == turn(completion_tokens=0)
        assert outbox.adopt_orphans(LATER) == 0

    def test_a_client_that_saw_its_worker_die_has_the_last_word(self, tmp_path: Path):
        begin_and_die(tmp_path, "t1")
        outbox = Outbox(tmp_path)
        outbox.adopt_orphans()
        assert outbox.add(turn(completion_tokens=3)) is True
        assert outbox.adopt_orphans(LATER) == 0
        assert outbox.find("t1") == turn(completion_tokens=3)


def states(home: Path) -> dict[str, str]:
    """The state of each turn, as the file says it."""
    with closing(sqlite3.connect(home / "outbox.db")) as connection:
        return dict(connection.execute("select turn_id, state from turns"))


class TestStates:
    def test_each_move_leads_where_the_diagram_says(self, outbox: Outbox, tmp_path: Path):
        outbox.begin(turn())
        assert states(tmp_path) == {"t1": "begun"}
        outbox.add(turn())
        assert states(tmp_path) == {"t1": "waiting"}
        outbox.claim_next()
        assert states(tmp_path) == {"t1": "claimed"}
        outbox.refuse("t1", "too long")
        assert states(tmp_path) == {"t1": "refused"}
        outbox.try_refused_again()
        assert states(tmp_path) == {"t1": "claimed"}
        outbox.mark_written("t1", "run-1", doubtful=True)
        assert states(tmp_path) == {"t1": "doubtful"}
        outbox.settle("t1")
        assert states(tmp_path) == {"t1": "written"}

    def test_a_turn_whose_process_died_is_orphaned_until_it_is_adopted(self, tmp_path: Path):
        begin_and_die(tmp_path, "t1")
        outbox = Outbox(tmp_path)
        outbox.adopt_orphans()
        assert states(tmp_path) == {"t1": "orphaned"}
        outbox.adopt_orphans(LATER)
        assert states(tmp_path) == {"t1": "waiting"}

    def test_a_turn_that_could_not_begin_is_gone_and_one_that_ended_stays(self, outbox: Outbox, tmp_path: Path):
        outbox.begin(turn("begun"))
        outbox.add(turn("ended"))
        for turn_id in ("begun", "ended"):
            outbox.withdraw(turn_id)
        assert states(tmp_path) == {"ended": "waiting"}


class TestWritten:
    TEXT = TurnText((Message("user", "a hidden question"),), ("a hidden answer",))

    def test_text_is_kept_until_it_is_written_and_no_longer(self, outbox: Outbox, tmp_path: Path):
        outbox.add(turn(text=self.TEXT))
        assert outbox.find("t1") == turn(text=self.TEXT)
        outbox.mark_written("t1", "run-1")
        assert outbox.find("t1") == turn()
        del outbox
        Outbox(tmp_path).waiting()
        assert b"hidden" not in (tmp_path / "outbox.db").read_bytes()

    def test_a_turn_that_is_refused_waits_aside_until_it_is_tried_again(self, outbox: Outbox):
        for turn_id in ("a", "b"):
            outbox.add(turn(turn_id))
        outbox.refuse("a", "too long")
        assert (outbox.claim_next(), outbox.waiting(), outbox.refused()) == ((turn("b"), False), 2, (1, "too long"))
        outbox.try_refused_again()
        assert (outbox.claim_next(), outbox.refused()) == ((turn("a"), False), (0, None))

    def test_says_what_was_written_since_a_moment(self, outbox: Outbox):
        outbox.add(turn("a"))
        outbox.add(turn("b"))
        outbox.mark_written("a", "run-1")
        assert outbox.written_since(0) == [TURN.at]
        assert outbox.written_since(LATER) == []

    def test_an_outbox_of_an_earlier_phi3kit_goes_on(self, tmp_path: Path):
        old = sqlite3.connect(tmp_path / "outbox.db")
        old.execute(
            "create table turns (number integer primary key autoincrement, turn_id text not null unique, "
            "record text not null, run_id text, claimed integer not null default 0)"
        )
        record = {name: value for name, value in vars(TURN).items() if name in OLD_FIELDS}
        old.execute("insert into turns (turn_id, record) values ('t1', ?)", (json.dumps(record),))
        old.commit()
        old.close()
        outbox = Outbox(tmp_path)
        assert outbox.claim_next() == (turn(), False)
        outbox.mark_written("t1", "run-1")
        assert (outbox.waiting(), states(tmp_path)) == (0, {"t1": "written"})


class TestSpent:
    def test_tokens_are_summed_by_day_and_user_and_once_a_turn(self, outbox: Outbox):
        for turn_id, user, days in (("a", "ada", 0), ("a", "ada", 0), ("b", "bob", 0), ("c", "ada", 1)):
            outbox.add(turn(turn_id, user=user, at=TURN.at + days * 86_400))
        day = day_of(TURN.at)
        assert (day, outbox.spent_tokens(day), outbox.spent_tokens(day, "ada")) == ("2026-01-01", 30, 15)
        assert outbox.spenders("2026-01-02") == {"ada": 15}

    def test_a_turn_that_is_being_made_has_spent_nothing_yet(self, outbox: Outbox):
        outbox.begin(turn())
        assert outbox.spent_tokens(day_of(TURN.at)) == 0
        outbox.add(turn())
        assert outbox.spent_tokens(day_of(TURN.at)) == 15

    def test_no_sum_is_too_big_to_be_judged(self, outbox: Outbox, tmp_path: Path):
        outbox.spend("2026-01-01", "ada", 2**62)
        outbox.spend("2026-01-01", "ada", 2**62)
        assert outbox.spent_tokens("2026-01-01", "ada") == 10**15
        with sqlite3.connect(tmp_path / "outbox.db") as connection:  # an earlier phi3kit's
            connection.executemany(
                "insert into spent values ('2026-01-01', ?, ?)", [("bob", 2**63 - 1), ("eve", 2**63 - 1)]
            )
        outbox.spend("2026-01-01", "bob", 5)
        assert outbox.spent_tokens("2026-01-01", "bob") == 10**15
        assert outbox.spent_tokens("2026-01-01") == 2**63 - 1


class TestSecret:
    def test_stays_the_same_for_a_data_folder_and_is_not_anothers(self, tmp_path: Path):
        (tmp_path / "other").mkdir()
        secret = Outbox(tmp_path).secret("key")
        assert Outbox(tmp_path).secret("key") == secret
        assert len({secret, Outbox(tmp_path / "other").secret("key"), Outbox(tmp_path).secret("another")}) == 3


class TestTidy:
    def test_forgets_what_was_written_long_ago_and_nothing_that_waits(self, outbox: Outbox, tmp_path: Path):
        for turn_id in ("old", "new", "waiting"):
            outbox.add(turn(turn_id))
        for turn_id in ("old", "new"):
            outbox.mark_written(turn_id, "run")
        with sqlite3.connect(tmp_path / "outbox.db") as connection:
            connection.execute("update turns set written_at = written_at - 31 * 86400 where turn_id = 'old'")
        connection.close()
        outbox.tidy()
        found = [turn_id for turn_id in ("old", "new", "waiting") if outbox.find(turn_id)]
        assert (found, outbox.waiting()) == (["new", "waiting"], 1)

    def test_a_full_disk_still_takes_turns_in_the_room_that_was_kept_for_them(self, disk: Path):
        outbox = Outbox(disk)
        outbox.add(turn("before"))
        outbox.tidy()
        filler = fill(disk)
        for number in range(200):
            assert outbox.add(turn(f"t{number}"))
        assert outbox.waiting() == 201
        filler.unlink()
        outbox.tidy()
        assert (disk / "outbox.reserve").stat().st_size == 2**20


class TestFind:
    def test_finds_what_waits_and_what_is_written_and_nothing_else(self, outbox: Outbox):
        outbox.add(turn("a"))
        outbox.add(turn("b"))
        outbox.mark_written("a", "run-1")
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
