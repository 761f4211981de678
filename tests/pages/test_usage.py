"""The Usage page, through Streamlit's own test runner, on a real store."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.saved import SavedConversations
from phi3kit.core.records import TurnRecord
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.ui.shared import resources
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.prices import Price, load, save
from phi3kit.usage.writer import write_waiting
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, errors, label_of, words
from tests.support.samples import new_store, turn

HOUR = 3600.0


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An app on a store of its own."""
    with app_on(tmp_path):
        yield new_store(tmp_path)


def log(settings: Settings, *turns: TurnRecord) -> None:
    outbox = Outbox(settings.home)
    for each in turns:
        outbox.add(each)
    write_waiting(settings)


def now(turn_id: str, hours_ago: float = 0.1, **values: Any) -> TurnRecord:
    return turn(turn_id, **{"at": time.time() - hours_ago * HOUR, "interface": "openai", **values})


def open_usage() -> AppTest:
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300).run()
    app = app.switch_page("pages/usage.py").run()
    assert not app.exception, app.exception
    return app


def metrics(app: AppTest) -> dict[str, tuple[str, str]]:
    return {metric.label: (metric.value, metric.delta) for metric in app.metric}


def widget(elements: Any, label: str) -> Any:
    return next(each for each in elements if label_of(each) == label)


class TestTotals:
    def test_totals_change_against_the_period_before(self, settings: Settings):
        log(settings, now("a"), now("b"), now("c", 30), now("d", 30, completion_tokens=15))
        app = open_usage()
        widget(app.segmented_control, "Period").set_value("24 hours").run()
        shown = metrics(app)
        assert shown["Turns"] == ("2", "0")
        assert shown["Completion tokens"] == ("10", "-50%")
        assert shown["Total tokens"] == ("30", "-25%")
        assert "Change vs. the previous 24 hours" in words(app)

    def test_nothing_before_is_no_change(self, settings: Settings):
        log(settings, now("a"))
        assert metrics(open_usage())["Turns"] == ("1", "")

    def test_your_prices_make_a_cost(self, settings: Settings):
        log(settings, now("a", prompt_tokens=1_000_000))
        save(ADMIN, settings, {"onnx": Price(prompt=2.0)})
        assert metrics(open_usage())["Cost"][0] == "$2.00"

    def test_list_prices_are_compared_on_the_same_tokens(self, settings: Settings):
        log(settings, now("a", prompt_tokens=1_000_000, completion_tokens=0))
        app = open_usage()
        tables = [each.value for each in app.dataframe]
        costs = next(each for each in tables if "cost" in each.columns).set_index("model")["cost"]
        assert costs["These turns at your prices"] == 0
        assert costs["Phi-3-mini-4k-instruct (Azure AI)"] == pytest.approx(0.13)
        assert load(settings.home) == {}


class TestFilters:
    def test_every_filter_leaves_only_its_turns(self, settings: Settings):
        log(
            settings,
            now("a", user="ada", origin="ui"),
            now("b", user="bob", origin="batch", finish_reason="length"),
            now("c", user="bob", origin="batch", wrapper="remote", model_uri="remote:vllm", interface="raw"),
        )
        app = open_usage()
        assert metrics(app)["Turns"][0] == "3"
        widget(app.pills, "Interface").set_value(["raw"]).run()
        assert set(app.dataframe[-1].value["wrapper"]) == {"remote"}
        widget(app.pills, "Interface").set_value(["openai", "raw"]).run()
        widget(app.multiselect, "User").set_value(["bob"]).run()
        assert metrics(app)["Turns"][0] == "2"
        widget(app.multiselect, "Finish reason").set_value(["length"]).run()
        assert list(app.dataframe[-1].value["origin"]) == ["batch"]
        widget(app.multiselect, "Model").set_value(["remote:vllm"]).run()
        assert "No turns match" in app.info[0].value

    def test_wrappers_of_other_programs_beyond_a_dozen_are_one_choice(self, settings: Settings):
        log(settings, now("ours"), *(now(f"t{n}", wrapper=f"w{n:02}") for n in range(20)))
        app = open_usage()
        wrappers = widget(app.pills, "Wrapper")
        assert (len(wrappers.options), wrappers.options[-1]) == (16, "all others")
        assert metrics(app)["Turns"][0] == "21"
        wrappers.set_value(["all others"]).run()
        assert metrics(app)["Turns"][0] == "8"

    def test_filters_come_from_the_link(self, settings: Settings):
        log(settings, now("a", 100), now("b", wrapper="transformers", user="bob"), now("c", user="bob"))
        app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300)
        app.query_params["usage_period"] = "24 hours"
        app.query_params["usage_user"] = "bob"
        app = app.run().switch_page("pages/usage.py").run()
        assert metrics(app)["Turns"][0] == "2"
        assert widget(app.segmented_control, "Period").value == "24 hours"


