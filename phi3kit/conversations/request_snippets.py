"""Request snippets: one request as runnable code: with the `openai` client, plain MLflow, and curl.

Knows what each interface cannot express, and says so in a comment. Runs nothing.
"""

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any, Literal

from phi3kit.core.records import Message, WrapperName
from phi3kit.core.secret import SecretUrl
from phi3kit.endpoints.connections import Connection, endpoint_of
from phi3kit.endpoints.records import Request
from phi3kit.formats.chat_template import SPECIAL_TOKENS, raw_prompt

WORKER_URL = "http://127.0.0.1:8000"  # the default of `phi3kit serve`
SCORING_URL = "http://127.0.0.1:5001"
_WORKER_KEY = "PHI3KIT_API_KEY"


@dataclass(frozen=True)
class Snippet:
    """One way to send the request."""

    title: str
    language: Literal["python", "bash"]
    code: str


def snippets(
    request: Request,
    wrapper: WrapperName,
    model_uri: str,
    tracking_uri: SecretUrl,
    worker_url: str = WORKER_URL,
    scoring_url: str = SCORING_URL,
) -> list[Snippet]:
    """The request in four ways.

    tracking_uri: the store that has the model. worker_url: of a worker, without /v1.
    scoring_url: of `mlflow models serve`.
    """
    serve = _serve(model_uri, worker_url)
    return [
        Snippet("Python (openai)", "python", serve + _openai(request, model_uri, f"{worker_url}/v1", _WORKER_KEY)),
        Snippet("Python (mlflow.pyfunc)", "python", _pyfunc(request, wrapper, model_uri, tracking_uri)),
        Snippet("curl (worker)", "bash", serve + _curl(request, model_uri, f"{worker_url}/v1", _WORKER_KEY)),
        Snippet("curl (/invocations)", "bash", _curl_scoring(request, wrapper, model_uri, tracking_uri, scoring_url)),
    ]


def remote_snippets(request: Request, connection: Connection) -> list[Snippet]:
    """The request in the ways that a remote endpoint understands. The key is read from its environment variable."""
    endpoint = endpoint_of(connection, {connection.key_name: "unused"}, None)
    key_name = connection.key_name
    if endpoint.protocol == "invocations":
        body = {"prompt": _raw(request)} if endpoint.takes == "raw" else _chat_body(request)
        return [Snippet("curl (/invocations)", "bash", _post(f"{endpoint.base_url}/invocations", body, key_name))]
    base_url, model = endpoint.base_url + endpoint.api_path, endpoint.model
    return [
        Snippet("Python (openai)", "python", _openai(request, model, base_url, key_name)),
        Snippet("curl", "bash", _curl(request, model, base_url, key_name)),
    ]


def _openai(request: Request, model: str, base_url: str, key_name: str) -> str:
    body = request.body(model)
    chat = request.interface == "openai"
    extra = {name: body.pop(name) for name in ("continue_final_message", "add_generation_prompt") if name in body}
    arguments = "".join(f"    {name}={_python(value, indent=4)},\n" for name, value in body.items())
    if extra:
        arguments += f"    extra_body={_python(extra)},\n"
    call, text = ("chat.completions", "message.content") if chat else ("completions", "text")
    key = f'os.environ.get("{key_name}", "none")' if key_name else '"none"'
    return f"""{"import os" if key_name else ""}

from openai import OpenAI

client = OpenAI(base_url={_python(base_url)}, api_key={key})
answer = client.{call}.create(
{arguments})
print(answer.choices[0].{text})
print(answer.usage)
""".lstrip()


def _curl(request: Request, model: str, base_url: str, key_name: str) -> str:
    route = "chat/completions" if request.interface == "openai" else "completions"
    return _post(f"{base_url}/{route}", request.body(model), key_name)


