"""Export: the same turns in every format."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from phi3kit.core.errors import RequestInvalid, StorageFailed
from phi3kit.usage.export import Format, to_csv, to_json, write
from phi3kit.usage.turns_table import COLUMNS
from tests.support.samples import TURN, table, turn

TURNS = table(turn("t1", user='Ελένη, "Λ"', seed=7), turn("t2", completion_tokens=0, time_to_first_token_s=None))
NO_TURNS = TURNS.head(0)


class TestToCsv:
    def test_has_a_header_and_one_line_a_turn_with_times_in_utc(self):
        rows = list(csv.DictReader(io.StringIO(to_csv(TURNS))))
        assert tuple(rows[0]) == COLUMNS
        assert [row["at"] for row in rows] == ["2026-01-01T00:00:00.000000Z"] * 2
        assert [row["total_tokens"] for row in rows] == ["15", "10"]
        assert [row["time_to_first_token_s"] for row in rows] == ["0.5", ""]
        assert rows[0]["user"] == 'Ελένη, "Λ"'

    def test_a_seed_is_a_whole_number(self):
        assert [row["seed"] for row in csv.DictReader(io.StringIO(to_csv(TURNS)))] == ["7", ""]

    def test_no_turns_are_a_header(self):
        assert to_csv(NO_TURNS).strip() == ",".join(f'"{name}"' for name in COLUMNS)


class TestToJson:
    def test_is_a_list_of_objects_with_null_for_what_was_not_measured(self):
        first, second = json.loads(to_json(TURNS))
        assert tuple(first) == COLUMNS
        assert pd.Timestamp(first["at"]) == pd.Timestamp("2026-01-01T00:00:00Z")
        assert (first["user"], first["prompt_tokens"]) == ('Ελένη, "Λ"', 10)
        assert (second["time_to_first_token_s"], second["tokens_per_second"], second["seed"]) == (None, None, None)

    def test_no_turns_are_an_empty_list(self):
        assert json.loads(to_json(NO_TURNS)) == []


class TestWrite:
    def test_csv_and_json_files_are_utf8(self, tmp_path: Path):
        write(TURNS, "csv", tmp_path / "turns.csv")
        write(TURNS, "json", tmp_path / "turns.json")
        assert (tmp_path / "turns.csv").read_text("utf-8") == to_csv(TURNS)
        assert (tmp_path / "turns.json").read_text("utf-8") == to_json(TURNS)

    def test_parquet_keeps_values_and_the_zone(self, tmp_path: Path):
        write(TURNS, "parquet", tmp_path / "turns.parquet")
        found = pd.read_parquet(tmp_path / "turns.parquet")
        assert tuple(found.columns) == COLUMNS
        assert found["total_tokens"].tolist() == [15, 10]
        assert found["at"][0] == pd.Timestamp(TURN.at, unit="s", tz="UTC")

    def test_a_table_shows_the_turns_in_short(self, capsys: pytest.CaptureFixture[str]):
        write(TURNS, "table", None)
        header, first, second = capsys.readouterr().out.splitlines()
        assert header.split()[:4] == ["at", "wrapper", "interface", "origin"]
        assert first.split() == ["2026-01-01", "00:00:00", "onnx", "raw", "api", "10", "5", "15", "stop"]
        assert second.split()[-4:] == ["10", "0", "10", "stop"]

    def test_a_table_of_no_turns_says_so(self, capsys: pytest.CaptureFixture[str]):
        write(NO_TURNS, "table", None)
        assert capsys.readouterr().out == "No turns in this period.\n"

    def test_what_is_printed_ends_with_one_newline(self, capsys: pytest.CaptureFixture[str]):
        write(TURNS, "json", None)
        write(TURNS, "csv", None)
        assert capsys.readouterr().out == f"{to_json(TURNS)}\n{to_csv(TURNS)}"

    def test_parquet_is_not_printed(self, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(RequestInvalid, match="Add -o FILE") as caught:
            write(TURNS, "parquet", None)
        assert (caught.value.param, capsys.readouterr().out) == ("format", "")

    @pytest.mark.parametrize("format_", ["csv", "json", "table", "parquet"])
    @pytest.mark.parametrize("where", ["missing/turns", "file/turns", "."])
    def test_a_place_that_cannot_be_written_is_named_with_its_reason(self, tmp_path: Path, format_: Format, where: str):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageFailed, match=r"cannot be written.*Choose another file with -o\.") as caught:
            write(TURNS, format_, tmp_path / where)
        assert str(tmp_path / where) in caught.value.what
        assert caught.value.why not in ("None.", ".")
