"""A local hub: serves files as repositories over the HTTP that Hugging Face's client speaks, with faults at will.

Answers /api/models/{repo}[/revision/{rev}] and /{repo}/resolve/{rev}/{file} (HEAD, GET, Range), refuses by
X-Error-Code, and keeps every request. A second server can play the CDN to which large files are redirected.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".data", ".model")
PIECE = 2**16


@dataclass
class Fault:
    """What goes wrong with a path, so many times."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # the connection closes after this byte of the file
    stall_at: int | None = None  # nothing more comes after this byte of the file
    damaged: bool = False  # the last byte is another one
    ignores_range: bool = False
    slow: float | None = None  # bytes a second
    times: float = float("inf")


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Repo:
    """A repository: commits with files, and names for them."""

    license: str
    gated: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # the first is the default


class Hub:
    """The server's state; a test changes it while the server runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cdn: Hub | None = None
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, bool] = {}  # a valid token: whether gated files are open to it
        self.faults: dict[str, Fault] = {}  # a file's name, or "api"
        self.stored: dict[str, bytes] = {}  # what a CDN serves
        self.seen: list[Seen] = []
        self.lists_hashes = True
        self.sizes: dict[str, int] = {}  # what the list says of a file, true or not
        self.closing = threading.Event()

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes] | Path,
        revision: str = "main",
        license: str = "mit",
        gated: bool = False,
    ) -> str:
        """Serve files, or a folder, as a repository's revision; its commit."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in sorted(files.iterdir()) if path.is_file()}
        digest = hashlib.sha1(usedforsecurity=False)
        for path, data in files.items():
            digest.update(path.encode() + data)
        kept = self.repos.setdefault(repo, Repo(license, gated))
        kept.commits[digest.hexdigest()] = dict(files)
        kept.revisions[revision] = digest.hexdigest()
        return digest.hexdigest()

    def requests(self, method: str, ending: str) -> list[Seen]:
        """Those of a method whose path ends so."""
        return [seen for seen in self.seen if seen.method == method and seen.path.endswith(ending)]


def hash_of(path: str, data: bytes) -> str:
    """What the hub's ETag says: SHA-256 of what LFS stores, git's blob id of the rest."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, hub: Hub) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the requests are kept."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, authorization = unquote(urlsplit(self.path).path), self.headers.get("Authorization")
        self.hub.seen.append(Seen(self.command, path, self.headers.get("Range"), authorization))
        try:
            if path.startswith("/cdn/"):
                name = path.rsplit("/", 1)[-1]
                self._send_file(name, self.hub.stored[name], self._fault(name))
                return
            is_api = path.startswith("/api/models/")
            parts = path.removeprefix("/api/models/").strip("/").split("/", 3)
            fault = self._fault("api" if is_api else path.rsplit("/", 1)[-1])
            token = (authorization or "").removeprefix("Bearer ")
            repo = self.hub.repos.get("/".join(parts[:2]))
            if fault.status:
                self._send(fault.status, b"{}", {"X-Fault": "1", **fault.headers})
            elif authorization and token not in self.hub.tokens:
                self._refuse(401, None, "Invalid credentials in Authorization header")
            elif repo is None:
                self._refuse(404 if authorization else 401, "RepoNotFound", "Repository not found")
            elif is_api:
                self._send_list("/".join(parts[:2]), repo, unquote("/".join(parts[3:])) if len(parts) > 3 else None)
            elif repo.gated and not self.hub.tokens.get(token):
                self._refuse(403 if authorization else 401, "GatedRepo", "Access to this model is restricted")
            else:
                revision, _, file = parts[3].partition("/")
                files = repo.commits.get(repo.revisions.get(revision, revision))
                if files is None:
                    self._refuse(404, "RevisionNotFound", "Invalid rev id")
                elif file not in files:
                    self._refuse(404, "EntryNotFound", "Entry not found")
                else:
                    self._send_file(file, files[file], fault, repo.revisions.get(revision, revision))
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _fault(self, name: str) -> Fault:
        fault = self.hub.faults.get(name)
        if fault is None or fault.times <= 0:
            return Fault()
        fault.times -= self.command == "GET"
        return fault

    def _send_list(self, name: str, repo: Repo, revision: str | None) -> None:
        commit = repo.revisions.get(revision, revision) if revision else next(iter(repo.revisions.values()))
        if commit not in repo.commits:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings: list[dict[str, Any]] = []
        for path, data in repo.commits[commit].items():
            sibling: dict[str, Any] = {"rfilename": path}
            if self.hub.lists_hashes:
                size = self.hub.sizes.get(path, len(data))
                sibling |= {"size": size, "blobId": hash_of("", data)}
                if path.endswith(LFS_SUFFIXES):
                    sibling["lfs"] = {"sha256": hash_of(path, data), "size": size, "pointerSize": 134}
            siblings.append(sibling)
        answer = {"id": name, "sha": commit, "gated": "auto" if repo.gated else False, "siblings": siblings}
        answer |= {"cardData": {"license": repo.license}, "tags": [f"license:{repo.license}"], "private": False}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path: str, data: bytes, fault: Fault, commit: str = "") -> None:
        headers = {"ETag": f'"{hash_of(path, data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.endswith(LFS_SUFFIXES) and commit:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            if self.hub.cdn:
                name = path.rsplit("/", 1)[-1]
                self.hub.cdn.stored[name] = data
                self._send(302, b"", {**headers, "Location": f"{self.hub.cdn.url}/cdn/{name}"})
                return
        if fault.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, asked = 0, self.headers.get("Range")
        if asked and not fault.ignores_range:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if "Content-Range" in headers else 200)
        for name, value in {**headers, "Content-Length": str(len(data) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = [end for end in (fault.cut_at, fault.stall_at) if end is not None]
        end = min([len(data), *ends])
        for at in range(start, end, PIECE):
            self.wfile.write(data[at : min(at + PIECE, end)])
            if fault.slow:
                time.sleep(PIECE / fault.slow)
        if end < len(data) or ends:
            if fault.stall_at is not None:
                self.hub.closing.wait(60)
            self.close_connection = True

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub on a free port, as long as the block runs."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub=hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
