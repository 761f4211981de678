"""Pages of other sites: a server that its reader can reach answers none of them, by whatever name or form they ask."""

from typing import Any

import httpx2
import pytest

from phi3kit.access.same_origin import ServedNames
from phi3kit.core.errors import SettingInvalid
from phi3kit.core.records import Endpoint
from phi3kit.core.settings import read_settings

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
ROUTES = [
    ("GET", "/health"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/tokenize"), ("POST", "/detokenize"),
    ("POST", "/invocations"),
]  # fmt: skip
POSTED = [path for method, path in ROUTES if method == "POST"]
FROM_ELSEWHERE = {
    "by DNS rebinding": {"Host": "attacker.example"},
    "by DNS rebinding, with its port": {"Host": "attacker.example:{port}", "Origin": "http://attacker.example:{port}"},
    "by a name that begins like this machine's": {"Host": "127.0.0.1.attacker.example"},
    "from another site": {"Origin": "https://attacker.example"},
    "from another port of this machine": {"Origin": "http://127.0.0.1:1"},
    "from this machine by another name": {"Origin": "http://localhost:{port}"},
    "from a page without an origin": {"Origin": "null"},
    "by an image or a script": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "by an image of another port": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
}


def asked(worker: Endpoint, method: str, path: str, **more: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {worker.api_key}", **more.pop("headers", {})}
    return httpx2.request(method, f"{worker.base_url}{path}", headers=headers, timeout=300, **more)


class TestWorker:
    @pytest.mark.parametrize("how", FROM_ELSEWHERE)
    def test_it_answers_no_page_of_another_site(self, onnx_endpoint: Endpoint, how: str):
        port = onnx_endpoint.base_url.rpartition(":")[2]
        headers = {name: value.format(port=port) for name, value in FROM_ELSEWHERE[how].items()}
        for method, path in ROUTES:
            answer = asked(onnx_endpoint, method, path, headers=headers, json=BODY if method == "POST" else None)
            assert (path, answer.status_code) == (path, 403)
            assert answer.json()["error"]["code"] == "origin_not_allowed"

    def test_it_answers_programs_its_own_pages_and_links_that_are_followed(self, onnx_endpoint: Endpoint):
        for headers in (
            {},
            {"Host": f"localhost:{onnx_endpoint.base_url.rpartition(':')[2]}"},
            {"Origin": onnx_endpoint.base_url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        ):
            assert asked(onnx_endpoint, "GET", "/health", headers=headers).status_code == 200

    def test_no_path_has_a_control_character(self, onnx_endpoint: Endpoint):
        for path in ("/health%0a", "/v1/models%0A", "/%00", "/metrics%0d"):
            answer = asked(onnx_endpoint, "GET", path)
            assert (path, answer.status_code, answer.json()["error"]["code"]) == (path, 400, "invalid_path")

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None,
                                      "text/plain; application/json", "", "text/plain, application/json"])  # fmt: skip
    def test_it_takes_no_post_that_a_page_may_send_unasked(self, onnx_endpoint: Endpoint, kind: str | None):
        headers = {} if kind is None else {"Content-Type": kind}
        for path in POSTED:
            answer = asked(onnx_endpoint, "POST", path, headers=headers, content=b'{"prompt": "hi", "max_tokens": 1}')
            assert (path, answer.status_code) == (path, 415)
            assert answer.json()["error"]["code"] == "unsupported_media_type"

    def test_mlflows_protocol_keeps_its_tables(self, onnx_endpoint: Endpoint):
        headers = {"Content-Type": "text/csv"}
        assert asked(onnx_endpoint, "POST", "/invocations", headers=headers, content=b"prompt\nhi\n").status_code == 200
        assert asked(onnx_endpoint, "POST", "/tokenize", headers=headers, content=b"prompt\nhi\n").status_code == 415


class TestServedNames:
    NAMES = ServedNames.read(["App.lab.example.", "*.cloud.example"])

    @pytest.mark.parametrize("host", [
        "localhost", "LOCALHOST:8501", "127.0.0.1:8501", "[::1]:8501", "192.168.1.7", "app.lab.example",
        "APP.lab.example:8501", "app.lab.example.", "a.b.cloud.example",
    ])  # fmt: skip
    def test_these_are_served(self, host: str):
        assert self.NAMES.refusal([(b"host", host.encode())]) is None

    @pytest.mark.parametrize("host", [
        "", "lab.example", "x.app.lab.example", "cloud.example", "xcloud.example", "localhost.attacker.example",
        "app.lab.example@attacker.example", "attacker.example/app.lab.example", "app.lab.example:", "app.lab.example:x",
        "app.lab.example attacker.example", "127.1", "0x7f000001", "\u00fcber.example", "app.lab.example\u3002", "[::1",
    ])  # fmt: skip
    def test_these_are_not(self, host: str):
        assert self.NAMES.refusal([(b"host", host.encode())]) is not None

    def test_a_request_has_one_host_and_at_most_one_origin(self):
        good, origin = (b"host", b"localhost"), (b"origin", b"http://localhost")
        assert self.NAMES.refusal([good, origin]) is None
        assert self.NAMES.refusal([]) is not None
        assert self.NAMES.refusal([good, good]) is not None
        assert self.NAMES.refusal([good, origin, origin]) is not None

    @pytest.mark.parametrize(("origin", "own"), [
        ("https://app.lab.example", True), ("https://app.lab.example:443", True), ("http://127.0.0.1:8501", True),
        ("https://app.lab.example:8443", False), ("https://127.0.0.1:8502", False), ("http://localhost", False),
        ("https://app.lab.example.attacker.example", False), ("ftp://app.lab.example", False), ("", False),
        ("https://attacker.example#https://app.lab.example", False), ("https://a@app.lab.example", False),
    ])  # fmt: skip
    def test_behind_a_proxy_only_pages_of_listed_names_are_own(self, origin: str, own: bool):
        said = self.NAMES.refusal([(b"host", b"127.0.0.1:8501"), (b"origin", origin.encode())])
        assert (said is None) == own

    def test_a_refusal_shows_a_header_short_and_without_control_characters(self):
        said = self.NAMES.refusal([(b"host", b"\x1b[2J" + b"a" * 10_000)])
        assert said is not None
        assert said.isprintable()
        assert len(said) < 300

    @pytest.mark.parametrize("name", ["https://app.example", "app.example:8501", "a b", "*", "a.*"])
    def test_what_is_no_name_is_refused_with_the_settings_name(self, name: str):
        if name == "*":
            assert ServedNames.read([name]).refusal([(b"host", b"any.example")]) is None
            return
        with pytest.raises(SettingInvalid, match="PHI3KIT_HOST_NAMES"):
            ServedNames.read([name])


class TestSetting:
    def test_names_come_from_the_setting_and_from_where_people_come_back_to(self):
        told = {
            "PHI3KIT_HOST_NAMES": "One.example, two.example",
            "auth": {"redirect_uri": "https://T.example/oauth2callback"},
        }
        assert read_settings(told).host_names == ("one.example", "two.example", "t.example")
        assert read_settings({}).host_names == ()

    def test_any_name_leads_to_a_public_app_and_only_its_platforms_pages_are_own(self):
        names = ServedNames.read(read_settings({"PHI3KIT_PROFILE": "public"}).host_names)
        host = (b"host", b"pod-7.internal:8501")
        assert names.refusal([host, (b"origin", b"https://phi3.streamlit.app")]) is None
        assert names.refusal([host, (b"origin", b"https://attacker.example")]) is not None
