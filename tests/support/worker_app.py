"""A worker's routes in this process, without a socket: what a caller is told, and what is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from phi3kit.access.keys import KeyStore
from phi3kit.access.same_origin import ServedNames
from phi3kit.core.limits import Limits
from phi3kit.core.machine import Threads
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import read_settings
from phi3kit.tracking.logged_models import resolve
from phi3kit.worker.app import WorkerConfig, create_app
from phi3kit.worker.engine import Engine
from phi3kit.worker.loading import load_model
from phi3kit.worker.request_checks import Keys, LastRequest
from tests.conftest import Built
from tests.support.waiting import wait_for

OWN_KEY = "own-key"


@contextmanager
def worker_app(
    built: Built,
    home: Path,
    wrapper: WrapperName = "onnx",
    limits: Limits | None = None,
    *,
    managed: bool = True,
    **environment: str,
) -> Iterator[TestClient]:
    """The routes of a worker that has loaded the built model. Its own key is OWN_KEY; people's keys lie in `home`.

    home: the data folder, apart from the one where the model is. limits: of each user; none where None.
    managed: it is the app's; else one that `phi3kit serve` started, whose key several people may share.
    """
    settings = replace(read_settings({"PHI3KIT_HOME": str(home), **environment}), limits=limits or Limits())
    folder = resolve(built.uri(wrapper), built.settings).folder
    engine = Engine(partial(load_model, folder, wrapper, 1, None, settings.shared_system), settings.max_queue)
    keys = Keys(OWN_KEY, KeyStore(home), required=True, managed=managed)
    config = WorkerConfig(
        folder, wrapper, built.uri(wrapper), ServedNames.read(()), keys, Threads(1, "a test"), settings
    )
    headers = {"Authorization": f"Bearer {OWN_KEY}"}
    app = create_app(config, engine, LastRequest())
    with TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False, headers=headers) as client:
        wait_for("a loaded model", lambda: client.get("/health").status_code == 200)
        yield client


def as_user(name: str, **more: str) -> dict[str, str]:
    """Headers of the app on behalf of somebody who is in it."""
    return {"X-Phi3kit-User": name, **more}


def completion(prompt: str, **values: Any) -> dict[str, Any]:
    """The body of a short raw completion."""
    return {"prompt": f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n", "max_tokens": 2, **values}
