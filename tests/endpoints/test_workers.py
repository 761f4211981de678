"""Workers as processes: when they start and end, and the errors when they cannot."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
from openai import OpenAI

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import ModelNotFound, WorkerFailed
from phi3kit.core.records import WRAPPERS, Message
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.deployment.servers import free_port
from phi3kit.endpoints.client import ask
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import Endpoint, WorkerPool
from phi3kit.packaging.wrappers.log import MODEL_NAMES
from phi3kit.tracking import registry as registry
from phi3kit.tracking.logged_models import resolve
from phi3kit.tracking.store import open_store
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from tests.conftest import Built, run_cli, settings_for
from tests.support.actors import ADMIN, admin
from tests.support.samples import artifacts_of, copy_of_store
from tests.support.waiting import answers, has_ended, wait_for


def health(endpoint: Endpoint) -> int:
    return httpx2.get(f"{endpoint.base_url}/health", timeout=300).status_code


def assert_one_line(stderr: str, *words: str) -> None:
    """A user's error is one line that says what happened, and no traceback."""
    assert stderr.startswith("phi3kit: "), stderr
    assert len(stderr.splitlines()) == 1, stderr
    for word in words:
        assert word in stderr


@pytest.fixture
def open_pool() -> Iterator[Callable[[Settings], WorkerPool]]:
    """Pools that end with the test."""
    pools: list[WorkerPool] = []

    def open_one(settings: Settings) -> WorkerPool:
        pools.append(WorkerPool(settings))
        return pools[-1]

    yield open_one
    for pool in pools:
        pool.close()


OpenPool = Callable[[Settings], WorkerPool]
CONTEXT = TurnContext(actor=admin("ada"), origin="api")


class TestPool:
    def test_one_model_has_one_process_however_many_ask(self, open_pool: OpenPool, built: Built) -> None:
        pool = open_pool(built.settings)
        heard: list[str] = []
        with ThreadPoolExecutor(4) as threads:
            endpoints = list(threads.map(lambda _: pool.endpoint(built.uri("onnx"), heard.append), range(4)))
        assert endpoints == [pool.endpoint(built.uri("onnx"))] * 4
        (status,) = pool.statuses()
        assert (status.state, status.wrapper, status.model_uri) == ("ready", "onnx", built.uri("onnx"))
        assert (status.memory_bytes or 0) > 20 * 2**20
        assert heard[0] == "Starting the worker"
        assert len(heard) == 2
        assert heard[1].startswith("Loading the model")
        assert health(endpoints[0]) == 200

    def test_another_model_has_another_process_and_key(
        self, pool: WorkerPool, built: Built, endpoint: Endpoint, onnx_endpoint: Endpoint
    ) -> None:
        other = pool.endpoint(built.uri("transformers"))
        assert other.base_url != onnx_endpoint.base_url
        assert other.api_key != onnx_endpoint.api_key
        answer = httpx2.get(
            f"{other.base_url}/v1/models", headers={"Authorization": f"Bearer {onnx_endpoint.api_key}"}, timeout=300
        )
        assert answer.status_code == 401

    def test_a_killed_worker_is_seen_and_started_anew(self, open_pool: OpenPool, built: Built) -> None:
        pool = open_pool(built.settings)
        first = pool.endpoint(built.uri("onnx"))
        pid = pool.statuses()[0].pid
        os.kill(pid, signal.SIGKILL)
        wait_for("the dead worker's status", lambda: pool.statuses()[0].state == "stopped")
        assert pool.statuses()[0].memory_bytes is None
        heard: list[str] = []
        second = pool.endpoint(built.uri("onnx"), heard.append)
        assert second != first
        assert re.fullmatch(r"Loading the model: about [1-9]\d* s", heard[1]), "as long as it took before"
        assert pool.statuses()[0].pid != pid
        assert health(second) == 200

    def test_a_model_named_by_its_run_is_served_from_the_data_folder(self, open_pool: OpenPool, built: Built) -> None:
        uri = f"runs:/{built.results['onnx']['run_id']}/{MODEL_NAMES['onnx']}"
        assert resolve(uri, built.settings).folder.is_relative_to(built.home)
        assert health(open_pool(built.settings).endpoint(uri)) == 200

    def test_a_stopped_worker_ends_and_is_forgotten(self, open_pool: OpenPool, built: Built) -> None:
        pool = open_pool(built.settings)
        pool.endpoint(built.uri("onnx"))
        pid = pool.statuses()[0].pid
        pool.stop("models:/m-unknown")  # nothing to stop
        pool.stop(built.uri("onnx"))
        assert has_ended(pid)
        assert pool.statuses() == []

    def test_close_ends_all(self, open_pool: OpenPool, built: Built) -> None:
        pool = open_pool(built.settings)
        for wrapper in ("onnx", "transformers"):
            pool.endpoint(built.uri(wrapper))
        pids = [status.pid for status in pool.statuses()]
        pool.close()
        assert [has_ended(pid) for pid in pids] == [True, True]
        assert pool.statuses() == []

    @pytest.mark.parametrize("wrapper", ["onnx", "transformers"])
    def test_an_idle_worker_ends_itself_and_a_new_one_takes_its_place(
        self, open_pool: OpenPool, built: Built, wrapper: str
    ) -> None:
        pool = open_pool(settings_for(built.home, PHI3KIT_IDLE_SECONDS="1"))
        pool.endpoint(built.uri(wrapper))  # type: ignore[arg-type]
        pid = pool.statuses()[0].pid
        wait_for("the end of the idle worker", lambda: pool.statuses()[0].state == "stopped")
        assert has_ended(pid)
        pool.endpoint(built.uri(wrapper))  # type: ignore[arg-type]
        assert pool.statuses()[0].pid != pid

    def test_it_ends_when_its_parent_is_killed(self, built: Built) -> None:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, built.uri("onnx")],
            cwd=PROJECT_ROOT,
            env=child_environment(built.settings),
            stdout=subprocess.PIPE,
            text=True,
        )
        with parent:
            assert parent.stdout is not None
            worker = int(parent.stdout.readline())
            running = not has_ended(worker)
            parent.kill()
        assert running
        wait_for("the end of the orphaned worker", lambda: has_ended(worker))