class TestHonesty:
    def test_runs_of_other_programs_are_counted_apart(self, settings: Settings):
        log(settings, now("a"))
        client = open_store(settings)
        run = client.create_run(experiment_id(settings, USAGE_EXPERIMENT))
        client.set_terminated(run.info.run_id)
        app = open_usage()
        assert metrics(app)["Turns"][0] == "1"
        assert "Not counted: runs from other programs in this experiment (1 without the tag phi3kit.wrapper)" in words(
            app
        )

    def test_turns_that_wait_and_why_are_said(self, settings: Settings):
        log(settings, now("a"))
        open_usage()
        kit = resources.kit()
        kit.writer.close()
        Outbox(settings.home).add(now("b"))
        assert "1 turn is waiting to be written to MLflow" in words(open_usage())

    def test_a_deleted_experiment_is_named_beside_what_was_read_before(self, settings: Settings):
        log(settings, now("a"))
        open_usage()
        resources.kit().reader.wait(5)
        open_store(settings).delete_experiment(experiment_id(settings, USAGE_EXPERIMENT))
        resources.forget_lists()
        app = open_usage()
        assert "It was deleted in MLflow" in errors(app)[0]
        assert metrics(app)["Turns"][0] == "1"

    def test_refresh_takes_a_deleted_run_out(self, settings: Settings):
        log(settings, now("a"), now("b"))
        app = open_usage()
        client, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)
        client.delete_run(client.search_runs([experiment], max_results=1)[0].info.run_id)
        widget(app.button, "Refresh").click().run()
        resources.kit().reader.wait(60)  # a page waits for a slow store only so long, and runs again behind it
        assert metrics(app.run())["Turns"][0] == "1"

    def test_turns_without_token_counts_are_said(self, settings: Settings):
        uncounted = replace(now("a", wrapper="remote"), prompt_tokens=0, completion_tokens=0, tokens_counted=False)
        log(settings, uncounted, now("b"))
        assert "1 turn of a remote endpoint has no token counts" in words(open_usage())


