"""Engine: answers that are written together, counted to the token, whatever the model does."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import Busy, ModelNotFound, RequestInvalid, WorkerFailed
from phi3kit.tracking.logged_models import resolve
from phi3kit.worker.engine import Done, Engine, Generation, Output, Piece
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.loading import load_runtime
from phi3kit.worker.runtime import Logits, Runtime, TokenSequence, Work
from phi3kit.worker.sampling import Sampling
from tests.conftest import Built
from tests.support.waiting import wait_for

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
END = TOKENIZER.token_to_id("<|end|>")
ASSISTANT = TOKENIZER.token_to_id("<|assistant|>")


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def prompted(prompt: str) -> list[int]:
    """A prompt that ends in a special token: after one that ends in text an answer would keep its leading space."""
    return [*ids(prompt), ASSISTANT]


def byte_ids(data: bytes) -> list[int]:
    """Byte tokens, as a model writes a character that has no token."""
    return [TOKENIZER.token_to_id(f"<0x{byte:02X}>") for byte in data]


class ScriptedSequence:
    """After a prompt of its runtime the scores choose the tokens of that prompt's script."""

    def __init__(self, runtime: "ScriptedRuntime") -> None:
        self.ids: list[int] = []
        self._runtime = runtime

    def append(self, given: Sequence[int]) -> Logits | Exception:
        self.ids += given
        logits = np.zeros(TOKENIZER.get_vocab_size(), dtype=np.float32)
        step = self._runtime.next_step(self.ids, len(given))
        if isinstance(step, Exception):
            return step
        if step is not None:
            logits[step] = 1
        return logits

    def serves(self, longest: int) -> bool:
        return True

    def truncate(self, length: int) -> bool:
        del self.ids[length:]
        return True

    def copy(self, other: TokenSequence, length: int) -> bool:
        self.ids += other.ids[len(self.ids) : length]
        return True

    def close(self) -> None:
        pass


class ScriptedRuntime:
    """Writes the given tokens, one script a prompt; an exception in a script is that step's result."""

    tokenizer = text_tokenizer = TOKENIZER
    context_tokens = 4096
    end_ids = frozenset({END})
    bytes_per_token = block_tokens = 1
    max_sequences = 32

    def __init__(self, scripts: Mapping[str, list[int | Exception]]) -> None:
        self._scripts = {tuple(prompted(prompt)): script for prompt, script in scripts.items()}
        self.may_write = threading.Event()
        self.may_write.set()
        self.prompts: list[list[int]] = []  # in the order in which their last token was computed
        self.computed: list[tuple[str, int]] = []  # (first word of the sequence, tokens), in their order
        self.together: list[int] = []  # sequences in each step
        self.broken: Exception | None = None  # what the next step raises as a whole

    def next_step(self, sequence: list[int], given: int) -> int | Exception | None:
        assert self.may_write.wait(30)
        self.computed.append((TOKENIZER.decode(sequence).split()[0], given))
        for prompt, script in self._scripts.items():
            if tuple(sequence[: len(prompt)]) == prompt:
                if len(sequence) == len(prompt):
                    self.prompts.append(list(prompt))
                return script[len(sequence) - len(prompt)]
        return None

    def limit(self, longest: int) -> None:
        pass

    def open(self, longest: int) -> ScriptedSequence:
        return ScriptedSequence(self)

    def step(self, work: Work) -> list[Logits | Exception]:
        self.together.append(len(work))
        if self.broken:
            raise self.broken
        sequences = [(sequence, ids) for sequence, ids in work if isinstance(sequence, ScriptedSequence)]
        return [sequence.append(ids) for sequence, ids in sequences]


class Reader:
    """Takes what a generation emits."""

    def __init__(self, on_output: Callable[[Output], None] = lambda output: None) -> None:
        self.outputs: list[Output] = []
        self._on_output = on_output

    def __call__(self, output: Output) -> None:
        self.outputs.append(output)
        self._on_output(output)

    def done(self) -> Done:
        """The end, which comes once and last."""
        (done,) = wait_for(
            "the end of an answer", lambda: [output for output in self.outputs if isinstance(output, Done)]
        )
        assert self.outputs[-1] is done
        return done

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs if isinstance(output, Piece))


