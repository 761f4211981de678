"""Tables of a batch: what is read, what is refused before anything is computed, and what comes out."""

import csv
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from phi3kit.batch import tables
from phi3kit.batch.output import check_output, write_output
from phi3kit.batch.request import BatchRequest, Mapped, RowResult, SamplingParams, map_columns, row_prompt
from phi3kit.batch.tables import ReadOptions, Table, open_table, read_rows
from phi3kit.core.errors import RequestInvalid, StorageFailed, TableInvalid
from phi3kit.core.records import Message
from phi3kit.jobs.job_folder import read_request, write_owner


def written(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path: Path, reading: ReadOptions = ReadOptions()) -> list[dict[str, Any]]:  # noqa: B008
    return list(read_rows(open_table(path, reading)))


def request_for(path: Path, **values: Any) -> BatchRequest:
    return BatchRequest("models:/m-1", path, path.with_name("out.csv"), **values)


class TestReading:
    def test_quoted_cells_keep_commas_and_lines(self, tmp_path: Path) -> None:
        path = written(tmp_path, 'id,message\n1,"a, b"\n2,"two\nlines"\n')
        assert rows_of(path) == [{"id": "1", "message": "a, b"}, {"id": "2", "message": "two\nlines"}]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_an_encoding_that_the_first_bytes_say_is_known(self, tmp_path: Path, encoding: str) -> None:
        path = written(tmp_path, "message\nスペイン\n".encode(encoding))
        assert rows_of(path) == [{"message": "スペイン"}]

    @pytest.mark.parametrize("encoding", ["cp932", "cp1253"])
    def test_another_encoding_is_named(self, tmp_path: Path, encoding: str) -> None:
        text = "スペイン" if encoding == "cp932" else "Ισπανία"
        path = written(tmp_path, f"message\n{text}\n".encode(encoding))
        assert rows_of(path, ReadOptions(encoding=encoding)) == [{"message": text}]

    @pytest.mark.parametrize("delimiter", [";", "\t", "|"])
    def test_the_delimiter_is_the_one_of_the_first_line(self, tmp_path: Path, delimiter: str) -> None:
        path = written(tmp_path, f"id{delimiter}message\n1{delimiter}a, b\n")
        assert rows_of(path) == [{"id": "1", "message": "a, b"}]

    def test_blank_lines_are_no_rows_and_short_ones_are_filled(self, tmp_path: Path) -> None:
        path = written(tmp_path, "message,note\n\na,b\n\nc\n\n")
        assert rows_of(path) == [{"message": "a", "note": "b"}, {"message": "c", "note": ""}]

    def test_without_a_header_columns_have_numbers(self, tmp_path: Path) -> None:
        path = written(tmp_path, "Hello,x\nBye,y\n")
        assert rows_of(path, ReadOptions(header=False))[1] == {"column_1": "Bye", "column_2": "y"}

    def test_jsonl_has_the_columns_of_all_its_lines(self, tmp_path: Path) -> None:
        path = written(tmp_path, '{"message": "a", "n": 1}\n\n{"message": "b", "tags": ["x"]}\n', "in.jsonl")
        assert rows_of(path)[1] == {"message": "b", "n": None, "tags": ["x"]}

    def test_parquet_keeps_its_types(self, tmp_path: Path) -> None:
        path = tmp_path / "in.parquet"
        pd.DataFrame({"message": ["a", None], "n": [1, 2]}).to_parquet(path)
        assert rows_of(path) == [{"message": "a", "n": 1}, {"message": None, "n": 2}]

    def test_a_long_table_does_not_fill_memory(self, tmp_path: Path) -> None:
        path = tmp_path / "in.csv"
        with path.open("w") as file:
            file.write("id,message\n")
            file.writelines(f"{number},What is the capital of Spain?\n" for number in range(200_000))
        tracemalloc.start()
        table = open_table(path)
        last = None
        for last in read_rows(table):  # noqa: B007
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (table.rows, last) == (200_000, {"id": "199999", "message": "What is the capital of Spain?"})
        assert peak < 4_500_000, f"{peak / 1e6:.1f} MB, and the file has {path.stat().st_size / 1e6:.0f}"


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "name", "said"),
        [
            (b"", "in.csv", "in.csv is empty."),
            (b"\n\n", "in.csv", "in.csv is empty."),
            ("message\nスペイン\n".encode("cp932"), "in.csv", "in.csv is not in utf-8. Line 2"),
            (b"message\n" + b"ok\n" * 50_000 + b"\xff\n", "in.csv", "Line 50002"),
            (b"message\na,b\n", "in.csv", "Line 2 of in.csv has 2 cells, and the first one has 1."),
            (b'message\n"a\n', "in.csv", "in.csv is not valid CSV from line"),
            (b"a,a\n1,2\n", "in.csv", "Two columns of in.csv are called 'a'."),
            (b"PK\x03\x04", "in.xlsx", "in.xlsx is not a table"),
            (b'{"message": 1}\nnonsense\n', "in.jsonl", "Line 2 of in.jsonl is not JSON."),
            (b"[1]\n", "in.jsonl", "Line 1 of in.jsonl is not an object."),
            (b"PAR1 nonsense", "in.parquet", "in.parquet cannot be read."),
        ],
    )
    def test_a_file_that_cannot_be_read_says_where_and_what_to_do(
        self, tmp_path: Path, content: bytes, name: str, said: str
    ) -> None:
        with pytest.raises(TableInvalid) as caught:
            open_table(written(tmp_path, content, name))
        assert said in str(caught.value)
        assert caught.value.next_step

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TableInvalid, match=r"none.csv cannot be read. No such file"):
            open_table(tmp_path / "none.csv")

    def test_an_unknown_encoding(self, tmp_path: Path) -> None:
        with pytest.raises(TableInvalid, match="no encoding 'klingon'"):
            open_table(written(tmp_path, "message\n"), ReadOptions(encoding="klingon"))


