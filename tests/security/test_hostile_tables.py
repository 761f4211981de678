"""Hostile tables: a small file that stands for a large one is refused in bounded memory, in every format."""

import os
import pickle
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.core.arrays.arrow import extension_types as pandas_arrow_types

from phi3kit.batch import parquet_rows
from phi3kit.batch.output import check_output, write_output
from phi3kit.batch.request import Mapped, row_prompt
from phi3kit.batch.tables import MOST_ROW_CHARACTERS, ReadOptions, open_table, read_rows
from phi3kit.core.errors import RequestInvalid, TableInvalid
from phi3kit.evaluation.request import EvaluationRequest, read_questions

MB = 1_000_000
BIG = "x" * MB


@pytest.fixture
def bounded() -> Iterator[None]:
    """Python's own memory stays small; Arrow's lies in the child, which has a bound of its own."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 55 * MB


def parquet(path: Path, column: object, **how: object) -> Path:
    pq.write_table(
        pa.table({"message": column}), path, compression="zstd", write_statistics=False, store_schema=False, **how
    )
    return path


def dictionary(path: Path) -> Path:
    """Three hundred rows that are one entry of a dictionary."""
    return parquet(path, pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array([BIG])))


def prefixes(path: Path) -> Path:
    """Three hundred rows that each begin as the one before, whole."""
    encoding = {"message": "DELTA_BYTE_ARRAY"}
    return parquet(path, pa.array([BIG] * 300), use_dictionary=False, column_encoding=encoding)


@pytest.mark.parametrize("make", [dictionary, prefixes])
@pytest.mark.usefixtures("bounded")
def test_the_first_rows_of_a_file_that_stands_for_a_million_times_its_size(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path / "in.parquet")
    assert path.stat().st_size < 600
    table = open_table(path)
    assert (table.columns, table.rows) == (("message",), 300)
    assert [row["message"] for row in islice(read_rows(table), 5)] == [BIG] * 5


def test_all_rows_of_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableInvalid) as caught:
        sum(1 for _ in read_rows(open_table(dictionary(tmp_path / "in.parquet"))))
    assert caught.value.why == "Its rows take more than 64 MB, 1,000 times as much as the file."


def test_columns_in_another_order_than_the_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"a": ["1"], "message": ["Hi"], "z": ["3"]}), path)
    assert list(read_rows(open_table(path), ["z", "message"])) == [{"message": "Hi", "z": "3"}]


def test_two_columns_of_one_name_are_said(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["message", "message"]), path)
    with pytest.raises(TableInvalid, match="Two of its columns have the same name"):
        open_table(path)


@pytest.mark.usefixtures("bounded")
def test_long_rows_are_written_some_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("w") as file:
        for _ in range(60):
            file.write(f'{{"message": "{BIG}"}}\n')
    write_output(open_table(path), iter([]), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").stat().st_size > 60 * MB


def test_one_cell_of_a_batch_that_is_nested_too_deep_is_a_failed_row() -> None:
    with pytest.raises(RequestInvalid, match="are not JSON"):
        row_prompt({"messages": "[" * 100_000}, Mapped("messages", "messages"), None)


def test_an_evaluation_holds_so_many_characters(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"message": "{BIG}", "expected": "x"}}\n' * 25)
    with pytest.raises(TableInvalid, match="too long for an evaluation"):
        read_questions(EvaluationRequest("models:/m-1", str(path)))
    assert len(read_questions(EvaluationRequest("models:/m-1", str(path), limit=5)).questions) == 5


@pytest.mark.usefixtures("bounded")
def test_a_cell_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    table = open_table(parquet(tmp_path / "in.parquet", ["a", "x" * 5 * MB]))
    with pytest.raises(TableInvalid) as caught:
        list(read_rows(table))
    assert caught.value.why == "Row 2 has 5 MB; the limit is 4 MB."


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux bounds the memory of one process")
@pytest.mark.usefixtures("bounded")
def test_a_cell_beyond_memory_is_refused(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 32, pa.int32()), pa.array(["x" * 20 * MB]))
    table = open_table(parquet(tmp_path / "in.parquet", column))
    with pytest.raises(TableInvalid) as caught:
        list(read_rows(table))
    assert caught.value.why == "Its rows need more memory than is allowed."


def test_the_child_that_decodes_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI3KIT_HF_TOKEN", "hf_secret")
    given = []
    monkeypatch.setattr(parquet_rows.subprocess, "Popen", lambda *_, env, **__: given.append(env) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_table(parquet(tmp_path / "in.parquet", ["a"]))
    assert "hf_secret" not in given[0].values()


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
@pytest.mark.usefixtures("bounded")
def test_more_columns_than_a_table_has(tmp_path: Path, name: str) -> None:
    names = [f"c{number}" for number in range(200_000 if name == "in.csv" else 1_001)]
    path = tmp_path / name
    if name == "in.csv":
        path.write_text(",".join(names))
    elif name == "in.jsonl":
        path.write_text("".join(f'{{"{each}": 1}}\n' for each in names))
    else:
        pq.write_table(pa.table({each: [1] for each in names}), path)
    with pytest.raises(TableInvalid, match="columns"):
        open_table(path)


@pytest.mark.parametrize(("name", "begin"), [("in.csv", ""), ("in.csv", 'message\n"'), ("in.jsonl", "")])
@pytest.mark.usefixtures("bounded")
def test_a_row_without_end(tmp_path: Path, name: str, begin: str) -> None:
    path = tmp_path / name
    path.write_text(begin + "[" * 2 * MOST_ROW_CHARACTERS)
    with pytest.raises(TableInvalid, match="is too long"):
        open_table(path)


@pytest.mark.usefixtures("bounded")
def test_a_row_of_many_lines_without_end(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("message\n" + ('"' + "x" * 100 + '\n",') * 50_000)
    with pytest.raises(TableInvalid, match="is too long"):
        open_table(path)


@pytest.mark.parametrize("encoding", ["zip", "punycode", "idna", "rot13", "undefined"])
def test_a_codec_that_is_no_encoding_of_files(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text("message\nHello\n")
    with pytest.raises(TableInvalid, match="There is no encoding"):
        open_table(path, ReadOptions(encoding=encoding))


def nested(times: int) -> str:
    return '{"message": "Hi", "more": ' + "[" * times + "]" * times + "}\n"


class TestWhatCannotBeWrittenIsSaidBeforeAnythingIsComputed:
    def test_lists_that_lie_too_deep_in_each_other(self, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text(nested(60))
        assert open_table(path).rows == 1
        path.write_text(nested(600))
        with pytest.raises(TableInvalid, match="nested more than 64 deep"):
            open_table(path)

    @pytest.mark.parametrize(
        "row",
        [
            '{"message": "Hi", "x": {}}', '{"message": "Hi", "x": ' + "9" * 40 + "}", '{"message": "Hi", "\\ud83d": 1}',
            '{"message": "Hi", "x": ["\\ud83d"]}',
        ],
        ids=["an empty object", "a long number", "half a character as a name", "half a character in a list"],
    )  # fmt: skip
    def test_values_that_parquet_has_no_place_for(self, tmp_path: Path, row: str) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text(row + "\n")
        with pytest.raises(TableInvalid, match=r"in\.jsonl cannot be written as Parquet"):
            check_output(open_table(path), tmp_path / "out.parquet")

    @pytest.mark.parametrize(
        "values",
        [pa.array([2**60], pa.timestamp("ms")), pa.array([2**62], pa.duration("s")), pa.array([2**30], pa.date32())],
    )
    def test_times_beyond_every_calendar(self, tmp_path: Path, values: pa.Array) -> None:
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({"message": ["Hi"], "at": values}), path)
        table = open_table(path)
        with pytest.raises(TableInvalid, match="A value in its rows cannot be read"):
            list(read_rows(table))

    @pytest.mark.parametrize("delimiter", [";;", "\n", "\r", '"', "é\0"])
    def test_a_delimiter_that_is_no_single_sign(self, tmp_path: Path, delimiter: str) -> None:
        path = tmp_path / "in.csv"
        path.write_text("message;x\nHi;1\n")
        with pytest.raises(TableInvalid, match="delimiter"):
            open_table(path, ReadOptions(delimiter=delimiter))


def marked(name: str, kind: pa.DataType, mark: str, told: str) -> pa.Field:
    """A field that another library's type would be made of."""
    return pa.field(name, kind, metadata={"ARROW:extension:name": mark, "ARROW:extension:metadata": told})


