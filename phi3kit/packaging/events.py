"""Events: what a build reports while it runs, as objects here and as JSON lines between processes.

Knows the steps' names and order. Imports none of what a build needs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal

from phi3kit.core.records import Precision, WrapperName


@dataclass(frozen=True)
class BuildRequest:
    """What should be built."""

    wrappers: tuple[WrapperName, ...]
    source: str
    precision: Precision
    register: str | None = None

    @property
    def in_order(self) -> tuple[WrapperName, ...]:
        """The wrappers as they are built: onnx first, for its export needs memory that the other's libraries keep."""
        return tuple(sorted(self.wrappers))

    def command(self) -> list[str]:
        """The same build as a command line."""
        wrapper = "both" if len(self.wrappers) > 1 else self.wrappers[0]
        command = ["build", "--wrapper", wrapper, "--source", self.source, "--precision", self.precision]
        return [*command, *(["--register", self.register] if self.register else [])]


@dataclass(frozen=True)
class Queued:
    """Other builds go first, or none any more."""

    ahead: int
    event: Literal["queued"] = "queued"


@dataclass(frozen=True)
class BuildStep:
    """A step of one wrapper's build began or ended; seconds is None while it runs."""

    wrapper: WrapperName
    step: str
    seconds: float | None
    event: Literal["step"] = "step"


@dataclass(frozen=True)
class StepProgress:
    """How far the running step is, in its own unit. seconds_left is None until a rate is known."""

    step: str
    done: int
    total: int
    unit: Literal["bytes", "prompts"]
    per_s: float
    seconds_left: float | None
    event: Literal["progress"] = "progress"


@dataclass(frozen=True)
class Note:
    """Something that the user should know about what was built."""

    wrapper: WrapperName
    text: str
    event: Literal["note"] = "note"


Event = Queued | BuildStep | StepProgress | Note
ReportEvent = Callable[[Event], None]

_KINDS = {"queued": Queued, "step": BuildStep, "progress": StepProgress, "note": Note}


def as_line(event: Event) -> dict[str, Any]:
    """The event as a JSON object."""
    return asdict(event)


def from_line(line: dict[str, Any]) -> Event | None:
    """The event in a JSON object; None when it is none, or one of another version."""
    try:
        return _KINDS[line["event"]](**line)  # type: ignore[return-value]
    except (KeyError, TypeError):
        return None


def in_words(event: Event) -> str:
    """One line for a terminal; empty for what a terminal need not see."""
    if isinstance(event, Queued):
        return f"waiting: {event.ahead} build{'s' if event.ahead > 1 else ''} first" if event.ahead else ""
    if isinstance(event, BuildStep) and event.seconds is not None:
        return f"{event.wrapper}: {event.step} {event.seconds:.1f} s"
    if isinstance(event, StepProgress):
        return f"{event.step}: {progress_in_words(event)}"
    return f"{event.wrapper}: {event.text}" if isinstance(event, Note) else ""


def progress_in_words(at: StepProgress) -> str:
    """How far, how fast, how long still."""
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
    """Reports each step's beginning and end, with its seconds."""

    def __init__(self, wrapper: WrapperName, report: ReportEvent) -> None:
        self._wrapper, self._report = wrapper, report
        self.current = "prepare"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that lasts as long as the block."""
        self.current = name
        began = perf_counter()
        self._report(BuildStep(self._wrapper, name, None))
        yield
        self._report(BuildStep(self._wrapper, name, round(perf_counter() - began, 2)))

    @contextmanager
    def sequence(self) -> Iterator[Callable[[str], None]]:
        """Steps that begin when the yielded function is called; each one ends the step before it."""
        began = perf_counter()
        running: str | None = None

        def end() -> None:
            if running is not None:
                self._report(BuildStep(self._wrapper, running, round(perf_counter() - began, 2)))

        def begin(name: str) -> None:
            nonlocal began, running
            if name != running:
                end()
                began, running, self.current = perf_counter(), name, name
                self._report(BuildStep(self._wrapper, name, None))

        yield begin
        end()

    def note(self, text: str) -> None:
        """Say something that is no step."""
        self._report(Note(self._wrapper, text))
