from collections.abc import AsyncIterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from core.database import Database, check_schema, create_database
from domain.errors import DatabaseUnavailable, SchemaMismatch
from services.schema import migrate, schema_head
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser


def small(url: str) -> Database:
    """A pool of one."""
    return create_database(url, pool_size=1, statement_timeout_seconds=5, application_name="longhaul-schema-tests")


@pytest.fixture
async def own(postgres: EmbeddedPostgres, fresh_postgres: str) -> AsyncIterator[Database]:
    """An empty database of one's own, as our processes reach it."""
    made = small(postgres.runtime_url.replace(f"/{postgres.database}?", f"/{fresh_postgres}?"))
    yield made
    await made.close()


@pytest.fixture
def owner_url(postgres: EmbeddedPostgres, fresh_postgres: str) -> str:
    """The same, as its owner reaches it."""
    return postgres.superuser_url.replace(f"/{postgres.database}?", f"/{fresh_postgres}?")


class TestCheck:
    async def test_the_right_database_is_accepted(self, own: Database, owner_url: str) -> None:
        migrate(owner_url, profile="production")
        await check_schema(own, head=schema_head(), profile="production")

    async def test_an_empty_one_is_told_to_migrate(self, own: Database) -> None:
        with pytest.raises(SchemaMismatch, match=r"no Longhaul schema.*manage\.py migrate"):
            await check_schema(own, head=schema_head(), profile="development")

    async def test_one_behind_says_where_it_is_and_where_it_should_be(self, own: Database, owner_url: str) -> None:
        migrate(owner_url, profile="development")
        with pytest.raises(
            SchemaMismatch, match=f"at {schema_head()}, this version needs 9999; run `manage.py migrate`"
        ):
            await check_schema(own, head="9999", profile="development")

    async def test_another_profiles_is_refused(self, own: Database, owner_url: str) -> None:
        migrate(owner_url, profile="development")
        with pytest.raises(SchemaMismatch, match="belongs to the profile 'development', this process to 'production'"):
            await check_schema(own, head=schema_head(), profile="production")

    async def test_an_unmarked_one_is_refused(
        self, own: Database, owner_url: str, postgres: EmbeddedPostgres, fresh_postgres: str
    ) -> None:
        migrate(owner_url, profile="development")
        with superuser(postgres, fresh_postgres) as connection:
            connection.execute("DELETE FROM installation")
        with pytest.raises(SchemaMismatch, match="profile None"):
            await check_schema(own, head=schema_head(), profile="development")

    async def test_production_refuses_a_login_that_nothing_binds(self, owner_url: str) -> None:
        migrate(owner_url, profile="production")
        mighty = small(owner_url)
        with pytest.raises(SchemaMismatch, match="superuser"):
            await check_schema(mighty, head=schema_head(), profile="production")
        await mighty.close()

    async def test_development_may_use_one_login_for_everything(self, owner_url: str) -> None:
        migrate(owner_url, profile="development")
        mighty = small(owner_url)
        await check_schema(mighty, head=schema_head(), profile="development")
        await mighty.close()

    async def test_nobody_there_is_another_matter(self) -> None:
        gone = small("postgresql+psycopg://nobody@/none?host=/nonexistent")
        with pytest.raises(DatabaseUnavailable):
            await check_schema(gone, head=schema_head(), profile="development")


class TestMigrate:
    async def test_never_changes_whose_a_database_is(self, own: Database, owner_url: str) -> None:
        migrate(owner_url, profile="development")
        with pytest.raises(SchemaMismatch, match="'development', not to 'production'"):
            migrate(owner_url, profile="production")
        async with own.system() as connection:
            assert (await connection.execute(text("SELECT profile FROM installation"))).scalar_one() == "development"

    def test_the_database_has_room_for_one_mark_only(
        self, owner_url: str, postgres: EmbeddedPostgres, fresh_postgres: str
    ) -> None:
        migrate(owner_url, profile="development")
        with (
            superuser(postgres, fresh_postgres) as connection,
            pytest.raises(Exception, match="ck_installation_one_row"),
        ):
            connection.execute("INSERT INTO installation (singleton, profile) VALUES (false, 'production')")

    async def test_a_database_from_the_future_is_named(self, own: Database, owner_url: str) -> None:
        """It was migrated by a version that knows more; nothing is done to it."""
        migrate(owner_url, profile="development")
        engine = create_engine(owner_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(SchemaMismatch, match="9999"):
            migrate(owner_url, profile="development")
