"""The hub's client: `huggingface_hub` with retries, the kit's token, and errors in plain words.

Knows when the client reads its switches and what its errors mean. Retries by itself, because the client does not for
the calls used here. Knows neither the cache nor what a build needs.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from phi3kit.core.errors import DownloadFailed, Phi3KitError, SourceInvalid
from phi3kit.core.settings import Settings
from phi3kit.packaging.sources.hub_names import HubName

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

KEPT = "Downloaded data is kept."
# Tries that bring nothing. Each ends after the client's HF_HUB_DOWNLOAD_TIMEOUT (for the repository's list
# HF_HUB_ETAG_TIMEOUT), 10 s, so a connection that stalls ends after 44 s.
_TRIES = 4


def _may_pass(error: BaseException) -> bool:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 500, 502, 503, 504)
    return isinstance(error, (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError))


def token_of(settings: Settings) -> str | Literal[False]:
    """The token, or False: at None the client would look for one on this machine. Raises SourceInvalid."""
    if settings.hub_token is None:
        return False
    # No header can hold other characters, and the client's error would print the token.
    if not re.fullmatch("[!-~]+", token := settings.hub_token.reveal()):
        raise SourceInvalid(
            what="The Hugging Face token cannot be used.",
            why="It has a space, a line break or another character that is not allowed in a token.",
            next_step="Correct or remove PHI3KIT_HF_TOKEN or HF_TOKEN.",
        )
    return token


def url_of(name: HubName, commit: str, path: str, settings: Settings) -> str:
    """Where a file of a repository lies."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(name.repo, path, revision=commit, endpoint=settings.hub_endpoint.reveal())


# Calls what it is given; only the last try raises an error that may pass by itself. Waits 0.5, 1 and 2 s.
patiently = Retrying(
    retry=retry_if_exception(_may_pass), stop=stop_after_attempt(_TRIES), wait=wait_exponential(0.5), reraise=True
)


class _Online:
    """Lets the client use the network while it is entered; HF_HUB_OFFLINE holds for everything else.

    The client's telemetry is off meanwhile: it would send a request of its own and write outside the data folder.
    The client reads both switches when it is imported, so the environment would come too late.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, (False, False)

    def __enter__(self) -> None:
        from huggingface_hub import constants

        with self._lock:
            if not self._inside:
                self._before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
                constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = False, True
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        from huggingface_hub import constants

        with self._lock:
            self._inside -= 1
            if not self._inside:
                constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = self._before


ONLINE = _Online()


@contextmanager
def explained(name: HubName, settings: Settings, path: str | None = None) -> Iterator[None]:
    """Translate the errors of the network and the server. No text holds the token.

    path: the requested file; None for the repository's list.
    """
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    what, host, kept = f"{name} could not be downloaded.", host_of(settings), f" {KEPT}" if path else ""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(error, name, settings, path) from error
    except httpx2.TimeoutException as error:
        seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT if path else constants.HF_HUB_ETAG_TIMEOUT
        why = f"The connection stalled: {host} sent nothing for {seconds} s, {_TRIES} times."
        raise DownloadFailed(what, why, f"Check the network and try again.{kept}") from error
    except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
        why = f"{host} ended the connection before {path or 'its answer'} was complete, {_TRIES} times."
        raise DownloadFailed(what, why, f"Try again.{kept}") from error
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        why = f"{host} could not be reached ({' '.join(str(error).split())})."
        raise DownloadFailed(what, why, f"Check the network, a proxy and HF_ENDPOINT, then try again.{kept}") from error


def not_a_hub(name: HubName, settings: Settings) -> DownloadFailed:
    """The error for an answer of something else: a proxy's page, or another service."""
    return DownloadFailed(
        what=f"{name} could not be downloaded.",
        why=f"{host_of(settings)} answers something that is not a Hugging Face repository.",
        next_step="Check the network, a proxy and HF_ENDPOINT, then try again.",
    )


def host_of(settings: Settings) -> str:
    """The server's name in messages."""
    try:
        return urlsplit(settings.hub_endpoint.reveal()).hostname or str(settings.hub_endpoint)
    except ValueError:  # no address: the client's error will say so
        return str(settings.hub_endpoint)


def _refusal(error: "HfHubHTTPError", name: HubName, settings: Settings, path: str | None) -> Phi3KitError:
    """The error for a status and the server's own code."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    host, status, has_token = host_of(settings), error.response.status_code, settings.hub_token is not None
    if isinstance(error, GatedRepoError):
        why = "the token gives no access to it." if has_token else "no token is set."
        then = "with the account of the token." if has_token else "then set PHI3KIT_HF_TOKEN to that account's token."
        return _unusable(
            name,
            f"Its owner asks for an agreement, and {why}",
            f"Accept the terms on {settings.hub_endpoint}/{name.repo}, {then}",
        )
    if isinstance(error, RevisionNotFoundError):
        why = f"{host} has no revision {name.revision or 'of it'}."
        return _unusable(name, why, "Name a branch, tag or commit that its page shows.")
    if status == 401 and has_token:
        next_step = "Correct or remove PHI3KIT_HF_TOKEN or HF_TOKEN; public models need none."
        return _unusable(name, f"{host} refused the token.", next_step)
    if status in (401, 404) and path is None:
        hint = "the token may not open it." if has_token else "a private one needs PHI3KIT_HF_TOKEN."
        return _unusable(name, f"{host} has no such model, or it is private.", f"Check the name; {hint}")
    if status == 404:
        return _unusable(name, f"{path} is missing on {host}.", "Choose another revision or another model.")
    if status in (401, 403):
        next_step = "Set PHI3KIT_HF_TOKEN to a token of an account that may read it."
        return _unusable(name, f"{host} gives no access to it.", next_step)
    what, kept = f"{name} could not be downloaded.", f" {KEPT}" if path else ""
    if status == 429:
        return DownloadFailed(what, f"{host} asks for fewer requests.", f"Try again {_when(error)}.{kept}")
    times = f", {_TRIES} times" if _may_pass(error) else ""
    return DownloadFailed(what, f"{host} answered with the error {status}{times}.", f"Try again later.{kept}")


def _unusable(name: HubName, why: str, next_step: str) -> SourceInvalid:
    return SourceInvalid(f"The source {name} cannot be used.", why, next_step)


def _when(error: "HfHubHTTPError") -> str:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # exported lazily

    limit = parse_ratelimit_headers(error.response.headers)
    wait_s = error.response.headers.get("Retry-After") or (str(limit.reset_in_seconds) if limit else "")
    return f"in {wait_s} s" if wait_s.isdigit() else "in a few minutes"
