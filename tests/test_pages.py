"""Pages, through Streamlit's own test runner, with a real store and real workers. The browser test goes further."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from phi3kit.settings import PROJECT_ROOT
from phi3kit.ui import resources
from tests.conftest import CHAPTER_PROMPT, Built

PAGES = ("home", "build", "signatures", "chat", "prompt", "usage")


def open_page(name: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=120).run()
    if name != "home":
        app = app.switch_page(f"pages/{name}.py").run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    """All Markdown and captions of a page."""
    return "\n".join([each.value for each in app.markdown] + [each.value for each in app.caption])


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An app without models and turns."""
    monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture(scope="module")
def full_home(built: Built) -> Iterator[Built]:
    """An app on the store in which both wrappers are built."""
    st.cache_data.clear()
    st.cache_resource.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHI3KIT_HOME", str(built.home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield built
    st.cache_data.clear()
    st.cache_resource.clear()


class TestEmpty:
    @pytest.mark.parametrize("name", PAGES)
    def test_every_page_says_what_to_do_next(self, empty_home: Path, name: str) -> None:
        app = open_page(name)
        assert len(app.title) == 1
        assert [each.value for each in app.error] == []
        said = {
            "home": "Nothing is built yet",
            "build": "Nothing is built yet",
            "signatures": "Not built yet: transformers and onnx",
            "chat": "No model is built yet",
            "prompt": "No model is built yet",
            "usage": "There are none yet",
        }
        assert said[name] in words(app)

    def test_home_builds_both_wrappers_at_one_click(self, empty_home: Path) -> None:
        app = open_page("home")
        (button,) = [each for each in app.button if each.label == "Build both wrappers"]
        button.click().run()
        job = resources.kit().builds.job
        assert job is not None
        job.process.wait(120)
        while job.running:
            pass
        assert (job.error, [each["wrapper"] for each in job.built]) == (None, ["transformers", "onnx"])
        resources.forget_lists()
        app = open_page("home")
        assert next(metric.value for metric in app.metric if metric.label == "Logged models") == "2"
        built = open_page("build")
        assert sum("it answered: “The capital of Spain is Madrid.”" in each.value for each in built.caption) == 2

    def test_a_second_build_at_the_same_time_is_refused_with_a_reason(self, empty_home: Path) -> None:
        app = open_page("home")
        (button,) = [each for each in app.button if each.label == "Build both wrappers"]
        button.click().run()
        from phi3kit.errors import BuildFailed
        from phi3kit.ui.building import BOTH_EMBEDDED

        with pytest.raises(BuildFailed, match="running already"):
            resources.kit().builds.start(BOTH_EMBEDDED)

    def test_build_explains_a_folder_that_is_not_phi3(self, empty_home: Path, tmp_path: Path) -> None:
        folder = tmp_path / "llama"
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        app = open_page("build")
        source = next(each for each in app.segmented_control if each.label == "Source")
        source.set_value("folder").run()
        app.text_input[-1].set_value(str(folder)).run()
        assert "LlamaForCausalLM" in app.error[0].value


class TestBroken:
    def test_a_data_folder_that_cannot_be_written_is_explained_on_every_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "home").write_text("a file in the way")
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path / "home"))
        st.cache_resource.clear()
        for name in PAGES:
            app = open_page(name)
            assert any("cannot be written" in each.value for each in app.error), name

    def test_a_wrong_setting_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.setenv("PHI3KIT_IDLE_SECONDS", "soon")
        st.cache_resource.clear()
        app = open_page("home")
        assert any("PHI3KIT\\_IDLE\\_SECONDS" in each.value for each in app.error)


class TestSignatures:
    def test_both_signatures_and_the_chapters_stand_side_by_side(self, full_home: Built) -> None:
        app = open_page("signatures")
        notations = [each.value for each in app.code]
        assert len(notations) == 4
        assert sum("'prompt': string (required)" in each for each in notations) == 2
        (table,) = app.dataframe
        assert {"part", "field", "transformers", "onnx", "verdict"} == set(table.value.columns)
        assert "only onnx" in set(table.value["verdict"])

    def test_todays_chat_signature_is_compared_with_the_chapters(self, full_home: Built) -> None:
        app = open_page("signatures")
        view = next(each for each in app.segmented_control if each.label == "Compare")
        view.set_value("transformers: chapter and today").run()
        table = app.dataframe[0].value.set_index("field")
        assert table.loc["top_p", "verdict"] == "only today"
        assert table.loc["temperature", "verdict"] == "same"
        assert table.loc["messages[].content", "verdict"] == "differs"


