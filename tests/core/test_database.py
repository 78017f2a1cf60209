import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, create_database, enter_tenant, on_each_statement
from core.ids import new_id
from domain.errors import DatabaseUnavailable
from repositories.tables import TENANT_TABLES, artifacts, jobs, response_cache
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import add_job, new_tenant, superuser
from tests.support.waiting import eventually


@pytest.fixture
async def narrow(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A pool of one connection: whatever a transaction leaves behind, the next one meets."""
    made = create_database(
        postgres.runtime_url, pool_size=1, statement_timeout_seconds=1, application_name="longhaul-narrow"
    )
    yield made
    await made.close()


async def seen(connection: AsyncConnection) -> set[UUID]:
    """Whose jobs can be seen."""
    return set((await connection.execute(select(jobs.c.tenant_id).distinct())).scalars())


class TestTenant:
    async def test_sees_its_own_rows_only(self, database: Database, tenant_id: UUID) -> None:
        other = await new_tenant(database)
        for owner in (tenant_id, other):
            await add_job(database, owner)
        async with database.tenant(tenant_id) as connection:
            assert await seen(connection) == {tenant_id}
            named = select(jobs.c.id).where(jobs.c.tenant_id == other)
            assert (await connection.execute(named)).all() == []

    async def test_one_connection_serves_many_tenants_without_a_leak(
        self, narrow: Database, database: Database
    ) -> None:
        owners = [await new_tenant(database) for _ in range(2)]
        for owner in owners:
            await add_job(database, owner)
        for owner in owners * 3:
            async with narrow.tenant(owner) as connection:
                assert await seen(connection) == {owner}

    async def test_nothing_is_left_on_the_connection(self, narrow: Database, tenant_id: UUID) -> None:
        """Neither after a commit nor after a failure; not the tenant, not the role."""
        for fails in (False, True):
            try:
                async with narrow.tenant(tenant_id) as connection:
                    if fails:
                        await connection.execute(text("SELECT 1/0"))
            except DBAPIError:
                assert fails
            async with narrow.engine.begin() as connection:
                row = (
                    await connection.execute(
                        text("SELECT current_user AS who, current_setting('app.tenant_id', true) AS tenant")
                    )
                ).one()
            assert row.who == "longhaul_runtime"
            assert not row.tenant

    async def test_unset_means_no_rows(self, narrow: Database, database: Database, tenant_id: UUID) -> None:
        """Also on a connection on which a tenant was set before: what is left then is an empty string, not NULL."""
        await add_job(database, tenant_id)
        for was_set_before in (False, True):
            if was_set_before:
                async with narrow.tenant(tenant_id):
                    pass
            async with narrow.engine.begin() as connection:
                await connection.execute(text("SET LOCAL ROLE longhaul_app"))
                for table in TENANT_TABLES:
                    if table.name == "api_keys":
                        continue
                    assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0

    async def test_cannot_read_keys_at_all(self, database: Database, tenant_id: UUID) -> None:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.tenant(tenant_id) as connection:
                await connection.execute(text("SELECT 1 FROM api_keys"))

    async def test_cannot_write_another_tenants_rows(self, database: Database, tenant_id: UUID) -> None:
        other = await new_tenant(database)
        theirs = await add_job(database, other)
        row = {"id": new_id(), "name": "x", "media_type": "text/plain", "bytes": 1, "sha256": "0", "role": "upload"}
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with database.tenant(tenant_id) as connection:
                await connection.execute(insert(artifacts).values(tenant_id=other, **row))
        async with database.tenant(tenant_id) as connection:
            touched = await connection.execute(
                text("UPDATE jobs SET status = 'running' WHERE id = :id"), {"id": theirs.job_id}
            )
            assert touched.rowcount == 0

    async def test_cannot_give_its_own_rows_away(self, database: Database, tenant_id: UUID) -> None:
        other = await new_tenant(database)
        mine = await add_job(database, tenant_id)
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with database.tenant(tenant_id) as connection:
                await connection.execute(
                    text("UPDATE jobs SET tenant_id = :other WHERE id = :id"), {"other": other, "id": mine.job_id}
                )

    async def test_cannot_hang_a_row_on_another_tenants_job(self, database: Database, tenant_id: UUID) -> None:
        """The key names the tenant as well, so that it cannot even be probed which jobs exist."""
        theirs = await add_job(database, await new_tenant(database))
        with pytest.raises(DBAPIError, match="foreign key"):
            async with database.tenant(tenant_id) as connection:
                await connection.execute(
                    text("INSERT INTO job_events (tenant_id, job_id, seq, type) VALUES (:tenant, :job, 99, 'x')"),
                    {"tenant": tenant_id, "job": theirs.job_id},
                )

    async def test_a_failure_rolls_everything_back(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)

        async def write() -> None:
            async with database.tenant(tenant_id) as connection:
                await connection.execute(text("UPDATE jobs SET priority = 5"))
                raise RuntimeError("after the write")

        with pytest.raises(RuntimeError, match="after the write"):
            await write()
        async with database.tenant(tenant_id) as connection:
            priority = (await connection.execute(select(jobs.c.priority).where(jobs.c.id == job.job_id))).scalar_one()
        assert priority == 3


_add_note = text("INSERT INTO response_cache VALUES (:tenant_id, :key, CAST(:answer AS jsonb), now())")
_notes = select(response_cache.c.key).order_by(response_cache.c.key)


@pytest.fixture(params=[False, True], ids=["plain", "traced"])
def either(request: pytest.FixtureRequest, narrow: Database) -> Database:
    """A database whose statements are watched, as by telemetry, or not: nobody else can tell."""
    if request.param:
        on_each_statement(narrow.engine, lambda *_: None, lambda *_: None)
    return narrow


class TestRun:
    async def test_statements_are_one_transaction_in_order(self, either: Database, tenant_id: UUID) -> None:
        notes = [{"tenant_id": tenant_id, "key": key, "answer": "{}"} for key in ("a", "b")]
        added, found = await either.run(tenant_id, (_add_note, notes[0]), (_notes, {}))
        assert (added, [row.key for row in found]) == ([], ["a"])
        _, found = await either.run(tenant_id, (_add_note, notes[1]), (_notes, {}))
        assert [row.key for row in found] == ["a", "b"]

    async def test_nothing_is_done_where_one_fails(self, either: Database, tenant_id: UUID) -> None:
        """And the connection is fit for the next one."""
        note = {"tenant_id": tenant_id, "key": "a", "answer": "{}"}
        with pytest.raises((psycopg.IntegrityError, IntegrityError)):
            await either.run(tenant_id, (_add_note, note), (_add_note, note))
        assert await either.run(tenant_id, (_notes, {})) == [[]]

    async def test_sees_and_writes_its_own_rows_only(self, either: Database, database: Database) -> None:
        owners = [await new_tenant(database) for _ in range(2)]
        note = {"tenant_id": owners[0], "key": "a", "answer": "{}"}
        await either.run(owners[0], (_add_note, note))
        assert await either.run(owners[1], (_notes, {})) == [[]]
        with pytest.raises((psycopg.errors.InsufficientPrivilege, ProgrammingError)):
            await either.run(owners[1], (_add_note, note | {"key": "b"}))

    async def test_nothing_is_left_on_the_connection(self, either: Database, tenant_id: UUID) -> None:
        await either.run(tenant_id, (_notes, {}))
        async with either.engine.connect() as connection:
            left = await connection.execute(
                text("SELECT current_user = session_user, current_setting('app.tenant_id', true)")
            )
            assert left.one() in ((True, ""), (True, None))

    async def test_a_statement_that_takes_too_long(self, either: Database, tenant_id: UUID) -> None:
        with pytest.raises(DatabaseUnavailable):
            await either.run(tenant_id, (text("SELECT pg_sleep(:seconds)"), {"seconds": 30}))


class TestLogin:
    @pytest.mark.parametrize("table", [table.name for table in TENANT_TABLES] + ["prompts", "workers", "installation"])
    async def test_has_no_rights_before_it_takes_a_role(self, database: Database, table: str) -> None:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.engine.begin() as connection:
                await connection.execute(text(f"SELECT 1 FROM public.{table}"))  # noqa: S608

    async def test_a_tenants_transaction_may_not_change_the_schema(self, database: Database, tenant_id: UUID) -> None:
        for statement in ("DROP TABLE jobs", "CREATE TABLE x (id int)", "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY"):
            with pytest.raises(ProgrammingError, match=r"must be owner|permission denied"):
                async with database.tenant(tenant_id) as connection:
                    await connection.execute(text(statement))


class TestSystem:
    async def test_sees_all_tenants(self, database: Database, tenant_id: UUID) -> None:
        other = await new_tenant(database)
        for owner in (tenant_id, other):
            await add_job(database, owner)
        async with database.system() as connection:
            assert {tenant_id, other} <= await seen(connection)

    @pytest.mark.parametrize("table", ["artifacts", "step_results", "provider_calls"])
    async def test_has_no_business_with_content(self, database: Database, table: str) -> None:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.system() as connection:
                await connection.execute(text(f"SELECT 1 FROM {table}"))  # noqa: S608


class TestUnavailable:
    async def test_nobody_at_the_address(self) -> None:
        gone = create_database(
            "postgresql+psycopg://nobody@/none?host=/nonexistent",
            pool_size=1,
            statement_timeout_seconds=1,
            application_name="x",
        )
        with pytest.raises(DatabaseUnavailable):
            async with gone.system():
                pass

    async def test_a_statement_that_takes_too_long(self, narrow: Database, tenant_id: UUID) -> None:
        with pytest.raises(DatabaseUnavailable):
            async with narrow.tenant(tenant_id) as connection:
                await connection.execute(text("SELECT pg_sleep(5)"))

    async def test_a_server_that_takes_no_writes(self, narrow: Database, tenant_id: UUID) -> None:
        """A standby after a failover, or a disk so full that somebody made it read-only: no fault of the caller."""
        read_only, write = text("SET TRANSACTION READ ONLY"), text("DELETE FROM jobs")

        async def as_a_tenant() -> None:
            async with narrow.tenant(tenant_id) as connection:
                await connection.execute(read_only)
                await connection.execute(write)

        async def on_the_driver() -> None:
            async with narrow.driver() as driver:
                await driver.execute("SET TRANSACTION READ ONLY")
                await enter_tenant(driver, tenant_id)
                await driver.execute("DELETE FROM jobs")

        async def in_one_round_trip() -> None:
            await narrow.run(tenant_id, (read_only, {}), (write, {}))

        for way in (as_a_tenant, on_the_driver, in_one_round_trip):
            with pytest.raises(DatabaseUnavailable, match="read-only"):
                await way()

    async def test_a_lost_connection_is_replaced(
        self, narrow: Database, postgres: EmbeddedPostgres, tenant_id: UUID
    ) -> None:
        pids: list[int] = []

        async def be_cut_off() -> None:
            async with narrow.tenant(tenant_id) as connection:
                pids.append((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())
                with superuser(postgres) as direct:
                    direct.execute("SELECT pg_terminate_backend(%s, 5000)", (pids[0],))
                await connection.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnavailable):
            await be_cut_off()
        async with narrow.tenant(tenant_id) as connection:
            assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() not in pids

    async def test_a_pool_that_is_used_up_serves_the_next_in_turn(self, narrow: Database, tenant_id: UUID) -> None:
        order: list[str] = []

        async def use(name: str) -> None:
            async with narrow.tenant(tenant_id):
                order.append(name)

        async with narrow.tenant(tenant_id):
            waiting = asyncio.create_task(use("second"))
            await asyncio.sleep(0)
            order.append("first")
        await waiting
        assert order == ["first", "second"]

    async def test_closing_leaves_no_connection(self, postgres: EmbeddedPostgres, tenant_id: UUID) -> None:
        name = f"closing-{new_id()}"
        made = create_database(postgres.runtime_url, pool_size=3, statement_timeout_seconds=1, application_name=name)
        async with made.tenant(tenant_id):
            pass
        await made.close()

        async def left() -> int:
            with superuser(postgres) as direct:
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
                return int(direct.execute(query, (name,)).fetchall()[0][0])

        await eventually(left, lambda count: count == 0)
