"""uvicorn's HTTP/1.1 protocol with the two things it lacks: patience that ends, and problems instead of plain text."""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.asgi import Receive, Scope, Send
from api.errors import MEDIA_TYPE, Problem
from api.streams import ABORT
from core.ids import new_id

HEAD_SECONDS: Final = 10.0
"""How long the head of a request may take to arrive."""


class GuardedProtocol(H11Protocol):
    """Closes connections whose request never becomes complete; lets the application drop one at once."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner: Any = self.app
        self.app = self._serve
        self._head_timer: asyncio.TimerHandle | None = None

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["extensions"] = {ABORT: {"abort": self.transport.abort}}
        served: Awaitable[None] = self._inner(scope, receive, send)
        return served

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; while they are no whole head, the clock goes on."""
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_clock()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "E.REQUEST.TIMEOUT", "the request did not arrive in time")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST, "E.REQUEST.MALFORMED", "this is not a valid HTTP request")

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        request_id = str(new_id())
        body = orjson.dumps(Problem(status, code, detail).document(instance="", request_id=request_id))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id.encode()),
        ]
        head = h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
