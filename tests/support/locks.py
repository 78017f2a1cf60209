"""Waiting for somebody to stand before a lock."""

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy import text

from core.database import Database
from tests.support.waiting import eventually


async def until_done_or_blocked(database: Database, tenant_id: UUID, task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, or somebody (who, if not its statement) waits for a lock."""

    async def look() -> bool:
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with database.tenant(tenant_id) as connection:
            return task.done() or bool((await connection.execute(query)).scalar_one())

    await eventually(look, within=90.0)
