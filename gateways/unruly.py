"""A server whose connections can be broken on purpose: what the stand-ins of outside systems are made of."""

import asyncio
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


class UnrulyProtocol(H11Protocol):
    """Hands the transport to the application, which has to be able to break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport with every request. What is written leaves at once, as at any vendor's.

        asyncio sees to that only for sockets that name their protocol, which listening ones of Python do not: the
        second piece of an answer would wait for the caller's delayed acknowledgement of the first, 40 ms on Linux.
        """
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # macOS: a caller that has left already
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvicorn copies this mapping into the scope of each request.
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


def transport_of(scope: Mapping[str, Any]) -> asyncio.Transport:
    """The connection that a request came over."""
    transport = scope["state"]["transport"]
    assert isinstance(transport, asyncio.Transport)
    return transport


async def disconnected(receive: Receive) -> None:
    """Wait until the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Reset(Response):
    """Breaks the connection with RST in place of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Break it."""
        transport = transport_of(scope)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Zero linger: closing discards what is unsent and sends RST instead of FIN.
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
        await disconnected(receive)


class Silence(Response):
    """Never answers; ends when the caller leaves or the stand-in closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Wait for the caller to leave."""
        await disconnected(receive)


class UnrulyServer(uvicorn.Server):
    """uvicorn without its grip on the signals of the host process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave the signals to whoever runs us."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so through ``up``."""
        await super().startup(sockets)
        self.up.set()


class UnrulyService:
    """An application behind a socket, as an asynchronous context manager; inside it listens at ``origin``."""

    def __init__(self, *, host: str, port: int) -> None:
        self._address = (host, port)
        self._server: UnrulyServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def origin(self) -> str:
        """``http://host:port``."""
        host, port = self._address
        return f"http://{host}:{port}"

    def application(self) -> Starlette:
        """What answers."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        listener = socket.create_server(self._address, backlog=2048)
        self._address = listener.getsockname()[:2]
        config = uvicorn.Config(
            self.application(), http=UnrulyProtocol, ws="none", lifespan="off", loop="asyncio", log_config=None,
            access_log=False, timeout_keep_alive=75, timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = UnrulyServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        await self._serving
