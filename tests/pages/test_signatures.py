"""The Signatures page, through Streamlit's own test runner, with a real store; a real worker where it is asked."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.formats.payloads import EXAMPLES
from phi3kit.tracking import registry as registry
from phi3kit.ui.shared import resources
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_app import open_page, read, words

BY_NAME = {example.name: example for example in EXAMPLES}


def lab(view: str) -> AppTest:
    app = open_page("signatures")
    next(each for each in app.segmented_control if each.label == "View").set_value(view).run()
    assert not app.exception, app.exception
    return app


def payload(app: AppTest, text: str) -> AppTest:
    app.text_area(key="lab_payload").set_value(text).run()
    assert not app.exception, app.exception
    return app


class TestFields:
    def test_the_newest_of_each_wrapper_stand_side_by_side_with_the_chapters_notation_a_click_away(
        self, home: Built
    ) -> None:
        app = lab("Fields")
        notations = [each.value for each in app.code]
        assert len(notations) == 2
        assert "'messages': Array({content: string (optional)" in notations[0]
        assert (
            notations[1]
            == "{inputs:\n  ['prompt': string (required)],\noutputs:\n  [string (required)],\nparams:\n  None}"
        )

    def test_a_signature_is_a_tree_that_can_be_searched(self, home: Built) -> None:
        app = lab("Fields")
        assert "**messages** Array(object) (required)" in {read(each.label) for each in app.expander}
        assert "**prompt** string (required)" in words(app)
        app.text_input(key="sig_A_search").set_value("tool_calls[].function.NAME").run()
        assert [read(each.label).split()[0] for each in app.expander if each.proto.expanded] == [
            "**messages**", "**tool_calls**", "**function**", "**choices**", "**message**", "**tool_calls**", "**function**",
        ]  # fmt: skip
        app.text_input(key="sig_A_search").set_value("nothing").run()
        assert "No field has this text." in words(app)

    def test_every_nested_field_is_a_row_that_says_where_it_is(self, home: Built) -> None:
        table = lab("Fields").dataframe[0].value
        assert list(table.columns) == ["part", "field", "type", "required", "in A", "in B", "verdict"]
        prompt = table[table["field"] == "prompt"].iloc[0]
        assert tuple(prompt) == ("inputs", "prompt", "string", "required", False, True, "only B")
        assert "choices[].message.tool_calls[].function.name" in set(table["field"])

    def test_a_registered_version_can_be_compared_with_any_other_model(self, home: Built) -> None:
        name = "labs-page"
        registry.register(home.uri("onnx"), name, ADMIN, home.settings, aliases=["champion"])
        resources.forget_lists()
        try:
            app = lab("Fields")
            box = app.selectbox(key="sig_A")
            assert box.options[0].startswith("labs-page@champion · version 1 · onnx")
            box.set_value(f"models:/{name}/1").run()
            assert "2 same" in words(app)
            app.toggle(key="sig_differences").set_value(True).run()
            assert "No fields differ." in words(app)
        finally:
            registry.delete_version(name, 1, ADMIN, home.settings)
            resources.forget_lists()


class TestPayload:
    def test_each_model_gets_its_own_verdict_with_what_to_change(self, home: Built) -> None:
        said = words(lab("Payload"))
        assert "**A** :violet-badge[transformers] :material/check_circle: **Passes the schema**" in said
        assert "**B** :green-badge[onnx] :red[:material/cancel:] **Refused**" in said
        assert "This model does not take messages. Send prompt, one text." in said

    def test_an_example_fills_the_box_and_is_judged(self, home: Built) -> None:
        app = lab("Payload")
        app.selectbox(key="lab_example").set_value("n").run()
        assert app.text_area(key="lab_payload").value == BY_NAME["n"].payload
        said = words(app)
        assert "**Passes the schema**" in said
        assert "predict: Refused: transformers' pipeline does not know n." in said

    def test_what_predict_makes_of_it_the_model_says_when_it_is_asked(self, home: Built) -> None:
        app = payload(lab("Payload"), BY_NAME["n"].payload.replace('"n": 1', '"n": 2'))
        assert "Only the model can tell what predict does with it" in words(app)
        app.button(key="lab_ask_A").click().run()
        assert "/invocations answered 400:" in words(app)
        assert any("not valid for pipeline TextGenerationPipeline" in each.value for each in app.code)

    def test_broken_json_is_pointed_at(self, home: Built) -> None:
        app = payload(lab("Payload"), '{\n  "prompt": None\n}')
        assert "line 2, column 13" in words(app)
        assert [each.value for each in app.code if each.value.endswith("^")] == ['  "prompt": None\n            ^'] * 2

    def test_a_question_is_rewritten_for_the_other_wrapper(self, home: Built) -> None:
        app = lab("Payload")
        app.button(key="lab_as_prompt").click().run()
        assert json.loads(app.text_area(key="lab_payload").value) == {
            "prompt": "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
        }
        assert words(app).count("**Passes the schema**") == 1

    def test_the_payload_can_be_sent_to_the_real_model(self, home: Built) -> None:
        app = payload(lab("Payload"), BY_NAME["prompt"].payload)
        app.button(key="lab_ask_B").click().run()
        assert "/invocations answered 200:" in words(app)
        assert any(each.value == '["The capital of Spain is Madrid."]' for each in app.code)
        payload(app, BY_NAME["null"].payload)  # another payload: that answer is not its
        assert "/invocations answered" not in words(app)

    @pytest.mark.parametrize(
        "text",
        ["<script>alert(1)</script>", "$x^2$ :smile: **b**", "", "[" * 5_000, json.dumps({"prompt": "é" * 100_000})],
        ids=["script", "markdown", "nothing", "deep", "long"],
    )
    def test_whatever_is_typed_is_judged_and_kept(self, home: Built, text: str) -> None:
        app = payload(lab("Payload"), text)
        assert app.text_area(key="lab_payload").value == text
        assert f"{len(text):,} characters" in words(app)


class TestForms:
    def test_the_question_is_written_in_every_form_for_both(self, home: Built) -> None:
        app = lab("One question, every form")
        app.text_input(key="lab_question").set_value("What's the capital of Peru?").run()
        code = "\n".join(each.value for each in app.code)
        assert code.count("curl -s http://127.0.0.1:8000/invocations") == 2
        assert code.count("mlflow.pyfunc.load_model") == 2
        assert '"content": "What\'s the capital of Peru?"' in code
        assert "phi3kit serve models:/m-" in code


class TestSinceTheChapter:
    def test_what_was_added_is_said_and_listed(self, home: Built) -> None:
        app = lab("Since the chapter")
        said = words(app)
        assert "Added: messages[].refusal, messages[].tool_call_id, messages[].tool_calls, top_p, top_k" in said
        assert "No longer required: messages[].content, choices[].message.content, usage" in said
        table = app.dataframe[0].value.set_index("field")
        assert table.loc["top_p", "verdict"] == "only today"
        assert table.loc["messages[].content", "required"] == "required → optional"

    def test_the_onnx_signature_is_still_the_chapters(self, home: Built) -> None:
        app = lab("Since the chapter")
        next(each for each in app.segmented_control if each.label == "Wrapper").set_value("onnx").run()
        assert app.code[0].value == app.code[1].value
        assert "Nothing. MLflow still infers what the chapter printed." in words(app)
