"""Limits shared by all workers: the average holds, silence is kept, and no tenant waits behind a greedy one."""

import asyncio
from datetime import timedelta
from uuid import UUID

from core.database import Database
from core.ids import new_id
from repositories.publishing.limits import LimitRepository, Scope, get_scopes
from tests.support.life import new_tenant


def fresh(interval: float, burst: int) -> Scope:
    return Scope(f"test:{new_id()}", timedelta(seconds=interval), burst)


async def take(database: Database, tenant_id: UUID, *scopes: Scope, messages: int = 1) -> float:
    async with database.system() as connection:
        return (await LimitRepository(connection).take(tenant_id, scopes, messages=messages)).total_seconds()


class TestTake:
    async def test_burst_then_average(self, database: Database, tenant_id: UUID) -> None:
        scope = fresh(60, 3)
        waits = [await take(database, tenant_id, scope) for _ in range(4)]
        assert waits[:3] == [0, 0, 0]
        assert 50 < waits[3] <= 60

    async def test_an_album_counts_every_item(self, database: Database, tenant_id: UUID) -> None:
        scope = fresh(60, 5)
        assert await take(database, tenant_id, scope, messages=3) == 0
        assert await take(database, tenant_id, scope, messages=3) > 0
        assert [await take(database, tenant_id, scope) for _ in range(2)] == [0, 0]
        assert await take(database, tenant_id, scope) > 0

    async def test_more_than_a_burst_is_paid_for_afterwards(self, database: Database, tenant_id: UUID) -> None:
        scope = fresh(60, 1)
        assert await take(database, tenant_id, scope, messages=4) == 0
        assert 170 < await take(database, tenant_id, scope) <= 240

    async def test_all_or_nothing(self, database: Database, tenant_id: UUID) -> None:
        narrow, wide = fresh(60, 1), fresh(60, 2)
        await take(database, tenant_id, narrow)
        assert await take(database, tenant_id, narrow, wide) > 0
        assert [await take(database, tenant_id, wide) for _ in range(2)] == [0, 0]

    async def test_many_workers_at_once(self, database: Database, tenant_id: UUID) -> None:
        scope = fresh(60, 5)
        waits = await asyncio.gather(*(take(database, tenant_id, scope) for _ in range(20)))
        assert sum(wait == 0 for wait in waits) == 5

    async def test_silence_is_kept_and_learned(self, database: Database, tenant_id: UUID) -> None:
        scope = fresh(1, 5)
        async with database.system() as connection:
            await LimitRepository(connection).freeze(scope, seconds=30)
        assert 25 < await take(database, tenant_id, scope) <= 30
        async with database.tenant(tenant_id) as connection:
            known = (await get_scopes(connection, [scope.name]))[scope.name]
        assert (known["freezes"], known["learned_interval_seconds"]) == (1, 1.5)

    async def test_whoever_was_served_longest_ago_goes_first(self, database: Database, tenant_id: UUID) -> None:
        scope, other = fresh(0.2, 1), await new_tenant(database)
        assert await take(database, tenant_id, scope) == 0
        assert await take(database, other, scope) > 0
        await asyncio.sleep(0.25)
        assert await take(database, tenant_id, scope) > 0
        assert await take(database, other, scope) == 0
