"""Scoring: a payload, letter by letter as it was written, to a worker's POST /invocations.

Knows MLflow's route, not what the payload means.
"""

from dataclasses import dataclass
from urllib.parse import quote

import httpx

from phi3kit.access.actor import Actor
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import Endpoint

_SECONDS = 300.0  # the worker loads MLflow and the model a second time for its first call


@dataclass(frozen=True)
class Scored:
    """What the server answered."""

    status: int
    body: str
    is_json: bool


def score(endpoint: Endpoint, payload: str, actor: Actor) -> Scored:
    """POST `payload` as JSON, whatever it is.

    actor: who asks. Raises NotAllowed, or WorkerFailed when nobody answers.
    """
    actor.require("invoke")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    headers["X-Phi3kit-User"] = quote(actor.name)  # a header is ASCII, a name need not be
    content = payload.encode("utf-8", errors="surrogatepass")
    try:
        answer = httpx.post(f"{endpoint.base_url}/invocations", content=content, headers=headers, timeout=_SECONDS)
    except httpx.HTTPError as error:
        raise WorkerFailed(
            "The worker did not answer the payload.", f"{str(error) or type(error).__name__}.", "Send it again."
        ) from error
    return Scored(answer.status_code, answer.text, "json" in answer.headers.get("content-type", ""))
