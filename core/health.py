"""The small HTTP face of a worker process: is it alive, is it ready, what does it measure."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson
import uvicorn

from core.metrics import CONTENT_TYPE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Readiness = Callable[[], Awaitable[dict[str, str]]]
"""Answers which parts are not ready, each with its fault in a sentence; empty means ready."""

_READY_TIMEOUT_SECONDS: Final = 5.0  # probes give up after a few seconds; an answer that says why is worth more
_STOP_TIMEOUT_SECONDS: Final = 2
_METHODS: Final = ("GET", "HEAD")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def health_app(*, ready: Readiness, metrics: Callable[[], Awaitable[bytes]]) -> ASGIApp:
    """An ASGI application with ``/healthz``, ``/readyz`` and ``/metrics``; anything else is a problem (RFC 9457).

    ``/healthz`` asks nobody: a process that cannot reach its database must not be restarted for it. ``/readyz``
    answers 503 with ``faults`` by part, also when ``ready`` raises or takes longer than five seconds.
    """

    async def is_alive() -> _Answer:
        return _Answer(HTTPStatus.OK, orjson.dumps({"status": "alive"}))

    async def is_ready() -> _Answer:
        faults = await _faults(ready)
        if not faults:
            return _Answer(HTTPStatus.OK, orjson.dumps({"status": "ready"}))
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: " + ", ".join(sorted(faults)), faults=faults)

    async def measure() -> _Answer:
        return _Answer(HTTPStatus.OK, await metrics(), CONTENT_TYPE)

    routes = {"/healthz": is_alive, "/readyz": is_ready, "/metrics": measure}

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"this application speaks HTTP, not {scope['type']}")
        await _send(send, await _answer(routes, scope), head=scope["method"] == "HEAD")

    return app


async def _answer(routes: Mapping[str, Callable[[], Awaitable[_Answer]]], scope: Scope) -> _Answer:
    route = routes.get(scope["path"])
    if route is None:
        return _problem(HTTPStatus.NOT_FOUND, "there is nothing at this path")
    if scope["method"] not in _METHODS:
        allowed = {"allow": ", ".join(_METHODS)}
        return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "this path can only be read", headers=allowed)
    try:
        return await route()
    except Exception:  # noqa: BLE001 - the last resort of this application
        _log.exception("%s could not be answered", scope["path"])
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the answer could not be made; the log says why")


async def _faults(ready: Readiness) -> dict[str, str]:
    try:
        async with asyncio.timeout(_READY_TIMEOUT_SECONDS):
            return await ready()
    except TimeoutError:
        return {"readiness": f"no answer within {_READY_TIMEOUT_SECONDS:g} seconds"}
    except Exception as fault:  # noqa: BLE001 - whatever it is, the process is not ready
        _log.exception("readiness could not be found out")
        return {"readiness": f"could not be found out: {type(fault).__name__}"}


def _problem(status: HTTPStatus, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> _Answer:
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **more}
    return _Answer(status, orjson.dumps(body), "application/problem+json", headers or {})


async def _send(send: Send, answer: _Answer, *, head: bool) -> None:
    headers = {
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        **answer.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status.value, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


# --- serving ----------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn as a guest: signals belong to the process that embeds it, which also wants to know the start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self.settled.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(app: ASGIApp, host: str, port: int) -> AbstractAsyncContextManager[int]:
    """Serve ``app`` inside the block, which receives the port (of use where 0 asked for any free one).

    Raises OSError where the address cannot be had. Signals are left alone, access is not logged, and leaving the
    block waits no longer than two seconds for answers under way.
    """
    return _serving(app, host, port)


@contextlib.asynccontextmanager
async def _serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        server_header=False,
        date_header=False,
        ws="none",
        timeout_graceful_shutdown=_STOP_TIMEOUT_SECONDS,
    )
    # Bound here and not by uvicorn, which would end the whole process where it cannot.
    with _bound(host, port) as listener:
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="health")
        try:
            await server.settled.wait()
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)
