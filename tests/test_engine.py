"""The engine: one answer after the other, counted to the token, whatever the model does."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from phi3kit.embedded import MODEL_FOLDER
from phi3kit.errors import Busy, ModelNotFound, WorkerFailed
from phi3kit.logged_models import resolve
from phi3kit.server import engine as engine_module
from phi3kit.server.engine import Done, Engine, Job, Piece
from phi3kit.server.runtime import OnToken, Sampling
from tests.conftest import Built
from tests.waiting import wait_for

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
END = TOKENIZER.token_to_id("<|end|>")


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def byte_ids(data: bytes) -> list[int]:
    """The tokens of single bytes, as a model writes a character that has no token."""
    return [TOKENIZER.token_to_id(f"<0x{byte:02X}>") for byte in data]


class ScriptedRuntime:
    """Writes the given tokens, one script a job; an exception in a script is raised there."""

    tokenizer = TOKENIZER
    context_tokens = 4096
    end_ids = frozenset({END})

    def __init__(self, *scripts: list[int | Exception]) -> None:
        self._scripts = list(scripts)
        self.may_write = threading.Event()
        self.may_write.set()
        self.prompts: list[list[int]] = []  # of the jobs that reached the model
        self.computed = 0  # tokens, of all jobs

    def generate(self, prompt_ids: list[int], max_tokens: int, sampling: Sampling, on_token: OnToken) -> None:
        self.prompts.append(prompt_ids)
        assert self.may_write.wait(30)
        for step in self._scripts.pop(0)[:max_tokens]:
            if isinstance(step, Exception):
                raise step
            self.computed += 1
            if not on_token(step):
                return


class Reader:
    """Takes what a job emits."""

    def __init__(self, on_step: Callable[[Piece | Done], None] = lambda step: None) -> None:
        self.steps: list[Piece | Done] = []
        self._on_step = on_step

    def __call__(self, step: Piece | Done) -> None:
        self.steps.append(step)
        self._on_step(step)

    def done(self) -> Done:
        """The end, which comes once and last."""
        (done,) = wait_for("the end of an answer", lambda: [step for step in self.steps if isinstance(step, Done)])
        assert self.steps[-1] is done
        return done

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps if isinstance(step, Piece))


Start = Callable[..., Engine]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start engines on scripted runtimes; they end with the test."""
    engines: list[Engine] = []

    def start_one(runtime: ScriptedRuntime, max_queue: int = 4) -> Engine:
        monkeypatch.setattr(engine_module, "load_runtime", lambda folder, wrapper: runtime)
        engine = Engine(Path("unused"), "onnx", max_queue)
        engine.start()
        engines.append(engine)
        wait_for("a loaded model", lambda: engine.state == "ready")
        return engine

    yield start_one
    for engine in engines:
        engine.close()


def a_job(reader: Reader, max_tokens: int = 100, stop: tuple[str, ...] = (), prompt: str = "Hi") -> Job:
    return Job(ids(prompt), max_tokens, Sampling(), stop, reader)


