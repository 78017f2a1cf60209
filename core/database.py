"""The one way to the database: an engine, and units of work that are bound to a tenant.

A connection may do nothing until a unit of work has taken a role for the length of one transaction: the login role
inherits no rights. ``tenant`` takes the role under row-level security and names the tenant; ``system`` takes the role
of the dispatcher and the reconciler, which see a few tables of all tenants. Both end with the transaction, so nothing
leaks through the pool.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from domain.errors import DatabaseUnavailable, SchemaMismatch

APP_ROLE: Final = "longhaul_app"
SYSTEM_ROLE: Final = "longhaul_system"
REQUIRED_SERVER_VERSION: Final = 180_000

_enter_tenant = text(
    "SELECT set_config('role', 'longhaul_app', true), set_config('app.tenant_id', :tenant, true)"
)
_enter_system = text("SELECT set_config('role', 'longhaul_system', true)")


class Database:
    """A pool of connections and the two kinds of transaction there are.

    Every method that touches the server raises DatabaseUnavailable where it cannot be reached.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """One transaction on behalf of a tenant; commits on success, rolls back on any exception."""
        async with self._transaction() as connection:
            await connection.execute(_enter_tenant, {"tenant": str(tenant_id)})
            yield connection

    @asynccontextmanager
    async def system(self) -> AsyncIterator[AsyncConnection]:
        """One transaction of the platform itself, across tenants, on the few tables that need it."""
        async with self._transaction() as connection:
            await connection.execute(_enter_system)
            yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeoutError) as fault:
            raise DatabaseUnavailable("the database cannot be reached or is overloaded") from fault
        except DBAPIError as fault:
            if fault.connection_invalidated:
                raise DatabaseUnavailable("the connection to the database was lost") from fault
            raise

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self.engine.dispose()


def create_database(
    url: str, *, pool_size: int, statement_timeout_seconds: float, application_name: str
) -> Database:
    """An engine whose connections time out rather than hang, and speak JSON through orjson."""
    timeout_ms = int(statement_timeout_seconds * 1_000)
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_recycle=1_800,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": 5,
            "options": f"-c statement_timeout={timeout_ms} -c lock_timeout={timeout_ms}"
            " -c idle_in_transaction_session_timeout=60000 -c timezone=UTC",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )
    return Database(engine)


def on_each_statement(engine: AsyncEngine, before: Any, after: Any) -> None:
    """Call ``before`` and ``after`` around each statement, as telemetry wants it."""
    event.listen(engine.sync_engine, "before_cursor_execute", before)
    event.listen(engine.sync_engine, "after_cursor_execute", after)


async def check_schema(database: Database, *, head: str, profile: str) -> None:
    """Make sure that this database is the right one for this code and this profile.

    Raises SchemaMismatch in plain words: server too old, schema behind or ahead, other profile, unsafe login.
    """
    try:
        async with database.system() as connection:
            row = (await connection.execute(_survey)).one()
    except DBAPIError as fault:
        raise SchemaMismatch(
            "the database has no Longhaul schema, or its login may not use it; run `manage.py migrate`"
        ) from fault
    for fault_text in _schema_faults(row, head=head, profile=profile):
        raise SchemaMismatch(fault_text)


_survey = text(
    """
    SELECT current_setting('server_version_num')::int AS server,
           (SELECT version_num FROM alembic_version) AS head,
           (SELECT profile FROM installation) AS profile,
           (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user) AS powerful
    """
)


def _schema_faults(row: Any, *, head: str, profile: str) -> list[str]:
    faults = {
        f"PostgreSQL 18 or later is needed, this server is {row.server // 10_000}": row.server
        < REQUIRED_SERVER_VERSION,
        f"the schema is at {row.head}, this version needs {head}; run `manage.py migrate`": row.head != head,
        f"this database belongs to the profile {row.profile!r}, this process to {profile!r}": row.profile != profile,
        "the login of DATABASE_URL is a superuser or bypasses row-level security; production refuses it": row.powerful
        and profile == "production",
    }
    return [fault for fault, present in faults.items() if present]
