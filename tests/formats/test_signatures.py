"""Signatures: the chapter's notation, and two signatures field by field."""

import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Object, ParamSchema, ParamSpec, Property, Schema

from phi3kit.core.records import WrapperName
from phi3kit.formats.signatures import ComparedField, Field, chapter_signature, compare, describe, field_tree

# As the chapter prints them, code block by code block.
CHAPTER_TRANSFORMERS = """
    {inputs: 
      ['messages': Array({content: string (required), name: string (optional), role: string (required)}) (required), 'temperature': double (optional), 'max_tokens': long (optional), 'stop': Array(string) (optional), 'n': long (optional), 'stream': boolean (optional)],
    outputs: 
      ['id': string (required), 'object': string (required), 'created': long (required), 'model': string (required), 'choices': Array({finish_reason: string (required), index: long (required), message: {content: string (required), name: string (optional), role: string (required)} (required)}) (required), 'usage': {completion_tokens: long (required), prompt_tokens: long (required), total_tokens: long (required)} (required)],
    params: 
      None}
"""  # noqa: W291
CHAPTER_ONNX = """
    {inputs: 
      ['prompt': string (required)],
    outputs: 
      [string (required)],
    params: 
      None}
"""  # noqa: W291


def one_line(text: str) -> str:
    return " ".join(text.split())


def inputs_of(*columns: ColSpec) -> ModelSignature:
    return ModelSignature(inputs=Schema(list(columns)))


class TestChapterSignature:
    @pytest.mark.parametrize(("wrapper", "printed"), [("transformers", CHAPTER_TRANSFORMERS), ("onnx", CHAPTER_ONNX)])
    def test_is_described_in_the_words_that_the_chapter_prints(self, wrapper: WrapperName, printed: str):
        assert one_line(describe(chapter_signature(wrapper)).notation) == one_line(printed)


class TestDescribe:
    def test_inputs_outputs_and_params_can_be_had_alone(self):
        description = describe(chapter_signature("onnx"))
        assert description.as_json() == {
            "inputs": "['prompt': string (required)]",
            "outputs": "[string (required)]",
            "params": "None",
        }

    def test_nested_fields_are_named_by_their_path(self):
        fields = {field.name: str(field) for field in describe(chapter_signature("transformers")).fields}
        assert fields["messages"] == "Array(object) (required)"
        assert fields["messages[].name"] == "string (optional)"
        assert fields["choices[].message.content"] == "string (required)"
        assert fields["usage.total_tokens"] == "long (required)"
        assert (
            len(fields) == 6 + 3 + 6 + 3 + 3 + 3
        )  # columns, in messages, columns, in choices, in its message, in usage

    def test_a_column_without_a_name_is_said_to_have_none(self):
        (field,) = (field for field in describe(chapter_signature("onnx")).fields if field.part == "outputs")
        assert (field.name, field.type, field.required) == ("(unnamed)", "string", True)

    def test_maps_are_unfolded_behind_braces(self):
        column = ColSpec(Map(Object([Property("size", DataType.long)])), "files")
        fields = [(field.name, field.type) for field in describe(inputs_of(column)).fields]
        assert fields == [("files", "Map(str -> object)"), ("files{}.size", "long")]

    def test_params_are_named_with_their_defaults(self):
        signature = inputs_of(ColSpec(DataType.string, "prompt"))
        signature.params = ParamSchema([ParamSpec("temperature", DataType.double, 0.2)])
        assert "'temperature': double (default: 0.2)" in describe(signature).params


