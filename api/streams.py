"""Sending an event stream to one reader, however slowly he reads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Final

import structlog
from starlette.responses import Response

from api.asgi import Receive, Scope, Send

_log = structlog.get_logger(__name__)

RETRY: Final = b"retry: 2000\n\n"
ABORT: Final = "longhaul.abort"
"""ASGI extension of our own server protocol: drops the connection at once."""


class EventStream(Response):
    """An answer that goes on for as long as ``pieces`` does; ``stop`` is called when the reader has gone."""

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        stop: Callable[[], None],
        stall_seconds: float,
        counted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._stop = stop
        self._stall_seconds = stall_seconds
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send pieces as they come. A reader that takes nothing for ``stall_seconds`` is dropped; he can resume."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(self._wait_until_gone(receive), name="watch-reader")
        try:
            with self._counted():
                await self._send_all(send)
        except TimeoutError:
            _log.info("stream.stalled")
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is not None:
                abort["abort"]()
        finally:
            gone.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": RETRY, "more_body": True})
        async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                async with asyncio.timeout(self._stall_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _wait_until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stop()
