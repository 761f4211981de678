"""Upkeep: what goes by itself, what stays, and what is said when there is no room."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.access.actor import Actor
from phi3kit.batch.jobs import keep_upload
from phi3kit.core.data_folder import check_room, disk_bytes
from phi3kit.core.errors import LimitReached, NotAllowed, TableInvalid
from phi3kit.core.limits import Limits
from phi3kit.core.settings import Settings
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking import registry
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.upkeep import Upkeep, clean_up
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store, new_store, turn
from tests.support.waiting import wait_for

OLD = time.time() - 7200


def aged(path: Path, text: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


class TestCleanUp:
    def test_old_files_that_can_be_made_again_go_and_new_ones_stay(self, settings: Settings):
        old = [aged(settings.home / name) for name in ("logs/a.log", "bundles/b.zip", "batches/uploads/1/in.csv")]
        new = settings.home / "logs" / "new.log"
        new.write_text("y")
        kept = aged(settings.home / "conversations.db")
        found = clean_up(ADMIN, settings, 3600)
        assert [path.exists() for path in old] == [False] * 3
        assert new.exists()
        assert kept.exists()
        assert found.files_bytes == 3000

    def test_a_models_files_are_no_matter_of_age_on_ones_own_machine(self, built: Built, tmp_path: Path):
        settings = copy_of_store(built.settings, tmp_path / "home")
        assert clean_up(ADMIN, settings, -3600).models == 0
        assert len(list_models(settings)) == 2

    def test_is_for_admins(self, settings: Settings):
        with pytest.raises(NotAllowed):
            clean_up(Actor("ada", "user"), settings, 3600)


def test_what_strangers_made_expires_and_what_is_registered_or_loaded_stays(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = copy_of_store(built.settings, tmp_path / "home")
    onnx, transformers = (str(model.model_uri) for model in sorted(list_models(settings), key=lambda m: m.wrapper))
    Outbox(settings.home).add(turn("old", at=time.time() - 7200))
    write_waiting(settings)
    before = len(read_turns(settings))
    public = replace(settings, profile="public", limits=Limits(keep_hours=1))
    monkeypatch.setattr("phi3kit.tracking.upkeep._EVERY_S", 0.05)
    monkeypatch.setattr("phi3kit.tracking.upkeep._HOUR_S", -60.0)  # everything is old
    registry.register(onnx, "kept", ADMIN, settings)
    upkeep = Upkeep(public, lambda: [transformers])
    upkeep.start()
    try:
        wait_for("the turns' end", lambda: len(read_turns(settings)) < before)
        assert {str(model.model_uri) for model in list_models(settings)} == {onnx, transformers}
    finally:
        upkeep.close()
    upkeep = Upkeep(public, list)
    upkeep.start()
    try:
        wait_for("the unregistered model's end", lambda: len(list_models(settings)) == 1)
        assert list_models(settings)[0].model_uri == onnx
    finally:
        upkeep.close()


class TestRoom:
    def test_beyond_the_disks_share_nothing_new_begins(self, settings: Settings):
        (settings.home / "big").write_bytes(b"x" * 3_000_000)
        full = replace(settings, limits=Limits(disk_mb=2, keep_hours=24))
        with pytest.raises(
            LimitReached, match=r"holds \d MB; the limit is 2 MB.*older than 24 h is deleted automatically"
        ):
            BuildJobs(full).start(BuildRequest(("onnx",), EMBEDDED, "int4"), ADMIN)
        check_room(replace(settings, limits=Limits(disk_mb=100)))

    def test_a_file_with_two_names_counts_once(self, tmp_path: Path):
        (tmp_path / "a").write_bytes(b"x" * 1000)
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        assert disk_bytes(tmp_path) == 1000

    def test_an_upload_that_is_too_big_is_refused(self, settings: Settings):
        with pytest.raises(TableInvalid, match=r"2\.0 MB; the limit is 1 MB"):
            keep_upload("in.csv", b"x" * 2_000_000, ADMIN, replace(settings, limits=Limits(upload_mb=1)))

    def test_models_are_bounded(self, built: Built):
        full = replace(built.settings, limits=Limits(models=3))
        with pytest.raises(LimitReached, match="2 models are logged here; the limit is 3"):
            BuildJobs(full).start(BuildRequest(("transformers", "onnx"), EMBEDDED, "int4"), ADMIN)