def _pyfunc(request: Request, wrapper: WrapperName, model_uri: str, tracking_uri: SecretUrl) -> str:
    stop = "".join(f"text = text.split({_python(each)})[0]\n" for each in request.stop)
    secret = tracking_uri.hides_something
    seeded = wrapper == "transformers" and request.seed is not None
    store = 'os.environ["MLFLOW_TRACKING_URI"]' if secret else _python(tracking_uri.reveal())
    imports = ("import os\n\n" if secret else "") + "import mlflow\n" + ("import transformers\n" if seeded else "")
    head = f"""{imports}
mlflow.set_tracking_uri({store})
model = mlflow.pyfunc.load_model({_python(model_uri)})
"""
    if wrapper == "transformers":
        seed = f"transformers.set_seed({request.seed})\n" if seeded else ""
        return f"""{head}{seed}{_notes(_chat_notes(request))}response = model.predict(
    {_python(_chat_body(request), indent=4)}
)
text = response[0]["choices"][0]["message"]["content"]
{stop}print(text)
"""
    options: dict[str, Any] = {"do_sample": False}
    if request.temperature:
        options = {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
        options |= {} if request.seed is None else {"random_seed": request.seed}
    return f"""{head}
# The signature has no params, so they are set on the wrapper itself.
wrapper = model.unwrap_python_model()
wrapper.max_tokens = {request.max_tokens}
wrapper.search_options = {_python(options)}

{_notes(_raw_notes(request))}text = model.predict({_python({"prompt": _raw(request)})})[0]
{stop}print(text)
"""


def _curl_scoring(
    request: Request, wrapper: WrapperName, model_uri: str, tracking_uri: SecretUrl, scoring_url: str
) -> str:
    port = scoring_url.rpartition(":")[2]
    serve = f"mlflow models serve -m {shlex.quote(model_uri)} --env-manager local --port {port}"
    store = "" if tracking_uri.hides_something else f"MLFLOW_TRACKING_URI={shlex.quote(tracking_uri.reveal())} "
    first = _first(f"{store}{serve}")
    if wrapper == "transformers":
        body, notes = _chat_body(request), _chat_notes(request)
        if request.seed is not None:
            notes.append("A seed cannot be sent here.")
        if request.stop:
            notes.append("The wrapper leaves stop strings in the text: they are not sent.")
    else:
        body, notes = {"prompt": _raw(request)}, _raw_notes(request)
        notes.append("The signature has no params: the answer is greedy, of 512 tokens at most.")
    return first + _notes(notes) + _post(f"{scoring_url}/invocations", body)


def _serve(model_uri: str, worker_url: str) -> str:
    port = worker_url.rpartition(":")[2]
    return _first(f"python -m phi3kit serve {shlex.quote(model_uri)} --port {port}")


def _first(command: str) -> str:
    """A command as a comment; a quoted word may have several lines."""
    return "# First, in another terminal:\n" + "".join(f"#   {line}\n" for line in command.splitlines())


def _post(url: str, body: dict[str, Any], key_name: str = "") -> str:
    key = f' -H "Authorization: Bearer ${{{key_name}:-none}}"' if key_name else ""
    # The body is standard input: an argument may not be longer than 128 KB. No line of the body is "JSON".
    return f"""curl -s {shlex.quote(url)}{key} \\
  -H 'Content-Type: application/json' --data-binary @- <<'JSON'
{_json(body)}
JSON
"""


def _json(body: dict[str, Any]) -> str:
    """JSON with one message a line."""

    def field(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(f"    {field(each)}" for each in value) + "\n  ]"
        return json.dumps(value, ensure_ascii=False)

    return "{\n" + ",\n".join(f"  {field(name)}: {field(value)}" for name, value in body.items()) + "\n}"


def _chat_body(request: Request) -> dict[str, Any]:
    """The input of the transformers wrapper's signature."""
    prompt = request.prompt if isinstance(request.prompt, tuple) else (Message("user", request.prompt),)
    # The wrapper refuses temperature 0, and samples without a temperature. top_k 1 is greedy.
    sampling = {"temperature": 1.0, "top_k": 1}
    if request.temperature:
        sampling = {"temperature": request.temperature, "top_p": request.top_p}
    return {"messages": [asdict(each) for each in prompt], **sampling, "max_tokens": request.max_tokens}


def _chat_notes(request: Request) -> list[str]:
    notes = []
    if not request.temperature:
        notes.append("The wrapper refuses temperature 0; top_k 1 means the same.")
    if isinstance(request.prompt, str):
        notes.append("The wrapper takes messages: it puts its chat template around this raw prompt.")
    if request.continues:
        notes.append("The wrapper cannot continue an answer: it begins a new one.")
    return notes


def _raw_notes(request: Request) -> list[str]:
    messages = request.prompt if isinstance(request.prompt, tuple) else ()
    if any(token in each.content for each in messages for token in SPECIAL_TOKENS):
        return ["A special token inside a message becomes structure here; phi3kit's worker keeps it as text."]
    return []


def _raw(request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    if request.continues:
        return raw_prompt(request.prompt[:-1]) + request.prompt[-1].content
    return raw_prompt(request.prompt)


def _notes(notes: list[str]) -> str:
    return "".join(f"# {note}\n" for note in notes)


def _python(value: Any, indent: int = 0) -> str:
    """A value as a Python literal, with one message a line. indent: of the line it begins on; 0: a dict in one line."""
    pad = " " * (indent + 4)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # its escapes are Python's too
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + "".join(f"{pad}{_python(each)},\n" for each in value) + " " * indent + "]"
    if isinstance(value, list):
        return "[" + ", ".join(_python(each) for each in value) + "]"
    if isinstance(value, dict) and indent:
        lines = "".join(f"{pad}{_python(key)}: {_python(each, indent + 4)},\n" for key, each in value.items())
        return "{\n" + lines + " " * indent + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_python(key)}: {_python(each)}" for key, each in value.items()) + "}"
    return repr(value)
