"""The writer: every turn becomes one run, whatever dies or is away in between."""

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from phi3kit.core.errors import StorageFailed
from phi3kit.core.records import Message, TurnText
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage import writer as writer_module
from phi3kit.usage.outbox import Outbox, to_json
from phi3kit.usage.writer import UsageWriter, metrics_of, write_waiting
from tests.conftest import settings_for
from tests.support.samples import TURN, new_store, turn
from tests.support.waiting import wait_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


@pytest.fixture
def outbox(settings: Settings) -> Outbox:
    return Outbox(settings.home)


def runs(settings: Settings) -> list[Any]:
    """The runs of phi3kit-usage, as MLflow's own client finds them."""
    return list(open_store(settings).search_runs([experiment_id(settings, USAGE_EXPERIMENT)]))


def turn_ids(settings: Settings) -> list[str]:
    return sorted(run.data.tags["phi3kit.turn_id"] for run in runs(settings))


class TestWriteWaiting:
    def test_a_turn_becomes_a_run_with_its_numbers_params_and_tags(self, settings: Settings, outbox: Outbox):
        outbox.add(turn(temperature=0.7, seed=3))
        write_waiting(settings)
        (run,) = runs(settings)
        assert run.data.metrics == {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "cached_prompt_tokens": 0,
            "duration_s": 1.5,
            "time_to_first_token_s": 0.5,
            "tokens_per_second": 4.0,  # 4 tokens behind the first one, in 1 s
        }
        assert run.data.params == {"temperature": "0.7", "max_tokens": "64", "top_p": "1.0", "seed": "3"}
        names = ("turn_id", "wrapper", "model_uri", "interface", "conversation_id", "finish_reason", "origin", "user")
        assert {name: run.data.tags[f"phi3kit.{name}"] for name in names} == {
            name: getattr(TURN, name) for name in names
        }
        assert (run.info.start_time, run.info.end_time) == (1_767_225_600_000, 1_767_225_601_500)
        assert outbox.waiting() == 0

    @pytest.mark.parametrize(
        ("reason", "status"),
        [("stop", "FINISHED"), ("length", "FINISHED"), ("cancelled", "KILLED"), ("error", "FAILED")],
    )
    def test_how_a_turn_ended_is_its_runs_status(self, settings: Settings, outbox: Outbox, reason: str, status: str):
        outbox.add(turn(finish_reason=reason))
        write_waiting(settings)
        assert [run.info.status for run in runs(settings)] == [status]

    def test_writing_twice_writes_nothing_more(self, settings: Settings, outbox: Outbox):
        outbox.add(turn())
        write_waiting(settings)
        write_waiting(settings)
        assert turn_ids(settings) == ["t1"]

    @pytest.mark.parametrize("turn_id", ["t1", "it's", 'a "b" `c`'])
    def test_a_writer_that_died_before_it_made_the_run_leaves_one_run(
        self, settings: Settings, outbox: Outbox, turn_id: str
    ):
        outbox.add(turn(turn_id))
        outbox.claim_next()
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == ([turn_id], 0)

    def test_a_writer_that_died_behind_making_the_run_leaves_one_whole_run(self, settings: Settings, outbox: Outbox):
        outbox.add(turn())
        outbox.claim_next()
        begun = open_store(settings).create_run(
            experiment_id(settings, USAGE_EXPERIMENT), tags={"phi3kit.turn_id": "t1"}
        )
        write_waiting(settings)
        (run,) = runs(settings)
        assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
        assert run.data.metrics["total_tokens"] == 15
        assert outbox.waiting() == 0

    def test_a_writer_that_died_before_marking_a_whole_run_leaves_one_run(self, settings: Settings, outbox: Outbox):
        outbox.add(turn())
        write_waiting(settings)
        outbox.mark_written("t1", None)  # type: ignore[arg-type]  # as if the mark had never been made
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == (["t1"], 0)

    def test_writers_side_by_side_write_each_turn_once(self, settings: Settings, outbox: Outbox):
        ids = [f"t{number:02}" for number in range(12)]
        with ThreadPoolExecutor(4) as threads:
            adding = threads.submit(lambda: [outbox.add(turn(turn_id)) for turn_id in ids])
            for writing in [threads.submit(write_waiting, settings) for _ in range(12)]:
                writing.result()
            adding.result()
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == (ids, 0)

    def test_nothing_is_written_while_another_process_writes(self, settings: Settings, outbox: Outbox):
        outbox.add(turn())
        with FileLock(settings.home / "outbox.lock"):
            write_waiting(settings)
            assert outbox.waiting() == 1
        write_waiting(settings)
        assert outbox.waiting() == 0


@pytest.mark.timeout(100)  # a store that cannot be opened must not keep anybody waiting
class TestAStoreThatIsAway:
    @pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///{home}/file/mlflow.db"])
    def test_turns_wait_and_are_written_once_when_it_is_back(self, tmp_path: Path, uri: str):
        settings, outbox = new_store(tmp_path), Outbox(tmp_path)
        (tmp_path / "file").write_text("")
        outbox.add(turn("a"))
        outbox.add(turn("b"))
        away = settings_for(tmp_path, MLFLOW_TRACKING_URI=uri.format(home=tmp_path))
        with pytest.raises(StorageFailed, match="The tracking store did not answer"):
            write_waiting(away)
        assert outbox.waiting() == 2
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == (["a", "b"], 0)

    def test_a_lock_that_ends_while_the_writer_asks_why_is_no_turns_fault(
        self, settings: Settings, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ):
        takes_writes = writer_module._store_takes_writes
        outbox.add(turn("a"))
        with closing(sqlite3.connect(settings.home / "mlflow.db", isolation_level=None)) as other:
            other.execute("begin exclusive")

            def is_free_again(settings: Settings) -> bool:
                other.execute("rollback")
                return takes_writes(settings)

            monkeypatch.setattr(writer_module, "_store_takes_writes", is_free_again)
            for _ in range(2):  # at the second time the turn may exist, and is suspected
                with pytest.raises(StorageFailed, match="keeps the database locked"):
                    write_waiting(settings)
        assert outbox.refused() == (0, None)
        assert write_waiting(settings) == 1
        assert turn_ids(settings) == ["a"]

    def test_a_lock_that_cannot_be_taken_is_the_stores_failure(self, settings: Settings, outbox: Outbox):
        outbox.add(turn())
        (settings.home / "outbox.lock").mkdir()
        with pytest.raises(StorageFailed):
            write_waiting(settings)
        assert outbox.waiting() == 1


