"""Leases on a real database: never more than the limit, fair between tenants, and back by themselves after a crash."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from core.database import Database
from core.ids import new_id
from domain.jobs import JobRef
from repositories.leases import Lease, LeaseDesk
from repositories.tables import provider_leases
from tests.support.job_rows import add_running_job
from tests.support.life import new_tenant

LONG = timedelta(minutes=10)


@pytest.fixture
def provider() -> str:
    """A provider that no other test uses."""
    return f"provider-{new_id()}"


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running job."""
    return await add_running_job(database, tenant_id)


async def granted(database: Database, provider: str) -> list[str]:
    """Who holds a lease now."""
    query = (
        select(provider_leases.c.holder)
        .where(provider_leases.c.provider == provider, provider_leases.c.granted_at.is_not(None))
        .order_by(provider_leases.c.holder)
    )
    async with database.system() as connection:
        return list((await connection.execute(query)).scalars())


async def pass_time(database: Database, provider: str) -> None:
    """Let everything expire, instead of waiting."""
    async with database.system() as connection:
        await connection.execute(
            update(provider_leases)
            .where(provider_leases.c.provider == provider)
            .values(expires_at=func.now() - timedelta(seconds=1))
        )


class TestTake:
    async def test_no_more_than_the_limit(self, database: Database, job: JobRef, provider: str) -> None:
        desk = LeaseDesk(database)
        leases = [Lease(job, provider, f"h{number}", 2, LONG) for number in range(4)]
        assert [await desk.take(lease) for lease in leases] == [True, True, False, False]
        assert await granted(database, provider) == ["h0", "h1"]

    async def test_all_at_once(self, database: Database, job: JobRef, provider: str) -> None:
        """Forty who ask in the same moment never get more than three."""
        desk = LeaseDesk(database)
        leases = [Lease(job, provider, f"h{number:02}", 3, LONG) for number in range(40)]
        given = await asyncio.gather(*(desk.take(lease) for lease in leases))
        assert sum(given) == len(await granted(database, provider)) == 3

    async def test_one_given_back_goes_to_the_first_in_line(
        self, database: Database, job: JobRef, provider: str
    ) -> None:
        desk = LeaseDesk(database)
        first, second, third = (Lease(job, provider, name, 1, LONG) for name in ("a", "b", "c"))
        assert await desk.take(first)
        assert not await desk.take(second, ask_again=LONG)
        assert not await desk.take(third, ask_again=LONG)
        await desk.release(first)
        assert not await desk.take(third)
        assert await desk.take(second)

    async def test_who_holds_one_keeps_it(self, database: Database, job: JobRef, provider: str) -> None:
        """A retry of the same use finds its own lease, also where the limit is reached."""
        desk = LeaseDesk(database)
        lease = Lease(job, provider, "mine", 1, LONG)
        assert await desk.take(lease)
        assert await desk.take(lease)
        assert await granted(database, provider) == ["mine"]

    async def test_what_a_dead_worker_held_comes_back(self, database: Database, job: JobRef, provider: str) -> None:
        desk = LeaseDesk(database)
        dead, living = (Lease(job, provider, name, 1, LONG) for name in ("dead", "living"))
        assert await desk.take(dead)
        assert not await desk.take(living)
        await pass_time(database, provider)
        assert await desk.take(living)
        assert not await desk.renew(dead)
        assert await desk.renew(living)

    async def test_whoever_stops_asking_is_no_longer_in_line(
        self, database: Database, job: JobRef, provider: str
    ) -> None:
        desk = LeaseDesk(database)
        holder, gone, patient = (Lease(job, provider, name, 1, LONG) for name in ("holder", "gone", "patient"))
        assert await desk.take(holder)
        assert not await desk.take(gone, ask_again=LONG)
        await pass_time(database, provider)
        assert await desk.take(patient)

    async def test_the_tenant_with_the_fewest_goes_first(self, database: Database, job: JobRef, provider: str) -> None:
        """A tenant that filled the line does not keep out another one who comes later."""
        desk = LeaseDesk(database)
        other = await add_running_job(database, await new_tenant(database))
        many = [Lease(job, provider, f"many-{number}", 2, LONG) for number in range(4)]
        assert [await desk.take(lease, ask_again=LONG) for lease in many] == [True, True, False, False]
        late = Lease(other, provider, "late", 2, LONG)
        assert not await desk.take(late, ask_again=LONG)
        await desk.release(many[0])
        assert not await desk.take(many[2], ask_again=LONG)
        assert await desk.take(late)

    async def test_a_tenant_sees_its_own(self, database: Database, job: JobRef, provider: str) -> None:
        """And nobody else's; it can change none."""
        other = await add_running_job(database, await new_tenant(database))
        desk = LeaseDesk(database)
        await desk.take(Lease(job, provider, "mine", 2, LONG))
        await desk.take(Lease(other, provider, "theirs", 2, LONG))
        async with database.tenant(job.tenant_id) as connection:
            query = select(provider_leases.c.holder).where(provider_leases.c.provider == provider)
            assert list((await connection.execute(query)).scalars()) == ["mine"]


class TestHold:
    async def test_waits_for_its_turn(self, database: Database, job: JobRef, provider: str) -> None:
        """Ten uses of a provider that does two things at once."""
        desk = LeaseDesk(database)
        inside, most = 0, 0

        async def use(number: int) -> None:
            nonlocal inside, most
            lease = Lease(job, provider, f"h{number}", 2, LONG)
            async with desk.hold(lease, ask_again=timedelta(milliseconds=20)):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(use(number) for number in range(10)))
        assert most <= 2
        assert await granted(database, provider) == []

    async def test_gives_back_after_a_failure(self, database: Database, job: JobRef, provider: str) -> None:
        desk = LeaseDesk(database)
        with pytest.raises(RuntimeError):
            async with desk.hold(Lease(job, provider, "mine", 1, LONG)):
                raise RuntimeError
        assert await desk.take(Lease(job, provider, "next", 1, LONG))

    async def test_renews_while_it_is_held(self, database: Database, job: JobRef, provider: str) -> None:
        """A use that takes longer than the lease counts."""
        desk = LeaseDesk(database)
        lease = Lease(job, provider, "mine", 1, timedelta(seconds=12))
        query = select(provider_leases.c.expires_at).where(provider_leases.c.provider == provider)
        async with desk.hold(lease):
            async with database.system() as connection:
                before = (await connection.execute(query)).scalar_one()
            async with asyncio.timeout(60):
                while True:
                    async with database.system() as connection:
                        after = (await connection.execute(query)).scalar_one()
                    if after > before:
                        break
                    await asyncio.sleep(0.1)
