"""Payloads: one question in every form that /invocations takes, and examples of what a signature lets through.

Knows the forms as text. Enforces and sends nothing.
"""

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from phi3kit.core.records import MESSAGE_ROLES, Message, WrapperName
from phi3kit.formats.chat_template import raw_prompt
from phi3kit.formats.raw_prompt import parse_raw_prompt

QUESTION = "What is the capital of Spain?"
Json = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A payload to try, and what it shows."""

    name: str
    payload: str  # JSON, or what looks like it
    shows: str
    predict: str = ""  # what `predict` makes of it, where it passes the schema and the answer may surprise


def messages_of(question: str) -> list[Json]:
    """The question in OpenAI's format."""
    return [{"role": "user", "content": question}]


def prompt_of(question: str) -> str:
    """The question as a raw prompt."""
    return raw_prompt([Message("user", question)])


def renderings(question: str, wrapper: WrapperName, model_uri: str, url: str) -> dict[str, tuple[str, str]]:
    """The question for a wrapper's signature: name of the form to (text, language).

    url: of a server of the model, without /invocations.
    """
    body: Json = {"messages": messages_of(question)} if wrapper == "transformers" else {"prompt": prompt_of(question)}
    answer = 'answer[0]["choices"][0]["message"]["content"]' if wrapper == "transformers" else "answer[0]"
    row = f"""import mlflow
import pandas as pd

model = mlflow.pyfunc.load_model({model_uri!r})
row = pd.DataFrame([{body!r}])
answer = model.predict(row)
print({answer})
"""
    named = "OpenAI JSON" if wrapper == "transformers" else '{"prompt": …}'
    split = {"dataframe_split": {"columns": list(body), "data": [list(body.values())]}}
    return {
        named: (pretty(body), "json"),
        "pandas row": (row, "python"),
        "curl": (curl(url, body), "bash"),
        "dataframe_split": (json.dumps(split, ensure_ascii=False), "json"),
    }


def curl(url: str, body: Json) -> str:
    """A shell command that sends a payload, with the key from the environment if there is one."""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"""curl -s {shlex.quote(f"{url}/invocations")} \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer ${{PHI3KIT_API_KEY:-none}}" \\
  -d {data}"""


def pretty(body: object) -> str:
    """JSON as a person writes it."""
    return json.dumps(body, ensure_ascii=False, indent=2)


def converted(text: str, wants: str) -> str | None:
    """A bare payload for the other wrapper: prompt to messages, or back; None if it cannot be converted."""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    if wants == "messages" and isinstance(prompt := payload.get("prompt"), str):
        messages = parse_raw_prompt(prompt).messages or (Message("user", prompt),)
        return pretty({"messages": [asdict(each) for each in messages if each.content]})
    if wants == "prompt" and isinstance(found := payload.get("messages"), list):
        texts = [each for each in found if isinstance(each, dict) and isinstance(each.get("content"), str)]
        said = [Message(each["role"], each["content"]) for each in texts if each.get("role") in MESSAGE_ROLES]
        return pretty({"prompt": raw_prompt(said)})
    return None


def _example(name: str, payload: object, shows: str, predict: str = "") -> Example:
    return Example(name, payload if isinstance(payload, str) else pretty(payload), shows, predict)


_MESSAGES = messages_of(QUESTION)
_PROMPT = prompt_of(QUESTION)
_OTHER = "What is the capital of France?"

