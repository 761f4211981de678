"""/invocations: the logged model as plain MLflow serves it, its signature enforced.

MLflow is imported at the first call, because it costs 150 MB that a chat does not need; it then loads the model a second
time.
"""

import json
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

_one_at_a_time = Lock()


def answer(folder: Path, data: str, content_type: str) -> tuple[int, str, str]:
    """Status, media type and content, as `mlflow models serve` gives them."""
    from mlflow.pyfunc import scoring_server

    with _one_at_a_time:
        model = _load(folder)
        try:
            result = scoring_server.invocations(data, content_type, model, model.metadata.get_input_schema())
        except Exception as error:  # MLflow's own server answers whatever predict raises with a 400
            body = {"error_code": "BAD_REQUEST", "message": str(error) or type(error).__name__}
            return 400, "application/json", json.dumps(body)
    return result.status, result.mimetype, result.response


@lru_cache(maxsize=1)
def _load(folder: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(folder))
