"""The hub: names, what a repository holds, and downloads that survive what networks, servers and disks do.

The client is the real one; it talks to a hub on this machine.
"""

import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import DownloadFailed, Phi3KitError, SourceInvalid, StorageFailed
from phi3kit.core.secret import Secret, SecretUrl
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.packaging.sources import hub
from phi3kit.packaging.sources.hub_names import DownloadProgress, HubName, parse
from tests.conftest import settings_for
from tests.support.hub_server import Fault, Hub, local_hub
from tests.support.waiting import wait_for

PHI3 = HubName("microsoft/Phi-3-mini-4k-instruct")
PHI3_ONNX = "microsoft/Phi-3-mini-4k-instruct-onnx"
CPU_FOLDER = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
SMALL = HubName("someone/small")
WEIGHTS = random.Random(7).randbytes(300_000)
SMALL_FILES = {
    "config.json": b'{"architectures": ["Phi3ForCausalLM"]}',
    "README.md": b"# Small\n",
    "LICENSE": b"MIT\n",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "modeling_phi3.py": b"raise SystemExit",
    "pytorch_model.bin": b"a pickle",
    "figures/picture.png": b"png",
}
SMALL_SIZE = sum(len(SMALL_FILES[name]) for name in ("config.json", "README.md", "LICENSE")) + 600_000
SHARD = "model-00002-of-00002.safetensors"

