"""Users' keys at a worker in the foreground: whose turns they make, what their headers cannot change, when they end."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from phi3kit.access.keys import KeyStore
from phi3kit.core.child_environment import child_environment
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.deployment.servers import free_port
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.request_counts import RequestCounts
from tests.conftest import Built, run_cli
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for_server

LIMIT = 6
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}], "max_tokens": 4}


@dataclass(frozen=True)
class Server:
    """`phi3kit serve` with no key of its own, in the profile team."""

    url: str
    settings: Settings
    key: str = ""  # of the app, at a worker of its own

    def key_for(self, user: str) -> tuple[str, str]:
        """A new key's id, and the key."""
        key, token = KeyStore(self.settings.home).create(user, "", ADMIN)
        return key.id, token

    def ask_as(self, authorization: str) -> httpx2.Response:
        """authorization: the whole header."""
        headers = {"Authorization": authorization}
        return httpx2.post(f"{self.url}/v1/chat/completions", json=BODY, headers=headers, timeout=120)

    def ask(self, token: str | None, path: str = "/v1/chat/completions", **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        authorization = {b"Authorization": f"Bearer {token}".strip().encode()} if token is not None else {}
        return httpx2.post(f"{self.url}{path}", json=BODY, headers=authorization | named, timeout=300)


@contextmanager
def serving(settings: Settings, uri: str, **environment: str) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "phi3kit", "serve", uri, "--port", str(port)]
    values = child_environment(settings) | {"PHI3KIT_API_KEY": "", **environment}
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=values, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for_server(f"http://127.0.0.1:{port}/health", process)
            yield Server(f"http://127.0.0.1:{port}", settings)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Settings:
    folder = tmp_path_factory.mktemp("team")
    copied = copy_of_store(built.settings, folder)
    return replace(copied, profile="team", limits=replace(copied.limits, user_minute_turns=LIMIT))


@pytest.fixture(scope="module")
def server(home: Settings, built: Built) -> Iterator[Server]:
    with serving(home, built.uri("onnx"), PHI3KIT_API_KEY="own-key") as found:
        yield found


@pytest.fixture(scope="module")
def app_worker(home: Settings, built: Built) -> Iterator[Server]:
    """The app's own worker on the same data folder."""
    workers = WorkerPool(home)
    endpoint = workers.endpoint(built.uri("onnx"))
    yield Server(endpoint.base_url, home, endpoint.api_key)
    workers.close()


class TestUsersKey:
    def test_its_turns_are_its_users_whatever_the_request_says(self, server: Server):
        _, token = server.key_for("ada")
        body = BODY | {"user": "bob"}
        reply = httpx2.post(
            f"{server.url}/v1/chat/completions",
            json=body,
            headers={
                "Authorization": f"Bearer {token}",
                "X-Phi3kit-User": "bob", "X-Phi3kit-Origin": "batch", "X-Phi3kit-Turn-Id": "of-ada",
                "X-Forwarded-User": "bob", "X-Forwarded-Email": "bob@lab.example",
            },
            timeout=300,
        )  # fmt: skip
        assert reply.status_code == 200, reply.text
        outbox, counts = Outbox(server.settings.home), RequestCounts(server.settings.home)
        assert outbox.find("of-ada") is None
        assert (counts.of("ada").daily_turns, counts.of("bob").daily_turns) == (1, 0)
        record, _ = outbox.claim_next() or pytest.fail("no turn was kept")
        assert (record.user, record.origin) == ("ada", "api")

    def test_one_limit_holds_for_the_page_and_the_key_together(self, server: Server, app_worker: Server):
        _, token = server.key_for("cleo")
        _, second = server.key_for("cleo")
        app = {"X_Phi3kit_User": "cleo", "X_Phi3kit_Origin": "ui"}
        by_page = [app_worker.ask(app_worker.key, **app) for _ in range(LIMIT - 2)]
        by_keys = [server.ask(token), server.ask(second)]
        assert [each.status_code for each in by_page + by_keys] == [200] * LIMIT
        refused = [
            server.ask(token),
            server.ask(second),
            app_worker.ask(app_worker.key, **app),
            # Headers that would name another user, an app's turn, or the same turn again.
            server.ask(token, X_Phi3kit_User="dan"),
            server.ask(token, X_Phi3kit_Origin="batch"),
            server.ask(token, X_Phi3kit_Turn_Id="same"),
            server.ask(token, "/invocations"),
        ]
        assert [each.status_code for each in refused] == [429] * len(refused)
        assert refused[0].headers["Retry-After"].isdigit()
        assert app_worker.ask(app_worker.key, X_Phi3kit_User="eve").status_code == 200

    def test_a_turns_id_cannot_be_used_twice_to_count_once(self, server: Server):
        _, token = server.key_for("finn")
        asked = [server.ask(token, X_Phi3kit_Turn_Id="one").status_code for _ in range(LIMIT + 1)]
        assert asked == [200] * LIMIT + [429]

    def test_a_revoked_key_is_refused_with_the_next_request(self, server: Server):
        key_id, token = server.key_for("gus")
        assert server.ask(token).status_code == 200
        KeyStore(server.settings.home).revoke(key_id, ADMIN)
        refused = server.ask(token)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "revoked" in refused.json()["error"]["message"]

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/invocations"])
    @pytest.mark.parametrize("token", [None, "", "phi3kit_", f"phi3kit_{'0' * 12}_{'a' * 43}", "none", "\u00fc"])
    def test_no_route_answers_without_a_good_key(self, server: Server, path: str, token: str | None):
        assert server.ask(token, path).status_code == 401

    def test_no_key_stands_in_the_log_or_the_answer(self, server: Server):
        _, token = server.key_for("hal")
        secret = token[-43:]
        answers = [server.ask(f"{token}x"), server.ask(token)]
        assert not any(secret in each.text for each in answers)
        logs = [
            path for path in server.settings.home.rglob("*") if path.is_file() and path.suffix in (".log", ".db", "")
        ]
        assert not any(secret.encode() in path.read_bytes() for path in logs)


