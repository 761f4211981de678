"""The Deploy page through Streamlit's own test runner, with MLflow's real server behind it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import Settings
from phi3kit.tracking import registry as registry
from phi3kit.ui.shared import resources
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, click, errors, open_page, words
from tests.support.samples import copy_of_store
from tests.support.waiting import has_ended, wait_for


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Iterator[Settings]:
    """An app on a store of its own in which the onnx wrapper is the champion."""
    settings = copy_of_store(built.settings, tmp_path)
    registry.register(built.uri("onnx"), "phi3", ADMIN, settings, aliases=["champion"])
    with app_on(tmp_path):
        yield settings


def route(name: str) -> AppTest:
    app = open_page("deploy")
    app = next(each for each in app.segmented_control if each.key == "deploy_route").set_value(name).run()
    assert not app.exception, app.exception
    return app


class TestRecipes:
    def test_the_chosen_alias_and_port_stand_in_the_commands(self, store: Settings) -> None:
        app = open_page("deploy")
        app = next(each for each in app.number_input if each.label == "Port").set_value(8123).run()
        commands = [each.value for each in app.code]
        assert "python -m phi3kit serve models:/phi3@champion --port 8123" in commands
        assert any("http://127.0.0.1:8123/v1/chat/completions" in each for each in commands)

    def test_a_suggested_port_is_free(self, store: Settings) -> None:
        app = open_page("deploy")
        suggested = int(next(each for each in app.number_input if each.label == "Port").value)
        with socket.create_server(("127.0.0.1", suggested)):
            st.cache_data.clear()
            fresh = open_page("deploy")  # a new session
            assert int(next(each for each in fresh.number_input if each.label == "Port").value) != suggested

    @pytest.mark.parametrize(
        ("name", "file"), [("systemd", "ExecStart="), ("Compose", "services:"), ("Docker image", "build-docker")]
    )
    def test_each_route_shows_its_files(self, store: Settings, name: str, file: str) -> None:
        assert any(file in each.value for each in route(name).code)

    def test_azure_says_the_size_before_the_download(self, store: Settings) -> None:
        app = route("Azure ML")
        shown = {metric.label: metric.value for metric in app.metric}
        assert shown["Model"].endswith(" MB")
        assert shown["Endpoint"].startswith("phi3-onnx-")
        assert any("scoring_script: score.py" in each.value for each in app.code)

    def test_a_version_that_was_deleted_meanwhile_is_explained(self, store: Settings) -> None:
        app = route("mlflow models serve")
        registry.remove_alias("phi3", "champion", ADMIN, store)
        app = click(app, "Start")
        assert any("does not exist" in each for each in errors(app))


class TestScoringServer:
    def test_it_starts_answers_and_stops_from_the_page(self, store: Settings) -> None:
        app = click(route("mlflow models serve"), "Start")
        (status,) = resources.kit().servers.statuses()
        assert "MLflow is loading the model" in words(app)
        wait_for("a ready server", lambda: resources.kit().servers.statuses()[0].state == "ready", 90)
        app = click(app.run(), "Send")
        assert errors(app) == []
        assert json.loads(app.json[0].value) == ["The capital of Spain is Madrid."]
        assert "200" in words(app)
        next(each for each in app.text_area if each.label == "Request").set_value("no JSON")
        app = click(app, "Send")
        assert "400" in words(app)
        click(app, "Stop")
        assert has_ended(status.pid)
        assert resources.kit().servers.statuses() == []

    def test_a_choice_and_a_click_that_come_to_one_run_start_what_was_chosen(self, store: Settings) -> None:
        app = route("mlflow models serve")
        models = next(each for each in app.selectbox if each.label == "Model")
        wrappers = [option.rpartition(" · ")[2] for option in models.options]
        other = next(place for place, wrapper in enumerate(wrappers) if wrapper != wrappers[models.index])
        models.select_index(other)
        click(app, "Start")
        (status,) = resources.kit().servers.statuses()
        assert status.wrapper == wrappers[other]
        resources.kit().servers.stop(status.model_uri, ADMIN)

    def test_a_port_in_use_is_said_and_nothing_starts(self, store: Settings) -> None:
        app = route("mlflow models serve")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            app = next(each for each in app.number_input if each.label == "Port").set_value(port).run()
            app = click(app, "Start")
        assert any(f"Port {port} cannot be used" in each and "in use" in each for each in errors(app))
        assert resources.kit().servers.statuses() == []
