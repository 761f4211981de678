"""A choice and a click that come to one run of a page: the click acts on what was chosen, not on what was drawn before.

A browser sends them apart; Streamlit joins them while a page is busy. The test runner does so when nothing runs between.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from phi3kit.conversations.presets import Presets
from phi3kit.core.settings import Settings
from phi3kit.ui.build.job import BOTH_EMBEDDED
from phi3kit.ui.shared import resources
from tests.conftest import Built
from tests.pages.test_batch import upload
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, click, label_of, open_page


def only_request(jobs: Any) -> Any:
    """The request of the one job that was started, which is ended."""
    (job,) = jobs.all()
    jobs.cancel(job, ADMIN)
    return job.request


def test_a_build_builds_what_was_chosen(store: Settings) -> None:
    app = open_page("build")
    app.segmented_control(key="build_wrapper").set_value("onnx")
    app.segmented_control(key="build_precision").set_value("int8")
    click(app, "Build both wrappers")
    request = only_request(resources.kit().builds)
    assert (request.wrappers, request.precision) == (("onnx",), "int8")


@pytest.mark.parametrize("page", ["build", "home"])
def test_a_second_click_on_a_drawn_button_builds_nothing_more(tmp_path: Path, page: str) -> None:
    with app_on(tmp_path):
        app = open_page(page)
        (button,) = [each for each in app.button if label_of(each) == "Build both wrappers"]
        button.click().run()
        button.click().run()  # as the browser sends it that has not drawn the first one's outcome
        assert only_request(resources.kit().builds) == BOTH_EMBEDDED


def test_nothing_is_built_where_the_choice_switches_the_button_off(store: Settings) -> None:
    app = open_page("build")
    app.segmented_control(key="build_source").set_value("folder")
    click(app, "Build both wrappers")
    assert resources.kit().builds.all() == []


def test_a_batch_is_written_as_was_chosen(store: Settings) -> None:
    app = upload(open_page("batch"), "in.csv", "message\nWhat is the capital of Spain?\n")
    app.segmented_control(key="batch_output").set_value(".jsonl")
    click(app, "Answer 1 row")
    assert only_request(resources.kit().batches).output.suffix == ".jsonl"


def test_an_evaluation_asks_as_many_as_was_chosen(store: Settings) -> None:
    app = open_page("evaluate")
    app.segmented_control(key="evaluate_count").set_value("300")
    click(app, "Evaluate")
    assert only_request(resources.kit().evaluations).limit == 300


def test_a_preset_keeps_what_was_chosen(home: Built) -> None:
    app = open_page("chat")
    app.slider(key="chat_temperature").set_value(0.7)
    app.text_input(key="chat_preset_name").set_value("Warm")
    app.button(key="chat_preset_save").click().run()
    presets = Presets(home.settings.home, home.settings.user)
    found = presets.load("Warm")
    assert found is not None
    assert found[0].temperature == 0.7
    presets.delete("Warm")


def test_a_prompt_is_rewritten_from_the_newest_text(home: Built) -> None:
    app = open_page("prompt")
    app.text_area(key="raw_prompt").set_value("<|user|>\nWhat is old?\n<|assistant|>\n").run()
    next(each for each in app.segmented_control if each.label == "View").set_value("Messages").run()
    app.text_area(key="raw_prompt").set_value("<|user|>\nWhat is new?\n<|assistant|>\n")
    click(app, "Rewrite to match the template")
    assert app.text_area(key="raw_prompt").value == "<|user|>\nWhat is new?\n<|end|>\n<|assistant|>\n"


def test_a_payload_is_converted_from_the_newest_text(home: Built) -> None:
    app = open_page("signatures")
    next(each for each in app.segmented_control if each.label == "View").set_value("Payload").run()
    app.text_area(key="lab_payload").set_value('{"messages": [{"role": "user", "content": "What is new?"}]}')
    app.button(key="lab_as_prompt").click().run()
    assert "What is new?" in json.loads(app.text_area(key="lab_payload").value)["prompt"]