class TestWhenKeysAreAsked:
    def test_a_server_of_a_team_asks_for_one_also_on_loopback(self, home: Settings, built: Built):
        with serving(home, built.uri("onnx")) as server:
            assert server.ask(None).status_code == 401
            assert server.ask(server.key_for("ivy")[1]).status_code == 200

    def test_on_ones_own_machine_none_is_asked_and_a_users_key_names_its_user(self, home: Settings, built: Built):
        with serving(replace(home, profile="local"), built.uri("onnx")) as server:
            key_id, token = server.key_for("jo")
            assert [server.ask(None).status_code, server.ask("none").status_code] == [200, 200]
            assert server.ask(token, X_Phi3kit_User="ada").status_code == 200
            assert RequestCounts(server.settings.home).of("jo").daily_turns == 1
            written = [f"bearer {token}", f"BEARER  {token}", token, f"Token {token}", f"Basic x, Bearer {token}"]
            assert {server.ask_as(each).status_code for each in written} == {200}
            assert RequestCounts(server.settings.home).of("jo").daily_turns == 1 + len(written)
            KeyStore(server.settings.home).revoke(key_id, ADMIN)
            # And not let in as an anonymous caller.
            assert {server.ask_as(each).status_code for each in (*written, f"Bearer {token.upper()}")} == {401}

    def test_beyond_loopback_a_users_key_is_enough(self, home: Settings, built: Built, tmp_path: Path):
        settings = copy_of_store(built.settings, tmp_path)
        words = {"PHI3KIT_API_KEY": "", "PHI3KIT_PROFILE": "team"}
        refused = run_cli("serve", built.uri("onnx"), "--host", "0.0.0.0", "--port", "0", home=tmp_path, **words)  # noqa: S104
        assert refused.returncode == 2
        assert "phi3kit keys create" in refused.stderr
        _, token = KeyStore(tmp_path).create("kim", "", ADMIN)
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "phi3kit",
            "serve",
            built.uri("onnx"),
            "--host",
            "0.0.0.0",  # noqa: S104
            "--port",
            str(port),
        ]
        environment = {**os.environ, **child_environment(settings), **words}
        with subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for_server(f"http://127.0.0.1:{port}/health", process)
                server = Server(f"http://127.0.0.1:{port}", settings)
                assert [server.ask(None).status_code, server.ask(token).status_code] == [401, 200]
            finally:
                process.kill()


class TestManagedWorker:
    def test_a_worker_of_the_app_takes_no_users_key(self, built: Built, pool: Any):
        endpoint = pool.endpoint(built.uri("onnx"))
        keys = KeyStore(built.home)
        key, token = keys.create("lea", "", ADMIN)
        headers = {"Authorization": f"Bearer {token}"}
        refused = httpx2.post(f"{endpoint.base_url}/v1/chat/completions", json=BODY, headers=headers, timeout=300)
        keys.revoke(key.id, ADMIN)  # with a key in it the folder may be served to other machines
        assert refused.status_code == 401
