"""Enforcement and the examples of payloads, against the answers of a real /invocations."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from phi3kit.core.records import Endpoint
from phi3kit.formats.enforcement import enforce, form_of
from phi3kit.formats.payloads import EXAMPLES, QUESTION, Example, converted, messages_of, prompt_of, renderings
from phi3kit.formats.signatures import chapter_signature
from phi3kit.tracking.logged_models import signature_of
from tests.conftest import Built

BY_NAME = {example.name: example for example in EXAMPLES}

# The scoring server hides what predict raises behind this sentence, unless it is MLflow's own.
UNEXPECTED = (
    "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe is "
    "compatible with the model for inference."
)
# Examples that pass the schema and that predict refuses: name to the message of a real /invocations.
REFUSED_BY_PREDICT = {
    "null": UNEXPECTED,
    "empty prompt": UNEXPECTED,
    "temperature 0": UNEXPECTED,
    "stop": UNEXPECTED,
    "inputs with messages": "Input messages should be list of dictionaries, but got: <class 'numpy.ndarray'>.",
    "n": "The params provided to the `predict` method are not valid for pipeline TextGenerationPipeline.",
    "no message": "Failed to apply chat template: Cannot apply chat template to an empty conversation. "
    "Provide at least one message.",
    "no content": "Failed to apply chat template",
}
SERVERS_FAULT = ("no message", "no content")  # as MLflow sees it: INTERNAL_ERROR and 500


def words(message: str) -> list[str]:
    """The words of a message, sorted: MLflow prints sets in any order."""
    return sorted(re.findall(r"\w+", message))


def refusal_in(answer: httpx2.Response) -> str:
    """Why a server refused a payload; MLflow's begins with the payload itself."""
    message = str(answer.json()["message"])
    return message.partition("\nError: ")[2] or message


def post(endpoint: Endpoint, payload: str) -> httpx2.Response:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    return httpx2.post(f"{endpoint.base_url}/invocations", content=payload.encode(), headers=headers, timeout=300)