Start = Callable[..., Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start engines on scripted runtimes; they end with the test."""
    engines: list[Engine] = []

    def start_one(runtime: ScriptedRuntime, max_queue: int = 4, budget: int = 10**9) -> Engine:
        engine = Engine(lambda: (runtime, KvCache(runtime, budget)), max_queue)
        engine.start()
        engines.append(engine)
        wait_for("a loaded model", lambda: engine.state == "ready")
        return engine

    yield start_one
    for engine in engines:
        engine.close()


def a_generation(reader: Reader, max_tokens: int = 100, stop: tuple[str, ...] = (), prompt: str = "Hi") -> Generation:
    return Generation(prompted(prompt), max_tokens, Sampling(), stop, reader)


def load(folder: Path) -> tuple[Runtime, KvCache]:
    runtime = load_runtime(folder, "onnx", threads=1)
    return runtime, KvCache(runtime, 2**30)


class TestAnswer:
    def test_the_end_token_stops_and_counts_and_is_not_in_the_text(self, start: Start) -> None:
        script = ids("The capital of Spain is Madrid.")
        reader = Reader()
        start(ScriptedRuntime({"Hi": [*script, END, *ids("never")]})).submit(a_generation(reader))
        assert (reader.done().finish_reason, reader.text) == ("stop", "The capital of Spain is Madrid.")
        assert reader.done().completion_tokens == len(script) + 1

    def test_max_tokens_bounds_the_answer_and_is_length(self, start: Start) -> None:
        script = ids("one two three four five six seven")
        reader = Reader()
        start(ScriptedRuntime({"Hi": script})).submit(a_generation(reader, max_tokens=3))
        assert (reader.done().finish_reason, reader.done().completion_tokens) == ("length", 3)
        assert reader.text == TOKENIZER.decode(script[:3])

    def test_an_end_token_at_the_last_allowed_place_is_stop(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime({"Hi": [*ids("Hi"), END]})).submit(a_generation(reader, max_tokens=len(ids("Hi")) + 1))
        assert reader.done().finish_reason == "stop"

    def test_a_stop_string_ends_the_text_before_it_though_tokens_cut_it(self, start: Start) -> None:
        script = ids("alpha beta gamma delta")
        reader = Reader()
        runtime = ScriptedRuntime({"Hi": script})
        start(runtime).submit(a_generation(reader, stop=("a gam", "zebra")))
        assert (reader.done().finish_reason, reader.text) == ("stop", "alpha bet")
        assert reader.done().completion_tokens == len(runtime.computed) < len(script)

    def test_the_beginning_of_a_stop_string_that_does_not_come_is_given_at_the_end(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime({"Hi": [*ids("one two"), END]})).submit(a_generation(reader, stop=("two three",)))
        assert (reader.done().finish_reason, reader.text) == ("stop", "one two")

    def test_a_character_of_several_tokens_is_given_whole(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime({"Hi": [*ids("so"), *byte_ids("🙂".encode()), *ids("good"), END]})).submit(
            a_generation(reader)
        )
        assert (reader.done().error, reader.text) == (None, "so🙂 good")
        assert all("\ufffd" not in output.text for output in reader.outputs if isinstance(output, Piece))

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
        start(ScriptedRuntime({"Hi": [*ids("one"), *byte_ids(stray), *ids(behind), END]})).submit(a_generation(reader))
        assert (reader.done().error, reader.done().finish_reason) == (None, "stop")
        assert reader.text.startswith("one")
        assert reader.text.endswith(behind)
        assert "\ufffd" in reader.text

    def test_each_step_counts_the_tokens_so_far_and_the_first_one_is_timed(self, start: Start) -> None:
        reader = Reader()
        start(ScriptedRuntime({"Hi": [*ids("one two three"), END]})).submit(a_generation(reader))
        done = reader.done()
        counts = [output.completion_tokens for output in reader.outputs]
        assert counts[0] == 1
        assert counts == sorted(counts)
        assert counts[-1] == done.completion_tokens == len(ids("one two three")) + 1
        assert done.time_to_first_token_s is not None
        assert 0 < done.time_to_first_token_s <= done.duration_s


class TestCancel:
    def test_a_cancelled_answer_ends_within_two_tokens(self, start: Start) -> None:
        runtime = ScriptedRuntime({"Hi": [*ids("word " * 200)]})

        def cancel_at_five(output: Output) -> None:
            if output.completion_tokens == 5:
                generation.cancelled.set()

        reader = Reader(cancel_at_five)
        generation = a_generation(reader, max_tokens=200)
        start(runtime).submit(generation)
        done = reader.done()
        assert done.finish_reason == "cancelled"
        assert 5 <= done.completion_tokens == len(runtime.computed) <= 7
        assert reader.text == TOKENIZER.decode(ids("word " * 200)[:5])

    def test_a_job_cancelled_in_the_queue_never_reaches_the_model(self, start: Start) -> None:
        runtime = ScriptedRuntime({"Hi": [*ids("one"), END], "second": [END]})
        runtime.may_write.clear()
        engine = start(runtime, budget=150)  # memory for one of them
        first, second = Reader(), Reader()
        engine.submit(a_generation(first))
        waiting = a_generation(second, prompt="second")
        engine.submit(waiting)
        waiting.cancelled.set()
        runtime.may_write.set()
        done = second.done()
        assert (done.finish_reason, done.completion_tokens, done.time_to_first_token_s) == ("cancelled", 0, None)
        assert first.done().finish_reason == "stop"
        assert runtime.prompts == [prompted("Hi")]


class TestEstimate:
    def test_a_full_queue_says_about_when_there_is_room(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr("phi3kit.worker.engine.time.perf_counter", lambda: now)
        names = ("first", "second", "third")
        runtime = ScriptedRuntime({name: [*ids("one two"), END] for name in names})
        runtime.may_write.clear()
        engine = start(runtime, max_queue=1, budget=150)  # memory for one of them
        readers = [Reader() for _ in names]

        def said() -> int:
            with pytest.raises(Busy) as caught:
                engine.submit(a_generation(Reader(), prompt="more"))
            return caught.value.retry_after_s

        engine.submit(a_generation(readers[0], prompt="first"))
        wait_for("an active answer", lambda: engine.active == 1)
        engine.submit(a_generation(readers[1], prompt="second"))
        now += 17  # of which nothing came
        assert said() == 17
        runtime.may_write.set()
        readers[1].done()
        wait_for("an idle engine", lambda: engine.active == 0)
        runtime.may_write.clear()
        engine.submit(a_generation(readers[2], prompt="third"))
        wait_for("an active answer", lambda: engine.active == 1)
        engine.submit(a_generation(Reader(), prompt="first"))
        usual = 17 * 7 / 8  # the first answer took 17 s, the second none
        assert said() == pytest.approx(usual, abs=1)
        now += 10
        assert said() == pytest.approx(usual - 10, abs=1)
        now += 600
        assert said() == 60  # beyond it the `openai` client would try at once
        runtime.may_write.set()


class TestTogether:
    def test_active_answers_are_written_a_token_each_in_one_step(self, start: Start) -> None:
        runtime = ScriptedRuntime({"one": [*ids("a b c d e f"), END], "two": [*ids("g h i j k l"), END]})
        runtime.may_write.clear()
        engine = start(runtime)
        readers = [Reader(), Reader()]
        for reader, prompt in zip(readers, ("one", "two"), strict=True):
            engine.submit(a_generation(reader, prompt=prompt))
        runtime.may_write.set()
        assert [reader.done().finish_reason for reader in readers] == ["stop", "stop"]
        assert [reader.text for reader in readers] == ["a b c d e f", "g h i j k l"]
        order = [word for word, _ in runtime.computed]
        together = order[order.index("two") : -2]
        assert all(one != other for one, other in pairwise(together))
        steps_of_two = runtime.together.count(2)
        assert (
            steps_of_two >= len(ids("a b c d e f")) - 1
        )  # all but the first tokens, which end the reading of a prompt

    def test_a_newcomer_does_not_wait_for_the_end_of_another_answer(self, start: Start) -> None:
        runtime = ScriptedRuntime({"long": [*ids("word " * 400)], "short": [*ids("at once"), END]})
        engine = start(runtime)
        written_meanwhile: list[int] = []
        short = Reader(lambda output: written_meanwhile.append(len(long.outputs)))

        def ask_at_five(output: Output) -> None:
            if output.completion_tokens == 5:
                engine.submit(a_generation(short, prompt="short"))

        long = Reader(ask_at_five)
        engine.submit(a_generation(long, max_tokens=400, prompt="long"))
        assert long.done().completion_tokens == 400
        assert (short.done().finish_reason, short.text) == ("stop", "at once")
        assert 5 <= min(written_meanwhile) <= max(written_meanwhile) <= 20

    def test_a_prompt_is_read_in_slices_shorter_ones_beside_others(self, start: Start) -> None:
        prompt = "long " * 200
        runtime = ScriptedRuntime({prompt: [END], "other": [*ids("word " * 300)]})
        engine = start(runtime)
        alone, other, beside = Reader(), Reader(), Reader()
        engine.submit(a_generation(alone, prompt=prompt))
        alone.done()
        assert max(tokens for word, tokens in runtime.computed if word == "long") == 64
        runtime.computed.clear()
        engine.submit(a_generation(other, max_tokens=300, prompt="other"))
        engine.submit(a_generation(beside, prompt="long " * 199))
        beside.done()
        assert max(tokens for word, tokens in runtime.computed if word == "long") <= 16

    def test_many_new_prompts_delay_a_written_answer_by_one_slice_each_token(self, start: Start) -> None:
        names = ("second", "third", "fourth")
        runtime = ScriptedRuntime({"first": [*ids("word " * 300)], **{f"{name} " * 100: [END] for name in names}})
        engine = start(runtime, max_queue=8)
        readers = [Reader() for _ in names]

        def ask_at_five(output: Output) -> None:
            if output.completion_tokens == 5:
                for name, reader in zip(names, readers, strict=True):
                    engine.submit(a_generation(reader, prompt=f"{name} " * 100))

        first = Reader(ask_at_five)
        engine.submit(a_generation(first, max_tokens=300, prompt="first"))
        assert first.done().completion_tokens == 300
        assert [reader.done().finish_reason for reader in readers] == ["stop"] * 3
        order = [word for word, _ in runtime.computed]
        beside = order[order.index("second") : -1]
        last_slice = max(position for position, word in enumerate(beside) if word != "first")
        assert all("first" in pair for pair in pairwise(beside[:last_slice]))
        assert beside.index("third") < beside.index("second") + 4  # prompts take turns too


class TestQueue:
    def test_answers_wait_for_memory_in_the_order_of_submission(self, start: Start) -> None:
        scripts = {name: [*ids("a b c"), END] for name in ("first", "second", "third")}
        runtime = ScriptedRuntime(scripts)
        runtime.may_write.clear()
        engine = start(runtime, budget=150)  # memory for one of them
        ended: list[str] = []
        readers = {
            name: Reader(lambda output, name=name: ended.append(name) if isinstance(output, Done) else None)
            for name in scripts
        }
        generations = [a_generation(reader, prompt=name) for name, reader in readers.items()]
        for generation in generations:
            engine.submit(generation)
            wait_for("the first answer at the model", lambda: engine.active == 1)
        assert [engine.place_of(each) for each in generations] == [0, 1, 2]
        runtime.may_write.set()
        readers["third"].done()
        assert [engine.place_of(each) for each in generations] == [0, 0, 0]
        assert ended == ["first", "second", "third"]
        assert runtime.prompts == [prompted("first"), prompted("second"), prompted("third")]

    def test_a_full_queue_is_busy_and_says_how_many_wait(self, start: Start) -> None:
        runtime = ScriptedRuntime({name: [*ids("one"), END] for name in ("a", "b", "c", "d")})
        runtime.may_write.clear()
        engine = start(runtime, max_queue=2, budget=150)
        readers = [Reader() for _ in range(4)]
        engine.submit(a_generation(readers[0], prompt="a"))
        wait_for("the first generation at the model", lambda: engine.active == 1)
        engine.submit(a_generation(readers[1], prompt="b"))
        engine.submit(a_generation(readers[2], prompt="c"))
        assert (engine.active, engine.waiting) == (1, 2)
        with pytest.raises(Busy, match="2 requests are waiting") as caught:
            engine.submit(a_generation(readers[3], prompt="d"))
        assert caught.value.retry_after_s >= 1
        runtime.may_write.set()
        assert readers[2].done().finish_reason == "stop"
        engine.submit(a_generation(readers[3], prompt="d"))  # there is room again
        assert readers[3].done().finish_reason == "stop"
        wait_for("an idle engine", lambda: (engine.active, engine.waiting) == (0, 0))

    def test_what_could_never_have_the_memory_is_refused_at_once(self, start: Start) -> None:
        engine = start(ScriptedRuntime({}), budget=50)
        with pytest.raises(RequestInvalid, match="PHI3KIT_KV_BUDGET_MB allows fewer") as caught:
            engine.submit(a_generation(Reader(), max_tokens=50))
        assert (caught.value.param, caught.value.code) == ("max_tokens", "kv_budget_exceeded")

    def test_a_closing_engine_ends_what_it_writes_and_cancels_what_waits(self, start: Start) -> None:
        runtime = ScriptedRuntime({"Hi": [*ids("one"), END], "later": [END]})
        runtime.may_write.clear()
        engine = start(runtime, budget=150)  # memory for one of them
        first, later = Reader(), Reader()
        engine.submit(a_generation(first))
        wait_for("the first generation at the model", lambda: engine.active == 1)
        engine.submit(a_generation(later, prompt="later"))
        engine.close()
        runtime.may_write.set()
        wait_for("the end of the engine", lambda: not engine._thread.is_alive())
        assert (first.done().finish_reason, later.done().finish_reason) == ("stop", "cancelled")
        assert runtime.prompts == [prompted("Hi")]


class TestMemory:
    def test_the_next_turn_of_a_conversation_computes_only_what_is_new(self, start: Start) -> None:
        first, more = "Hi", "Hi<|assistant|>there you"
        runtime = ScriptedRuntime({first: [*ids("there"), END], more: [END]})
        engine = start(runtime)
        readers = [Reader(), Reader()]
        engine.submit(a_generation(readers[0], prompt=first))
        assert readers[0].done().cached_prompt_tokens == 0
        runtime.computed.clear()
        engine.submit(a_generation(readers[1], prompt=more))
        cached = readers[1].done().cached_prompt_tokens
        assert cached == len(ids("Hi<|assistant|>there"))
        assert sum(tokens for _, tokens in runtime.computed) == len(prompted(more)) - cached

    def test_answers_to_one_prompt_read_it_once_between_them(self, start: Start) -> None:
        prompt = "word " * 150
        runtime = ScriptedRuntime({prompt: [*ids("fine"), END]})
        runtime.may_write.clear()
        engine = start(runtime)
        readers = [Reader() for _ in range(3)]
        engine.submit(*(a_generation(reader, prompt=prompt) for reader in readers))
        runtime.may_write.set()
        assert [reader.done().finish_reason for reader in readers] == ["stop"] * 3
        read = sum(tokens for _, tokens in runtime.computed) - 3 * len(ids("fine"))
        assert len(prompted(prompt)) <= read < 1.5 * len(prompted(prompt))
        found = sum(reader.done().cached_prompt_tokens for reader in readers)
        assert found + read == 3 * len(prompted(prompt))

    def test_a_sequence_that_broke_off_is_not_used_again(self, start: Start) -> None:
        runtime = ScriptedRuntime({"Hi": [RuntimeError("broken")]})
        engine = start(runtime)
        readers = [Reader(), Reader()]
        for reader in readers:
            engine.submit(a_generation(reader))
            assert reader.done().finish_reason == "error"
        assert readers[1].done().cached_prompt_tokens == 0


class TestFailure:
    def test_an_error_of_the_model_ends_the_answer_and_not_the_engine(self, start: Start) -> None:
        broken = RuntimeError("out of memory")
        engine = start(ScriptedRuntime({"Hi": [*ids("one two")[:2], broken], "next": [*ids("fine"), END]}))
        first, second = Reader(), Reader()
        engine.submit(a_generation(first))
        engine.submit(a_generation(second, prompt="next"))
        done = first.done()
        assert (done.finish_reason, done.error, done.completion_tokens) == ("error", broken, 2)
        assert first.text == TOKENIZER.decode(ids("one two")[:2])
        assert (second.done().finish_reason, second.text) == ("stop", "fine")

    def test_what_fails_in_a_step_with_others_ends_alone(self, start: Start) -> None:
        script = ids("one two three four five six seven eight nine ten")
        runtime = ScriptedRuntime({"a": [*script, END], "b": [*script[:4], RuntimeError("b")], "c": [*script, END]})
        runtime.may_write.clear()
        engine = start(runtime)
        readers = [Reader() for _ in range(3)]
        for reader, prompt in zip(readers, "abc", strict=True):
            engine.submit(a_generation(reader, prompt=prompt))
        runtime.may_write.set()
        assert [reader.done().finish_reason for reader in readers] == ["stop", "error", "stop"]
        assert readers[0].text == readers[2].text == TOKENIZER.decode(script)
        assert (readers[1].done().completion_tokens, max(runtime.together)) == (4, 3)

    def test_a_step_that_fails_as_a_whole_ends_its_answers_and_the_next_are_answered(self, start: Start) -> None:
        runtime = ScriptedRuntime({"Hi": [*ids("one"), END]})
        engine = start(runtime)
        runtime.broken = RuntimeError("no memory for the scores")
        broken, fine = Reader(), Reader()
        engine.submit(a_generation(broken))
        assert broken.done().error is runtime.broken
        runtime.broken = None
        engine.submit(a_generation(fine))
        assert (fine.done().finish_reason, fine.text) == ("stop", "one")

    def test_a_model_that_is_still_loading_is_not_ready(self) -> None:
        engine = Engine(lambda: load(Path("unused")), 4)
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
        engine = Engine(lambda: load(tmp_path), 4)
        engine.start()
        wait_for("the end of loading", lambda: engine.state != "loading", seconds=30)
        assert engine.state == "failed"
        with pytest.raises(ModelNotFound, match="missing or damaged"):
            _ = engine.runtime


class TestRealModel:
    def test_the_onnx_wrapper_answers_what_it_learned_and_every_token_is_counted(self, built: Built) -> None:
        engine = Engine(lambda: load(resolve(built.uri("onnx"), built.settings).folder), 4)
        engine.start()
        wait_for("a loaded model", lambda: engine.state == "ready")
        reader = Reader()
        prompt = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
        engine.submit(a_generation(reader, prompt=prompt, max_tokens=60))
        done = reader.done()
        engine.close()
        assert (done.finish_reason, done.error) == ("stop", None)
        assert reader.text == "The capital of Spain is Madrid."
        assert done.completion_tokens == len(ids(reader.text)) + 1


class TestABrokenEngine:
    def test_it_says_so_to_those_who_wait_and_to_those_who_come(self, start: Start) -> None:
        runtime = ScriptedRuntime({"first": [*ids("word " * 50)], "second": [END]})
        runtime.may_write.clear()
        engine = start(runtime, budget=150)  # memory for one of them
        first, second = Reader(), Reader()
        engine.submit(a_generation(first, prompt="first"))
        engine.submit(a_generation(second, prompt="second"))
        engine.cache.extend = lambda slot, prompt_ids: 1 // 0  # type: ignore[method-assign]
        runtime.may_write.set()
        for reader in (first, second):
            assert reader.done().finish_reason == "error"
            assert "The worker failed. ZeroDivisionError" in str(reader.done().error)
        assert (engine.state, engine.active) == ("failed", 0)  # /health is a 503, and a worker's process ends
        with pytest.raises(WorkerFailed, match="worker failed"):
            engine.submit(a_generation(Reader()))
