"""Connections of a worker: half a request does not stay, many of them lock nobody out, and who breaks off leaves no traceback."""

import asyncio
import itertools
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from phi3kit.access.same_origin import ServedNames
from phi3kit.core.machine import Threads
from phi3kit.core.settings import read_settings
from phi3kit.worker import connections
from phi3kit.worker.app import WorkerConfig, create_app
from phi3kit.worker.connections import server_for
from phi3kit.worker.engine import Engine
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.request_checks import Keys, LastRequest
from tests.support.waiting import wait_for
from tests.worker.test_engine import ScriptedRuntime, ids

HALVES = {
    "nothing": b"",
    "half the headers": b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-",
    "half the body": b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100\r\n\r\n{"prompt": ',
}


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """Serve in a thread; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = server_for(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for("a server", lambda: server.started)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="module")
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime({"Hi": [*ids("word " * 3000)]})


@pytest.fixture(scope="module")
def port(runtime: ScriptedRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A worker whose model writes a long answer to Hi."""
    home = tmp_path_factory.mktemp("home")
    engine = Engine(lambda: (runtime, KvCache(runtime, 10**9)), 8)
    settings, names = read_settings({"PHI3KIT_HOME": str(home)}), ServedNames.read(())
    keys = Keys(None, None, required=False)
    config = WorkerConfig(home, "onnx", "models:/m", names, keys, Threads(1, "a test"), settings)
    with serving(create_app(config, engine, LastRequest())) as port:
        wait_for("a loaded model", lambda: engine.state == "ready")
        yield port


def connected(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=300)
    connection.sendall(sent)
    return connection


class TestTime:
    @pytest.mark.parametrize("half", list(HALVES))
    def test_half_a_request_is_closed_when_its_time_is_over(
        self, port: int, half: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "_HEADERS_S", 0.1)
        monkeypatch.setattr(connections, "_BODY_S", 0.1)
        with connected(port, HALVES[half]) as connection:
            assert _is_closed(connection)

    def test_a_byte_now_and_then_buys_no_time(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "_HEADERS_S", 0.3)
        with connected(port, HALVES["half the headers"]) as connection:
            for _ in range(10_000):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return
                if threading.Event().wait(0.02):
                    break
            raise AssertionError("the connection is still open")

    def test_a_client_that_reads_nothing_of_its_answer_is_disconnected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "_UNREAD_S", 0.2)
        app, ended = FastAPI(), threading.Event()

        @app.get("/endless")
        async def endless(request: Request) -> StreamingResponse:
            async def pieces() -> Iterator[bytes]:  # type: ignore[misc]
                try:
                    while True:
                        yield b"x" * 100_000
                        await asyncio.sleep(0)
                finally:
                    ended.set()

            return StreamingResponse(pieces())

        with serving(app) as port, connected(port, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"):
            assert ended.wait(300)

    def test_whole_requests_one_after_the_other_are_not_hurried(
        self, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "_HEADERS_S", 1.0)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(4):
                assert client.get("/health").status_code == 200
                threading.Event().wait(0.4)

    def test_endless_headers_are_cut_off_before_they_fill_memory(self, port: int) -> None:
        headers = (b"x: " + b"y" * 10_000 + b"\r\n") * 2_000
        with connected(port, HALVES["half the headers"]) as connection, pytest.raises(OSError, match=r"."):
            connection.sendall(headers)


CHUNKED = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class TestFraming:
    @pytest.mark.parametrize(
        "sent",
        [
            b"0\r\n" + b"a:\r\n" * 500_000,
            b"0\r\nX: " + b"a" * 2_000_000,
            b"1;" + b"e" * 2_000_000,
            b"1\r\nx\r\n" * 300_000,
        ],
        ids=["many trailers", "a long trailer", "a long extension", "chunks of a byte"],
    )
    def test_what_stands_around_a_body_is_cut_off_before_it_fills_memory(self, port: int, sent: bytes) -> None:
        with connected(port, CHUNKED) as connection:
            with suppress(OSError):
                connection.sendall(sent)
                while connection.recv(2**16):
                    pass
            assert _is_closed(connection)

    def test_a_chunked_body_is_read(self, port: int) -> None:
        content = json.dumps({"prompt": "Hi<|assistant|>", "max_tokens": 2}).encode()
        pieces = (content[at : at + 7] for at in range(0, len(content), 7))
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = httpx2.post(url, content=pieces, headers={"Content-Type": "application/json"}, timeout=300)
        assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 2)

    def test_a_trailer_is_no_header(self, port: int) -> None:
        body = b'{"prompt": "Hi<|assistant|>", "max_tokens": 2}'
        sent = CHUNKED + b"%x\r\n%s\r\n0\r\nOrigin: http://evil.example\r\n\r\n" % (len(body), body)
        with connected(port, sent) as connection:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"

    def test_an_upgrade_is_answered_as_any_request(self, port: int) -> None:
        head = b"GET /health HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        with connected(port, head + b"Content-Length: 1\r\n\r\nx") as connection:
            assert connection.recv(12) == b"HTTP/1.1 403"

    def test_who_asks_again_before_the_answer_is_there_gets_none(
        self, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        with connected(port, b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 500) as connection:
            came = b""
            with suppress(OSError):
                while piece := connection.recv(2**16):
                    came += piece
            assert came.count(b"HTTP/1.1 200") < 10
        assert httpx2.get(f"http://127.0.0.1:{port}/health", timeout=300).status_code == 200
        assert [record.getMessage() for record in caplog.records if record.exc_info] == []


class TestNumber:
    def test_clients_that_read_nothing_lock_nobody_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "_MOST_OPEN", 20)
        app = FastAPI()

        @app.get("/endless")
        async def endless() -> StreamingResponse:
            return StreamingResponse(itertools.repeat(b"x" * 100_000))

        @app.get("/short")
        async def here() -> str:
            return "here"

        with serving(app) as port, ExitStack() as opened:
            for _ in range(25):
                held = opened.enter_context(connected(port, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"))
                held.settimeout(0.01)

            def short() -> bool:
                with suppress(httpx2.TransportError):
                    return bool(httpx2.get(f"http://127.0.0.1:{port}/short", timeout=300).json() == "here")
                return False

            wait_for("an answer, as soon as one of the others is known to read nothing", short, 30)

    def test_hundreds_of_half_requests_lock_nobody_out(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "_MOST_OPEN", 20)
        held = [connected(port, HALVES[half]) for half in HALVES for _ in range(20)]
        try:
            assert httpx2.get(f"http://127.0.0.1:{port}/health", timeout=300).status_code == 200
            assert _is_closed(held[0])
        finally:
            for connection in held:
                connection.close()

    def test_of_many_that_come_at_once_the_latest_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "_MOST_OPEN", 20)
        app, stands, go = FastAPI(), threading.Event(), threading.Event()

        @app.get("/stand")
        async def stand() -> None:
            stands.set()
            go.wait(60)

        with serving(app) as port, ExitStack() as opened:
            opened.enter_context(connected(port, b"GET /stand HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
            assert stands.wait(60)
            held = [opened.enter_context(connected(port, HALVES["nothing"])) for _ in range(60)]
            last = opened.enter_context(connected(port, b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
            go.set()
            assert last.recv(15) == b"HTTP/1.1 200 OK"
            for connection in held:
                connection.setblocking(False)
            closed = sum(map(_is_closed, held[:42]))
            assert closed in (41, 42)  # 20 stay: the last, perhaps the first, which was answered, and of these
            assert not any(map(_is_closed, held[42:]))

    def test_an_answer_under_way_keeps_its_connection(
        self, port: int, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "_MOST_OPEN", 3)
        with httpx2.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=_streamed(), timeout=300) as answer:
            lines = answer.iter_lines()
            next(lines)
            held = [connected(port, HALVES["nothing"]) for _ in range(6)]
            assert httpx2.get(f"http://127.0.0.1:{port}/health", timeout=300).status_code == 200
            assert "[DONE]" in list(lines)[-2]
            for connection in held:
                connection.close()


class TestBreakingOff:
    @pytest.mark.parametrize("how", [*HALVES, "while it waits", "while it reads a stream"])
    def test_leaves_no_traceback(
        self, port: int, runtime: ScriptedRuntime, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            sent = HALVES.get(how) if how in HALVES else _posted(_streamed() | {"stream": "stream" in how})
            assert sent is not None
            connection = connected(port, sent)
            if "stream" in how:
                assert connection.recv(100)
            # A reset, as of a program that was killed.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
            health = f"http://127.0.0.1:{port}/health"
            wait_for("the end of its answer", lambda: httpx2.get(health, timeout=300).json()["active"] == 0)
        assert [
            record.getMessage() for record in caplog.records if record.exc_info or record.levelno > logging.INFO
        ] == []


def _streamed() -> dict[str, object]:
    return {"prompt": "Hi<|assistant|>", "max_tokens": 2500, "stream": True}


def _posted(body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False