class TestAgainstTheRealServer:
    @pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
    def test_the_verdict_is_what_invocations_answers(self, built: Built, endpoint: Endpoint, example: Example) -> None:
        wrapper = endpoint.wrapper
        assert wrapper != "remote"
        enforced = enforce(signature_of(built.uri(wrapper), built.settings), example.payload)
        later = None if enforced.refusal else REFUSED_BY_PREDICT.get(example.name)
        answer = post(endpoint, example.payload)
        refused = 500 if later and example.name in SERVERS_FAULT else 400
        assert answer.status_code == (refused if enforced.refusal or later else 200), answer.text
        if enforced.form is None:
            assert "Invalid input" in answer.text or "exactly one of the input fields" in answer.text
        elif enforced.refusal:
            assert words(refusal_in(answer)) == words(enforced.refusal.message)
        elif later:
            assert refusal_in(answer).startswith(later)
            assert example.predict.startswith("Refused: ")
        elif enforced.form == "bare":
            assert isinstance(answer.json(), list)
        else:
            assert len(answer.json()["predictions"]) == len(enforced.rows)

    def test_every_refusal_that_an_example_tells_of_is_tried(self) -> None:
        told = {example.name for example in EXAMPLES if example.predict.startswith("Refused: ")}
        assert told == set(REFUSED_BY_PREDICT)

    @pytest.mark.parametrize("endpoint", ["onnx"], indirect=True)
    def test_a_list_of_prompts_is_one_row_and_each_is_answered(self, endpoint: Endpoint) -> None:
        payload = BY_NAME["list of prompts"].payload
        assert len(enforce(chapter_signature("onnx"), payload).rows) == 1
        assert post(endpoint, payload).json() == ["The capital of Spain is Madrid."] * 2

    @pytest.mark.parametrize("endpoint", ["transformers"], indirect=True)
    def test_what_an_example_says_is_ignored_changes_no_prompt(self, endpoint: Endpoint) -> None:
        def prompt_tokens(name: str) -> int:
            return int(post(endpoint, BY_NAME[name].payload).json()[0]["usage"]["prompt_tokens"])

        plain = prompt_tokens("messages")
        assert prompt_tokens("tools") == plain
        assert prompt_tokens("unknown role") < plain

    @pytest.mark.parametrize("endpoint", ["transformers"], indirect=True)
    def test_the_first_rows_parameters_count_for_all_rows(self, endpoint: Endpoint) -> None:
        answers = post(endpoint, BY_NAME["parameters in records"].payload).json()["predictions"]
        assert [each["usage"]["completion_tokens"] for each in answers] == [2, 2]

    def test_the_same_question_is_answered_in_every_rendering(
        self, built: Built, endpoint: Endpoint, tmp_path: Path
    ) -> None:
        wrapper = endpoint.wrapper
        assert wrapper != "remote"
        forms = renderings(QUESTION, wrapper, endpoint.model_uri, endpoint.base_url)
        named = "OpenAI JSON" if wrapper == "transformers" else '{"prompt": …}'
        assert "Madrid" in post(endpoint, forms[named][0]).text
        assert "Madrid" in post(endpoint, forms["dataframe_split"][0]).text
        environment = {**os.environ, "PHI3KIT_API_KEY": endpoint.api_key}
        environment["MLFLOW_TRACKING_URI"] = built.settings.tracking_uri.reveal()
        script = tmp_path / "row.py"
        script.write_text(forms["pandas row"][0], "utf-8")
        for command in (["bash", "-c", forms["curl"][0]], [sys.executable, str(script)]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
            assert "The capital of Spain is Madrid." in done.stdout


class TestEnforce:
    def test_what_reaches_predict_is_shown_row_by_row(self, built: Built) -> None:
        signature = signature_of(built.uri("onnx"), built.settings)
        enforced = enforce(signature, BY_NAME["two records"].payload)
        assert (enforced.form, len(enforced.rows)) == ("dataframe_records", 2)
        assert enforced.rows[0] == {"prompt": prompt_of(QUESTION)}

    def test_a_missing_input_says_what_to_send_instead(self) -> None:
        enforced = enforce(chapter_signature("onnx"), BY_NAME["messages"].payload)
        assert enforced.refusal is not None
        assert enforced.refusal.reason == (
            "Model is missing inputs ['prompt']. Note that there were extra inputs: ['messages']."
        )
        assert enforced.refusal.change == "This model does not take messages. Send prompt, one text."

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("whole temperature", "Make temperature a number with a decimal point: 2.0."),
            ("stop as text", "Put stop into a list: [ … ]."),
            ("field in a message", "Delete 'mood': inside an object MLflow takes no unknown field."),
            ("prompt", "This model does not take prompt. Send messages, a list of objects with role and content."),
        ],
    )
    def test_each_refusal_says_what_to_change(self, built: Built, name: str, change: str) -> None:
        enforced = enforce(signature_of(built.uri("transformers"), built.settings), BY_NAME[name].payload)
        assert enforced.refusal is not None
        assert enforced.refusal.change == change

    def test_a_number_as_prompt_is_to_be_put_in_quotes(self) -> None:
        enforced = enforce(chapter_signature("onnx"), '{"prompt": 5}')
        assert enforced.refusal is not None
        assert enforced.refusal.change == 'Make prompt a text, in quotes: "…".'

    def test_dropped_fields_and_ignored_params_are_named(self) -> None:
        onnx = chapter_signature("onnx")
        assert enforce(onnx, BY_NAME["extra field"].payload).dropped == ("temperature",)
        assert enforce(onnx, BY_NAME["params"].payload).ignored_params == ("temperature",)
        onnx.params = ParamSchema([ParamSpec("temperature", DataType.double, 0.2)])
        assert enforce(onnx, BY_NAME["params"].payload).ignored_params == ()

    def test_a_signature_without_names_is_enforced_too(self) -> None:
        signature = ModelSignature(inputs=Schema([ColSpec(DataType.string)]))
        assert enforce(signature, '{"inputs": ["Hi"]}').rows == ({"0": "Hi"},)

    def test_a_payload_of_a_hundred_thousand_characters_arrives_whole(self) -> None:
        prompt = "<script>alert('é')</script> $x$ <|end|>" * 3_000
        enforced = enforce(chapter_signature("onnx"), json.dumps({"prompt": prompt}))
        assert enforced.rows == ({"prompt": prompt},)

    @pytest.mark.parametrize(
        "payload",
        [
            {"dataframe_records": [{f"k{number}": 0} for number in range(20_000)]},
            {"instances": [{f"k{number}": 0} for number in range(20_000)]},
            {"inputs": [{f"k{number}": 0} for number in range(20_000)]},
            {"dataframe_split": {"columns": [f"k{n}" for n in range(20_000)], "data": [[0] * 20_000, *[[]] * 20_000]}},
            {"inputs": {"rows": [0] * 20_000, **{f"k{number}": 0 for number in range(20_000)}}},
            {"prompt": "x" * 1_000_001},
        ],
        ids=["records", "instances", "inputs", "split", "one column for all", "long"],
    )
    def test_a_payload_whose_table_would_be_a_square_is_not_made(self, payload: object) -> None:
        text = json.dumps(payload)
        began = time.process_time()
        enforced = enforce(chapter_signature("onnx"), text)
        assert enforced.refusal is not None
        assert enforced.refusal.reason == "The payload is too big to be checked here."
        assert time.process_time() - began < 10  # 400 million cells take minutes, and 3 GB

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, "5", "[]", "null", '"x"', "NaN", '{"inputs": {}, "instances": []}']
    )
    def test_whatever_has_no_form_is_refused_in_words(self, text: str) -> None:
        enforced = enforce(chapter_signature("onnx"), text)
        assert enforced.form is None
        assert enforced.refusal is not None
        assert enforced.refusal.change