# Starts a worker as the app does, and does not end by itself.
PARENT = """
import sys, time
from phi3kit.core.settings import read_settings
from phi3kit.endpoints.workers import WorkerPool

pool = WorkerPool(read_settings())
pool.endpoint(sys.argv[1])
print(pool.statuses()[0].pid, flush=True)
time.sleep(600)
"""


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no MLmodel": ("onnx", lambda folder: (folder / "MLmodel").unlink()),
    "MLmodel is no YAML": ("onnx", lambda folder: (folder / "MLmodel").write_text("flavors: [", "utf-8")),
    "no ONNX graph": ("onnx", lambda folder: next(folder.rglob("model.onnx")).unlink()),
    "no ONNX weights": ("onnx", lambda folder: next(folder.rglob("model.onnx.data")).unlink()),
    "tokenizer cut short": ("onnx", lambda folder: cut_short(next(folder.rglob("tokenizer.json")))),
    "weights cut short": ("transformers", lambda folder: cut_short(next(folder.rglob("*.safetensors")))),
}


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, built: Built, tmp_path: Path) -> tuple[str, Path]:
    """A wrapper and a copy of its logged model that has lost something."""
    wrapper, damage = DAMAGES[request.param]
    folder = tmp_path / "model"
    shutil.copytree(resolve(built.uri(wrapper), built.settings).folder, folder)  # type: ignore[arg-type]
    damage(folder)
    return wrapper, folder


