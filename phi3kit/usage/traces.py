"""Traces: a turn as one of MLflow's traces, so that MLflow's Overview, Traces and Sessions show it too.

Knows MLflow's trace format. A turn that is written twice has one trace: its id comes from the turn's.
"""

import base64
import hashlib
import json
import re
from dataclasses import asdict
from typing import Any

from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracing.client import TracingClient
from tenacity import retry, retry_if_exception_message, stop_after_attempt, wait_fixed

from phi3kit.core.records import Message, TurnRecord, TurnText
from phi3kit.formats.raw_prompt import parse_raw_prompt
from phi3kit.usage.prices import Price
from phi3kit.usage.turn_fields import PARAMS

USER = "mlflow.trace.user"
_PREVIEW_CHARACTERS = 1000  # MLflow's own bound
_LOOKED_AT = 20_000  # characters at the end of a raw prompt, where its last question is
_TAGS = ("turn_id", "wrapper", "model_uri", "interface", "origin", "finish_reason")
MODEL_ID = "mlflow.modelId"
_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]{32})")
_VERSION_UNTOLD = "The server did not say its version in time."


def trace_id_of(turn_id: str) -> str:
    """The id of a turn's trace."""
    return f"tr-{hashlib.sha256(turn_id.encode()).hexdigest()[:32]}"


def model_id_of(turn: TurnRecord) -> str | None:
    """The logged model that answered, by MLflow's id; None of a remote endpoint."""
    found = _MODEL_URI.fullmatch(turn.model_uri)
    return found[1] if found else None


def params_of(turn: TurnRecord) -> dict[str, float | int]:
    """The parameters that the turn had."""
    return {name: value for name in PARAMS if (value := getattr(turn, name)) is not None}


def write_trace(tracking_uri: str, experiment: str, turn: TurnRecord, run_id: str, price: Price | None = None) -> None:
    """Write a turn's trace, linked to its run, or complete a half-written one. Raises what MLflow raises."""
    client = TracingClient(tracking_uri)
    cost = _cost(turn, price)
    client.start_trace(_info(experiment, turn, run_id, cost))
    _log_span(client, experiment, _span(turn, cost))


@retry(
    retry=retry_if_exception_message(_VERSION_UNTOLD), stop=stop_after_attempt(3), wait=wait_fixed(0.5), reraise=True
)
def _log_span(client: TracingClient, experiment: str, span: Span) -> None:
    try:
        client.log_spans(experiment, [span])
    except NotImplementedError as error:  # a server older than MLflow 3.4 has the totals without the span
        if "could not identify" in str(error):
            # The server was too busy to say its version within MLflow's 3 s; MLflow would take it for an old one for ever.
            RestStore._get_server_version.cache_clear()
            raise MlflowException(_VERSION_UNTOLD) from error


def _info(experiment: str, turn: TurnRecord, run_id: str, cost: dict[str, float]) -> TraceInfo:
    return TraceInfo(
        trace_id=trace_id_of(turn.turn_id),
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=int(turn.at * 1000),
        execution_duration=int(turn.duration_s * 1000),
        state=TraceState.ERROR if turn.finish_reason == "error" else TraceState.OK,
        request_preview=_preview(_question(turn.text)),
        response_preview=_preview(_answer(turn.text)),
        client_request_id=turn.turn_id,
        trace_metadata={
            "mlflow.sourceRun": run_id,
            "mlflow.trace.session": turn.conversation_id,
            USER: turn.user,
            "mlflow.trace.tokenUsage": json.dumps(_usage(turn)),
            **({MODEL_ID: model} if (model := model_id_of(turn)) else {}),
            **({"mlflow.trace.cost": json.dumps(cost)} if cost else {}),
        },
        tags={
            "mlflow.traceName": f"turn {turn.wrapper}",
            **{f"phi3kit.{name}": getattr(turn, name) for name in _TAGS},
        },
    )


