"""Renders as people and providers use them: what was ordered, what a person decides, and webhooks that only wake."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core.database import Database
from domain.errors import InvalidInput, StateError, TemporalUnavailable, Unauthenticated
from domain.video import RenderState
from domain.webhooks import hex_signature_is_good
from repositories.renders import RenderRepository, is_over
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)

PROVIDER: Final = "heygen"
SIGNATURES: Final = ("heygen-signature", "signature")
"""The names of the header, newest first: deliveries of either generation are seen in the wild."""
TIMESTAMP: Final = "heygen-timestamp"
STALE: Final = timedelta(seconds=300)
_UNSIGNED_AT_MOST_EVERY: Final = timedelta(seconds=5)
_UNSIGNED_WHILE_STUCK: Final = timedelta(minutes=5)
"""A render that is stuck may wait for weeks, and every wake is a step of its workflow."""
_RPC: Final = timedelta(seconds=5)

Decision = Literal["wait", "give_up", "order_again"]


class Waker(Protocol):
    """Whoever can tell the course of a render something."""

    async def signal(self, workflow_id: str, name: str, *arguments: Any) -> bool:
        """Signal it; False where it is over. Raises TemporalUnavailable."""
        ...


class TemporalWaker:
    """Signals to workflows."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def signal(self, workflow_id: str, name: str, *arguments: Any) -> bool:
        """Signal it; False where it is over. Raises TemporalUnavailable."""
        try:
            await self._client.get_workflow_handle(workflow_id).signal(name, args=arguments, rpc_timeout=_RPC)
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                return False
            raise TemporalUnavailable("the render cannot be reached now") from fault
        except RuntimeError as fault:
            raise TemporalUnavailable("the render cannot be reached now") from fault
        return True


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook as it came: its very bytes, and its headers by their names in lower case."""

    body: bytes
    headers: Mapping[str, str]

    @property
    def signature(self) -> str | None:
        """The signature, if it shows one."""
        return next((self.headers[name] for name in SIGNATURES if self.headers.get(name)), None)


class MediaService:
    """Use cases on renders."""

    def __init__(self, database: Database, waker: Waker, *, webhook_secret: str | None) -> None:
        self._database = database
        self._waker = waker
        self._secret = webhook_secret

    # --- webhooks -----------------------------------------------------------------------------------

    async def hear(self, hook: Hook, *, now: datetime | None = None) -> bool:
        """Take a webhook in; whether it woke somebody. Nothing that it says is believed: the truth is fetched.

        Raises Unauthenticated where it shows a signature that is not good, or is too old, and TemporalUnavailable
        where nobody can be woken now, so that it is sent again.
        """
        signed = self._check(hook, now or datetime.now(UTC))
        video_id, render_id = _named(hook.body)
        if not signed and self._secret is not None:
            # What we are told is signed here; the timer looks anyway.
            _log.warning("security.webhook_ignored", provider=PROVIDER, reason="unsigned")
            return False
        digest = hashlib.sha256(hook.body).digest()
        async with self._database.system() as connection:
            renders = RenderRepository(connection)
            if await renders.was_heard(PROVIDER, digest):
                return False
            row = None if render_id is None else await renders.get_or_none(render_id)
            if row is None and video_id is not None:
                row = await renders.get_by_video_or_none(PROVIDER, video_id)
            # Unknown, over long ago, or just woken: harmless, and the timer looks anyway.
            if row is None or is_over(row):
                return False
            if not await renders.may_wake(row.id, at_most_every=timedelta(0) if signed else _unsigned_pause(row)):
                return False
        woken = await self._waker.signal(row.workflow_id, "provider_spoke")
        async with self._database.system() as connection:
            await RenderRepository(connection).remember(PROVIDER, digest, signed=signed)
        return woken

    def _check(self, hook: Hook, now: datetime) -> bool:
        """Whether the webhook is signed. Raises Unauthenticated."""
        signature = hook.signature
        if signature is None:
            return False
        if self._secret is None or not hex_signature_is_good(hook.body, signature, secret=self._secret):
            _log.warning("security.webhook_refused", provider=PROVIDER, reason="signature")
            raise Unauthenticated("the signature is not good")
        stamped = hook.headers.get(TIMESTAMP)
        # Not covered by the signature, so it proves nothing; but a replay that leaves it alone is found out.
        if stamped is not None and not _is_recent(stamped, now):
            _log.warning("security.webhook_refused", provider=PROVIDER, reason="stale")
            raise Unauthenticated("the webhook is too old")
        return True

    # --- people -------------------------------------------------------------------------------------

    async def resolve(self, tenant_id: UUID, render_id: UUID, decision: Decision) -> AnyRow:
        """A person decides about a render that is stuck. Raises NotFound, StateError and TemporalUnavailable."""
        async with self._database.tenant(tenant_id) as connection:
            row = await RenderRepository(connection).get_one(render_id)
        if row.state != RenderState.STUCK:
            raise StateError(f"the render is {row.state}; only one that is stuck waits for a person")
        if not await self._waker.signal(row.workflow_id, "decide", decision):
            raise StateError("nobody waits for this render any more; retry its job")
        return row


def _named(body: bytes) -> tuple[str | None, UUID | None]:
    """The video and the render that a webhook is about. Raises InvalidInput."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("this is no webhook") from None
    data = said.get("event_data") if isinstance(said, dict) else None
    if not isinstance(data, dict):
        raise InvalidInput("this is no webhook of a video")
    video_id = data.get("video_id")
    try:
        render_id = UUID(str(data.get("callback_id")))
    except ValueError:
        render_id = None
    return (video_id if isinstance(video_id, str) and video_id.isprintable() else None), render_id


def _unsigned_pause(row: AnyRow) -> timedelta:
    return _UNSIGNED_WHILE_STUCK if row.state == RenderState.STUCK else _UNSIGNED_AT_MOST_EVERY


def _is_recent(stamped: str, now: datetime) -> bool:
    try:
        age = abs(now.timestamp() - float(stamped))
    except ValueError:
        return False
    return age <= STALE.total_seconds()
