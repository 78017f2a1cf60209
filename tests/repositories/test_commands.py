import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from core.database import Database
from core.ids import new_id
from domain.jobs import CommandAction
from repositories.commands import CommandRepository
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import add_job, clear_commands, new_tenant, pass_time, soon

LEASE = timedelta(seconds=30)


@pytest.fixture(autouse=True)
async def nothing_left(database: Database) -> None:
    """Claims are made across tenants: begin with an empty list."""
    await clear_commands(database)


class TestClaim:
    async def test_takes_what_is_due_for_the_length_of_the_lease(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        job = await add_job(database, tenant_id, priority=2)
        await add_job(database, tenant_id, start_at=soon(60))
        async with database.system() as connection:
            (row,) = await CommandRepository(connection).claim_due(limit=10, lease=LEASE)
        assert (row.job_id, row.tenant_id, row.action, row.tries) == (job.job_id, tenant_id, "start", 1)
        assert (row.kind, row.status, row.attempt, row.priority) == ("test.hold", "queued", 1, 2)
        async with database.system() as connection:
            assert await CommandRepository(connection).claim_due(limit=10, lease=LEASE) == []
        pass_time(postgres, [job.job_id], seconds=30)
        async with database.system() as connection:
            (again,) = await CommandRepository(connection).claim_due(limit=10, lease=LEASE)
        assert (again.id, again.tries) == (row.id, 2)

    async def test_claims_at_the_same_time_share(self, database: Database, tenant_id: UUID) -> None:
        refs = [await add_job(database, tenant_id) for _ in range(30)]

        async def claim() -> list[UUID]:
            async with database.system() as connection:
                return [row.job_id for row in await CommandRepository(connection).claim_due(limit=10, lease=LEASE)]

        claimed = [job_id for batch in await asyncio.gather(*(claim() for _ in range(5))) for job_id in batch]
        assert len(claimed) == len(set(claimed))
        assert set(claimed) <= {job.job_id for job in refs}
        claimed += await claim() + await claim() + await claim()
        assert sorted(claimed) == sorted(job.job_id for job in refs)

    async def test_does_not_wait_for_a_claim_that_is_not_committed(self, database: Database, tenant_id: UUID) -> None:
        for _ in range(4):
            await add_job(database, tenant_id)
        async with database.system() as one, database.system() as other, asyncio.timeout(5):
            first = await CommandRepository(one).claim_due(limit=2, lease=LEASE)
            second = await CommandRepository(other).claim_due(limit=2, lease=LEASE)
        assert len({row.id for row in (*first, *second)}) == 4

    async def test_tenants_take_turns(self, database: Database) -> None:
        owners = [await new_tenant(database) for _ in range(3)]
        for owner, count in zip(owners, (10, 4, 1), strict=True):
            for _ in range(count):
                await add_job(database, owner)
        async with database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=7, lease=LEASE)
        shares = [sum(row.tenant_id == owner for row in claimed) for owner in owners]
        assert shares[2] == 1
        assert shares[0] == shares[1] == 3


class TestBacklog:
    async def test_says_how_many_and_when(self, database: Database, tenant_id: UUID) -> None:
        async with database.system() as connection:
            assert await CommandRepository(connection).get_backlog() == (0, None)
        booked = soon(100)
        await add_job(database, tenant_id, start_at=soon(200))
        await add_job(database, tenant_id, start_at=booked)
        async with database.system() as connection:
            assert await CommandRepository(connection).get_backlog() == (2, booked)


class TestChange:
    async def test_postponed_and_deleted(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.system() as connection:
            commands = CommandRepository(connection)
            (row,) = await commands.claim_due(limit=1, lease=LEASE)
            await commands.postpone(row.id, by=timedelta(hours=1), error="away")
            _, due = await commands.get_backlog()
            assert due is not None
            assert due > datetime.now(UTC) + timedelta(minutes=59)
            assert await commands.is_to_be_started(job.job_id)
            await commands.delete([row.id])
            assert not await commands.is_to_be_started(job.job_id)

    async def test_commands_of_one_sort_only(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            commands = CommandRepository(connection)
            await commands.add(
                command_id=new_id(), tenant_id=tenant_id, job_id=job.job_id, action=CommandAction.CANCEL, args={}
            )
            await commands.delete_of_job(job.job_id, CommandAction.CANCEL)
            assert await commands.is_to_be_started(job.job_id)
            assert (await commands.get_backlog())[0] == 1


class TestRelease:
    async def test_each_freed_slot_goes_to_another(self, database: Database, tenant_id: UUID) -> None:
        """Two slots freed before anybody could take the first."""
        refs = [await add_job(database, tenant_id, admitted=False, start_at=None) for _ in range(3)]
        async with database.system() as connection:
            for row in await CommandRepository(connection).claim_due(limit=10, lease=LEASE):
                await CommandRepository(connection).postpone(row.id, by=timedelta(minutes=1), error=None)
        for _ in range(2):
            async with database.tenant(tenant_id) as connection:
                await CommandRepository(connection).release_waiting(tenant_id, "test.hold")
        async with database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=10, lease=LEASE)
        assert {row.job_id for row in claimed} == {job.job_id for job in refs[:2]}

    async def test_leaves_other_kinds_tenants_and_booked_times_alone(self, database: Database, tenant_id: UUID) -> None:
        await add_job(database, tenant_id, admitted=False, kind="test.other")
        await add_job(database, await new_tenant(database), admitted=False)
        await add_job(database, tenant_id, admitted=False, start_at=soon(3600))
        async with database.system() as connection:
            for row in await CommandRepository(connection).claim_due(limit=10, lease=LEASE):
                await CommandRepository(connection).postpone(row.id, by=timedelta(minutes=1), error=None)
        async with database.tenant(tenant_id) as connection:
            await CommandRepository(connection).release_waiting(tenant_id, "test.hold")
        async with database.system() as connection:
            assert await CommandRepository(connection).claim_due(limit=10, lease=LEASE) == []