@pytest.mark.timeout(100)
class TestUsageWriter:
    @pytest.fixture
    def start(self) -> Iterator[Any]:
        started: list[UsageWriter] = []

        def start(settings: Settings) -> UsageWriter:
            started.append(UsageWriter(settings))
            started[-1].start()
            return started[-1]

        yield start
        for writer in started:
            writer.close()

    def test_writes_what_is_added_while_it_runs_and_nothing_once_closed(
        self, settings: Settings, outbox: Outbox, start: Any
    ):
        writer = start(settings)
        outbox.add(turn("a"))
        wait_for("no turn waits", lambda: writer.state().waiting == 0)
        writer.close()
        outbox.add(turn("b"))
        assert (turn_ids(settings), writer.state().waiting, writer.state().problem) == (["a"], 1, None)

    def test_names_the_problem_while_turns_wait_and_forgets_it_behind_it(self, tmp_path: Path, start: Any):
        other = settings_for(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/other/mlflow.db")
        (tmp_path / "other").write_text("a file in the folder's place")
        Outbox(tmp_path).add(turn())
        writer = start(other)
        assert "The tracking store did not answer." in wait_for("a problem", lambda: writer.state().problem, 10)
        (tmp_path / "other").unlink()
        wait_for("no turn waits", lambda: writer.state().waiting == 0)
        wait_for("no problem", lambda: writer.state().problem is None, 5)
        assert turn_ids(other) == ["t1"]

    def test_a_damaged_store_is_a_problem_and_not_the_writers_end(self, tmp_path: Path, start: Any):
        (tmp_path / "mlflow.db").write_bytes(b"garbage" * 1000)
        Outbox(tmp_path).add(turn())
        writer = start(settings_for(tmp_path))
        assert "file is not a database" in wait_for("a problem", lambda: writer.state().problem, 10)


class TestMetricsOf:
    def test_what_was_not_measured_is_left_out(self):
        metrics = metrics_of(turn(completion_tokens=0, time_to_first_token_s=None))
        assert "time_to_first_token_s" not in metrics
        assert "tokens_per_second" not in metrics
        assert metrics["total_tokens"] == 10


class TestATurnThatCannotBeWritten:
    """It is set aside, whatever the error is, and the next one does not wait for it."""

    def test_half_a_character_is_in_the_way_of_no_other_turn(self, settings: Settings, outbox: Outbox):
        prompt = (Message("user", "x\ud83dy"),)
        outbox.add(turn("a", text=TurnText(prompt, ("z",))))
        outbox.add(turn("b"))
        with pytest.raises(StorageFailed, match="surrogates"):
            write_waiting(settings)  # the store may be busy: the next round tells
        write_waiting(settings)
        assert "b" in turn_ids(settings)
        assert (outbox.waiting(), outbox.refused()[0]) == (1, 1)
        assert write_waiting(settings) == 0  # nothing is tried over and over

    def test_nor_is_what_the_stores_database_refuses(self, settings: Settings, outbox: Outbox):
        with closing(sqlite3.connect(settings.home / "mlflow.db")) as database:
            refuses = "when new.key = 'phi3kit.turn_id' and new.value = 'a' begin select raise(abort, 'no room'); end"
            database.execute(f"create trigger no_a before insert on tags {refuses}")
        outbox.add(turn("a"))
        outbox.add(turn("b"))
        with pytest.raises(StorageFailed, match="no room"):
            write_waiting(settings)
        assert write_waiting(settings) == 1
        assert (turn_ids(settings), outbox.waiting()) == (["b"], 1)
        assert "no room" in str(outbox.refused()[1])
        with closing(sqlite3.connect(settings.home / "mlflow.db")) as database:
            database.execute("drop trigger no_a")
        outbox.try_refused_again()
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == (["a", "b"], 0)

    @pytest.mark.parametrize("record", ["{", "[]", "7", '{"turn_id": "a"}', "LATER"])
    def test_nor_is_a_record_that_cannot_be_read(self, settings: Settings, outbox: Outbox, record: str):
        outbox.add(turn("a"))
        later = json.dumps(json.loads(to_json(turn("a"))) | {"a_later_field": 1})
        outbox._run("update turns set record = ?", later if record == "LATER" else record)
        outbox.add(turn("b"))
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting()) == (["b"], 1)
        assert str(outbox.refused()[1]).startswith("Its record is damaged, or from a later phi3kit: ")

    def test_nor_is_one_of_a_process_that_died(self, settings: Settings, outbox: Outbox):
        outbox.begin(turn("a"))
        outbox._run("update turns set record = '{', owner = 'gone'")
        outbox.add(turn("b"))
        outbox.adopt_orphans(time.time() - 60)
        write_waiting(settings)
        assert (turn_ids(settings), outbox.waiting(), outbox.refused()[0]) == (["b"], 1, 1)
