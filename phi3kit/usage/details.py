"""Details: one logged turn in full, and where MLflow's own pages show it.

Knows the run and the trace of one turn. Reads no table, draws nothing.
"""

from dataclasses import dataclass
from typing import Any

from mlflow.entities import Trace
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient

from phi3kit.access.actor import Actor
from phi3kit.core.records import MESSAGE_ROLES, Message
from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors
from phi3kit.usage.traces import USER, trace_id_of


@dataclass(frozen=True)
class TurnDetails:
    """What is known of a turn beyond its row."""

    run_url: str  # in MLflow's own pages
    trace_url: str | None  # None: the turn has no trace
    prompt: tuple[Message, ...] | str | None  # None: its text was not logged
    completions: tuple[str, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation with its first answer, whole when the turn completed one; none for a raw prompt."""
        if self.prompt is None or isinstance(self.prompt, str):
            return ()
        answer = self.completions[0] if self.completions else ""
        *before, last = self.prompt
        if last.role == "assistant":
            return (*before, Message("assistant", last.content + answer))
        return (*self.prompt, Message("assistant", answer)) if answer else self.prompt


def turn_details(actor: Actor, settings: Settings, run_id: str, turn_id: str | None) -> TurnDetails:
    """Read a turn's trace. actor: sees their own text, an admin everybody's. Raises StorageFailed."""
    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    root = f"{settings.mlflow_url}/#/experiments/{experiment}"
    trace = _trace(settings, turn_id) if turn_id else None
    readable = trace and (actor.may("administer") or trace.info.trace_metadata.get(USER) == actor.name)
    prompt, completions = _said(trace) if trace and readable else (None, ())
    return TurnDetails(
        run_url=f"{root}/runs/{run_id}",
        trace_url=f"{root}/traces?selectedEvaluationId={trace.info.trace_id}" if trace else None,
        prompt=prompt,
        completions=completions,
    )


def _trace(settings: Settings, turn_id: str) -> Trace | None:
    with storage_errors(settings.home):
        try:
            return TracingClient(settings.tracking_uri.reveal()).get_trace(trace_id_of(turn_id))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):  # a run of an earlier phi3kit
                return None
            raise


def _said(trace: Trace) -> tuple[tuple[Message, ...] | str | None, tuple[str, ...]]:
    """Prompt and completions of a trace of phi3kit's; nothing of another program's."""
    if not trace.data.spans:
        return None, ()
    inputs, outputs = trace.data.spans[0].inputs, trace.data.spans[0].outputs
    if not isinstance(inputs, dict) or not isinstance(outputs, dict):
        return None, ()
    choices = outputs.get("choices")
    completions = tuple(_text(choice) for choice in choices) if isinstance(choices, list) else ()
    if isinstance(inputs.get("prompt"), str):
        return inputs["prompt"], completions
    messages = inputs.get("messages")
    if not isinstance(messages, list):
        return None, completions
    known = [each for each in messages if isinstance(each, dict) and each.get("role") in MESSAGE_ROLES]
    return tuple(Message(each["role"], str(each.get("content", ""))) for each in known), completions


def _text(choice: Any) -> str:
    if not isinstance(choice, dict):
        return ""
    message = choice.get("message")
    return str(choice.get("text") or (message.get("content") if isinstance(message, dict) else "") or "")
