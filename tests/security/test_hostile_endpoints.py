"""Hostile endpoints: whatever one answers, it takes bounded memory and time, and what it did has a name."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.core.errors import Busy, EndpointFailed
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints import transport
from phi3kit.endpoints.client import ask, stream
from phi3kit.endpoints.connections import Connection, endpoint_of
from phi3kit.endpoints.probe import probe
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.usage.budgets import today
from phi3kit.usage.outbox import Outbox
from tests.conftest import settings_for
from tests.support.actors import ADMIN, admin
from tests.support.scripted_server import Scripted, event_stream, http_answer, scripted

MB = 2**20
QUESTION = Request((Message("user", "What is the capital of Spain?"),))
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
PROTOCOLS = pytest.mark.parametrize("protocol", ["openai", "invocations"])


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


def connection(server: Scripted, protocol: str = "openai") -> Connection:
    return Connection("lab", server.url, protocol, model="phi3")  # type: ignore[arg-type]


def to(server: Scripted, protocol: str = "openai", silence_s: float = 10) -> Endpoint:
    return replace(endpoint_of(connection(server, protocol), {}, None), silence_s=silence_s)


def failure(server: Scripted, here: Settings, protocol: str = "openai", silence_s: float = 10) -> EndpointFailed:
    with pytest.raises(EndpointFailed) as caught:
        ask(to(server, protocol, silence_s), QUESTION, TurnContext(admin("ada"), "ui"), here)
    return caught.value


def compressed(how: str, body: bytes) -> bytes:
    packed = gzip.compress(body) if how == "gzip" else zlib.compress(body)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {how}\r\n"
    return f"{head}Content-Length: {len(packed)}\r\n\r\n".encode() + packed


class TestTooMuch:
    @pytest.mark.parametrize(
        "line", [b"x" * MB, b"data: " + b"y" * MB, b"data: z\n" * 1000], ids=["x", "data", "lines"]
    )
    def test_an_endless_event_is_read_for_a_megabyte(self, here: Settings, line: bytes) -> None:
        with scripted(EVENTS, again=line) as server:
            error = failure(server, here)
        assert (error.kind, error.why) == ("protocol", "One event of its stream is longer than 1 MB.")
        assert server.sent < 30 * MB  # what the sockets hold, and not what a person's memory does

    def test_an_endless_stream_ends(self, here: Settings) -> None:
        with scripted(EVENTS, again=b": nothing yet" * 60_000 + b"\n\n") as server:
            error = failure(server, here)
        assert (error.kind, error.why) == ("protocol", "Its answer is longer than 64 MB.")

    def test_text_without_end_ends_at_a_megabyte_of_it(self, here: Settings) -> None:
        # The text was copied with every event: 20,000 of them took 9 s behind 2 MB.
        event = json.dumps({"choices": [{"index": 0, "delta": {"content": "é" * 10_000}}]}, ensure_ascii=False)
        with scripted(EVENTS, again=f"data: {event}\n\n".encode()) as server:
            error = failure(server, here)
        assert (error.kind, error.why) == ("protocol", "The text of its answer is longer than 1,048,576 characters.")

    def test_an_endless_answer_ends(self, here: Settings) -> None:
        with scripted(JSON, again=b"a" * MB) as server:
            error = failure(server, here, "invocations")
        assert (error.kind, error.why) == ("protocol", "Its answer is longer than 8 MB.")
        assert server.sent < 40 * MB

    @PROTOCOLS
    def test_of_an_endless_failure_the_beginning_is_read(self, here: Settings, protocol: str) -> None:
        with scripted(JSON.replace(b"200 OK", b"500 Oh"), again=b"[]," * MB) as server:
            error = failure(server, here, protocol)
        assert (error.kind, error.why[:6], len(error.why)) == ("server", "[],[],", 300)
        assert server.sent < 20 * MB

    def test_a_whole_answer_has_so_many_lists_and_objects(self, here: Settings) -> None:
        with scripted(JSON, again=b"[]," * 1000) as server:
            error = failure(server, here, "invocations")
        assert (error.kind, error.why) == ("protocol", "Its answer has more than 100,000 lists and objects.")

    def test_of_many_choices_in_an_event_none_is_read(self, here: Settings) -> None:
        event = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}}] * 9})
        with scripted(EVENTS, again=f"data: {event}\n\n".encode()) as server:
            assert failure(server, here).kind == "protocol"

    def test_many_pieces_of_a_long_text_are_joined_now_and_then(self, here: Settings) -> None:
        piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "\U0001f642"}}]}, ensure_ascii=False)
        end = json.dumps({"choices": [{"index": 0, "delta": {"content": "."}, "finish_reason": "stop"}]})
        events = f"data: {piece.replace(chr(0x1F642), chr(0x1F642) * 40_000)}\n\n" + f"data: {piece}\n\n" * 5_000
        with scripted(EVENTS + f"{events}data: {end}\n\ndata: [DONE]\n\n".encode()) as server:
            steps = list(stream(to(server), QUESTION, TurnContext(admin("ada"), "ui"), here))
        assert (steps[-1].text, steps[-1].finish_reason) == ("\U0001f642" * 45_000 + ".", "stop")
        assert len(steps) < 2_500  # each copied all the text

    @pytest.mark.parametrize(
        ("answer", "again"),
        [
            (b"", b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"),
            (EVENTS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"1;x=" + b"a" * 20_000 + b"\r\n\n\r\n"),
        ],
        ids=["1xx", "chunks"],
    )
    def test_what_stands_around_an_answer_ends_too(self, here: Settings, answer: bytes, again: bytes) -> None:
        with scripted(answer, again=again) as server:
            error = failure(server, here)
        why = "Its whole response is longer than 128 MB."
        assert (error.kind, error.why) == ("protocol", why)
        assert server.sent < 160 * MB

    def test_an_endless_list_of_models_ends(self, here: Settings) -> None:
        with scripted(JSON, again=b'"",' * MB) as server, pytest.raises(EndpointFailed, match="longer than 8 MB"):
            probe(connection(server), {}, ADMIN, here)

    @PROTOCOLS
    @pytest.mark.parametrize("how", ["gzip", "deflate", "zstd, gzip"])
    def test_nothing_is_unpacked(self, here: Settings, how: str, protocol: str) -> None:
        with scripted(compressed(how, b" " * 100 * MB)) as server:
            error = failure(server, here, protocol)
            assert "accept-encoding: identity" in server.requests[0].lower()
        assert error.kind == "protocol"
        assert error.why == "Its answer is compressed, which was not asked for."

    @PROTOCOLS
    def test_a_charset_that_unpacks_is_not_followed(self, here: Settings, protocol: str) -> None:
        packed = zlib.compress(b"z" * 64 * MB)
        head = f"HTTP/1.1 500 Oh\r\nContent-Type: text/plain; charset=zip\r\nContent-Length: {len(packed)}\r\n\r\n"
        with scripted(head.encode() + packed) as server:
            error = failure(server, here, protocol)
        assert error.kind == "server"
        assert "zzz" not in error.why

    @PROTOCOLS
    def test_json_nested_deeper_than_python_goes_is_not_the_protocol(self, here: Settings, protocol: str) -> None:
        deep = "[" * 100_000
        answer = event_stream(deep) if protocol == "openai" else http_answer(200, deep)
        with scripted(answer) as server:
            assert failure(server, here, protocol).kind == "protocol"

    @PROTOCOLS
    def test_an_error_nested_deeper_than_python_goes_is_shown_in_part(self, here: Settings, protocol: str) -> None:
        with scripted(http_answer(500, "[" * 100_000)) as server:
            error = failure(server, here, protocol)
        assert error.kind == "server"
        assert len(error.why) <= 300


class TestTooLong:
    """Each silence is shorter than the limit, and all together are bounded as well."""

    @pytest.mark.parametrize(
        ("protocol", "begin"),
        [("openai", b"HTTP/1.1 200 OK\r\nX-Slow: "), ("openai", EVENTS), ("invocations", JSON)],
        ids=["head", "events", "body"],
    )
    def test_a_slow_drip_ends(
        self, here: Settings, begin: bytes, protocol: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "_SILENCES", 0.1)
        with scripted(begin, again=b" ", pause_s=0.02) as server:
            error = failure(server, here, protocol, silence_s=10)
        assert (error.kind, error.why) == ("timeout", "Its answer was not complete after 1 s.")


class TestWrongLengths:
    @pytest.mark.parametrize(
        "lengths",
        ["Content-Length: 9999\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: -5\r\n",
         f"Content-Length: {'9' * 5000}\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 1\r\n"],
    )  # fmt: skip
    @PROTOCOLS
    def test_each_is_a_failed_answer(self, here: Settings, lengths: str, protocol: str) -> None:
        body = event_stream('{"choices": []}').partition(b"\r\n\r\n")[2] if protocol == "openai" else b'["Madrid."]'
        kind = "text/event-stream" if protocol == "openai" else "application/json"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{lengths}Connection: close\r\n\r\n"
        with scripted(head.encode() + body) as server:
            assert failure(server, here, protocol).kind in ("server", "protocol")

    @pytest.mark.parametrize("after", ["9" * 5000, "-1", "soon", "²"])
    def test_a_wait_that_is_no_number_is_two_seconds(self, here: Settings, after: str) -> None:
        answer = http_answer(429, "{}", headers=f"Retry-After: {after}\r\n")
        with scripted(answer) as server, pytest.raises(Busy) as caught:
            ask(to(server), QUESTION, TurnContext(admin("ada"), "ui"), here)
        assert caught.value.retry_after_s == 2


def with_usage(protocol: str, text: str, **usage: object) -> bytes:
    """A whole answer that says what it took."""
    if protocol == "invocations":
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return http_answer(200, json.dumps([{"choices": [choice], "usage": usage}]))
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
    return event_stream(json.dumps({"choices": [choice]}), json.dumps({"choices": [], "usage": usage}))


class TestUsage:
    """What an answer says that it took is summed for everybody, so it is bounded by what was sent, asked for and received."""

    def counts(self, here: Settings, protocol: str, text: str = "Hi", **usage: object) -> tuple[int, int, bool]:
        with scripted(with_usage(protocol, text, **usage)) as server:
            asked = replace(QUESTION, max_tokens=64)
            answer = ask(to(server, protocol), asked, TurnContext(admin("ada"), "ui"), here)
        return answer.prompt_tokens, answer.completion_tokens, answer.tokens_counted

    @PROTOCOLS
    @pytest.mark.parametrize(("prompt", "completion"), [(2**53 - 1, 1), (1, 2**53 - 1), (5_000, 1), (1, 9_000)])
    def test_beyond_it_is_unknown(self, here: Settings, protocol: str, prompt: int, completion: int) -> None:
        said = {"prompt_tokens": prompt, "completion_tokens": completion}
        assert self.counts(here, protocol, **said) == (0, 0, False)
        assert Outbox(here.home).spent_tokens(today()) == 0

    @PROTOCOLS
    def test_a_templates_tokens_and_hidden_ones_are_believed(self, here: Settings, protocol: str) -> None:
        assert self.counts(here, protocol, prompt_tokens=4_000, completion_tokens=8_000) == (4_000, 8_000, True)
        assert Outbox(here.home).spent_tokens(today()) == 12_000

    @PROTOCOLS
    def test_a_text_longer_than_was_asked_for_is_believed_by_its_bytes(self, here: Settings, protocol: str) -> None:
        said = {"prompt_tokens": 1, "completion_tokens": 28_000}
        assert self.counts(here, protocol, "é" * 10_000, **said) == (1, 28_000, True)

    def test_cached_tokens_that_come_beside_the_prompts_are_bounded_too(self, here: Settings) -> None:
        said = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2**50}}
        assert self.counts(here, "openai", **said) == (0, 0, False)

    def test_a_max_tokens_of_any_size_lets_no_answer_claim_it(self, here: Settings) -> None:
        with scripted(with_usage("openai", "Hi", prompt_tokens=1, completion_tokens=2**40)) as server:
            asked = replace(QUESTION, max_tokens=2**50)
            assert not ask(to(server), asked, TurnContext(admin("ada"), "ui"), here).tokens_counted

    def test_a_later_claim_takes_an_earlier_ones_place(self, here: Settings) -> None:
        usage = ({"prompt_tokens": 5, "completion_tokens": count} for count in (1, 2**50))
        events = [json.dumps({"choices": [], "usage": each}) for each in usage]
        end = '{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}'
        with scripted(event_stream(*events, end)) as server:
            answer = ask(to(server), QUESTION, TurnContext(admin("ada"), "ui"), here)
        assert (answer.total_tokens, answer.tokens_counted) == (0, False)


class TestHalfCharacters:
    """JSON can hold half of a character; a database and a browser cannot."""

    @pytest.mark.parametrize(
        ("sent", "read"), [("a\\ud83db", "a\ufffdb"), ("\\ud83d\\ude00", "😀"), ("\\ude00", "\ufffd")]
    )
    def test_none_is_in_an_answer(self, here: Settings, sent: str, read: str) -> None:
        event = f'{{"choices":[{{"index":0,"delta":{{"content":"{sent}"}},"finish_reason":"stop"}}]}}'
        with scripted(event_stream(event)) as server:
            assert ask(to(server), QUESTION, TurnContext(admin("ada"), "ui"), here).text == read
        with scripted(http_answer(200, f'["{sent}"]')) as server:
            raw = replace(to(server, "invocations"), takes="raw")
            assert ask(raw, QUESTION, TurnContext(admin("ada"), "ui"), here).text == read

    def test_two_halves_in_two_pieces_are_one(self, here: Settings) -> None:
        events = ['"\\ud83d"', '"\\ude00 and "', "null", '"\\ud83d"']
        pieces = [f'{{"choices":[{{"index":0,"delta":{{"content":{each}}}}}]}}' for each in events]
        end = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
        with scripted(event_stream(*pieces, end)) as server:
            answer = ask(to(server), QUESTION, TurnContext(admin("ada"), "ui"), here)
        assert answer.text == "😀 and \ufffd"

    def test_none_is_in_an_error(self, here: Settings) -> None:
        with scripted(http_answer(500, '{"error":{"message":"oh \\ud83d"}}')) as server:
            assert failure(server, here).why == "oh \ufffd."


class TestRedirects:
    @pytest.fixture
    def other(self) -> Iterator[Scripted]:
        with scripted(http_answer(200, "{}")) as server:
            yield server

    @PROTOCOLS
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_none_is_followed(self, here: Settings, other: Scripted, status: int, protocol: str) -> None:
        answer = http_answer(status, "", headers=f"Location: {other.url}/v1/chat/completions\r\n")
        with scripted(answer) as server:
            assert failure(server, here, protocol).kind == "redirect"
        assert other.requests == []

    @pytest.mark.parametrize("location", ["http://[::1", "http://\x7f", "//", "http://a" + "b" * 70_000])
    def test_to_nowhere_is_one_too(self, here: Settings, location: str) -> None:
        with scripted(http_answer(302, "", headers=f"Location: {location}\r\n")) as server:
            assert failure(server, here).kind in ("redirect", "server")


def test_names_of_models_are_short(here: Settings) -> None:
    answer = http_answer(200, json.dumps({"data": [{"id": "x" * 100_000}, {"id": "phi3"}]}))
    with scripted(answer) as server:
        assert probe(connection(server), {}, ADMIN, here).models == ("phi3",)
