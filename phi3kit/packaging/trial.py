"""Trial: the process in which libraries first touch a model's files, for a build.

It renders the model's chat template, loads the logged model, asks it and compares it. It has no secrets in its
environment, bounds on memory, files and time, and where Landlock is, reads only the model and reaches no network.
Knows how its answers come back, line by line. Logs nothing.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from phi3kit.core.child_environment import bare_environment
from phi3kit.core.confinement import Bounds, confine
from phi3kit.core.errors import first_line
from phi3kit.core.operating_system import was_killed
from phi3kit.core.processes import killed_after

START_S = 300.0  # libraries are imported, on a slow disk
TEMPLATE_S = 30.0
_LEAST_S, _S_PER_GB = 600.0, 900.0  # of a step that computes; fifty times what a whole Phi-3 took
_LEAST_BYTES = 4 * 2**30
_MEMORY_PER_BYTE, _FILE_PER_BYTE = 6, 4  # of weights: quantizing takes 2.6, fp32 files are twice as big as fp16


class TrialFailed(Exception):
    """A step of the trial failed, took too long, or was ended. The message says which."""


def step_seconds(weight_bytes: int) -> float:
    """How long a step that computes may take."""
    return _LEAST_S + _S_PER_GB * weight_bytes / 1e9


def confined_environment(weight_bytes: int, readable: Path, writable: Path) -> dict[str, str]:
    """The environment of a child that works on a model of so many bytes: no secrets, and its bounds. Makes `writable`."""
    writable.mkdir(parents=True, exist_ok=True)
    bounds = Bounds(
        memory_bytes=_LEAST_BYTES + _MEMORY_PER_BYTE * weight_bytes,
        file_bytes=_LEAST_BYTES + _FILE_PER_BYTE * weight_bytes,
        cpu_s=int(step_seconds(weight_bytes)) * (os.cpu_count() or 1),
        readable=(str(readable.resolve()),),
        writable=(str(writable.resolve()),),
    )
    names = ("TMPDIR", "HF_HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR")
    return {
        **bare_environment(),
        **bounds.environment(),
        **dict.fromkeys(names, str(writable.resolve())),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",  # a file in the working folder is none of its libraries
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


OnDone = Callable[[int], None]


class Trial(Protocol):
    """Where the steps are done."""

    def ask(self, step: str, seconds: float, on_done: OnDone = lambda done: None, **arguments: Any) -> Any:
        """The result of a step. on_done: called with what the step counts. Raises TrialFailed, or any error."""


class TrialHere:
    """This process: for the embedded model, which is phi3kit's own. Saves the import of the libraries in another one."""

    def __init__(self) -> None:
        self._steps = _Steps()

    def ask(self, step: str, seconds: float, on_done: OnDone = lambda done: None, **arguments: Any) -> Any:
        """See Trial."""
        self._steps.on_done = on_done
        return getattr(self._steps, step)(**arguments)


class TrialProcess:
    """A process of its own, from the first step to the end of the block."""

    def __init__(self, weight_bytes: int, place: Path) -> None:
        """place: holds the files that the steps name; the process writes into a folder of its own there."""
        environment = confined_environment(weight_bytes, place, place / "trial")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "phi3kit.packaging.trial"],
            cwd=place / "trial", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "TrialProcess":
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()  # it keeps nothing
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert stream
                stream.close()
        self._process.wait()

    def ask(
        self, step: str, seconds: float, on_done: Callable[[int], None] = lambda done: None, **arguments: Any
    ) -> Any:
        """The result of a step. on_done: called with what the step counts. Raises TrialFailed."""
        assert self._process.stdin
        assert self._process.stdout
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        with killed_after(seconds, end):
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps({"step": step, **arguments}) + "\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                said = json.loads(line)
                if "done" not in said:
                    break
                on_done(said["done"])
            else:
                raise TrialFailed(
                    f"The {step} did not end within {seconds:.0f} s." if late.is_set() else self._how_it_ended()
                )
        if "error" in said:
            raise TrialFailed(said["error"])
        return said["result"]

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if was_killed(code):
            return "Its process was killed, perhaps because memory ran out."
        return f"Its process ended with exit code {code}."


def main() -> int:
    """Answer the steps that come on stdin until it closes, which it does when the parent ends."""
    confine()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    waiting: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(waiting,), daemon=True).start()
    steps = _Steps()
    steps.on_done = lambda done: print(json.dumps({"done": done}), file=answers, flush=True)
    while True:
        asked = json.loads(waiting.get())
        try:
            said = {"result": getattr(steps, asked.pop("step"))(**asked)}
        except Exception as error:
            said = {"error": first_line(error)}
        print(json.dumps(said), file=answers, flush=True)


def _listen(waiting: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        waiting.put(line)
    os._exit(1)


class _Steps:
    """The steps by name."""

    on_done: OnDone
    _model: Any

    def start(self) -> None:
        """Import what every other step needs."""
        import transformers

        assert transformers.AutoTokenizer

    def template(self, folder: str) -> str | None:
        """See template_difference."""
        from phi3kit.packaging.wrappers.template import template_difference

        return template_difference(Path(folder))

    def check(self, folder: str, wrapper: str) -> str:
        """Load the logged model as plain MLflow does; its answer to one question."""
        from phi3kit.packaging.wrappers.check import answer_of, load

        self._model = load(folder, wrapper)
        return answer_of(self._model, wrapper)

    def compare(self, source: str) -> int:
        """See same_beginnings; of the model that `check` loaded."""
        from phi3kit.packaging.wrappers.compare import same_beginnings

        return same_beginnings(self._model, Path(source), on_done=self.on_done)


if __name__ == "__main__":
    sys.exit(main())