_AT_THE_COMMA = "line 1, column 16" if sys.version_info >= (3, 13) else "line 1, column 17"


class TestBrokenJson:
    @pytest.mark.parametrize(
        ("text", "place", "change"),
        [
            # Python 3.13 names the comma's place, those before it that of the bracket behind it.
            ('{"prompt": "Hi",}', _AT_THE_COMMA, "Delete the comma after the last value."),
            ('{\n "prompt": None}', "line 2, column 12", "This is Python: JSON uses null, true and false."),
            ("{'prompt': 1}", "line 1, column 2", "JSON uses only double quotes: write \" instead of '."),
            ('{"prompt": "a\nb"}', "line 1, column 14", "Write a line break inside a text as \\n."),
            ('{"prompt" "Hi"}', "line 1, column 11", "Put a : there, or close the text or the list before it."),
            ("", "line 1, column 1", "Write a payload, or take one of the examples."),
        ],
    )
    def test_the_place_and_the_cure_are_named(self, text: str, place: str, change: str) -> None:
        refusal = enforce(chapter_signature("onnx"), text).refusal
        assert refusal is not None
        assert place in refusal.reason
        assert refusal.change == change

    def test_the_place_is_pointed_at_also_in_a_long_line(self) -> None:
        refusal = enforce(chapter_signature("onnx"), '{"a": "' + "x" * 500 + '", None}').refusal
        assert refusal is not None
        line, pointer = refusal.message.splitlines()
        assert len(line) <= 80
        assert line[pointer.index("^")] == "N"


class TestForms:
    @pytest.mark.parametrize(
        ("payload", "form"),
        [
            ({"prompt": "x", "inputs": 1}, "bare"),
            ({"inputs": 1}, "inputs"),
            ({"inputs": 1, "instances": 1}, None),
            ({"dataframe_split": {}}, "dataframe_split"),
            ([], None),
        ],
        ids=str,
    )
    def test_a_payload_has_one_form_or_none(self, payload: object, form: str | None) -> None:
        assert form_of(payload) == form


class TestConverted:
    def test_a_prompt_becomes_messages_and_messages_a_prompt(self) -> None:
        messages = json.dumps({"messages": messages_of(QUESTION)})
        assert json.loads(converted(messages, "prompt") or "") == {"prompt": prompt_of(QUESTION)}
        assert json.loads(converted(json.dumps({"prompt": prompt_of(QUESTION)}), "messages") or "") == {
            "messages": messages_of(QUESTION)
        }

    @pytest.mark.parametrize("text", ["", "[]", '{"prompt": 5}', '{"messages": 5}', '{"inputs": 1}'])
    def test_what_is_no_question_stays(self, text: str) -> None:
        assert converted(text, "messages") is None
        assert converted(text, "prompt") is None
