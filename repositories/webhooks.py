"""Endpoints and the outbox of webhooks."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.ids import new_id
from core.sealing import SecretBox
from domain.errors import NotFound
from domain.webhooks import new_secret
from repositories.rows import AnyRow
from repositories.tables import webhook_deliveries, webhook_endpoints

CHANNEL: Final = "longhaul_webhooks"
"""NOTIFY channel that wakes whoever delivers."""

_claim = text(
    """
    WITH chosen AS (
        SELECT id FROM (
            SELECT id, due_at, row_number() OVER (PARTITION BY tenant_id ORDER BY due_at) AS place
            FROM webhook_deliveries WHERE state = 'pending' AND due_at <= now()
            ORDER BY due_at LIMIT 1000) ranked
        ORDER BY place, due_at LIMIT :limit
    ), locked AS (
        SELECT d.id FROM webhook_deliveries d JOIN chosen USING (id)
        WHERE d.state = 'pending' AND d.due_at <= now() FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE webhook_deliveries d
    SET due_at = now() + make_interval(secs => :lease), tries = d.tries + 1
    FROM locked, webhook_endpoints e
    WHERE d.id = locked.id AND e.tenant_id = d.tenant_id AND e.id = d.endpoint_id
    RETURNING d.id, d.tenant_id, d.endpoint_id, d.url, d.type, d.body, d.tries, e.sealed_secret, e.sealed_previous,
              e.previous_until, e.disabled_at, e.url AS endpoint_url
    """
)


class WebhookRepository:
    """Endpoints and deliveries of one tenant or, in a system transaction, of all."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- endpoints ----------------------------------------------------------------------------------

    async def add_endpoint(self, *, endpoint_id: UUID, tenant_id: UUID, url: str, sealed: bytes) -> AnyRow:
        """Write an endpoint down."""
        values = {"id": endpoint_id, "tenant_id": tenant_id, "url": url, "sealed_secret": sealed}
        added = await self._connection.execute(insert(webhook_endpoints).values(**values).returning(webhook_endpoints))
        row: AnyRow = added.one()
        return row

    async def ensure_callbacks(self, tenant_id: UUID, box: SecretBox) -> AnyRow:
        """The endpoint without an address, whose secret signs what goes to the ``callback_url`` of jobs."""
        query = select(webhook_endpoints).where(
            webhook_endpoints.c.tenant_id == tenant_id, webhook_endpoints.c.url.is_(None)
        )
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            made = new_id()
            sealed = box.seal(new_secret(), tenant_id=tenant_id, owner=made)
            await self._connection.execute(
                pg_insert(webhook_endpoints)
                .values(id=made, tenant_id=tenant_id, url=None, sealed_secret=sealed)
                .on_conflict_do_nothing()
            )
            found = (await self._connection.execute(query)).one()
        return found

    async def get_endpoint(self, endpoint_id: UUID) -> AnyRow:
        """One endpoint. Raises NotFound."""
        query = select(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such endpoint")
        return found

    async def get_endpoints(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Endpoints with an address, newest first."""
        query = select(webhook_endpoints).where(webhook_endpoints.c.url.is_not(None))
        if before is not None:
            query = query.where(webhook_endpoints.c.id < before)
        return (await self._connection.execute(query.order_by(webhook_endpoints.c.id.desc()).limit(limit))).all()

    async def rotate(self, endpoint_id: UUID, *, sealed: bytes, keep_until: datetime) -> None:
        """A new secret; the old one goes on signing beside it until then."""
        await self._connection.execute(
            update(webhook_endpoints)
            .where(webhook_endpoints.c.id == endpoint_id)
            .values(sealed_previous=webhook_endpoints.c.sealed_secret, sealed_secret=sealed, previous_until=keep_until)
        )

    async def disable(self, endpoint_id: UUID, reason: str) -> None:
        """Send nothing to this endpoint any more, and give up what waits for it."""
        await self._connection.execute(
            update(webhook_endpoints)
            .where(webhook_endpoints.c.id == endpoint_id, webhook_endpoints.c.disabled_at.is_(None))
            .values(disabled_at=func.now(), disabled_reason=reason)
        )
        await self._connection.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.endpoint_id == endpoint_id, webhook_deliveries.c.state == "pending")
            .values(state="disabled")
        )

    async def enable(self, endpoint_id: UUID) -> None:
        """Send to this endpoint again, from the next event on."""
        await self._connection.execute(
            update(webhook_endpoints)
            .where(webhook_endpoints.c.id == endpoint_id)
            .values(disabled_at=None, disabled_reason=None)
        )

    async def delete_endpoint(self, endpoint_id: UUID) -> None:
        """Forget an endpoint with everything that was sent to it. Raises NotFound."""
        deleted = await self._connection.execute(
            sql_delete(webhook_endpoints).where(
                webhook_endpoints.c.id == endpoint_id, webhook_endpoints.c.url.is_not(None)
            )
        )
        if not deleted.rowcount:
            raise NotFound("there is no such endpoint")

    # --- deliveries ---------------------------------------------------------------------------------

    async def add_delivery(
        self, *, tenant_id: UUID, job_id: UUID, url: str, kind: str, data: Mapping[str, Any], box: SecretBox
    ) -> None:
        """One more event for the outbox, to an address of its own."""
        endpoint = await self.ensure_callbacks(tenant_id, box)
        body = json.dumps({"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": dict(data)})
        await self._connection.execute(
            insert(webhook_deliveries).values(
                tenant_id=tenant_id, endpoint_id=endpoint.id, job_id=job_id, url=url, type=kind, body=body
            )
        )
        await self.wake()

    async def get_deliveries(
        self, *, limit: int, before: UUID | None, job_id: UUID | None = None, state: str | None = None
    ) -> Sequence[AnyRow]:
        """Deliveries, newest first."""
        query = select(webhook_deliveries)
        if before is not None:
            query = query.where(webhook_deliveries.c.id < before)
        if job_id is not None:
            query = query.where(webhook_deliveries.c.job_id == job_id)
        if state is not None:
            query = query.where(webhook_deliveries.c.state == state)
        return (await self._connection.execute(query.order_by(webhook_deliveries.c.id.desc()).limit(limit))).all()

    async def redeliver(self, delivery_id: UUID) -> AnyRow:
        """Send once more, under the same id, from the start of the schedule. Raises NotFound."""
        changed = await self._connection.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.id == delivery_id)
            .values(state="pending", tries=0, due_at=func.now(), last_error=None)
            .returning(webhook_deliveries)
        )
        found: AnyRow | None = changed.one_or_none()
        if found is None:
            raise NotFound("there is no such delivery")
        await self.wake()
        return found

    async def wake(self) -> None:
        """Let whoever delivers look now, once this transaction commits."""
        await self._connection.execute(select(func.pg_notify(CHANNEL, "")))

    async def claim_due(self, *, limit: int, lease: timedelta) -> Sequence[AnyRow]:
        """Take due deliveries, fairly between tenants; a claim that is not closed comes back by itself."""
        return (await self._connection.execute(_claim, {"limit": limit, "lease": lease.total_seconds()})).all()

    async def close(self, delivery_id: UUID, **values: Any) -> None:
        """Write down what came of a try."""
        await self._connection.execute(
            update(webhook_deliveries).where(webhook_deliveries.c.id == delivery_id).values(**values)
        )

    async def get_next_due(self) -> datetime | None:
        """When the next delivery is due."""
        query = select(func.min(webhook_deliveries.c.due_at)).where(webhook_deliveries.c.state == "pending")
        found: datetime | None = (await self._connection.execute(query)).scalar_one()
        return found

    async def delete_old(self, *, older_than: timedelta) -> None:
        """Forget what is over for that long."""
        await self._connection.execute(
            sql_delete(webhook_deliveries).where(
                webhook_deliveries.c.state != "pending", webhook_deliveries.c.created_at < func.now() - older_than
            )
        )
