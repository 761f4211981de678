"""The copy of the turns: brought up to date by what is new, and never different from the store for long."""

import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock

from phi3kit.core.errors import StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage import reader as reader_module
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import TurnsReader
from phi3kit.usage.runs import ClientRuns, DatabaseRuns, runs_of
from phi3kit.usage.turns_table import sort_out
from phi3kit.usage.writer import write_waiting
from tests.conftest import run_cli, settings_for
from tests.support.samples import TURN, new_store, turn
from tests.support.waiting import wait_for

DAY = 86_400
COUNTS = {"prompt_tokens": 1.0, "completion_tokens": 2.0, "total_tokens": 3.0}


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with twelve turns, one a day."""
    settings = new_store(tmp_path_factory.mktemp("twelve"))
    write(settings, *(turn(f"t{day:02}", at=TURN.at + day * DAY) for day in range(12)))
    return settings.home


@pytest.fixture
def settings(twelve: Path, tmp_path: Path) -> Settings:
    """A store with twelve turns, one a day."""
    home = tmp_path / "home"
    shutil.copytree(twelve, home)
    return settings_for(home)


@pytest.fixture(params=["database", "client"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if twelve turns were more than can be read at once, by either way to the store."""
    monkeypatch.setattr(reader_module, "_SLICE", 4)
    monkeypatch.setattr(reader_module, "_COMPARE_S", 0.0)  # nothing is compared by chance
    if request.param == "client":
        monkeypatch.setattr(reader_module, "runs_of", ClientRuns)
    return str(request.param)


def write(settings: Settings, *turns: Any) -> None:
    outbox = Outbox(settings.home)
    for each in turns:
        outbox.add(each)
    write_waiting(settings)


def run_of(settings: Settings, turn_id: str) -> str:
    client, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)
    (run,) = client.search_runs([experiment], f"tags.`phi3kit.turn_id` = '{turn_id}'")
    return str(run.info.run_id)


def ids(settings: Settings, **how: Any) -> list[str]:
    return sorted(TurnsReader(settings).refresh(**how).turns["turn_id"])


def copy_of(settings: Settings) -> Path:
    (file,) = (settings.home / "usage").glob("*.parquet")
    return file


ALL = [f"t{day:02}" for day in range(12)]


