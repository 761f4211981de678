"""Measure a batch through the worker against one-by-one `predict` of the logged model, in the same run.

    python -m bench.batch [--layers 8] [--rows 40] [--tokens 24] [--json]

Both give the same greedy answers of the same length. Nothing else should run meanwhile. The embedded model shows the cost
of HTTP and scheduling, random weights of Phi-3-mini's shape the gain of decoding several answers in one step.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mlflow

from bench.__main__ import as_table, machine, weights_of
from bench.builds import Figures, build
from phi3kit.batch.request import BatchRequest, SamplingParams
from phi3kit.batch.run import run_batch
from phi3kit.core.embedded_model import QUESTIONS_FILE
from phi3kit.core.records import Message
from phi3kit.core.settings import Settings, read_settings
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.formats.chat_template import raw_prompt
from phi3kit.tracking.logged_models import list_models
from tests.support.actors import ADMIN


def prompts(rows: int) -> list[str]:
    """Distinct user messages."""
    with QUESTIONS_FILE.open(encoding="utf-8", newline="") as file:
        found = [row["message"] for row in csv.DictReader(file) if row["kind"] == "capital"]
    return found[:rows]


def one_by_one(model: Any, messages: Sequence[str]) -> tuple[float, list[str]]:
    """Seconds and answers of plain predict, one row a call."""
    began = time.perf_counter()
    answers = [model.predict({"prompt": raw_prompt([Message("user", text)])})[0] for text in messages]
    return time.perf_counter() - began, answers


def batched(request: BatchRequest, settings: Settings, pool: WorkerPool) -> tuple[float, int, list[str]]:
    """Seconds, completion tokens and answers of a batch by a worker that has loaded its model."""
    summary = run_batch(request, ADMIN, settings, lambda progress: None, pool)
    assert summary.failed == 0, summary
    with request.output.open(encoding="utf-8", newline="") as file:
        return summary.seconds, summary.completion_tokens, [row["completion"] for row in csv.DictReader(file)]


def figures(source: str, work: Path, rows: int, tokens: int, repeat: int) -> Figures:
    """Both ways in alternation, and their ratio."""
    build(source, "onnx", work / "home")
    settings = read_settings({"PHI3KIT_HOME": str(work / "home")})
    uri = list_models(settings, "onnx")[0].model_uri
    messages = prompts(rows)
    with (work / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["message"], *([text] for text in messages)])
    request = BatchRequest(
        uri, work / "in.csv", work / "out.csv", sampling=SamplingParams(max_tokens=tokens), fresh=True
    )
    model = mlflow.pyfunc.load_model(uri, model_config={"max_tokens": tokens})
    pool = WorkerPool(settings)
    together_s, alone_s = [], []
    try:
        pool.endpoint(uri)
        for _ in range(repeat):
            seconds, written, batch_answers = batched(request, settings, pool)
            together_s.append(seconds)
            seconds, answers = one_by_one(model, messages)
            alone_s.append(seconds)
    finally:
        pool.close()
    same = sum(one.strip() == other.strip() for one, other in zip(answers, batch_answers, strict=True))
    # Greedy answers are equal, so the batch's token count holds for both.
    return {
        "rows": rows,
        "completion tokens": written,
        "same answers": f"{same} of {rows}",
        "tokens/s, batch": written / median(together_s),
        "tokens/s, one by one": written / median(alone_s),
        "batch / one by one": median(alone_s) / median(together_s),
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
