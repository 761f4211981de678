"""Traces: MLflow's own Overview shows a turn as its run does, with its text or without."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Trace
from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
from mlflow.tracing.client import TracingClient
from openai import OpenAI

from phi3kit.core.records import Message, TurnText
from phi3kit.core.settings import Settings
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.prices import Price, save
from phi3kit.usage.reader import read_turns
from phi3kit.usage.traces import trace_id_of, write_trace
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built, settings_for
from tests.support.actors import ADMIN
from tests.support.samples import TURN, copy_of_store, new_store, turn
from tests.support.waiting import wait_for

TEXT = TurnText((Message("user", "Where is Ἀθῆναι?"),), ("In Greece.", "In Ελλάδα."))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


def write(settings: Settings, *turns: Any) -> None:
    for each in turns:
        Outbox(settings.home).add(each)
    write_waiting(settings)


def trace_of(settings: Settings, turn_id: str = "t1") -> Trace:
    open_store(settings)
    return TracingClient(settings.tracking_uri.reveal()).get_trace(trace_id_of(turn_id))


def overview(settings: Settings, name: str) -> float:
    """A total as MLflow's Overview page asks for it."""
    store = TracingClient(settings.tracking_uri.reveal()).store
    how = AggregationType.COUNT if name == "trace_count" else AggregationType.SUM
    points = store.query_trace_metrics(
        [experiment_id(settings, USAGE_EXPERIMENT)], MetricViewType.TRACES, name, [MetricAggregation(how)]
    )
    return float(sum(value for point in points for value in point.values.values()))


