"""The outermost layer of the API: a request id for everything, headers on everything, a measurement of everything."""

import re
import time
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import structlog

from api.asgi import ASGIApp, Message, RawHeaders, Receive, Scope, Send, header
from core.ids import new_id
from core.metrics import ApiMetrics
from core.telemetry import route_template

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_UNMEASURED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_DOCS: Final = "/docs"

_CSP: Final = b"default-src 'none'; frame-ancestors 'none'"
# The documentation page loads its viewer from a public network and starts it with a script of its own.
_DOCS_CSP: Final = (
    b"default-src 'none'; connect-src 'self'; img-src 'self' data: https://fastapi.tiangolo.com;"
    b" script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'unsafe-inline' https://cdn.jsdelivr.net;"
    b" frame-ancestors 'none'"
)


def _fixed_headers(*, production: bool) -> RawHeaders:
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"x-frame-options", b"DENY"),
    ]
    if production:
        headers.append((b"strict-transport-security", b"max-age=63072000; includeSubDomains"))
    return headers


class Edge:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, production: bool) -> None:
        self._app = app
        self._fixed = _fixed_headers(production=production)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HTTP; refuse WebSockets, which nothing here speaks."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        own = [*self._fixed, (b"x-request-id", request_id.encode())]
        own.append((b"content-security-policy", _DOCS_CSP if scope["path"] == _DOCS else _CSP))
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message.get("headers", ()), own, state.get("headers"))
            await send(message)

        metrics: ApiMetrics = scope["app"].state.services.metrics
        if scope["path"] in _UNMEASURED:
            await self._app(scope, receive, answer)
            return
        started = time.perf_counter()
        with metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, answer)
            finally:
                metrics.observe_request(
                    method=scope["method"],
                    route=route_template(scope),
                    status=status,
                    seconds=time.perf_counter() - started,
                )


def _request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    fresh: UUID = new_id()
    return str(fresh)


def _completed(
    given: Iterable[tuple[bytes, bytes]], own: RawHeaders, extra: RawHeaders | None
) -> list[tuple[bytes, bytes]]:
    headers = [*given, *own]
    if extra:
        headers += extra
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    return headers
