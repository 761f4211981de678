"""ONNX graph: the model builder's graphs give its library's results, graphs that would give wrong ones are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og
import pytest
import torch
from onnx import TensorProto, helper
from transformers import Phi3Config, Phi3ForCausalLM

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import WorkerFailed
from phi3kit.embedded.corpus import LANGUAGES, questions
from phi3kit.packaging.export import export_onnx
from phi3kit.tracking.logged_models import resolve
from phi3kit.worker.loading import load_runtime
from phi3kit.worker.onnx_graph import OnnxGraph
from phi3kit.worker.runtime_onnx import OnnxRuntime
from tests.conftest import Built
from tests.support.greedy import appended, stepped

SHORT = 512  # the longest text that takes the factors for short texts, in the model below


@pytest.fixture(scope="module")
def export(built: Built) -> Path:
    """The built onnx wrapper's ONNX folder."""
    (folder,) = (path.parent for path in resolve(built.uri("onnx"), built.settings).folder.rglob("genai_config.json"))
    return folder


class TestAsTheLibraryRunsIt:
    def test_greedy_tokens_are_those_of_its_own_loop(self, export: Path) -> None:
        runtime = OnnxRuntime(export, threads=1)
        model = og.Model(str(export))
        texts = [question.text for language in LANGUAGES for question in questions(language)[::300]]
        assert len(texts) > 10
        for text in texts:
            prompt = runtime.tokenizer.encode(f"<|user|>\n{text}<|end|>\n<|assistant|>\n", add_special_tokens=False).ids
            params = og.GeneratorParams(model)
            params.set_search_options(max_length=len(prompt) + 40, do_sample=False)
            generator = og.Generator(model, params)
            generator.append_tokens(prompt)
            sequence = runtime.open(len(prompt) + 40)
            scores, written = stepped(runtime, sequence, prompt), []
            while not generator.is_done():
                generator.generate_next_token()
                written.append(int(scores.argmax()))
                assert written[-1] == generator.get_next_tokens()[0]
                if written[-1] not in runtime.end_ids:
                    scores = stepped(runtime, sequence, written[-1:])
            assert len(written) > 3
            sequence.close()


