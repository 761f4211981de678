"""Store: the MLflow tracking store and registry that this process works with.

Knows where runs and artifacts go, and turns a store that cannot be used into one clear error. Reads no runs.
"""

import errno
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.uri import get_uri_scheme
from sqlalchemy.exc import SQLAlchemyError

from phi3kit.core.child_environment import tracking_credentials
from phi3kit.core.data_folder import DISK_FULL, prepare_home, unwritable
from phi3kit.core.errors import StorageFailed
from phi3kit.core.loopback import ask_directly
from phi3kit.core.redaction import without_secrets
from phi3kit.core.settings import Settings
from phi3kit.core.sqlite_file import anothers, probe

BUILDS_EXPERIMENT = "phi3kit-builds"
USAGE_EXPERIMENT = "phi3kit-usage"
EVALUATIONS_EXPERIMENT = "phi3kit-evaluations"

_EXPERIMENTS = (BUILDS_EXPERIMENT, USAGE_EXPERIMENT, EVALUATIONS_EXPERIMENT)
# Where MLflow's tables keep addresses of artifacts.
_LOCATIONS = (
    ("experiments", "artifact_location"), ("logged_models", "artifact_location"), ("runs", "artifact_uri"),
    ("model_versions", "source"), ("model_versions", "storage_location"), ("trace_tags", "value"),
)  # fmt: skip

T = TypeVar("T")

# What the file system says of a folder, not of a server that is away (requests' errors are OSErrors too).
_FOLDER_ERRORS = {*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM}

_LONGEST_REASON = 300  # characters
_LOCKED_S = 5.0  # so long a page waits for another program that writes into the file; a commit takes milliseconds

_opening = threading.Lock()  # sessions and the writer open the store at the same moment


def open_store(settings: Settings) -> MlflowClient:
    """Point MLflow at the store, create what is missing, and return a client. Raises StorageFailed."""
    uri = settings.tracking_uri.reveal()
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.exists():
        # MLflow tries a file that cannot be opened again for 100 s, and a locked one for 20 s; one look says the same.
        with storage_errors(settings.home):
            probe(path, _LOCKED_S)
    with _opening:
        os.environ.update(tracking_credentials(settings))  # from secrets.toml; MLflow reads them nowhere else
        ask_directly(os.environ)
        client = _open(settings.home, uri)
        # MLflow's own functions use the process's store; another one may have been opened in between.
        if mlflow.get_tracking_uri() != uri or mlflow.get_registry_uri() != uri:
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
        return client


@lru_cache(maxsize=4)
def _open(home: Path, tracking_uri: str) -> MlflowClient:
    prepare_home(home)
    with storage_errors(home):
        if tracking_uri == f"sqlite:///{home / 'mlflow.db'}":
            _follow_folder(home)
        # MLflow leaves a process that cannot reach its server waiting for four minutes; a page cannot.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of every run that ends
        try:
            return MlflowClient(tracking_uri, registry_uri=tracking_uri)
        except ModuleNotFoundError as error:  # the database's driver
            raise MlflowException(str(error)) from error


def _follow_folder(home: Path) -> None:
    """In a data folder that was copied or moved, let artifacts be those in it: MLflow keeps whole addresses of them."""
    database, here = home / "mlflow.db", (home / "artifacts").as_uri()
    if not database.exists():
        return
    with anothers(database, _LOCKED_S) as connection:
        columns = {
            table: [row[1] for row in connection.execute(f"pragma table_info({table})")] for table, _ in _LOCATIONS
        }
        if not columns["experiments"]:
            return
        rows = connection.execute("select name, artifact_location from experiments").fetchall()
        ends = {str(location): f"/{name}" for name, location in rows if name in _EXPERIMENTS}
        places = {location.removesuffix(end) for location, end in ends.items() if location.endswith(f"/artifacts{end}")}
        for place in places - {here}:
            for table, column in _LOCATIONS:
                if column in columns[table]:
                    connection.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",  # noqa: S608
                        (here, len(place) + 1, len(place) + 1, f"{place}/"),
                    )


def experiment_id(settings: Settings, name: str) -> str:
    """The experiment's id; it is created when missing. Raises StorageFailed."""
    client = open_store(settings)
    with storage_errors(settings.home):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            # A database would put artifacts under ./mlruns of whatever folder the process runs in.
            in_database = get_uri_scheme(settings.tracking_uri.reveal()) in DATABASE_ENGINES
            location = (settings.home / "artifacts" / name).as_uri() if in_database else None
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
                experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise StorageFailed(
                what=f"The experiment {name} cannot be used.",
                why="It was deleted in MLflow.",
                next_step=f"Restore it: mlflow experiments restore --experiment-id {experiment and experiment.experiment_id}",
            )
        return str(experiment.experiment_id)


def known(get: Callable[[], T]) -> T | None:
    """What the store has; None for what it does not know: never there, deleted, or in another store."""
    try:
        return get()
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
            raise
        return None


@contextmanager
def storage_errors(home: Path) -> Iterator[None]:
    """Translate what MLflow and the file system say about a store that does not work."""
    try:
        yield
    except StorageFailed:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        if getattr(error, "errno", None) in _FOLDER_ERRORS or "disk is full" in str(error):
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "The disk is full"
            raise unwritable(home, f"{reason}.") from error
        raise _not_answered(error, home) from error


def _not_answered(error: Exception, home: Path) -> StorageFailed:
    text = without_secrets(str(error).strip())
    status = _http_status(text)
    if status in (401, 403):
        return StorageFailed(
            what="The tracking server refused phi3kit.",
            why=f"It answered {status}: the name, the password or the token is missing or wrong, or lacks permission for this.",
            next_step="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
        )
    if "mlflow db upgrade" in text:
        return StorageFailed(
            what="The tracking store was made by another version of MLflow.",
            why=f"Its tables are not those of MLflow {mlflow.__version__}.",
            next_step="Make a backup of the database, then run: mlflow db upgrade with its URI.",
        )
    if "database is locked" in text:
        return StorageFailed(
            what="The tracking store did not answer.",
            why="Another program keeps the database locked.",
            next_step="Wait until it is done, or stop it; then try again. Waiting turns are written automatically.",
        )
    why = _why(text) or type(error).__name__
    return StorageFailed(
        what="The tracking store did not answer.",
        why=why if why.endswith(".") else f"{why}.",
        next_step=f"Check MLFLOW_TRACKING_URI and the free space in {home}, then try again.",
    )


def _why(text: str) -> str:
    """What MLflow's message comes down to, in a line: it may be a page of HTML, or all that urllib3 knows."""
    if found := re.search(r"too many (\d{3}) error responses", text):
        return f"The server answered {found[1]}"
    if "Read timed out" in text or "ConnectTimeoutError" in text:
        return f"The server did not answer within {os.environ.get('MLFLOW_HTTP_REQUEST_TIMEOUT')} s"
    if "HTTPConnectionPool" in text and "Connection refused" in text:
        return "No server is listening there"
    if "NameResolutionError" in text:
        return "There is no host with that name"
    why, found_body, body = text.partition("Response body:")
    if found_body:
        why = f"{why.strip()} It sent {'a web page' if '<' in body[:20] else 'something else'}, not MLflow's JSON."
    # SQLAlchemy's first line may be about itself.
    line = next((line for line in why.splitlines() if not line.startswith("(raised as a result of")), "")
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def _http_status(text: str) -> int | None:
    """The status that a server answered with, as MLflow writes it into its message."""
    found = re.search(r"failed with error code (\d{3})|(\d{3}) (?:Client|Server) Error", text)
    return int(found[1] or found[2]) if found else None
