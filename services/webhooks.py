"""Delivering webhooks: signed, on the schedule of the standard, from an outbox that outlives every process."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from core.database import Database
from core.ids import new_id
from core.sealing import SecretBox, Unsealable
from domain.errors import FieldFault, InvalidInput
from domain.webhooks import (
    KEEP_PREVIOUS,
    AddressRefused,
    Posted,
    WebhookPoster,
    check_url,
    new_secret,
    pause_before,
    signed_headers,
)
from repositories.rows import AnyRow
from repositories.webhooks import WebhookRepository
from services.outbox import POLL_SECONDS, OutboxLoop

_log = structlog.get_logger(__name__)

_LEASE: Final = timedelta(seconds=60)
_BATCH: Final = 50
_AT_ONCE: Final = 20
_KEEP: Final = timedelta(days=30)


class WebhookService:
    """Endpoints and secrets, for one tenant at a time."""

    def __init__(self, database: Database, box: SecretBox, *, exempt_hosts: Sequence[str]) -> None:
        self._database = database
        self._box = box
        self._exempt_hosts = tuple(exempt_hosts)

    async def check_callback(self, tenant_id: UUID, url: str) -> None:
        """Make sure that a job may call back there, and that there is a secret to sign with. Raises InvalidInput."""
        self._check(url, "/callback_url")
        async with self._database.tenant(tenant_id) as connection:
            await WebhookRepository(connection).ensure_callbacks(tenant_id, self._box)

    async def add_endpoint(self, tenant_id: UUID, url: str) -> tuple[AnyRow, str]:
        """A new endpoint for every job of the tenant, and its secret. Raises InvalidInput."""
        self._check(url, "/url")
        made, secret = new_id(), new_secret()
        sealed = self._box.seal(secret, tenant_id=tenant_id, owner=made)
        async with self._database.tenant(tenant_id) as connection:
            row = await WebhookRepository(connection).add_endpoint(
                endpoint_id=made, tenant_id=tenant_id, url=url, sealed=sealed
            )
        return row, secret

    async def callback_secrets(self, tenant_id: UUID) -> list[str]:
        """The secrets that sign what goes to the ``callback_url`` of jobs, newest first."""
        async with self._database.tenant(tenant_id) as connection:
            row = await WebhookRepository(connection).ensure_callbacks(tenant_id, self._box)
        return open_secrets(row, row.id, self._box)

    async def rotate(self, tenant_id: UUID, endpoint_id: UUID | None) -> str:
        """A new secret for an endpoint, or for callbacks; for a day the old one signs as well. Raises NotFound."""
        secret = new_secret()
        async with self._database.tenant(tenant_id) as connection:
            repository = WebhookRepository(connection)
            if endpoint_id is None:
                endpoint_id = (await repository.ensure_callbacks(tenant_id, self._box)).id
            else:
                await repository.get_endpoint(endpoint_id)
            sealed = self._box.seal(secret, tenant_id=tenant_id, owner=endpoint_id)
            await repository.rotate(endpoint_id, sealed=sealed, keep_until=datetime.now(UTC) + KEEP_PREVIOUS)
        return secret

    def _check(self, url: str, pointer: str) -> None:
        try:
            check_url(url, exempt=self._exempt_hosts)
        except AddressRefused as fault:
            raise InvalidInput("the address is not allowed", faults=[FieldFault(pointer, str(fault))]) from None


def open_secrets(row: Any, endpoint_id: UUID, box: SecretBox) -> list[str]:
    """The secrets of an endpoint that sign now, newest first."""
    secrets = [box.open(row.sealed_secret, tenant_id=row.tenant_id, owner=endpoint_id)]
    if row.sealed_previous is not None and row.previous_until > datetime.now(UTC):
        secrets.append(box.open(row.sealed_previous, tenant_id=row.tenant_id, owner=endpoint_id))
    return secrets


class WebhookDeliverer(OutboxLoop):
    """Takes deliveries from the outbox. Any number may run side by side; a claim of one that dies comes back."""

    name = "webhooks"

    def __init__(self, database: Database, box: SecretBox, poster: WebhookPoster) -> None:
        self._database = database
        self._box = box
        self._poster = poster
        super().__init__()

    async def work_once(self) -> bool:
        """As ``deliver_once``."""
        return await self.deliver_once()

    async def deliver_once(self) -> bool:
        """Claim one batch of due deliveries and post it; whether more may wait."""
        async with self._database.system() as connection:
            claimed = await WebhookRepository(connection).claim_due(limit=_BATCH, lease=_LEASE)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(row: AnyRow) -> None:
            async with gate:
                await self._deliver(row)

        await asyncio.gather(*(one(row) for row in claimed))
        return len(claimed) == _BATCH

    async def _deliver(self, row: AnyRow) -> None:
        if row.disabled_at is not None:
            await self._close(row, state="disabled")
            return
        try:
            keys = open_secrets(row, row.endpoint_id, self._box)
        except Unsealable:
            await self._close(row, state="failed", last_error="the signing secret cannot be opened")
            return
        await self._note(row, await self._post(row, keys))

    async def _post(self, row: AnyRow, keys: Sequence[str]) -> Posted:
        body = row.body.encode()
        try:
            headers = signed_headers(keys, message_id=f"msg_{row.id.hex}", timestamp=int(time.time()), body=body)
            return await self._poster.post(row.url, headers=headers, body=body)
        except Exception as fault:  # noqa: BLE001 - one delivery must not stop those of everybody else
            _log.warning("webhooks.failed", delivery_id=str(row.id), fault=type(fault).__name__)
            return Posted(error=type(fault).__name__)

    async def _note(self, row: AnyRow, posted: Posted) -> None:
        facts = {"last_status": posted.status, "last_error": posted.error}
        if posted.delivered:
            await self._close(row, state="delivered", delivered_at=datetime.now(UTC), **facts)
            return
        if posted.gone and row.endpoint_url is not None:
            await self._close(row, state="failed", **facts)
            async with self._database.system() as connection:
                await WebhookRepository(connection).disable(row.endpoint_id, "the receiver answered 410 Gone")
            return
        pause = pause_before(row.tries)
        if pause is None or posted.gone:
            await self._close(row, state="failed", **facts)
            return
        await self._close(row, due_at=datetime.now(UTC) + pause, **facts)
        _log.info("webhooks.put_off", delivery_id=str(row.id), status=posted.status, pause=pause.total_seconds())

    async def _close(self, row: AnyRow, **values: Any) -> None:
        async with self._database.system() as connection:
            await WebhookRepository(connection).close(row.id, **values)

    async def _time_to_next(self) -> float:
        async with self._database.system() as connection:
            repository = WebhookRepository(connection)
            due = await repository.get_next_due()
            if due is None:
                await repository.delete_old(older_than=_KEEP)
                return POLL_SECONDS
        return min(max((due - datetime.now(UTC)).total_seconds(), 0.05), POLL_SECONDS)
