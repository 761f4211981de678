"""Journals: each person's are their own, whatever others compute."""

from pathlib import Path

import pytest

from phi3kit.access.actor import Actor
from phi3kit.batch.journal import Journal
from phi3kit.batch.request import BatchRequest, Mapped, RowResult, key_of
from phi3kit.batch.tables import open_table
from phi3kit.core.settings import Settings
from tests.conftest import settings_for

ADA, BOB = Actor("ada", "user"), Actor("bob", "user")
ANSWER = RowResult(0, "Only Ada may read this.", 3, 5, "stop")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


class TestTwoPeople:
    def test_the_same_key_is_two_journals(self, settings: Settings) -> None:
        with Journal(settings, "k", ADA) as adas:
            adas.add(ANSWER)
        with Journal(settings, "k", BOB) as bobs:
            assert (list(bobs.done(1)), list(bobs.results())) == ([0], [])
        with Journal(settings, "k", ADA) as adas:
            assert (list(adas.done(1)), list(adas.results())) == ([1], [ANSWER])

    def test_the_same_table_and_options_have_two_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "in.csv"
        path.write_text("message\nHello\n")
        table, request = open_table(path), BatchRequest("models:/m-1", path, tmp_path / "out.csv")
        keys = [key_of(request, table, Mapped("message", "message"), "d", actor) for actor in (ADA, BOB, ADA)]
        assert keys[0] == keys[2] != keys[1]

    def test_many_journals_of_one_leave_those_of_another(self, settings: Settings) -> None:
        with Journal(settings, "k", ADA) as adas:
            adas.add(ANSWER)
        for number in range(60):
            Journal(settings, f"{number}", BOB).__exit__()
        with Journal(settings, "k", ADA) as adas:
            assert list(adas.results()) == [ANSWER]
        assert len(list((settings.home / "batches" / "journals").rglob("*.db"))) == 51  # fifty of Bob's, one of Ada's
