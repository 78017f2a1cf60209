import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from repositories.tables import STAGING_TABLES, TENANT_TABLES, metadata
from services.schema import _config, migrate, schema_head
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser


@pytest.fixture
def url(postgres: EmbeddedPostgres, fresh_postgres: str) -> str:
    """An empty database, as its owner reaches it."""
    return postgres.superuser_url.replace(f"/{postgres.database}?", f"/{fresh_postgres}?")


@pytest.fixture
def catalogue(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """The migrated database's own account of itself."""
    with superuser(postgres) as connection:
        yield connection


def column(catalogue: psycopg.Connection[tuple[Any, ...]], query: str, *values: Any) -> list[Any]:
    """The first column of an answer."""
    return [row[0] for row in catalogue.execute(query, values).fetchall()]


class TestHistory:
    def test_up_down_and_up_again(self, postgres: EmbeddedPostgres, fresh_postgres: str, url: str) -> None:
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        config = _config(url)
        command.upgrade(config, "head")
        with superuser(postgres, fresh_postgres) as connection:
            there = column(connection, tables)
        assert set(there) == {*metadata.tables, "alembic_version"}
        command.downgrade(config, "base")
        with superuser(postgres, fresh_postgres) as connection:
            assert column(connection, tables) == ["alembic_version"]
        command.upgrade(config, "head")
        with superuser(postgres, fresh_postgres) as connection:
            assert column(connection, tables) == there

    def test_leads_to_exactly_what_the_code_describes(self, url: str) -> None:
        """``alembic check``: nothing that a new migration would have to change."""
        command.upgrade(_config(url), "head")
        command.check(_config(url))

    def test_is_one_line_without_branches(self) -> None:
        scripts = ScriptDirectory.from_config(_config())
        assert scripts.get_heads() == [schema_head()]
        assert len(scripts.get_bases()) == 1

    def test_every_file_is_dated_says_what_it_does_and_waits_for_locks_only_so_long(self) -> None:
        for script in ScriptDirectory.from_config(_config()).walk_revisions():
            source = Path(script.path).read_text()
            assert re.search(r"/\d{4}-\d\d-\d\d-\d{4}_\w+\.py$", script.path)
            assert script.doc
            assert source.count("SET LOCAL lock_timeout") == 2, script.path

    def test_migrating_again_changes_nothing(self, url: str, postgres: EmbeddedPostgres, fresh_postgres: str) -> None:
        migrate(url, profile="development")
        migrate(url, profile="development")
        with superuser(postgres, fresh_postgres) as connection:
            assert column(connection, "SELECT profile FROM installation") == ["development"]


class TestIsolation:
    def test_every_table_with_a_tenant_is_under_forced_row_level_security(
        self, catalogue: psycopg.Connection[tuple[Any, ...]]
    ) -> None:
        """Found by walking the catalogue, so that a forgotten table cannot hide."""
        with_tenant = column(
            catalogue,
            "SELECT table_name FROM information_schema.columns"
            " JOIN information_schema.tables USING (table_schema, table_name)"
            " WHERE table_schema = 'public' AND column_name = 'tenant_id' AND table_type = 'BASE TABLE'"
            " AND table_name <> ALL(%s)",
            [table.name for table in STAGING_TABLES],
        )
        protected = column(
            catalogue,
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relrowsecurity AND relforcerowsecurity",
        )
        assert len(with_tenant) >= 10
        assert set(protected) == {*with_tenant, "tenants"} == {table.name for table in TENANT_TABLES}

    def test_no_tenant_has_a_right_on_staging_tables(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        """COPY cannot write under row-level security; what it writes to, tenants reach through views of their own."""
        rights = "SELECT table_name FROM information_schema.role_table_grants WHERE grantee = 'longhaul_app'"
        assert not set(column(catalogue, rights)) & {table.name for table in STAGING_TABLES}
        [definition] = column(catalogue, "SELECT definition FROM pg_views WHERE viewname = 'tenant_record_inbox'")
        assert (
            "WHERE (tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)" in definition
        )
        options = column(catalogue, "SELECT reloptions::text FROM pg_class WHERE relname = 'tenant_record_inbox'")
        assert options == ["{security_barrier=true,check_option=cascaded}"]

    def test_the_platform_cannot_read_a_record(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        for name in ("body", "skipped"):
            query = "SELECT has_column_privilege('longhaul_system', 'record_inbox', %s, 'SELECT')"
            assert column(catalogue, query, name) == [False]

    def test_every_policy_of_tenants_checks_reading_and_writing(
        self, catalogue: psycopg.Connection[tuple[Any, ...]]
    ) -> None:
        policies = catalogue.execute(
            "SELECT tablename, permissive, cmd, roles::text[], qual, with_check FROM pg_policies"
            " WHERE schemaname = 'public' AND 'longhaul_app' = ANY(roles)"
        ).fetchall()
        assert {policy[0] for policy in policies} == {table.name for table in TENANT_TABLES}
        for table, permissive, verb, roles, reading, writing in policies:
            name = "id" if table == "tenants" else "tenant_id"
            mine = f"({name} = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"
            assert (permissive, verb, roles) == ("PERMISSIVE", "ALL", ["longhaul_app"])
            assert (reading, writing) == (mine, mine)

    def test_no_policy_opens_a_table_to_everybody(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        roles = column(catalogue, "SELECT DISTINCT unnest(roles)::text FROM pg_policies WHERE schemaname = 'public'")
        assert set(roles) == {"longhaul_app", "longhaul_system"}

    def test_keys_that_can_be_probed_begin_with_the_tenant(
        self, catalogue: psycopg.Connection[tuple[Any, ...]]
    ) -> None:
        """A unique key answers "taken" whoever asks; random ids tell nothing, names chosen by clients would."""
        unique = catalogue.execute(
            "SELECT i.indrelid::regclass::text,"
            " array_agg(a.attname::text ORDER BY k.place) FROM pg_index i"
            " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number"
            " WHERE i.indisunique AND i.indrelid::regclass::text = ANY(%s) GROUP BY i.indexrelid, i.indrelid",
            ([table.name for table in TENANT_TABLES if table.name not in {"tenants", "api_keys"}],),
        ).fetchall()
        assert unique
        for table, columns in unique:
            assert columns[0] == "tenant_id" or columns == ["id"], (table, columns)


class TestRoles:
    @pytest.mark.parametrize("role", ["longhaul_app", "longhaul_system", "longhaul_runtime"])
    def test_own_nothing_and_bypass_nothing(self, catalogue: psycopg.Connection[tuple[Any, ...]], role: str) -> None:
        powers = catalogue.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolinherit FROM pg_roles"
            " WHERE rolname = %s",
            (role,),
        ).fetchall()
        assert powers == [(False,) * 6]
        assert column(catalogue, "SELECT relname FROM pg_class WHERE relowner = %s::regrole", role) == []
        assert column(catalogue, "SELECT nspname FROM pg_namespace WHERE nspowner = %s::regrole", role) == []

    def test_only_the_runtime_role_can_log_in(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        query = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'longhaul%%' AND rolcanlogin"
        assert column(catalogue, query) == ["longhaul_runtime"]

    def test_the_login_inherits_nothing(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        """It may become either role, which is visible in its memberships, and has no right of its own."""
        members = catalogue.execute(
            "SELECT roleid::regrole::text, inherit_option, set_option, admin_option FROM pg_auth_members"
            " WHERE member = 'longhaul_runtime'::regrole ORDER BY 1"
        ).fetchall()
        assert members == [("longhaul_app", False, True, False), ("longhaul_system", False, True, False)]
        granted = "SELECT table_name FROM information_schema.role_table_grants WHERE grantee = ANY(%s)"
        assert column(catalogue, granted, ["longhaul_runtime", "PUBLIC"]) == [] or not set(
            column(catalogue, granted, ["longhaul_runtime", "PUBLIC"])
        ) & set(metadata.tables)

    @pytest.mark.parametrize(
        ("role", "table", "rights"),
        [
            ("longhaul_app", "job_events", {"SELECT", "INSERT"}),
            ("longhaul_app", "step_results", {"SELECT", "INSERT"}),
            ("longhaul_app", "tenants", {"SELECT"}),
            ("longhaul_app", "api_keys", set()),
            ("longhaul_app", "installation", {"SELECT"}),
            ("longhaul_system", "job_events", {"SELECT", "INSERT"}),
            ("longhaul_system", "artifacts", set()),
            ("longhaul_system", "provider_calls", set()),
            ("longhaul_system", "prompts", {"SELECT", "INSERT"}),
        ],
    )
    def test_have_no_more_rights_than_they_need(
        self, catalogue: psycopg.Connection[tuple[Any, ...]], role: str, table: str, rights: set[str]
    ) -> None:
        """What happened cannot be changed or taken away, by nobody but the owner of the schema."""
        query = (
            "SELECT privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = 'public' AND grantee = %s AND table_name = %s"
        )
        assert set(column(catalogue, query, role, table)) == rights

    def test_nobody_but_the_owner_makes_tables(self, catalogue: psycopg.Connection[tuple[Any, ...]]) -> None:
        for role in ("longhaul_app", "longhaul_system", "longhaul_runtime"):
            assert column(catalogue, "SELECT has_schema_privilege(%s, 'public', 'CREATE')", role) == [False]
        assert column(catalogue, "SELECT has_schema_privilege('longhaul_runtime', 'public', 'USAGE')") == [False]
