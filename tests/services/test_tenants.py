"""Tenants and their keys."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from core.database import Database
from core.ids import new_id
from domain.errors import InvalidInput, NotFound, Unauthenticated
from repositories.jobs import JobRepository
from repositories.tables import api_keys
from services.tenants import ALL_SCOPES, Authenticator, Scope, TenantService

PEPPER = "a pepper for tests"


@pytest.fixture
def service(database: Database) -> TenantService:
    """The use cases."""
    return TenantService(database, pepper=PEPPER)


@pytest.fixture
def authenticator(database: Database) -> Authenticator:
    """An authenticator that hears of every change."""
    return Authenticator(database, pepper=PEPPER, is_told=lambda: True)


class TestTenant:
    async def test_has_a_name_of_its_own(self, service: TenantService) -> None:
        name = f"tenant-{new_id()}"
        made = await service.create_tenant(f"  {name} ")
        assert await service.find_tenant(name) == made
        with pytest.raises(InvalidInput) as refused:
            await service.create_tenant(name)
        assert [fault.pointer for fault in refused.value.faults] == ["/name"]

    @pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", "a\ud800", "x" * 201])
    async def test_name_must_be_a_line(self, service: TenantService, name: str) -> None:
        with pytest.raises(InvalidInput):
            await service.create_tenant(name)

    async def test_unknown_one_is_not_found(self, service: TenantService) -> None:
        with pytest.raises(NotFound):
            await service.find_tenant(f"tenant-{new_id()}")


class TestLimit:
    async def test_holds_for_its_kind_and_not_for_others(
        self, service: TenantService, tenant_id: UUID, database: Database
    ) -> None:
        """A limit of its own comes before the installation's; other kinds keep theirs."""
        await service.limit(tenant_id, kind="a", most=0)
        async with database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            assert not await repository.try_admit(tenant_id, "a", default_limit=5)
            assert await repository.try_admit(tenant_id, "b", default_limit=5)

    async def test_is_not_negative(self, service: TenantService, tenant_id: UUID) -> None:
        with pytest.raises(InvalidInput):
            await service.limit(tenant_id, kind="a", most=-1)


class TestKey:
    async def test_is_shown_once_and_kept_as_a_digest(
        self, service: TenantService, tenant_id: UUID, database: Database
    ) -> None:
        issued = await service.create_key(tenant_id, name="laptop")
        assert re.fullmatch(r"lh_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", issued.text)
        async with database.system() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == issued.id))).one()
        assert len(row.key_hash) == 32
        assert issued.text.encode() not in bytes(row.key_hash)
        assert not any(issued.text in str(value) for value in row)

    async def test_two_are_live_for_rotation(
        self, service: TenantService, tenant_id: UUID, authenticator: Authenticator
    ) -> None:
        old = await service.create_key(tenant_id, name="old")
        new = await service.create_key(tenant_id, name="new", scopes=[Scope.JOBS_READ])
        assert (await authenticator.authenticate(old.text)).scopes == set(ALL_SCOPES)
        assert (await authenticator.authenticate(new.text)).scopes == {"jobs:read"}
        await service.revoke_key(old.prefix)
        listed = await service.list_keys(tenant_id)
        assert [(key.name, key.revoked_at is None) for key in listed] == [("old", False), ("new", True)]
        assert not hasattr(listed[0], "key_hash")

    async def test_scopes_are_known_ones(self, service: TenantService, tenant_id: UUID) -> None:
        for scopes in ([], ["jobs:all"]):
            with pytest.raises(InvalidInput):
                await service.create_key(tenant_id, name="k", scopes=scopes)

    async def test_needs_a_tenant(self, service: TenantService) -> None:
        with pytest.raises(NotFound):
            await service.create_key(uuid4(), name="k")

    async def test_is_revoked_once(self, service: TenantService, tenant_id: UUID) -> None:
        issued = await service.create_key(tenant_id, name="k")
        await service.revoke_key(issued.prefix)
        with pytest.raises(NotFound):
            await service.revoke_key(issued.prefix)


class TestAuthenticate:
    async def test_finds_the_tenant(
        self, service: TenantService, tenant_id: UUID, authenticator: Authenticator
    ) -> None:
        issued = await service.create_key(tenant_id, name="k")
        caller = await authenticator.authenticate(issued.text)
        assert (caller.tenant_id, caller.key_id, caller.prefix) == (tenant_id, issued.id, issued.prefix)

    async def test_other_pepper_knows_nobody(self, service: TenantService, tenant_id: UUID, database: Database) -> None:
        issued = await service.create_key(tenant_id, name="k")
        with pytest.raises(Unauthenticated):
            await Authenticator(database, pepper="other", is_told=lambda: True).authenticate(issued.text)

    async def test_memory_ends_with_the_word(
        self, service: TenantService, tenant_id: UUID, authenticator: Authenticator
    ) -> None:
        """Without hearing of it a revoked key is remembered; once told, it is not."""
        issued = await service.create_key(tenant_id, name="k")
        await authenticator.authenticate(issued.text)
        await service.revoke_key(issued.prefix)
        await authenticator.authenticate(issued.text)
        authenticator.forget(issued.prefix)
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(issued.text)

    async def test_word_during_the_look_up_is_not_lost(
        self, service: TenantService, tenant_id: UUID, authenticator: Authenticator, database: Database
    ) -> None:
        """A key revoked between our read and our remembering is not remembered."""
        issued = await service.create_key(tenant_id, name="k")
        original = database.system

        def told_meanwhile() -> object:
            authenticator.forget(issued.prefix)
            return original()

        authenticator._database = _With(told_meanwhile)  # type: ignore[assignment]
        await authenticator.authenticate(issued.text)
        assert authenticator._verified == {}

    async def test_expiry_holds_also_in_memory(
        self, service: TenantService, tenant_id: UUID, authenticator: Authenticator
    ) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.4)
        issued = await service.create_key(tenant_id, name="k", expires_at=soon)
        await authenticator.authenticate(issued.text)
        await asyncio.sleep(0.5)
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(issued.text)
        await authenticator.close()


class _With:
    def __init__(self, system: object) -> None:
        self.system = system