class TestModelThatCannotBeServed:
    @pytest.mark.parametrize("uri", ["models:/m-0123456789abcdef0123456789abcdef", "models:/nobody/1", "nonsense"])
    def test_an_unknown_uri_is_not_found(self, open_pool: OpenPool, built: Built, uri: str) -> None:
        pool = open_pool(built.settings)
        with pytest.raises(ModelNotFound, match=uri):
            pool.endpoint(uri)
        assert pool.statuses() == []

    def test_a_damaged_folder_ends_the_worker_with_one_line(self, damaged: tuple[str, Path], tmp_path: Path) -> None:
        wrapper, folder = damaged
        (tmp_path / "home").mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "phi3kit.worker", str(folder), "--wrapper", wrapper, "--model-uri", "models:/m-1"],
            env=child_environment(settings_for(tmp_path / "home")),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert_one_line(done.stderr, "missing or damaged")

    def test_a_damaged_model_is_a_clear_error_of_the_pool(
        self, open_pool: OpenPool, built: Built, damaged: tuple[str, Path]
    ) -> None:
        pool = open_pool(settings_for(built.home, PHI3KIT_START_SECONDS="60"))
        client = open_store(built.settings)
        experiment = client.create_experiment(f"damaged {damaged[1]}", (damaged[1].parent / "artifacts").as_uri())
        run = client.create_run(experiment).info.run_id
        client.log_artifacts(run, str(damaged[1]), "model")
        with pytest.raises((ModelNotFound, WorkerFailed), match=r"(?i)missing or damaged|no model at") as caught:
            pool.endpoint(f"runs:/{run}/model")
        assert "Traceback" not in str(caught.value)


@pytest.fixture
def served(built: Built) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`phi3kit serve` in the foreground with a key, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "phi3kit", "serve", built.uri("onnx"), "--port", str(port)]
    environment = child_environment(built.settings) | {"PHI3KIT_API_KEY": "the-key"}
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for("a ready server", lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/health"))
            yield process, port
        finally:
            process.kill()


class TestServe:
    def test_it_answers_the_official_client_and_the_turn_becomes_a_run(
        self, served: tuple[subprocess.Popen[str], int], built: Built
    ) -> None:
        process, port = served
        address = f"http://127.0.0.1:{port}/v1"
        assert process.stdout is not None
        assert address in process.stdout.readline()
        with OpenAI(base_url=address, api_key="the-key", max_retries=0) as client:
            reply = client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "What is the capital of Spain?"}], user="serve-test"
            )
        assert reply.choices[0].message.content == "The capital of Spain is Madrid."
        with (
            OpenAI(base_url=address, api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()

        def run_of_the_turn() -> list[dict[str, object]]:
            turns = read_turns(built.settings)
            return turns[turns["user"] == "serve-test"].to_dict(orient="records")  # type: ignore[return-value]

        (turn,) = wait_for("the turn's run", run_of_the_turn, seconds=120)
        assert reply.usage is not None
        assert turn["prompt_tokens"] == reply.usage.prompt_tokens
        assert turn["completion_tokens"] == reply.usage.completion_tokens
        assert (turn["wrapper"], turn["origin"], turn["interface"], turn["finish_reason"]) == (
            *("onnx", "api", "openai", "stop"),
        )

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
    def test_it_ends_when_told_to_without_a_traceback(
        self, served: tuple[subprocess.Popen[str], int], number: signal.Signals
    ) -> None:
        process, _ = served
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode in (0, 128 + number, -number)
        assert stderr == ""

    def test_a_port_in_use_is_one_line(self, built: Built) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = run_cli("serve", built.uri("onnx"), "--port", port, home=built.home, PHI3KIT_API_KEY="")
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr, port, "in use", "--port")

    @pytest.mark.parametrize("port", ["70000", "-1"])
    def test_a_port_that_is_none_is_one_line(self, built: Built, port: str) -> None:
        done = run_cli("serve", built.uri("onnx"), "--port", port, home=built.home)
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr, port)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
    def test_every_address_without_a_key_is_refused(self, built: Built, host: str) -> None:
        done = run_cli("serve", built.uri("onnx"), "--host", host, "--port", "0", home=built.home, PHI3KIT_API_KEY="")
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr, host, "PHI3KIT_API_KEY")

    def test_an_unknown_model_is_one_line(self, built: Built) -> None:
        done = run_cli("serve", "models:/nobody/1", "--port", "0", home=built.home)
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr, "models:/nobody/1")