class TestColumns:
    @pytest.mark.parametrize("name", ["message", "prompt", "messages"])
    def test_a_column_of_a_known_name_is_found(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path, f"id,{name}\n1,x\n")
        mapped = map_columns(request_for(path), open_table(path))
        assert (mapped.column, mapped.format) == (name, name)

    def test_a_table_without_header_is_explained(self, tmp_path: Path) -> None:
        path = written(tmp_path, "What is the capital of Spain?\nAnd of France?\n")
        with pytest.raises(TableInvalid) as caught:
            map_columns(request_for(path), open_table(path))
        assert "'What is the capital of Spain?'" in caught.value.why
        assert "--no-header" in caught.value.next_step
        table = open_table(path, ReadOptions(header=False))
        assert (table.rows, map_columns(request_for(path), table).column) == (2, "column_1")

    def test_two_columns_of_prompts_are_not_guessed_between(self, tmp_path: Path) -> None:
        path = written(tmp_path, "message,prompt\na,b\n")
        with pytest.raises(TableInvalid, match="unclear"):
            map_columns(request_for(path), open_table(path))
        assert map_columns(request_for(path, column="prompt", format="prompt"), open_table(path)).format == "prompt"

    def test_a_column_that_the_output_adds_must_not_be_there(self, tmp_path: Path) -> None:
        path = written(tmp_path, "message,completion\na,b\n")
        with pytest.raises(TableInvalid, match="already has a column completion"):
            map_columns(request_for(path), open_table(path))

    def test_text_parts_are_joined_as_the_server_joins_them(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
        value = [{"role": "user", "content": parts}]
        mapped = Mapped("messages", "messages")
        assert row_prompt({"messages": value}, mapped, None) == (Message("user", "What is it?"),)
        assert row_prompt({"messages": json.dumps(value)}, mapped, None) == (Message("user", "What is it?"),)
        with pytest.raises(RequestInvalid, match="only text parts"):
            row_prompt({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, mapped, None)

    def test_a_row_becomes_messages_with_its_system_message(self, tmp_path: Path) -> None:
        path = written(tmp_path, "message,role\na,Be brief.\nb,\n")
        table = open_table(path)
        mapped = map_columns(request_for(path, system_column="role"), table)
        assert [row_prompt(row, mapped, "Be kind.") for row in read_rows(table)] == [
            (Message("system", "Be brief."), Message("user", "a")),
            (Message("system", "Be kind."), Message("user", "b")),
        ]

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("", "The messages are not JSON."),
            ("[]", "The messages are not a list."),
            ([{"role": "pirate", "content": "x"}], "A message has no role."),
            ([{"role": "user", "content": " "}], "The message is empty."),
            ([{"role": "user", "content": "\ud800"}], "The message is not text."),
        ],
    )
    def test_messages_that_are_none_are_explained(self, tmp_path: Path, value: object, said: str) -> None:
        path = written(tmp_path, "messages\nx\n")
        mapped = map_columns(request_for(path), open_table(path))
        with pytest.raises(RequestInvalid) as caught:
            row_prompt({"messages": value}, mapped, None)
        assert caught.value.what == said


@pytest.mark.parametrize(("name", "text"), [("in.csv", "message\na\nb\nc\n"), ("in.jsonl", '{"message": "a"}\n' * 3)])
def test_more_rows_than_a_table_may_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    assert open_table(written(tmp_path, text, name)).rows == 3
    monkeypatch.setattr(tables, "MOST_ROWS", 2)
    with pytest.raises(TableInvalid, match=f"{name} has too many rows. It has more than 2. Split it."):
        open_table(tmp_path / name)


