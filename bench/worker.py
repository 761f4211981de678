"""A worker under measurement, and a client that notes the time of every piece of an answer."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from tokenizers import Tokenizer

from bench.watching import Watching
from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import PROJECT_ROOT

TOKENIZER = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
# Random weights would generate end tokens at random: this bias forbids them.
_NEVER_END = {str(TOKENIZER.token_to_id(name)): -100 for name in ("<|end|>", "<|endoftext|>", "<|assistant|>")}
# The text of random tokens is tokenized differently; that of this token is not.
ALWAYS_THE = {str(TOKENIZER.token_to_id("▁the")): 100}


@dataclass
class Stream:
    """When the pieces of one answer came, and the number of tokens up to each."""

    sent_at: float = field(default_factory=time.perf_counter)
    at: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in memory
    text: str = ""

    @property
    def first_s(self) -> float:
        """From the request to the first token."""
        return self.at[0] - self.sent_at

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first piece."""
        return (self.tokens[-1] - self.tokens[0]) / (self.at[-1] - self.at[0])

    @property
    def worst_gap_s(self) -> float:
        """The longest time between two pieces."""
        return max(later - earlier for earlier, later in zip(self.at, self.at[1:], strict=False))


@dataclass
class Worker:
    """A running worker."""

    url: str
    process: subprocess.Popen[str]
    home: Path  # its data folder

    def ask(self, prompt: str, tokens: int, bias: dict[str, int] = _NEVER_END) -> Stream:
        """Stream exactly so many tokens after a raw prompt."""
        body = {
            "prompt": prompt, "max_tokens": tokens, "stream": True, "logit_bias": bias,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }  # fmt: skip
        with httpx2.Client(timeout=900) as client:  # made before the clock starts: its TLS set-up takes 20 ms
            stream = Stream()
            self._read(client, body, stream)
        assert stream.tokens[-1] == tokens
        return stream

    def _read(self, client: httpx2.Client, body: dict[str, Any], stream: Stream) -> None:
        with client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.perf_counter()
                chunk: dict[str, Any] = json.loads(line[6:])
                usage = chunk["usage"]
                if chunk["choices"]:
                    stream.text += chunk["choices"][0]["text"]
                if usage["completion_tokens"] > (stream.tokens[-1] if stream.tokens else 0):
                    stream.at.append(now)
                    stream.tokens.append(usage["completion_tokens"])
                stream.prompt_tokens = usage["prompt_tokens"]
                stream.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]

    def health(self) -> dict[str, Any]:
        """What /health says."""
        answer: dict[str, Any] = httpx2.get(f"{self.url}/health", timeout=60).json()
        return answer

    @property
    def memory_mb(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@contextmanager
def serving(folder: Path, wrapper: WrapperName) -> Iterator[Worker]:
    """A worker for a model folder, started as the app starts it."""
    command = [
        sys.executable,
        "-m",
        "phi3kit.worker",
        str(folder),
        "--wrapper",
        wrapper,
        "--model-uri",
        "models:/bench",
    ]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PHI3KIT_HOME": home, "PHI3KIT_KV_BUDGET_MB": "6144"}
        process = subprocess.Popen(
            [*command, "--managed"], cwd=PROJECT_ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        worker = Worker(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}", process, Path(home))
        try:
            while (state := worker.health()["state"]) != "ready":
                assert state == "loading", worker.health()
                time.sleep(0.1)
            yield worker
        finally:
            process.terminate()
            process.wait(30)


class HealthWatch(Watching):
    """Calls /health continuously and keeps the response times."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        super().__init__()
        self.seconds: list[float] = []

    def _watch(self) -> None:
        with httpx2.Client(timeout=60) as client:
            while not self._over.wait(0.02):
                began = time.perf_counter()
                client.get(f"{self._worker.url}/health")
                self.seconds.append(time.perf_counter() - began)
