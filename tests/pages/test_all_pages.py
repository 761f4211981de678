"""Pages, through Streamlit's own test runner, with a real store and real workers. The browser test goes further."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import WRAPPERS
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJob
from phi3kit.ui.shared import resources
from phi3kit.usage.outbox import Outbox
from tests.conftest import CHAPTER_PROMPT, Built
from tests.support.actors import ADMIN
from tests.support.hub_server import local_hub
from tests.support.in_app import app_on, errors, forget, label_of, open_page, words
from tests.support.samples import new_store, turn
from tests.support.waiting import wait_for

PAGES = tuple(sorted(path.stem for path in (PROJECT_ROOT / "pages").glob("*.py")))


def ended_build() -> BuildJob:
    """The latest build, when it has ended."""

    def ended() -> BuildJob | None:
        job = resources.kit().builds.latest(ADMIN)
        return None if job is None or job.active else job

    return wait_for("the build's end", ended)


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[Path]:
    """An app without models and turns."""
    new_store(tmp_path)
    with app_on(tmp_path):
        yield tmp_path


class TestEmpty:
    @pytest.mark.parametrize("name", PAGES)
    def test_every_page_says_what_to_do_next(self, empty_home: Path, name: str) -> None:
        app = open_page(name)
        assert len(app.title) == 1
        assert errors(app) == []
        said = {
            "home": "Nothing is built yet",
            "build": "Nothing is built yet",
            "models": "Nothing is built yet",
            "deploy": "Nothing is built yet",
            "signatures": "Not built yet: transformers and onnx",
            "chat": "No model is built yet",
            "prompt": "No model is built yet",
            "compare": "No model is built yet",
            "batch": "No model is built yet",
            "evaluate": "No model is built yet",
            "tour": "Walk through the chapter",
            "usage": "There are no turns yet",
            "access": "No API keys yet",
        }
        assert said[name] in words(app)

    def test_a_build_survives_a_reload_and_is_cancelled_by_a_click(self, empty_home: Path) -> None:
        app = open_page("home")
        next(each for each in app.button if label_of(each) == "Build both wrappers").click().run()
        reloaded = open_page("build")  # a new session, as after a reload
        cancel = [each for each in reloaded.button if label_of(each) == "Cancel"]
        assert len(cancel) == 1
        cancel[0].click().run()
        assert ended_build().state == "cancelled"
        stopped = open_page("build")
        assert errors(stopped) == []
        assert "You stopped it. Unfinished models are not listed." in words(stopped)

    def test_builds_that_ended_are_listed_with_their_outcome(self, empty_home: Path) -> None:
        resources.kit().builds.start(BuildRequest(("onnx",), str(empty_home), "int4"), ADMIN)
        assert ended_build().state == "failed"
        app = open_page("build")
        table = app.dataframe[-1].value
        assert list(table["state"]) == ["failed"]
        assert "config.json is missing" in errors(app)[0]

    def test_build_explains_a_folder_that_is_not_phi3(self, empty_home: Path, tmp_path: Path) -> None:
        folder = tmp_path / "llama"
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        app = open_page("build")
        source = next(each for each in app.segmented_control if each.label == "Source")
        source.set_value("folder").run()
        next(each for each in app.text_input if each.label == "Folder").set_value(str(folder)).run()
        assert "LlamaForCausalLM" in errors(app)[0]
        assert next(each for each in app.button if label_of(each).startswith("Build")).disabled

    def test_build_says_what_it_will_need_before_anything_is_written(self, empty_home: Path) -> None:
        app = open_page("build")
        plan = app.dataframe[0].value
        assert list(plan["what"]) == [
            "peak disk space", "memory to build", "memory to load transformers", "memory to load onnx"
        ]  # fmt: skip
        assert set(plan["verdict"]) == {"fits"}
        assert "32 layers" not in words(app)
        assert "4 layers" in words(app)

    def test_a_hub_that_is_away_is_explained_and_asked_again_by_a_click(
        self, empty_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
        app = open_page("build")
        next(each for each in app.segmented_control if each.label == "Source").set_value("Hugging Face").run()
        assert "could not be reached" in errors(app)[0]
        assert next(each for each in app.button if label_of(each).startswith("Build")).disabled
        assert [label_of(each) for each in app.button if label_of(each) == "Check again"] == ["Check again"]

    def test_a_repository_is_looked_up_downloaded_and_built(
        self, empty_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with local_hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            hub.add("microsoft/Phi-3-mini-4k-instruct", MODEL_FOLDER, license="mit")
            app = open_page("build")
            next(each for each in app.segmented_control if each.label == "Source").set_value("Hugging Face").run()
            assert "license mit" in words(app)
            next(each for each in app.segmented_control if each.label == "Wrapper").set_value("onnx").run()
            app = next(each for each in app.button if label_of(each) == "Build the onnx wrapper").click().run()
            assert "download" in words(app)
            job = ended_build()
        assert job.error is None
        assert next(step.step for step in job.steps) == "download"
        assert job.built[0]["source"] == "microsoft/Phi-3-mini-4k-instruct"
        assert job.built[0]["license"] == "mit"
        resources.forget_lists()
        assert "It answered: “The capital of Spain is Madrid.”" in words(open_page("build"))


class TestBroken:
    def test_a_data_folder_that_cannot_be_written_is_explained_on_every_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "home").write_text("a file in the way")
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path / "home"))
        forget()
        for name in PAGES:
            if name == "tour":  # its first step reads nothing; there the sidebar says it
                continue
            app = open_page(name)
            assert any("cannot be written" in each for each in errors(app)), name

    def test_a_wrong_setting_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.setenv("PHI3KIT_IDLE_SECONDS", "soon")
        forget()
        app = open_page("home")
        assert any("PHI3KIT_IDLE_SECONDS" in each for each in errors(app))


class TestChat:
    @pytest.mark.parametrize("wrapper", ["transformers", "onnx"])
    def test_a_question_is_answered_with_its_usage_under_it(self, home: Built, wrapper: str) -> None:
        app = open_page("chat")
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value(wrapper).run()
        app.chat_input[0].set_value("What is the capital of Spain?").run()
        assert "The capital of Spain is Madrid." in words(app)
        assert any("tokens/s · stop" in each.value for each in app.markdown)
        app.chat_input[0].set_value("And of France?").run()
        assert "The capital of France is Paris." in words(app)
        assert len(app.session_state["conversation"].turns) == 2
        next(each for each in app.button if label_of(each) == "New chat").click().run()
        assert app.session_state["conversation"].turns == []

    def test_markup_in_a_message_is_shown_as_text(self, home: Built) -> None:
        app = open_page("chat")
        message = "<script>alert(1)</script> **bold** ![x](http://127.0.0.1:9/x.png)"
        app.chat_input[0].set_value(message).run()
        assert [each.value for each in app.text] == [message]

    def test_the_page_says_when_messages_go_through_the_template(self, home: Built) -> None:
        app = open_page("chat")
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value("onnx").run()
        assert "go through the chat template" in words(app)

    def test_a_conversation_beyond_the_context_is_explained_and_logged_nothing(self, home: Built) -> None:
        app = open_page("chat")
        app.chat_input[0].set_value("word " * 5000).run()
        assert any("4096 tokens" in each for each in errors(app))


class TestPrompt:
    def test_tokens_are_counted_and_the_comedian_answers(self, home: Built) -> None:
        app = open_page("prompt")
        next(each for each in app.button if label_of(each) == "The chapter's comedian").click().run()
        assert app.text_area(key="raw_prompt").value == CHAPTER_PROMPT
        next(each for each in app.button if label_of(each) == "Send").click().run()
        assert "little atom-related joke" in words(app)
        assert app.session_state["prompt_runs"].turns[0].request.prompt == CHAPTER_PROMPT

    def test_the_buttons_write_the_template(self, home: Built) -> None:
        app = open_page("prompt")
        for label in ("user", "end", "assistant"):
            next(each for each in app.button if label_of(each) == label).click().run()
        assert app.text_area(key="raw_prompt").value == "<|user|>\n<|end|>\n<|assistant|>\n"

    def test_a_prompt_beyond_the_context_cannot_be_sent(self, home: Built) -> None:
        app = open_page("prompt")
        app.text_area(key="raw_prompt").set_value("word " * 5000).run()
        assert next(each for each in app.button if label_of(each) == "Send").disabled


class TestUsage:
    @pytest.fixture(autouse=True)
    def logged(self, home: Built) -> None:
        """A turn of each wrapper, whichever tests ran before here."""
        for wrapper in WRAPPERS:
            Outbox(home.home).add(turn(f"logged by {wrapper}", at=time.time(), wrapper=wrapper, user="local"))
        wait_for("the turns in the store", lambda: resources.kit().writer.state().waiting == 0)
        resources.forget_lists()

    def test_the_totals_are_those_of_the_logged_turns(self, home: Built) -> None:
        chat = open_page("chat")
        chat.chat_input[0].set_value("Hello").run()
        answer = chat.session_state["conversation"].turns[-1].answer
        writer = resources.kit().writer
        wait_for("the turn in the store", lambda: writer.state().waiting == 0)
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

    def test_a_filter_leaves_only_its_turns(self, home: Built) -> None:
        app = open_page("usage")
        next(each for each in app.pills if each.label == "Wrapper").set_value(["onnx"]).run()
        assert set(app.dataframe[0].value["wrapper"]) == {"onnx"}

    def test_no_turn_in_a_filter_is_said(self, home: Built) -> None:
        app = open_page("usage")
        next(each for each in app.pills if each.label == "Wrapper").set_value([]).run()
        assert "No turns match" in app.info[0].value
