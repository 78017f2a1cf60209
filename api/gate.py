"""The gate before the routes: who is it, how often, how much, how fast. Whatever goes wrong inside ends here.

All of it happens before a body is parsed, so that a stranger costs nothing but the look at his key.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.asgi import ASGIApp, Message, Receive, Scope, Send, header
from api.errors import is_our_fault, problem_of, problem_response
from api.limits import Exhausted
from core.settings import Settings
from domain.errors import BodyTooLarge, MalformedBody, Unauthenticated, UnsupportedMediaType
from services.tenants import Caller

if TYPE_CHECKING:
    from api.container import Services

_log = structlog.get_logger(__name__)

API: Final = "/api/"
UPLOAD: Final = "/api/v1/artifacts"
RECORDS: Final = "/api/v1/records/"
UPDATES: Final = "/api/v1/federated/updates/"
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a body may take: all of a document, each next piece of an upload, and all of an upload."""

    document_seconds: float = 20.0
    piece_seconds: float = 20.0
    upload_seconds: float = 900.0


class Gate:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, *, patience: Patience) -> None:
        self._app = app
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            services: Services = scope["app"].state.services
            if scope["path"].startswith(API):
                await self._admit(services, scope)
            if scope["method"] not in _BODILESS:
                receive = self._bounded(services, scope, receive)
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            _log.info("request.abandoned")
        except Exception as fault:
            if is_our_fault(fault):
                _log.exception("request.failed", path=scope["path"], method=scope["method"])
            if started:
                raise
            await problem_response(problem_of(fault), scope)(scope, receive, send)

    async def _admit(self, services: "Services", scope: Scope) -> None:
        try:
            caller = await services.authenticator.authenticate(_bearer(scope))
        except Unauthenticated:
            client = (scope.get("client") or ("unknown",))[0]
            _log.warning("security.unauthenticated", client=client, path=scope["path"])
            await services.limiter.hit(f"failed/{client}")
            raise
        scope["state"]["caller"] = caller
        structlog.contextvars.bind_contextvars(tenant_id=str(caller.tenant_id), key=caller.prefix)
        await self._count(services, scope, caller)

    async def _count(self, services: "Services", scope: Scope, caller: Caller) -> None:
        try:
            scope["state"]["headers"] = await services.limiter.hit(caller.prefix)
        except Exhausted as fault:
            _log.warning("security.rate_limited", path=scope["path"])
            scope["state"]["headers"] = fault.headers
            raise

    def _bounded(self, services: "Services", scope: Scope, receive: Receive) -> Receive:
        """``receive`` with the caps on size and time of this request."""
        settings, path = services.settings, scope["path"]
        records = path.startswith(RECORDS)
        most = _upload_cap(settings, path)
        upload = most is not None
        most = settings.max_body_bytes if most is None else most
        encoding = header(scope, b"content-encoding")
        if encoding is not None and encoding.strip().lower() != b"identity" and not records:
            raise UnsupportedMediaType("bodies are taken without Content-Encoding only")
        if _declared(scope) > most:
            raise _too_large(most)
        patience = self._patience
        whole = patience.upload_seconds if upload else patience.document_seconds
        clock = asyncio.get_running_loop().time
        return _measured(
            receive, most=most, piece=patience.piece_seconds if upload else whole, until=clock() + whole, clock=clock
        )


def _upload_cap(settings: Settings, path: str) -> int | None:
    """The most bytes that an upload to this path may have; None where it takes a document."""
    if path == UPLOAD:
        return settings.max_artifact_bytes
    if path.startswith(RECORDS):
        return settings.saving_max_body_bytes
    return settings.federated_max_update_bytes if path.startswith(UPDATES) else None


def _bearer(scope: Scope) -> str:
    given = header(scope, b"authorization")
    if given is None:
        return ""
    scheme, _, key = given.decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _declared(scope: Scope) -> int:
    given = header(scope, b"content-length")
    if given is None:
        return 0
    try:
        return int(given)
    except ValueError:
        raise MalformedBody("Content-Length is not a number") from None


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {most} bytes")


def _measured(receive: Receive, *, most: int, piece: float, until: float, clock: Callable[[], float]) -> Receive:
    length, complete = 0, False

    async def measured() -> Message:
        nonlocal length, complete
        if complete:  # from here on this only tells of a disconnect, which may come as late as it likes
            return await receive()
        try:
            async with asyncio.timeout(min(piece, max(until - clock(), 0.001))):
                message = await receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"connection": "close"}) from None
        if message["type"] == "http.request":
            length += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if length > most:
                raise _too_large(most)
        return message

    return measured
