"""A proxy of the environment: what is meant for this machine never goes there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import EndpointFailed
from phi3kit.core.loopback import ask_directly
from phi3kit.core.records import Endpoint
from phi3kit.endpoints import invocations
from phi3kit.endpoints.client import connect
from phi3kit.endpoints.connections import Connection
from phi3kit.endpoints.outbound import loopback_client
from phi3kit.endpoints.probe import probe
from phi3kit.endpoints.transport import json_of
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.tracking.store import open_store
from tests.conftest import Built, settings_for
from tests.support.actors import ADMIN
from tests.support.scripted_server import Scripted, http_answer, scripted

MODELS = http_answer(200, '{"object":"list","data":[{"id":"phi3"}]}')


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """It answers everything, and no NO_PROXY keeps anything from it."""
    with scripted(MODELS) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        yield server


def worker(server: Scripted) -> Endpoint:
    return Endpoint(server.url, "key", "models:/m-1", "onnx")


def test_a_prompt_to_a_worker_goes_there_directly(proxy: Scripted) -> None:
    with scripted(MODELS) as server:
        assert json_of(worker(server), "GET", "/v1/models")["data"] == [{"id": "phi3"}]
        with connect(worker(server)) as client:
            assert [each.id for each in client.models.list()] == ["phi3"]
        assert invocations.send(worker(server), "{}").status == 200
    assert len(server.requests) == 3
    assert proxy.requests == []


def test_a_workers_health_and_figures_are_asked_directly(proxy: Scripted) -> None:
    with scripted(MODELS) as server, loopback_client(server.url, 5) as client:
        assert client.get("/health").is_success
    assert proxy.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_connection_to_this_machine_is_asked_directly(proxy: Scripted, tmp_path: Path, host: str) -> None:
    with scripted(MODELS) as server:
        lab = Connection("lab", f"http://{host}:{server.port}", model="phi3")
        assert probe(lab, {}, ADMIN, settings_for(tmp_path)).models == ("phi3",)
    assert proxy.requests == []


def test_a_connection_beyond_it_takes_the_proxy(proxy: Scripted, tmp_path: Path) -> None:
    """A company's network may have no other way out."""
    lab = Connection("lab", "http://api.example.invalid", model="phi3")
    assert probe(lab, {}, ADMIN, settings_for(tmp_path)).models == ("phi3",)
    assert proxy.requests[0].startswith("GET http://api.example.invalid/v1/models ")


def test_with_an_allow_list_nothing_takes_the_proxy(proxy: Scripted, tmp_path: Path) -> None:
    lab = Connection("lab", "http://api.example.invalid", model="phi3")
    with pytest.raises(EndpointFailed, match="cannot be reached"):
        probe(lab, {}, ADMIN, settings_for(tmp_path, PHI3KIT_ALLOWED_HOSTS="api.example.invalid"))
    assert proxy.requests == []


def test_mlflow_asks_a_server_on_this_machine_directly(proxy: Scripted, tmp_path: Path) -> None:
    with scripted(http_answer(400, '{"error_code": "BAD_REQUEST", "message": "asked directly"}')) as server:
        settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=server.url)
        with pytest.raises(Exception, match="asked directly"):
            open_store(settings).get_experiment_by_name("phi3kit-builds")
    assert proxy.requests == []


def test_children_ask_this_machine_directly_and_keep_the_exceptions_that_were_set(
    proxy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "lab.example,localhost")
    environment = child_environment(settings_for(tmp_path))
    assert environment["NO_PROXY"] == environment["no_proxy"] == "lab.example,localhost,127.0.0.1,::1"
    assert environment["HTTP_PROXY"] == proxy.url
    again = dict(environment)
    ask_directly(again)
    assert again == environment


def test_a_worker_starts_and_answers(proxy: Scripted, built: Built) -> None:
    pool = WorkerPool(built.settings)
    try:
        endpoint = pool.endpoint(built.uri("onnx"))
        told = {"messages": [{"role": "user", "content": "Hello"}]}
        assert json_of(endpoint, "POST", "/tokenize", told)["count"] > 1
    finally:
        pool.close()
    assert proxy.requests == []