@pytest.fixture(scope="module")
def long_context(tmp_path_factory: pytest.TempPathFactory) -> tuple[Phi3ForCausalLM, OnnxRuntime]:
    """A small Phi-3 with random weights that treats texts of more than 512 tokens as the 128k models do those of 4,096."""
    folder = tmp_path_factory.mktemp("long")
    given = json.loads((MODEL_FOLDER / "config.json").read_text("utf-8"))
    factors = {"long_factor": [1 + 0.3 * i for i in range(32)], "short_factor": [1 + 0.02 * i for i in range(32)]}
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {name: given[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    lengths = {"max_position_embeddings": 16384, "original_max_position_embeddings": SHORT, "sliding_window": None}
    torch.manual_seed(0)
    config = Phi3Config(**sizes, **tokens, **lengths, rope_scaling={"type": "longrope", **factors})
    model = Phi3ForCausalLM(config).eval()
    model.save_pretrained(folder / "weights")
    # As the hub's config.json has it; transformers writes newer names, which the model builder does not know.
    path = folder / "weights/config.json"
    written = json.loads(path.read_text("utf-8"))
    del written["rope_parameters"]
    written |= {"rope_scaling": {"type": "longrope", **factors}, "rope_theta": 10000.0}
    path.write_text(json.dumps(written), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL_FOLDER / name, folder / "weights" / name)
    export_onnx(folder / "weights", folder / "onnx", "fp32")
    runtime = OnnxRuntime(folder / "onnx", threads=1)
    runtime.limit(2048)
    return model, runtime


class TestLongContext:
    @pytest.fixture
    def text(self) -> list[int]:
        return [int(token) for token in np.random.default_rng(0).integers(300, 4000, 1000)]

    @pytest.mark.parametrize("length", [100, SHORT, SHORT + 1, 1000])
    def test_scores_are_those_of_transformers_on_both_sides_of_the_threshold(
        self, long_context: tuple[Phi3ForCausalLM, OnnxRuntime], text: list[int], length: int
    ) -> None:
        model, runtime = long_context
        with torch.inference_mode():
            expected = model(torch.tensor([text[:length]])).logits[0, -1].numpy()
        sequence = runtime.open(length)
        scores = appended(runtime, sequence, text[:length], slice_tokens=64)
        assert np.abs(scores - expected).max() < 1e-4
        assert np.abs(expected).max() > 0.5
        sequence.close()

    def test_short_and_long_ones_in_one_step_get_their_own_factors(
        self, long_context: tuple[Phi3ForCausalLM, OnnxRuntime], text: list[int]
    ) -> None:
        model, runtime = long_context
        lengths = (20, 700, 300, 600)
        sequences = [runtime.open(length) for length in lengths]
        for sequence, length in zip(sequences, lengths, strict=True):
            appended(runtime, sequence, text[: length - 1], slice_tokens=64)
        results = runtime.step(
            [(sequence, [text[length - 1]]) for sequence, length in zip(sequences, lengths, strict=True)]
        )
        for length, result in zip(lengths, results, strict=True):
            with torch.inference_mode():
                expected = model(torch.tensor([text[:length]])).logits[0, -1].numpy()
            assert not isinstance(result, Exception)
            assert np.abs(result - expected).max() < 1e-4
        for sequence in sequences:
            sequence.close()

    def test_a_sequence_serves_only_texts_of_its_own_side(
        self, long_context: tuple[Phi3ForCausalLM, OnnxRuntime], text: list[int]
    ) -> None:
        _, runtime = long_context
        short, long = runtime.open(SHORT), runtime.open(SHORT + 1)
        assert [short.serves(tokens) for tokens in (1, SHORT, SHORT + 1)] == [True, True, False]
        assert [long.serves(tokens) for tokens in (1, SHORT, SHORT + 1)] == [False, False, True]
        stepped(runtime, short, text[:50])
        assert not long.copy(short, 40)
        for sequence in (short, long):
            sequence.close()


def with_config(export: Path, folder: Path, change: Callable[[dict[str, dict[str, dict[str, str]]]], None]) -> Path:
    """A copy of an ONNX folder with another genai_config.json."""
    shutil.copytree(export, folder)
    config = json.loads((folder / "genai_config.json").read_text("utf-8"))
    change(config["model"])
    (folder / "genai_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def with_graph(export: Path, folder: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of an ONNX folder with another graph over the same weights."""
    shutil.copytree(export, folder)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, folder / "model.onnx")
    return folder


def add_position_ids(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch_size", "length"]))


def use_one_length_for_all_rows(graph: onnx.GraphProto) -> None:
    """A graph that takes the width of the mask for the length of every row."""
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    lengths = attention[0].input[5]
    behind = next(place for place, node in enumerate(graph.node) if lengths in node.output) + 1
    for node in reversed(
        [
            helper.make_node("ReduceMax", [lengths], ["longest"], keepdims=1),
            helper.make_node("Shape", [lengths], ["rows"]),
            helper.make_node("Expand", ["longest", "rows"], ["same_lengths"]),
        ]
    ):
        graph.node.insert(behind, node)
    for node in attention:
        node.input[5] = "same_lengths"


def grow_by_concatenation(graph: onnx.GraphProto) -> None:
    """A graph that returns all keys in a new array, one token longer."""
    output = next(output for output in graph.output if output.name == "present.0.key")
    for node in graph.node:
        node.output[:] = ["grown" if name == output.name else name for name in node.output]
    graph.node.append(helper.make_node("Concat", ["grown", "grown"], [output.name], axis=2))


class TestRefusal:
    def test_an_input_that_is_not_there_is_named(self, export: Path, tmp_path: Path) -> None:
        folder = with_config(
            export, tmp_path / "onnx", lambda model: model["decoder"]["inputs"].update(input_ids="ids")
        )
        with pytest.raises(WorkerFailed, match=r"cannot be served. Its graph has no input ids"):
            OnnxGraph(folder, threads=1)

    def test_more_layers_than_there_are_is_refused(self, export: Path, tmp_path: Path) -> None:
        folder = with_config(export, tmp_path / "onnx", lambda model: model["decoder"].update(num_hidden_layers=5))
        with pytest.raises(WorkerFailed, match=r"no input past_key_values.4.key"):
            OnnxGraph(folder, threads=1)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (add_position_ids, "has the input position_ids, which this worker does not support"),
            (use_one_length_for_all_rows, "beside another conversation's gets other scores"),
            (grow_by_concatenation, "ONNX Runtime says: .*present.0.key"),
        ],
    )
    def test_a_graph_that_would_be_run_wrongly_is_refused_when_it_is_loaded(
        self, export: Path, tmp_path: Path, change: Callable[[onnx.GraphProto], None], why: str
    ) -> None:
        folder = with_graph(export, tmp_path / "onnx", change)
        with pytest.raises(WorkerFailed, match=why):
            OnnxRuntime(folder, threads=1)

    def test_the_reason_reaches_who_starts_the_worker(self, export: Path, tmp_path: Path) -> None:
        with_graph(export, tmp_path / "onnx", add_position_ids)
        artifacts = "flavors: {python_function: {artifacts: {phi3-mini-onnx: {path: onnx}}}}"
        (tmp_path / "MLmodel").write_text(artifacts, "utf-8")
        with pytest.raises(WorkerFailed, match="position_ids"):
            load_runtime(tmp_path, "onnx", threads=1)


def test_more_addresses_than_the_system_lends_are_an_error_that_says_so(export: Path) -> None:
    runtime = OnnxRuntime(export, threads=1)
    with pytest.raises(WorkerFailed, match=r"does not provide addresses for 32 of .*PHI3KIT_KV_BUDGET_MB"):
        runtime.limit(2**36)
