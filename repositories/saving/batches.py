"""Batches and dead letters as a tenant sees them, and how much waits in the inbox."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound
from repositories.rows import AnyRow
from repositories.saving.intake import CHANNEL
from repositories.tables import record_batches, record_dead_letters

_MEASURE = text(
    "SELECT coalesce(sum(records), 0)::bigint, coalesce(sum(bytes), 0)::bigint,"
    " coalesce(extract(epoch FROM now() - min(accepted_at)), 0)::float8 FROM record_inbox"
)
_PUT_BACK = text(
    """
    INSERT INTO tenant_record_inbox
        (tenant_id, collection, shard, batch_id, first_index, records, bytes, body)
    VALUES (:tenant, :collection, :shard, :batch, :index, 1, :bytes, :body)
    """
)


async def measure_inbox(connection: AsyncConnection) -> tuple[int, int, float]:
    """Records, bytes, and the age of the oldest in seconds, of all tenants; in a system transaction."""
    row = (await connection.execute(_MEASURE)).one()
    return row[0], row[1], row[2]


class BatchRepository:
    """Batches and dead letters of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_one(self, collection: str, batch_id: UUID) -> AnyRow:
        """A batch. Raises NotFound."""
        query = select(record_batches).where(record_batches.c.collection == collection, record_batches.c.id == batch_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such batch")
        return found

    async def get_by_key(self, key: str) -> AnyRow:
        """The batch that an idempotency key stands for. Raises NotFound."""
        query = select(record_batches).where(record_batches.c.idempotency_key == key)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no batch with this key any more")
        return found

    async def get_dead_letters(
        self, collection: str, *, batch_id: UUID | None, limit: int, before: UUID | None
    ) -> Sequence[AnyRow]:
        """Dead letters, newest first, older than ``before``."""
        there = record_dead_letters.c
        query = select(record_dead_letters).where(there.collection == collection)
        if batch_id is not None:
            query = query.where(there.batch_id == batch_id)
        if before is not None:
            query = query.where(there.id < before)
        return (await self._connection.execute(query.order_by(there.id.desc()).limit(limit))).all()

    async def take_dead_letter(self, collection: str, letter_id: UUID) -> AnyRow:
        """Take a dead letter off the list; whoever comes second finds none. Raises NotFound."""
        there = record_dead_letters.c
        statement = delete(record_dead_letters).where(there.collection == collection, there.id == letter_id)
        found = (await self._connection.execute(statement.returning(record_dead_letters))).one_or_none()
        if found is None:
            raise NotFound("there is no such dead letter")
        return found

    async def put_back(self, letter: AnyRow, *, shard: int) -> None:
        """A record that was dead is pending again; its counters change with it."""
        body: bytes = letter.payload
        values: dict[str, Any] = {
            "tenant": letter.tenant_id, "collection": letter.collection, "shard": shard, "batch": letter.batch_id,
            "index": letter.position, "bytes": len(body), "body": body.decode(),
        }  # fmt: skip
        await self._connection.execute(_PUT_BACK, values)
        await self._connection.execute(
            update(record_batches).where(record_batches.c.id == letter.batch_id).values(dead=record_batches.c.dead - 1)
        )
        await self._connection.execute(select(func.pg_notify(CHANNEL, f"{letter.collection}/{shard}/1")))