# A process of its own: the client reads its environment once, and limits and signals are a process's.
CHILD = """
import json, signal, sys
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.settings import read_settings
from phi3kit.packaging.sources import hub
from phi3kit.packaging.sources.hub_names import parse

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
settings = read_settings()
try:
    print(json.dumps(["done", str(hub.download(hub.look_up(parse(sys.argv[1]), settings), settings))]))
except Phi3KitError as error:
    print(json.dumps([type(error).__name__, error.what, error.why, error.next_step]))
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    with local_hub() as running:
        running.add(SMALL.repo, SMALL_FILES)
        yield running


@pytest.fixture
def settings(server: Hub, tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "home", HF_ENDPOINT=server.url)


def with_token(settings: Settings, token: str) -> Settings:
    return dataclasses.replace(settings, hub_token=Secret(token))


def start_child(
    name: HubName, settings: Settings, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"PHI3KIT_HOME": str(settings.home), "HF_ENDPOINT": settings.hub_endpoint.reveal(), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(name)],
        cwd=PROJECT_ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def in_child(
    name: HubName, settings: Settings, before: Callable[[], None] | None = None, **environment: str
) -> tuple[list[str], str]:
    """What a download in its own process came to, and what it wrote to stderr."""
    out, err = start_child(name, settings, before, **environment).communicate(timeout=300)
    return json.loads(out), err


def partial_of(settings: Settings, name: HubName) -> Path:
    """The one file that came in part."""
    blobs = settings.home / "hub" / f"models--{name.repo.replace('/', '--')}" / "blobs"
    (found,) = blobs.glob("*.incomplete")
    return found


class TestParse:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("microsoft/Phi-3-mini-4k-instruct", PHI3),
            ("a/b@main", HubName("a/b", "main")),
            ("a/b@v1.0", HubName("a/b", "v1.0")),
            (
                "a/b@0123456789abcdef0123456789abcdef01234567",
                HubName("a/b", "0123456789abcdef0123456789abcdef01234567"),
            ),
            ("a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
            ("a/b@refs%2Fpr%2F1", HubName("a/b", "refs/pr/1")),
            ("a/b@refs/pr/1/onnx/cpu", HubName("a/b", "refs/pr/1", "onnx/cpu")),
            ("a/b@feature%2Fx/onnx", HubName("a/b", "feature/x", "onnx")),
            (f"{PHI3_ONNX}/{CPU_FOLDER}", HubName(PHI3_ONNX, None, CPU_FOLDER)),
            ("a/b@main/onnx", HubName("a/b", "main", "onnx")),
        ],
    )
    def test_reads_owner_name_revision_and_folder(self, name: str, meant: HubName):
        assert parse(name) == meant
        assert parse(str(meant)) == meant

    @pytest.mark.parametrize(
        "name",
        [
            *("", "embedded", "phi3", "./a/b", "../a/b", "/a/b", "~/a/b", "~a/b", "a/", "/b", "a//b", "a/b/", "a/b//c"),
            *("a/b/../c", "a/b/./c", "a/b@", "a/b@../x", "a/b@-x", "a/b@x..y", "a/b@%2Fx", "a/b@%zz", "a/b@x y"),
            *("a/b c", "a\\b/c", "C:\\models/phi3", "https://huggingface.co/a/b", "a/b\n", "a/b--c", "a/b.git", "a/b."),
            *("-a/b", "a/b..c", "é/b", f"a/{'b' * 97}", "a/b@c@d", "a/b#c", "a/b?c", "a/b/\x00"),
        ],
    )
    def test_anything_else_is_no_repository(self, name: str):
        assert parse(name) is None


class TestLookUp:
    def test_a_revision_becomes_a_commit(self, server: Hub, settings: Settings):
        first = server.add("someone/tagged", {"model.safetensors": b"one"}, "v1")
        second = server.add("someone/tagged", {"model.safetensors": b"two!"}, "refs/pr/1")
        old = hub.look_up(HubName("someone/tagged", "v1"), settings)
        new = hub.look_up(HubName("someone/tagged", "refs/pr/1"), settings)
        assert (old.commit, old.size_bytes) == (first, 3)
        assert (new.commit, new.size_bytes) == (second, 4)
        assert hub.look_up(HubName("someone/tagged", second), settings).commit == second

    def test_without_a_revision_the_repository_default_counts(self, server: Hub, settings: Settings):
        commit = server.add("someone/other", {"model.safetensors": b"one"}, "trunk")
        server.add("someone/other", {"model.safetensors": b"two"}, "main")
        assert hub.look_up(HubName("someone/other"), settings).commit == commit

    def test_says_what_the_repository_is_with_one_request(self, server: Hub, settings: Settings):
        server.add("someone/gated", SMALL_FILES, license="apache-2.0", gated=True)
        snapshot = hub.look_up(HubName("someone/gated"), settings)
        assert (snapshot.license, snapshot.gated) == ("apache-2.0", True)
        assert snapshot.card_url == f"{server.url}/someone/gated"
        assert snapshot.size_bytes == SMALL_SIZE
        assert [seen.path for seen in server.seen] == ["/api/models/someone/gated"]

    def test_only_files_that_a_build_needs_are_in_it(self, settings: Settings):
        files = {file.path: file for file in hub.look_up(SMALL, settings).files}
        assert set(files) == set(SMALL_FILES) - {"modeling_phi3.py", "pytorch_model.bin", "figures/picture.png"}
        assert files[SHARD].sha256 == hashlib.sha256(WEIGHTS[::-1]).hexdigest()
        assert (files["LICENSE"].sha256, files["LICENSE"].blob_id) == (None, "a22a2da24d1ceeef3d0c2f1f4f68923f55b8d4cc")

    @pytest.mark.parametrize("token", [None, "hf_good"])
    def test_a_wrong_name_is_no_source(self, server: Hub, settings: Settings, token: str | None):
        server.tokens = {"hf_good": True}
        with pytest.raises(SourceInvalid) as raised:
            hub.look_up(
                HubName("someone/nothing"), dataclasses.replace(settings, hub_token=Secret(token) if token else None)
            )
        assert raised.value.what == "The source someone/nothing cannot be used."
        assert raised.value.why == "127.0.0.1 has no such model, or it is private."

    def test_a_wrong_revision_is_named(self, settings: Settings):
        with pytest.raises(SourceInvalid) as raised:
            hub.look_up(HubName(SMALL.repo, "v9"), settings)
        assert raised.value.what == "The source someone/small@v9 cannot be used."
        assert raised.value.why == "127.0.0.1 has no revision v9."

    def test_a_bad_token_is_refused_even_for_a_public_model(self, settings: Settings):
        with pytest.raises(SourceInvalid) as raised:
            hub.look_up(SMALL, with_token(settings, "hf_bad"))
        assert raised.value.why == "127.0.0.1 refused the token."
        assert "PHI3KIT_HF_TOKEN" in raised.value.next_step

    @pytest.mark.parametrize("token", ["hf_secret\n", "hf_secret two", "hf_secré", ""])
    def test_a_token_that_no_header_can_hold_is_refused_unprinted(self, server: Hub, settings: Settings, token: str):
        with pytest.raises(SourceInvalid) as raised:
            hub.look_up(SMALL, with_token(settings, token))
        assert raised.value.what == "The Hugging Face token cannot be used."
        assert "secr" not in "".join(traceback.format_exception(raised.value))
        assert server.seen == []

    def test_pickled_weights_are_refused_with_the_reason(self, server: Hub, settings: Settings):
        server.add("someone/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x", "model.pt": b"x"})
        with pytest.raises(SourceInvalid, match="a pickle can run any code when it is loaded"):
            hub.look_up(HubName("someone/pickled"), settings)

    def test_a_repository_without_weights_says_so(self, server: Hub, settings: Settings):
        server.add("someone/gguf", {"config.json": b"{}", "model.gguf": b"x"})
        with pytest.raises(SourceInvalid, match=r"It has no weights: no file ends in \.safetensors or \.onnx"):
            hub.look_up(HubName("someone/gguf"), settings)

    @pytest.mark.parametrize(
        ("folder", "why"),
        [(None, "It has no weights; the weights are in"), ("cpu", "The folder cpu does not exist; the weights are in")],
    )
    def test_weights_in_other_folders_are_pointed_to(
        self, server: Hub, settings: Settings, folder: str | None, why: str
    ):
        server.add(PHI3_ONNX, {"README.md": b"", f"{CPU_FOLDER}/phi3.onnx": b"x", "cuda/fp16/phi3.onnx": b"x"})
        with pytest.raises(SourceInvalid) as raised:
            hub.look_up(HubName(PHI3_ONNX, "main", folder), settings)
        assert raised.value.why == f"{why} {CPU_FOLDER}, cuda/fp16."
        assert raised.value.next_step == f"Name one of these folders, as in {PHI3_ONNX}@main/{CPU_FOLDER}."

    def test_a_list_without_hashes_costs_a_question_a_file(self, server: Hub, settings: Settings):
        full = hub.look_up(SMALL, settings)
        server.lists_hashes = False
        assert hub.look_up(SMALL, settings) == full
        assert len([seen for seen in server.seen if seen.method == "HEAD"]) == len(full.files)

    def test_an_answer_that_is_none_of_a_hub_is_said(self, server: Hub, settings: Settings):
        server.faults["api"] = Fault(status=200)
        with pytest.raises(DownloadFailed, match="answers something that is not a Hugging Face repository"):
            hub.look_up(SMALL, settings)

    def test_errors_that_pass_are_waited_out(self, server: Hub, settings: Settings):
        server.faults["api"] = Fault(status=503, times=2)
        assert hub.look_up(SMALL, settings).size_bytes == SMALL_SIZE
        assert len(server.seen) == 3

    def test_too_many_requests_are_not_repeated(self, server: Hub, settings: Settings):
        server.faults["api"] = Fault(status=429, headers={"Retry-After": "77"})
        with pytest.raises(DownloadFailed) as raised:
            hub.look_up(SMALL, settings)
        assert raised.value.next_step == "Try again in 77 s."
        assert len(server.seen) == 1

    def test_without_a_network_it_ends_soon(self, tmp_path: Path):
        with socket.socket() as taken:  # a port where nobody listens
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            began = time.monotonic()
            with pytest.raises(DownloadFailed) as raised:
                hub.look_up(SMALL, settings_for(tmp_path, HF_ENDPOINT=url))
        assert raised.value.why == "127.0.0.1 could not be reached ([Errno 111] Connection refused)."
        assert time.monotonic() - began < 30

    @pytest.mark.parametrize("url", ["huggingface", "ftp://127.0.0.1", "http://[x"])
    def test_an_endpoint_that_is_no_address_is_one_clear_error(self, tmp_path: Path, url: str):
        with pytest.raises(Phi3KitError, match="HF_ENDPOINT"):
            hub.look_up(SMALL, dataclasses.replace(settings_for(tmp_path), hub_endpoint=SecretUrl(url)))


class TestDownload:
    def test_the_folder_holds_every_byte_and_the_cache_is_the_clients(self, server: Hub, settings: Settings):
        from huggingface_hub import scan_cache_dir, try_to_load_from_cache

        server.add(PHI3.repo, MODEL_FOLDER)
        snapshot = hub.look_up(PHI3, settings)
        folder = hub.download(snapshot, settings)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in MODEL_FOLDER.iterdir()
        }
        cache = settings.home / "hub"
        listed = scan_cache_dir(cache)
        (repo,) = listed.repos
        assert (listed.warnings, repo.repo_id, repo.size_on_disk) == ([], PHI3.repo, snapshot.size_bytes)
        found = try_to_load_from_cache(PHI3.repo, "config.json", cache_dir=cache, revision=snapshot.commit)
        assert found == str(folder / "config.json")

    def test_a_second_download_asks_for_nothing_and_waits_for_nobody(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        folder = hub.download(snapshot, settings)
        server.seen.clear()
        (lock,) = (settings.home / "hub" / ".locks").rglob("*.lock")
        with FileLock(lock):
            assert hub.download(snapshot, settings) == folder
        assert server.seen == []

    def test_a_file_that_was_shortened_in_the_cache_comes_again(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        folder = hub.download(snapshot, settings)
        (folder / SHARD).resolve().write_bytes(b"")
        assert hub.bytes_to_download(snapshot, settings) == 300_000
        hub.download(snapshot, settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]

    def test_another_revision_costs_only_what_changed(self, server: Hub, settings: Settings):
        hub.download(hub.look_up(SMALL, settings), settings)
        server.add(SMALL.repo, {**SMALL_FILES, "README.md": b"# Better\n"}, "v2")
        snapshot = hub.look_up(HubName(SMALL.repo, "v2"), settings)
        assert hub.bytes_to_download(snapshot, settings) == 9
        server.seen.clear()
        folder = hub.download(snapshot, settings)
        assert [seen.path.rpartition("/")[2] for seen in server.seen] == ["README.md"]
        assert (folder / "README.md").read_bytes() == b"# Better\n"
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]

    def test_code_and_pickles_are_never_asked_for(self, server: Hub, settings: Settings):
        folder = hub.download(hub.look_up(SMALL, settings), settings)
        assert not [seen for seen in server.seen if seen.path.endswith((".py", ".bin", ".png"))]
        assert not [path for path in folder.iterdir() if path.suffix in (".py", ".bin")]

    def test_a_folder_of_a_repository_comes_alone(self, server: Hub, settings: Settings):
        files = {"genai_config.json": b"{}", "phi3.onnx": b"graph", "phi3.onnx.data": WEIGHTS, "tokenizer.json": b"{}"}
        others = {"cuda/phi3.onnx": b"x", "config.json": b"{}", f"{CPU_FOLDER}/setup.py": b"x"}
        server.add(PHI3_ONNX, {**{f"{CPU_FOLDER}/{name}": data for name, data in files.items()}, **others})
        snapshot = hub.look_up(HubName(PHI3_ONNX, None, CPU_FOLDER), settings)
        folder = hub.download(snapshot, settings)
        assert folder.parts[-3:] == (snapshot.commit, *CPU_FOLDER.split("/"))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    def test_a_mirror_without_hashes_in_its_list_serves_as_well(self, server: Hub, settings: Settings):
        server.lists_hashes = False
        folder = hub.download(hub.look_up(SMALL, settings), settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]

    def test_small_files_can_come_first(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        folder = hub.fetch_small(snapshot, settings, ["config.json", "genai_config.json"])
        assert [path.name for path in folder.iterdir()] == ["config.json"]
        assert hub.download(snapshot, settings) == folder
        assert len(server.requests("GET", "/config.json")) == 1

    def test_two_at_once_fetch_each_file_once(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        server.faults[SHARD] = Fault(slow=1e6)
        folders: list[Path] = []
        both = [threading.Thread(target=lambda: folders.append(hub.download(snapshot, settings))) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert len(folders) == 2
        assert len(server.requests("GET", SHARD)) == 1


class TestProgress:
    def test_done_grows_to_the_total_with_a_rate(self, server: Hub, settings: Settings):
        server.add(PHI3.repo, MODEL_FOLDER)
        server.faults["model.safetensors"] = Fault(slow=8e6)
        snapshot = hub.look_up(PHI3, settings)
        told: list[DownloadProgress] = []
        began = time.monotonic()
        hub.download(snapshot, settings, told.append)
        done = [progress.done_bytes for progress in told]
        assert done == sorted(done)
        assert 3 <= len(told) <= 4 * (time.monotonic() - began) + 2
        assert {progress.total_bytes for progress in told} == {snapshot.size_bytes}
        assert all(0 < progress.bytes_per_s < 1e8 for progress in told)  # 8 MB/s, less on a busy machine
        assert told[0].seconds_left == pytest.approx((told[0].total_bytes - done[0]) / told[0].bytes_per_s)
        assert (told[-1].done_bytes, told[-1].seconds_left) == (snapshot.size_bytes, 0.0)

    def test_a_full_cache_is_done_at_once(self, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        hub.download(snapshot, settings)
        told: list[DownloadProgress] = []
        hub.download(snapshot, settings, told.append)
        assert told == [DownloadProgress(SMALL_SIZE, SMALL_SIZE, 0.0, 0.0)]

    def test_bytes_to_download_shrink_as_they_come(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        assert hub.bytes_to_download(snapshot, settings) == SMALL_SIZE
        server.faults[SHARD] = Fault(slow=3e5)
        stopped_at: list[int] = []

        def stop(progress: DownloadProgress) -> None:
            stopped_at.append(progress.done_bytes)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            hub.download(snapshot, settings, stop)
        assert 0 < stopped_at[0] < SMALL_SIZE
        assert hub.bytes_to_download(snapshot, settings) == SMALL_SIZE - stopped_at[0]
        server.faults.clear()
        hub.download(snapshot, settings)
        assert hub.bytes_to_download(snapshot, settings) == 0


class TestGated:
    @pytest.fixture
    def gated(self, server: Hub) -> HubName:
        server.add("someone/gated", SMALL_FILES, gated=True)
        server.tokens = {"hf_good": True, "hf_stranger": False}
        return HubName("someone/gated")

    def test_without_a_token_the_terms_are_named(self, gated: HubName, settings: Settings):
        snapshot = hub.look_up(gated, settings)
        with pytest.raises(SourceInvalid) as raised:
            hub.fetch_small(snapshot, settings, ["config.json"])
        assert raised.value.why == "Its owner asks for an agreement, and no token is set."
        assert f"Accept the terms on {snapshot.card_url}" in raised.value.next_step
        assert "PHI3KIT_HF_TOKEN" in raised.value.next_step

    def test_a_token_without_access_is_told_so(self, gated: HubName, settings: Settings):
        settings = with_token(settings, "hf_stranger")
        with pytest.raises(SourceInvalid, match="the token gives no access to it"):
            hub.download(hub.look_up(gated, settings), settings)

    def test_the_right_token_opens_it(self, gated: HubName, server: Hub, settings: Settings):
        settings = with_token(settings, "hf_good")
        folder = hub.download(hub.look_up(gated, settings), settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert {seen.authorization for seen in server.seen} == {"Bearer hf_good"}


class TestToken:
    def test_goes_to_the_hub_and_not_where_the_hub_redirects(self, server: Hub, settings: Settings):
        server.tokens = {"hf_good": True}
        with local_hub() as cdn:
            server.cdn = cdn
            cdn.faults[SHARD] = Fault(cut_at=200_000, times=1)
            settings = with_token(settings, "hf_good")
            folder = hub.download(hub.look_up(SMALL, settings), settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert [seen.range for seen in cdn.requests("GET", SHARD)] == [None, "bytes=200000-"]
        assert {seen.authorization for seen in server.seen} == {"Bearer hf_good"}
        assert {seen.authorization for seen in cdn.seen} == {None}

    def test_of_the_machine_is_not_taken_silently(self, server: Hub, settings: Settings, tmp_path: Path):
        (tmp_path / "token").write_text("hf_machine")
        (result, _), _ = in_child(SMALL, settings, HF_HOME=str(tmp_path))
        assert result == "done"
        assert {seen.authorization for seen in server.seen} == {None}

    def test_stands_in_no_error_and_no_log(self, server: Hub, settings: Settings):
        token = "hf_verysecret"
        for valid, fault in (({}, None), ({token: False}, None), ({token: True}, 403), ({token: True}, 416)):
            server.tokens = valid
            server.repos[SMALL.repo].gated = fault is None
            server.faults = {"config.json": Fault(status=fault)} if fault else {}
            said, log = in_child(SMALL, settings, PHI3KIT_HF_TOKEN=token, HF_DEBUG="1")
            assert said[0] in ("SourceInvalid", "DownloadFailed")
            assert token not in " ".join(said)
            assert "<TOKEN>" in log  # the client did log its requests
            assert token not in log
            own = with_token(settings, token)
            with pytest.raises(Phi3KitError) as raised:
                hub.download(hub.look_up(SMALL, own), own)
            assert token not in "".join(traceback.format_exception(raised.value))


class TestFaults:
    def test_a_cut_connection_goes_on_where_it_ended(self, server: Hub, settings: Settings):
        server.faults[SHARD] = Fault(cut_at=200_000, times=1)
        folder = hub.download(hub.look_up(SMALL, settings), settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert [seen.range for seen in server.requests("GET", SHARD)] == [None, "bytes=200000-"]

    def test_a_server_that_knows_no_ranges_begins_again(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        told: list[DownloadProgress] = []
        with pytest.raises(KeyboardInterrupt):
            hub.download(snapshot, settings, _stop_after(SMALL_SIZE - 150_000, server, SHARD))
        had = partial_of(settings, SMALL).stat().st_size
        assert had > 0
        server.faults[SHARD] = Fault(ignores_range=True)
        folder = hub.download(snapshot, settings, told.append)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert server.requests("GET", SHARD)[-1].range == f"bytes={had}-"
        assert told[-1].done_bytes == SMALL_SIZE

    @pytest.mark.parametrize("ignores_range", [False, True])
    def test_a_file_cut_for_ever_is_given_up_and_kept(self, server: Hub, settings: Settings, ignores_range: bool):
        server.faults[SHARD] = Fault(cut_at=200_000, ignores_range=ignores_range)
        snapshot = hub.look_up(SMALL, settings)
        with pytest.raises(DownloadFailed) as raised:
            hub.download(snapshot, settings)
        assert raised.value.why == f"127.0.0.1 ended the connection before {SHARD} was complete, 4 times."
        assert raised.value.next_step == "Try again. Downloaded data is kept."
        assert len(server.requests("GET", SHARD)) == 5
        assert hub.bytes_to_download(snapshot, settings) == 100_000
        server.faults.clear()
        assert (hub.download(snapshot, settings) / SHARD).read_bytes() == WEIGHTS[::-1]

    @pytest.mark.parametrize("file", [SHARD, "config.json"])
    def test_a_damaged_file_does_not_stay_in_the_cache(self, server: Hub, settings: Settings, file: str):
        server.faults[file] = Fault(damaged=True, times=1)
        snapshot = hub.look_up(SMALL, settings)
        with pytest.raises(DownloadFailed) as raised:
            hub.download(snapshot, settings)
        assert raised.value.why == f"{file} arrived damaged: its bytes do not match the hash from 127.0.0.1."
        assert hub.bytes_to_download(snapshot, settings) >= len(SMALL_FILES[file])
        assert not list((settings.home / "hub").rglob(file))
        assert not list((settings.home / "hub").rglob("*.incomplete"))
        folder = hub.download(snapshot, settings)
        assert (folder / file).read_bytes() == SMALL_FILES[file]

    def test_server_errors_that_pass_are_waited_out(self, server: Hub, settings: Settings):
        server.faults[SHARD] = Fault(status=500, times=2)
        folder = hub.download(hub.look_up(SMALL, settings), settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert len(server.requests("GET", SHARD)) == 3

    def test_server_errors_for_ever_end(self, server: Hub, settings: Settings):
        server.faults[SHARD] = Fault(status=502)
        with pytest.raises(DownloadFailed) as raised:
            hub.download(hub.look_up(SMALL, settings), settings)
        assert raised.value.what == "someone/small could not be downloaded."
        assert raised.value.why == "127.0.0.1 answered with the error 502, 4 times."
        assert len(server.requests("GET", SHARD)) == 4

    def test_one_missing_shard_is_named(self, server: Hub, settings: Settings):
        server.faults[SHARD] = Fault(status=404, headers={"X-Error-Code": "EntryNotFound"})
        with pytest.raises(SourceInvalid) as raised:
            hub.download(hub.look_up(SMALL, settings), settings)
        assert raised.value.why == f"{SHARD} is missing on 127.0.0.1."
        assert len(server.requests("GET", SHARD)) == 1

    def test_a_stalled_connection_ends(self, server: Hub, settings: Settings):
        server.faults[SHARD] = Fault(stall_at=150_000)
        began = time.monotonic()
        (kind, _, why, _), _ = in_child(SMALL, settings, HF_HUB_DOWNLOAD_TIMEOUT="1")
        assert (kind, why) == ("DownloadFailed", "The connection stalled: 127.0.0.1 sent nothing for 1 s, 4 times.")
        assert time.monotonic() - began < 200, "without the setting it would wait four times as long as a visitor"
        assert hub.bytes_to_download(hub.look_up(SMALL, settings), settings) == 150_000

    def test_offline_mode_holds_for_others_and_not_for_a_download(self, server: Hub, settings: Settings):
        (result, _), _ = in_child(SMALL, settings, HF_HUB_OFFLINE="1")
        assert result == "done"
        assert {seen.path.split("/")[1] for seen in server.seen} == {"api", "someone"}
        assert not [seen for seen in server.seen if "agent" in seen.path]


class TestCancelled:
    def test_an_interrupted_download_resumes_by_range(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        with pytest.raises(KeyboardInterrupt):
            hub.download(snapshot, settings, _stop_after(SMALL_SIZE - 150_000, server, SHARD))
        had = partial_of(settings, SMALL).stat().st_size
        server.faults.clear()
        folder = hub.download(snapshot, settings)
        assert (folder / SHARD).read_bytes() == WEIGHTS[::-1]
        assert server.requests("GET", SHARD)[-1].range == f"bytes={had}-"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_a_process_that_was_ended_leaves_a_cache_that_resumes(
        self, server: Hub, settings: Settings, number: signal.Signals
    ):
        server.add(PHI3.repo, MODEL_FOLDER)
        server.faults["model.safetensors"] = Fault(slow=4e6)
        child = start_child(PHI3, settings)
        blobs = settings.home / "hub" / "models--microsoft--Phi-3-mini-4k-instruct" / "blobs"
        wait_for("a megabyte", lambda: any(path.stat().st_size > 1e6 for path in blobs.glob("*.incomplete")))
        child.send_signal(number)
        child.communicate(timeout=300)
        assert child.returncode == (143 if number == signal.SIGTERM else -9)
        had = partial_of(settings, PHI3).stat().st_size
        server.faults.clear()
        folder = hub.download(hub.look_up(PHI3, settings), settings)
        assert server.requests("GET", "/model.safetensors")[-1].range == f"bytes={had}-"
        weights = (MODEL_FOLDER / "model.safetensors").read_bytes()
        assert (folder / "model.safetensors").read_bytes() == weights

    def test_a_listener_that_has_gone_is_not_the_disks_fault(self, settings: Settings):
        def gone(progress: DownloadProgress) -> None:
            raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            hub.download(hub.look_up(SMALL, settings), settings, gone)


class TestDisk:
    def test_a_disk_that_fills_up_is_said_with_both_numbers(self, server: Hub, settings: Settings):
        server.add(PHI3.repo, MODEL_FOLDER)
        limit = 5_000_000

        def small_disk() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        (kind, what, why, next_step), _ = in_child(PHI3, settings, small_disk)
        needed = (MODEL_FOLDER / "model.safetensors").stat().st_size - limit
        assert (kind, what) == ("DownloadFailed", f"{PHI3} could not be downloaded.")
        assert why.startswith(
            f"The data folder cannot store more (File too large): {needed:,} bytes are still needed, "
        )
        assert "PHI3KIT_HOME" in next_step
        folder = hub.download(hub.look_up(PHI3, settings), settings)
        assert server.requests("GET", "/model.safetensors")[-1].range == f"bytes={limit}-"
        assert (folder / "model.safetensors").stat().st_size == needed + limit

    def test_a_disk_too_small_is_known_before_the_first_byte(self, server: Hub, settings: Settings):
        snapshot = hub.look_up(SMALL, settings)
        huge = dataclasses.replace(snapshot, files=(dataclasses.replace(snapshot.files[0], size_bytes=10**18),))
        server.seen.clear()
        with pytest.raises(DownloadFailed, match="1,000,000,000,000,000,000 bytes are still needed"):
            hub.download(huge, settings)
        assert server.seen == []

    def test_a_data_folder_that_cannot_be_written_is_a_storage_error(self, settings: Settings, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageFailed):
            hub.download(hub.look_up(SMALL, settings), dataclasses.replace(settings, home=tmp_path / "file" / "home"))


def _stop_after(done_bytes: int, server: Hub, file: str) -> Callable[[DownloadProgress], None]:
    """A listener that interrupts once so much came of a file that is made slow."""
    server.faults[file] = Fault(slow=4e5)

    def stop(progress: DownloadProgress) -> None:
        if progress.done_bytes >= done_bytes:
            raise KeyboardInterrupt

    return stop
