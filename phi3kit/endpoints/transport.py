"""Transport: HTTP to an endpoint: headers and hosts, how a request is cut short, and an error for each failure.

Knows HTTP and its libraries' errors. Knows neither requests nor answers.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import openai

from phi3kit.core.errors import (
    BudgetSpent,
    Busy,
    EndpointFailed,
    Failure,
    LimitReached,
    Phi3KitError,
    RequestInvalid,
    WorkerFailed,
)
from phi3kit.core.records import Endpoint
from phi3kit.core.redaction import masked
from phi3kit.endpoints.bounded_body import MOST_WIRE_BYTES, bound
from phi3kit.endpoints.outbound import Bounds, outbound_client

CONNECT_S = 10.0
_SILENCES = 10  # that an answer of a remote endpoint may last: a byte a minute is no silence
_LONGEST_WAIT_S = 3_600  # that a busy endpoint may ask for
_LONGEST_MESSAGE = 300  # characters of what an endpoint says about its own failure
_SEND_AGAIN = "Send it again. The worker restarts if it is gone."
_CORRECT = "Correct the URL under Connections."
_START_OR_CORRECT = "Start the server there, or correct the URL under Connections."
_PROTOCOLS = {"openai": "OpenAI's protocol", "invocations": "MLflow's /invocations"}
# The `openai` client adds them from the environment; they are meant for OpenAI alone.
_FOREIGN_HEADERS = ("Authorization", "OpenAI-Organization", "OpenAI-Project")


class Cancellation:
    """Cancels one request, from another thread than the one that waits for its answer."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._stream: Any = None
        self.cancelled = False  # an error after it is no failure of the endpoint

    def cancel(self) -> None:
        """End the request now, or as soon as it has a connection. The other side sees a disconnect."""
        with self._guard:
            self.cancelled = True
            self._shut()

    def _shut(self) -> None:
        sock = self._stream.get_extra_info("socket") if self._stream else None
        if sock:
            # close() would leave a reading thread waiting. OSError: it has ended already.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """The HTTP library calls it with each step; only new connections matter here."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        with self._guard:
            self._stream = info["return_value"]
            if self.cancelled:
                self._shut()


def http_client(endpoint: Endpoint, cancellation: Cancellation | None = None) -> httpx2.Client:
    """A client that follows no redirect and sends an endpoint its own key and nobody else's; its answers are bounded.

    The whole answer of a remote endpoint may take as long as ten silences, so such a client is for one request.
    """
    remote = endpoint.wrapper == "remote"

    def prepare(request: httpx2.Request) -> None:
        if cancellation:
            request.extensions = {**request.extensions, "trace": cancellation.trace}
        request.headers["Accept-Encoding"] = "identity"
        if remote:
            for name in _FOREIGN_HEADERS:
                request.headers.pop(name, None)
        if endpoint.api_key:
            request.headers["Authorization"] = f"Bearer {endpoint.api_key}"

    def bounded(response: httpx2.Response) -> None:
        bound(response, lambda why: _unbounded(endpoint, why))

    return outbound_client(
        endpoint.base_url,
        endpoint.allowed_hosts,
        _bounds(endpoint) if remote else None,
        timeout=httpx2.Timeout(endpoint.silence_s, connect=CONNECT_S),
        event_hooks={"request": [prepare], "response": [bounded]},
    )


def json_of(endpoint: Endpoint, method: str, path: str, body: object = None) -> Any:
    """The JSON that one request gives. Raises what `errors` and `parsing` translate to."""
    with errors(endpoint), http_client(endpoint) as client:
        response = client.request(method, f"{endpoint.base_url}{path}", json=body)
        if not response.is_success:
            raise status_error(endpoint, response, response.text)
        with parsing(endpoint):
            return response.json()


@contextmanager
def errors(endpoint: Endpoint) -> Iterator[None]:
    """Translate the HTTP libraries' errors: to RequestInvalid, Busy, BudgetSpent, and WorkerFailed or EndpointFailed."""
    try:
        yield
    except Phi3KitError:
        raise
    except openai.APIStatusError as error:
        raise status_error(endpoint, error.response, error.body) from error
    except (openai.APIError, httpx2.HTTPError, OSError) as error:  # no connection, a broken one, an error in a stream
        if deliberate := next((each for each in _causes(error) if isinstance(each, Phi3KitError)), None):
            raise deliberate from error  # of the allow-list and the bounds; the `openai` client wraps what it meets
        raise (_remote(endpoint, error) if endpoint.wrapper == "remote" else _worker(endpoint, error)) from error


