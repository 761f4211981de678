"""Build process: a build that runs beside the app, and what it reported so far.

Knows the child's JSON lines. Imports none of what a build needs.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phi3kit.errors import BuildFailed, Phi3KitError
from phi3kit.records import Precision, WrapperName
from phi3kit.settings import Settings, child_environment


@dataclass(frozen=True)
class BuildRequest:
    """What should be built."""

    wrappers: tuple[WrapperName, ...]
    source: str
    precision: Precision
    register: str | None = None

    def command(self) -> list[str]:
        """The same build as a command line."""
        wrapper = "both" if len(self.wrappers) > 1 else self.wrappers[0]
        command = ["build", "--wrapper", wrapper, "--source", self.source, "--precision", self.precision]
        return [*command, *(["--register", self.register] if self.register else [])]


@dataclass(frozen=True)
class Step:
    """A step of one wrapper's build; seconds is None while it runs."""

    wrapper: WrapperName
    name: str
    seconds: float | None


@dataclass
class BuildJob:
    """A running or finished build. Its fields grow while a thread reads what the child reports."""

    request: BuildRequest
    process: subprocess.Popen[str]
    steps: list[Step] = field(default_factory=list)
    built: list[dict[str, Any]] = field(default_factory=list)  # the CLI's JSON, one a wrapper
    error: Phi3KitError | None = None
    began_at: float = field(default_factory=time.monotonic)
    seconds: float | None = None  # None while it runs

    @property
    def running(self) -> bool:
        """Whether more is to come."""
        return self.seconds is None

    @property
    def elapsed_s(self) -> float:
        """Seconds so far, or in all."""
        return self.seconds if self.seconds is not None else time.monotonic() - self.began_at

    def cancel(self) -> None:
        """Ask the child to end; it takes back what it half did."""
        self.process.terminate()


class BuildDesk:
    """One build at a time for the whole app, and the last one's result. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard = threading.Lock()
        self.job: BuildJob | None = None

    def start(self, request: BuildRequest) -> BuildJob:
        """Start a build. Raises BuildFailed while another one runs."""
        with self._guard:
            if self.job and self.job.running:
                raise BuildFailed(
                    "A build is running already.", "One build takes most of the machine.", "Wait for it, or cancel it."
                )
            command = [sys.executable, "-m", "phi3kit", *request.command(), "--json"]
            process = subprocess.Popen(
                command,
                env=child_environment(self._settings),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.job = BuildJob(request, process)
            threading.Thread(target=_read, args=(self.job,), name="build-reader", daemon=True).start()
            return self.job

    def close(self) -> None:
        """Cancel what runs."""
        if self.job and self.job.running:
            self.job.cancel()
            self.job.process.wait()


def _read(job: BuildJob) -> None:
    """Take in the child's lines until it ends."""
    stderr: list[str] = []
    assert job.process.stdout is not None
    assert job.process.stderr is not None
    errors = threading.Thread(target=lambda stream: stderr.extend(stream), args=(job.process.stderr,), daemon=True)
    errors.start()
    for line in job.process.stdout:
        try:
            take(job, json.loads(line))
        except ValueError:
            stderr.append(line)  # a library printed something of its own
    code = job.process.wait()
    errors.join()
    if code != 0 and job.error is None:
        job.error = _ended(code, stderr)
    job.seconds = time.monotonic() - job.began_at


def take(job: BuildJob, line: dict[str, Any]) -> None:
    """Put one reported line into the job."""
    kind = line.get("event")
    if kind == "step":
        step = Step(line["wrapper"], line["step"], line["seconds"])
        running = bool(job.steps) and job.steps[-1].seconds is None and job.steps[-1].name == step.name
        job.steps[-1 if running else len(job.steps) :] = [step]
    elif kind == "error":
        job.error = BuildFailed(line["what"], line["why"], line["next_step"])
    elif "model_uri" in line:
        job.built.append(line)


def _ended(code: int, stderr: Sequence[str]) -> Phi3KitError:
    if code < 0 or code >= 128:
        return BuildFailed(
            "The build was ended.", "It was cancelled or killed.", "Nothing half-built is listed. Build again."
        )
    lines = [line.strip() for line in stderr if line.strip()]
    return BuildFailed(
        "The build failed.", lines[-1] if lines else f"Exit code {code}.", "Correct the cause and build again."
    )