def _span(turn: TurnRecord, cost: dict[str, float]) -> Span:
    trace_id = trace_id_of(turn.turn_id)
    identity = bytes.fromhex(trace_id.removeprefix("tr-"))
    inputs, outputs = _said(turn)
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": "CHAT_MODEL" if turn.interface == "openai" else "LLM",
        "mlflow.chat.tokenUsage": _usage(turn),
        "mlflow.llm.model": turn.model_uri,
        "mlflow.llm.provider": f"phi3kit.{turn.wrapper}",
        # Without it MLflow asks github.com for the price of every model in a span.
        "mlflow.llm.cost": cost,
        "phi3kit.parameters": params_of(turn),
        "phi3kit.time_to_first_token_s": turn.time_to_first_token_s,
        "phi3kit.finish_reason": turn.finish_reason,
    }
    if model_id := model_id_of(turn):
        attributes[MODEL_ID] = model_id
    if inputs is not None:
        attributes |= {"mlflow.spanInputs": {**inputs, **params_of(turn)}, "mlflow.spanOutputs": outputs}
    failed = turn.finish_reason == "error"
    return Span.from_dict(
        {
            "trace_id": base64.b64encode(identity).decode(),
            "span_id": base64.b64encode(identity[:8]).decode(),
            "parent_span_id": None,
            "name": f"turn {turn.wrapper}",
            "start_time_unix_nano": int(turn.at * 1e9),
            "end_time_unix_nano": int((turn.at + turn.duration_s) * 1e9),
            "status": {
                "code": "STATUS_CODE_ERROR" if failed else "STATUS_CODE_OK",
                "message": (turn.error_code or "") if failed else "",
            },
            "attributes": {name: json.dumps(value, ensure_ascii=False) for name, value in attributes.items()},
        }
    )


def _cost(turn: TurnRecord, price: Price | None) -> dict[str, float]:
    """US dollars by MLflow's names; nothing without a price."""
    if price is None or not turn.tokens_counted:
        return {}
    prompt, completion = price.of_turn(turn.prompt_tokens, turn.cached_prompt_tokens, turn.completion_tokens)
    return {"input_cost": prompt, "output_cost": completion, "total_cost": prompt + completion}


def _usage(turn: TurnRecord) -> dict[str, int]:
    """The counts by MLflow's names; without cached tokens it has no key for them."""
    cached = {"cache_read_input_tokens": turn.cached_prompt_tokens} if turn.cached_prompt_tokens else {}
    counts = {"input_tokens": turn.prompt_tokens, "output_tokens": turn.completion_tokens}
    return {**counts, "total_tokens": turn.total_tokens, **cached}


def _said(turn: TurnRecord) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Inputs and outputs in OpenAI's form; None when text is not logged."""
    if turn.text is None:
        return None, None
    prompt, completions = turn.text.prompt, list(enumerate(turn.text.completions))
    choices: list[dict[str, Any]]
    if isinstance(prompt, str):
        inputs: dict[str, Any] = {"prompt": prompt}
        choices = [{"index": index, "text": text} for index, text in completions]
    else:
        inputs = {"messages": [asdict(message) for message in prompt]}
        choices = [{"index": index, "message": asdict(Message("assistant", text))} for index, text in completions]
    return inputs, {"choices": choices, "finish_reason": turn.finish_reason}


def _question(text: TurnText | None) -> str | None:
    """What was asked last; of a raw prompt the last user's text in it, or all of it where it has none."""
    if text is None:
        return None
    prompt = text.prompt
    messages = parse_raw_prompt(prompt[-_LOOKED_AT:]).messages if isinstance(prompt, str) else prompt
    asked = [message.content for message in messages if message.role == "user"]
    if asked:
        return asked[-1]
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def _answer(text: TurnText | None) -> str | None:
    return text.completions[0] if text and text.completions else None


def _preview(text: str | None) -> str | None:
    if text is None:
        return None
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 3] + "..."
