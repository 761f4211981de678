"""Request snippets, each run exactly as shown: against a worker and plain MLflow; tests of recipes ask `mlflow models serve`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from phi3kit.conversations.request_snippets import Snippet, remote_snippets, snippets
from phi3kit.core.records import Message, WrapperName
from phi3kit.core.secret import SecretUrl
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import free_port
from phi3kit.endpoints.connections import Connection
from phi3kit.endpoints.records import Request
from tests.conftest import Built
from tests.support.waiting import wait_for_server

KEYS = {"PHI3KIT_API_KEY": "secret", "PHI3KIT_KEY_LAB": "secret"}
BIN = str(Path(sys.executable).parent)
HARD = "What is the capital of Spain? \"'\\ $HOME `id` <|end|>\nJSON\n<script>é日本</script>"


@contextmanager
def serving(command: list[str], url: str, **environment: str) -> Iterator[str]:
    """A server's address while it runs."""
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    env = {**inherited, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_server(f"{url}/health", process)
        yield url
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        for child in children:
            child.terminate()
        psutil.wait_procs([*children, psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else children, 15)


@pytest.fixture(scope="module", params=["transformers", "onnx"])
def wrapper(request: pytest.FixtureRequest) -> WrapperName:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def worker_url(built: Built, wrapper: WrapperName) -> Iterator[str]:
    """A worker that `phi3kit serve` started, with a key."""
    port = free_port()
    command = [sys.executable, "-m", "phi3kit", "serve", built.uri(wrapper), "--port", str(port)]
    environment = {"PHI3KIT_HOME": str(built.home), "PHI3KIT_API_KEY": "secret"}
    with serving(command, f"http://127.0.0.1:{port}", **environment) as url:
        yield url


def run(snippet: Snippet, folder: Path) -> str:
    """The output of the code, run as a script that uses nothing of phi3kit."""
    assert "import phi3kit" not in snippet.code
    assert "from phi3kit" not in snippet.code
    file = folder / ("snippet.py" if snippet.language == "python" else "snippet.sh")
    file.write_text(snippet.code, "utf-8")
    program = sys.executable if snippet.language == "python" else "bash"
    done = subprocess.run(
        [program, str(file)],
        cwd=folder,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), **KEYS},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, snippet.code + done.stderr
    return done.stdout


def of(
    title: str, request: Request, wrapper: WrapperName, built: Built, worker: str = "", scoring: str = ""
) -> Snippet:
    found = snippets(request, wrapper, built.uri(wrapper), built.settings.tracking_uri, worker, scoring)
    return next(each for each in found if each.title == title)


SPAIN = Request((Message("system", "Be brief."), Message("user", "What is the capital of Spain?")), max_tokens=40)
FOLLOW_UP = Request(
    (
        Message("user", "What is the capital of Spain?"),
        Message("assistant", "The capital of Spain is Madrid."),
        Message("user", "And of France?"),
    ),
    max_tokens=40,
)
SAMPLED = Request(SPAIN.prompt, temperature=0.3, top_p=0.9, max_tokens=30, seed=7, stop=("Madrid",))
HARD_ONE = Request((Message("user", HARD),), max_tokens=20)
CONTINUED = Request((*FOLLOW_UP.prompt, Message("assistant", "The capital")), max_tokens=20, continues=True)


class TestOpenaiPython:
    def test_it_answers_with_its_usage(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path
    ) -> None:
        printed = run(of("Python (openai)", FOLLOW_UP, wrapper, built, worker_url), tmp_path)
        assert printed.startswith("The capital of France is Paris.\nCompletionUsage(")

    def test_settings_and_hostile_text_arrive(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path
    ) -> None:
        printed = run(of("Python (openai)", SAMPLED, wrapper, built, worker_url), tmp_path)
        assert "Madrid" not in printed
        assert "The capital of Spain is" in printed
        run(of("Python (openai)", HARD_ONE, wrapper, built, worker_url), tmp_path)

    def test_a_raw_prompt_and_a_continued_answer(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path
    ) -> None:
        raw = Request("<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n", max_tokens=40)
        assert "is Madrid." in run(of("Python (openai)", raw, wrapper, built, worker_url), tmp_path)
        printed = run(of("Python (openai)", CONTINUED, wrapper, built, worker_url), tmp_path)
        assert printed.startswith(" of France is Paris.\n")


class TestCurlWorker:
    @pytest.mark.parametrize("request_", [FOLLOW_UP, SAMPLED, HARD_ONE, CONTINUED])
    def test_it_answers_what_the_client_gets(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path, request_: Request
    ) -> None:
        answer = json.loads(run(of("curl (worker)", request_, wrapper, built, worker_url), tmp_path))
        python = run(of("Python (openai)", request_, wrapper, built, worker_url), tmp_path)
        assert python.startswith(answer["choices"][0]["message"]["content"])
        assert answer["usage"]["completion_tokens"] > 0

    def test_a_message_of_100_000_characters_is_no_argument_that_is_too_long(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path
    ) -> None:
        long = Request((Message("user", "Ελλάδα " * 15_000),))
        answer = json.loads(run(of("curl (worker)", long, wrapper, built, worker_url), tmp_path))
        assert answer["error"]["code"] == "context_length_exceeded"


class TestPyfunc:
    def test_plain_mlflow_says_the_same(self, wrapper: WrapperName, built: Built, tmp_path: Path) -> None:
        assert (
            run(of("Python (mlflow.pyfunc)", FOLLOW_UP, wrapper, built), tmp_path)
            == "The capital of France is Paris.\n"
        )

    def test_sampling_seed_stop_and_hostile_text(self, wrapper: WrapperName, built: Built, tmp_path: Path) -> None:
        printed = run(of("Python (mlflow.pyfunc)", SAMPLED, wrapper, built), tmp_path)
        assert printed == "The capital of Spain is \n"
        printed = run(of("Python (mlflow.pyfunc)", HARD_ONE, wrapper, built), tmp_path)
        assert 0 < len(printed) < 120, "20 tokens at most"


class TestNotes:
    def test_what_a_way_cannot_say_is_said(self) -> None:
        code = {
            each.title: each.code
            for each in snippets(SAMPLED, "transformers", "models:/m-1", SecretUrl("sqlite:///x.db"))
        }
        assert "# A seed cannot be sent here." in code["curl (/invocations)"]
        assert "stop strings" in code["curl (/invocations)"]
        hard = {
            each.title: each.code for each in snippets(HARD_ONE, "onnx", "models:/m-1", SecretUrl("sqlite:///x.db"))
        }
        assert "becomes structure here" in hard["Python (mlflow.pyfunc)"]
        assert "becomes structure here" not in hard["Python (openai)"]

    def test_a_store_with_a_password_is_not_written_down(self) -> None:
        for each in snippets(SPAIN, "onnx", "models:/m-1", SecretUrl("postgresql://ada:pass@host/db")):
            assert "pass@" not in each.code


class TestRemote:
    def test_an_openai_endpoint_is_asked_by_its_own_name_with_its_key(
        self, wrapper: WrapperName, built: Built, worker_url: str, tmp_path: Path
    ) -> None:
        there = Connection("lab", worker_url, model=built.uri(wrapper), key_name="PHI3KIT_KEY_LAB")
        python, curl = remote_snippets(FOLLOW_UP, there)
        assert "secret" not in python.code + curl.code
        assert run(python, tmp_path).startswith("The capital of France is Paris.\n")
        assert "is Paris." in json.loads(run(curl, tmp_path))["choices"][0]["message"]["content"]
