"""The keeper: no turn of a worker is lost while its process lives, and none begins that could not be kept."""

from pathlib import Path

import pytest

from phi3kit.core.errors import BudgetSpent, StorageFailed
from phi3kit.core.limits import Limits
from phi3kit.core.records import Message, TurnRecord
from phi3kit.usage import recorder as keeper_module
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import Keeper
from tests.support.samples import turn
from tests.support.waiting import wait_for


@pytest.fixture
def counted() -> list[TurnRecord]:
    return []


@pytest.fixture
def keeper(tmp_path: Path, counted: list[TurnRecord]) -> Keeper:
    return Keeper(Outbox(tmp_path), Limits(), log_text=True, count=counted.append)


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """What stands in the outbox's place until it is removed."""
    (tmp_path / "outbox.db").mkdir()
    return tmp_path / "outbox.db"


class TestKeep:
    def test_a_turn_goes_into_the_outbox_and_is_counted(
        self, keeper: Keeper, tmp_path: Path, counted: list[TurnRecord]
    ):
        keeper.begin(turn(completion_tokens=0))
        keeper.keep(turn())
        assert (Outbox(tmp_path).find("t1"), keeper.unkept, counted) == (turn(), 0, [turn()])

    def test_what_the_disk_does_not_take_is_kept_in_order_when_it_takes_it_again(
        self, keeper: Keeper, tmp_path: Path, blocked: Path
    ):
        for turn_id in ("a", "b", "c"):
            keeper.begin(turn(turn_id))
            keeper.keep(turn(turn_id))
        assert keeper.unkept == 3
        blocked.rmdir()
        wait_for("all turns are kept", lambda: keeper.unkept == 0, 20)
        outbox = Outbox(tmp_path)
        assert [outbox.claim_next(), outbox.waiting()] == [(turn("a"), False), 3]

    def test_an_ending_worker_tries_once_more(self, keeper: Keeper, tmp_path: Path, blocked: Path):
        keeper.keep(turn())
        blocked.rmdir()
        keeper.close()
        assert Outbox(tmp_path).find("t1") == turn()

    def test_what_is_lost_is_in_the_log_without_its_text(
        self, keeper: Keeper, blocked: Path, caplog: pytest.LogCaptureFixture
    ):
        from phi3kit.core.records import TurnText

        keeper.keep(turn(text=TurnText("a secret question", ("a secret answer",))))
        keeper.close()
        assert "turn lost" in caplog.text
        assert "completion_tokens=5" in caplog.text
        assert "secret" not in caplog.text


class TestAdmit:
    def test_no_turn_begins_behind_too_many_that_are_in_memory_only(
        self, keeper: Keeper, blocked: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(keeper_module, "_MOST_IN_MEMORY", 2)
        for turn_id in ("a", "b"):
            keeper.admit(turn(turn_id))
            keeper.keep(turn(turn_id))
        with pytest.raises(StorageFailed, match="No turn can be logged"):
            keeper.admit(turn("c"))

    def test_a_turn_beyond_the_budget_is_refused_and_logged_as_such(self, tmp_path: Path):
        outbox = Outbox(tmp_path)
        keeper = Keeper(outbox, Limits(daily_tokens=1), log_text=False)
        with pytest.raises(BudgetSpent):
            keeper.admit(turn(completion_tokens=0))
        refused = outbox.find("t1")
        assert refused is not None
        assert (refused.finish_reason, refused.error_code, refused.total_tokens) == ("error", "insufficient_quota", 0)


class TestPromptKey:
    def test_is_equal_for_equal_prompts_in_either_format(self, keeper: Keeper):
        messages = (Message("user", "Hello"),)
        assert keeper.prompt_key(messages) == keeper.prompt_key("<|user|>\nHello<|end|>\n<|assistant|>\n")
        assert keeper.prompt_key(messages) != keeper.prompt_key((Message("user", "hello"),))

    def test_is_not_equal_in_another_data_folder(self, keeper: Keeper, tmp_path: Path):
        (tmp_path / "other").mkdir()
        other = Keeper(Outbox(tmp_path / "other"), Limits(), log_text=False)
        assert keeper.prompt_key("Hello") != other.prompt_key("Hello")

    def test_is_missing_where_nothing_can_be_kept(self, keeper: Keeper, blocked: Path):
        assert keeper.prompt_key("Hello") is None
