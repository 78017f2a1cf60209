"""Every query of the read side on a million messages: it uses its index, and reads no table from end to end.

The rows are made by one INSERT..SELECT in a database of their own, once a session.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, create_database
from core.ids import new_id
from repositories.saving.reads import RecordReader
from services.schema import migrate
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser

MESSAGES, USERS = 1_000_000, 200_000
MINE = UUID("01900000-0000-7000-8000-000000000001")

_FILL = (
    """
    INSERT INTO messages (tenant_id, id, dialog_id, user_id, role, content, created_at, model, tokens, status,
                          processing_ms, batch_id)
    SELECT CASE WHEN n %% 2 = 0 THEN %(mine)s ELSE %(other)s END, uuidv7(), 'dialog-' || n / 20, 'user-' || n / 400,
           CASE WHEN n %% 4 < 2 THEN 'user' ELSE 'assistant' END, 'x',
           timestamptz '2026-01-01 UTC' + n * interval '25 seconds',
           CASE WHEN n %% 4 < 2 THEN NULL ELSE 'model-' || n %% 7 END, CASE WHEN n %% 4 < 2 THEN NULL ELSE n %% 900 END,
           CASE WHEN n %% 1000 < 2 THEN 'failed' ELSE NULL END, n %% 5000, %(mine)s
    FROM generate_series(1, %(messages)s) AS n
    """,
    """
    INSERT INTO users (tenant_id, id, version, premium, blocked, last_active_at, batch_id)
    SELECT CASE WHEN n %% 2 = 0 THEN %(mine)s ELSE %(other)s END, 'user-' || n, 1, n %% 50 < 2, n %% 500 < 2,
           timestamptz '2026-01-01 UTC' + n * interval '1 minute', %(mine)s
    FROM generate_series(1, %(users)s) AS n
    """,
)
_INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('messages', 'users') AND indexname LIKE 'ix_%'"
)


@pytest.fixture(scope="session")
async def full(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A database with a million messages of two tenants."""
    name = f"test_{new_id().hex}"
    with superuser(postgres) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = postgres.superuser_url.replace(f"/{postgres.database}?", f"/{name}?")
    migrate(url, profile="development")
    values = {"mine": MINE, "other": new_id(), "messages": MESSAGES, "users": USERS}
    with superuser(postgres, name) as connection:
        # Built afterwards, indexes take a tenth of the time.
        indexes = connection.execute(_INDEXES).fetchall()
        for index, _ in indexes:
            connection.execute(f"DROP INDEX {index}".encode())
        for statement in _FILL:
            connection.execute(statement.encode(), values)
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute("VACUUM ANALYZE messages, users")
    runtime = postgres.runtime_url.replace(f"/{postgres.database}?", f"/{name}?")
    made = create_database(runtime, pool_size=2, statement_timeout_seconds=60, application_name="tests")
    yield made
    await made.close()
    with superuser(postgres) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


SINCE, UNTIL = date(2026, 10, 1), date(2026, 10, 3)
Query = Callable[[RecordReader], Awaitable[Any]]

QUERIES: dict[str, tuple[Query, str]] = {
    "a user's latest dialogs": (lambda r: r.get_latest_dialogs("user-2000", limit=20), "ix_messages_user_dialogs"),
    "messages of a dialog": (lambda r: r.get_messages("dialog-40000", limit=50, before=None), "ix_messages_dialog"),
    "messages of a dialog, further back": (
        lambda r: r.get_messages("dialog-40000", limit=5, before=(datetime(2027, 1, 1, tzinfo=UTC), MINE)),
        "ix_messages_dialog",
    ),
    "daily statistics": (lambda r: r.get_daily_statistics(SINCE, UNTIL), "ix_messages_usage"),
    "tokens by user": (lambda r: r.get_tokens_by_user(SINCE, UNTIL, limit=20), "ix_messages_usage"),
    "tokens of one user": (
        lambda r: r.get_tokens_of_user("user-2000", date(2026, 1, 1), date(2026, 12, 31)),
        "ix_messages_user_tokens",
    ),
    "tokens by model": (lambda r: r.get_tokens_by_model(None, SINCE, UNTIL), "ix_messages_model"),
    "tokens of one model": (lambda r: r.get_tokens_by_model("model-3", SINCE, UNTIL), "ix_messages_model"),
    "status and processing time": (lambda r: r.get_slowest("failed", limit=20), "ix_messages_status"),
    "active premium users": (lambda r: r.get_active_users(limit=50, premium=True), "ix_users_premium"),
    "last activity": (lambda r: r.get_active_users(limit=50, premium=False), "ix_users_last_active"),
    "blocked users": (lambda r: r.get_blocked_users(limit=50, after="user-5"), "ix_users_blocked"),
}


@contextmanager
def explained(connection: AsyncConnection) -> Iterator[list[str]]:
    """Whatever is asked inside is explained, and run as well; the plans."""
    plans: list[str] = []
    assert connection.sync_connection is not None

    def explain(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}", parameters)
        plans.append("\n".join(row[0] for row in cursor.fetchall()))

    event.listen(connection.sync_connection, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(connection.sync_connection, "before_cursor_execute", explain)


class TestPlans:
    @pytest.mark.parametrize("name", QUERIES)
    async def test_uses_its_index(self, full: Database, name: str) -> None:
        """Index used, no sequential scan, and only a small part of the million rows looked at."""
        ask, index = QUERIES[name]
        async with full.tenant(MINE) as connection:
            with explained(connection) as plans:
                found = await ask(RecordReader(connection, MINE))
        [plan] = plans
        assert f" {index} " in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "Rows Removed by Filter" not in plan or _most_removed(plan) < 10_000, plan
        assert found is not None

    async def test_every_index_has_its_query(self, full: Database) -> None:
        """No index of these tables is there for nothing."""
        async with full.tenant(MINE) as connection:
            query = "SELECT indexname FROM pg_indexes WHERE tablename IN ('messages', 'users')"
            there = set((await connection.execute(text(query))).scalars())
        assert there == {index for _, index in QUERIES.values()} | {"pk_messages", "pk_users"}


def _most_removed(plan: str) -> int:
    lines = [line for line in plan.split("\n") if "Rows Removed by Filter" in line]
    return max(int(float(line.rpartition(":")[2])) for line in lines)
