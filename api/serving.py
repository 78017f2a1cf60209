"""Serving the application on a socket: uvicorn with our protocol, and an end that nobody notices."""

import socket
from typing import Final

import uvicorn
from fastapi import FastAPI

from api.app import drain
from api.protocol import GuardedProtocol

_LONGEST_HEAD_BYTES: Final = 16_384


class Server(uvicorn.Server):
    """uvicorn that tells streams and waiting requests to end before it waits for them."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections, let everybody finish, and close what was built."""
        drain(self._app.state.services)
        await super().shutdown(sockets)
        # The signal was heard and obeyed; uvicorn would send it to this process again.
        self._captured_signals.clear()


def create_server(app: FastAPI, *, host: str, port: int, grace_seconds: float) -> Server:
    """A server for ``app``; ``run`` serves until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever terminates TLS in front of this names the client; nobody else is believed.
        proxy_headers=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=max(int(grace_seconds), 1),
        h11_max_incomplete_event_size=_LONGEST_HEAD_BYTES,
    )
    return Server(app, config)