class TestChat:
    @pytest.mark.parametrize("wrapper", ["transformers", "onnx"])
    def test_a_question_is_answered_with_its_usage_under_it(self, full_home: Built, wrapper: str) -> None:
        app = open_page("chat")
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value(wrapper).run()
        app.chat_input[0].set_value("What is the capital of Spain?").run()
        assert "The capital of Spain is Madrid." in words(app)
        assert any("tokens/s · stop" in each.value for each in app.caption)
        app.chat_input[0].set_value("And of France?").run()
        assert "The capital of France is Paris." in words(app)
        assert len(app.session_state["conversation"].turns) == 2
        next(each for each in app.button if each.label == "New chat").click().run()
        assert app.session_state["conversation"].turns == []

    def test_markup_in_a_message_is_shown_as_text(self, full_home: Built) -> None:
        app = open_page("chat")
        message = "<script>alert(1)</script> **bold** ![x](http://127.0.0.1:9/x.png)"
        app.chat_input[0].set_value(message).run()
        assert [each.value for each in app.text] == [message]

    def test_the_page_says_when_messages_go_through_the_template(self, full_home: Built) -> None:
        app = open_page("chat")
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value("onnx").run()
        assert "go through the chat template" in words(app)

    def test_a_conversation_beyond_the_context_is_explained_and_logged_nothing(self, full_home: Built) -> None:
        app = open_page("chat")
        app.chat_input[0].set_value("word " * 5000).run()
        assert any("4,096" in each.value for each in app.error)


class TestPrompt:
    def test_tokens_are_counted_and_the_comedian_answers(self, full_home: Built) -> None:
        app = open_page("prompt")
        next(each for each in app.button if each.label == "The chapter's comedian").click().run()
        assert app.text_area(key="raw_prompt").value == CHAPTER_PROMPT
        next(each for each in app.button if each.label == "Send").click().run()
        assert "little atom-related joke" in words(app)
        assert app.session_state["prompt_runs"].turns[0].request.prompt == CHAPTER_PROMPT

    def test_the_buttons_write_the_template(self, full_home: Built) -> None:
        app = open_page("prompt")
        for label in ("user", "end", "assistant"):
            next(each for each in app.button if each.label == label).click().run()
        assert app.text_area(key="raw_prompt").value == "<|user|>\n<|end|>\n<|assistant|>\n"

    def test_a_prompt_beyond_the_context_cannot_be_sent(self, full_home: Built) -> None:
        app = open_page("prompt")
        app.text_area(key="raw_prompt").set_value("word " * 5000).run()
        assert next(each for each in app.button if each.label == "Send").disabled


class TestUsage:
    def test_the_totals_are_those_of_the_logged_turns(self, full_home: Built) -> None:
        chat = open_page("chat")
        chat.chat_input[0].set_value("Hello").run()
        answer = chat.session_state["conversation"].turns[-1].answer
        writer = resources.kit().writer
        while writer.state().waiting:
            pass
        resources.forget_lists()
        app = open_page("usage")
        shown = {metric.label: metric.value for metric in app.metric}
        turns = resources.turns()
        assert shown["Turns"] == f"{len(turns):,}"
        assert shown["Total tokens"] == f"{turns['total_tokens'].sum():,}"
        newest = turns.iloc[0]
        assert (newest["prompt_tokens"], newest["completion_tokens"]) == (
            answer.prompt_tokens,
            answer.completion_tokens,
        )

    def test_a_filter_leaves_only_its_turns(self, full_home: Built) -> None:
        app = open_page("usage")
        next(each for each in app.pills if each.label == "Wrapper").set_value(["onnx"]).run()
        assert set(app.dataframe[0].value["wrapper"]) == {"onnx"}

    def test_no_turn_in_a_filter_is_said(self, full_home: Built) -> None:
        app = open_page("usage")
        next(each for each in app.pills if each.label == "Wrapper").set_value([]).run()
        assert "No turn fits" in app.info[0].value
