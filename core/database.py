"""The one way to the database: an engine, and units of work that are bound to a tenant.

A connection may do nothing until a unit of work has taken a role for the length of one transaction: the login role
inherits no rights. ``tenant`` takes the role under row-level security and names the tenant; ``system`` takes the role
of the dispatcher and the reconciler, which see a few tables of all tenants. Both end with the transaction, so nothing
leaks through the pool.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString, cast
from uuid import UUID

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import ClauseElement, Executable, Row, Select, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.compiler import SQLCompiler

from core.one_trip import OneTrip
from domain.errors import DatabaseUnavailable, SchemaMismatch

AnyRow = Row[*tuple[Any, ...]]
Statement = tuple[Executable, Mapping[str, Any]]
"""A constant statement, and the values of its parameters."""

APP_ROLE: Final = "longhaul_app"
SYSTEM_ROLE: Final = "longhaul_system"
REQUIRED_SERVER_VERSION: Final = 180_000

_PROGRAM_LIMIT: Final = "54"  # what was asked is too much, whoever asks: not the server's trouble
_READ_ONLY: Final = psycopg.errors.ReadOnlySqlTransaction  # not an OperationalError to the driver
_CANNOT_WRITE: Final = "the database takes no writes at present: it is a standby, or was made read-only"
_CALM: Final = frozenset({TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR})

_enter_tenant = text("SELECT set_config('role', 'longhaul_app', true), set_config('app.tenant_id', :tenant, true)")
_ENTER_TENANT_RAW: Final = "SELECT set_config('role', 'longhaul_app', true), set_config('app.tenant_id', %s, true)"
_ENTER_SYSTEM_RAW: Final = "SELECT set_config('role', 'longhaul_system', true)"
_enter_system = text(_ENTER_SYSTEM_RAW)


class Database:
    """A pool of connections and the two kinds of transaction there are.

    Every method that touches the server raises DatabaseUnavailable where it cannot be reached.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._statements: dict[Executable, _Compiled] = {}

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
            if isinstance(fault.orig, _READ_ONLY):
                raise DatabaseUnavailable(_CANNOT_WRITE) from fault
            raise

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """One transaction on the driver itself, for what SQLAlchemy does not speak, such as COPY.

        It has taken no role yet: ``enter_system`` and ``enter_tenant`` do, and may follow each other. The driver's
        own errors pass, but for those that say that the server is away.
        """
        try:
            async with self.engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                assert isinstance(driver, psycopg.AsyncConnection)
                try:
                    yield driver
                    await driver.commit()
                except BaseException:
                    await _give_up(connection, driver)
                    raise
        except (OperationalError, InterfaceError, PoolTimeoutError, psycopg.InterfaceError) as fault:
            raise DatabaseUnavailable("the database cannot be reached or is overloaded") from fault
        except _READ_ONLY as fault:
            raise DatabaseUnavailable(_CANNOT_WRITE) from fault
        except psycopg.OperationalError as fault:
            if (fault.sqlstate or "").startswith(_PROGRAM_LIMIT):
                raise
            raise DatabaseUnavailable("the database cannot be reached, refuses or is overloaded") from fault

    async def read(self, tenant_id: UUID, query: Select[Any], **parameters: Any) -> Sequence[AnyRow]:
        """The rows of one query on behalf of a tenant, in a single round trip; for what is asked most often.

        ``query`` must be a constant with its parameters named by ``bindparam``.
        """
        return (await self.run(tenant_id, (query, parameters)))[0]

    async def run(self, tenant_id: UUID, *statements: Statement) -> list[Sequence[AnyRow]]:
        """The rows of each statement; all of them one transaction on behalf of a tenant, in a single round trip.

        Role, tenant and statements go out together, and what goes out together without a BEGIN is one transaction to
        PostgreSQL: the settings end with it, and where one statement fails nothing is done. Statements must be
        constants, because they are compiled once; what one of them depends on of another, it has to ask in SQL.
        """
        if self._is_traced():
            async with self.tenant(tenant_id) as connection:
                return await _run_one_by_one(connection, statements)
        return await self._run(_ENTER_TENANT_RAW, [str(tenant_id)], statements)

    async def run_system(self, *statements: Statement) -> list[Sequence[AnyRow]]:
        """As ``run``, on behalf of the platform itself."""
        if self._is_traced():
            async with self.system() as connection:
                return await _run_one_by_one(connection, statements)
        return await self._run(_ENTER_SYSTEM_RAW, [], statements)

    def _is_traced(self) -> bool:
        """Then the usual way is the one with spans."""
        return bool(self.engine.sync_engine.dispatch.before_cursor_execute)

    async def _run(
        self, enter: LiteralString, who: Sequence[str], statements: Sequence[Statement]
    ) -> list[Sequence[AnyRow]]:
        plain = [self._compiled(statement).bind(values) for statement, values in statements]
        try:
            async with self.engine.connect() as connection:
                return await self._run_pipelined(connection, enter, who, plain)
        except (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError) as fault:
            raise DatabaseUnavailable("the database cannot be reached or is overloaded") from fault
        except _READ_ONLY as fault:
            raise DatabaseUnavailable(_CANNOT_WRITE) from fault

    async def _run_pipelined(
        self, connection: AsyncConnection, enter: LiteralString, who: Sequence[str],
        statements: Sequence[tuple[str, Mapping[str, Any]]],
    ) -> list[Sequence[AnyRow]]:  # fmt: skip
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        try:
            await driver.set_autocommit(True)
            cursors = []
            async with OneTrip(driver):
                await driver.execute(enter, who)
                for statement, values in statements:
                    cursor = driver.cursor(row_factory=namedtuple_row)
                    await cursor.execute(statement, values)
                    cursors.append(cursor)
            # Only now: fetching inside the pipeline would make further round trips.
            rows = [[] if cursor.description is None else await cursor.fetchall() for cursor in cursors]
            await driver.set_autocommit(False)
        except BaseException:
            # Half a conversation is no state to give back to a pool.
            await connection.invalidate()
            raise
        return cast("list[Sequence[AnyRow]]", rows)

    def _compiled(self, statement: Executable) -> "_Compiled":
        compiled = self._statements.get(statement)
        if compiled is None:
            compiled = self._statements[statement] = _Compiled.of(statement, self.engine)
        return compiled

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self.engine.dispose()


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement as the driver takes it, and how the values of its parameters are turned into the driver's."""

    compiled: SQLCompiler
    processors: Mapping[str, Callable[[Any], Any]]

    @classmethod
    def of(cls, statement: Executable, engine: AsyncEngine) -> "_Compiled":
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=engine.dialect)
        assert isinstance(compiled, SQLCompiler)
        found = {
            name: parameter.type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
            for name, parameter in compiled.binds.items()
        }
        return cls(compiled, {name: processor for name, processor in found.items() if processor is not None})

    def bind(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """The statement's text with the values for this time."""
        given = dict(self.compiled.construct_params(values))
        for name, processor in self.processors.items():
            given[name] = processor(given[name])
        return self.compiled.string, given


async def _run_one_by_one(connection: AsyncConnection, statements: Sequence[Statement]) -> list[Sequence[AnyRow]]:
    results = [await connection.execute(statement, values) for statement, values in statements]
    return [result.all() if result.returns_rows else [] for result in results]


async def enter_system(driver: psycopg.AsyncConnection[Any]) -> None:
    """Go on as the platform, until the transaction ends or takes another role."""
    await driver.execute(_ENTER_SYSTEM_RAW)


async def enter_tenant(driver: psycopg.AsyncConnection[Any], tenant_id: UUID) -> None:
    """Go on as one tenant, until the transaction ends or takes another role."""
    await driver.execute(_ENTER_TENANT_RAW, [str(tenant_id)])


async def _give_up(connection: AsyncConnection, driver: psycopg.AsyncConnection[Any]) -> None:
    """Undo what the transaction did; a connection in the middle of something is no state to give back to a pool."""
    if driver.closed or driver.info.transaction_status not in _CALM:
        await connection.invalidate()
    else:
        await driver.rollback()


def create_database(url: str, *, pool_size: int, statement_timeout_seconds: float, application_name: str) -> Database:
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