class TestAnswer:
    def test_jobs_are_answered_in_the_order_of_submission(self, start: Start) -> None:
        runtime = ScriptedRuntime([*ids("one"), END], [*ids("two"), END], [*ids("three"), END])
        runtime.may_write.clear()
        engine = start(runtime)
        ended: list[str] = []
        readers = {
            name: Reader(lambda step, name=name: ended.append(name) if isinstance(step, Done) else None)
            for name in ("first", "second", "third")
        }
        for name, reader in readers.items():
            engine.submit(a_job(reader, prompt=name))
        runtime.may_write.set()
        readers["third"].done()
        assert ended == ["first", "second", "third"]
        assert runtime.prompts == [ids("first"), ids("second"), ids("third")]
        assert [reader.text for reader in readers.values()] == ["one", "two", "three"]

    def test_the_end_token_stops_and_counts_and_is_not_in_the_text(self, start: Start) -> None:
        script = ids("The capital of Spain is Madrid.")
        reader = Reader()
        start(ScriptedRuntime([*script, END, *ids("never")])).submit(a_job(reader))
        assert (reader.done().finish_reason, reader.text) == ("stop", "The capital of Spain is Madrid.")
        assert reader.done().completion_tokens == len(script) + 1

    def test_max_tokens_bounds_the_answer_and_is_length(self, start: Start) -> None:
        script = ids("one two three four five six seven")
        reader = Reader()
        start(ScriptedRuntime(script)).submit(a_job(reader, max_tokens=3))
        assert (reader.done().finish_reason, reader.done().completion_tokens) == ("length", 3)
        assert reader.text == TOKENIZER.decode(script[:3])

    def test_an_end_token_at_the_last_allowed_place_is_stop(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime([*ids("Hi"), END])).submit(a_job(reader, max_tokens=len(ids("Hi")) + 1))
        assert reader.done().finish_reason == "stop"

    def test_a_stop_string_ends_the_text_before_it_though_tokens_cut_it(self, start: Start) -> None:
        script = ids("alpha beta gamma delta")
        reader = Reader()
        runtime = ScriptedRuntime(script)
        start(runtime).submit(a_job(reader, stop=("a gam", "zebra")))
        assert (reader.done().finish_reason, reader.text) == ("stop", "alpha bet")
        assert reader.done().completion_tokens == runtime.computed < len(script)

    def test_the_beginning_of_a_stop_string_that_does_not_come_is_given_at_the_end(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime([*ids("one two"), END])).submit(a_job(reader, stop=("two three",)))
        assert (reader.done().finish_reason, reader.text) == ("stop", "one two")

    def test_a_character_of_several_tokens_is_given_whole(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime([*ids("so"), *byte_ids("🙂".encode()), *ids("good"), END])).submit(a_job(reader))
        assert (reader.done().error, reader.text) == (None, "so🙂 good")
        assert all("\ufffd" not in step.text for step in reader.steps if isinstance(step, Piece))

    @pytest.mark.parametrize(
        "stray",
        [b"\xc3", b"\xe3\x81", b";\xa8", b"\n\xaa", "é".encode() + b"\xff", b"\xff\xc3\xe3\x81;\n\xf0\x9f\x99"],
        ids=str,
    )
    @pytest.mark.parametrize("behind", ["", "two three"], ids=["at the end", "before words"])
    def test_bytes_that_are_no_character_are_shown_as_such_and_end_nothing(
        self, start: Start, stray: bytes, behind: str
    ) -> None:
        reader = Reader()
        start(ScriptedRuntime([*ids("one"), *byte_ids(stray), *ids(behind), END])).submit(a_job(reader))
        assert (reader.done().error, reader.done().finish_reason) == (None, "stop")
        assert reader.text.startswith("one")
        assert reader.text.endswith(behind)
        assert "\ufffd" in reader.text

    def test_each_step_counts_the_tokens_so_far_and_the_first_one_is_timed(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime([*ids("one two three"), END])).submit(a_job(reader))
        done = reader.done()
        counts = [step.completion_tokens for step in reader.steps]
        assert counts[0] == 1
        assert counts == sorted(counts)
        assert counts[-1] == done.completion_tokens == len(ids("one two three")) + 1
        assert done.time_to_first_token_s is not None
        assert 0 < done.time_to_first_token_s <= done.duration_s


class TestCancel:
    def test_a_cancelled_answer_ends_within_two_tokens(self, start: Start) -> None:
        runtime = ScriptedRuntime([*ids("word " * 200)])

        def cancel_at_five(step: Piece | Done) -> None:
            if step.completion_tokens == 5:
                job.cancelled.set()

        reader = Reader(cancel_at_five)
        job = a_job(reader, max_tokens=200)
        start(runtime).submit(job)
        done = reader.done()
        assert done.finish_reason == "cancelled"
        assert 5 <= done.completion_tokens == runtime.computed <= 7
        assert reader.text == TOKENIZER.decode(ids("word " * 200)[:5])

    def test_a_job_cancelled_in_the_queue_never_reaches_the_model(self, start: Start) -> None:
        runtime = ScriptedRuntime([*ids("one"), END])
        runtime.may_write.clear()
        engine = start(runtime)
        first, second = Reader(), Reader()
        engine.submit(a_job(first))
        waiting = a_job(second, prompt="second")
        engine.submit(waiting)
        waiting.cancelled.set()
        runtime.may_write.set()
        done = second.done()
        assert (done.finish_reason, done.completion_tokens, done.time_to_first_token_s) == ("cancelled", 0, None)
        assert runtime.prompts == [ids("Hi")]
        assert first.text == "one"


