"""Deleting what is old, a limited number of rows at a time."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from repositories.tables import tenants

_DELETE_MESSAGES = text(
    "DELETE FROM messages WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM messages"
    " WHERE created_at < now() - make_interval(days => :days) ORDER BY created_at LIMIT :at_once)"
)
_DELETE_BATCHES = text(
    """
    WITH old AS (
        SELECT id FROM record_batches
        WHERE created_at < now() - make_interval(days => :days) AND saved + deduplicated + dead = received
        ORDER BY created_at LIMIT :at_once
    ), letters AS (
        DELETE FROM record_dead_letters WHERE batch_id IN (SELECT id FROM old)
    )
    DELETE FROM record_batches WHERE id IN (SELECT id FROM old)
    """
)


async def get_tenants(connection: AsyncConnection) -> Sequence[UUID]:
    """Every tenant; in a system transaction."""
    return (await connection.execute(select(tenants.c.id))).scalars().all()


class RetentionRepository:
    """What is old of one tenant."""

    def __init__(self, connection: AsyncConnection, *, at_once: int) -> None:
        self._connection = connection
        self._at_once = at_once

    async def delete_messages(self, *, older_than_days: int) -> int:
        """Delete messages by when they were created; how many there were."""
        values = {"days": older_than_days, "at_once": self._at_once}
        return (await self._connection.execute(_DELETE_MESSAGES, values)).rowcount

    async def delete_batches(self, *, older_than_days: int) -> int:
        """Delete batches that nothing is pending of, with their dead letters; how many batches there were."""
        values = {"days": older_than_days, "at_once": self._at_once}
        return (await self._connection.execute(_DELETE_BATCHES, values)).rowcount