class TestAliases:
    def test_a_moved_alias_is_followed_and_its_turns_are_logged_under_the_model_itself(
        self, open_pool: OpenPool, built: Built, tmp_path: Path
    ) -> None:
        settings = copy_of_store(built.settings, tmp_path)
        for wrapper in WRAPPERS:
            registry.register(built.uri(wrapper), "phi3", ADMIN, settings)
        registry.set_alias("phi3", "champion", 1, ADMIN, settings)
        pool = open_pool(settings)
        first = pool.endpoint("models:/phi3@champion")
        assert (first.model_uri, first.wrapper) == (built.uri(WRAPPERS[0]), WRAPPERS[0])
        assert pool.endpoint("models:/phi3/1") == first  # one model has one worker, however it is named
        registry.set_alias("phi3", "champion", 2, ADMIN, settings)
        second = pool.endpoint("models:/phi3@champion")
        assert (second.model_uri, second.wrapper) == (built.uri(WRAPPERS[1]), WRAPPERS[1])
        assert {status.model_uri: status.given_uris for status in pool.statuses()} == {
            built.uri(WRAPPERS[0]): ("models:/phi3/1",),
            built.uri(WRAPPERS[1]): ("models:/phi3@champion",),
        }
        answer = ask(second, Request((Message("user", "What is the capital of Spain?"),)), CONTEXT, settings)
        record = Outbox(settings.home).find(CONTEXT.turn_id)
        assert record is not None
        assert (answer.text, record.model_uri) == ("The capital of Spain is Madrid.", built.uri(WRAPPERS[1]))

    def test_an_alias_that_was_removed_is_not_found_though_a_worker_runs(
        self, open_pool: OpenPool, built: Built, tmp_path: Path
    ) -> None:
        settings = copy_of_store(built.settings, tmp_path)
        registry.register(built.uri("onnx"), "phi3", ADMIN, settings, aliases=["champion"])
        pool = open_pool(settings)
        pool.endpoint("models:/phi3@champion")
        registry.remove_alias("phi3", "champion", ADMIN, settings)
        with pytest.raises(ModelNotFound, match="does not exist"):
            pool.endpoint("models:/phi3@champion")

    def test_a_model_whose_files_are_gone_says_so(self, open_pool: OpenPool, built: Built, tmp_path: Path) -> None:
        settings = copy_of_store(built.settings, tmp_path)
        shutil.rmtree(artifacts_of(built.uri("onnx"), settings).parent)
        with pytest.raises(ModelNotFound, match=r"The files of models:/m-.* are missing"):
            open_pool(settings).endpoint(built.uri("onnx"))


class TestActivity:
    def test_a_worker_counts_its_turns_and_watching_does_not_keep_it_from_ending(
        self, open_pool: OpenPool, built: Built
    ) -> None:
        pool = open_pool(settings_for(built.home, PHI3KIT_IDLE_SECONDS="2"))
        uri = built.uri("onnx")
        assert pool.activity(uri) is None
        endpoint = pool.endpoint(uri)
        before = pool.activity(uri)
        answer = ask(
            endpoint,
            Request("<|user|>\nHello<|end|>\n<|assistant|>\n"),
            TurnContext(admin("ada"), "api"),
            built.settings,
        )
        after = pool.activity(uri)
        assert before is not None
        assert after is not None
        assert (before.turns, before.completion_tokens) == (0, 0)
        assert (after.turns, after.prompt_tokens, after.completion_tokens) == (
            1, answer.prompt_tokens, answer.completion_tokens,
        )  # fmt: skip
        assert after.kv_budget_bytes > 0
        assert after.threads >= 1
        wait_for(
            "the end of a worker that is only watched",
            lambda: pool.activity(uri) is None and pool.statuses()[0].state == "stopped",
            seconds=20,
        )
