"""The data folder: prepared once, and clear about why it takes no more."""

import errno
import os
from pathlib import Path

import pytest

from phi3kit.core.data_folder import prepare_home, writing
from phi3kit.core.errors import StorageFailed


class TestPrepareHome:
    def test_leaves_an_empty_folder(self, tmp_path: Path):
        prepare_home(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []

    @pytest.mark.parametrize("home", ["file", "file/home"])
    def test_a_file_in_the_folders_place_is_a_storage_failure(self, tmp_path: Path, home: str):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageFailed, match="cannot be written") as caught:
            prepare_home(tmp_path / home)
        assert caught.value.what == f"The data folder {tmp_path / home} cannot be written."
        assert "PHI3KIT_HOME" in caught.value.next_step

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written_says_so(self, tmp_path: Path):
        tmp_path.chmod(0o500)
        with pytest.raises(StorageFailed, match="Permission denied"):
            prepare_home(tmp_path)


class TestWriting:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS])
    def test_what_the_file_system_says_is_the_reason(self, tmp_path: Path, number: int):
        with pytest.raises(StorageFailed) as caught, writing(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "file"))
        assert str(caught.value) == (
            f"The data folder {tmp_path} cannot be written. {os.strerror(number)}. "
            "Free some space or set PHI3KIT_HOME to a folder that you may write to."
        )

    def test_a_mistake_of_our_own_passes_through(self, tmp_path: Path):
        with pytest.raises(TypeError), writing(tmp_path):
            raise TypeError
