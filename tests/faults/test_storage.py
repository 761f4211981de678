"""Faults of the data folder under a running app: full, read-only, locked, the clock set. Answers are given, turns kept once."""

import re
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.conversations.saved import SavedConversations
from phi3kit.core.settings import Settings
from phi3kit.ui.shared import resources
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import TurnsReader
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built
from tests.pages.test_all_pages import PAGES
from tests.support.in_app import app_on, errors, open_page, read
from tests.support.samples import new_store, turn
from tests.support.stored import with_models_of, written_at_last
from tests.support.system_limits import fill, read_only, small_disk
from tests.support.waiting import wait_for
from tests.usage.test_outbox import begin_and_die

SPAIN, MADRID = "What is the capital of Spain?", "The capital of Spain is Madrid."
FRANCE, PARIS = "And of France?", "The capital of France is Paris."
LIST, ALBANIA = "List the capitals of Europe.", "Albania: Tirana"


def open_chat() -> AppTest:
    app = open_page("chat")
    return next(each for each in app.segmented_control if each.label == "Wrapper").set_value("onnx").run()


def ask(app: AppTest, text: str) -> AppTest:
    app = app.chat_input[0].set_value(text).run()
    assert not app.exception, app.exception
    return app


def shown(app: AppTest) -> dict[str, str]:
    return {turn.text: turn.answer_text for turn in app.session_state["conversation"].shown}


def turn_ids(app: AppTest) -> Counter[str]:
    return Counter(turn.turn_id for turn in app.session_state["conversation"].turns)


def said(app: AppTest) -> str:
    """Everything that the page and the sidebar say of a trouble."""
    return "\n".join([*errors(app), *(read(each.value) for each in (*app.warning, *app.sidebar.caption))])


def visit_all() -> None:
    """Open every page anew, as another visitor would; none shows a traceback."""
    for name in PAGES:
        open_page(name)


def all_written() -> None:
    """The app's own writer recovers without anybody's help."""
    wait_for("no turn waits", lambda: resources.kit().writer.state().waiting == 0, 90)
    wait_for("no problem", lambda: resources.kit().writer.state().problem is None, 10)


def conversation_is_kept(app: AppTest, settings: Settings) -> bool:
    found = SavedConversations(settings.home, settings.user).open(app.session_state["conversation"].id)
    return found is not None and {turn.text: turn.answer_text for turn in found.shown} == shown(app)


class TestAFullDisk:
    def test_answers_are_given_it_is_said_and_all_is_written_once_there_is_room(
        self, built: Built, tmp_path: Path
    ) -> None:
        with small_disk(tmp_path / "disk", megabytes=24) as disk:
            settings = with_models_of(built, disk)
            with app_on(disk):
                app = ask(open_chat(), SPAIN)
                all_written()
                fillers: list[Path] = []
                told = ""

                def is_written_or_waits() -> bool:
                    nonlocal told
                    told = said(open_page("home"))
                    return "Turns are waiting" in told or Outbox(disk).waiting() == 0

                while "Turns are waiting" not in told:  # the first ones go into the kept room
                    assert len(fillers) < 20
                    fillers.append(fill(disk, f"filler{len(fillers)}"))
                    app = ask(app, LIST)
                    assert ALBANIA in app.session_state["conversation"].shown[-1].answer_text
                    wait_for("the writer's try", is_written_or_waits)
                assert re.search("No space left on device|disk is full", told)
                visit_all()
                for filler in fillers:
                    filler.unlink()
                app = ask(app, FRANCE)
                assert shown(app)[FRANCE] == PARIS
                assert "still in this tab" not in said(app)
                all_written()
                assert conversation_is_kept(app, settings)
            assert len(turn_ids(app)) == len(fillers) + 2
            assert written_at_last(settings) == turn_ids(app)


class TestAReadOnlyFolder:
    def test_it_is_said_and_the_app_goes_on_by_itself_when_it_can_be_written(
        self, built: Built, tmp_path: Path
    ) -> None:
        settings = with_models_of(built, tmp_path / "home")
        with app_on(settings.home):
            with read_only(settings.home):
                for name in ("home", "chat"):
                    assert "Read-only file system" in said(open_page(name)), name
            app = ask(open_chat(), SPAIN)
            assert shown(app) == {SPAIN: MADRID}
            all_written()
            with read_only(settings.home):
                app = ask(app, FRANCE)
                assert shown(app)[FRANCE] == PARIS
                assert "This conversation is not saved. It is still in this tab" in said(app).replace("\\", "")
                visit_all()
            app.run()
            assert "still in this tab" not in said(app)
            all_written()
            assert conversation_is_kept(app, settings)
        assert written_at_last(settings) == turn_ids(app)


class TestALockedStore:
    def test_it_is_said_and_turns_are_written_once_when_it_is_free(self, built: Built, tmp_path: Path) -> None:
        settings = with_models_of(built, tmp_path / "home")
        with app_on(settings.home):
            open_page("home")
            with closing(sqlite3.connect(settings.home / "mlflow.db", isolation_level=None)) as other:
                other.execute("begin exclusive")
                resources.forget_lists()
                Outbox(settings.home).add(turn("while locked"))
                text = said(open_page("build"))
                assert "Another program keeps the database locked" in text
                assert "Wait until it is done, or stop it" in text
                problem = wait_for("the writer's problem", lambda: resources.kit().writer.state().problem)
                assert "Another program keeps the database locked" in problem
                other.execute("rollback")
            all_written()
            assert said(open_page("build")).count("locked") == 0
        assert written_at_last(settings) == Counter(["while locked"])


DAY_S = 86_400.0


class TestTheClock:
    @pytest.mark.parametrize("jump_s", [-400 * DAY_S, -3600.0, 3600.0, 400 * DAY_S])
    def test_a_jump_neither_loses_nor_doubles_nor_keeps_turns_waiting(
        self, tmp_path: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = new_store(tmp_path)
        outbox = Outbox(tmp_path)
        now = time.time()
        outbox.add(turn("before", at=now))
        assert write_waiting(settings) == 1
        reader = TurnsReader(settings)
        assert len(reader.refresh().turns) == 1
        outbox.begin(turn("over the jump", at=now))
        begin_and_die(tmp_path, "orphan")
        outbox.adopt_orphans()  # seen to be gone, by the clock before
        outbox.add(turn("waits", at=now))
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        outbox.add(turn("over the jump", at=now))
        outbox.add(turn("after", at=time.time()))
        outbox.tidy()
        write_waiting(settings)
        moment = time.time
        monkeypatch.setattr(time, "time", lambda: moment() + 10)  # the grace that a dead worker's client has
        write_waiting(settings)
        everything = Counter(["before", "over the jump", "orphan", "waits", "after"])
        assert outbox.waiting() == 0
        assert written_at_last(settings) == everything
        assert Counter(reader.refresh().turns["turn_id"]) == everything
        monkeypatch.undo()
        write_waiting(settings)
        assert written_at_last(settings) == everything
        assert Counter(reader.refresh().turns["turn_id"]) == everything