class TestCompare:
    def test_equal_signatures_have_no_differences(self):
        rows = compare(chapter_signature("transformers"), chapter_signature("transformers"))
        assert {row.verdict for row in rows} == {"same"}
        assert len(rows) == 24

    def test_a_field_on_one_side_only_is_missing_on_the_other(self):
        rows = compare(chapter_signature("onnx"), chapter_signature("transformers"))
        assert rows[0] == ComparedField("inputs", "prompt", Field("inputs", "prompt", "string", True), None)
        assert rows[1] == ComparedField("inputs", "messages", None, Field("inputs", "messages", "Array(object)", True))
        assert [row.name for row in rows if row.verdict == "only A"] == ["prompt", "(unnamed)"]
        assert {row.verdict for row in rows} == {"only A", "only B"}

    def test_inputs_come_before_outputs_in_as_order_then_what_only_b_has(self):
        a = inputs_of(ColSpec(DataType.string, "z"), ColSpec(DataType.string, "y"))
        b = ModelSignature(
            inputs=Schema([ColSpec(DataType.string, "b"), ColSpec(DataType.string, "y")]),
            outputs=Schema([ColSpec(DataType.string, "a")]),
        )
        assert [(row.part, row.name) for row in compare(a, b)] == [
            ("inputs", "z"),
            ("inputs", "y"),
            ("inputs", "b"),
            ("outputs", "a"),
        ]

    def test_a_field_that_became_optional_or_changed_its_type_differs(self):
        a = inputs_of(ColSpec(DataType.string, "stop"), ColSpec(DataType.long, "n"))
        b = inputs_of(ColSpec(DataType.string, "stop", required=False), ColSpec(DataType.double, "n"))
        assert [row.as_json() for row in compare(a, b)] == [
            {"part": "inputs", "name": "stop", "in_a": "string (required)", "in_b": "string (optional)"}
            | {"verdict": "differs"},
            {"part": "inputs", "name": "n", "in_a": "long (required)", "in_b": "double (required)"}
            | {"verdict": "differs"},
        ]

    def test_a_row_says_in_one_word_each_what_both_have_and_in_two_what_differs(self):
        a = inputs_of(ColSpec(DataType.string, "stop"), ColSpec(DataType.long, "n"))
        b = inputs_of(ColSpec(DataType.string, "stop", required=False), ColSpec(DataType.double, "n"))
        assert [(row.type, row.required) for row in compare(a, b)] == [
            ("string", "required → optional"),
            ("long → double", "required"),
        ]

    def test_params_are_compared_with_their_defaults_behind_the_outputs(self):
        a, b = (inputs_of(ColSpec(DataType.string, "prompt")) for _ in "ab")
        a.params = ParamSchema([ParamSpec("temperature", DataType.double, 0.2), ParamSpec("top_k", DataType.long, 50)])
        b.params = ParamSchema([ParamSpec("temperature", DataType.double, 0.7)])
        rows = compare(a, b)
        assert [(row.part, row.name, row.type, row.verdict) for row in rows] == [
            ("inputs", "prompt", "string", "same"),
            ("params", "temperature", "double, default 0.2 → double, default 0.7", "differs"),
            ("params", "top_k", "long, default 50", "only A"),
        ]
        assert not any(row.a.required for row in rows if row.part == "params" and row.a)


class TestFieldTree:
    FIELDS = describe(chapter_signature("transformers")).fields

    def test_a_field_lies_in_the_one_that_its_path_names(self) -> None:
        tree = field_tree(self.FIELDS)
        assert list(tree) == ["inputs", "outputs"]
        messages, temperature = tree["inputs"][:2]
        assert (messages.name, messages.field.type) == ("messages", "Array(object)")
        assert [node.name for node in messages.nodes] == ["content", "name", "role"]
        assert (temperature.name, temperature.nodes) == ("temperature", ())
        (choices,) = [node for node in tree["outputs"] if node.name == "choices"]
        (message,) = [node for node in choices.nodes if node.name == "message"]
        assert [node.field.name for node in message.nodes] == [
            f"choices[].message.{name}" for name in ("content", "name", "role")
        ]

    def test_a_search_keeps_what_has_its_text_and_what_that_lies_in(self) -> None:
        tree = field_tree(self.FIELDS, "Finish")
        assert list(tree) == ["outputs"]
        ((choices,), (reason,)) = tree["outputs"], tree["outputs"][0].nodes
        assert (choices.name, reason.name, reason.nodes) == ("choices", "finish_reason", ())
        assert [node.name for node in field_tree(self.FIELDS, "boolean")["inputs"]] == ["stream"]
        assert field_tree(self.FIELDS, "nothing") == {}

    def test_a_path_is_what_the_schema_says_and_not_what_a_name_looks_like(self) -> None:
        city = Property("city", DataType.string)
        columns = Schema([ColSpec(Object([city]), "address"), ColSpec(DataType.string, "address.town")])
        tree = field_tree(describe(ModelSignature(inputs=columns)).fields)["inputs"]
        assert [(node.name, [each.name for each in node.nodes]) for node in tree] == [
            ("address", ["city"]), ("address.town", []),
        ]  # fmt: skip
        unnamed = field_tree(describe(ModelSignature(inputs=Schema([ColSpec(Object([city]))] * 2))).fields)["inputs"]
        assert [[each.name for each in node.nodes] for node in unnamed] == [["city"], ["city"]]

    def test_names_without_a_letter_are_fields_too(self) -> None:
        params = ParamSchema([ParamSpec("", DataType.long, 1), ParamSpec("x", DataType.long, 1)])
        tree = field_tree(describe(ModelSignature(params=params)).fields)
        assert [node.name for node in tree["params"]] == ["", "x"]