class TestQueue:
    def test_a_full_queue_is_busy_and_says_how_many_wait(self, start: Start) -> None:
        runtime = ScriptedRuntime(*[[*ids("one"), END] for _ in range(4)])
        runtime.may_write.clear()
        engine = start(runtime, max_queue=2)
        readers = [Reader() for _ in range(4)]
        engine.submit(a_job(readers[0]))
        wait_for("the first job at the model", lambda: bool(runtime.prompts))
        engine.submit(a_job(readers[1]))
        engine.submit(a_job(readers[2]))
        assert (engine.active, engine.waiting) == (1, 2)
        with pytest.raises(Busy, match="2 requests are waiting") as caught:
            engine.submit(a_job(readers[3]))
        assert caught.value.retry_after_s >= 1
        runtime.may_write.set()
        assert readers[2].done().finish_reason == "stop"
        engine.submit(a_job(readers[3]))  # there is room again
        assert readers[3].done().finish_reason == "stop"
        wait_for("an idle engine", lambda: (engine.active, engine.waiting) == (0, 0))


class TestFailure:
    def test_an_error_of_the_model_ends_the_answer_and_not_the_engine(self, start: Start) -> None:
        broken = RuntimeError("out of memory")
        engine = start(ScriptedRuntime([*ids("one two")[:2], broken], [*ids("fine"), END]))
        first, second = Reader(), Reader()
        engine.submit(a_job(first))
        engine.submit(a_job(second))
        done = first.done()
        assert (done.finish_reason, done.error, done.completion_tokens) == ("error", broken, 2)
        assert first.text == TOKENIZER.decode(ids("one two")[:2])
        assert (second.done().finish_reason, second.text) == ("stop", "fine")

    def test_a_model_that_is_still_loading_is_not_ready(self) -> None:
        engine = Engine(Path("unused"), "onnx", 4)
        assert engine.state == "loading"
        with pytest.raises(WorkerFailed, match="still being loaded"):
            _ = engine.runtime

    @pytest.mark.parametrize(
        "mlmodel",
        [None, "flavors: [", "only text", "flavors: {python_function: {artifacts: {phi3-mini-onnx: {path: onnx}}}}"],
        ids=["no MLmodel", "MLmodel is no YAML", "MLmodel is no mapping", "tokenizer is cut short"],
    )
    def test_a_damaged_folder_is_a_failure_that_says_so(self, tmp_path: Path, mlmodel: str | None) -> None:
        if mlmodel is not None:
            (tmp_path / "MLmodel").write_text(mlmodel, "utf-8")
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx/tokenizer.json").write_text('{"version":', "utf-8")
        engine = Engine(tmp_path, "onnx", 4)
        engine.start()
        wait_for("the end of loading", lambda: engine.state != "loading", seconds=30)
        assert engine.state == "failed"
        with pytest.raises(ModelNotFound, match="missing or damaged"):
            _ = engine.runtime


class TestRealModel:
    def test_the_onnx_wrapper_answers_what_it_learned_and_every_token_is_counted(self, built: Built) -> None:
        engine = Engine(resolve(built.uri("onnx"), built.settings).folder, "onnx", 4)
        engine.start()
        wait_for("a loaded model", lambda: engine.state == "ready")
        reader = Reader()
        prompt = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
        engine.submit(a_job(reader, prompt=prompt, max_tokens=60))
        done = reader.done()
        engine.close()
        assert (done.finish_reason, done.error) == ("stop", None)
        assert reader.text == "The capital of Spain is Madrid."
        assert done.completion_tokens == len(ids(reader.text)) + 1
