import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from core.database import Database
from core.ids import new_id
from domain.jobs import NewJob
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from repositories.tenants import IdempotencyRepository, TenantRepository
from repositories.transitions import JobTransitions, KeyClaim
from tests.support.life import soon


async def add_key(database: Database, tenant_id: UUID, *, seconds: float | None = None) -> str:
    """A key that lives this long; its prefix."""
    prefix = new_id().hex
    async with database.system() as connection:
        await TenantRepository(connection).add_key(
            key_id=new_id(),
            tenant_id=tenant_id,
            prefix=prefix,
            key_hash=b"hash",
            name="k",
            scopes=["jobs:read"],
            expires_at=None if seconds is None else soon(seconds),
        )
    return prefix


class TestTenants:
    async def test_names_are_unique(self, database: Database, tenant_id: UUID) -> None:
        with pytest.raises(IntegrityError):
            async with database.system() as connection:
                await TenantRepository(connection).add(tenant_id=new_id(), name=f"tenant-{tenant_id}")

    async def test_are_found_by_name(self, database: Database, tenant_id: UUID) -> None:
        async with database.system() as connection:
            found = await TenantRepository(connection).get_by_name_or_none(f"tenant-{tenant_id}")
            assert found is not None
            assert found.id == tenant_id
            assert await TenantRepository(connection).get_by_name_or_none("nobody") is None


class TestKeys:
    @pytest.mark.parametrize(("seconds", "lives"), [(None, True), (60, True), (-1, False)])
    async def test_live_until_they_expire(
        self, database: Database, tenant_id: UUID, seconds: float | None, *, lives: bool
    ) -> None:
        prefix = await add_key(database, tenant_id, seconds=seconds)
        async with database.system() as connection:
            found = await TenantRepository(connection).get_live_key_or_none(prefix)
        assert (found is not None) is lives

    async def test_end_when_they_are_revoked(self, database: Database, tenant_id: UUID) -> None:
        prefix, other = await add_key(database, tenant_id), await add_key(database, tenant_id)
        async with database.system() as connection:
            keys = TenantRepository(connection)
            assert await keys.revoke_key(prefix)
            assert not await keys.revoke_key(prefix)
            assert await keys.get_live_key_or_none(prefix) is None
            assert await keys.get_live_key_or_none(other) is not None

    async def test_are_listed_without_their_hashes(self, database: Database, tenant_id: UUID) -> None:
        prefixes = [await add_key(database, tenant_id) for _ in range(2)]
        async with database.system() as connection:
            listed = await TenantRepository(connection).get_keys(tenant_id)
        assert [key.prefix for key in listed] == prefixes
        assert "key_hash" not in listed[0]._fields


class TestIdempotency:
    async def test_one_of_many_claims_wins(self, database: Database, tenant_id: UUID) -> None:
        """The others do nothing, and learn from the key which job it stands for."""
        queued = await asyncio.gather(*(queue(database, tenant_id, key="k") for _ in range(20)))
        (winner,) = [job for job in queued if job is not None]
        async with database.tenant(tenant_id) as connection:
            bound = await IdempotencyRepository(connection).get_or_none("k")
            jobs = await JobRepository(connection).get_page(JobFilter(), limit=10, before=None)
        assert bound is not None
        assert (bound.job_id, bound.request_hash) == (winner.id, b"h")
        assert [job.id for job in jobs] == [winner.id]

    async def test_a_key_whose_time_is_over_is_free_again(self, database: Database, tenant_id: UUID) -> None:
        await queue(database, tenant_id, key="k", keep=timedelta(seconds=-1))
        async with database.tenant(tenant_id) as connection:
            assert await IdempotencyRepository(connection).get_or_none("k") is None
        assert await queue(database, tenant_id, key="k") is not None


async def queue(
    database: Database, tenant_id: UUID, *, key: str, keep: timedelta = timedelta(hours=1)
) -> AnyRow | None:
    """A job under an idempotency key; None where the key stands for another."""
    return await JobTransitions(database).queue(
        NewJob(kind="test.hold", input={}, task_queue="nobody", labels={}),
        job_id=new_id(),
        tenant_id=tenant_id,
        command_id=new_id(),
        args={},
        max_running=100,
        waiting_on={},
        due=None,
        lease=timedelta(0),
        key=KeyClaim(key, b"h", keep),
    )
