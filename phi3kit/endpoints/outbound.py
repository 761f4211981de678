"""Outbound: HTTP clients whose connections lead only where they may, within a time limit.

This machine is asked directly and never by way of the environment's proxy. A name is resolved once, and the address that
was checked is the one connected to, so that DNS rebinding leads nowhere. Knows sockets. Knows no protocol.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

from phi3kit.access.hosts import AllowedHosts
from phi3kit.core.errors import EndpointFailed
from phi3kit.core.loopback import is_loopback

_Late = Callable[[], Exception]


def loopback_client(base_url: str, timeout_s: float, headers: dict[str, str] | None = None) -> httpx2.Client:
    """A client for a server that this app started on this machine."""
    return httpx2.Client(
        base_url=base_url, timeout=timeout_s, headers=headers, trust_env=False, verify=_certificates(base_url)
    )


def outbound_client(
    url: str,
    allowed: Iterable[str] | None = None,
    seconds: float = float("inf"),
    late: _Late | None = None,
    **named: Any,
) -> httpx2.Client:
    """A client for the URL alone, which follows no redirect.

    allowed: hosts that may be connected to, None: any; with them no proxy is asked, which would resolve names by itself.
    seconds: from now until the last byte; then `late` gives the error. named: more arguments of httpx2.Client.
    """
    client = httpx2.Client(
        trust_env=allowed is None and not is_loopback(httpx2.URL(url).host),
        verify=_certificates(url),
        follow_redirects=False,
        **named,
    )
    backend = _Backend(None if allowed is None else AllowedHosts.read(allowed), time.monotonic() + seconds, late)
    # httpx2's own transports take no network backend; their pools do.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = backend
    return client


def _certificates(url: str) -> ssl.SSLContext:
    """For https the authorities that this machine trusts; reading them takes 20 ms, so for http there are none."""
    return httpx2.create_ssl_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Backend(httpcore2.SyncBackend):
    def __init__(self, allowed: AllowedHosts | None, deadline: float, late: _Late | None) -> None:
        super().__init__()
        self._allowed, self._deadline, self._late = allowed, deadline, late

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        if self._allowed is None:
            return self._timed(super().connect_tcp(host, port, *arguments, **named))
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
                return self._timed(super().connect_tcp(address, port, *arguments, **named))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    def _timed(self, stream: httpcore2.NetworkStream) -> httpcore2.NetworkStream:
        return _Timed(stream, self._deadline, self._late) if self._late else stream


class _Timed(httpcore2.NetworkStream):
    """A connection that ends at a moment. The HTTP library's own time limits begin anew with each byte."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float, late: _Late) -> None:
        self._stream, self._deadline, self._late = stream, deadline, late

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._deadline - time.monotonic()
        try:
            if left > 0:
                return self._stream.read(max_bytes, left if timeout is None else min(timeout, left))
        except httpcore2.ReadTimeout:
            if time.monotonic() < self._deadline:
                raise
        raise self._late()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, timeout), self._deadline, self._late)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _refused(host: str, port: int, addresses: list[str]) -> EndpointFailed:
    leads_to = "" if addresses == [host] else f" It leads to {', '.join(addresses[:3])}."
    return EndpointFailed(
        f"Nothing is sent to {host}:{port}.",
        f"It is not among the hosts that this app may ask.{leads_to}",
        "Ask whoever runs this app to add it to PHI3KIT_ALLOWED_HOSTS; addresses of own networks are listed themselves.",
        kind="not allowed",
    )
