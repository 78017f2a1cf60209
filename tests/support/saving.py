"""Records as tests send them, and what became of them, counted by content."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.saving.flush import Flusher
from core.database import Database
from core.ids import new_id
from domain.saving import OnError, StreamInput
from repositories.rows import AnyRow
from repositories.tables import messages, record_dead_letters, users
from services.saving.backlog import Backlog, InboxLimits
from services.saving.intake import IntakeRules, RecordIntake, Taken

PLENTY = InboxLimits(records=10_000_000, bytes=1 << 40, age_seconds=1e9)
RULES = IntakeRules(max_record_bytes=262_144, shards=1)


def message(**changes: Any) -> dict[str, Any]:
    """A message with an id of its own."""
    return {
        "id": str(new_id()), "dialog_id": "tides", "user_id": "keeper", "role": "user",
        "content": "The moon pulls \\ the sea.\t\n\U0001f319", "created_at": "2026-11-20T10:00:00Z", **changes,
    }  # fmt: skip


def lines(records: Sequence[dict[str, Any]]) -> bytes:
    """Records as NDJSON."""
    return b"\n".join(json.dumps(record).encode() for record in records)


def stream_of(collection: str) -> StreamInput:
    """The one stream of a collection."""
    return StreamInput(collection=collection, shard=0)


@asynccontextmanager
async def taking(
    database: Database, *, limits: InboxLimits = PLENTY, rules: IntakeRules = RULES
) -> AsyncIterator[RecordIntake]:
    """The way in, at work."""
    intake = RecordIntake(database, Backlog(database, limits), rules)
    task = asyncio.create_task(intake.run())
    try:
        yield intake
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(
    intake: RecordIntake,
    tenant_id: UUID,
    body: bytes,
    *,
    collection: str = "messages",
    on_error: OnError = OnError.REJECT,
    key: str | None = None,
    is_document: bool = False,
) -> Taken:
    """Have a body acknowledged."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    return await intake.take(tenant_id, collection, chunks(), is_document=is_document, on_error=on_error, key=key)


async def bring_home(database: Database, tenant_id: UUID, collection: str = "messages", *, most: int = 5_000) -> int:
    """Flush until nothing is left; how many records found their place."""
    flusher = Flusher(database, most_records=most)
    records = 0
    while found := await flusher.flush(stream_of(collection), tenant_id):
        records += found
    return records


async def counters(
    database: Database, tenant_id: UUID, batch_id: UUID, collection: str = "messages"
) -> tuple[int, int, int, int, int]:
    """Received, saved, deduplicated, dead, and what the inbox holds at the same instant: pending, counted anew."""
    query = text(
        "SELECT received, saved, deduplicated, dead, (SELECT coalesce(sum(records), 0)::int FROM tenant_record_inbox"
        " WHERE batch_id = batch.id) AS pending FROM record_batches AS batch WHERE id = :batch AND collection = :name"
    )
    async with database.tenant(tenant_id) as connection:
        batch = (await connection.execute(query, {"batch": batch_id, "name": collection})).one()
    assert batch.received == batch.saved + batch.deduplicated + batch.dead + batch.pending
    return batch.received, batch.saved, batch.deduplicated, batch.dead, batch.pending


async def saved_messages(database: Database, tenant_id: UUID) -> dict[str, AnyRow]:
    """Every saved message by its id."""
    async with database.tenant(tenant_id) as connection:
        return {str(row.id): row for row in (await connection.execute(select(messages))).all()}


async def saved_users(database: Database, tenant_id: UUID) -> dict[str, AnyRow]:
    """Every saved user by id."""
    async with database.tenant(tenant_id) as connection:
        return {row.id: row for row in (await connection.execute(select(users))).all()}


async def dead_letters(database: Database, tenant_id: UUID) -> Sequence[AnyRow]:
    """Every dead letter in the order of the records."""
    async with database.tenant(tenant_id) as connection:
        query = select(record_dead_letters).order_by(record_dead_letters.c.batch_id, record_dead_letters.c.position)
        return (await connection.execute(query)).all()


async def inbox_pieces(connection: AsyncConnection) -> Sequence[AnyRow]:
    """The tenant's rows of the inbox."""
    return (await connection.execute(text("SELECT * FROM tenant_record_inbox ORDER BY id"))).all()
