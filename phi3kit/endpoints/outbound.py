"""Outbound: HTTP clients whose connections lead only where they may, within a time limit.

This machine is asked directly and never by way of the environment's proxy. A name is resolved once, and the address that
was checked is the one connected to, so that DNS rebinding leads nowhere. Knows sockets. Knows no protocol.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from phi3kit.access.hosts import AllowedHosts
from phi3kit.core.errors import EndpointFailed
from phi3kit.core.loopback import is_loopback

_RATE_S = 60  # over which the least rate is measured


@dataclass(frozen=True)
class Bounds:
    """What a connection may take in all, whatever the HTTP library makes of it."""

    seconds: float  # from when its client is made until the last byte
    bytes: int  # of heads, of their 1xx forerunners, of chunks and of what frames them
    late: Callable[[], Exception]  # the error of one that takes longer, or brings less
    too_long: Callable[[], Exception]
    least_bytes_per_s: float = 0  # over each minute


def loopback_client(base_url: str, timeout_s: float, headers: dict[str, str] | None = None) -> httpx2.Client:
    """A client for a server that this app started on this machine."""
    return httpx2.Client(
        base_url=base_url, timeout=timeout_s, headers=headers, trust_env=False, verify=_certificates(base_url)
    )


def outbound_client(
    url: str,
    allowed: Iterable[str] | None = None,
    bounds: Bounds | None = None,
    **named: Any,
) -> httpx2.Client:
    """A client for the URL alone, which follows no redirect.

    allowed: hosts that may be connected to, None: any; with them no proxy is asked, which would resolve names by itself.
    bounds: of each of its connections. named: more arguments of httpx2.Client.
    """
    client = httpx2.Client(
        trust_env=allowed is None and not is_loopback(httpx2.URL(url).host),
        verify=_certificates(url),
        follow_redirects=False,
        **named,
    )
    backend = _Backend(None if allowed is None else AllowedHosts.read(allowed), bounds)
    # httpx2's own transports take no network backend; their pools do.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = backend
    return client


def _certificates(url: str) -> ssl.SSLContext:
    """For https the authorities that this machine trusts; reading them takes 20 ms, so for http there are none."""
    return httpx2.create_ssl_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Backend(httpcore2.SyncBackend):
    def __init__(self, allowed: AllowedHosts | None, bounds: Bounds | None) -> None:
        super().__init__()
        self._allowed, self._bounds = allowed, bounds
        self._deadline = time.monotonic() + bounds.seconds if bounds else float("inf")

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        if self._allowed is None:
            return self._bounded(super().connect_tcp(host, port, *arguments, **named))
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
                return self._bounded(super().connect_tcp(address, port, *arguments, **named))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    def _bounded(self, stream: httpcore2.NetworkStream) -> httpcore2.NetworkStream:
        return _Bounded(stream, self._deadline, self._bounds) if self._bounds else stream


class _Bounded(httpcore2.NetworkStream):
    """A connection that ends at a moment, and after so many bytes.

    The HTTP library's own time limits begin anew with each byte, and it reads 1xx responses and chunks without end.
    """

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float, bounds: Bounds) -> None:
        self._stream, self._deadline, self._bounds, self._left = stream, deadline, bounds, bounds.bytes
        self._since, self._came = time.monotonic(), 0  # of this minute

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._deadline - time.monotonic()
        try:
            if left > 0:
                piece = self._stream.read(max_bytes, left if timeout is None else min(timeout, left))
                return self._counted(piece)
        except httpcore2.ReadTimeout:
            if time.monotonic() < self._deadline:
                raise
        raise self._bounds.late()

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise self._bounds.too_long()
        self._came += len(piece)
        now = time.monotonic()
        if (seconds := now - self._since) >= _RATE_S:
            if self._came < self._bounds.least_bytes_per_s * seconds:
                raise self._bounds.late()
            self._since, self._came = now, 0
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, timeout), self._deadline, self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _refused(host: str, port: int, addresses: list[str]) -> EndpointFailed:
    leads_to = "" if addresses == [host] else f" It resolves to {', '.join(addresses[:3])}."
    return EndpointFailed(
        f"Requests to {host}:{port} are not allowed.",
        f"It is not on this app's list of allowed hosts.{leads_to}",
        "Ask whoever runs this app to add it to PHI3KIT_ALLOWED_HOSTS; list private networks by address.",
        kind="not allowed",
    )
