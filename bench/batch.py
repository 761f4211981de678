"""Measure a batch through the worker against one-by-one `predict` of the logged model, in the same run.

    python -m bench.batch [--layers 8] [--rows 40] [--tokens 24] [--json]

Both write the same answers: greedy, to the same length. Nothing else should run meanwhile. The embedded model shows what
HTTP and scheduling cost, random weights of Phi-3-mini's shape what decoding several answers in one step brings.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mlflow

from bench.__main__ import as_table, machine, weights_of
from bench.builds import Figures, build
from phi3kit.batch.request import BatchRequest, Sampling
from phi3kit.batch.run import run_batch
from phi3kit.embedded import QUESTIONS_FILE
from phi3kit.logged_models import list_models
from phi3kit.records import Message
from phi3kit.settings import Settings, read_settings
from phi3kit.workers import WorkerPool


def prompts(rows: int) -> list[str]:
    """User messages, each of them another one."""
    with QUESTIONS_FILE.open(encoding="utf-8", newline="") as file:
        found = [row["message"] for row in csv.DictReader(file) if row["kind"] == "capital"]
    return found[:rows]


def one_by_one(model: Any, messages: Sequence[str], tokens: int) -> float:
    """Completion tokens/s of plain predict, a row a call; counted by the tokenizer that wrote them."""
    from phi3kit import chat_template

    wrapper = model.unwrap_python_model()
    began, written = time.perf_counter(), 0
    for text in messages:
        (answer,) = model.predict({"prompt": chat_template.raw_prompt([Message("user", text)])})
        # Its end token is not in the text; an answer that was cut has none.
        written += min(len(wrapper.tokenizer.encode(answer)) + 1, tokens)
    return written / (time.perf_counter() - began)


def batched(settings: Settings, pool: WorkerPool, uri: str, messages: Sequence[str], tokens: int, work: Path) -> float:
    """Completion tokens/s of a batch; the worker is loaded already, as the model of the other side is."""
    table = work / "in.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerows([["message"], *([text] for text in messages)])
    request = BatchRequest(uri, table, work / "out.csv", sampling=Sampling(max_tokens=tokens), fresh=True)
    summary = run_batch(request, settings, lambda progress: None, pool)
    assert summary.failed == 0, summary
    return float(summary.tokens_per_s or 0)


def figures(source: str, work: Path, rows: int, tokens: int, repeat: int) -> Figures:
    """Both ways in turn, and their ratio."""
    home = work / "home"
    build(source, "onnx", home)
    settings = read_settings({"PHI3KIT_HOME": str(home)})
    uri = list_models(settings, "onnx")[0].model_uri
    messages = prompts(rows)
    model = mlflow.pyfunc.load_model(uri, model_config={"max_tokens": tokens})
    pool = WorkerPool(settings)
    found: dict[str, list[float]] = {"batch": [], "one by one": []}
    try:
        pool.endpoint(uri)
        sides: dict[str, Callable[[], float]] = {
            "batch": lambda: batched(settings, pool, uri, messages, tokens, work),
            "one by one": lambda: one_by_one(model, messages, tokens),
        }
        for _ in range(repeat):
            for name, measure in sides.items():
                found[name].append(measure())
    finally:
        pool.close()
    speeds = {name: median(values) for name, values in found.items()}
    return {
        "rows": rows,
        **{f"tokens/s, {name}": speed for name, speed in speeds.items()},
        "batch / one by one": speeds["batch"] / speeds["one by one"],
    }


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.batch")
    parser.add_argument("--layers", type=int, default=8, help="of Phi-3-mini's 32")
    parser.add_argument("--rows", type=int, default=40, help="with random weights")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer at most, with random weights")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, Figures] = {"machine": {"description": machine()}}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "small").mkdir()
        results["batch, embedded model, onnx"] = figures("embedded", work / "small", 500, 64, arguments.repeat)
        print(as_table(results), file=sys.stderr, flush=True)
        weights = weights_of(arguments.layers, work)
        (work / "shape").mkdir()
        title = f"batch, Phi-3-mini's shape, {arguments.layers} layers, onnx int4"
        results[title] = figures(str(weights), work / "shape", arguments.rows, arguments.tokens, arguments.repeat)
    print(json.dumps(results, indent=2) if arguments.json else as_table(results))


if __name__ == "__main__":
    main()
