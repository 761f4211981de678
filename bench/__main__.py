"""Measure the workers against the bare libraries and against the limits of the machine.

    make bench        (or: python -m bench [--layers 8] [--repeat N] [--json])

Each figure is a median of several runs; both sides of a ratio are measured in turn, in the same run. Nothing else
should run meanwhile. --layers 8 is the short form: a quarter of Phi-3-mini's layers.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from bench.bare import BareOnnx, BareTransformers
from bench.builds import Figures, build, wrap
from bench.models import random_weights
from bench.worker import ALWAYS_THE, TOKENIZER, HealthWatch, Stream, Worker, serving
from phi3kit.core.machine import choose_threads
from phi3kit.core.records import WRAPPERS, WrapperName

_ROUNDS = 8  # of each repetition

_counter = iter(range(10**9))


def prompt_of(tokens: int) -> str:
    """A prompt of so many tokens with a new beginning, so that no cache has a prefix of it."""
    text = f"<|user|>\n{next(_counter)} " + "word " * tokens
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids[:tokens]
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


def ids_of(prompt: str) -> list[int]:
    return list(TOKENIZER.encode(prompt, add_special_tokens=False).ids)


def speed(worker: Worker, bare: dict[str, Any], prompt_tokens: int, tokens: int, repeat: int) -> Figures:
    """Prefill and decode, tokens/s, through the worker's stream and bare.

    A virtual machine's speed changes by a quarter within minutes: both sides decode few tokens in alternation, after the
    same prompt, and each result is compared with its neighbours.
    """
    sides = ["worker", *bare]
    prefill: dict[str, list[float]] = {name: [] for name in sides}
    decode: dict[str, list[float]] = {name: [] for name in sides}
    worker.ask(prompt_of(8), 4)
    for each in bare.values():
        each.ask(ids_of(prompt_of(8)), 4)
    for _ in range(repeat):
        for name in sides:
            prompt = prompt_of(prompt_tokens)
            stream = bare[name].ask(ids_of(prompt), 2) if name in bare else worker.ask(prompt, 2)
            prefill[name].append(stream.prompt_tokens / stream.first_s)
    askers = {name: each.asker(ids_of(prompt), tokens) for name, each in bare.items()}
    askers["worker"] = lambda: worker.ask(prompt, tokens)
    for _ in range(_ROUNDS * repeat):
        for name in sides:
            decode[name].append(askers[name]().tokens_per_second)
    figures: Figures = {}
    for what, values in (("decode", decode), ("prefill", prefill)):
        for name in sides:
            figures[f"{what} tokens/s, {name}"] = median(values[name])
    for name in bare:
        pairs = [mine / its for mine, its in zip(decode["worker"], decode[name], strict=True)]
        figures[f"decode, worker / {name}"] = median(pairs)
        figures[f"decode, worker / {name}, quartiles"] = "{:.2f} to {:.2f}".format(*quantiles(pairs, n=4)[::2])
        figures[f"prefill, worker / {name}"] = median(prefill["worker"]) / median(prefill[name])
    return figures


def conversation(worker: Worker, bare: BareOnnx, new_tokens: int, tokens: int) -> Figures:
    """Time to the first token as a conversation of 20 turns grows, through the worker and by a stateless client."""
    history = f"{next(_counter)} "
    firsts: dict[int, float] = {}
    computed: dict[int, int] = {}
    stateless: dict[int, float] = {}
    for turn in range(1, 21):
        history += prompt_of(new_tokens)
        stream = worker.ask(history, tokens, ALWAYS_THE)
        firsts[turn], computed[turn] = stream.first_s, stream.prompt_tokens - stream.cached_tokens
        if turn in (1, 5, 10, 20):
            stateless[turn] = bare.ask(ids_of(history), 2).first_s
        history += stream.text
    figures: Figures = {}
    for turn in (1, 5, 10, 20):
        figures[f"first token s, turn {turn}, worker"] = firsts[turn]
        figures[f"first token s, turn {turn}, stateless"] = stateless[turn]
        figures[f"tokens computed, turn {turn}, worker"] = computed[turn]
    # The time of one turn is noisy: take the median with its neighbours.
    figures["first token, turn 20 / turn 1"] = median(firsts[t] for t in (18, 19, 20)) / median(
        firsts[t] for t in (1, 2, 3)
    )
    return figures


def together(worker: Worker, bare: BareOnnx, counts: tuple[int, ...], prompt_tokens: int, tokens: int) -> Figures:
    """Several conversations at once: all tokens/s, the worst gap, and a latecomer's first token."""
    figures: Figures = {}
    alone = 0.0
    for count in counts:
        streams = in_threads([lambda: worker.ask(prompt_of(prompt_tokens), tokens)] * count)
        plain = in_threads([lambda: bare.ask(ids_of(prompt_of(prompt_tokens)), tokens)] * count)
        figures[f"{count} at once, tokens/s, worker"] = total_speed(streams)
        figures[f"{count} at once, tokens/s, plain threads"] = total_speed(plain)
        figures[f"{count} at once, worst gap s, worker"] = max(stream.worst_gap_s for stream in streams)
        figures[f"{count} at once, worst gap s, plain threads"] = max(stream.worst_gap_s for stream in plain)
        alone = alone or total_speed(streams)
        if count == 4:
            figures["4 at once / 1, tokens/s, worker"] = total_speed(streams) / alone
    first_alone = median(worker.ask(prompt_of(prompt_tokens), 2).first_s for _ in range(3))
    late = []
    for _ in range(3):
        others = [threading.Thread(target=worker.ask, args=(prompt_of(8), 4 * tokens)) for _ in range(3)]
        for other in others:
            other.start()
        while worker.health()["active"] < 3:
            time.sleep(0.01)
        late.append(worker.ask(prompt_of(prompt_tokens), 2).first_s)
        for other in others:
            other.join()
    figures["latecomer's first token s, alone"] = first_alone
    figures["latecomer's first token s, beside 3"] = median(late)
    figures["latecomer's first token, beside 3 / alone"] = median(late) / first_alone
    return figures


