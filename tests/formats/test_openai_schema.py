"""OpenAI's wire format: what is accepted, and what a refusal says."""

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from phi3kit.core.errors import Busy, ModelNotFound, PromptTooLong, RequestInvalid, StorageFailed, WorkerFailed
from phi3kit.core.records import Message
from phi3kit.formats.openai_schema import (
    ChatRequest,
    ChoicePart,
    CompletionRequest,
    TokenLogprob,
    chunk,
    error_body,
    response,
    usage,
)

HI = [{"role": "user", "content": "Hi"}]


def refusal(body: dict[str, Any], kind: type[BaseModel] = ChatRequest) -> dict[str, Any]:
    """The error object that a body gets; its status is always 400."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    status, answer = error_body(caught.value)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    return dict(answer["error"])


class TestChatRequest:
    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("temperature", -1, "greater than or equal to 0"),
            ("temperature", 2.1, "less than or equal to 2"),
            ("temperature", "hot", "valid number"),
            ("temperature", math.nan, "finite"),
            ("top_p", -0.1, "greater than or equal to 0"),
            ("max_tokens", 0, "greater than or equal to 1"),
            ("max_tokens", 1.5, "valid integer"),
            ("n", 0, "greater than or equal to 1"),
            ("n", 9, "less than or equal to 8"),
            ("seed", 2**63, "less than"),
            ("stop", "", "must not be empty"),
            ("stop", ["a", ""], "must not be empty"),
            ("stop", ["a"] * 17, "at most 16"),
            ("presence_penalty", 2.5, "less than or equal to 2"),
            ("frequency_penalty", -2.5, "greater than or equal to -2"),
            ("logit_bias", {"5": 101}, "less than or equal to 100"),
            ("top_logprobs", 21, "less than or equal to 20"),
            ("logprobs", 3, "valid boolean"),
            ("presence_penalty", math.nan, "finite"),
            ("messages", [], "at least 1"),
        ],
    )
    def test_a_wrong_value_is_refused_with_its_name_and_reason(self, field: str, value: Any, says: str):
        error = refusal({"messages": HI, field: value})
        assert error["param"].split(".")[0] == field
        assert error["code"] == "invalid_value"
        assert says in error["message"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tools", [{"type": "function"}]),
            ("functions", [{"name": "f"}]),
            ("tool_choice", "required"),
            ("tool_choice", {"type": "function", "function": {"name": "f"}}),
            ("function_call", {"name": "f"}),
            ("response_format", {"type": "json_object"}),
            ("modalities", ["text", "audio"]),
            ("audio", {"voice": "alloy"}),
            ("prediction", {"type": "content", "content": "x"}),
            ("web_search_options", {"search_context_size": "low"}),
        ],
    )
    def test_what_would_change_the_answer_is_refused_by_name_as_unsupported(self, field: str, value: Any):
        error = refusal({"messages": HI, field: value})
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")
        assert error["message"].startswith(f"{field} is not supported: ")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tool_choice", "none"), ("tool_choice", "auto"), ("modalities", ["text"]), ("function_call", "none"),
            ("parallel_tool_calls", True), ("service_tier", "auto"), ("safety_identifier", "abc"),
            ("prompt_cache_key", "abc"), ("reasoning_effort", "low"), ("verbosity", "low"),
            ("response_format", {"type": "text"}), ("stream_options", {"include_obfuscation": False}),
            ("stream_options", {"include_usage": None}), ("colour", None), ("colour", []), ("colour", {}), ("colour", ""),
            *((name, None) for name in ChatRequest.model_fields if name != "messages"),
        ],
    )  # fmt: skip
    def test_what_asks_for_nothing_is_let_through(self, field: str, value: Any):
        request = ChatRequest.model_validate({"messages": HI, field: value})
        assert request.conversation() == (Message("user", "Hi"),)

    @pytest.mark.parametrize(
        "more",
        [
            {"annotations": None, "audio": None, "function_call": None, "tool_calls": None, "refusal": None},
            {"annotations": [], "tool_calls": [], "reasoning_content": None},
            {"metadata": {"title": None}, "options": [{"value": "x"}]},
        ],
    )
    def test_an_answer_is_sent_back_as_clients_keep_it(self, more: dict[str, Any]):
        kept = {"role": "assistant", "content": "Hello", **more}
        request = ChatRequest.model_validate({"messages": [*HI, kept, *HI]})
        assert request.conversation()[1] == Message("assistant", "Hello")

    @pytest.mark.parametrize("field", ["audio", "tool_calls", "function_call", "refusal"])
    def test_a_part_of_a_message_that_is_no_text_is_refused_by_its_place(self, field: str):
        error = refusal({"messages": [*HI, {"role": "assistant", "content": "x", field: [{"id": "1"}]}]})
        assert (error["param"], error["code"]) == (f"messages[1].{field}", "unsupported_parameter")

    def test_a_developer_is_the_system(self):
        request = ChatRequest.model_validate({"messages": [{"role": "developer", "content": "Be brief."}, *HI]})
        assert request.conversation()[0] == Message("system", "Be brief.")

    def test_top_p_of_0_is_greedy(self):
        request = ChatRequest.model_validate({"messages": HI, "top_p": 0, "temperature": 1.5})
        assert (request.temperature, request.top_p) == (0.0, None)

    def test_an_unknown_role_is_answered_with_the_known_ones(self):
        error = refusal({"messages": [*HI, {"role": "tool", "content": "x"}]})
        assert error["param"] == "messages[1].role"
        assert error["message"].endswith("it must be one of system, user, assistant.")

    def test_a_message_without_content_is_missing_a_parameter(self):
        error = refusal({"messages": [{"role": "user"}]})
        assert (error["param"], error["code"]) == ("messages[0].content", "missing_required_parameter")

    @pytest.mark.parametrize("content", [None, 3, [{"type": "image_url", "image_url": {"url": "x"}}]])
    def test_content_that_is_no_text_is_refused_under_the_callers_name_for_it(self, content: Any):
        assert refusal({"messages": [{"role": "user", "content": content}]})["param"] == "messages[0].content"

    @pytest.mark.parametrize("name", ["colour", "list", "a[b]"])
    def test_a_field_that_openai_does_not_have_is_refused_by_its_name(self, name: str):
        error = refusal({"messages": HI, name: 1})
        assert (error["param"], error["code"]) == (name, "unknown_parameter")
        assert error["message"] == f"Unrecognized request argument supplied: {name}."

    @pytest.mark.parametrize(
        ("given", "place"),
        [
            ({}, ""),
            ({"stream_options": {}}, "stream_options."),
            ({"logit_bias": {}}, "logit_bias."),
            ({"metadata": {}}, "metadata."),
        ],
    )
    def test_a_name_of_megabytes_is_told_by_its_first_characters(self, given: dict[str, Any], place: str):
        name = "a" * 900_000
        fields = {field: {name: 1} for field in given} or {name: 1}
        error = refusal({"messages": HI, **fields})
        assert error["param"].removesuffix(".[key]") == place + "a" * 200
        assert len(error["message"]) < 400

    @pytest.mark.parametrize(
        ("given", "kept"), [("END", ["END"]), (["a", "b"], ["a", "b"]), ([], []), (None, None), (" ", [" "])]
    )
    def test_stop_may_be_a_string_a_list_or_nothing(self, given: Any, kept: Any):
        assert ChatRequest.model_validate({"messages": HI, "stop": given}).stop == kept

    def test_values_at_their_bounds_and_harmless_defaults_are_accepted(self):
        harmless = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False, "tools": []}
        bounds = {"temperature": 2, "top_p": 1, "max_tokens": 1, "n": 8, "seed": -(2**63)}
        request = ChatRequest.model_validate({"messages": HI, **harmless, **bounds})
        assert {name: getattr(request, name) for name in bounds} == bounds

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3)],
    )
    def test_logprobs_say_how_many_others_are_named(self, given: dict[str, Any], wanted: int | None):
        assert ChatRequest.model_validate({"messages": HI, **given}).likeliest() == wanted

    def test_top_logprobs_without_logprobs_is_refused(self):
        with pytest.raises(RequestInvalid, match="top_logprobs needs logprobs") as caught:
            ChatRequest.model_validate({"messages": HI, "top_logprobs": 3}).likeliest()
        assert caught.value.param == "top_logprobs"

    def test_text_parts_are_joined(self):
        parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
        request = ChatRequest.model_validate({"messages": [{"role": "user", "content": parts}]})
        assert request.conversation() == (Message("user", "What is it?"),)

    def test_a_user_message_of_white_space_is_refused_by_its_place(self):
        request = ChatRequest.model_validate({"messages": [*HI, {"role": "user", "content": " \n"}]})
        with pytest.raises(RequestInvalid, match=r"messages\[1\]\.content has no text") as caught:
            request.conversation()
        assert caught.value.param == "messages[1].content"


class TestCompletionRequest:
    @pytest.mark.parametrize("prompt", [[], ["a", 1], [1, "a"], [[1], "a", None], [[[1]]], {"a": 1}, 3])
    def test_what_is_no_prompt_is_refused(self, prompt: Any):
        assert refusal({"prompt": prompt}, CompletionRequest)["param"] == "prompt"

    @pytest.mark.parametrize(
        ("given", "prompts"),
        [
            ("Hi", ("Hi",)), (["Hi"], ("Hi",)), (["a", "b"], ("a", "b")),
            ([1, 2], ((1, 2),)), ([[1, 2], [3]], ((1, 2), (3,))), (["a", [1]], ("a", (1,))),
        ],
    )  # fmt: skip
    def test_a_prompt_is_a_text_or_ids_or_a_list_of_these(self, given: Any, prompts: Any):
        assert CompletionRequest.model_validate({"prompt": given}).raw_prompts() == prompts

    def test_best_of_is_refused_by_name_where_it_would_write_more_than_it_sends(self):
        for body in ({"best_of": 1}, {"best_of": None}, {"best_of": 3, "n": 3}):
            CompletionRequest.model_validate({"prompt": "Hi", **body})
        for body in ({"best_of": 2}, {"best_of": 3, "n": 2}):
            error = refusal({"prompt": "Hi", **body}, CompletionRequest)
            assert (error["param"], error["code"]) == ("best_of", "unsupported_parameter")

    def test_an_empty_prompt_is_refused(self):
        with pytest.raises(RequestInvalid, match="The prompt is empty"):
            CompletionRequest.model_validate({"prompt": ""}).raw_prompts()


class TestErrorBody:
    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (RequestInvalid("What.", "Why.", "Next."), 400, "invalid_value"),
            (PromptTooLong(5000, 4096), 400, "context_length_exceeded"),
            (ModelNotFound("What.", "Why.", "Next."), 404, "model_not_found"),
            (Busy(waiting=32, retry_after_s=2), 429, "queue_full"),
            (WorkerFailed("What.", "Why.", "Next."), 503, "not_ready"),
            (StorageFailed("What.", "Why.", "Next."), 503, "turns_not_kept"),
        ],
    )
    def test_a_deliberate_error_keeps_its_words_under_its_status(self, error: Exception, status: int, code: str):
        got, body = error_body(error)
        assert (got, body["error"]["code"], body["error"]["message"]) == (status, code, str(error))

    def test_a_bug_is_a_500_that_tells_no_details(self):
        status, body = error_body(KeyError("/secret/path"))
        assert (status, body["error"]["type"]) == (500, "server_error")
        assert "secret" not in body["error"]["message"]


class TestAnswers:
    def test_usage_adds_prompt_and_completion_up(self):
        details = {"prompt_tokens_details": {"cached_tokens": 3}}
        assert usage(11, 73, 3) == {"prompt_tokens": 11, "completion_tokens": 73, "total_tokens": 84, **details}

    def test_choices_are_numbered_messages_in_chat_and_texts_elsewhere(self):
        choices = [ChoicePart(0, "a", "stop"), ChoicePart(1, "b", "length")]
        chat, raw = (response("id", "m", choices, usage(1, 2, 0), chat=each) for each in (True, False))
        assert (chat["object"], raw["object"]) == ("chat.completion", "text_completion")
        assert [(each["index"], each["message"]["content"]) for each in chat["choices"]] == [(0, "a"), (1, "b")]
        assert [(each["text"], each["finish_reason"]) for each in raw["choices"]] == [("a", "stop"), ("b", "length")]

    def test_the_first_chunk_has_the_role_and_the_usage_chunk_no_choices(self):
        (first,) = chunk("id", 1, "m", True, ChoicePart(0), role=True)["choices"]
        assert (first["delta"], first["finish_reason"]) == ({"role": "assistant", "content": ""}, None)
        assert chunk("id", 1, "m", True)["choices"] == []

    def test_log_probabilities_have_the_form_of_their_route(self):
        other = TokenLogprob(" Rome", (32, 82), -2.5)
        choice = ChoicePart(0, " Madrid", None, (TokenLogprob(" Madrid", (32, 77), -0.5, (other,)),))
        (chat,) = chunk("id", 1, "m", True, choice)["choices"]
        (raw,) = chunk("id", 1, "m", False, choice)["choices"]
        likeliest = [{"token": " Rome", "logprob": -2.5, "bytes": [32, 82]}]
        token = {"token": " Madrid", "logprob": -0.5, "bytes": [32, 77], "top_logprobs": likeliest}
        assert chat["logprobs"] == {"content": [token]}
        assert raw["logprobs"] == {
            "tokens": [" Madrid"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{" Rome": -2.5}],
            "text_offset": [0],
        }
