"""Both runtimes with real models: the same scores however a sequence was made, and whatever is computed beside it."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import Message
from phi3kit.embedded.corpus import LANGUAGES, questions
from phi3kit.formats.chat_template import raw_prompt
from phi3kit.packaging.export import export_onnx
from phi3kit.tracking.logged_models import resolve
from phi3kit.worker.loading import load_runtime
from phi3kit.worker.runtime import Logits, Runtime, TokenSequence
from phi3kit.worker.runtime_onnx import OnnxRuntime
from tests.conftest import Built
from tests.support.greedy import appended, greedy, stepped

WINDOW = 2047  # the embedded model's sliding window, as Phi-3 mini has it
TALK = (  # 100 tokens and more
    "<|system|>\nYou are a helpful assistant.<|end|>\n<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
    "The capital of Spain is Madrid.<|end|>\n<|user|>\nand of France?<|end|>\n<|assistant|>\n"
    "The capital of France is Paris.<|end|>\n<|user|>\nWhat is ONNX Runtime?<|end|>\n<|assistant|>\n"
    "ONNX Runtime is an engine that runs machine learning models on many kinds of hardware.<|end|>\n<|user|>\n"
    "What is the capital of Japan?<|end|>\n<|assistant|>\nThe capital of Japan is Tokyo.<|end|>\n<|user|>\n"
    "What is MLflow?<|end|>\n<|assistant|>\n"
)
JOKE = "<|system|>\nYou are a stand-up comedian.<|end|>\n<|user|>\nTell me a joke about atom<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def onnx(built: Built) -> Runtime:
    return load_runtime(resolve(built.uri("onnx"), built.settings).folder, "onnx", threads=1)


@pytest.fixture(scope="module")
def transformers(built: Built) -> Runtime:
    return load_runtime(resolve(built.uri("transformers"), built.settings).folder, "transformers", threads=1)


@pytest.fixture(scope="module", params=["onnx", "transformers"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime: a test that takes it runs twice."""
    loaded: Runtime = request.getfixturevalue(request.param)
    return loaded


