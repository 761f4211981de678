"""Scoring script of an Azure ML online deployment: plain MLflow around one logged Phi-3 wrapper.

Azure's inference server calls init() once and run() with the body of each request. Imports nothing of phi3kit.

A request is JSON: {"input_data": X} or X itself, where X is {"messages": […]} or {"prompt": "…"}, a list of such objects
or of raw prompts, or a table {"columns": […], "data": [[…]]}. The answer is a list: a chat completion or a text a row.
"""

import json
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

model: Any = None


def init() -> None:
    """Load the model that Azure has put under AZUREML_MODEL_DIR."""
    global model
    # The folder's name inside is the deployment's business.
    found = sorted(Path(os.environ["AZUREML_MODEL_DIR"]).rglob("MLmodel"), key=lambda path: len(path.parts))
    if not found:
        raise FileNotFoundError("There is no MLmodel file under AZUREML_MODEL_DIR.")
    model = mlflow.pyfunc.load_model(str(found[0].parent))


def run(raw_data: str) -> Any:
    """The answers to one request; status 400 and a sentence for one that the model cannot take."""
    try:
        return _answers(_rows(json.loads(raw_data)))
    except (ValueError, RecursionError, MlflowException) as error:  # JSON's errors are ValueErrors too
        return _refused(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)


def _answers(rows: list[dict[str, Any]]) -> list[Any]:
    if all("messages" in row for row in rows):
        return [answer for row in rows for answer in model.predict(row)]
    if all("prompt" in row for row in rows):
        return list(model.predict(pd.DataFrame({"prompt": [row["prompt"] for row in rows]})))
    raise ValueError("Each row needs messages (a list), or each row needs prompt (a text).")


def _rows(request: Any) -> list[dict[str, Any]]:
    """Every row of a request as an object."""
    data = request["input_data"] if isinstance(request, dict) and "input_data" in request else request
    if isinstance(request, dict) and request.get("params"):
        raise ValueError("This model takes no params; write temperature or max_tokens beside messages.")
    if isinstance(data, dict) and "columns" in data and "data" in data:
        rows = [dict(zip(data["columns"], row, strict=True)) for row in data["data"]]
    elif isinstance(data, dict) and isinstance(data.get("prompt"), list):
        rows = [{"prompt": prompt} for prompt in data["prompt"]]
    else:
        rows = [
            row if isinstance(row, dict) else {"prompt": row} for row in (data if isinstance(data, list) else [data])
        ]
    if not rows:
        raise ValueError("The request has no rows.")
    return rows


def _refused(message: str) -> Any:
    body = {"error": {"message": message, "type": "invalid_request_error"}}
    try:
        from azureml_inference_server_http.api.aml_response import AMLResponse
    except ImportError:  # tried out without Azure's server
        return body
    return AMLResponse(body, 400, json_str=True)
