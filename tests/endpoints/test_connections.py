"""Connections: what is refused, what is kept, and the endpoint that is made of them. Nothing is sent."""

from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.core.errors import ConnectionInvalid, StorageFailed
from phi3kit.endpoints.connections import Connection, endpoint_of, list_connections, remove_connection, save_connection
from tests.conftest import settings_for
from tests.support.actors import ADMIN

LAB = Connection("lab", "http://127.0.0.1:8000", model="phi3", key_name="PHI3KIT_KEY_LAB", context_tokens=4096)


class TestConnection:
    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("127.0.0.1:8000", "http://"),
            ("ftp://host/v1", "http://"),
            ("file:///etc/passwd", "http://"),
            ("javascript:alert(1)", "http://"),
            ("http://", "no host"),
            ("http:///v1", "no host"),
            ("http://:8000", "no host"),
            ("https://user:secret@host/v1", "a user or a password"),
            ("https://key@host", "a user or a password"),
            ("http://host:99999", "Port out of range"),
            ("http://host:port", "Port could not be cast"),
            ("http://[::1", "Invalid IPv6 URL"),
            ("http://host/v1?api-version=1", "a query"),
            ("http://host/v1#top", "a fragment"),
            ("http://host/a b", "spaces"),
            ("http://host\\@other", "a user or a password"),
            ("http://\u24dblocalhost", "Invalid IDNA hostname"),
            ("http://[v1.a]:80", "Invalid"),
            ("http://a..b", "label empty"),
            (f"http://{'a' * 64}.example", "label"),
            (f"http://host/{'a' * 70_000}", "too long"),
        ],
    )
    def test_a_url_that_cannot_be_used_is_named(self, url: str, why: str) -> None:
        with pytest.raises(ConnectionInvalid) as caught:
            replace(LAB, url=url)
        assert why in caught.value.why
        assert "secret@" not in str(caught.value)

    @pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 41, "<b>"])
    def test_a_name_that_cannot_be_used_is_refused(self, name: str) -> None:
        with pytest.raises(ConnectionInvalid, match="name"):
            replace(LAB, name=name)

    @pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "PHI3KIT_API_KEY", "PHI3KIT_KEY_ B"])
    def test_only_keys_meant_for_remote_endpoints_can_be_named(self, name: str) -> None:
        with pytest.raises(ConnectionInvalid, match="PHI3KIT_KEY_"):
            replace(LAB, key_name=name)

    def test_openai_needs_a_model_and_invocations_does_not(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectionInvalid, match="model"):
            save_connection(Connection("lab", "http://host"), ADMIN, settings_for(tmp_path))
        assert list_connections(tmp_path) == []
        served = Connection("served", "http://host:5000", "invocations")
        assert (served.model_uri, served.label) == ("remote:served", "served · /invocations")
        assert (LAB.model_uri, LAB.label) == ("remote:lab/phi3", "lab · phi3")


class TestKept:
    def test_what_was_saved_is_listed_by_name_and_a_name_is_there_once(self, tmp_path: Path) -> None:
        assert list_connections(tmp_path) == []
        other = Connection("Azure", "https://host/openai/v1", model="phi-4")
        save_connection(LAB, ADMIN, settings_for(tmp_path))
        save_connection(other, ADMIN, settings_for(tmp_path))
        save_connection(replace(LAB, model="phi3-new"), ADMIN, settings_for(tmp_path))
        assert list_connections(tmp_path) == [other, replace(LAB, model="phi3-new")]
        remove_connection("Azure", ADMIN, settings_for(tmp_path))
        remove_connection("nobody", ADMIN, settings_for(tmp_path))
        assert [each.name for each in list_connections(tmp_path)] == ["lab"]

    def test_no_key_is_in_the_file(self, tmp_path: Path) -> None:
        save_connection(LAB, ADMIN, settings_for(tmp_path))
        endpoint = endpoint_of(LAB, {"PHI3KIT_KEY_LAB": "s3cret"}, None)
        assert endpoint.api_key == "s3cret"
        assert "s3cret" not in repr(endpoint)
        assert all("s3cret" not in path.read_text() for path in tmp_path.iterdir())

    @pytest.mark.parametrize(
        "text",
        ["{", "{}x", '[{"name": 5}]', '[{"name": "a", "url": "file:///x"}]', '[{"unknown": 1}]', "[1]", "\udcff", "7"],
    )
    def test_a_broken_file_is_explained_and_kept(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "connections.json"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(StorageFailed, match=r"connections\.json"):
            list_connections(tmp_path)
        with pytest.raises(StorageFailed):
            save_connection(LAB, ADMIN, settings_for(tmp_path))
        assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


class TestEndpoint:
    @pytest.mark.parametrize(
        ("url", "base_url", "api_path"),
        [
            ("http://host:8000", "http://host:8000", "/v1"),
            ("http://host:8000/", "http://host:8000", "/v1"),
            ("https://host/v1", "https://host", "/v1"),
            ("https://host/v1/", "https://host", "/v1"),
            ("https://host/openai/v1", "https://host/openai", "/v1"),
            ("https://host/v1beta/openai/", "https://host/v1beta/openai", ""),
        ],
    )
    def test_the_url_is_taken_with_and_without_its_version(self, url: str, base_url: str, api_path: str) -> None:
        endpoint = endpoint_of(replace(LAB, url=url, key_name=""), {}, None)
        assert (endpoint.base_url, endpoint.api_path) == (base_url, api_path)
        assert (endpoint.wrapper, endpoint.model, endpoint.model_uri) == ("remote", "phi3", "remote:lab/phi3")

    @pytest.mark.parametrize("url", ["http://host:5000", "http://host:5000/invocations", "http://host:5000/"])
    def test_an_invocations_server_is_named_by_its_root_or_its_route(self, url: str) -> None:
        endpoint = endpoint_of(Connection("served", url, "invocations"), {}, None)
        assert (endpoint.base_url, endpoint.protocol) == ("http://host:5000", "invocations")

    def test_a_key_that_is_not_set_is_named(self) -> None:
        with pytest.raises(ConnectionInvalid, match="PHI3KIT_KEY_LAB"):
            endpoint_of(LAB, {"PHI3KIT_KEY_OTHER": "x"}, None)
