"""Errors: three parts each, and the numbers that they name."""

import inspect

import pytest

from phi3kit.core import errors
from phi3kit.core.errors import Busy, Phi3KitError, PromptTooLong, RequestInvalid

EVERY_ERROR = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]


class TestPhi3KitError:
    def test_says_what_why_and_the_next_step_in_one_line(self):
        error = Phi3KitError("It broke.", "No space.", "Free some.")
        assert (error.what, error.why, error.next_step) == ("It broke.", "No space.", "Free some.")
        assert str(error) == "It broke. No space. Free some."

    @pytest.mark.parametrize("kind", EVERY_ERROR, ids=lambda kind: kind.__name__)
    def test_every_error_is_one_and_stands_in_the_drawn_family(self, kind: type[Exception]):
        assert issubclass(kind, Phi3KitError)
        assert kind.__name__ in (errors.__doc__ or "")


class TestRequestInvalid:
    def test_names_the_field_and_openais_code(self):
        error = RequestInvalid("What.", "Why.", "Next.", param="stop", code="too_many")
        assert (error.param, error.code) == ("stop", "too_many")

    def test_is_an_invalid_value_of_no_field_when_nothing_is_said(self):
        error = RequestInvalid("What.", "Why.", "Next.")
        assert (error.param, error.code) == (None, "invalid_value")


class TestPromptTooLong:
    def test_says_both_numbers(self):
        error = PromptTooLong(prompt_tokens=5000, context_tokens=4096)
        assert isinstance(error, RequestInvalid)
        assert error.why == (
            "This model's maximum context length is 4096 tokens, answer included, and the prompt has 5,000 tokens."
        )
        assert error.code == "context_length_exceeded"


class TestBusy:
    def test_says_how_many_wait_and_when_to_try_again(self):
        error = Busy(waiting=32, retry_after_s=2)
        assert str(error) == "The model is busy. 32 requests are waiting already. Try again in 2 s."
        assert error.retry_after_s == 2
