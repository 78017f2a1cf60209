"""A lean HTTP/1.1 client, so that what is measured is the server: one connection, one request at a time.

It speaks exactly as much of the protocol as our own answers use.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ETAG: Final = re.compile(rb"\r\netag: *([^\r]+)", re.IGNORECASE)
_EVENT_ID: Final = re.compile(rb"\nid: (\d+)\n")
_KEEP: Final = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; the head as it came in."""

    status: int
    head: bytes
    body: bytes

    @property
    def etag(self) -> str:
        """The ETag, or an empty text."""
        found = _ETAG.search(self.head)
        return found.group(1).decode() if found else ""


class Connection(asyncio.Protocol):
    """A connection that is kept alive. ``ask`` again only after the answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the answer once it is whole."""
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(_HEAD_END)
        if end < 0 or self._waiting is None:
            return
        head = self._buffer[:end]
        length = _LENGTH.search(head)
        body = self._buffer[end + 4 :]
        if len(body) < (int(length.group(1)) if length else 0):
            return
        waiting, self._waiting, self._buffer = self._waiting, None, b""
        if not waiting.done():
            waiting.set_result(Answer(int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a whole request; its answer."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


class EventReader(asyncio.Protocol):
    """A connection that reads an event stream and calls ``on_event(number, nanoseconds)`` for each event."""

    def __init__(self, request: bytes, on_event: Callable[[int, int], None]) -> None:
        self._request = request
        self._on_event = on_event
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the number of each event at the moment it came in."""
        now = time.monotonic_ns()
        self._buffer += data
        end = 0
        for found in _EVENT_ID.finditer(self._buffer):
            self._on_event(int(found.group(1)), now)
            end = found.end()
        self._buffer = self._buffer[max(end, len(self._buffer) - _KEEP) :]

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream has ended."""
        del exc
        self.lost = True

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


async def connect(port: int) -> Connection:
    """A connection to our own machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


def request(method: str, path: str, *, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request; underscores in header names stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + _HEAD_END + body
