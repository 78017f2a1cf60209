"""What PostgreSQL itself enforces between tenants, read from its catalogue and tried on a pool of one."""

import asyncio

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from core.database import Database, create_database
from domain.errors import NotFound
from repositories.jobs import JobReader
from repositories.tables import STAGING_TABLES, TENANT_TABLES, jobs
from services.stack.postgres import EmbeddedPostgres
from tests.support.job_rows import add_running_job
from tests.support.life import new_tenant, superuser


def rows(postgres: EmbeddedPostgres, query: str) -> list[tuple[object, ...]]:
    with superuser(postgres) as connection:
        return connection.execute(query.encode()).fetchall()


class TestCatalogue:
    def test_every_tenant_table_is_under_forced_policies(self, postgres: EmbeddedPostgres) -> None:
        secured = rows(
            postgres,
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relrowsecurity AND relforcerowsecurity",
        )
        assert {table.name for table in TENANT_TABLES} <= {str(name) for (name,) in secured}

    def test_every_table_with_a_tenant_is_known(self, postgres: EmbeddedPostgres) -> None:
        """The staging tables of COPY are known as well; the migration tests look at who has a right on them."""
        query = "SELECT relname FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid WHERE attname = 'tenant_id'"
        found = rows(postgres, f"{query} AND relkind IN ('r', 'p')")
        known = {table.name for table in (*TENANT_TABLES, *STAGING_TABLES)}
        assert {str(name) for (name,) in found} | {"tenants"} == known

    def test_no_policy_lets_writes_escape(self, postgres: EmbeddedPostgres) -> None:
        query = (
            "SELECT tablename, policyname FROM pg_policies"
            " WHERE cmd IN ('ALL', 'INSERT', 'UPDATE') AND with_check IS NULL"
        )
        assert rows(postgres, query) == []
        tables = rows(postgres, "SELECT DISTINCT tablename FROM pg_policies WHERE 'longhaul_app' = ANY (roles)")
        assert {str(name) for (name,) in tables} >= {table.name for table in TENANT_TABLES} - {"api_keys"}

    def test_our_roles_are_weak(self, postgres: EmbeddedPostgres) -> None:
        query = (
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'longhaul%' AND"
            " (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication OR rolinherit)"
        )
        assert rows(postgres, query) == []
        can_log_in = rows(postgres, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'longhaul%' AND rolcanlogin")
        assert can_log_in == [("longhaul_runtime",)]

    def test_our_roles_own_nothing(self, postgres: EmbeddedPostgres) -> None:
        query = "SELECT relname FROM pg_class WHERE pg_get_userbyid(relowner) LIKE 'longhaul%'"
        assert rows(postgres, query) == []

    def test_no_function_goes_around_the_policies(self, postgres: EmbeddedPostgres) -> None:
        query = (
            "SELECT proname FROM pg_proc WHERE (proleakproof OR prosecdef) AND pronamespace = 'public'::regnamespace"
        )
        assert rows(postgres, query) == []

    async def test_login_has_no_rights_before_it_takes_a_role(self, database: Database) -> None:
        for table in TENANT_TABLES:
            with pytest.raises(DBAPIError, match=r"does not exist|permission denied"):
                async with database.engine.connect() as connection:
                    await connection.execute(select(func.count()).select_from(table))


class TestPool:
    async def test_nothing_leaks_between_tenants_on_one_connection(
        self, postgres: EmbeddedPostgres, database: Database
    ) -> None:
        """Two tenants take turns on one connection, by both ways to read; neither ever sees the other's."""
        first, second = await new_tenant(database), await new_tenant(database)
        mine = {tenant: await add_running_job(database, tenant) for tenant in (first, second)}
        single = create_database(
            postgres.runtime_url, pool_size=1, statement_timeout_seconds=5, application_name="leak"
        )
        reader = JobReader(single)

        async def look(number: int) -> None:
            tenant, stranger = (first, second) if number % 2 else (second, first)
            assert (await reader.get_document(tenant, mine[tenant].job_id)).id == mine[tenant].job_id
            with pytest.raises(NotFound):
                await reader.get_version(tenant, mine[stranger].job_id)
            async with single.tenant(tenant) as connection:
                seen = (await connection.execute(select(jobs.c.id))).scalars().all()
            assert seen == [mine[tenant].job_id]

        try:
            await asyncio.gather(*(look(number) for number in range(40)))
            async with single.engine.connect() as connection:
                left = (await connection.execute(_LEFT)).one()
            assert tuple(left) == ("longhaul_runtime", True)
        finally:
            await single.close()

    async def test_unset_tenant_sees_nothing(self, database: Database, tenant_id: object) -> None:
        del tenant_id
        async with database.engine.begin() as connection:
            await connection.execute(text("SELECT set_config('role', 'longhaul_app', true)"))
            for table in TENANT_TABLES:
                if table.name != "api_keys":
                    assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0

    async def test_failed_read_leaves_the_pool_usable(self, postgres: EmbeddedPostgres, database: Database) -> None:
        single = create_database(
            postgres.runtime_url, pool_size=1, statement_timeout_seconds=5, application_name="broken"
        )
        tenant = await new_tenant(database)
        job = await add_running_job(database, tenant)
        broken = select(text("1 / 0"))
        try:
            with pytest.raises(Exception, match="division by zero"):
                await single.read(tenant, broken)
            assert (await JobReader(single).get_version(tenant, job.job_id)).status == "running"
        finally:
            await single.close()


_LEFT = text("SELECT current_user, coalesce(current_setting('app.tenant_id', true), '') = ''")
