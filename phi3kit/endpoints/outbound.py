"""Outbound: connections to the hosts of the allow-list alone.

A name is resolved once, and the address that was checked is the one connected to, so that DNS rebinding leads nowhere.
Knows sockets. Knows no protocol.
"""

import socket
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from phi3kit.access.hosts import AllowedHosts
from phi3kit.core.errors import EndpointFailed


class OnlyAllowed(httpx2.HTTPTransport):
    """HTTP to the listed hosts, without the environment's proxies: they would resolve names by themselves."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self._pool.close()
        # httpx2's own transport takes no network backend; its pool does.
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=_Backend(AllowedHosts.read(allowed))
        )


class _Backend(httpcore2.SyncBackend):
    def __init__(self, allowed: AllowedHosts) -> None:
        super().__init__()
        self._allowed = allowed

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        allowed = [each for each in addresses if self._allowed.allows(host, port, each)]
        if not allowed:
            raise _refused(host, port, addresses)
        failure: Exception | None = None
        for address in allowed:
            try:
                return super().connect_tcp(address, port, *arguments, **named)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure


def _refused(host: str, port: int, addresses: list[str]) -> EndpointFailed:
    leads_to = "" if addresses == [host] else f" It leads to {', '.join(addresses[:3])}."
    return EndpointFailed(
        f"Nothing is sent to {host}:{port}.",
        f"It is not among the hosts that this app may ask.{leads_to}",
        "Ask whoever runs this app to add it to PHI3KIT_ALLOWED_HOSTS; addresses of own networks are listed themselves.",
        kind="not allowed",
    )