@contextmanager
def parsing(endpoint: Endpoint) -> Iterator[None]:
    """Translate the errors of reading an answer that has another form than the protocol's.

    Of a running worker it is a bug, and passes through; a dead worker's port may belong to another program now.
    """
    try:
        yield
    except (AttributeError, TypeError, KeyError, IndexError, ValueError, RecursionError) as error:
        if endpoint.wrapper == "remote":
            raise not_the_protocol(endpoint, "Its answer does not have the form that the protocol requires.") from error
        if why := endpoint.why_gone():
            raise WorkerFailed("Another program answered, not the worker.", why, _SEND_AGAIN) from error
        raise


def status_error(endpoint: Endpoint, response: httpx2.Response, body: object) -> Phi3KitError:
    """The error for a status that is no success. body: what the response says, as parsed JSON where it is some."""
    status, message, code, param = response.status_code, *_said(endpoint, body)
    remote = endpoint.wrapper == "remote"
    who = f"The endpoint {endpoint.name}" if remote else "The worker"
    if status == 429:
        return _turned_away(endpoint, response, body)
    if status in (400, 413, 422):
        advice = "Change the value and send it again."
        return RequestInvalid(f"{who} refused the request.", message, advice, param=param, code=code or "invalid_value")
    if not remote:
        return WorkerFailed(f"{who} answered {status}.", message, _SEND_AGAIN)
    if 300 <= status < 400:
        to = _host(response.headers.get("Location", "")) or "another place"
        return EndpointFailed(
            f"{who} redirects to {to}.",
            "Redirects are not followed: the message and the key would go there.",
            "If you trust that address, write it as the URL under Connections.",
            kind="redirect",
        )
    if status in (401, 403):
        what = f"{who} requires a valid key ({status})."
        key = "Check the key" if endpoint.api_key else "Name the secret that holds its key"
        return EndpointFailed(what, message, f"{key} under Connections.", kind="unauthorized")
    if status == 404 and code is not None:  # the protocol's own 404: there is no such model
        what, advice = f"{who} does not have that ({status}).", "Test the connection: it lists the available models."
        return EndpointFailed(what, message, advice, kind="not found")
    if status in (404, 405, 415):
        return not_the_protocol(endpoint, f"It answered {status} to {response.request.url.path}.")
    return EndpointFailed(f"{who} answered {status}.", message, "Check its log, then send it again.", kind="server")


def not_the_protocol(endpoint: Endpoint, why: str) -> EndpointFailed:
    """The error for an endpoint that speaks another protocol."""
    return EndpointFailed(
        f"The endpoint {endpoint.name} does not speak {_PROTOCOLS[endpoint.protocol]}.",
        why,
        "Check URL and protocol under Connections.",
        kind="protocol",
    )


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half character: JSON can hold one, and neither a database nor a browser takes it."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole_number(header: str | None) -> int:
    """The number in a header; 0 for none, and for what is none."""
    return int(header) if header and header.isascii() and header.isdecimal() and len(header) < 10 else 0


def _bounds(endpoint: Endpoint) -> Bounds:
    why = f"Its whole response is longer than {MOST_WIRE_BYTES // 2**20} MB."
    seconds = _SILENCES * endpoint.silence_s
    return Bounds(seconds, MOST_WIRE_BYTES, lambda: _late(endpoint), lambda: _unbounded(endpoint, why))


def _unbounded(endpoint: Endpoint, why: str) -> EndpointFailed | WorkerFailed:
    if endpoint.wrapper == "remote":
        return not_the_protocol(endpoint, why)
    return WorkerFailed("Another program answered, not the worker.", endpoint.why_gone() or why, _SEND_AGAIN)


def _late(endpoint: Endpoint) -> EndpointFailed:
    return EndpointFailed(
        f"The endpoint {endpoint.name} did not answer in time.",
        f"Its answer was not complete after {_SILENCES * endpoint.silence_s:,.0f} s.",
        "Ask for a shorter answer, or give it more seconds under Connections.",
        kind="timeout",
    )


def _host(location: str) -> str:
    try:
        return httpx2.URL(location).host
    except httpx2.InvalidURL:
        return ""


def _turned_away(endpoint: Endpoint, response: httpx2.Response, body: object) -> Busy | BudgetSpent | LimitReached:
    """The error for a 429: a full queue, or a worker's rate limit or spent budget."""
    seconds = whole_number(response.headers.get("Retry-After")) or 2
    message, code, _ = _said(endpoint, body)
    if endpoint.wrapper != "remote" and code == "insufficient_quota":
        return BudgetSpent(
            "Today's tokens are spent.", message, "Wait until then, or ask for a higher budget.", retry_after_s=seconds
        )
    if endpoint.wrapper != "remote" and code == "rate_limit_exceeded":
        return LimitReached("The answer has to wait.", message, "Send it again after that.", retry_after_s=seconds)
    return Busy(waiting=0, retry_after_s=min(seconds, _LONGEST_WAIT_S))