INTERVAL = pa.struct([("left", pa.int64()), ("right", pa.int64())])


class TestMarkedFields:
    """pandas registers its types with Arrow in the app, and their code reads what a file says of them."""

    @pytest.mark.parametrize("told", ["{}", "null", "no JSON", '{"freq": "nonsense"}', '{"freq": "D"}'])
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (lambda told: marked("x", pa.int64(), "pandas.period", told), 1),
            (lambda told: marked("x", INTERVAL, "pandas.interval", told), {"left": 1, "right": 2}),
            (lambda told: marked("x", pa.binary(), "arrow.py_extension_type", told), b"1"),
            (lambda told: pa.field("x", pa.list_(marked("item", pa.int64(), "pandas.period", told))), [1]),
            (lambda told: pa.field("x", pa.large_list(marked("item", pa.int64(), "pandas.period", told))), [1]),
            (lambda told: pa.field("x", pa.list_(marked("item", pa.int64(), "pandas.period", told), 1)), [1]),
            (lambda told: pa.field("x", pa.struct([marked("y", pa.int64(), "pandas.period", told)])), {"y": 1}),
            (lambda told: pa.field("x", pa.map_("string", marked("value", pa.int64(), "pandas.period", told))), [("y", 1)]),
        ],
    )  # fmt: skip
    def test_a_mark_is_not_read(
        self, tmp_path: Path, field: Callable[[str], pa.Field], value: object, told: str
    ) -> None:
        assert pandas_arrow_types.ArrowPeriodType, "the app has it loaded"
        made, plain = field(told), field("").type
        path, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
        # The types that Python has registered must not be made here either.
        code = "import pickle, sys, pyarrow as pa, pyarrow.parquet as pq; field, value, path = pickle.load(sys.stdin.buffer); pq.write_table(pa.table([['Hi'], pa.array([value], field.type)], schema=pa.schema([('message', pa.string()), field])), path)"
        subprocess.run([sys.executable, "-c", code], input=pickle.dumps((made, value, str(path))), check=True)
        table = open_table(path)
        assert list(read_rows(table)) == [{"message": "Hi", "x": value}]
        write_output(table, iter([]), output)
        assert pq.read_schema(output).field("x").type == plain

    def test_arrows_own_types_stay(self, tmp_path: Path) -> None:
        path, output = tmp_path / "in.parquet", tmp_path / "out.csv"
        of_16_bytes = pa.array([uuid.UUID(int=7).bytes], pa.uuid())
        pq.write_table(pa.table({"message": ["Hi"], "x": of_16_bytes}), path)
        write_output(open_table(path), iter([]), output)
        assert "00000000-0000-0000-0000-000000000007" in output.read_text()