class TestUpToDate:
    def test_a_new_turn_is_there_at_the_next_reading(self, settings: Settings, small: str):
        reader = TurnsReader(settings)
        assert len(reader.refresh().turns) == 12
        write(settings, turn("new", at=TURN.at + 20 * DAY))
        turns = reader.refresh().turns
        assert (len(turns), turns["turn_id"].iloc[0]) == (13, "new")

    def test_a_turn_that_was_written_late_is_there_too(self, settings: Settings, small: str):
        assert ids(settings) == ALL
        write(settings, turn("late", at=TURN.at + 3.5 * DAY))
        assert "late" in ids(settings)

    def test_a_deleted_run_is_gone_and_a_restored_one_is_back(self, settings: Settings, small: str):
        assert ids(settings) == ALL
        run_id = run_of(settings, "t03")
        open_store(settings).delete_run(run_id)
        assert ids(settings) == [turn_id for turn_id in ALL if turn_id != "t03"]
        open_store(settings).restore_run(run_id)
        assert ids(settings, whole=True) == ALL

    def test_a_changed_run_is_noticed_when_its_slice_is_compared(
        self, settings: Settings, small: str, monkeypatch: pytest.MonkeyPatch
    ):
        reader = TurnsReader(settings)
        reader.refresh()
        open_store(settings).set_tag(run_of(settings, "t02"), "phi3kit.user", "bob")
        monkeypatch.setattr(reader_module, "_COMPARE_S", 1e-4)  # one slice an update
        found = [reader.refresh() for _ in range(3)]
        assert [each.turns.set_index("turn_id").loc["t02", "user"] for each in found] == ["ada", "ada", "bob"]
        assert [each.compared for each in found] == [pytest.approx(4 / 12)] * 3

    def test_a_changed_run_is_noticed_at_once_when_the_whole_is_read(self, settings: Settings, small: str):
        reader = TurnsReader(settings)
        reader.refresh()
        open_store(settings).set_tag(run_of(settings, "t02"), "phi3kit.user", "bob")
        assert "bob" in set(reader.refresh(whole=True).turns["user"])

    def test_a_run_that_was_being_written_is_there_when_it_has_ended(self, settings: Settings, small: str):
        assert ids(settings) == ALL
        client = open_store(settings)
        tags = {"phi3kit.wrapper": "onnx", "phi3kit.turn_id": "other program"}
        at_ms = int((TURN.at + 30 * DAY) * 1000)
        run = client.create_run(experiment_id(settings, USAGE_EXPERIMENT), start_time=at_ms, tags=tags)
        for name, value in COUNTS.items():
            client.log_metric(run.info.run_id, name, value)
        assert ids(settings) == ALL
        client.set_terminated(run.info.run_id)
        assert ids(settings) == ["other program", *ALL]

    def test_runs_that_are_deleted_where_the_next_comparison_begins_end_no_update(
        self, settings: Settings, small: str, monkeypatch: pytest.MonkeyPatch
    ):
        reader = TurnsReader(settings)
        monkeypatch.setattr(reader_module, "_COMPARE_S", 1e-4)  # one slice an update
        for _ in range(3):
            reader.refresh()  # the first one reads all; then eight are compared
        for turn_id in ALL[:6]:
            open_store(settings).delete_run(run_of(settings, turn_id))
        open_store(settings).set_tag(run_of(settings, "t06"), "phi3kit.user", "bob")
        found = [sorted(reader.refresh().turns["user"]) for _ in range(3)][-1]
        assert found == ["ada", "ada", "ada", "ada", "ada", "bob"]
        assert TurnsReader(settings).refresh().turns["turn_id"].tolist() == ALL[:5:-1]  # so it is behind a restart

    def test_few_turns_are_compared_every_time(self, settings: Settings):
        reader = TurnsReader(settings)
        reader.refresh()
        open_store(settings).set_tag(run_of(settings, "t02"), "phi3kit.user", "bob")
        snapshot = reader.refresh()
        assert ("bob" in set(snapshot.turns["user"]), snapshot.compared) == (True, 1.0)

    def test_nothing_new_leaves_the_file_alone(self, settings: Settings, small: str):
        ids(settings)
        before = copy_of(settings).stat()
        ids(settings)
        assert (copy_of(settings).stat().st_mtime_ns, copy_of(settings).stat().st_ino) == (
            before.st_mtime_ns, before.st_ino,
        )  # fmt: skip


