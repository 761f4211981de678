"""Attacks on a worker: what /health and another user's turns wait for while one user sends the costliest requests.

`python -m bench.attacks [--wrapper onnx|transformers] [--seconds 5]`. Builds the embedded model first. Knows the routes' bounds
and sends what they just let through. Says too what memory of its own the worker took at the most, and its scoring process.
Prints a Markdown table.
"""

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2

from bench.memory import Peaks
from bench.worker import HealthWatch, Worker, serving
from phi3kit.core.records import WRAPPERS

KEY = "bench"
PROMPT = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
TURN = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}

Attack = Callable[[httpx2.Client], object]


def headers(user: str) -> dict[str, str]:
    """Of the app, on behalf of a user."""
    return {"Authorization": f"Bearer {KEY}", "X-Phi3kit-User": user}


def posting(path: str, body: Any) -> Attack:
    """An attack that sends one request again and again. body: bytes, or what is JSON."""
    # Encoded once: the attackers must not hold up the clients that measure.
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda client: client.post(path, content=content, headers={"Content-Type": "application/json"})


CALLS = "calls of /invocations"
# By name: the attack, and how many threads of one user make it.
ATTACKS: dict[str, tuple[Attack, int]] = {
    "nothing": (lambda client: time.sleep(0.1), 1),
    CALLS: (posting("/invocations", {"prompt": PROMPT}), 2),
    "16 stop strings of 500 characters, n = 4": (
        posting("/v1/completions", TURN | {"max_tokens": 500, "n": 4, "stop": ["a" * 499 + str(n) for n in range(16)]}),
        4,
    ),
    "/invocations, 8 × 800 prompts": (posting("/invocations", {"prompt": [PROMPT] * 800}), 8),
    "/tokenize of 262,144 bytes": (posting("/tokenize", {"prompt": "🚀" * 65_536}), 4),
    "/tokenize, 8,192 pieces": (posting("/tokenize", {"prompt": "a" * 8192, "return_pieces": True}), 4),
    "/detokenize of 32,768 ids": (posting("/detokenize", {"tokens": [300] * 32_768}), 4),
    "1 MiB of nested lists": (posting("/tokenize", b'{"prompt":[' + b"[]," * 349_000 + b"[]]}"), 4),
    "39,000 nested lists": (posting("/tokenize", b'{"prompt":[' + b"[]," * 39_000 + b"[]]}"), 4),
    "80,000 unknown fields": (posting("/tokenize", {str(number): 0 for number in range(80_000)}), 4),
    "logprobs and biases, n = 4": (
        posting(
            "/v1/completions",
            TURN | {"max_tokens": 500, "n": 4, "logprobs": 20, "logit_bias": {str(token): 1 for token in range(1024)}},
        ),
        4,
    ),
}  # fmt: skip


@contextmanager
def attacked(worker: Worker, name: str) -> Iterator[None]:
    """Attack as long as the block lasts, from a process of its own: attackers' own work must not hold up who measures."""
    command = [sys.executable, "-m", "bench.attacks", "--attack", name, "--url", worker.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attackers:
        assert attackers.stdout
        attackers.stdout.readline()
        time.sleep(1)
        yield
        attackers.kill()


def attack(name: str, url: str) -> None:
    """Attack from so many threads until this process is killed. It gives way: real attackers compute elsewhere."""
    os.nice(19)
    one, threads = ATTACKS[name]

    def again_and_again() -> None:
        with httpx2.Client(base_url=url, headers=headers("eve"), timeout=900) as client:
            while True:
                with suppress(httpx2.HTTPError):  # the worker ends
                    one(client)

    for _ in range(threads):
        threading.Thread(target=again_and_again, daemon=True).start()
    print("begun", flush=True)
    sys.stdin.read()


@contextmanager
def half_sent(worker: Worker) -> Iterator[None]:
    """300 connections with half a request each."""
    port = int(worker.url.rpartition(":")[2])
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for each in held:
        each.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    yield
    for each in held:
        each.close()


@contextmanager
def locked_counts(worker: Worker) -> Iterator[None]:
    """Another process holds the file of counts, and calls wait for it."""
    with attacked(worker, CALLS):
        connection = sqlite3.connect(worker.home / "asked.db", isolation_level=None, timeout=30)
        connection.execute("begin exclusive")
        yield
        connection.close()


def measured(worker: Worker, length_s: float, *, turns: bool = True) -> tuple[float, float]:
    """Milliseconds: the 99th percentile of /health, and the median of another user's turns (none: 0)."""
    seconds: list[float] = []
    with (
        HealthWatch(worker) as watch,
        httpx2.Client(base_url=worker.url, headers=headers("ada"), timeout=900) as client,
    ):
        over = time.monotonic() + length_s
        while time.monotonic() < over:
            began = time.perf_counter()
            if turns:
                client.post("/v1/completions", json=TURN | {"prompt": f"{PROMPT}{began}"}).raise_for_status()
                seconds.append(time.perf_counter() - began)
            time.sleep(0.05)
    return quantiles(watch.seconds, n=100)[98] * 1e3, median(seconds or [0.0]) * 1e3


def main() -> None:
    """Print the table."""
    from bench.builds import build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wrapper", choices=WRAPPERS, default="onnx")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each measurement, without the attack and with it"
    )
    parser.add_argument("--attack", choices=ATTACKS, help="only attack the worker at --url, until this is killed")
    parser.add_argument("--url", help="of a worker")
    parser.add_argument("--only", nargs="*", default=[], help="only attacks with one of these in their names")
    arguments = parser.parse_args()
    if arguments.attack:
        attack(arguments.attack, arguments.url)
        return
    wrapper, length_s = arguments.wrapper, arguments.seconds
    os.environ |= {"PHI3KIT_API_KEY": KEY, "PHI3KIT_PROFILE": "team", "PHI3KIT_USER_MINUTE_TURNS": "1000000"}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false"}
    print(
        "| attack | /health p99, ms: without, with | another user's turn, ms: without, with | times | worker, MB | its scoring process, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as work:
        folder, _ = build("embedded", wrapper, Path(work) / "home")
        attacks: dict[str, Callable[[Worker], AbstractContextManager[None]]] = {
            name: partial(attacked, name=name) for name in ATTACKS
        }
        attacks |= {"300 half-sent requests": half_sent, "a locked file of counts": locked_counts}
        if arguments.only:
            attacks = {name: each for name, each in attacks.items() if any(part in name for part in arguments.only)}
        for name, begun in attacks.items():
            turns = begun is not locked_counts  # they wait for the file too
            with serving(folder, wrapper) as worker, Peaks(worker.process.pid) as peaks:
                health_before, turn_before = measured(worker, length_s)
                with begun(worker):
                    health, turn = measured(worker, length_s, turns=turns)
            ratio = f"{turn_before:.0f}, {turn:.0f} | {turn / turn_before:.1f}" if turns else "– | –"
            print(f"| {name} | {health_before:.0f}, {health:.0f} | {ratio} | {' | '.join(peaks.in_mb())} |", flush=True)


if __name__ == "__main__":
    main()
