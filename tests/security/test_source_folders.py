"""Folders of the server: who is no admin learns nothing of them through Build."""

from pathlib import Path

import pytest

from phi3kit.access.actor import Actor
from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import DownloadFailed, NotAllowed, Phi3KitError
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.sources.find import find_source
from tests.conftest import settings_for
from tests.support.actors import ADMIN

USER = Actor("ada", "user")
HERE = ("/etc", "/", "~", ".", "..", str(MODEL_FOLDER), "/etc/passwd")
NOWHERE = ("/no/such", "~nobody/x", "./no/such", "no such folder", "", "C:\\Users")


def refusal(name: str, home: Path, actor: Actor = USER) -> Phi3KitError:
    settings = settings_for(home, PHI3KIT_PROFILE="team", HF_ENDPOINT="http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(Phi3KitError) as refused:
        find_source(name, actor, settings)
    return refused.value


@pytest.mark.parametrize("name", [*HERE, *NOWHERE])
def test_a_user_gets_one_answer_for_folders_that_are_there_and_that_are_not(name: str, tmp_path: Path) -> None:
    error = refusal(name, tmp_path)
    assert isinstance(error, NotAllowed)
    assert str(error) == (
        "You may not build from a folder of the server here. Your role is user; this needs admin. "
        "Ask whoever runs this app for that role."
    )


def test_a_folder_with_the_name_of_a_repository_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    there, not_there = refusal("owner/name", tmp_path), refusal("owner/none", tmp_path)
    assert isinstance(there, DownloadFailed)
    assert str(there).replace("owner/name", "") == str(not_there).replace("owner/none", "")
    assert "such folder" not in str(there)


def test_no_build_of_a_folder_begins_for_a_user(tmp_path: Path) -> None:
    jobs = BuildJobs(settings_for(tmp_path, PHI3KIT_PROFILE="team"))
    for source in HERE:
        with pytest.raises(NotAllowed):
            jobs.start(BuildRequest(("onnx",), source, "int4"), USER)
    assert jobs.all() == []


def test_an_admin_names_folders_as_before(tmp_path: Path) -> None:
    assert find_source(str(MODEL_FOLDER), ADMIN, settings_for(tmp_path)).folder == MODEL_FOLDER