class TestFile:
    @pytest.mark.parametrize("damage", [b"", b"PAR1 and then nothing", None], ids=["empty", "cut", "another version"])
    def test_a_damaged_copy_is_made_anew(
        self, settings: Settings, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
    ):
        assert ids(settings) == ALL
        if damage is None:
            monkeypatch.setattr("phi3kit.usage.turns_copy._VERSION", "0")
        else:
            copy_of(settings).write_bytes(damage)
        assert ids(settings) == ALL
        assert len(pd.read_parquet(copy_of(settings))) == 12

    def test_a_removed_copy_is_made_anew_with_its_progress_reported(self, settings: Settings):
        ids(settings)
        copy_of(settings).unlink()
        reported: list[tuple[int, float]] = []
        assert ids(settings, report=lambda runs, share: reported.append((runs, share))) == ALL
        assert reported[-1] == (12, 1.0)

    def test_a_copy_that_cannot_be_written_costs_no_turn(self, settings: Settings):
        ids(settings)
        copy_of(settings).unlink()
        blocked = settings.home / "usage" / "blocked"
        blocked.mkdir()
        path = next((settings.home / "usage").glob("*.lock")).with_suffix(".parquet")
        path.mkdir()
        assert ids(settings) == ALL

    def test_another_store_has_another_copy(self, settings: Settings, tmp_path: Path):
        (tmp_path / "other").mkdir()
        new_store(tmp_path / "other")
        other = settings_for(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/other/mlflow.db")
        assert (ids(settings), ids(other), ids(settings)) == (ALL, [], ALL)

    def test_readers_in_several_processes_read_the_same(self, settings: Settings):
        with ThreadPoolExecutor(3) as threads:
            read = threads.map(
                lambda _: run_cli("usage", "--since", "all", "--format", "csv", home=settings.home), range(6)
            )
            assert [(each.returncode, len(each.stdout.splitlines())) for each in read] == [(0, 1 + 12)] * 6
        assert len(list((settings.home / "usage").glob("*.new"))) == 0


class TestCurrent:
    def test_a_page_gets_what_is_there_at_once_and_what_is_new_soon(self, settings: Settings):
        ids(settings)
        write(settings, turn("new", at=TURN.at + 20 * DAY))
        reader = TurnsReader(settings)
        first = reader.current(wait_s=0)
        assert first.snapshot is not None
        assert (len(first.snapshot.turns), first.error) == (12, None)
        assert reader.wait(20)
        second = reader.current(wait_s=0).snapshot
        assert second is not None
        assert len(second.turns) == 13

    def test_what_is_young_enough_is_not_read_again(self, settings: Settings):
        reader = TurnsReader(settings)
        reader.current(wait_s=20)
        write(settings, turn("new", at=TURN.at + 20 * DAY))
        old = reader.current(max_age_s=60, wait_s=0.2).snapshot
        new = reader.current(max_age_s=0, wait_s=20).snapshot
        assert old is not None
        assert new is not None
        assert (len(old.turns), len(new.turns)) == (12, 13)

    def test_the_whole_is_read_also_when_it_is_asked_for_during_a_reading(self, settings: Settings, small: str):
        reader = TurnsReader(settings)
        reader.refresh()
        open_store(settings).set_tag(run_of(settings, "t02"), "phi3kit.user", "bob")
        with FileLock(copy_of(settings).with_suffix(".lock")):
            reader.current(max_age_s=0, wait_s=0)
            wait_for("a reading", lambda: reader.current(wait_s=0).progress)
            reader.current(whole=True, wait_s=0)
        assert reader.wait(20)
        snapshot = reader.current(max_age_s=60, wait_s=0).snapshot
        assert snapshot is not None
        assert "bob" in set(snapshot.turns["user"])

    def test_what_was_logged_during_a_reading_is_read_when_next_asked(self, settings: Settings):
        reader = TurnsReader(settings)
        reader.refresh()
        with FileLock(copy_of(settings).with_suffix(".lock")):
            reader.current(max_age_s=0, wait_s=0)
            wait_for("a reading", lambda: reader.current(wait_s=0).progress)
            reader.forget()
        assert reader.wait(20)
        write(settings, turn("new", at=TURN.at + 20 * DAY))
        snapshot = reader.current(max_age_s=60, wait_s=20).snapshot
        assert snapshot is not None
        assert len(snapshot.turns) == 13

    def test_a_store_that_went_away_is_named_beside_what_was_read_before(self, settings: Settings):
        reader = TurnsReader(settings)
        reader.current(wait_s=20)
        experiment = experiment_id(settings, USAGE_EXPERIMENT)
        open_store(settings).delete_experiment(experiment)
        reading = reader.current(max_age_s=0, wait_s=20)
        assert isinstance(reading.error, StorageFailed)
        assert "It was deleted in MLflow" in reading.error.why
        assert reading.snapshot is not None
        assert len(reading.snapshot.turns) == 12
        open_store(settings).restore_experiment(experiment)
        assert wait_for("no error", lambda: reader.current(max_age_s=0, wait_s=5).error is None, 10)


class TestOddRuns:
    def test_runs_that_are_no_turns_are_counted_by_their_reason(self, settings: Settings):
        client, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)

        def log(metrics: dict[str, float], at_ms: int | None = None, **tags: str) -> None:
            named = {f"phi3kit.{name}": value for name, value in tags.items()}
            run = client.create_run(experiment, start_time=at_ms, tags=named)
            for name, value in metrics.items():
                client.log_metric(run.info.run_id, name, value)
            client.set_terminated(run.info.run_id)

        log(COUNTS)
        log({"loss": 0.5})
        log({}, wrapper="onnx")
        for changed in (
            {"prompt_tokens": -1.0},
            {"total_tokens": 7.0},
            {"prompt_tokens": 1e12},
            {"prompt_tokens": 0.5},
        ):
            log(COUNTS | changed, wrapper="onnx")
        log(COUNTS | {"prompt_tokens": math.inf}, wrapper="onnx")
        log(COUNTS, at_ms=2**52, wrapper="onnx")
        log(COUNTS, wrapper="onnx", turn_id="t03")
        snapshot = TurnsReader(settings).refresh()
        assert snapshot.odd == {
            "with impossible token counts": 5,
            "without the tag phi3kit.wrapper": 2,
            "without token counts": 1,
            "with an impossible time": 1,
            "written twice": 1,
        }
        assert snapshot.turns["total_tokens"].sum() == 12 * 15
        assert sorted(snapshot.turns["turn_id"]) == ALL

    def test_odd_times_and_speeds_of_a_turn_are_left_out_and_the_turn_is_counted(self, settings: Settings):
        client, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)
        run = client.create_run(experiment, tags={"phi3kit.wrapper": "onnx"})
        odd = {"time_to_first_token_s": -1.0, "duration_s": math.inf, "tokens_per_second": math.nan}
        for name, value in (COUNTS | odd).items():
            client.log_metric(run.info.run_id, name, value)
        client.set_terminated(run.info.run_id)
        row = TurnsReader(settings).refresh().turns.iloc[0]
        assert row["total_tokens"] == 3
        assert row[list(odd)].isna().all()


