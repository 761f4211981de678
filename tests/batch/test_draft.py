"""Drafts: an output is written beside its place, follows no link, and has a bound."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3kit.batch import draft, output
from phi3kit.batch.draft import drafted
from phi3kit.batch.output import check_output, write_output
from phi3kit.batch.request import RowResult
from phi3kit.batch.tables import Table, open_table
from phi3kit.core.errors import StorageFailed
from phi3kit.core.operating_system import create

FORMATS = ["out.csv", "out.tsv", "out.jsonl", "out.parquet"]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "in.csv"
    path.write_text("message\n" + "Hello\n" * 2000)
    return open_table(path)


def only(*names: str) -> Callable[[Path], bool]:
    """Whether a folder holds these names and nothing beside."""
    return lambda folder: sorted(each.name for each in folder.iterdir()) == sorted(names)


class TestPlantedLinks:
    @pytest.mark.parametrize("name", FORMATS)
    def test_a_link_in_the_drafts_place_is_not_followed(self, table: Table, tmp_path: Path, name: str) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / f".{name}.part").symlink_to(victim)
        check_output(table, tmp_path / name)
        write_output(table, iter([]), tmp_path / name)
        assert victim.read_text() == "mine"
        assert (tmp_path / f".{name}.part").is_symlink()
        assert open_table(tmp_path / name).rows == 2000

    @pytest.mark.parametrize("target", ["victim", "not_there"])
    def test_a_file_is_created_and_not_opened(self, tmp_path: Path, target: str) -> None:
        (tmp_path / "victim").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / target)
        with pytest.raises(FileExistsError):
            create(tmp_path / "link")
        assert (tmp_path / "victim").read_text() == "mine"
        assert not (tmp_path / "not_there").exists()

    def test_an_output_that_is_a_link_is_replaced(self, table: Table, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / "out.csv").symlink_to(victim)
        write_output(table, iter([]), tmp_path / "out.csv")
        assert victim.read_text() == "mine"
        assert not (tmp_path / "out.csv").is_symlink()


class TestDraft:
    def test_it_is_its_users_alone_under_a_name_that_nobody_knows(self, tmp_path: Path) -> None:
        names = set()
        for _ in range(2):
            with drafted(tmp_path / "out.csv", 100) as file:
                file.write(b"x")
                (path,) = tmp_path.glob(".out.csv.*.part")
                names.add(path.name)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert only("out.csv")(tmp_path)
            os.unlink(tmp_path / "out.csv")
        assert len(names) == 2

    def test_the_longest_name_of_a_file_has_a_draft_too(self, tmp_path: Path) -> None:
        name = "é" * 125 + ".csv"  # 254 bytes
        with drafted(tmp_path / name, 100) as file:
            file.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"

    def test_as_many_bytes_as_allowed_and_no_more(self, tmp_path: Path) -> None:
        with drafted(tmp_path / "out", 10) as file:
            file.write(b"0123456789")
        with pytest.raises(StorageFailed), drafted(tmp_path / "out", 10) as file:
            file.write(b"0123456789A")
        assert (tmp_path / "out").read_bytes() == b"0123456789"
        assert only("out")(tmp_path)


class TestBound:
    @pytest.mark.parametrize("name", FORMATS)
    def test_an_output_of_more_than_its_input_allows_is_refused_in_every_format(
        self, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(output, "_MOST_BYTES", 1_000_000)
        # Texts that Parquet cannot make smaller.
        results = (RowResult(number, os.urandom(1000).hex(), 1, 1, "stop") for number in range(2000))
        with pytest.raises(StorageFailed) as caught:
            write_output(table, results, tmp_path / name)
        assert caught.value.what == f"{name} cannot be written."
        assert caught.value.why == "It would have more than 1 MB, the limit for its input."
        assert only("in.csv")(tmp_path)

    def test_the_disk_is_not_filled(self, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(draft, "LEFT_BYTES", shutil.disk_usage(tmp_path).total + 1)
        monkeypatch.setattr(draft, "_LOOK_BYTES", 100_000)
        results = (RowResult(number, "x" * 1000, 1, 1, "stop") for number in range(2000))
        with pytest.raises(StorageFailed, match="of disk space would be left"):
            write_output(table, results, tmp_path / "out.csv")
        assert only("in.csv")(tmp_path)


def test_a_name_that_is_too_long_is_said_before_anything_is_computed(table: Table, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="File name too long"):
        check_output(table, tmp_path / f"{'x' * 300}.csv")