def health_under_load(worker: Worker, prompt_tokens: int, tokens: int) -> Figures:
    """Response times of /health while the worker is busy."""
    with HealthWatch(worker) as watch:
        in_threads([lambda: worker.ask(prompt_of(prompt_tokens), tokens)] * 3)
    return {"/health ms under load, p99": quantiles(watch.seconds, n=100)[98] * 1000}


def in_threads(calls: list[Callable[[], Stream]]) -> list[Stream]:
    streams: list[Stream] = []
    threads = [threading.Thread(target=lambda call=call: streams.append(call())) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams


def total_speed(streams: list[Stream]) -> float:
    """Tokens of all streams over the time from the first request to the last token, prefill included."""
    began = min(stream.sent_at for stream in streams)
    ended = max(stream.at[-1] for stream in streams)
    return sum(stream.tokens[-1] for stream in streams) / (ended - began)


def memory_bandwidth() -> float:
    """GB/s that all CPUs together read. It limits decoding, which reads every weight for every token."""
    threads = choose_threads(None).count
    blocks = [np.ones(2**27, dtype=np.float32) for _ in range(threads)]

    def once() -> float:
        began = time.perf_counter()
        readers = [threading.Thread(target=block.dot, args=(block,)) for block in blocks]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return sum(block.nbytes for block in blocks) / (time.perf_counter() - began) / 1e9

    return max(once() for _ in range(5))


def onnx_figures(folder: Path, repeat: int) -> Figures:
    """The onnx worker, with random weights of Phi-3-mini's shape."""
    threads = choose_threads(None).count
    figures: Figures = {}
    with serving(folder, "onnx") as worker:
        figures["memory MB, loaded"] = worker.memory_mb
        best, default = BareOnnx(folder, threads), BareOnnx(folder, None)
        figures |= speed(worker, {"bare loop": best, "chapter's defaults": default}, 128, 12, repeat)
        del default
        figures |= conversation(worker, best, 32, 16)
        figures |= together(worker, best, (1, 2, 4, 8), 32, 24)
        figures |= health_under_load(worker, 512, 16)
        figures["memory MB, after all"] = worker.memory_mb
    weights = sum(path.stat().st_size for path in folder.glob("artifacts/*/*.data")) / 1e9
    bandwidth = memory_bandwidth()
    figures["GB of weights"] = weights
    figures["memory bandwidth GB/s"] = bandwidth
    figures["decode / limit of the memory"] = float(figures["decode tokens/s, worker"]) * weights / bandwidth
    return figures


def small_figures(wrapper: WrapperName, work: Path, repeat: int) -> Figures:
    """The embedded model, which is so fast that HTTP and scheduling dominate."""
    folder, built = build("embedded", wrapper, work / "home")
    with serving(folder, wrapper) as worker:
        threads = int(worker.health()["threads"]["count"])
        bare = BareOnnx(folder, threads) if wrapper == "onnx" else BareTransformers(folder)
        name = "bare loop" if wrapper == "onnx" else "bare generate"
        figures = speed(worker, {name: bare}, 64, 600 if wrapper == "onnx" else 200, repeat)
        return {"whole build s": built["whole build s"], "threads": threads, **figures, "memory MB": worker.memory_mb}


def transformers_figures(folder: Path, repeat: int) -> Figures:
    """The transformers worker, with random weights of Phi-3-mini's shape."""
    with serving(folder, "transformers") as worker:
        figures = speed(worker, {"bare generate": BareTransformers(folder)}, 32, 12, repeat)
        return {**figures, **together_transformers(worker), "memory MB": worker.memory_mb}


def together_transformers(worker: Worker) -> Figures:
    """Four conversations against one."""
    one = total_speed(in_threads([lambda: worker.ask(prompt_of(8), 12)]))
    four = total_speed(in_threads([lambda: worker.ask(prompt_of(8), 12)] * 4))
    return {"4 at once / 1, tokens/s, worker": four / one}


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} CPUs, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def weights_of(layers: int, work: Path) -> Path:
    """Random weights, made in a child process, which frees the memory."""
    weights = work / f"weights-{layers}"
    if not weights.exists():
        command = [sys.executable, "-m", "bench", "--weights", str(weights), "--layers", str(layers)]
        subprocess.run(command, check=True)
    return weights


