"""Bounds of requests: what one request may contain, and that its cost grows with its length and no faster."""

import time
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.formats.openai_schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from phi3kit.worker.detokenizer import Detokenizer
from phi3kit.worker.stop_strings import StopStrings

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
MESSAGE = {"role": "user", "content": "Hi"}
LONG = "x" * 10_000


@pytest.mark.parametrize(
    ("kind", "values", "param"),
    [
        (ChatRequest, {"stop": [LONG]}, "stop"),
        (ChatRequest, {"stop": LONG}, "stop"),
        (ChatRequest, {"stop": ["x"] * 17}, "stop"),
        (ChatRequest, {"user": LONG}, "user"),
        (ChatRequest, {"model": LONG}, "model"),
        (ChatRequest, {"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        (ChatRequest, {"metadata": {str(key): "" for key in range(17)}}, "metadata"),
        (ChatRequest, {"metadata": {"key": LONG}}, "metadata"),
        (ChatRequest, {"messages": [MESSAGE] * 10_001}, "messages"),
        (ChatRequest, {"messages": [MESSAGE | {"name": LONG}]}, "messages"),
        (CompletionRequest, {"prompt": "Hi", "stop": [LONG]}, "stop"),
        (TokenizeRequest, {"messages": [MESSAGE] * 10_001}, "messages"),
        (TokenizeRequest, {"model": LONG}, "model"),
        (DetokenizeRequest, {"tokens": [1] * 131_073}, "tokens"),
        (DetokenizeRequest, {"tokens": [2**40]}, "tokens"),
    ],
)
def test_a_field_beyond_its_bound_is_refused_by_name(kind: Any, values: dict[str, Any], param: str) -> None:
    needed = {"messages": [MESSAGE]} if kind is ChatRequest else {}
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(needed | values)
    assert caught.value.errors()[0]["loc"][0] == param


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TokenizeRequest, {str(number): 0 for number in range(80_000)}),
        (ChatRequest, {"messages": [MESSAGE | {str(number): 0 for number in range(80_000)}]}),
        (ChatRequest, {"messages": [{"role": "x", "content": 5}] * 10_000}),
        (ChatRequest, {"messages": [MESSAGE], "logit_bias": {f"x{number}": "" for number in range(80_000)}}),
        (DetokenizeRequest, {"tokens": ["x"] * 130_000}),
    ],
)
def test_thousands_of_mistakes_are_one_error(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(values)
    assert caught.value.error_count() <= 2  # an error each took a quarter of a second, on the event loop


class TestStopStrings:
    def test_sixteen_long_ones_that_almost_match_cost_an_answer_milliseconds(self) -> None:
        # The attack: 16 strings of 230 kB, each of them begun by every answer. Their length is bounded now, and this
        # search would stay fast without the bound.
        stops = ["a" * (20_000 + more) + "b" for more in range(16)]
        ids = TOKENIZER.encode("a" * 1500, add_special_tokens=False).ids
        answer, began = Detokenizer(TOKENIZER, stops), time.perf_counter()
        given = "".join(answer.push(token_id) for token_id in ids) + answer.finish()
        assert time.perf_counter() - began < 2  # 0.05 s; it was 5 s
        assert (given, answer.stopped) == ("a" * 1500, False)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    @pytest.mark.parametrize("stops", [["aab"], ["b"], ["aa", "ba"], ["abab", "bab"], ["abaab", "c"], ["aaaa", "zz"]])
    def test_the_same_is_found_and_held_back_as_by_looking_at_the_whole_text_each_time(
        self, stops: list[str], size: int
    ) -> None:
        text = "aabaaabababaabcaaaab" * 3
        search = StopStrings(stops)
        for end in range(size, len(text) + size, size):
            so_far = text[:end]
            found = search.push(text[end - size : end])
            assert found == min((at for stop in stops if (at := so_far.find(stop)) >= 0), default=None)
            if found is not None:
                break
            begun = [n for stop in stops for n in range(len(stop)) if so_far.endswith(stop[:n])]
            assert search.begun == max(begun)