Open = Callable[[Runtime], TokenSequence]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens sequences that are closed after the test: a runtime has a limited number."""
    sequences: list[TokenSequence] = []

    def open_one(runtime: Runtime) -> TokenSequence:
        sequences.append(runtime.open(4096))
        return sequences[-1]

    yield open_one
    for sequence in sequences:
        sequence.close()


def ids_of(runtime: Runtime, text: str) -> list[int]:
    return list(runtime.tokenizer.encode(text, add_special_tokens=False).ids)


def long_prompt(runtime: Runtime, tokens: int) -> list[int]:
    return (ids_of(runtime, TALK) * 40)[:tokens]


def same(runtime: Runtime, one: Logits, other: Logits) -> bool:
    """Scores reach 30; the transformers model has 16-bit numbers, whose last digit there is 0.016."""
    return np.allclose(one, other, rtol=0, atol=0.1 if runtime.bytes_per_token == 4096 else 1e-3)


def alike(one: Logits, other: Logits) -> bool:
    """Rounding makes a hundredth of the scores' spread at most, another's keys and values far more."""
    return bool(np.abs(one - other).max() < 0.02 * np.ptp(one))


def fresh(runtime: Runtime, ids: list[int]) -> Logits:
    sequence = runtime.open(4096)
    logits = stepped(runtime, sequence, ids)
    sequence.close()
    return logits


def stepped_together(runtime: Runtime, work: list[tuple[TokenSequence, list[int]]]) -> list[Logits]:
    """One step of several sequences, none of which fails."""
    results = runtime.step(work)
    scores = [result for result in results if not isinstance(result, Exception)]
    assert len(scores) == len(work), results
    return scores


class TestStep:
    @pytest.mark.parametrize("slice_tokens", [1, 7, 64])
    def test_a_prompt_in_slices_is_answered_as_in_one_piece(self, runtime: Runtime, opened: Open, slice_tokens: int):
        prompt = ids_of(runtime, TALK)
        whole = greedy(runtime, opened(runtime), prompt)
        assert len(prompt) > 100
        assert len(whole.split()) > 5
        assert greedy(runtime, opened(runtime), prompt, slice_tokens=slice_tokens) == whole

    def test_slices_make_no_difference_beyond_the_sliding_window(self, runtime: Runtime, opened: Open):
        prompt = long_prompt(runtime, WINDOW + 300)
        assert same(runtime, appended(runtime, opened(runtime), prompt, slice_tokens=64), fresh(runtime, prompt))

    def test_scores_are_the_callers_own(self, runtime: Runtime, opened: Open):
        sequence = opened(runtime)
        logits = stepped(runtime, sequence, ids_of(runtime, JOKE))
        before = logits.copy()
        stepped(runtime, sequence, [5])
        assert (logits.shape, str(logits.dtype)) == ((4096,), "float32")
        assert np.array_equal(logits, before)

    def test_two_sequences_that_take_turns_do_not_mix(self, runtime: Runtime, opened: Open):
        talk, joke = ids_of(runtime, TALK), ids_of(runtime, JOKE)
        one, other = opened(runtime), opened(runtime)
        for begin in range(0, len(joke), 5):
            stepped(runtime, one, talk[begin : begin + 5])
            logits = stepped(runtime, other, joke[begin : begin + 5])
        assert same(runtime, logits, fresh(runtime, joke))
        assert same(runtime, stepped(runtime, one, talk[len(one.ids) :]), fresh(runtime, talk))

    def test_sequences_of_any_lengths_are_computed_together_as_alone(self, runtime: Runtime, opened: Open):
        """Prompts in slices and single tokens in one step, in changing company; some end, others come."""
        chance = random.Random(5)
        talk = ids_of(runtime, TALK)
        texts: dict[TokenSequence, list[int]] = {}
        for turn in range(40):
            if len(texts) < 6 and chance.random() < 0.4:
                begin = chance.randrange(len(talk))
                texts[opened(runtime)] = talk[begin:] + talk[:begin]
            elif texts and chance.random() < 0.15:
                sequence = chance.choice(list(texts))
                sequence.truncate(chance.randint(1, 9))
                texts[sequence] = [*sequence.ids, *chance.sample(talk, 90)]
            members = chance.sample(list(texts), chance.randint(1, len(texts))) if texts else []
            work = []
            for sequence in members:
                tokens = 1 if len(sequence.ids) and chance.random() < 0.8 else chance.randint(1, 20)
                begin = len(sequence.ids)
                work.append((sequence, texts[sequence][begin : begin + tokens]))
            work = [(sequence, ids) for sequence, ids in work if ids]
            for (sequence, _), scores in zip(work, stepped_together(runtime, work), strict=True):
                assert sequence.ids == texts[sequence][: len(sequence.ids)]
                if turn % 5 == 0:
                    # Token by token, as most of it was computed: with 4-bit weights a slice is rounded differently.
                    assert alike(scores, appended(runtime, opened(runtime), sequence.ids, slice_tokens=1))

    def test_what_fails_fails_alone_and_the_others_are_as_without_it(self, runtime: Runtime, opened: Open):
        joke = ids_of(runtime, JOKE)
        sequences = [opened(runtime) for _ in range(3)]
        for sequence in sequences:
            stepped(runtime, sequence, joke[:-1])
        results = runtime.step([(sequence, [token]) for sequence, token in zip(sequences, (5, 10**9, 5), strict=True)])
        assert isinstance(results[1], Exception)
        assert [len(sequence.ids) - len(joke) for sequence in sequences] == [0, -1, 0]
        for result in (results[0], results[2]):
            assert not isinstance(result, Exception)
            assert same(runtime, result, fresh(runtime, [*joke[:-1], 5]))


class TestTruncate:
    @pytest.mark.parametrize("length", [0, 1, 20, 93])
    def test_what_comes_behind_a_cut_is_as_in_a_fresh_sequence(self, runtime: Runtime, opened: Open, length: int):
        sequence, talk, joke = opened(runtime), ids_of(runtime, TALK), ids_of(runtime, JOKE)
        stepped(runtime, sequence, talk)
        assert sequence.truncate(length)
        assert sequence.ids == talk[:length]
        logits = stepped(runtime, sequence, joke)
        assert sequence.ids == talk[:length] + joke
        assert same(runtime, logits, fresh(runtime, talk[:length] + joke))

    def test_a_sequence_answers_another_prompt_as_a_fresh_one_does(self, runtime: Runtime, opened: Open):
        sequence, talk, joke = opened(runtime), ids_of(runtime, TALK), ids_of(runtime, JOKE)
        first = greedy(runtime, sequence, talk)
        assert sequence.truncate(0)
        assert greedy(runtime, sequence, joke) == greedy(runtime, opened(runtime), joke) != first


class TestCopy:
    def test_what_comes_behind_a_copy_is_as_in_a_fresh_sequence_and_the_source_is_left_alone(
        self, runtime: Runtime, opened: Open
    ):
        source, target = opened(runtime), opened(runtime)
        talk, joke = ids_of(runtime, TALK), ids_of(runtime, JOKE)
        stepped(runtime, source, talk)
        stepped(runtime, target, talk[:10])
        assert target.copy(source, 50)
        assert target.ids == talk[:50]
        assert same(runtime, stepped(runtime, target, joke), fresh(runtime, talk[:50] + joke))
        assert same(runtime, stepped(runtime, source, joke), fresh(runtime, talk + joke))


class TestMemory:
    def test_a_token_takes_its_keys_and_values_in_every_layer(self, onnx: Runtime, transformers: Runtime):
        numbers = 4 * 2 * 4 * 64  # layers, key and value, heads, numbers a head
        assert (onnx.bytes_per_token, transformers.bytes_per_token) == (numbers * 4, numbers * 2)

    def test_comes_back_when_a_sequence_is_closed(self, runtime: Runtime, opened: Open):
        source, prompt = opened(runtime), long_prompt(runtime, 1000)
        stepped(runtime, source, prompt)

        def filled() -> None:
            """A copy has the tokens at once; computing them would take half a second."""
            sequence = runtime.open(4096)
            assert sequence.copy(source, 999)
            stepped(runtime, sequence, prompt[999:])
            sequence.close()

        filled()
        before = own_memory()
        for _ in range(20):
            filled()
        assert own_memory() - before < 10 * 1000 * runtime.bytes_per_token


def own_memory() -> int:
    return int(psutil.Process().memory_info().rss)


class TestOnnx:
    def test_an_open_sequence_takes_no_memory_before_its_tokens_come(self, onnx: Runtime, opened: Open):
        stepped(onnx, opened(onnx), [5])
        before = own_memory()
        for _ in range(20):  # 32 MB each, if it were taken at once
            stepped(onnx, opened(onnx), [5])
        assert own_memory() - before < 20 * 2**20

    def test_memory_comes_with_the_tokens_and_goes_with_them(self, onnx: Runtime, opened: Open):
        prompt, count = long_prompt(onnx, 1600), 4
        appended(onnx, opened(onnx), prompt, slice_tokens=64)  # what a step takes for itself it keeps
        before, expected = own_memory(), count * len(prompt) * onnx.bytes_per_token
        sequences = [opened(onnx) for _ in range(count)]
        for sequence in sequences:
            appended(onnx, sequence, prompt, slice_tokens=64)
        assert own_memory() - before > 0.8 * expected
        for sequence in sequences:
            sequence.truncate(160)
        assert own_memory() - before < 0.3 * expected
        for sequence in sequences:
            assert same(onnx, stepped(onnx, sequence, prompt[160:200]), fresh(onnx, prompt[:200]))

    def test_other_threads_run_while_a_prompt_is_computed(self, onnx: Runtime, opened: Open):
        prompt, counted, done = long_prompt(onnx, 2000), [0], threading.Event()

        def count() -> None:
            while not done.is_set():
                counted[0] += 1
                time.sleep(0.001)

        sequence = opened(onnx)
        counter = threading.Thread(target=count)
        counter.start()
        before = counted[0]
        stepped(onnx, sequence, prompt)
        beside = counted[0] - before
        done.set()
        counter.join()
        assert beside >= 10  # beside onnxruntime-genai's own Python binding it was once or twice

    def test_a_sequence_that_outgrows_what_was_reserved_fails_and_is_left_as_it_was(self, onnx: Runtime, opened: Open):
        sequence = opened(onnx)
        prompt = long_prompt(onnx, 4097)
        appended(onnx, sequence, prompt[:4090], slice_tokens=512)
        (result,) = onnx.step([(sequence, prompt[4090:])])
        assert isinstance(result, Exception)
        assert sequence.ids == prompt[:4090]


class TestTransformers:
    def test_beyond_the_sliding_window_there_is_no_way_back_and_no_copy(self, transformers: Runtime, opened: Open):
        sequence, other = opened(transformers), opened(transformers)
        prompt = long_prompt(transformers, WINDOW)
        stepped(transformers, sequence, prompt[:-1])
        assert sequence.truncate(WINDOW - 2)
        stepped(transformers, sequence, prompt[-2:])
        assert not sequence.truncate(WINDOW - 1)
        assert sequence.ids == prompt
        assert sequence.truncate(WINDOW)
        assert not other.copy(sequence, 100)
        assert other.ids == []


def test_greedy_answers_of_fp32_onnx_are_those_of_transformers(transformers: Runtime, tmp_path: Path) -> None:
    export_onnx(MODEL_FOLDER, tmp_path / "onnx", "fp32")
    exact = OnnxRuntime(tmp_path / "onnx", threads=1)
    sample = [question.text for language in LANGUAGES for question in questions(language)[::300]]
    prompts = [JOKE, *(raw_prompt([Message("user", text)]) for text in sample)]
    assert len(prompts) > 15
    for prompt in prompts:
        given = []
        for runtime in (exact, transformers):
            sequence = runtime.open(4096)
            given.append(greedy(runtime, sequence, ids_of(runtime, prompt)))
            sequence.close()
        assert given[0] == given[1] != ""
