"""Measure the embedded model through the worker against the bare library.

    make bench        (or: python -m bench [--repeat N] [--json])

Each figure is a median; both sides of a ratio are measured in turn, in the same run, on the same logged model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi3kit.chat_template import raw_prompt
from phi3kit.client import Answer, Request, TurnContext, stream
from phi3kit.logged_models import resolve
from phi3kit.records import WRAPPERS, Endpoint, Message, WrapperName
from phi3kit.settings import PROJECT_ROOT, child_environment, read_settings
from phi3kit.workers import WorkerPool

QUESTION = "List the capitals of Europe."  # some 400 tokens
Timed = tuple[int, float]  # tokens written, seconds from the first to the last


def bare_transformers(folder: Path) -> Callable[[], Timed]:
    """transformers' own generate, nothing around it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.generation.streamers import BaseStreamer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "components/tokenizer")
    ids = tokenizer(raw_prompt([Message("user", QUESTION)]), return_tensors="pt", add_special_tokens=False).input_ids

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.at: list[float] = []

        def put(self, value: Any) -> None:
            self.at.append(time.perf_counter())

        def end(self) -> None:
            pass

    def run() -> Timed:
        clock = Clock()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=1024, do_sample=False, streamer=clock
            )
        written = clock.at[1:]  # the first call of a streamer carries the prompt
        return len(written), written[-1] - written[0]

    return run


def bare_onnx(folder: Path) -> Callable[[], Timed]:
    """onnxruntime-genai's token loop, nothing around it."""
    import onnxruntime_genai as og

    (config,) = folder.glob("artifacts/*/genai_config.json")
    model = og.Model(str(config.parent))
    ids = og.Tokenizer(model).encode(raw_prompt([Message("user", QUESTION)]))

    def run() -> Timed:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + 1024, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        at = []
        while not generator.is_done():
            generator.generate_next_token()
            at.append(time.perf_counter())
        return len(at), at[-1] - at[0]

    return run


def through_worker(endpoint: Endpoint, settings: Any) -> Answer:
    """The same question over HTTP, streamed, as the pages ask it."""
    context = TurnContext(user="bench", origin="api")
    *_, last = stream(endpoint, Request((Message("user", QUESTION),)), context, settings)
    return last


def measure(wrapper: WrapperName, uri: str, pool: WorkerPool, settings: Any, repeat: int) -> dict[str, float]:
    """Decode speed bare and through the worker, and the time to the first token."""
    folder = resolve(uri, settings).folder
    bare = (bare_transformers if wrapper == "transformers" else bare_onnx)(folder)
    began = time.perf_counter()
    endpoint = pool.endpoint(uri)
    start_s = time.perf_counter() - began
    through_worker(endpoint, settings), bare()  # warm
    bare_speeds, worker_speeds, firsts = [], [], []
    for _ in range(repeat):
        tokens, seconds = bare()
        bare_speeds.append((tokens - 1) / seconds)
        answer = through_worker(endpoint, settings)
        worker_speeds.append(answer.tokens_per_second or 0.0)
        firsts.append(answer.time_to_first_token_s or 0.0)
    bare_speed, worker_speed = statistics.median(bare_speeds), statistics.median(worker_speeds)
    memory = next(status.memory_bytes for status in pool.statuses() if status.model_uri == uri)
    return {
        "bare_tokens_per_second": bare_speed,
        "worker_tokens_per_second": worker_speed,
        "worker_to_bare": worker_speed / bare_speed,
        "time_to_first_token_s": statistics.median(firsts),
        "worker_start_s": start_s,
        "worker_memory_mb": (memory or 0) / 1e6,
    }


def main() -> None:
    """Build both wrappers, measure each, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = read_settings({"PHI3KIT_HOME": home})
        began = time.perf_counter()
        command = [sys.executable, "-m", "phi3kit", "build", "--wrapper", "both"]
        done = subprocess.run(
            command, cwd=PROJECT_ROOT, env=child_environment(settings), check=True, capture_output=True, text=True
        )
        results: dict[str, Any] = {"build_both_s": time.perf_counter() - began}
        uris = {line["wrapper"]: line["model_uri"] for line in map(json.loads, done.stdout.splitlines())}
        pool = WorkerPool(settings)
        try:
            for wrapper in WRAPPERS:
                results[wrapper] = measure(wrapper, uris[wrapper], pool, settings, arguments.repeat)
        finally:
            pool.close()
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"both wrappers built in {results['build_both_s']:.1f} s\n")
    print(f"{'':28}{'transformers':>14}{'onnx':>14}")
    for name in results["onnx"]:
        print(f"{name:28}" + "".join(f"{results[wrapper][name]:14,.3f}" for wrapper in WRAPPERS))


if __name__ == "__main__":
    main()
