"""Requests to the hub: whoever answers, they take bounded bytes and time, and the token stays with the hub.

The client is made here, because that of `huggingface_hub` bounds neither a whole answer nor its time, unpacks what is
compressed, and reads what stands behind a redirect. Its hooks are kept: they log, and hold offline mode.
"""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal

from phi3kit.core.settings import Settings
from phi3kit.endpoints.outbound import Bounds, outbound_client
from phi3kit.packaging.sources.hub_client import token_of

if TYPE_CHECKING:
    import httpx2

_MOST_REDIRECTS = 5


def bounded_client(settings: Settings, bounds: Bounds) -> "httpx2.Client":
    """A client for the hub, to be closed by the caller. bounds: of each connection that it makes."""
    from huggingface_hub import get_session

    # One by http may redirect to https, whose certificates are then to be judged.
    endpoint = re.sub("^http:", "https:", settings.hub_endpoint.reveal())
    return outbound_client(endpoint, bounds=bounds, event_hooks={"request": get_session().event_hooks["request"]})


@contextmanager
def answered(
    client: "httpx2.Client",
    method: Literal["GET", "HEAD"],
    url: str,
    settings: Settings,
    timeout_s: float,
    headers: dict[str, str] | None = None,
) -> Iterator["httpx2.Response"]:
    """The response behind redirects, its body unread; to be read by `iter_raw`, which unpacks nothing.

    A HEAD is not redirected to another host: the hub's own headers are asked for. timeout_s: of each silence. headers:
    more of them. Raises SourceInvalid for a token that cannot be used, HfHubHTTPError, or httpx2's errors.
    """
    import httpx2
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, exported lazily

    named = build_hf_headers(token=token_of(settings), library_name="phi3kit") | (headers or {})
    # The size of a compressed answer cannot be checked, and its range counts other bytes.
    named["Accept-Encoding"] = "identity"
    request = client.build_request(method, url, headers=named, timeout=timeout_s)
    for _ in range(_MOST_REDIRECTS):
        with closing(client.send(request, stream=True)) as response:
            further = response.next_request  # without the token where it is another host's
            if further is None or (method == "HEAD" and further.url.host != request.url.host):
                _refuse_errors(response)
                yield response
                return
            request = further
    raise httpx2.TooManyRedirects("It redirects without end.", request=request)


def _refuse_errors(response: "httpx2.Response") -> None:
    """Raise HfHubHTTPError for a status that is one. What the body says of it is not read: it may be of any size."""
    import httpx2
    from huggingface_hub import hf_raise_for_status

    headers = [
        (key, value)
        for key, value in response.headers.multi_items()
        if not key.startswith("content-") and key != "transfer-encoding"
    ]
    hf_raise_for_status(httpx2.Response(response.status_code, headers=headers, request=response.request))
