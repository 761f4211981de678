"""The Prompt page, through Streamlit's own test runner, with real workers. The browser test looks at what is drawn."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.formats.chat_template import EXAMPLE
from tests.conftest import CHAPTER_PROMPT, Built
from tests.support.in_app import label_of, open_page, words

FLAWED = "<|user|>\nWhat is the capital of Spain?\n<|assistant|>\n"


def lab(prompt: str, view: str = "Tokens") -> AppTest:
    app = open_page("prompt")
    app.text_area(key="raw_prompt").set_value(prompt).run()
    next(each for each in app.segmented_control if each.label == "View").set_value(view).run()
    assert not app.exception, app.exception
    return app


def press(app: AppTest, label: str) -> AppTest:
    next(each for each in app.button if label_of(each) == label).click().run()
    assert not app.exception, app.exception
    return app


class TestTokens:
    def test_each_token_is_a_chip_with_text_and_id_and_special_ones_are_distinct(self, home: Built) -> None:
        said = words(lab("<|user|>\nHi🙂"))
        assert ":yellow-badge[<|user|> :small[#4095]] :gray[~~↵~~]" in said
        assert ":gray-badge[␣H :small[#1329]]" in said
        assert ":blue-badge[0xF0 :small[#243]]" in said
        assert ":gray[= 🙂]" in said

    def test_they_can_be_read_as_a_table(self, home: Built) -> None:
        app = lab("<|user|>\nHi")
        next(each for each in app.toggle if each.label == "Show as table").set_value(True).run()
        table = app.dataframe[0].value
        assert list(table["id"]) == [4095, 1329, 322]
        assert list(table["kind"]) == ["special", "text", "text"]
        assert table["bytes (hex)"][2] == "69"

    def test_of_a_long_prompt_the_first_are_drawn_and_the_rest_on_demand(self, home: Built) -> None:
        app = lab("word " * 2_000)
        assert "more tokens not shown." in words(app)
        (rest,) = app.checkbox
        drawn = words(app).count(":gray-badge[")
        assert drawn == 301  # and one in the legend
        rest.check().run()
        assert words(app).count(":gray-badge[") == 4_002  # and one in the legend
        assert "more tokens not shown" not in words(app)

    def test_the_meter_marks_the_window_of_both_wrappers(self, home: Built) -> None:
        app = lab("word " * 2_500)
        assert "Beyond its window of 2,047 tokens the model forgets the beginning." in words(app)
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value("transformers").run()
        assert "Beyond its window of 2,047 tokens the model forgets the beginning." in words(app)


class TestMessages:
    def test_a_right_prompt_is_read_back_into_messages(self, home: Built) -> None:
        app = lab(EXAMPLE, "Messages")
        assert "Matches the template." in words(app)
        assert [each.value for each in app.text] == ["What is the capital of Spain?"]

    def test_a_flaw_is_named_with_its_place_and_mended_at_a_click(self, home: Built) -> None:
        app = lab(FLAWED, "Messages")
        said = words(app)
        assert "This user turn has no <|end|>." in said
        assert "line 1, column 1" in said
        press(app, "Rewrite to match the template")
        assert "This user turn has no" not in words(app).replace("\\", "")
        assert app.text_area(key="raw_prompt").value.count("<|end|>") == 1

    def test_messages_become_a_raw_prompt(self, home: Built) -> None:
        app = lab("", "Messages")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        app.text_area(key="prompt_messages").set_value(json.dumps({"messages": messages})).run()
        press(app, "Convert to a raw prompt")
        assert app.text_area(key="raw_prompt").value == (
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "not JSON: line 1"),
            ("[{}]", "messages[0].role"),
            ('[{"role": "wizard", "content": ""}]', "messages[0].role"),
        ],
    )
    def test_what_are_no_messages_is_said_and_the_prompt_stays(self, home: Built, text: str, said: str) -> None:
        app = lab(EXAMPLE, "Messages")
        app.text_area(key="prompt_messages").set_value(text).run()
        press(app, "Convert to a raw prompt")
        assert said in words(app).replace("\\", "")
        assert app.text_area(key="raw_prompt").value == EXAMPLE

    @pytest.mark.parametrize(
        "content", ["<script>alert(1)</script>", "![x](http://127.0.0.1:9/x.png) $x^2$ :smile:", "**b** `c` | a |"]
    )
    def test_markup_in_a_message_is_shown_as_text(self, home: Built, content: str) -> None:
        app = lab(f"<|user|>\n{content}<|end|>\n<|assistant|>\n", "Messages")
        assert [each.value for each in app.text] == [content]


class TestWhatIf:
    def test_missing_line_breaks_leave_the_same_tokens(self, home: Built) -> None:
        app = lab(EXAMPLE, "What if")
        app.selectbox(key="prompt_variant").set_value("no line breaks after special tokens").run()
        assert "Same tokens: the model cannot see the difference." in words(app)

    def test_both_are_asked_and_their_answers_compared(self, home: Built) -> None:
        app = lab(EXAMPLE, "What if")
        app.selectbox(key="prompt_variant").set_value("<|assistant|> missing at the end").run()
        assert "the same up to token" in words(app)
        press(app, "Ask both")
        runs = app.session_state["prompt_runs"].turns
        assert [turn.request.prompt for turn in runs] == [EXAMPLE, EXAMPLE.removesuffix("<|assistant|>\n")]
        assert runs[0].answer.text == "The capital of Spain is Madrid."
        assert runs[1].answer.text != runs[0].answer.text
        assert ":red-background[~~" in words(app)


class TestRuns:
    def test_two_runs_are_compared_word_by_word(self, home: Built) -> None:
        app = lab(EXAMPLE)
        press(app, "Send")
        app.text_area(key="raw_prompt").set_value(EXAMPLE.replace("Spain", "France")).run()
        press(app, "Send")
        said = words(app)
        assert ":red-background[~~Spain~~]:blue-background[France]" in said
        assert ":red-background[~~Madrid~~]:blue-background[Paris]" in said
        assert len(app.session_state["prompt_runs"].turns) == 2

    def test_a_run_can_be_edited_again(self, home: Built) -> None:
        app = lab(CHAPTER_PROMPT)
        press(app, "Send")
        app.text_area(key="raw_prompt").set_value("other").run()
        press(app, "Edit again")
        assert app.text_area(key="raw_prompt").value == CHAPTER_PROMPT

    def test_a_hundred_thousand_characters_are_counted_and_not_sent(self, home: Built) -> None:
        app = lab("<b>word</b> " * 8_400)
        assert next(each for each in app.button if label_of(each) == "Send").disabled
        assert "too long. Shorten it to send it" in words(app)
