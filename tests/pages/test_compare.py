"""Compare and its Connections, through Streamlit's own test runner, with real workers; stop is pressed in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.endpoints.connections import Connection, list_connections, remove_connection, save_connection
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.ui.shared import resources
from phi3kit.usage.reader import read_turns
from phi3kit.usage.votes import Votes
from tests.conftest import Built, settings_for
from tests.endpoints.test_remote import CHUNK, END
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, errors, forget, label_of, open_page, words
from tests.support.scripted_server import event_stream, http_answer, scripted
from tests.support.waiting import wait_for

MADRID = "The capital of Spain is Madrid."


@pytest.fixture(scope="module")
def home(built_copy: Built) -> Iterator[Built]:
    """An app on a store in which both wrappers are built, and a key for a remote endpoint."""
    with app_on(built_copy.home, PHI3KIT_KEY_FAR="s3cret"):
        yield built_copy


@pytest.fixture
def connect(home: Built) -> Iterator[object]:
    """Adds a connection; it is gone after the test."""
    names = []

    def add(connection: Connection) -> None:
        save_connection(connection, ADMIN, home.settings)
        names.append(connection.name)

    yield add
    for name in names:
        remove_connection(name, ADMIN, home.settings)


def button(app: AppTest, label: str) -> object:
    return next(each for each in app.button if label_of(each) == label)


def ask(app: AppTest, text: str = "What is the capital of Spain?") -> AppTest:
    app.chat_input[0].set_value(text).run()
    assert not app.exception, app.exception
    return app


class TestEmpty:
    def test_without_models_it_says_what_to_do_and_offers_connections(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        forget()
        app = open_page("compare")
        assert "No model is built yet" in words(app)
        assert button(app, "Connections")
        forget()


class TestCompare:
    def test_both_wrappers_answer_side_by_side_and_both_turns_are_logged(self, home: Built) -> None:
        app = ask(open_page("compare"))
        assert [each.label for each in app.selectbox] == ["A", "B"]
        assert [each.value for each in app.markdown].count(MADRID) == 2
        assert "A and B are identical" in words(app)
        captions = [each.value for each in app.markdown if "tokens/s" in each.value]
        assert len(captions) == 2
        assert all(re.search(r"10 \+ 10 = 20 tokens .* first token .* tokens/s · stop", each) for each in captions)
        (comparison,) = app.session_state["comparisons"]

        def logged() -> pd.DataFrame:
            turns = read_turns(home.settings)
            return turns[turns["conversation_id"] == comparison.id]

        wait_for("both runs", lambda: len(logged()) == 2)  # behind the turns of other tests
        turns = logged()
        assert set(turns["wrapper"]) == {"transformers", "onnx"}
        assert set(turns["model_uri"]) == {home.uri("transformers"), home.uri("onnx")}

    def test_a_vote_is_kept_shown_counted_and_tagged(self, home: Built) -> None:
        app = ask(open_page("compare"))
        (comparison,) = app.session_state["comparisons"]
        button(app, "B is better").click().run()
        assert "You voted: B is better" in words(app)
        assert list(Votes(home.home).of(comparison.id).values()) == ["lost", "won"]
        table = app.dataframe[-1].value.set_index("wrapper")
        assert table.loc["onnx", "won"] >= 1
        button(app, "Tie").click().run()
        assert "You voted: a tie" in words(app)
        writer = resources.kit().writer
        wait_for("the tags", lambda: not writer.state().waiting and not Votes(home.home).ready())

    def test_parameters_are_shared_or_each_sides_own(self, home: Built) -> None:
        app = open_page("compare")
        app.number_input(key="compare_max_tokens").set_value(3).run()
        ask(app)
        (first,) = app.session_state["comparisons"]
        assert [(t.answer.completion_tokens, t.answer.finish_reason) for t in first.turns] == [(3, "length")] * 2
        next(each for each in app.toggle if each.label == "Separate parameters").set_value(True).run()
        app.number_input(key="compare_A_max_tokens").set_value(5).run()
        ask(app)
        second = app.session_state["comparisons"][1]
        assert [turn.answer.completion_tokens for turn in second.turns] == [5, 10]
        assert "only B" in words(app)  # the word diff

    def test_a_system_prompt_and_a_raw_prompt_reach_every_side(self, home: Built) -> None:
        app = open_page("compare")
        app.text_area(key="compare_system").set_value("You are a helpful assistant.").run()
        ask(app)
        (first,) = app.session_state["comparisons"]
        assert [[m.role for m in turn.request.prompt] for turn in first.turns] == [["system", "user"]] * 2
        next(each for each in app.segmented_control if each.label == "Send").set_value("raw").run()
        ask(app, "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n")
        second = app.session_state["comparisons"][1]
        assert {turn.request.interface for turn in second.turns} == {"raw"}
        assert [turn.answer.text for turn in second.turns] == [MADRID, MADRID]

    def test_one_too_long_for_the_context_is_explained_on_each_side(self, home: Built) -> None:
        app = ask(open_page("compare"), "word " * 5000)
        assert sum("4096 tokens" in each for each in errors(app)) == 2
        assert "A is better" not in [label_of(each) for each in app.button]

    def test_markup_is_shown_as_text_and_an_empty_message_is_not_sent(self, home: Built) -> None:
        app = open_page("compare")
        app.chat_input[0].set_value("   ").run()
        assert "The message is empty" in app.warning[0].value
        message = "<script>alert(1)</script> **bold** ![x](http://127.0.0.1:9/x.png)"
        ask(app, message)
        assert message in [each.value for each in app.text]

    def test_clear_takes_the_comparisons_away(self, home: Built) -> None:
        app = ask(open_page("compare"))
        button(app, "Clear").click().run()
        assert app.session_state["comparisons"] == []
        assert MADRID not in words(app)


class TestRemote:
    def test_three_sides_with_a_far_worker(self, home: Built, connect: object, tmp_path: Path) -> None:
        pool = WorkerPool(settings_for(tmp_path, MLFLOW_TRACKING_URI=home.settings.tracking_uri.reveal()))
        try:
            far = pool.endpoint(home.uri("onnx"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PHI3KIT_KEY_FAR", far.api_key)
                connect(Connection("far", far.base_url, model="phi3", key_name="PHI3KIT_KEY_FAR"))
                app = open_page("compare")
                next(each for each in app.segmented_control if each.label == "Models").set_value(3).run()
                ask(app)
        finally:
            pool.close()
        (comparison,) = app.session_state["comparisons"]
        assert [target.wrapper for target in comparison.targets] == ["transformers", "onnx", "remote"]
        assert [turn.answer.text for turn in comparison.turns] == [MADRID] * 3
        assert [label_of(each) for each in app.button if "best" in label_of(each)] == [
            "A is best",
            "B is best",
            "C is best",
        ]

    def test_a_remote_failure_has_its_name_and_the_other_side_answers(self, home: Built, connect: object) -> None:
        with scripted(http_answer(302, "", headers="Location: http://other.example/\r\n")) as server:
            connect(Connection("moved", server.url, model="phi3"))
            app = open_page("compare")
            app.selectbox(key="compare_B").set_value("remote:moved/phi3").run()
            ask(app)
        assert "other.example" in app.session_state["comparisons"][0].turns[1].error.what
        assert "not followed" in errors(app)[0]
        assert MADRID in words(app)

    def test_chat_talks_to_a_connection_too_and_says_when_it_gave_no_counts(self, home: Built, connect: object) -> None:
        with scripted(event_stream(CHUNK, END, "[DONE]")) as server:
            connect(Connection("plain", server.url, model="phi3"))
            app = open_page("chat")
            next(each for each in app.segmented_control if each.label == "Wrapper").set_value("remote").run()
            app.chat_input[0].set_value("Hello").run()
        assert not app.exception, app.exception
        assert "no token counts from the endpoint" in words(app)


def dialog() -> None:
    from phi3kit.ui.shared import connections_dialog

    connections_dialog.edit_connections()


def open_dialog() -> AppTest:
    """What is in the dialog, on a page: AppTest knows no runs of a dialog alone. The browser test opens the dialog."""
    return AppTest.from_function(dialog, default_timeout=300).run()


class TestConnections:
    def test_one_is_tested_and_kept_and_its_models_are_found(self, home: Built) -> None:
        models = http_answer(200, '{"data": [{"id": "phi-one", "max_model_len": 8192}, {"id": "phi-two"}]}')
        with scripted(models) as server:
            app = open_dialog()
            app.text_input(key="connection_name").set_value("lab").run()
            app.text_input(key="connection_url").set_value(server.url).run()
            app.selectbox(key="connection_key").set_value("PHI3KIT_KEY_FAR").run()
            button(app, "Test").click().run()
        assert "Bearer s3cret" in server.requests[0]
        assert "2 models" in app.success[0].value
        assert (app.selectbox(key="connection_model").value, app.number_input(key="connection_context").value) == (
            "phi-one", 8192,
        )  # fmt: skip
        button(app, "Save").click().run()
        kept = list_connections(home.home)
        remove_connection("lab", ADMIN, home.settings)
        assert kept == [Connection("lab", server.url, model="phi-one", key_name="PHI3KIT_KEY_FAR", context_tokens=8192)]

    @pytest.mark.parametrize(
        ("url", "said"),
        [("http://127.0.0.1:9", "refused"), ("ftp://x", "http://"), ("http://a:b@c", "a user or a password")],
    )
    def test_a_test_that_fails_says_how(self, home: Built, url: str, said: str) -> None:
        app = open_dialog()
        app.text_input(key="connection_url").set_value(url).run()
        button(app, "Test").click().run()
        assert said in errors(app)[0]

    def test_one_is_changed_and_removed(self, home: Built, connect: object) -> None:
        connect(Connection("lab", "http://127.0.0.1:9", model="phi3"))
        app = open_dialog()
        app.selectbox(key="connection_chosen").set_value("lab").run()
        app.text_input(key="connection_lab_name").set_value("lab2").run()
        button(app, "Save").click().run()
        assert [each.name for each in list_connections(home.home)] == ["lab2"]
        app.selectbox(key="connection_chosen").set_value("lab2").run()
        button(app, "Remove").click().run()
        assert list_connections(home.home) == []
