"""Both engines with real models: the same scores however a sequence came to be."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from phi3kit.chat_template import raw_prompt
from phi3kit.embedded import MODEL_FOLDER
from phi3kit.embedded.corpus import LANGUAGES, questions
from phi3kit.logged_models import resolve
from phi3kit.onnx_export import export_onnx
from phi3kit.records import Message
from phi3kit.server.genai import GenaiError, Model
from phi3kit.server.loading import load_runtime
from phi3kit.server.runtime import Logits, Runtime
from phi3kit.server.runtime_onnx import OnnxRuntime
from tests.conftest import Built
from tests.greedy import appended, greedy

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
    """Each of both: a test that takes it runs twice."""
    loaded: Runtime = request.getfixturevalue(request.param)
    return loaded


def ids_of(runtime: Runtime, text: str) -> list[int]:
    return list(runtime.tokenizer.encode(text, add_special_tokens=False).ids)


def long_prompt(runtime: Runtime, tokens: int) -> list[int]:
    return (ids_of(runtime, TALK) * 40)[:tokens]


def same(runtime: Runtime, one: Logits, other: Logits) -> bool:
    """Scores reach 30; the transformers model has 16-bit numbers, whose last digit there is 0.016."""
    return np.allclose(one, other, rtol=0, atol=0.1 if runtime.bytes_per_token == 4096 else 1e-3)


def fresh(runtime: Runtime, ids: list[int]) -> Logits:
    sequence = runtime.open(4096)
    logits = sequence.append(ids)
    sequence.close()
    return logits


class TestAppend:
    @pytest.mark.parametrize("slice_tokens", [1, 7, 64])
    def test_a_prompt_in_slices_is_answered_as_in_one_piece(self, runtime: Runtime, slice_tokens: int):
        prompt = ids_of(runtime, TALK)
        whole = greedy(runtime, runtime.open(512), prompt)
        assert len(prompt) > 100
        assert len(whole.split()) > 5
        assert greedy(runtime, runtime.open(512), prompt, slice_tokens=slice_tokens) == whole

    def test_slices_make_no_difference_beyond_the_sliding_window(self, runtime: Runtime):
        prompt = long_prompt(runtime, WINDOW + 300)
        assert same(runtime, appended(runtime.open(4096), prompt, slice_tokens=64), fresh(runtime, prompt))

    def test_scores_are_the_callers_own(self, runtime: Runtime):
        sequence = runtime.open(512)
        logits = sequence.append(ids_of(runtime, JOKE))
        before = logits.copy()
        sequence.append([5])
        assert (logits.shape, str(logits.dtype)) == ((4096,), "float32")
        assert np.array_equal(logits, before)

    def test_two_sequences_that_take_turns_do_not_mix(self, runtime: Runtime):
        talk, joke = ids_of(runtime, TALK), ids_of(runtime, JOKE)
        one, other = runtime.open(512), runtime.open(512)
        for begin in range(0, len(joke), 5):
            one.append(talk[begin : begin + 5])
            logits = other.append(joke[begin : begin + 5])
        assert same(runtime, logits, fresh(runtime, joke))
        assert same(runtime, one.append(talk[len(one.ids) :]), fresh(runtime, talk))


class TestTruncate:
    @pytest.mark.parametrize("length", [0, 1, 20, 93])
    def test_what_comes_behind_a_cut_is_as_in_a_fresh_sequence(self, runtime: Runtime, length: int):
        sequence, talk, joke = runtime.open(512), ids_of(runtime, TALK), ids_of(runtime, JOKE)
        sequence.append(talk)
        assert sequence.truncate(length)
        assert sequence.ids == talk[:length]
        logits = sequence.append(joke)
        assert sequence.ids == talk[:length] + joke
        assert same(runtime, logits, fresh(runtime, talk[:length] + joke))

    def test_a_sequence_answers_another_prompt_as_a_fresh_one_does(self, runtime: Runtime):
        sequence, talk, joke = runtime.open(512), ids_of(runtime, TALK), ids_of(runtime, JOKE)
        first = greedy(runtime, sequence, talk)
        assert sequence.truncate(0)
        assert greedy(runtime, sequence, joke) == greedy(runtime, runtime.open(512), joke) != first


class TestMemory:
    def test_a_token_takes_its_keys_and_values_in_every_layer(self, onnx: Runtime, transformers: Runtime):
        numbers = 4 * 2 * 4 * 64  # layers, key and value, heads, numbers a head
        assert (onnx.bytes_per_token, transformers.bytes_per_token) == (numbers * 4, numbers * 2)

    def test_comes_back_when_a_sequence_is_closed(self, runtime: Runtime):
        fresh(runtime, [5])
        before = psutil.Process().memory_info().rss
        for _ in range(40):  # 32 MB each in the onnx wrapper
            fresh(runtime, [5])
        assert psutil.Process().memory_info().rss - before < 400 * 2**20


class TestOnnx:
    def test_other_threads_run_while_a_prompt_is_computed(self, onnx: Runtime):
        prompt, counted, done = long_prompt(onnx, 2000), [0], threading.Event()

        def count() -> None:
            while not done.is_set():
                counted[0] += 1

        def speed(work: Callable[[], object]) -> float:
            before, began = counted[0], time.perf_counter()
            work()
            return (counted[0] - before) / (time.perf_counter() - began)

        sequence = onnx.open(4096)
        counter = threading.Thread(target=count)
        counter.start()
        alone = speed(lambda: time.sleep(0.5))
        beside = speed(lambda: sequence.append(prompt))
        done.set()
        counter.join()
        assert beside > alone / 5  # the library's Python binding leaves a hundredth

    def test_a_prompt_beyond_the_room_is_refused_in_the_librarys_words(self, onnx: Runtime):
        sequence = onnx.open(16)
        with pytest.raises(GenaiError, match=r"input_ids size \(17\).*exceeds max length \(16\)"):
            sequence.append(long_prompt(onnx, 17))
        assert sequence.ids == []

    def test_a_missing_folder_is_refused_in_the_librarys_words(self, tmp_path: Path):
        with pytest.raises(GenaiError, match=f"Error opening {tmp_path}/gone/genai_config.json"):
            Model(tmp_path / "gone", {})


class TestTransformers:
    def test_beyond_the_sliding_window_there_is_no_way_back(self, transformers: Runtime):
        sequence = transformers.open(4096)
        prompt = long_prompt(transformers, WINDOW)
        sequence.append(prompt[:-1])
        assert sequence.truncate(WINDOW - 2)
        sequence.append(prompt[-2:])
        assert not sequence.truncate(WINDOW - 1)
        assert sequence.ids == prompt
        assert sequence.truncate(WINDOW)


def test_greedy_answers_of_fp32_onnx_are_those_of_transformers(transformers: Runtime, tmp_path: Path) -> None:
    export_onnx(MODEL_FOLDER, tmp_path / "onnx", "fp32")
    exact = OnnxRuntime(tmp_path / "onnx", threads=1)
    sample = [question.text for language in LANGUAGES for question in questions(language)[::150]]
    prompts = [JOKE, *(raw_prompt([Message("user", text)]) for text in sample)]
    assert len(prompts) > 30
    for prompt in prompts:
        given = []
        for runtime in (exact, transformers):
            sequence = runtime.open(512)
            given.append(greedy(runtime, sequence, ids_of(runtime, prompt)))
            sequence.close()
        assert given[0] == given[1] != ""
