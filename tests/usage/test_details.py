"""Details of a turn: what was said, as its trace has it, and where MLflow shows it."""

from pathlib import Path

import pytest

from phi3kit.core.records import Message, TurnRecord, TurnText
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id
from phi3kit.usage.details import TurnDetails, turn_details
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.traces import trace_id_of
from phi3kit.usage.writer import write_waiting
from tests.support.actors import ADMIN
from tests.support.samples import new_store, turn


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


def details_of(settings: Settings, made: TurnRecord) -> TurnDetails:
    Outbox(settings.home).add(made)
    write_waiting(settings)
    row = read_turns(settings).iloc[0]
    return turn_details(ADMIN, settings, row["run_id"], row["turn_id"])


class TestTurnDetails:
    def test_messages_and_every_answer_are_read_back(self, settings: Settings):
        messages = (Message("system", "Be brief."), Message("user", "Ἀθῆναι?"))
        found = details_of(settings, turn(text=TurnText(messages, ("One.", "Two.")), interface="openai"))
        assert (found.prompt, found.completions) == (messages, ("One.", "Two."))

        assert found.messages == (*messages, Message("assistant", "One."))

    def test_a_completed_answer_is_whole_in_its_conversation(self, settings: Settings):
        messages = (Message("user", "Who?"), Message("assistant", "It is "))
        found = details_of(settings, turn(text=TurnText(messages, ("she.",)), interface="openai"))
        assert found.messages == (messages[0], Message("assistant", "It is she."))

    def test_a_raw_prompt_is_read_back(self, settings: Settings):
        found = details_of(settings, turn(text=TurnText("<|user|>\nHi<|end|>", ("Hello",))))
        assert (found.prompt, found.completions) == ("<|user|>\nHi<|end|>", ("Hello",))
        assert found.messages == ()

    def test_a_turn_without_text_says_so_and_has_its_links(self, settings: Settings):
        found = details_of(settings, turn())
        run_id = read_turns(settings)["run_id"].iloc[0]
        root = f"http://127.0.0.1:5000/#/experiments/{experiment_id(settings, USAGE_EXPERIMENT)}"
        assert found == TurnDetails(
            f"{root}/runs/{run_id}", f"{root}/traces?selectedEvaluationId={trace_id_of('t1')}", None, ()
        )

    def test_a_run_of_an_earlier_phi3kit_has_no_trace(self, settings: Settings):
        details_of(settings, turn())
        assert turn_details(ADMIN, settings, "run", "never traced").trace_url is None
        assert turn_details(ADMIN, settings, "run", None).trace_url is None
