import asyncio
import contextlib
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from core.database import Database
from core.ids import new_id
from repositories.tenants import IdempotencyRepository, TenantRepository
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
        job_ids = [new_id() for _ in range(20)]

        async def claim(job_id: UUID) -> UUID:
            async with database.tenant(tenant_id) as connection:
                bound = await IdempotencyRepository(connection).claim(
                    tenant_id=tenant_id, key="k", request_hash=b"h", job_id=job_id, keep=timedelta(hours=1)
                )
            return job_id if bound is None else bound.job_id

        answers = await asyncio.gather(*(claim(job_id) for job_id in job_ids))
        assert len(set(answers)) == 1

    async def test_a_claim_that_is_rolled_back_leaves_the_key_free(self, database: Database, tenant_id: UUID) -> None:
        facts = {"tenant_id": tenant_id, "key": "k", "request_hash": b"h", "keep": timedelta(hours=1)}
        with contextlib.suppress(RuntimeError):
            async with database.tenant(tenant_id) as connection:
                await IdempotencyRepository(connection).claim(job_id=new_id(), **facts)  # type: ignore[arg-type]
                raise RuntimeError
        async with database.tenant(tenant_id) as connection:
            assert await IdempotencyRepository(connection).claim(job_id=new_id(), **facts) is None  # type: ignore[arg-type]
