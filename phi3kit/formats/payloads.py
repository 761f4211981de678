"""Payloads: one question in every form that /invocations takes, and payloads that show what a signature lets through.

Knows the forms as text. Enforces nothing, sends nothing.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from phi3kit.core.records import Message, WrapperName
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
    """A command for a shell that sends a payload. The key, where one is asked, comes from the environment."""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"""curl -s {shlex.quote(f"{url}/invocations")} \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer ${{PHI3KIT_API_KEY:-none}}" \\
  -d {data}"""


def pretty(body: object) -> str:
    """JSON as a person writes it."""
    return json.dumps(body, ensure_ascii=False, indent=2)


def converted(text: str, wants: str) -> str | None:
    """A bare payload for the other wrapper: prompt to messages, or back; None where there is nothing to convert."""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    if wants == "messages" and isinstance(prompt := payload.get("prompt"), str):
        messages = parse_raw_prompt(prompt).messages or (Message("user", prompt),)
        return pretty({"messages": [{"role": each.role, "content": each.content} for each in messages if each.content]})
    if wants == "prompt" and isinstance(found := payload.get("messages"), list):
        texts = [each for each in found if isinstance(each, dict) and isinstance(each.get("content"), str)]
        roles = [each for each in texts if each.get("role") in ("system", "user", "assistant")]
        return pretty({"prompt": raw_prompt([Message(each["role"], each["content"]) for each in roles])})
    return None


def _example(name: str, payload: object, shows: str) -> Example:
    return Example(name, payload if isinstance(payload, str) else pretty(payload), shows)


_ASKED = messages_of(QUESTION)
_PROMPT = prompt_of(QUESTION)

EXAMPLES: tuple[Example, ...] = (
    _example("messages", {"messages": _ASKED}, "OpenAI's format, as the chapter sends it to the transformers wrapper."),
    _example("prompt", {"prompt": _PROMPT}, "A raw prompt, as the chapter sends it to the onnx wrapper."),
    _example(
        "messages and parameters",
        {"messages": _ASKED, "temperature": 0.5, "max_tokens": 20},
        "Parameters stand beside the messages.",
    ),
    _example(
        "two records",
        {"dataframe_records": [{"prompt": _PROMPT}, {"prompt": prompt_of("What is the capital of France?")}]},
        "A row a prompt: two answers.",
    ),
    _example(
        "split with messages",
        {"dataframe_split": {"columns": ["messages"], "data": [[_ASKED]]}},
        "A table with one row.",
    ),
    _example("inputs", {"inputs": {"prompt": _PROMPT}}, "The form of TensorFlow Serving, by column."),
    _example("inputs with messages", {"inputs": {"messages": _ASKED}}, "By column, lists become NumPy arrays."),
    _example("list of prompts", {"prompt": [_PROMPT, _PROMPT]}, "A list where the signature says string."),
    _example("extra field", {"prompt": _PROMPT, "temperature": 0.7}, "A field that only the other wrapper knows."),
    _example(
        "params", {"inputs": {"prompt": _PROMPT}, "params": {"temperature": 0.7}}, "Params that no signature has."
    ),
    _example("null", {"prompt": None}, "Required, and null."),
    _example("number", {"prompt": 5}, "A number where a text is asked for."),
    _example("whole temperature", {"messages": _ASKED, "temperature": 2}, "A double without a decimal point."),
    _example("temperature 0", {"messages": _ASKED, "temperature": 0.0}, "Greedy, as OpenAI's clients ask for it."),
    _example("n", {"messages": _ASKED, "n": 1}, "In the signature, so the schema is content."),
    _example("stop as text", {"messages": _ASKED, "stop": "."}, "OpenAI takes a text or a list."),
    _example("stop", {"messages": _ASKED, "stop": ["."]}, "In the signature, so the schema is content."),
    _example("no content", {"messages": [{"role": "user"}]}, "Optional since the chapter."),
    _example("unknown role", {"messages": [{"role": "wizard", "content": QUESTION}]}, "A role is any text."),
    _example("field in a message", {"messages": [{**_ASKED[0], "mood": "happy"}]}, "Extra fields, but one level down."),
    _example("wrong key", {"question": QUESTION}, "No form that the server knows."),
    _example("Python, not JSON", '{\n  "prompt": "Hi",\n  "stream": False\n}', "Almost JSON."),
)
