"""Bounded body: what an answer's bytes may be in all, and in one event of a stream.

Knows bytes. Knows neither JSON nor why an answer comes. Nothing is decompressed: compression is not asked for, and refused.
"""

from collections.abc import Callable, Iterator

import httpx2

_EVENTS = "text/event-stream"
_MOST_BYTES = 8 * 2**20  # of a whole answer
_MOST_BRACKETS = 100_000  # that open in it: read as JSON each takes 60 bytes and more
_MOST_ERROR_BYTES = 2**16  # that are read of a failure, which is told in a line
_MOST_STREAMED_BYTES = 64 * 2**20  # an event for each of 128,000 tokens
_MOST_EVENT_BYTES = 2**20
MOST_WIRE_BYTES = 2 * _MOST_STREAMED_BYTES  # with heads, 1xx responses before them, and what frames chunks
_BLANK_LINES = (b"\n\n", b"\r\r", b"\n\r\n")


def bound(response: httpx2.Response, refused: Callable[[str], Exception]) -> None:
    """Bound what is going to be read of a response. refused: the error for a reason; it is raised, later while reading."""
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise refused("Its answer is compressed, which was not asked for.")
    streams = response.headers.get("Content-Type", "").lower().startswith(_EVENTS)
    response.encoding = "utf-8"  # the charset that it names may be any of Python's codecs, zip too
    assert isinstance(response.stream, httpx2.SyncByteStream)
    failed = response.status_code >= 300
    response.stream = _Beginning(response.stream) if failed else _Body(response.stream, streams, refused)


class _Beginning(httpx2.SyncByteStream):
    """Of a body what comes first."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        left = _MOST_ERROR_BYTES
        for piece in self._body:
            yield piece[:left]
            if (left := left - len(piece)) <= 0:
                return

    def close(self) -> None:
        self._body.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, body: httpx2.SyncByteStream, streams: bool, refused: Callable[[str], Exception]) -> None:
        self._body, self._streams, self._refused = body, streams, refused

    def __iter__(self) -> Iterator[bytes]:
        most = _MOST_STREAMED_BYTES if self._streams else _MOST_BYTES
        read = event = brackets = 0
        tail = b""
        for piece in self._body:
            read += len(piece)
            if read > most:
                raise self._refused(f"Its answer is longer than {most // 2**20} MB.")
            brackets += 0 if self._streams else piece.count(b"[") + piece.count(b"{")
            if brackets > _MOST_BRACKETS:
                raise self._refused(f"Its answer has more than {_MOST_BRACKETS:,} lists and objects.")
            if self._streams:
                seen = tail + piece
                end = max(seen.rfind(blank) for blank in _BLANK_LINES)
                event = event + len(piece) if end < 0 else len(seen) - end
                tail = seen[-2:]
                if event > _MOST_EVENT_BYTES:
                    raise self._refused(f"One event of its stream is longer than {_MOST_EVENT_BYTES // 2**20} MB.")
            yield piece

    def close(self) -> None:
        self._body.close()
