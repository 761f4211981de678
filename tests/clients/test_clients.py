"""Real clients, each in an environment of its own under .venv/clients: a new version of one is a line to change here.

Each asks three times: whole, streamed, and a second turn with the first answer sent back as the client keeps it.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from phi3kit.core.records import Endpoint
from phi3kit.core.settings import PROJECT_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAMS = Path(__file__).with_name("programs")
CLIENTS = {
    "ask_openai": "openai==3.57.0",
    "ask_as_gradio": "openai==3.57.0",
    "ask_langchain": "langchain-openai==1.7.4",
    "ask_litellm": "litellm==1.110.2",
    "ask_llama_index": "llama-index-llms-openai-like==0.8.1",
    "ask_llm": "llm==0.36",
    "ask_pydantic_ai": "pydantic-ai-slim[openai]==2.68.0",
}
NPM_CLIENTS = {"ask_openai.mjs": "openai@6.49.0", "ask_ai_sdk.mjs": "ai@7.0.173 @ai-sdk/openai-compatible@3.0.92"}
TOO_LONG = {"ask_langchain": "OpenAIContextOverflowError", "ask_litellm": "ContextWindowExceededError"}
WITHOUT_STREAMS = ("ask_mlflow",)
NOT_REACHED = (
    "NewConnectionError",
    "ConnectTimeout",
    "NameResolution",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "EAI_AGAIN",
)


def environment(requirement: str) -> Path:
    """The environment of a client, made once for each version. Skips where the registry is not reached."""
    folder = PROJECT_ROOT / ".venv" / "clients" / "".join(each if each.isalnum() else "-" for each in requirement)
    if not (folder / ".installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if "@" in requirement:
            folder.mkdir(parents=True)
            (folder / "package.json").write_text("{}")
            npm = shutil.which("npm") or "npm"
            install(npm, "install", "--no-audit", "--no-fund", *requirement.split(), folder=folder)
        else:
            venv.create(folder, with_pip=True)
            install(str(python(folder)), "-m", "pip", "install", "--quiet", requirement, folder=folder)
        (folder / ".installed").touch()
    return folder


def install(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    if done.returncode and any(each in said for each in NOT_REACHED):
        pytest.skip("the package registry is not reached")
    assert done.returncode == 0, said[-3000:]


def python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def check(name: str, command: list[str], endpoint: Endpoint) -> None:
    arguments = [f"{endpoint.base_url}/v1", endpoint.api_key, endpoint.model_uri]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["whole"].strip() == "The capital of Spain is Madrid."
    assert told["streamed"] == (None if name in WITHOUT_STREAMS else told["whole"])
    assert "Paris" in told["second"]
    assert told.get("too_long") == TOO_LONG.get(name)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_python_client_is_answered(name: str, onnx_endpoint: Endpoint) -> None:
    command = [str(python(environment(CLIENTS[name]))), str(PROGRAMS / f"{name}.py")]
    check(name, command, onnx_endpoint)


def test_mlflows_client_is_answered(onnx_endpoint: Endpoint) -> None:
    check("ask_mlflow", [sys.executable, str(PROGRAMS / "ask_mlflow.py")], onnx_endpoint)


@pytest.mark.parametrize("name", NPM_CLIENTS)
@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node or npm is not installed")
def test_an_npm_client_is_answered(name: str, onnx_endpoint: Endpoint) -> None:
    folder = environment(NPM_CLIENTS[name])
    shutil.copy(PROGRAMS / name, folder)  # node looks for packages beside the program
    check(name, ["node", str(folder / name)], onnx_endpoint)
