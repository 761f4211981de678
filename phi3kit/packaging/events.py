"""Events: the request of a build and what the build reports; JSON lines between processes.

Knows the steps' names and order. Imports nothing that a build needs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from phi3kit.core.records import Precision, WrapperName


@dataclass(frozen=True)
class BuildRequest:
    """A build that is asked for."""

    wrappers: tuple[WrapperName, ...]
    source: str
    precision: Precision
    register: str | None = None

    @property
    def in_order(self) -> tuple[WrapperName, ...]:
        """The wrappers in building order: onnx first, for its export needs memory that the other's libraries keep."""
        return tuple(sorted(self.wrappers))

    def command(self) -> list[str]:
        """The same build as a command line."""
        wrapper = "both" if len(self.wrappers) > 1 else self.wrappers[0]
        command = ["build", "--wrapper", wrapper, "--source", self.source, "--precision", self.precision]
        return [*command, *(["--register", self.register] if self.register else [])]


@dataclass(frozen=True)
class Queued:
    """The number of builds that go first; 0 when none is left."""

    ahead: int
    event: Literal["queued"] = "queued"


@dataclass(frozen=True)
class BuildStep:
    """A step of one wrapper's build that began (seconds is None) or ended."""

    wrapper: WrapperName
    step: str
    seconds: float | None
    event: Literal["step"] = "step"


@dataclass(frozen=True)
class StepProgress:
    """The progress of the running step in its own unit. seconds_left is None until a rate is known."""

    step: str
    done: int
    total: int
    unit: Literal["bytes", "prompts"]
    per_s: float
    seconds_left: float | None
    event: Literal["progress"] = "progress"


@dataclass(frozen=True)
class Note:
    """A remark on what was built, for its user."""

    wrapper: WrapperName
    text: str
    event: Literal["note"] = "note"


Event = Queued | BuildStep | StepProgress | Note
ReportEvent = Callable[[Event], None]

_KINDS = {"queued": Queued, "step": BuildStep, "progress": StepProgress, "note": Note}


def from_line(line: dict[str, Any]) -> Event | None:
    """The event in a JSON object of asdict; None for another object, or one of another version."""
    try:
        return _KINDS[line["event"]](**line)  # type: ignore[return-value]
    except (KeyError, TypeError):
        return None


def in_words(event: Event) -> str:
    """One line for a terminal; empty for what a terminal does not show."""
    if isinstance(event, Queued):
        return f"queued: {event.ahead} build{'s' if event.ahead > 1 else ''} ahead" if event.ahead else ""
    if isinstance(event, BuildStep) and event.seconds is not None:
        return f"{event.wrapper}: {event.step} {event.seconds:.1f} s"
    if isinstance(event, StepProgress):
        return f"{event.step}: {progress_in_words(event)}"
    return f"{event.wrapper}: {event.text}" if isinstance(event, Note) else ""


def progress_in_words(at: StepProgress) -> str:
    """The progress for people: how far, how fast, how long still."""
    left = f", {at.seconds_left:,.0f} s left" if at.seconds_left is not None else ""
    if at.unit == "bytes":
        return f"{at.done / 1e6:,.0f} of {at.total / 1e6:,.0f} MB, {at.per_s / 1e6:,.1f} MB/s{left}"
    return f"{at.done} of {at.total} {at.unit}{left}"


def step_names(request: BuildRequest, wrapper: WrapperName, *, hub: bool = False, exported: bool = False) -> list[str]:
    """The steps of one wrapper's build, in order.

    hub: the source is downloaded first. exported: the source is an ONNX folder already.
    """
    names = ["download"] if hub and wrapper == request.in_order[0] else []
    if wrapper == "onnx" and not exported:
        # fp32 has nothing to quantize.
        names += ["read weights", "export", *(["quantize"] if request.precision != "fp32" else [])]
    names += ["prepare", "log", "check"]
    if wrapper == "onnx" and not exported:
        names.append("compare")
    return names + (["register"] if request.register else [])


class StepReporter:
    """Reports the beginning and end of each step of one wrapper's build."""

    def __init__(self, wrapper: WrapperName, report: ReportEvent) -> None:
        self._wrapper, self._report = wrapper, report
        self.current = "prepare"
        self._began = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that lasts as long as the block, or until `next_step`."""
        self._begin(name)
        yield
        self._end()

    def next_step(self, name: str) -> None:
        """Within a step's block: end it and begin another one. Nothing when that one runs already."""
        if name != self.current:
            self._end()
            self._begin(name)

    def note(self, text: str) -> None:
        """Report a remark."""
        self._report(Note(self._wrapper, text))

    def _begin(self, name: str) -> None:
        self.current, self._began = name, perf_counter()
        self._report(BuildStep(self._wrapper, name, None))

    def _end(self) -> None:
        self._report(BuildStep(self._wrapper, self.current, round(perf_counter() - self._began, 2)))
