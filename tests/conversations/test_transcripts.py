"""Transcripts: what leaves the page, what comes back, and that text stays text on the way."""

import html
import json
import re
from dataclasses import replace
from datetime import timedelta, timezone
from html.parser import HTMLParser

import pytest

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.transcripts import (
    MAX_IMPORT_BYTES,
    MAX_IMPORT_MESSAGES,
    file_name,
    from_openai,
    to_html,
    to_markdown,
    to_openai,
)
from phi3kit.core.errors import RequestInvalid, WorkerFailed
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Answer
from phi3kit.formats.openai_schema import ChatRequest
from tests.conversations.test_conversation import chain, said

SCRIPT = "<script>alert(1)</script> ![x](http://127.0.0.1/x.png) <|end|>\n## Assistant\r> ```\n\n$x$ &amp;"
TURNS = [
    said(SCRIPT, SCRIPT, at=1_767_225_600.0),
    said("スペインの首都は？", "マドリード", "length", at=1_767_225_660.0, wrapper="transformers"),
]


class Tags(HTMLParser):
    """Every tag, and all text, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


class TestMarkdown:
    def test_messages_are_quoted_with_who_said_them_and_what_it_cost(self):
        answer = Answer("The capital of Spain is Madrid.", "stop", 0, 10, 0, 1018)
        turns = [replace(said("Capital of Spain?", ""), answer=answer, at=1_767_225_600.0)]
        assert to_markdown("A *title*", turns, "Be brief.", timezone(timedelta(hours=9), "JST")) == (
            "# A \\*title\\*\n\n"
            "**System**\n\n> ```text\n> Be brief.\n> ```\n\n"
            "**User** · 2026-01-01 09:00 JST\n\n> ```text\n> Capital of Spain?\n> ```\n\n"
            "**Assistant** · onnx · 10 + 1,018 = 1,028 tokens · stop\n\n> The capital of Spain is Madrid.\n"
        )

    def test_no_line_of_a_message_leaves_its_quote(self):
        text = to_markdown("x", TURNS, SCRIPT)
        outside = [line for line in re.split(r"\r\n|\r|\n", text) if line and not line.startswith(">")]
        assert [line.split(" ")[0] for line in outside] == ["#", "**System**", *["**User**", "**Assistant**"] * 2]

    def test_the_models_html_and_images_are_text(self):
        answer = to_markdown("x", TURNS, "").split("**Assistant**")[1]
        assert "&lt;script>" in answer
        assert "![" not in answer

    @pytest.mark.parametrize("closing", ["```\xa0", "\t```", " \t```", "```\x0b"])
    def test_what_closes_no_fence_of_an_answer_closes_none_in_its_quote(self, closing: str):
        text = to_markdown("x", [said("", f"```\n{closing}\n![x](/y)\n```")], "")
        assert text.endswith(f"> ```\n> {closing.expandtabs(4)}\n> ![x](/y)\n> ```\n")

    def test_an_error_is_told(self):
        broke = WorkerFailed("It broke.", "Why.", "Again.")
        assert to_markdown("x", [said("One", "", "error", error=broke)], "").endswith("*It broke. Why. Again.*\n")


class TestHtml:
    def test_every_text_is_escaped_and_nothing_is_loaded_or_run(self):
        page = to_html(SCRIPT, TURNS, SCRIPT)
        found = Tags(page)
        assert found.tags <= {
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "h1",
            "article",
            "b",
            "pre",
            "p",
            "footer",
        }
        assert not found.attributes & {"src", "href", "onload", "onclick", "style"}
        assert found.text.count(SCRIPT.replace("\r", "\n")) + found.text.count(SCRIPT) >= 3
        assert "default-src 'none'" in page

    def test_it_says_who_when_and_how_much(self):
        text = Tags(to_html("x", TURNS, "")).text
        assert "User · 2026-01-01 00:00 UTC" in text
        assert "transformers · 0 + 0 = 0 tokens · length" in text

    def test_white_space_at_the_beginning_is_kept(self):
        assert "<pre>\n\n x</pre>" in to_html("x", [said("\n x", "y")], "")


class TestOpenai:
    def test_what_was_written_is_read_back(self):
        chat = chain(*TURNS, said("Last", ""))
        chat.turns[-1] = ChatTurn(
            "Last", Answer(""), chat.turns[-1].request, "", None, "Last", parent=chat.turns[1].turn_id
        )
        text = to_openai(chat.shown, "Be brief.\n")
        again, system = from_openai(text.encode())
        assert system == "Be brief.\n"
        assert [(each.text, each.answer_text) for each in again.shown] == [
            (each.text, each.answer_text) for each in chat.shown
        ]
        assert to_openai(again.shown, system) == text
        assert all(each.imported for each in again.turns)
        assert ChatRequest.model_validate(json.loads(text)).conversation()[0] == Message("system", "Be brief.\n")

    def test_any_order_of_messages_is_kept(self):
        roles = ["assistant", "user", "user", "assistant", "assistant", "user"]
        messages = [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]
        chat, _ = from_openai(json.dumps(messages).encode())
        assert json.loads(to_openai(chat.shown, ""))["messages"] == messages

    def test_a_requests_body_and_parts_and_openais_empty_fields_are_understood(self):
        body = {
            "model": "gpt",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
                {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": None, "annotations": []},
            ],
        }
        chat, _ = from_openai(b"\xef\xbb\xbf" + json.dumps(body).encode())
        assert [(each.text, each.answer_text) for each in chat.shown] == [("Hi there", "Hello.")]

    def test_the_request_of_an_imported_turn_is_what_would_have_been_asked(self):
        chat, _ = from_openai(to_openai(chain(said("One", "1"), said("Two", "2")).shown, "S").encode())
        assert [each.content for each in chat.turns[1].request.prompt] == ["S", "One", "1", "Two"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "not JSON"),
            (b"\xff\xfe", "not JSON in UTF-8"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "no list of messages"),
            (b'{"messages": {}}', "no list of messages"),
            (b'"text"', "no list of messages"),
            (b"null", "no list of messages"),
            (b"[1]", "messages[0]: "),
            (b'[{"role": "user"}]', "messages[0]: Missing required parameter: content"),
            (b'[{"role": "robot", "content": "x"}]', "it must be one of system, user, assistant"),
            (b'[{"role": "user", "content": 5}]', "messages[0]: Invalid value for content"),
            (b'[{"role": "user", "content": "\\ud800"}]', "lone surrogate"),
            (b'[{"role": "user", "content": " "}]', "messages[0] has no text"),
            (b'[{"role": "user", "content": "x", "colour": "red"}]', "colour"),
            (b'[{"role": "user", "content": [{"type": "image_url"}]}]', "only text parts"),
            (b'[{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]', "tool_calls"),
            (b'[{"role": "system", "content": "x"}]', "no user or assistant message"),
            (b'[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]', "messages[1] is a system message"),
            (json.dumps([{"role": "user", "content": "x"}] * (MAX_IMPORT_MESSAGES + 1)).encode(), "2,001 messages"),
            (b" " * (MAX_IMPORT_BYTES + 1), "5,000,001 bytes"),
        ],
    )  # fmt: skip
    def test_a_broken_file_is_refused_with_its_reason(self, content: bytes, why: str):
        with pytest.raises(RequestInvalid) as caught:
            from_openai(content)
        assert why in caught.value.why
        assert caught.value.what == "This file cannot be opened as a conversation."


class TestFileName:
    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("What is MLflow?", "What-is-MLflow.md"),
            ("../../etc/passwd", "etc-passwd.md"),
            ("スペインの首都は？", "スペインの首都は.md"),
            ("???", "chat.md"),
            ("x" * 200, "x" * 50 + ".md"),
        ],
    )
    def test_it_is_safe_and_says_what_is_inside(self, title: str, name: str):
        assert file_name(title, "md") == name


def test_an_empty_conversation_is_still_a_page():
    assert html.escape("New chat") in to_html(Conversation().name, [], "")
