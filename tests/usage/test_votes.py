"""Votes: kept once a comparison, written as tags on the turns' runs in a real store."""

from pathlib import Path

import pytest

from phi3kit.conversations.comparison import Comparison
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.core.errors import StorageFailed, WorkerFailed
from phi3kit.core.settings import Settings
from phi3kit.endpoints.records import Answer, Request
from phi3kit.endpoints.targets import Target
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.votes import Tally, Vote, Votes
from phi3kit.usage.writer import write_waiting
from tests.support.samples import new_store, turn

A = Vote("t1", "transformers", "models:/m-1", "won")
B = Vote("t2", "onnx", "models:/m-2", "lost")


def tags(settings: Settings) -> dict[str, str | None]:
    """Turn ids to votes, in MLflow."""
    client = open_store(settings)
    runs = client.search_runs([experiment_id(settings, USAGE_EXPERIMENT)])
    return {run.data.tags["phi3kit.turn_id"]: run.data.tags.get("phi3kit.vote") for run in runs}


class TestCast:
    def test_a_vote_is_kept_and_counted_once_however_often_it_is_cast(self, tmp_path: Path) -> None:
        votes = Votes(tmp_path)
        for _ in range(3):
            votes.cast("c1", [A, B], "maria")
        assert votes.of("c1") == {"t1": "won", "t2": "lost"}
        assert votes.of("c2") == {}
        assert votes.tally() == [Tally("transformers", "models:/m-1", 1, 0, 0), Tally("onnx", "models:/m-2", 0, 0, 1)]

    def test_voting_again_changes_the_vote(self, tmp_path: Path) -> None:
        votes = Votes(tmp_path)
        votes.cast("c1", [A, B], "maria")
        votes.cast(
            "c1", [Vote("t1", A.wrapper, A.model_uri, "tie"), Vote("t2", B.wrapper, B.model_uri, "tie")], "maria"
        )
        assert set(votes.of("c1").values()) == {"tie"}
        assert [(each.won, each.tied, each.lost) for each in votes.tally()] == [(0, 1, 0), (0, 1, 0)]

    def test_a_file_that_cannot_be_used_is_explained(self, tmp_path: Path) -> None:
        (tmp_path / "outbox.db").write_text("no database, but a text that is long enough to look like one" * 100)
        with pytest.raises(StorageFailed, match="votes"):
            Votes(tmp_path).cast("c1", [A], "maria")


class TestWriteVotes:
    def test_the_writer_tags_the_runs_of_both_turns(self, tmp_path: Path) -> None:
        settings = new_store(tmp_path)
        for turn_id in ("t1", "t2", "t3"):
            Outbox(tmp_path).add(turn(turn_id))
        Votes(tmp_path).cast("c1", [A, B], "maria")
        write_waiting(settings)
        assert tags(settings) == {"t1": "won", "t2": "lost", "t3": None}
        assert Votes(tmp_path).ready() == []

    def test_a_vote_after_the_turn_was_written_and_a_changed_one_reach_mlflow_too(self, tmp_path: Path) -> None:
        settings = new_store(tmp_path)
        Outbox(tmp_path).add(turn("t1"))
        write_waiting(settings)
        votes = Votes(tmp_path)
        votes.cast("c1", [A], "maria")
        write_waiting(settings)
        assert tags(settings) == {"t1": "won"}
        votes.cast("c1", [Vote("t1", A.wrapper, A.model_uri, "tie")], "maria")
        write_waiting(settings)
        assert tags(settings) == {"t1": "tie"}

    def test_a_vote_waits_for_its_turn_and_one_without_a_turn_blocks_nobody(self, tmp_path: Path) -> None:
        settings = new_store(tmp_path)
        Outbox(tmp_path).add(turn("t1"))
        votes = Votes(tmp_path)
        votes.cast("c1", [A, B], "maria")
        assert [turn_id for turn_id, _, _ in votes.ready()] == ["t2"]  # nobody will ever add that one
        write_waiting(settings)
        assert tags(settings) == {"t1": "won"}
        assert votes.ready() == []
        assert votes.of("c1") == {"t1": "won", "t2": "lost"}

    def test_a_vote_on_a_run_that_was_deleted_since_blocks_nobody(self, tmp_path: Path) -> None:
        settings = new_store(tmp_path)
        for turn_id in ("t1", "t2"):
            Outbox(tmp_path).add(turn(turn_id))
        write_waiting(settings)
        client = open_store(settings)
        (first,) = client.search_runs([experiment_id(settings, USAGE_EXPERIMENT)], "tags.`phi3kit.turn_id` = 't1'")
        client.delete_run(first.info.run_id)
        Votes(tmp_path).cast("c1", [A, B], "maria")
        write_waiting(settings)
        assert tags(settings) == {"t2": "lost"}
        assert Votes(tmp_path).ready() == []

    def test_a_turn_without_counts_is_tagged_as_such(self, tmp_path: Path) -> None:
        settings = new_store(tmp_path)
        counted = {"prompt_tokens": 0, "completion_tokens": 0, "tokens_counted": False}
        Outbox(tmp_path).add(turn("t1", wrapper="remote", **counted))
        write_waiting(settings)
        (run,) = open_store(settings).search_runs([experiment_id(settings, USAGE_EXPERIMENT)])
        assert run.data.tags["phi3kit.tokens_counted"] == "no"
        assert run.data.metrics["total_tokens"] == 0


def compared(*answers: Answer, error: WorkerFailed | None = None) -> Comparison:
    targets = tuple(Target(f"model {n}", "onnx", f"models:/m-{n}", 4096) for n in range(len(answers)))
    turns = [
        ChatTurn("Hi", answer, Request("Hi"), target.model_uri, target.wrapper, f"t{n}", error)
        for n, (target, answer) in enumerate(zip(targets, answers, strict=True))
    ]
    return Comparison("Hi", targets, Conversation(turns=turns))


YES = Answer("Yes", "stop")


class TestComparison:
    def test_a_winner_wins_and_the_others_lose(self) -> None:
        votes = compared(YES, YES, YES).votes(1)
        assert [(each.turn_id, each.outcome) for each in votes] == [("t0", "lost"), ("t1", "won"), ("t2", "lost")]
        assert {each.outcome for each in compared(YES, YES).votes(None)} == {"tie"}

    def test_a_verdict_reads_as_the_buttons_do(self) -> None:
        assert compared(YES, YES).verdict({"t0": "lost", "t1": "won"}) == "B is better"
        assert compared(YES, YES, YES).verdict({"t0": "won", "t1": "lost", "t2": "lost"}) == "A is best"
        assert compared(YES, YES).verdict({"t0": "tie", "t1": "tie"}) == "a tie"
        assert compared(YES, YES).verdict({}) is None

    def test_there_is_nothing_to_vote_on_where_a_side_failed(self) -> None:
        assert compared(YES, Answer("Ye", "cancelled")).votable
        assert not compared(YES, Answer("", "cancelled")).votable
        assert not compared(YES, YES, error=WorkerFailed("It died.", "Somebody killed it.", "Try again.")).votable
