"""The scoring process: `python -m phi3kit.worker.scoring FOLDER WRAPPER` answers calls as plain MLflow serves the logged model.

Reads a call from each line of stdin, writes an answer to each line of stdout, and ends with its stdin.
Knows MLflow, which runs the code that a logged model names: it loads a copy that names phi3kit's own (see loading).
Knows no HTTP and no users.
"""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from phi3kit.core.confinement import bound_memory
from phi3kit.core.errors import first_line
from phi3kit.core.machine import free_memory_bytes
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import read_settings
from phi3kit.formats.table_cells import MOST_CELLS, cells_of_csv, cells_of_json
from phi3kit.worker.loading import copy_logged

_NICENESS = 10  # turns of the worker come first
_UNEXPECTED = "Encountered an unexpected error"  # how MLflow speaks of whatever predict raised


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout
    if sys.platform != "win32":
        os.nice(_NICENESS)
    bound_memory(free_memory_bytes())  # a call that needs more fails alone: the system would end any process
    model = load_known(Path(sys.argv[1]), cast(WrapperName, sys.argv[2]), read_settings().home)
    for line in sys.stdin:
        print(json.dumps(answer(model, **json.loads(line))), file=answers, flush=True)


def load_known(folder: Path, wrapper: WrapperName, home: Path | None = None) -> Any:
    """What is known of a logged model, as plain MLflow loads it. Raises SourceInvalid, or whatever MLflow raises.

    home: as in loading.copy_known.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix="phi3kit-model-", ignore_cleanup_errors=True) as known:
        copy_logged(folder, wrapper, Path(known), home)
        return mlflow.pyfunc.load_model(known)


def answer(model: Any, data: str, content_type: str) -> dict[str, Any]:
    """Status, media type and content, as `mlflow models serve` gives them."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    if (cells := _cells(data, content_type)) > MOST_CELLS:
        why = f"It makes a table of up to {cells:,} cells; {MOST_CELLS:,} are answered at once. Send fewer rows."
        return _refused(400, "BAD_REQUEST", f"The payload is too big. {why}")
    try:
        result = scoring_server.invocations(data, content_type, model, model.metadata.get_input_schema())
    except MlflowException as error:
        message = error.message
        if message.startswith(_UNEXPECTED) and error.__context__:
            # MLflow's server adds the whole traceback; its last line says what was wrong with the input.
            message += f" {first_line(error.__context__)}"
        return _refused(error.get_http_status_code(), error.error_code, message)
    except Exception as error:
        return _refused(400, "BAD_REQUEST", first_line(error))
    return {"status": result.status, "media_type": result.mimetype, "content": result.response}


def _cells(data: str, content_type: str) -> int:
    """The most cells of the payload's table; 0 of one that MLflow refuses itself, before it makes a table."""
    kind = content_type.partition(";")[0].strip()
    try:
        if kind == "text/csv":
            return cells_of_csv(data)
        return cells_of_json(json.loads(data)) if kind == "application/json" else 0
    except csv.Error:
        return MOST_CELLS + 1
    except (ValueError, RecursionError):
        return 0


def _refused(status: int, error_code: str, message: str) -> dict[str, Any]:
    body = {"error_code": error_code, "message": message}
    return {"status": status, "media_type": "application/json", "content": json.dumps(body)}


if __name__ == "__main__":
    main()
