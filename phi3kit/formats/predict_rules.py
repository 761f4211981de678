"""Predict's rules: what each wrapper's own `predict` refuses or ignores of what the schema let through.

Knows the two wrappers. Each rule was seen at a real /invocations, and the tests ask there again.
"""

from collections.abc import Iterator
from typing import Any

from phi3kit.core.records import MESSAGE_ROLES, WrapperName
from phi3kit.formats.enforcement import Enforced, Refusal

# The scoring server hides what predict raises behind this sentence, unless it is MLflow's own.
UNEXPECTED = (
    "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe is "
    "compatible with the model for inference."
)
_NOT_OF_THE_PIPELINE = ("n", "stream", "presence_penalty", "frequency_penalty", "custom_inputs")


def refused_by_predict(wrapper: WrapperName, enforced: Enforced) -> Refusal | None:
    """Why predict refuses what reaches it; None when it answers, as far as can be known without the model."""
    rules = _transformers if wrapper == "transformers" else _onnx
    return next(rules(enforced), None)


def surprises(wrapper: WrapperName, enforced: Enforced) -> list[str]:
    """What happens to the payload without a word from MLflow."""
    notes = []
    if enforced.dropped:
        names = _names(enforced.dropped)
        notes.append(f"{names}: not in the signature, so MLflow drops it without an error.")
    if enforced.ignored_params:
        notes.append(
            f"params {_names(enforced.ignored_params)}: the signature has no such params, so they are ignored."
        )
    prompts = [row.get("prompt") for row in enforced.rows]
    if wrapper == "onnx" and any(isinstance(prompt, list) for prompt in prompts):
        notes.append(
            "A list of prompts at the top reaches predict as one row that holds a list, not as a row a prompt. This wrapper "
            "answers each of them; the chapter's answers only what it finds at [0]. dataframe_records makes real rows."
        )
    if wrapper == "transformers":
        notes += _chat_surprises(enforced)
    return notes


def _onnx(enforced: Enforced) -> Iterator[Refusal]:
    for row in enforced.rows:
        prompt = row.get("prompt")
        for each in prompt if isinstance(prompt, list) else [prompt]:
            if each is None:
                yield Refusal(
                    "The schema lets null through; the wrapper does not.", UNEXPECTED, "Send a text as prompt."
                )
            elif each == "":
                yield Refusal(
                    "The schema lets an empty text through; the wrapper does not.", UNEXPECTED, "Write a prompt."
                )
            elif "\0" in str(each):
                yield Refusal(
                    "The prompt has a NUL character, behind which onnxruntime-genai reads nothing.", UNEXPECTED,
                    "Delete \\u0000.",
                )  # fmt: skip


def _transformers(enforced: Enforced) -> Iterator[Refusal]:
    first = enforced.rows[0] if enforced.rows else {}
    given = {name for name, value in first.items() if value is not None}  # predict takes parameters from the first row
    if "stop" in given and first["stop"]:
        yield Refusal(
            "MLflow loads a tokenizer anew for stop, from a path that a logged model no longer knows.",
            UNEXPECTED, "Leave stop out here; the worker's /v1/chat/completions takes it.",
        )  # fmt: skip
    if enforced.as_arrays:
        yield Refusal(
            "inputs and instances hand the messages over as a NumPy array, which the chat template does not take.",
            "Input messages should be list of dictionaries, but got: <class 'numpy.ndarray'>.",
            "Send messages at the top, or as dataframe_split or dataframe_records.",
        )
    for row in enforced.rows:
        yield from _unrendered(row.get("messages"))
    if wrong := [name for name in _NOT_OF_THE_PIPELINE if name in given]:
        yield Refusal(
            f"{_names(wrong)}: in the signature, but transformers' pipeline does not know it.",
            "The params provided to the `predict` method are not valid for pipeline TextGenerationPipeline.",
            f"Leave {_names(wrong)} out.",
        )
    if given >= {"temperature"} and first["temperature"] <= 0:
        yield Refusal(
            "The logged model samples (do_sample is true), and transformers samples only above temperature 0.",
            UNEXPECTED, "Send a temperature above 0, such as 0.01.",
        )  # fmt: skip


def _unrendered(messages: Any) -> Iterator[Refusal]:
    if not messages:
        yield Refusal(
            "There is no message.",
            "Failed to apply chat template: Cannot apply chat template to an empty conversation. "
            "Provide at least one message.",
            "Add a message with role and content.",
        )
        return
    for index, message in enumerate(messages):
        if message.get("role") in MESSAGE_ROLES and message.get("content") is None:
            yield Refusal(
                f"messages[{index}] has no content. In the signature it is optional; the chat template needs it.",
                "Failed to apply chat template", "Add content.",
            )  # fmt: skip


def _chat_surprises(enforced: Enforced) -> list[str]:
    notes = []
    roles = [message.get("role") for row in enforced.rows for message in row.get("messages") or []]
    if unknown := [str(role) for role in roles if role not in MESSAGE_ROLES]:
        notes.append(
            f"role {_names(unknown)}: the schema asks for any text, and the chat template leaves such messages out silently."
        )
    if any(row.get("tools") is not None for row in enforced.rows):
        notes.append("tools are accepted and ignored: Phi-3's chat template does not mention them.")
    others = [name for name in enforced.rows[0] if name != "messages"] if enforced.rows else []
    if len(enforced.rows) > 1 and others:
        notes.append(f"{_names(others)}: taken from the first row, for all rows.")
    return notes


def _names(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(dict.fromkeys(names))
