"""Which worker processes are alive, by their own word."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from repositories.tables import workers


class WorkerRepository:
    """Worker processes of the whole installation."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def beat(self, worker_id: UUID, *, task_queues: list[str], code_version: str) -> None:
        """This worker is alive and serves these queues."""
        statement = pg_insert(workers).values(id=worker_id, task_queues=task_queues, code_version=code_version)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": func.now()})
        )

    async def leave(self, worker_id: UUID) -> None:
        """This worker has stopped."""
        await self._connection.execute(delete(workers).where(workers.c.id == worker_id))

    async def get_served_queues(self, *, within: timedelta) -> frozenset[str]:
        """The task queues that some worker said it serves no longer than ``within`` ago."""
        query = select(func.unnest(workers.c.task_queues)).where(workers.c.seen_at > func.now() - within).distinct()
        return frozenset((await self._connection.execute(query)).scalars())

    async def delete_lost(self, *, after: timedelta) -> None:
        """Forget workers that were not heard of for longer than ``after``."""
        await self._connection.execute(delete(workers).where(workers.c.seen_at < func.now() - after))