class TestBudgets:
    def test_a_meter_shows_what_is_spent_today_and_when_it_renews(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("PHI3KIT_DAILY_TOKENS", "20")
        monkeypatch.setenv("PHI3KIT_DAILY_TOKENS_PER_USER", "40")
        today = datetime.now(UTC).replace(hour=0, minute=0, second=1).timestamp()
        log(settings, turn("a", at=today, user="ada"), turn("b", at=today, user="bob"))
        app = open_usage()
        texts = [each.proto.text for each in app.get("progress")]
        assert texts == [
            "All users: 30 of 20 tokens · :red[spent: new turns are refused]",
            "local: 0 of 40 tokens · 40 left",
            "ada: 15 of 40 tokens · 25 left",
            "bob: 15 of 40 tokens · 25 left",
        ]
        assert "They reset at 00:00" in words(app)

    def test_without_budgets_there_is_no_meter(self, settings: Settings):
        log(settings, now("a"))
        assert "token budgets" not in words(open_usage())


class TestCards:
    def test_every_chart_is_a_table_too_whose_rows_list_their_turns(self, settings: Settings):
        log(settings, now("a", user="ada"), now("b", user="bob"), now("c", user="bob"))
        app = widget(open_usage().segmented_control, "Group tokens by").set_value("User").run()
        measures = ("time_to_first_token_s", "tokens_per_second", "duration_s")
        for key in ("over_time", "by", "endings", *measures, "conversations"):
            app.session_state[f"usage_table_{key}"] = True
        app = app.run()
        tables = [each.value for each in app.dataframe if "bar" in each.value]
        assert len(tables) == 7
        assert tables[1].to_numpy().tolist() == [["bob", 20, 10], ["ada", 10, 5]]
        app.session_state["usage_bars_by_chosen"] = "bob"
        app = app.run()
        assert "**2 turns** of bob" in words(app)
        listed = next(each for each in app.dataframe if each.proto.alt == "Turns of bob, newest first")
        assert list(listed.value["user"]) == ["bob", "bob"]

    def test_every_table_and_chart_has_a_name_of_its_own(self, settings: Settings):
        log(settings, now("a"), now("b", prompt_key="p"), now("c", prompt_key="p", wrapper="transformers"))
        app = open_usage()
        names = [each.proto.alt for each in [*app.dataframe, *app.get("plotly_chart")]]
        assert all(names)
        assert len(set(names)) == len(names)

    def test_a_saved_picture_is_titled_large_and_named_by_its_chart(self, settings: Settings):
        log(settings, now("a"))
        charts = [each.proto for each in open_usage().get("plotly_chart")]
        titles = [json.loads(each.spec)["layout"]["title"]["text"] for each in charts]
        assert titles == [
            "Tokens over time",
            "Tokens by wrapper",
            "Finish reasons and errors",
            "Time to first token",
            "Speed",
            "Duration",
            "Tokens per conversation",
        ]
        pictures = [json.loads(each.config)["toImageButtonOptions"] for each in charts]
        assert {(each["width"], each["height"], each["scale"]) for each in pictures} == {(1000, 500, 2)}
        names = [each["filename"] for each in pictures]
        assert (names[0], len(set(names))) == ("phi3kit-tokens-over-time", 7)

    def test_the_wrappers_are_compared_on_the_prompts_that_both_were_asked(self, settings: Settings):
        log(settings, now("a", prompt_key="p"), now("b", prompt_key="p", wrapper="transformers", duration_s=2.5))
        tables = [each.value for each in open_usage().dataframe]
        (same,) = [each for each in tables if "tokens_per_second" in each.columns and len(each.columns) == 5]
        assert list(same["wrapper"]) == ["transformers", "onnx"]
        assert list(same["tokens_per_second"]) == [2.0, 4.0]

    def test_percentiles_stand_under_each_distribution(self, settings: Settings):
        log(settings, now("a"), now("b", time_to_first_token_s=1.0, duration_s=2.0))
        tables = [each.value for each in open_usage().dataframe]
        first, speed, duration = [each for each in tables if "p99" in each.columns]
        assert first.iloc[0]["p50"] == "750 ms"
        assert speed.iloc[0]["p50"] == "4"
        assert duration.iloc[0]["p50"] == "1.75 s"

    def test_a_saved_conversation_leads_back_into_chat_and_another_lists_its_turns(self, settings: Settings):
        log(
            settings, now("a"), now("b"), now("c", conversation_id="batch"), now("d", conversation_id="batch"), now("e")
        )
        SavedConversations(settings.home, ADMIN.name).save(Conversation(id="c1"))
        app = open_usage()
        (link,) = [each.proto for each in app.get("page_link") if "tokens" in each.proto.label]
        assert (link.label.split(" · ")[:2], link.query_string) == (["45 tokens", "3 turns"], "conversation=c1")
        (row,) = [each for each in app.button if each.label.startswith("30 tokens · 2 turns")]
        before = len(app.dataframe)
        app = row.click().run()
        assert len(app.dataframe) == before + 1
        assert sorted(len(each.value) for each in app.dataframe if "wrapper" in each.value and "at" in each.value) == [
            2,
            5,
        ]
        app = next(each for each in app.button if each.label == row.label).click().run()
        assert len(app.dataframe) == before, "a second click closes it"
