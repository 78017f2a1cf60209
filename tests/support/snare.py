"""Holds a transaction right before one of its writes: the moment at which its process is to be killed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from tests.support.stack import RunningStack

_LOCK: Final = 4_242
_HOLD: Final = f"""
    CREATE FUNCTION snare() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_advisory_xact_lock_shared({_LOCK}); RETURN NEW; END$$
"""
_CAUGHT: Final = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
_END: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
)

Caught = Callable[[], Awaitable[None]]


@asynccontextmanager
async def snare(stack: RunningStack, table: str, condition: str) -> AsyncIterator[Caught]:
    """Within the block, the first write to the table for which the condition holds waits; ``caught`` waits for it.

    Leaving the block ends the transaction that waits without a commit, also where PostgreSQL was killed meanwhile.
    """
    async with await _connect(stack) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        await holder.execute(_HOLD)
        await holder.execute(
            f"CREATE TRIGGER snare BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({condition})"
            " EXECUTE FUNCTION snare()"
        )

        async def is_caught() -> bool:
            return await (await holder.execute(_CAUGHT, (_LOCK,))).fetchone() is not None

        async def caught() -> None:
            await stack.eventually(is_caught, timeout=180)

        try:
            yield caught
        finally:
            await stack.eventually(lambda: _let_go(stack), timeout=60)


async def _let_go(stack: RunningStack) -> bool:
    try:
        async with await _connect(stack) as connection:
            await connection.execute(_END, (_LOCK,))
            await connection.execute("DROP FUNCTION snare CASCADE")
    except psycopg.OperationalError:
        return False
    return True


async def _connect(stack: RunningStack) -> psycopg.AsyncConnection[tuple[object, ...]]:
    url = stack.postgres.superuser_url.replace("postgresql+psycopg", "postgresql")
    return await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10)


async def strike(stack: RunningStack, victim: str, table: str, condition: str, begin: Callable[[], None]) -> None:
    """Begin something, and SIGKILL the process (``api``, ``worker``, ``postgres``) when the snare has caught it."""
    process = getattr(stack, victim)
    async with snare(stack, table, condition) as caught:
        begin()
        await caught()
        process.kill()
        if victim == "postgres":
            await asyncio.to_thread(process.start)
    if victim != "postgres":
        await asyncio.to_thread(process.start)
