"""Chat settings: the values that a link or a preset may have, and what is said of others."""

from urllib.parse import parse_qs, urlsplit

import pytest

from phi3kit.conversations.chat_settings import ChatSettings, link, read
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Request

ALL = ChatSettings("Be brief.", 0.7, 0.9, 64, 5, ("END", "<|end|>"))
NONSENSE = (
    ("temperature", "hot", "a number from 0 to 2"),
    ("temperature", "nan", "a number from 0 to 2"),
    ("temperature", "1e999", "a number from 0 to 2"),
    ("temperature", -0.1, "a number from 0 to 2"),
    ("temperature", True, "a number from 0 to 2"),
    ("temperature", None, "a number from 0 to 2"),
    ("top_p", "0", "a number from 0.05 to 1"),
    ("max_tokens", "0", "a whole number from 1"),
    ("max_tokens", "12.5", "a whole number from 1"),
    ("max_tokens", "٣", "a whole number from 1"),
    ("max_tokens", "9" * 5000, "a whole number from 1"),
    ("max_tokens", [], "a whole number from 1"),
    ("seed", "-1", "a whole number from 0"),
    ("stop", [""], "a list of at most 16 non-empty texts"),
    ("stop", ["a"] * 17, "a list of at most 16 non-empty texts"),
    ("stop", ["two\nlines"], "a list of at most 16 non-empty texts"),
    ("stop", {"a": 1}, "a list of at most 16 non-empty texts"),
    ("system_prompt", 7, "a text"),
    ("system_prompt", "\ud800", "lone surrogates"),
)


class TestRead:
    def test_json_and_back_is_the_same(self):
        assert read(ALL.to_json()) == (ALL, [])

    def test_a_link_writes_numbers_as_text(self):
        values = {"temperature": "0.7", "top_p": "0.9", "max_tokens": "64", "seed": "5", "stop": ["END", "<|end|>"]}
        assert read({**values, "system_prompt": "Be brief."}) == (ALL, [])

    @pytest.mark.parametrize(("name", "value", "needed"), NONSENSE)
    def test_nonsense_is_told_and_left_out(self, name: str, value: object, needed: str):
        settings, (problem,) = read({name: value, "seed" if name != "seed" else "max_tokens": 9}, ALL)
        assert problem.startswith(f"{name} is ")
        assert needed in problem
        assert len(problem) < 250
        assert getattr(settings, name) == getattr(ALL, name)
        assert (settings.seed if name != "seed" else settings.max_tokens) == 9

    def test_what_is_not_named_stays_and_other_names_are_nobodys(self):
        assert read({"temperature": 1, "embed": "true"}, ALL)[0] == ChatSettings("Be brief.", 1.0, 0.9, 64, 5, ALL.stop)


class TestOf:
    def test_the_settings_of_a_request_are_those_it_was_made_with(self):
        prompt = (Message("system", "Be brief."), Message("user", "Hi"))
        assert ChatSettings.of(ALL.request(prompt)) == ALL

    def test_a_raw_prompt_has_no_system_prompt(self):
        assert ChatSettings.of(Request("<|user|>\nHi")) == ChatSettings()


class TestLink:
    def test_a_link_opens_with_the_same_settings(self):
        url = link("http://host:8501/chat", ALL, wrapper="onnx", model="models:/m-1", preset=None)
        values = parse_qs(urlsplit(url).query)
        assert (values["wrapper"], values["model"]) == (["onnx"], ["models:/m-1"])
        assert "preset" not in values
        assert read({name: value if name == "stop" else value[0] for name, value in values.items()})[0] == ALL

    def test_what_is_as_always_is_left_out(self):
        assert link("http://host/chat", ChatSettings()) == "http://host/chat"

    def test_a_link_that_servers_would_refuse_is_not_made(self):
        with pytest.raises(ValueError, match="Save the settings as a preset"):
            link("http://host/chat", ChatSettings("long " * 2000))
