"""The reader: MLflow's runs as one table of turns, and periods of it."""

import math
from pathlib import Path

import pandas as pd
import pytest

from phi3kit.core.errors import RequestInvalid, StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.turns_table import COLUMNS, since
from phi3kit.usage.writer import write_waiting
from tests.conftest import settings_for
from tests.support.samples import TURN, new_store, table, turn

DAY = 24 * 3600
COUNTS = {"prompt_tokens": 1.0, "completion_tokens": 2.0, "total_tokens": 3.0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store with one turn of ours."""
    settings = new_store(tmp_path)
    Outbox(tmp_path).add(turn("ours", seed=2**53 + 1))
    write_waiting(settings)
    return settings


def log_foreign_run(settings: Settings, metrics: dict[str, float], ended: bool = True, **tags: str) -> None:
    """A run that another program wrote to phi3kit-usage."""
    client = open_store(settings)
    run = client.create_run(
        experiment_id(settings, USAGE_EXPERIMENT), tags={f"phi3kit.{name}": value for name, value in tags.items()}
    )
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    if ended:
        client.set_terminated(run.info.run_id)


class TestReadTurns:
    def test_a_store_without_turns_gives_an_empty_table_with_every_column(self, tmp_path: Path):
        turns = read_turns(new_store(tmp_path))
        assert (len(turns), tuple(turns.columns)) == (0, COLUMNS)
        assert str(turns["at"].dt.tz) == "UTC"

    def test_a_turn_is_read_as_it_was_written(self, settings: Settings):
        (row,) = read_turns(settings).to_dict("records")
        assert row["at"] == pd.Timestamp("2026-01-01T00:00:00Z")
        assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (10, 5, 15)
        assert (row["time_to_first_token_s"], row["duration_s"], row["tokens_per_second"]) == (0.5, 1.5, 4.0)
        assert (row["temperature"], row["max_tokens"], row["top_p"]) == (0.0, 64, 1.0)
        names = ("wrapper", "interface", "origin", "user", "finish_reason", "model_uri", "conversation_id")
        assert {name: row[name] for name in names} == {name: getattr(TURN, name) for name in names}

    def test_a_large_seed_is_read_exactly_beside_a_turn_without_one(self, settings: Settings):
        Outbox(settings.home).add(turn("unseeded", at=TURN.at - DAY))
        write_waiting(settings)
        seeded, unseeded = read_turns(settings)["seed"]
        assert int(seeded) == 2**53 + 1
        assert pd.isna(unseeded)

    def test_the_newest_turn_is_first(self, settings: Settings):
        for turn_id, days in (("older", -1), ("newer", 1)):
            Outbox(settings.home).add(turn(turn_id, at=TURN.at + days * DAY))
        write_waiting(settings)
        assert read_turns(settings)["at"].dt.day.tolist() == [2, 1, 31]

    @pytest.mark.parametrize(
        "metrics",
        [
            {},
            {"prompt_tokens": 1.0},
            COUNTS | {"completion_tokens": math.nan},
            COUNTS | {"prompt_tokens": -1.0},
            COUNTS | {"total_tokens": math.inf},
            COUNTS | {"prompt_tokens": 1e30},
        ],
        ids=["no metrics", "missing metrics", "not a number", "negative", "infinite", "beyond any count"],
    )
    def test_a_foreign_run_without_sound_counts_is_left_out(self, settings: Settings, metrics: dict[str, float]):
        log_foreign_run(settings, metrics, wrapper="onnx")
        turns = read_turns(settings)
        assert turns["prompt_tokens"].tolist() == [10]

    def test_a_foreign_run_without_a_wrapper_is_left_out(self, settings: Settings):
        log_foreign_run(settings, COUNTS)
        assert read_turns(settings)["prompt_tokens"].tolist() == [10]

    def test_a_run_that_is_still_being_written_is_left_out(self, settings: Settings):
        log_foreign_run(settings, COUNTS, ended=False, wrapper="onnx")
        assert read_turns(settings)["prompt_tokens"].tolist() == [10]

    def test_a_turn_without_measured_times_has_none(self, settings: Settings):
        log_foreign_run(settings, COUNTS, wrapper="onnx")
        row = read_turns(settings).iloc[0]
        assert (row["total_tokens"], row["cached_prompt_tokens"]) == (3, 0)
        assert row[["time_to_first_token_s", "tokens_per_second", "seed"]].isna().all()

    def test_reading_one_store_behind_another_reads_the_one_asked_for(self, settings: Settings, tmp_path: Path):
        (tmp_path / "other").mkdir()
        assert len(read_turns(new_store(tmp_path / "other"))) == 0
        assert len(read_turns(settings)) == 1

    def test_a_store_that_is_away_is_a_storage_failure(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        away = settings_for(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/file/mlflow.db")
        with pytest.raises(StorageFailed, match="The tracking store did not answer"):
            read_turns(away)


class TestSince:
    NOW = pd.Timestamp("2026-01-08T00:00:00Z")
    TURNS = table(*(turn(name, at=TURN.at + days * DAY) for name, days in (("a", 6.9), ("b", 6), ("c", 0), ("d", -30))))

    @pytest.mark.parametrize(
        ("period", "kept"), [("12h", 1), ("48h", 2), ("7d", 3), ("1w", 3), ("6w", 4), ("all", 4), ("1h", 0)]
    )
    def test_keeps_the_turns_of_the_period(self, period: str, kept: int):
        assert since(self.TURNS, period, self.NOW)["run_id"].tolist() == list("abcd")[:kept]

    @pytest.mark.parametrize("period", ["7x", "", "d", "7", "-7d", "0d", "1.5d", "7 d", "10000d", "ALL", "²d", "7D"])
    def test_what_is_no_period_is_refused_with_examples(self, period: str):
        with pytest.raises(RequestInvalid, match=r"The period .* cannot be read") as caught:
            since(self.TURNS, period, self.NOW)
        assert (caught.value.param, repr(period) in caught.value.what) == ("since", True)

    def test_an_empty_table_stays_empty(self):
        assert len(since(self.TURNS.head(0), "7d")) == 0