def _worker(endpoint: Endpoint, error: Exception) -> WorkerFailed:
    said = isinstance(error, openai.APIError) and bool(error.body)  # the worker's own words
    why = error.message if isinstance(error, openai.APIError) else f"{error}."
    if not said and (gone := endpoint.why_gone()):
        why = gone
    elif not said and (isinstance(error, httpx2.ConnectError) or why in ("", "Connection error.")):
        why = "The worker is not running."
    return WorkerFailed("The worker did not finish its answer.", why, _SEND_AGAIN)


def _remote(endpoint: Endpoint, error: Exception) -> EndpointFailed:
    """The failure, by the error and its causes."""
    chain = list(_causes(error))
    unreachable = f"The endpoint {endpoint.name} cannot be reached."

    def failed(what: str, why: str, next_step: str, kind: Failure) -> EndpointFailed:
        return EndpointFailed(what, why, next_step, kind=kind)

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((each for each in chain if isinstance(each, kinds)), None)

    if tls := found(ssl.SSLError):
        why = f"TLS failed: {getattr(tls, 'verify_message', '') or getattr(tls, 'reason', '') or tls}."
        return failed(unreachable, why, "Use a certificate that this machine trusts, or check http and https.", "tls")
    if found(socket.gaierror):
        return failed(unreachable, f"There is no host {httpx2.URL(endpoint.base_url).host}.", _CORRECT, "host")
    if found(ConnectionRefusedError):
        return failed(unreachable, f"Nothing listens at {endpoint.base_url}: refused.", _START_OR_CORRECT, "refused")
    if found(httpx2.ConnectTimeout):
        return failed(unreachable, f"No connection within {CONNECT_S:,.0f} s.", _START_OR_CORRECT, "timeout")
    if found(httpx2.TimeoutException, openai.APITimeoutError, TimeoutError):
        return failed(
            f"The endpoint {endpoint.name} did not answer in time.",
            f"It sent nothing for {endpoint.silence_s:,.0f} s.",
            "Send it again, or give it more seconds under Connections.",
            "timeout",
        )
    if found(httpx2.ConnectError):
        return failed(unreachable, _short(str(found(OSError) or chain[-1])), _START_OR_CORRECT, "refused")
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
        message = _said(endpoint, error.body)[0] if error.body else _short(error.message)
        return failed(f"The endpoint {endpoint.name} failed while it answered.", message, "Send it again.", "server")
    if (broken := found(httpx2.RemoteProtocolError)) and str(broken).startswith("illegal"):  # h11's word for no HTTP
        return not_the_protocol(endpoint, "Its response is not HTTP.")
    if broken and str(broken).startswith("Server disconnected"):
        return failed(
            f"The endpoint {endpoint.name} closed the connection without an answer.",
            "It failed, or it speaks something other than HTTP.",
            "Check its log, or check the URL under Connections.",
            "server",
        )
    return failed(f"The answer of {endpoint.name} was interrupted.", _short(str(chain[-1])), "Send it again.", "server")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _said(endpoint: Endpoint, body: object) -> tuple[str, str | None, str | None]:
    """Message, code and param of an error body in OpenAI's shape or MLflow's; code None in any other shape.

    The key is masked, should the endpoint repeat it.
    """
    message, code, param = _quoted(body)
    if endpoint.api_key:  # before it is shortened, which could leave half a key
        message = masked(message, [endpoint.api_key])
    return _short(message) or "It gives no details.", code, param


def _quoted(body: object) -> tuple[str, str | None, str | None]:
    if isinstance(text := body, str):
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return text, None, None
    said: dict[str, Any] = body if isinstance(body, dict) else {}
    if isinstance(said.get("error"), dict):
        said = said["error"]
    if not isinstance(message := said.get("message"), str):
        return json.dumps(body, ensure_ascii=False) if body else "", None, None
    code = said.get("code") or said.get("type") or said.get("error_code") or "error"
    param = said.get("param")
    return message, str(code), param if isinstance(param, str) else None


def _short(text: str) -> str:
    """One sentence in one line."""
    line = " ".join(whole_characters(text).split())
    if len(line) > _LONGEST_MESSAGE:
        return f"{line[: _LONGEST_MESSAGE - 1]}…"
    return line if line.endswith((".", "!", "?", "…")) or not line else f"{line}."
