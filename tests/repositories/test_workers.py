from datetime import timedelta

from core.database import Database
from core.ids import new_id
from repositories.workers import WorkerRepository
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser


class TestWorkers:
    async def test_a_queue_is_served_as_long_as_somebody_says_so(
        self, database: Database, postgres: EmbeddedPostgres
    ) -> None:
        one, two, queue = new_id(), new_id(), f"queue-{new_id()}"
        within = timedelta(seconds=15)
        async with database.system() as connection:
            workers = WorkerRepository(connection)
            for worker_id in (one, two):
                await workers.beat(worker_id, task_queues=[queue, "other"], code_version="1")
            await workers.leave(two)
            assert {queue, "other"} <= await workers.get_served_queues(within=within)
        with superuser(postgres) as direct:
            direct.execute("UPDATE workers SET seen_at = now() - interval '1 minute' WHERE id = %s", (one,))
        async with database.system() as connection:
            workers = WorkerRepository(connection)
            assert queue not in await workers.get_served_queues(within=within)
            await workers.beat(one, task_queues=[queue], code_version="1")
            assert queue in await workers.get_served_queues(within=within)
            await workers.leave(one)
