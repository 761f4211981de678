"""Connections: how long one may take to send a request or to read an answer, how much stands around a body, how many are open.

A request has no trailers, upgrades to nothing, and is sent when the answer before it is there.
Knows uvicorn's protocol of a connection. Knows no routes.
"""

import asyncio
import itertools
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADERS_S = 10.0  # from the first byte of a request, or from the connection, to the end of the headers
_BODY_S = 60.0  # from there to the end of the body
_UNREAD_S = 60.0  # with an answer of which nothing is read
_MOST_OPEN = 200
_MOST_FRAMING_BYTES = 2**16  # of headers, trailers and what frames chunks; and as much again as the body has
_END_S = 3  # for answers under way when the worker ends

# What connections are ordered by: a loop's clock stands still while it takes many of them.
_uses = itertools.count(1)


def server_for(app: ASGIApp) -> uvicorn.Server:
    """A server whose connections are bounded."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_END_S,
        )
    )


class BoundedConnection(HttpToolsProtocol):
    """A connection that is closed when its client takes too long, or when others need its place."""

    _timer: asyncio.TimerHandle | None = None  # for the client to send
    _unread: asyncio.TimerHandle | None = None  # for the client to read
    _used = 0  # when its client last sent something, by `_uses`
    _in_headers = True
    _framing_bytes = 0  # of the request under way
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol: the oldest connection without a whole request, or that reads nothing, makes room."""
        super().connection_made(transport)
        self._used = next(_uses)
        self._wait(_HEADERS_S)
        bounded = (each for each in self.connections if isinstance(each, BoundedConnection))
        # One that was aborted is listed for a while.
        still_open = [each for each in bounded if not each.transport.is_closing()]
        if len(still_open) > _MOST_OPEN:
            waiting = (each for each in still_open if not each._is_busy)
            min(waiting, key=lambda each: each._used, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._used = next(_uses)
        before = self._body_bytes
        super().data_received(data)
        self._framing_bytes += len(data) - max(self._body_bytes - before, 0)
        if self._framing_bytes > _MOST_FRAMING_BYTES + self._body_bytes:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # who does not wait for an answer gets none, and fills no memory
            self.transport.abort()
        super().on_message_begin()
        self._in_headers, self._framing_bytes, self._body_bytes = True, 0, 0
        if self._timer is None:
            self._wait(_HEADERS_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are left out."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its body follows."""
        self._in_headers = False
        self._wait(_BODY_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """More of its body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._wait(None)
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes."""
        super().pause_writing()
        self._unread = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wait(None)
        self._read()
        super().connection_lost(exc)

    @property
    def _is_busy(self) -> bool:
        """Whether a whole request is being answered, to a client that reads."""
        cycle: Any = self.cycle
        answers = cycle is not None and not cycle.more_body and not cycle.response_complete
        return answers and self._unread is None

    def _unsupported_upgrade_warning(self) -> None:
        """A request to upgrade is answered as any other, and is worth no line of the log."""

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