class TestRuns:
    def test_the_tables_and_the_client_give_the_same_rows(self, settings: Settings):
        client, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)
        run = client.create_run(experiment, start_time=5, tags={"phi3kit.wrapper": "Ελ\n'\""})
        client.log_metric(run.info.run_id, "total_tokens", math.nan)
        client.log_param(run.info.run_id, "seed", str(2**62))
        client.set_terminated(run.info.run_id)
        client.create_run(experiment)  # still running
        client.delete_run(run_of(settings, "t05"))
        by_tables = runs_of(client, experiment)
        assert isinstance(by_tables, DatabaseRuns)
        by_client = ClientRuns(client, experiment)
        bounds = [(None, None), (int((TURN.at + 2 * DAY) * 1000), None), (6, int((TURN.at + 3 * DAY) * 1000)), (6, 7)]
        for begin, end in bounds:
            one, other = (
                pd.concat([sort_out(page) for page in runs.between(begin, end)]).reset_index(drop=True)
                for runs in (by_tables, by_client)
            )
            pd.testing.assert_frame_equal(one, other)
        assert by_tables.first_ms() == by_client.first_ms()
        assert sum(count for count, _ in by_tables.days().values()) == 12
        assert by_client.days() is None


def test_reading_hundreds_of_turns_takes_no_page_of_them_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from bench.usage import fill_store, sample_turns

    settings = new_store(tmp_path)
    turns = sample_turns(700)
    fill_store(settings, turns)
    monkeypatch.setattr("phi3kit.usage.runs._PAGE", 100)
    monkeypatch.setattr("phi3kit.usage.runs._REQUEST", 100)
    for way in (runs_of, ClientRuns):
        monkeypatch.setattr(reader_module, "runs_of", way)
        began = time.perf_counter()
        table = TurnsReader(settings).refresh(whole=True).turns
        assert time.perf_counter() - began < 60
        assert sorted(table["turn_id"]) == sorted(each.turn_id for each in turns)
        assert table["total_tokens"].sum() == sum(each.total_tokens for each in turns)
