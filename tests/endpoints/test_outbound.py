"""Outbound: a URL that somebody types reaches the listed hosts and no other, whatever its name resolves to."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.core.errors import EndpointFailed
from phi3kit.core.records import Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints.client import ask
from phi3kit.endpoints.connections import Connection, endpoint_of
from phi3kit.endpoints.probe import probe
from phi3kit.endpoints.records import Request, TurnContext
from tests.conftest import settings_for
from tests.support.actors import ADMIN, admin
from tests.support.scripted_server import http_answer, scripted

MODELS = http_answer(200, '{"object":"list","data":[{"id":"phi3"}]}')
KEYS = {"PHI3KIT_KEY_LAB": "s3cret"}
CAPITAL = (Message("user", "What is the capital of Spain?"),)


@pytest.fixture
def team(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, PHI3KIT_PROFILE="team", PHI3KIT_ALLOWED_HOSTS="api.example.com")


def lab(url: str) -> Connection:
    return Connection("lab", url, model="phi3", key_name="PHI3KIT_KEY_LAB")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::ffff:127.0.0.1]"],  # noqa: S104
)
def test_the_own_machine_is_reached_under_none_of_its_names(team: Settings, host: str):
    with scripted(MODELS) as server:
        with pytest.raises(EndpointFailed, match="Requests to") as caught:
            probe(lab(f"http://{host}:{server.port}"), KEYS, ADMIN, team)
        assert caught.value.kind == "not allowed"
        assert "PHI3KIT_ALLOWED_HOSTS" in caught.value.next_step
    assert server.requests == []


def test_a_question_goes_there_no_more_than_a_test_does(team: Settings):
    with scripted(MODELS) as server:
        endpoint = endpoint_of(lab(server.url), KEYS, team.allowed_hosts)
        with pytest.raises(EndpointFailed, match="Requests to"):
            ask(endpoint, Request(CAPITAL), TurnContext(admin("ada"), "ui"), team)
    assert server.requests == []


def test_a_listed_address_is_reached_with_its_key(team: Settings):
    with scripted(MODELS) as server:
        allowed = replace(team, allowed_hosts=(f"127.0.0.1:{server.port}",))
        assert probe(lab(f"http://localhost:{server.port}"), KEYS, ADMIN, allowed).models == ("phi3",)
    assert "Authorization: Bearer s3cret" in server.requests[0]


def test_a_listed_name_that_leads_to_the_own_machine_reaches_nothing(team: Settings, monkeypatch: pytest.MonkeyPatch):
    with scripted(MODELS) as server:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **named: found)
        with pytest.raises(EndpointFailed, match=r"It resolves to 127\.0\.0\.1"):
            probe(lab(f"http://api.example.com:{server.port}"), KEYS, ADMIN, team)
    assert server.requests == []


def test_a_name_that_leads_elsewhere_a_moment_later_is_asked_once(team: Settings, monkeypatch: pytest.MonkeyPatch):
    """DNS rebinding: the address that was checked is the one that is connected to."""
    asked: list[str] = []

    def lookup(host: str, *arguments: object, **named: object) -> list[object]:
        asked.append(host)
        address = "203.0.113.1" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 9))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(EndpointFailed, match=r"203\.0\.113\.1"):  # a network for documentation: not public, not listed
        probe(lab("http://api.example.com:9"), KEYS, ADMIN, team)
    assert asked == ["api.example.com"]


def test_a_redirect_carries_neither_message_nor_key_away(team: Settings):
    with scripted(MODELS) as other:
        answer = http_answer(307, "", headers=f"Location: {other.url}/v1/models\r\n")
        with scripted(answer) as server:
            allowed = replace(team, allowed_hosts=("127.0.0.1",))
            with pytest.raises(EndpointFailed, match="redirects to"):
                probe(lab(server.url), KEYS, ADMIN, allowed)
    assert other.requests == []


def test_a_proxy_of_the_environment_is_not_asked(team: Settings, monkeypatch: pytest.MonkeyPatch):
    """It would resolve the name by itself, behind the allow-list."""
    with scripted(MODELS) as proxy, scripted(MODELS) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        allowed = replace(team, allowed_hosts=("127.0.0.1",))
        assert probe(lab(server.url), KEYS, ADMIN, allowed).models == ("phi3",)
    assert proxy.requests == []


def test_a_key_that_an_endpoint_repeats_is_not_shown(team: Settings):
    answer = http_answer(401, '{"error":{"message":"Incorrect API key provided: s3cret."}}')
    with scripted(answer) as server, pytest.raises(EndpointFailed) as caught:
        probe(lab(server.url), KEYS, ADMIN, replace(team, allowed_hosts=("127.0.0.1",)))
    assert "s3cret" not in str(caught.value)
    assert "Incorrect API key provided: •••." in str(caught.value)
