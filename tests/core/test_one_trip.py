import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from core.one_trip import OneTrip
from services.stack.postgres import EmbeddedPostgres


class Relay:
    """Between a client and a server, and knows in how many pieces the client has said what it said."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.pieces: list[bytes] = []
        self.is_over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        from_server, to_server = await asyncio.open_unix_connection(self._server)
        back = asyncio.create_task(_pass_on(from_server, writer))
        while piece := await reader.read(1 << 20):
            self.pieces.append(piece)
            to_server.write(piece)
        await _closed(to_server)
        await back
        self.is_over.set()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 20):
        writer.write(piece)
    await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def relay(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Relay]:
    """Where ``connection`` passes."""
    parts = psycopg.conninfo.conninfo_to_dict(_plain(postgres))
    relay = Relay(f"{parts['host']}/.s.PGSQL.{parts.get('port', 5432)}")
    async with await asyncio.start_unix_server(relay.serve, tmp_path / ".s.PGSQL.5432"):
        yield relay


@pytest.fixture
async def connection(
    relay: Relay, postgres: EmbeddedPostgres, tmp_path: Path
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """With a table to write to."""
    async with await psycopg.AsyncConnection.connect(
        _plain(postgres), host=str(tmp_path), port=5432, autocommit=True
    ) as made:
        await made.execute("CREATE TEMP TABLE trips (place int PRIMARY KEY)")
        yield made
    await relay.is_over.wait()


def _plain(postgres: EmbeddedPostgres) -> str:
    return postgres.superuser_url.replace("+psycopg", "")


async def _places(connection: psycopg.AsyncConnection[Any]) -> list[int]:
    return [row[0] for row in await (await connection.execute("SELECT place FROM trips ORDER BY place")).fetchall()]


async def _trip(connection: psycopg.AsyncConnection[Any], *statements: LiteralString) -> None:
    """One argument too many where there is any."""
    async with OneTrip(connection):
        for statement in statements:
            await connection.execute(statement, [1, 2] if "%s" in statement else None)


class TestOneTrip:
    async def test_everything_goes_out_in_one_piece(
        self, connection: psycopg.AsyncConnection[Any], relay: Relay
    ) -> None:
        """Also a statement that was prepared before, and one that is prepared now."""
        for number in range(8):
            relay.pieces.clear()
            async with OneTrip(connection):
                await connection.execute("SELECT set_config('app.place', %s, true)", [str(number)])
                await connection.execute("INSERT INTO trips VALUES (%s)", [number])
                cursor = await connection.execute("SELECT current_setting('app.place'), count(*) FROM trips")
            assert len(relay.pieces) == 1
            assert await cursor.fetchall() == [(str(number), number + 1)]

    async def test_what_is_larger_than_the_buffers_arrives(self, connection: psycopg.AsyncConnection[Any]) -> None:
        text = "x" * 3_000_000
        async with OneTrip(connection):
            cursors = [await connection.execute("SELECT %s::text", [text + str(number)]) for number in range(3)]
        assert [await cursor.fetchone() for cursor in cursors] == [(text + str(number),) for number in range(3)]

    async def test_it_is_one_transaction(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Where one statement fails nothing is done, and the connection is as good as before."""
        for _ in range(7):  # the plain statements are prepared on the way
            with pytest.raises(psycopg.errors.DivisionByZero):
                await _trip(connection, "INSERT INTO trips VALUES (1)", "SELECT 1 / 0", "INSERT INTO trips VALUES (2)")
            assert connection.info.transaction_status is TransactionStatus.IDLE
            assert await _places(connection) == []

    async def test_nothing_goes_out_where_it_is_left_by_an_exception(
        self, connection: psycopg.AsyncConnection[Any], relay: Relay
    ) -> None:
        relay.pieces.clear()
        with pytest.raises(psycopg.ProgrammingError, match="placeholders"):
            await _trip(connection, "INSERT INTO trips VALUES (1)", "INSERT INTO trips VALUES (%s)")
        await connection.close()
        assert not any(b"INSERT" in piece for piece in relay.pieces)

    async def test_there_are_no_results_before_its_end(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """It says so, and does not wait for them for good."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(OneTrip(connection))
            cursor = await connection.execute("SELECT 1")
            with pytest.raises(psycopg.ProgrammingError, match="before the trip is over"):
                await cursor.fetchall()
