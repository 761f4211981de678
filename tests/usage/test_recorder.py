"""The recorder: no turn of a worker is lost while its process lives, and none begins that could not be kept."""

from pathlib import Path

import pytest

from phi3kit.core.errors import BudgetSpent, StorageFailed
from phi3kit.core.limits import Limits
from phi3kit.core.records import Message, TurnRecord
from phi3kit.usage import recorder as recorder_module
from phi3kit.usage.budgets import today
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder
from tests.support.samples import turn
from tests.support.waiting import wait_for


@pytest.fixture
def counted() -> list[TurnRecord]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, counted: list[TurnRecord]) -> OutboxRecorder:
    return OutboxRecorder(Outbox(tmp_path), Limits(), log_text=True, count=counted.append)


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """What stands in the outbox's place until it is removed."""
    (tmp_path / "outbox.db").mkdir()
    return tmp_path / "outbox.db"


class TestKeep:
    def test_a_turn_goes_into_the_outbox_and_is_counted(
        self, recorder: OutboxRecorder, tmp_path: Path, counted: list[TurnRecord]
    ):
        recorder.begin(turn(completion_tokens=0))
        recorder.end(turn())
        assert (Outbox(tmp_path).find("t1"), recorder.in_memory, counted) == (turn(), 0, [turn()])

    def test_what_the_disk_does_not_take_is_kept_in_order_when_it_takes_it_again(
        self, recorder: OutboxRecorder, tmp_path: Path, blocked: Path
    ):
        for turn_id in ("a", "b", "c"):
            recorder.begin(turn(turn_id))
            recorder.end(turn(turn_id))
        assert recorder.in_memory == 3
        blocked.rmdir()
        wait_for("all turns are kept", lambda: recorder.in_memory == 0)
        outbox = Outbox(tmp_path)
        assert [outbox.claim_next(), outbox.waiting()] == [(turn("a"), False), 3]

    def test_an_ending_worker_tries_once_more(self, recorder: OutboxRecorder, tmp_path: Path, blocked: Path):
        recorder.end(turn())
        blocked.rmdir()
        recorder.close()
        assert Outbox(tmp_path).find("t1") == turn()

    def test_what_is_lost_is_in_the_log_without_its_text(
        self, recorder: OutboxRecorder, blocked: Path, caplog: pytest.LogCaptureFixture
    ):
        from phi3kit.core.records import TurnText

        recorder.end(turn(text=TurnText("a secret question", ("a secret answer",))))
        recorder.close()
        assert "turn lost" in caplog.text
        assert "completion_tokens=5" in caplog.text
        assert "secret" not in caplog.text


class TestAdmit:
    def test_no_turn_begins_behind_too_many_that_are_in_memory_only(
        self, recorder: OutboxRecorder, blocked: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(recorder_module, "_MOST_IN_MEMORY", 2)
        for turn_id in ("a", "b"):
            recorder.admit(turn(turn_id))
            recorder.end(turn(turn_id))
        with pytest.raises(StorageFailed, match="Turns cannot be logged"):
            recorder.admit(turn("c"))

    def test_a_turn_beyond_the_budget_is_refused_and_counted_and_not_logged(self, tmp_path: Path):
        outbox = Outbox(tmp_path)
        recorder = OutboxRecorder(outbox, Limits(daily_tokens=1), log_text=False)
        with pytest.raises(BudgetSpent):
            recorder.admit(turn(completion_tokens=0))
        assert (outbox.find("t1"), outbox.waiting(), outbox.refusals(today())) == (None, 0, {turn().user: 1})


class TestPromptKey:
    def test_is_equal_for_equal_prompts_in_either_format(self, recorder: OutboxRecorder):
        messages = (Message("user", "Hello"),)
        assert recorder.prompt_key(messages) == recorder.prompt_key("<|user|>\nHello<|end|>\n<|assistant|>\n")
        assert recorder.prompt_key(messages) != recorder.prompt_key((Message("user", "hello"),))

    def test_is_not_equal_in_another_data_folder(self, recorder: OutboxRecorder, tmp_path: Path):
        (tmp_path / "other").mkdir()
        other = OutboxRecorder(Outbox(tmp_path / "other"), Limits(), log_text=False)
        assert recorder.prompt_key("Hello") != other.prompt_key("Hello")

    def test_is_missing_where_nothing_can_be_kept(self, recorder: OutboxRecorder, blocked: Path):
        assert recorder.prompt_key("Hello") is None
