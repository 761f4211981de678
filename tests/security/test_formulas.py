"""Formulas: what somebody wrote is no formula in a spreadsheet that opens a download."""

import csv
import io
from pathlib import Path

import pytest

from phi3kit.batch.output import for_spreadsheets, write_output
from phi3kit.batch.request import RowResult
from phi3kit.batch.tables import open_table, read_rows
from phi3kit.usage.export import to_csv, to_json
from tests.support.samples import table, turn

FORMULAS = {written: f"'{written}" for written in ("=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "＝1", "＠A")} | {
    "\r=1": "'\r'=1",
    "\n=1": "'\n'=1",
    "x;=1+1;": "x;'=1+1;",
    "a\n@A\n-1;＋1": "a\n'@A\n'-1;'＋1",
}
PLAIN = ["", "Madrid", "a=1", " =1", "'=1", "日本", "a\n- b\n- c; d"]


@pytest.mark.parametrize("written", [*FORMULAS, *PLAIN])
class TestDownloads:
    def test_usage(self, written: str) -> None:
        turns = table(turn(user=written, conversation_id=written, model_uri=written))
        (row,) = csv.DictReader(io.StringIO(to_csv(turns), newline=""))
        shown = FORMULAS.get(written, written).replace("\r", " ")
        assert [row[name] for name in ("user", "conversation_id", "model_uri")] == [shown] * 3
        assert float(row["duration_s"]) == 1.5

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_a_batch(self, tmp_path: Path, written: str, delimiter: str) -> None:
        path, output = tmp_path / "in.csv", tmp_path / "out.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["message", "note"], ["Hi", written], ["Hi", "x"]])
        given = open_table(path)
        write_output(given, iter([RowResult(0, written, 1, 1, "stop"), RowResult(1, "ok", 1, 1, "stop")]), output)
        made = open_table(output)
        rows = list(read_rows(made))
        assert [(row["note"], row["completion"]) for row in rows] == [(written, written), ("x", "ok")]  # exact
        shown = FORMULAS.get(written, written)
        downloaded = tmp_path / "downloaded.csv"
        downloaded.write_bytes(for_spreadsheets(made))
        rows = list(read_rows(open_table(downloaded)))
        assert [(row["note"], row["completion"]) for row in rows] == [(shown, shown), ("x", "ok")]


def test_a_download_has_quotation_marks_around_each_cell_and_the_file_none_that_it_needs_not(tmp_path: Path) -> None:
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text('message,note\nHi,x;=1+1;\nHi,"two\nlines"\n', "utf-8")
    write_output(open_table(path), iter([RowResult(0, "a\t=1", 1, 1, "stop")]), output)
    assert output.read_text("utf-8").splitlines()[1] == "Hi,x;=1+1;,a\t=1,1,1,stop,"
    assert for_spreadsheets(open_table(output)).decode().splitlines()[1] == '"Hi","x;\'=1+1;","a\t=1","1","1","stop",""'


def test_a_spreadsheet_that_splits_at_semicolons_makes_no_cell_of_a_part_of_one() -> None:
    text = to_csv(table(turn(user="x;=1+1;", conversation_id=None)))
    assert '"x;\'=1+1;"' in text
    (_, row) = csv.reader(io.StringIO(text, newline=""), delimiter=";")
    assert not any(cell.startswith("=") for cell in row)


def test_json_is_exact() -> None:
    assert '"user":"=1+1"' in to_json(table(turn(user="=1+1")))