# What `predict` makes of each was seen at a real /invocations, where tests send them again.
# fmt: off
EXAMPLES: tuple[Example, ...] = (
    _example("messages", {"messages": _MESSAGES},
             "OpenAI's format, as the chapter sends it to the transformers wrapper."),
    _example("prompt", {"prompt": _PROMPT}, "A raw prompt, as the chapter sends it to the onnx wrapper."),
    _example("messages and parameters", {"messages": _MESSAGES, "temperature": 0.5, "max_tokens": 20},
             "Parameters go beside the messages."),
    _example("two records", {"dataframe_records": [{"prompt": _PROMPT}, {"prompt": prompt_of(_OTHER)}]},
             "One row per prompt: two answers."),
    _example("parameters in records",
             {"dataframe_records": [{"messages": _MESSAGES, "max_tokens": 2},
                                    {"messages": messages_of(_OTHER), "max_tokens": 20}]},
             "Different parameters in each row.", "The parameters of the first row are used for all rows."),
    _example("split with messages", {"dataframe_split": {"columns": ["messages"], "data": [[_MESSAGES]]}},
             "A table with one row."),
    _example("inputs", {"inputs": {"prompt": _PROMPT}}, "The form of TensorFlow Serving, by column."),
    _example("inputs with messages", {"inputs": {"messages": _MESSAGES}}, "By column, lists become NumPy arrays.",
             "Refused: the chat template takes no NumPy array. Send messages at the top, or as dataframe_split or "
             "dataframe_records."),
    _example("list of prompts", {"prompt": [_PROMPT, _PROMPT]}, "A list where the signature says string.",
             "It arrives as one row that holds a list, not as one row per prompt. This wrapper answers each of them; the "
             "chapter's answers only what it finds at [0]. dataframe_records makes real rows."),
    _example("extra field", {"prompt": _PROMPT, "temperature": 0.7}, "A field that only the other wrapper knows."),
    _example("params", {"inputs": {"prompt": _PROMPT}, "params": {"temperature": 0.7}}, "Params that no signature has."),
    _example("null", {"prompt": None}, "Required, and null.",
             "Refused: the schema lets null through; the wrapper does not."),
    _example("empty prompt", {"prompt": ""}, "An empty text.",
             "Refused: the schema lets it through; the wrapper does not."),
    _example("number", {"prompt": 5}, "A number instead of a text."),
    _example("whole temperature", {"messages": _MESSAGES, "temperature": 2}, "A double without a decimal point."),
    _example("temperature 0", {"messages": _MESSAGES, "temperature": 0.0}, "Greedy, as OpenAI's clients ask for it.",
             "Refused: the logged model samples (do_sample is true), and transformers samples only above temperature 0. "
             "Send 0.01."),
    _example("n", {"messages": _MESSAGES, "n": 1}, "In the signature, so the schema accepts it.",
             "Refused: transformers' pipeline does not know n. Nor does it know stream, presence_penalty, "
             "frequency_penalty and custom_inputs, which are in the signature too."),
    _example("stop as text", {"messages": _MESSAGES, "stop": "."}, "OpenAI takes a text or a list."),
    _example("stop", {"messages": _MESSAGES, "stop": ["."]}, "In the signature, so the schema accepts it.",
             "Refused: MLflow loads a tokenizer anew for stop, from a path that a logged model no longer knows. The "
             "worker's /v1/chat/completions takes stop."),
    _example("tools",
             {"messages": _MESSAGES,
              "tools": [{"type": "function", "function": {"name": "clock", "parameters": {"properties": {}}}}]},
             "In the signature, so the schema accepts it.", "Ignored: Phi-3's chat template does not mention tools."),
    _example("no message", {"messages": []}, "A list without messages.", "Refused: the chat template needs a message."),
    _example("no content", {"messages": [{"role": "user"}]}, "Optional since the chapter.",
             "Refused: the chat template needs the content."),
    _example("unknown role", {"messages": [{"role": "wizard", "content": QUESTION}]}, "A role is any text.",
             "The chat template silently leaves out a message with an unknown role."),
    _example("field in a message", {"messages": [{**_MESSAGES[0], "mood": "happy"}]},
             "Extra fields, but one level down."),
    _example("wrong key", {"question": QUESTION}, "Not a form that the server knows."),
    _example("Python, not JSON", '{\n  "prompt": "Hi",\n  "stream": False\n}', "Almost JSON."),
)
# fmt: on
