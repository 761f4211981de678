"""A panic in a tokenizer's Rust, which passes every `except Exception`, ends one request and no worker."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import WorkerFailed
from phi3kit.worker.engine import Engine
from phi3kit.worker.kv_cache import KvCache
from tests.conftest import Built
from tests.support.waiting import wait_for
from tests.support.worker_app import completion, worker_app
from tests.worker.test_engine import END, Reader, ScriptedRuntime, a_generation, ids


def _panicking() -> Tokenizer:
    """Decodes everything but the token `a`, and text behind one that ends in it."""
    described = json.loads((MODEL_FOLDER / "tokenizer.json").read_text("utf-8"))
    strip = {"type": "Strip", "content": "a", "start": 0, "stop": 50}
    described["decoder"] = {"type": "Sequence", "decoders": [strip, *described["decoder"]["decoders"]]}
    return Tokenizer.from_str(json.dumps(described))


PANICKING = _panicking()
A = PANICKING.token_to_id("a")


class PanickingRuntime(ScriptedRuntime):
    tokenizer = text_tokenizer = PANICKING


@pytest.fixture
def engine() -> Iterator[Engine]:
    runtime = PanickingRuntime({"Hi": [*ids("one two"), A, END], "next": [*ids("fine"), END], "ends": [A]})
    engine = Engine(lambda: (runtime, KvCache(runtime, 10**9)), 4)
    engine.start()
    wait_for("a loaded model", lambda: engine.state == "ready")
    yield engine
    engine.close()


class TestEngine:
    def _answered(self, engine: Engine) -> None:
        reader = Reader()
        engine.submit(a_generation(reader, prompt="next"))
        assert (reader.done().finish_reason, reader.text, engine.state) == ("stop", "fine", "ready")

    def test_the_answer_that_cannot_be_decoded_ends_alone(self, engine: Engine) -> None:
        broken = Reader()
        engine.submit(a_generation(broken))
        assert (broken.done().finish_reason, broken.text) == ("error", "one two")
        assert isinstance(broken.done().error, WorkerFailed)
        self._answered(engine)

    def test_so_does_one_whose_prompt_cannot_be(self, engine: Engine) -> None:
        broken = Reader()
        generation = a_generation(broken)
        generation.prompt_ids = [*ids("Hi"), A]
        engine.submit(generation)
        assert broken.done().finish_reason == "error"
        assert engine.cache.reserved_bytes == 0
        self._answered(engine)

    @pytest.mark.parametrize("part", ["push", "finish"])
    def test_and_one_that_panics_at_any_of_its_steps(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        def panic(*_: object) -> str:
            return str(PANICKING.decode([A]))

        broken = Reader()
        with monkeypatch.context() as patched:
            patched.setattr(f"phi3kit.worker.engine.Detokenizer.{part}", panic)
            engine.submit(a_generation(broken, prompt="next"))
            assert broken.done().finish_reason == "error"
        self._answered(engine)

    @pytest.mark.parametrize("where", ["_admit", "_round"])
    def test_a_thread_that_ends_is_never_ready(self, engine: Engine, where: str) -> None:
        setattr(engine, where, lambda *_: PANICKING.decode([A]))
        reader = Reader()
        engine.submit(a_generation(reader, prompt="next"))
        assert reader.done().finish_reason == "error"
        wait_for("the end of the engine", lambda: not engine._thread.is_alive())
        assert engine.state == "failed"

    def test_nor_is_one_that_cannot_load(self) -> None:
        engine = Engine(lambda: PANICKING.decode([A]), 4)  # type: ignore[arg-type, return-value]
        engine.start()
        wait_for("the end of the engine", lambda: not engine._thread.is_alive())
        assert engine.state == "failed"

    def test_nor_is_one_that_was_closed(self, engine: Engine) -> None:
        engine.close()
        wait_for("the end of the engine", lambda: not engine._thread.is_alive())
        assert (engine.state, engine.failure) == ("failed", None)


@pytest.fixture
def client(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("phi3kit.worker.runtime_onnx.load_tokenizers", lambda folder: (PANICKING, PANICKING))
    with worker_app(built, tmp_path) as client:
        yield client


def test_every_route_says_it_in_the_shape_of_an_error_and_the_worker_stays_ready(client: TestClient) -> None:
    prompt = {"prompt": "<|user|>\nxa", "max_tokens": 2}
    for path, body in (("/detokenize", {"tokens": [A]}), ("/v1/completions", prompt)):
        answer = client.post(path, json=body)
        assert (path, answer.status_code, set(answer.json()["error"])) == (
            path,
            503,
            {"message", "type", "code", "param"},
        )
    assert client.get("/health").json()["state"] == "ready"
    assert client.post("/v1/completions", json=completion("Hello")).status_code == 200