def main() -> None:
    """Make the models, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--layers", type=int, default=32, help="of Phi-3-mini's 32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)  # this process makes random weights there
    arguments = parser.parse_args()
    if arguments.weights:
        random_weights(arguments.weights, arguments.layers)
        return
    results: dict[str, Figures] = {"machine": {"description": machine()}}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)

        def note(title: str, figures: Figures) -> None:
            results[title] = figures
            print(as_table({title: figures}), file=sys.stderr, flush=True)  # progress of a long run

        for wrapper in WRAPPERS:
            note(f"embedded model, {wrapper}", small_figures(wrapper, work, arguments.repeat))
        shape, short = "Phi-3-mini's shape", min(8, arguments.layers)
        folder, _ = build(weights_of(short, work), "transformers", work / "home")
        note(f"{shape}, {short} layers, transformers", transformers_figures(folder, arguments.repeat))
        shutil.rmtree(folder.parent)
        weights, title = weights_of(arguments.layers, work), f"{shape}, {arguments.layers} layers"
        folder, figures = build(weights, "transformers", work / "home")
        note(f"{title}, built as transformers", figures)
        folder, figures = build(weights, "onnx", work / "home")
        note(f"{title}, built as onnx int4", figures)
        (onnx,) = (config.parent for config in folder.glob("artifacts/*/genai_config.json"))
        note(f"{title}, an ONNX folder wrapped", wrap(onnx, work))
        note(f"{title}, onnx", onnx_figures(folder, arguments.repeat))
    print(json.dumps(results, indent=2) if arguments.json else as_table(results))


def as_table(results: dict[str, Figures]) -> str:
    """Markdown, ready for RESULTS.md."""
    lines = []
    for title, figures in results.items():
        lines += [f"## {title}", "", "| what | figure |", "| --- | --- |"]
        lines += [
            f"| {name} | {value if isinstance(value, str) else f'{value:,.3g}'} |" for name, value in figures.items()
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