RESULTS = [
    RowResult(0, "Madrid, of course", 10, 5, "stop"),
    RowResult(2, "", 0, 0, "error", "The message is empty."),
]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return open_table(written(tmp_path, "message,n\na,1\nb,2\nc,3\n"))


class TestOutput:
    def test_a_csv_keeps_columns_and_order_and_says_what_each_row_got(self, table: Table, tmp_path: Path) -> None:
        write_output(table, iter(RESULTS), tmp_path / "out.csv")
        with (tmp_path / "out.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [
            ["message", "n", "completion", "prompt_tokens", "completion_tokens", "finish_reason", "error"],
            ["a", "1", "Madrid, of course", "10", "5", "stop", ""],
            ["b", "2", "", "", "", "", ""],
            ["c", "3", "", "0", "0", "error", "The message is empty."],
        ]

    def test_jsonl_and_parquet_have_the_same(self, table: Table, tmp_path: Path) -> None:
        write_output(table, iter(RESULTS), tmp_path / "out.jsonl")
        write_output(table, iter(RESULTS), tmp_path / "out.parquet")
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        frame = pd.read_parquet(tmp_path / "out.parquet")
        assert lines[0] == {
            "message": "a", "n": "1", "completion": "Madrid, of course", "prompt_tokens": 10, "completion_tokens": 5,
            "finish_reason": "stop", "error": None,
        }  # fmt: skip
        assert list(frame.columns) == list(lines[0])
        assert [frame["completion"][0], frame["error"][2]] == ["Madrid, of course", "The message is empty."]

    def test_the_types_of_jsonl_become_parquets(self, tmp_path: Path) -> None:
        path = written(tmp_path, '{"message": "a", "n": 1}\n{"message": "b", "n": 2.5, "more": [1]}\n', "in.jsonl")
        write_output(open_table(path), iter([]), tmp_path / "out.parquet")
        frame = pd.read_parquet(tmp_path / "out.parquet")
        assert list(frame["n"]) == [1.0, 2.5]

    def test_mixed_values_cannot_become_parquet_and_that_is_said_first(self, tmp_path: Path) -> None:
        path = written(tmp_path, '{"message": "a", "n": 1}\n{"message": "b", "n": "x"}\n', "in.jsonl")
        with pytest.raises(TableInvalid, match="cannot be written as Parquet"):
            check_output(open_table(path), tmp_path / "out.parquet")

    def test_half_a_character_in_the_input_does_not_stop_the_output(self, tmp_path: Path) -> None:
        path = written(tmp_path, '{"message": "\\ud800"}\n', "in.jsonl")
        for name in ("out.jsonl", "out.csv", "out.parquet"):
            write_output(open_table(path), iter([]), tmp_path / name)
        assert json.loads((tmp_path / "out.jsonl").read_text())["message"] == "\ud800"

    def test_a_table_without_header_stays_without(self, tmp_path: Path) -> None:
        path = written(tmp_path, "a\nb\n")
        write_output(open_table(path, ReadOptions(header=False)), iter(RESULTS[:1]), tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text().splitlines()[0] == 'a,"Madrid, of course",10,5,stop,'

    def test_an_output_that_breaks_off_leaves_the_old_one(self, table: Table, tmp_path: Path) -> None:
        output = tmp_path / "out.csv"
        output.write_text("old")

        def broken() -> Iterator[RowResult]:
            yield RESULTS[0]
            raise OSError("disk gone")

        with pytest.raises(StorageFailed, match="cannot be written"):
            write_output(table, broken(), output)
        assert (output.read_text(), [each.name for each in tmp_path.glob(".*")]) == ("old", [])

    def test_the_input_is_no_output(self, table: Table, tmp_path: Path) -> None:
        with pytest.raises(TableInvalid, match="The output and the input are the same file"):
            check_output(table, table.path)
        with pytest.raises(StorageFailed, match="cannot be written"):
            check_output(table, tmp_path / "no" / "folder" / "out.csv")


class TestRequest:
    def test_a_request_survives_its_way_through_a_jobs_file(self, tmp_path: Path) -> None:
        request = request_for(
            tmp_path / "in.csv",
            column="q",
            format="prompt",
            sampling=SamplingParams(stop=("\n",), seed=3),
            reading=ReadOptions(False),
        )
        write_owner(tmp_path, request, os.getpid(), "ada")
        assert read_request(tmp_path, BatchRequest) == request

    def test_a_request_as_a_command_line(self, tmp_path: Path) -> None:
        request = request_for(
            tmp_path / "in.csv", column="q", format="prompt", sampling=SamplingParams(0.5, stop=("-x",))
        )
        assert request.command()[4:] == [
            str(tmp_path / "out.csv"),
            "--prompt-column=q",
            "--temperature=0.5",
            "--stop=-x",
        ]
