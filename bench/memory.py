"""Memory: the most that each process takes while it is given what stands for gigabytes. Its baseline is the libraries.

`python -m bench.memory`. The app's part is a process that calls the kit as a page does; what it starts is a confined child.
What a worker takes is measured by bench.attacks. Prints a Markdown table.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil

from bench.builds import memory_of
from bench.watching import Watching
from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.settings import PROJECT_ROOT, read_settings

MB = 2**20
TEMPLATE_S = 5.0  # of a chat template that never ends; a build waits longer
_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
_JSON = b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\n\r\n"


class Peaks(Watching):
    """The most memory of its own that a process takes, and the most that one of those that it started does, in bytes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        super().__init__()
        self.itself = self.child = 0.0

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.itself = max(self.itself, memory_of(self._process.pid)[0])
            try:
                started = self._process.children(recursive=True)
            except psutil.Error:
                return
            self.child = max([self.child, *(memory_of(each.pid)[0] for each in started)])

    def in_mb(self) -> tuple[str, str]:
        """Both, as cells of a table."""
        return f"{self.itself / MB:.0f}", f"{self.child / MB:.0f}" if self.child else "–"


@contextmanager
def endless(head: bytes, again: bytes) -> Iterator[str]:
    """The URL of a server that answers with `head`, and then with `again` for ever."""

    def answer(connection: socket.socket) -> None:
        try:
            connection.recv(65_536)
            connection.sendall(head)
            while again:
                connection.sendall(again)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def packed(megabytes: int) -> bytes:
    """So many megabytes of spaces by gzip, made a megabyte at a time."""
    packer = zlib.compressobj(wbits=31)
    return b"".join([*(packer.compress(b" " * MB) for _ in range(megabytes)), packer.flush()])


def ask(place: Path, head: bytes, again: bytes = b"") -> None:
    """Ask an endpoint that answers so."""
    from phi3kit.access.actor import process_actor
    from phi3kit.core.records import Message
    from phi3kit.endpoints import client
    from phi3kit.endpoints.connections import Connection, endpoint_of
    from phi3kit.endpoints.records import Request, TurnContext

    settings = read_settings({"PHI3KIT_HOME": str(place)})
    with endless(head, again) as url:
        endpoint = endpoint_of(Connection("lab", url, "openai", model="phi3"), {}, None)
        client.ask(endpoint, Request((Message("user", "Hi"),)), TurnContext(process_actor(settings), "ui"), settings)


def preview(place: Path) -> None:
    """Look at a small Parquet file of large rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from phi3kit.batch.tables import open_table, read_rows

    same = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["x" * 1_000_000]))
    path = place / "in.parquet"
    pq.write_table(pa.table({"message": same}), path, compression="zstd", write_statistics=False, store_schema=False)
    del same
    list(islice(read_rows(open_table(path)), 5))
    sum(1 for _ in read_rows(open_table(path)))


def many_layers(place: Path) -> None:
    """A source whose config has 200,000 layers."""
    from phi3kit.access.actor import process_actor
    from phi3kit.packaging.sources.find import find_source

    folder = shutil.copytree(MODEL_FOLDER, place / "layers")
    config = (folder / "config.json").read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 200000')
    (folder / "config.json").write_text(config)
    settings = read_settings({"PHI3KIT_HOME": str(place)})
    find_source(str(folder), process_actor(settings), settings)


def template(place: Path, text: str) -> None:
    """A chat template, as a build tries it."""
    from phi3kit.packaging.trial import START_S, TrialProcess

    folder = shutil.copytree(MODEL_FOLDER, place / "trial-model")
    (folder / "chat_template.jinja").write_text(text)
    with TrialProcess(10_000_000, place) as trial:
        trial.ask("start", START_S)
        print(trial.ask("template", TEMPLATE_S, folder=str(folder))[:160])


ATTACKS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda place: None,
    "a Parquet file of 1 kB that stands for 1 GB": preview,
    "a gzip answer of 100 kB that stands for 100 MB": lambda place: ask(
        place,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n" + packed(100),
    ),
    "an endless line": lambda place: ask(place, _EVENTS, b"x" * MB),
    "an endless stream": lambda place: ask(place, _EVENTS, b": nothing yet" * 60_000 + b"\n\n"),
    "an endless answer": lambda place: ask(place, _JSON, b"[" * MB),
    "num_hidden_layers of 200,000": many_layers,
    "a chat template that never ends": lambda place: template(
        place, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "a chat template that takes all memory": lambda place: template(place, "{{ 'x' * 9999999999 }}"),
}


def main() -> None:
    """Print the table; or, as the app's part of it, be given one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ATTACKS, help=argparse.SUPPRESS)
    only = parser.parse_args().only
    if only is not None:
        with tempfile.TemporaryDirectory() as place:
            try:
                ATTACKS[only](Path(place))
            except Exception as error:  # what a page would show
                print(f"{type(error).__name__}: {error}"[:160])
        return
    print("| what it is given | the app's part, MB | its child, MB | what it says |")
    print("| --- | --- | --- | --- |")
    for name in ATTACKS:
        command = [sys.executable, "-m", "bench.memory", "--only", name]
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
        with Peaks(process.pid) as peaks:
            said, _ = process.communicate()
        itself, child = peaks.in_mb()
        print(f"| {name} | {itself} | {child} | {said.strip() or '–'} |", flush=True)


if __name__ == "__main__":
    main()
