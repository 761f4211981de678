"""Hostile hubs: whatever one answers, it takes bounded memory and time, and what it did is a sentence."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from phi3kit.core.errors import DownloadFailed, SourceInvalid
from phi3kit.core.secret import Secret
from phi3kit.core.settings import Settings
from phi3kit.endpoints import outbound
from phi3kit.packaging.sources import hub, hub_cache
from phi3kit.packaging.sources.hub_names import HubFile, HubName, HubSnapshot
from tests.conftest import settings_for
from tests.support.hub_server import Fault, local_hub
from tests.support.scripted_server import Scripted, http_answer, scripted

MB = 2**20
NAME = HubName("someone/small")
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
WEIGHTS = bytes(range(256)) * 1200
FILE: dict[str, Any] = {"rfilename": "model.safetensors", "size": 3, "blobId": "b" * 40}


def asking(server: Scripted, home: Path) -> Settings:
    return settings_for(home, HF_ENDPOINT=server.url)


def failure(server: Scripted, home: Path) -> str:
    with pytest.raises(DownloadFailed) as failed:
        hub.look_up(NAME, asking(server, home))
    return failed.value.why


def listing(**values: Any) -> dict[str, Any]:
    return {"id": NAME.repo, "sha": "c0ffee", "siblings": [FILE], **values}


class TestTooMuch:
    @pytest.mark.parametrize("piece", [b"[" * MB, b'"x",' * 2**18], ids=["nested", "flat"])
    def test_a_list_without_end_is_read_for_megabytes(self, tmp_path: Path, piece: bytes) -> None:
        with scripted(JSON, again=piece) as server:
            assert failure(server, tmp_path) == "127.0.0.1 says more than 8,000,000 bytes of what it holds."
        assert server.sent < 30 * MB  # what the sockets hold, and not what this process does
        assert len(server.requests) == 1

    @pytest.mark.parametrize("said", [JSON, b"HTTP/1.1 200 OK\r\nX-Long: "], ids=["body", "head"])
    def test_a_list_that_drips_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
        monkeypatch.setattr(hub, "_MOST_LIST_S", 1)
        with scripted(said, again=b" ", pause_s=0.02) as server:
            assert failure(server, tmp_path) == "127.0.0.1 took longer than 1 s to say what it holds."
        assert len(server.requests) == 1

    def test_a_list_of_gigabytes_in_some_kilobytes_is_not_unpacked(self, tmp_path: Path) -> None:
        packed = gzip.compress(json.dumps(listing()).encode() + b" " * (64 * MB))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
        with scripted(head + packed) as server:
            assert failure(server, tmp_path) == "127.0.0.1 answers something that is not a Hugging Face repository."
        assert "accept-encoding: identity" in server.requests[0].lower()

    def test_what_stands_behind_a_redirect_or_an_error_is_not_read(self, tmp_path: Path) -> None:
        with local_hub() as further:
            further.add(NAME.repo, {"model.safetensors": b"abc"})
            head = f"HTTP/1.1 307 Moved\r\nLocation: {further.url}/api/models/{NAME.repo}?blobs=True\r\n\r\n"
            with scripted(head.encode(), again=b"x" * MB) as server:
                settings = asking(server, tmp_path)
                found = hub.look_up(NAME, settings)
        assert (found.size_bytes, server.sent < 30 * MB) == (3, True)
        with scripted(b"HTTP/1.1 418 No\r\n\r\n", again=b"x" * MB) as server:
            assert failure(server, tmp_path) == "127.0.0.1 answered with the error 418."
        assert server.sent < 30 * MB

    def test_redirects_end(self, tmp_path: Path) -> None:
        with scripted(
            b"HTTP/1.1 307 Moved\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ) as server:
            assert failure(server, tmp_path) == "127.0.0.1 could not be reached (It redirects without end.)."
        assert len(server.requests) == 5

    def test_a_redirected_list_takes_no_token_to_another_host(self, tmp_path: Path) -> None:
        with local_hub() as further:
            further.add(NAME.repo, {"model.safetensors": b"abc"})
            head = f"HTTP/1.1 307 Moved\r\nLocation: {further.url}/api/models/{NAME.repo}?blobs=True\r\n\r\n"
            with scripted(head.encode()) as server:
                settings = settings_for(tmp_path, HF_ENDPOINT=server.url, PHI3KIT_HF_TOKEN="hf_secret")
                assert settings.hub_token == Secret("hf_secret")
                hub.look_up(NAME, settings)
        assert "Bearer hf_secret" in server.requests[0]
        assert [seen.authorization for seen in further.seen] == [None]


class TestOddLists:
    @pytest.mark.parametrize(
        "answer",
        [
            *([], "x", 5, None, [listing()]),
            *(listing(sha=sha) for sha in (None, 5, "", "../x", "é", "c" * 500)),
            *(listing(siblings=siblings) for siblings in ("x", 5, {"a": 1}, [5], ["x"], [[]], [{}])),
            *(
                listing(siblings=[{**FILE, "rfilename": name}])
                for name in (5, None, ["x"], "a\0.safetensors", "\ud800")
            ),
            *(listing(siblings=[{**FILE, "size": size}]) for size in ("3", [3], -1, 3.5, True, 1e400, 10**30)),
            *(listing(siblings=[{**FILE, "blobId": key}]) for key in (5, ["x"], {"a": 1}, "../../x", "é", "b" * 500)),
            *(listing(siblings=[{**FILE, "lfs": lfs}]) for lfs in (5, "x", [1], {"sha256": 5}, {"sha256": ["x"]})),
        ],
        ids=lambda answer: json.dumps(answer)[:80],
    )
    def test_are_no_hubs(self, tmp_path: Path, answer: Any) -> None:
        with scripted(http_answer(200, json.dumps(answer))) as server:
            assert failure(server, tmp_path) == "127.0.0.1 answers something that is not a Hugging Face repository."

    @pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 200_000, "9" * 10_000, "\xff", ""], ids=len)
    def test_nor_is_json_that_cannot_be_read(self, tmp_path: Path, body: str) -> None:
        with scripted(http_answer(200, body)) as server:
            assert failure(server, tmp_path) == "127.0.0.1 answers something that is not a Hugging Face repository."

    @pytest.mark.parametrize(
        ("license", "said"),
        [("mit", "mit"), (["mit", "x"], "mit, x"), ([["x"], "mit"], "mit"), (5, None), ({"a": 1}, None), (None, None)],
    )
    def test_a_license_is_text_or_none(self, tmp_path: Path, license: Any, said: str | None) -> None:
        answer = listing(cardData={"license": license}, createdAt=5, safetensors=7, transformersInfo="x")
        with scripted(http_answer(200, json.dumps(answer))) as server:
            found = hub.look_up(NAME, asking(server, tmp_path))
        assert (found.license, found.files) == (said, (HubFile("model.safetensors", 3, None, "b" * 40),))

    def test_no_files_are_no_weights(self, tmp_path: Path) -> None:
        empty = http_answer(200, json.dumps(listing(siblings=None)))
        with scripted(empty) as server, pytest.raises(SourceInvalid, match="It has no weights"):
            hub.look_up(NAME, asking(server, tmp_path))


class TestSlowFiles:
    def test_one_below_the_least_rate_has_stalled_and_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbound, "_RATE_S", 1)
        monkeypatch.setattr(hub_cache, "_LEAST_BYTES_PER_S", 10**6)
        with local_hub() as server:
            server.add(NAME.repo, {"model.safetensors": WEIGHTS})
            server.faults["model.safetensors"] = Fault(slow=1e5)  # silences of 0.7 s, so that no time limit ends it
            settings = settings_for(tmp_path, HF_ENDPOINT=server.url)
            snapshot = hub.look_up(NAME, settings)
            with pytest.raises(DownloadFailed) as failed:
                hub.download(snapshot, settings)
            why = "The connection stalled: 127.0.0.1 sent less than 1,000,000 bytes of model.safetensors a second."
            assert (failed.value.why, failed.value.next_step.endswith("Downloaded data is kept.")) == (why, True)
            had = len(WEIGHTS) - hub.bytes_to_download(snapshot, settings)
            assert 0 < had < len(WEIGHTS)
            server.faults.clear()
            folder = hub.download(snapshot, settings)
            assert (folder / "model.safetensors").read_bytes() == WEIGHTS
            assert [seen.range for seen in server.requests("GET", ".safetensors")] == [None, f"bytes={had}-"]

    @pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
    def test_one_that_drips_has_stalled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
        monkeypatch.setattr(outbound, "_RATE_S", 1)
        snapshot = HubSnapshot(NAME, "c0ffee", None, False, "", (HubFile("a.safetensors", MB, None, "b" * 40),))
        why = r"sent less than 1,000 bytes of a\.safetensors a second"
        with scripted(said, again=b"x", pause_s=0.02) as server, pytest.raises(DownloadFailed, match=why):
            hub.download(snapshot, asking(server, tmp_path))
        assert len(server.requests) == 1

    def test_one_in_some_kilobytes_is_not_unpacked(self, tmp_path: Path) -> None:
        packed = gzip.compress(bytes(64 * MB))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
        file = HubFile("a.safetensors", len(packed), None, "b" * 40)
        snapshot = HubSnapshot(NAME, "c0ffee", None, False, "", (file,))
        with scripted(head + packed) as server, pytest.raises(DownloadFailed, match=r"a\.safetensors arrived damaged"):
            hub.download(snapshot, asking(server, tmp_path))