class TestWriteTrace:
    def test_a_turns_trace_has_its_run_session_user_and_what_was_said(self, settings: Settings):
        write(settings, turn(text=TEXT, interface="openai", cached_prompt_tokens=4))
        trace = trace_of(settings)
        (run,) = open_store(settings).search_runs([experiment_id(settings, USAGE_EXPERIMENT)])
        metadata = trace.info.trace_metadata
        assert metadata["mlflow.sourceRun"] == run.info.run_id
        assert (metadata["mlflow.trace.session"], metadata["mlflow.trace.user"]) == ("c1", "ada")
        assert run.data.tags["phi3kit.trace_id"] == trace.info.trace_id
        assert (trace.info.state.value, trace.info.execution_duration) == ("OK", 1500)
        assert trace.info.request_time == int(TURN.at * 1000)
        (span,) = trace.data.spans
        parameters = {"temperature": 0.0, "max_tokens": 64, "top_p": 1.0}
        assert span.inputs == {"messages": [{"role": "user", "content": "Where is Ἀθῆναι?"}], **parameters}
        assert (trace.info.request_preview, trace.info.response_preview) == ("Where is Ἀθῆναι?", "In Greece.")
        assert [choice["message"]["content"] for choice in span.outputs["choices"]] == ["In Greece.", "In Ελλάδα."]
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 4}
        assert span.get_attribute("mlflow.chat.tokenUsage") == usage
        assert span.get_attribute("phi3kit.parameters") == parameters
        assert "seed" not in run.data.params

    @pytest.mark.parametrize(
        ("prompt", "asked"),
        [
            (
                "<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\nAnd now?<|end|>\n<|assistant|>\n",
                "And now?",
            ),
            ("Once upon a time", "Once upon a time"),
            ((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "He")), "Hi"),
            ((Message("system", "Be brief."),), "Be brief."),
        ],
    )
    def test_its_preview_is_the_last_question_and_the_answer_as_text(self, settings: Settings, prompt: Any, asked: str):
        write(settings, turn(text=TurnText(prompt, ("An answer.", "Another."))))
        info = trace_of(settings).info
        assert (info.request_preview, info.response_preview) == (asked, "An answer.")

    def test_runs_and_traces_carry_the_logged_model(self, settings: Settings):
        model_id = f"m-{'0a' * 16}"
        write(settings, turn(model_uri=f"models:/{model_id}", seed=7), turn("r", model_uri="gpt-4o", wrapper="remote"))
        experiment = experiment_id(settings, USAGE_EXPERIMENT)
        (run,) = open_store(settings).search_runs([experiment], f"tags.`mlflow.modelId` = '{model_id}'")
        assert (run.data.tags["phi3kit.turn_id"], run.data.params["seed"]) == ("t1", "7")
        found = TracingClient(settings.tracking_uri.reveal()).search_traces(
            locations=[experiment], filter_string=f"metadata.`mlflow.modelId` = '{model_id}'"
        )
        assert [trace.info.client_request_id for trace in found] == ["t1"]

    def test_its_cost_stands_where_a_price_is_set(self, settings: Settings):
        save(ADMIN, settings, {"onnx": Price(prompt=2.0, completion=10.0, cached_prompt=1.0)})
        write(settings, turn(cached_prompt_tokens=4), turn("r", wrapper="remote"))
        trace = trace_of(settings)
        costs = {"input_cost": 16e-6, "output_cost": 50e-6, "total_cost": 66e-6}  # 6 * 2 + 4 * 1, 5 * 10
        assert trace.data.spans[0].get_attribute("mlflow.llm.cost") == pytest.approx(costs)
        assert json.loads(trace.info.trace_metadata["mlflow.trace.cost"]) == pytest.approx(costs)
        assert trace_of(settings, "r").data.spans[0].llm_cost in (None, {})

    def test_a_raw_prompt_is_a_prompt(self, settings: Settings):
        write(settings, turn(text=TurnText("<|user|>\nHi", ("Hello",))))
        (span,) = trace_of(settings).data.spans
        assert (span.inputs["prompt"], span.outputs["choices"][0]["text"]) == ("<|user|>\nHi", "Hello")

    def test_a_turn_that_failed_is_an_error_that_says_its_code(self, settings: Settings):
        write(settings, turn(finish_reason="error", error_code="worker_died"))
        trace = trace_of(settings)
        assert (trace.info.state.value, trace.data.spans[0].status.description) == ("ERROR", "worker_died")

    def test_writing_it_twice_leaves_one(self, settings: Settings):
        write(settings, turn(text=TEXT))
        (run,) = open_store(settings).search_runs([experiment_id(settings, USAGE_EXPERIMENT)])
        experiment = experiment_id(settings, USAGE_EXPERIMENT)
        write_trace(settings.tracking_uri.reveal(), experiment, turn(text=TEXT), run.info.run_id)
        assert (overview(settings, "trace_count"), overview(settings, "total_tokens")) == (1, 15)

    def test_nobody_is_asked_for_the_models_price(self, settings: Settings, monkeypatch: pytest.MonkeyPatch):
        with socket.create_server(("127.0.0.1", 0)) as catalog:
            monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", f"http://127.0.0.1:{catalog.getsockname()[1]}")
            catalog.settimeout(0.5)
            write(settings, turn(model_uri="gpt-4o-mini", wrapper="remote"))
            with pytest.raises(TimeoutError):
                catalog.accept()
        assert trace_of(settings).data.spans[0].llm_cost in (None, {})

    def test_mlflows_overview_has_the_same_totals_as_our_table(self, settings: Settings):
        turns = [turn(f"t{n}", prompt_tokens=n, completion_tokens=2 * n, cached_prompt_tokens=n // 2) for n in range(8)]
        write(settings, *turns, turn("e", finish_reason="error"), turn("c", finish_reason="cancelled"))
        table = read_turns(settings)
        assert overview(settings, "trace_count") == len(table) == 10
        for ours, theirs in (
            ("prompt_tokens", "input_tokens"),
            ("completion_tokens", "output_tokens"),
            ("total_tokens", "total_tokens"),
            ("cached_prompt_tokens", "cache_read_input_tokens"),
        ):
            assert overview(settings, theirs) == table[ours].sum(), ours


class TestText:
    """A real worker, once with text and once without, in a data folder of its own."""

    QUESTION = "What is the capital of Zanzibaristan?"

    def asked(self, built: Built, home: Path, log_text: str) -> Settings:
        copy_of_store(built.settings, home)
        settings = settings_for(home, PHI3KIT_LOG_TEXT=log_text)
        pool = WorkerPool(settings)
        try:
            endpoint = pool.endpoint(built.uri("onnx"))
            client = OpenAI(base_url=f"{endpoint.base_url}/v1", api_key=endpoint.api_key)
            message: Any = {"role": "user", "content": self.QUESTION}
            reply = client.chat.completions.create(model="m", messages=[message])
            answer = reply.choices[0].message.content
            client.close()
        finally:
            pool.close()
        assert answer
        outbox = Outbox(home)
        wait_for("the turn is kept", outbox.waiting)
        write_waiting(settings)
        self.answer = answer
        return settings

    def traces(self, settings: Settings) -> list[Trace]:
        open_store(settings)
        found = TracingClient(settings.tracking_uri.reveal()).search_traces(
            locations=[experiment_id(settings, USAGE_EXPERIMENT)]
        )
        return [trace for trace in found if trace.info.request_time > 1000 * (TURN.at + 1)]

    def test_is_logged_on_ones_own_machine(self, built: Built, tmp_path: Path):
        settings = self.asked(built, tmp_path, "1")
        newest = max(self.traces(settings), key=lambda trace: trace.info.request_time)
        assert newest.data.spans[0].inputs["messages"] == [{"role": "user", "content": self.QUESTION}]
        assert newest.data.spans[0].outputs["choices"][0]["message"]["content"] == self.answer
        assert (newest.info.request_preview, newest.info.response_preview) == (self.QUESTION, self.answer)
        assert newest.info.trace_metadata["mlflow.modelId"] == built.uri("onnx").removeprefix("models:/")

    def test_is_nowhere_when_it_is_switched_off(self, built: Built, tmp_path: Path):
        settings = self.asked(built, tmp_path, "0")
        newest = max(self.traces(settings), key=lambda trace: trace.info.request_time)
        assert newest.data.spans[0].get_attribute("mlflow.chat.tokenUsage")["total_tokens"] > 0
        assert newest.data.spans[0].inputs is None
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"outbox.db", "mlflow.db"} <= {path.name for path in files}
        holding = [path.name for path in files if b"Zanzibaristan" in path.read_bytes()]
        assert holding == []

    def test_that_was_kept_before_it_was_switched_off_is_not_written(self, settings: Settings, tmp_path: Path):
        outbox = Outbox(settings.home)
        outbox.add(turn(text=TurnText("a hidden prompt", ("a hidden answer",))))
        write_waiting(settings_for(tmp_path, PHI3KIT_LOG_TEXT="0"))
        outbox.shorten_log()  # as the writer does in its first idle moment
        assert trace_of(settings).data.spans[0].inputs is None
        assert not any(b"hidden" in path.read_bytes() for path in tmp_path.glob("*.db*"))
