"""Records: how fast they are acknowledged and brought home, beside what PostgreSQL alone does with the same bytes."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import psycopg
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from activities.saving.flush import Flusher
from benchmarks import wire
from benchmarks.support import (
    ROOT,
    Bench,
    Finding,
    Load,
    load_process,
    median_ratio,
    percentile,
    resident_bytes,
    running,
)
from core.database import create_database
from core.ids import new_id
from domain.saving import StreamInput
from domain.saving_pieces import PieceMaker
from domain.saving_records import COLLECTIONS
from repositories.saving.intake import inbox_row, row_prefix
from repositories.saving.merge import merge_statement
from repositories.tables import messages
from services.stack.ports import free_port
from services.stack.processes import ChildProcess

_PATH: Final = "/api/v1/records/messages"
_LINES: Final = "application/x-ndjson"
_STREAM: Final = StreamInput(collection="messages", shard=0)
_COPY_COLUMNS: Final = (
    "(tenant_id, collection, shard, batch_id, first_index, records, bytes, refused, skipped, body) FROM STDIN"
)
_COMMIT_EVERY_SECONDS: Final = 0.02
_MESSAGE: Final = {
    "dialog_id": "dialog-17", "user_id": "user-4711", "role": "user", "model": "gpt-4.1-mini", "tokens": 123,
    "content": "The moon pulls the sea; the sea answers twice a day, and the quay knows.",
    "created_at": "2026-11-20T10:00:00Z",
}  # fmt: skip


def _record(number: int) -> bytes:
    return orjson.dumps({
        "id": str(uuid4()), **_MESSAGE, "dialog_id": f"dialog-{number % 5_000}", "user_id": f"user-{number % 500}",
    })  # fmt: skip


def lines_of(count: int, *, poison_every: int = 0) -> bytes:
    lines = [_record(number) for number in range(count)]
    if poison_every:
        lines[::poison_every] = [line.replace(b"quay", b"qu\\u0000y") for line in lines[::poison_every]]
    return b"\n".join(lines)


class BacklogError(RuntimeError):
    """So many records wait that no more are taken in now."""


class Bulk:
    """Whole bodies, against everything else that can be done with them. The worker does not run meanwhile."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._url = bench.stack.postgres.superuser_url.replace("+psycopg", "")
        self.records = 50_000 if bench.quick else 200_000
        self._few = 1_000 if bench.quick else 5_000
        self._tenant: UUID = new_id()

    async def post(self, body: bytes, *, on_error: str = "reject") -> float:
        """Seconds from the first byte to the 202. Raises BacklogError."""
        connection = await wire.connect(self._bench.port)
        head = wire.request(
            "POST", f"{_PATH}?on_error={on_error}", authorization=self._bench.key, content_type=_LINES,
            content_length=str(len(body)),
        )  # fmt: skip
        started = time.perf_counter()
        answer = await connection.ask(head + body)
        seconds = time.perf_counter() - started
        connection.close()
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise BacklogError(answer.body[:300])
        if answer.status != HTTPStatus.ACCEPTED:
            raise RuntimeError(answer.body[:300])
        return seconds

    async def empty_tables(self) -> None:
        """Ours as empty as those that we are compared with."""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute("TRUNCATE messages")

    async def prepare(self) -> None:
        """Tables equal to ours."""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute("CREATE TABLE benchmark_inbox (LIKE record_inbox INCLUDING ALL)")
            await connection.execute("CREATE TABLE benchmark_messages (LIKE messages INCLUDING ALL)")
            await connection.execute(
                "CREATE TABLE benchmark_lines (tenant_id uuid NOT NULL, batch_id uuid NOT NULL, index int, body text)"
            )
            await connection.execute(
                "CREATE TABLE benchmark_records (tenant_id uuid NOT NULL, batch_id uuid NOT NULL, body jsonb)"
            )
            await connection.execute("GRANT INSERT ON benchmark_records TO longhaul_app")

    def inbox_rows(self, body: bytes) -> list[bytes]:
        """What the API would write."""
        prefix = row_prefix(self._tenant, "messages", 0, new_id())
        maker = PieceMaker(COLLECTIONS["messages"], max_record_bytes=262_144)
        return [inbox_row(prefix, piece) for piece in [*maker.feed(body), *maker.finish()]]

    async def copy(self, table: str, rows: Sequence[bytes]) -> float:
        """Seconds of a plain COPY with its commit, the bytes being ready."""
        columns = _COPY_COLUMNS if table == "benchmark_inbox" else "FROM STDIN"
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            started = time.perf_counter()
            async with connection.cursor().copy(f"COPY {table} {columns}".encode()) as copy:
                for row in rows:
                    await copy.write(row)
            await connection.commit()
            seconds = time.perf_counter() - started
            await connection.execute(f"TRUNCATE {table}".encode())
        return seconds

    def line_rows(self, body: bytes) -> list[bytes]:
        """One row a record, in chunks as large as the pieces of the inbox."""
        ours = f"{self._tenant}\t{new_id()}\t".encode()
        rows = [
            b"%s%d\t%s\n" % (ours, number, line.replace(b"\\", rb"\\")) for number, line in enumerate(body.split(b"\n"))
        ]
        return [b"".join(rows[start : start + 1_000]) for start in range(0, len(rows), 1_000)]

    # --- what people do instead, in rows a second -----------------------------------------------------

    async def rate_of_inserts(self, *, new_connections: bool) -> float:
        """One INSERT and one commit a row; on a connection of its own each time, or on one."""
        count = self._few // 10 if new_connections else self._few
        rows = [_values(number) for number in range(count)]
        names = ", ".join(rows[0])
        places = ", ".join(f"%({name})s" for name in rows[0])
        query = f"INSERT INTO benchmark_messages ({names}) VALUES ({places})".encode()  # noqa: S608 - our own names
        started = time.perf_counter()
        if new_connections:
            for row in rows:
                async with await psycopg.AsyncConnection.connect(self._url) as connection:
                    await connection.execute(query, row)
        else:
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                for row in rows:
                    await connection.execute(query, row)
        return count / (time.perf_counter() - started)

    async def rate_of_executemany(self) -> float:
        """The driver's executemany, in one transaction."""
        rows = [_values(number) for number in range(self._few)]
        names = ", ".join(rows[0])
        places = ", ".join(f"%({name})s" for name in rows[0])
        query = f"INSERT INTO benchmark_messages ({names}) VALUES ({places})".encode()  # noqa: S608 - our own names
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            started = time.perf_counter()
            await connection.cursor().executemany(query, rows)
            await connection.commit()
            return self._few / (time.perf_counter() - started)

    async def rate_of_sqlalchemy(self) -> float:
        """SQLAlchemy's bulk INSERT, a thousand rows a statement, in one transaction."""
        rows = [_values(number) for number in range(self._few)]
        engine = create_async_engine(self._bench.stack.postgres.superuser_url)
        started = time.perf_counter()
        async with engine.begin() as connection:
            for start in range(0, len(rows), 1_000):
                await connection.execute(insert(messages).values(rows[start : start + 1_000]))
        seconds = time.perf_counter() - started
        await engine.dispose()
        return self._few / seconds

    # --- from the inbox to the tables -----------------------------------------------------------------

    async def flush(self) -> tuple[int, float]:
        """Bring home what waits, as the worker does; records and seconds."""
        database = create_database(
            self._bench.stack.postgres.runtime_url, pool_size=2, statement_timeout_seconds=60, application_name="bench"
        )
        try:
            flusher = Flusher(database, most_records=5_000)
            records, started = 0, time.perf_counter()
            for tenant_id in await flusher.get_waiting_tenants(_STREAM):
                while found := await flusher.flush(_STREAM, tenant_id):
                    records += found
            return records, time.perf_counter() - started
        finally:
            await database.close()

    async def merge(self, rows: Sequence[bytes]) -> float:
        """Seconds of the bare INSERT..SELECT of the same rows into an equal table, five pieces a transaction."""
        statement = merge_statement("messages", "inbox").partition("merged AS (")[2].partition("),\n        seen")[0]
        query = statement.replace("INTO messages", "INTO benchmark_messages")
        source = merge_statement("messages", "inbox").partition(",\n        merged")[0]
        whole = source.replace("tenant_record_inbox", "benchmark_inbox") + f" {query.replace('RETURNING batch_id', '')}"
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            async with connection.cursor().copy(f"COPY benchmark_inbox {_COPY_COLUMNS}".encode()) as copy:
                for row in rows:
                    await copy.write(row)
            found = await (await connection.execute("SELECT id FROM benchmark_inbox ORDER BY id")).fetchall()
            pieces = [row[0] for row in found]
            started = time.perf_counter()
            for start in range(0, len(pieces), 5):
                values = {"tenant": self._tenant, "pieces": pieces[start : start + 5]}
                await connection.execute(whole.encode(), values)
            seconds = time.perf_counter() - started
            await connection.execute("TRUNCATE benchmark_inbox, benchmark_messages")
        return seconds


def _values(number: int) -> dict[str, Any]:
    record = orjson.loads(_record(number))
    return {**record, "tenant_id": new_id(), "batch_id": new_id()}


async def run(bench: Bench) -> list[Finding]:
    """Millions: memory while they pass, then speed."""
    bulk = Bulk(bench)
    await bulk.prepare()
    findings = await _memory(bench, bulk)
    async with _without_worker(bench):
        return await _bulk(bench, bulk) + findings


async def run_singles(bench: Bench) -> list[Finding]:
    """One by one."""
    await Bulk(bench).prepare()
    async with _without_worker(bench):
        return await _singles(bench)


@asynccontextmanager
async def _without_worker(bench: Bench) -> AsyncIterator[None]:
    await asyncio.to_thread(bench.stack.worker.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(bench.stack.worker.start)


async def _bulk(bench: Bench, bulk: Bulk) -> list[Finding]:
    rounds = 3 if bench.quick else 7
    ours: list[float] = []
    equal: list[float] = []
    plain: list[float] = []
    clean: list[float] = []
    poisoned: list[float] = []
    home: list[float] = []
    merge: list[float] = []
    for number in range(rounds):
        body = lines_of(bulk.records)
        bench.say(f"round {number + 1} of {rounds}: {bulk.records:,} records, {len(body) / 1e6:.0f} MB")
        await bulk.empty_tables()
        rows, lines = bulk.inbox_rows(body), bulk.line_rows(body)
        measured: dict[str, float] = {}
        sides: list[tuple[str, Callable[[], Awaitable[float]]]] = [
            ("ours", partial(bulk.post, body)),
            ("equal", partial(bulk.copy, "benchmark_inbox", rows)),
            ("plain", partial(bulk.copy, "benchmark_lines", lines)),
        ]
        for name, side in sides if number % 2 == 0 else reversed(sides):
            measured[name] = await side()
        records, seconds = await bulk.flush()
        assert records == bulk.records
        ours.append(bulk.records / measured["ours"])
        equal.append(bulk.records / measured["equal"])
        plain.append(bulk.records / measured["plain"])
        home.append(bulk.records / seconds)
        merge.append(bulk.records / await bulk.merge(rows))
        clean.append(measured["ours"] + seconds)
        bad = lines_of(bulk.records, poison_every=100)
        poisoned.append(await bulk.post(bad, on_error="continue") + (await bulk.flush())[1])
    inserts = await bulk.rate_of_inserts(new_connections=False)
    connections = await bulk.rate_of_inserts(new_connections=True)
    rate = statistics.median(ours)
    return [
        Finding("bulk NDJSON to 202", rate, "records/s"),
        Finding("raw text COPY, one row a record", statistics.median(plain), "records/s"),
        Finding("raw text COPY, equal table", statistics.median(equal), "records/s"),
        Finding("ours / raw COPY, one row a record", median_ratio(ours, plain), "", at_least=0.35),
        Finding("ours / raw COPY, equal table", median_ratio(ours, equal), "", at_least=0.35),
        Finding("one INSERT a row", inserts, "records/s"),
        Finding("ours / one INSERT a row", rate / inserts, "x", at_least=20),
        Finding("one connection a row", connections, "records/s"),
        Finding("ours / one connection a row", rate / connections, "x", at_least=100),
        Finding("executemany", await bulk.rate_of_executemany(), "records/s"),
        Finding("SQLAlchemy bulk INSERT", await bulk.rate_of_sqlalchemy(), "records/s"),
        Finding("inbox to tables", statistics.median(home), "records/s"),
        Finding("inbox to tables / bare INSERT..SELECT", median_ratio(home, merge), "", at_least=0.5),
        Finding("1 % poison / clean, to the tables", median_ratio(poisoned, clean), "x", at_most=2),
    ]


async def _singles(bench: Bench) -> list[Finding]:
    rounds, count = (3, 1_500) if bench.quick else (7, 6_000)
    async with AsyncExitStack() as stack:
        load = await stack.enter_async_context(load_process())
        ports = {"ours": bench.port}
        for variant in ("nothing", "insert"):
            ports[variant] = free_port()
            child = _variant(bench, variant, ports[variant])
            await stack.enter_async_context(running(child))
        for port in ports.values():
            await _post(load, bench, port, 200)
        rates: dict[str, list[float]] = {name: [] for name in ports}
        tails: dict[str, list[float]] = {name: [] for name in ports}
        for number in range(rounds):
            bench.say(f"single records, round {number + 1} of {rounds}")
            names = list(ports) if number % 2 == 0 else list(reversed(ports))
            for name in names:
                measured = await _post(load, bench, ports[name], count)
                rates[name].append(count / measured["seconds"])
                tails[name].append(percentile(measured["served"], 0.99))
        half = statistics.median(rates["ours"]) / 2
        alone = await _commit_seconds(bench)
        half_tails: dict[str, list[float]] = {"ours": [], "nothing": [], "commit": []}
        for number in range(rounds):
            bench.say(f"half load, round {number + 1} of {rounds}")
            for name in ("ours", "nothing"):
                async with _committing(bench) as commits:
                    measured = await _post(load, bench, ports[name], count, rate=half)
                half_tails[name].append(percentile(measured["served"], 0.99))
                if name == "ours":
                    half_tails["commit"].append(percentile(commits, 0.99))
    middles = {name: 1_000 * statistics.median(tails) for name, tails in half_tails.items()}
    return [
        Finding("single records, 50 clients", statistics.median(rates["ours"]), "records/s"),
        Finding("the same route, nothing written", statistics.median(rates["nothing"]), "records/s"),
        Finding("the same route, one INSERT each", statistics.median(rates["insert"]), "records/s"),
        Finding("ours / nothing written", median_ratio(rates["ours"], rates["nothing"]), "", at_least=0.7),
        Finding("ours / one INSERT each, rate", median_ratio(rates["ours"], rates["insert"]), "", at_least=1),
        Finding("ours / one INSERT each, p99", median_ratio(tails["ours"], tails["insert"]), "", at_most=1),
        Finding("p99 at half load", middles["ours"], "ms"),
        Finding("p99 of the same route, nothing written", middles["nothing"], "ms"),
        Finding("p99 of one INSERT with commit beside it", middles["commit"], "ms"),
        Finding(
            "p99 at half load / p99 of one commit beside it",
            median_ratio(half_tails["ours"], half_tails["commit"]),
            "x",
            at_most=4,
        ),
        Finding("median of one INSERT with commit, nothing beside it", alone * 1_000, "ms"),
    ]


def _variant(bench: Bench, variant: str, port: int) -> ChildProcess:
    api = bench.stack.api
    arguments = ["-m", "benchmarks.saving_variants", str(port), variant]
    return ChildProcess(
        bench.stack.folder / f"variant-{variant}", argv=[api.argv[0], *arguments], env=api.env, cwd=ROOT, grace=5
    )


async def _post(load: Load, bench: Bench, port: int, count: int, **more: Any) -> dict[str, Any]:
    for _ in range(100):
        try:
            return await load.perform(
                "post", port=port, path=_PATH, key=bench.key, record=_MESSAGE, count=count, in_flight=50, **more
            )
        except RuntimeError as fault:
            if "refused" not in str(fault) and "Connect call failed" not in str(fault):
                raise
            await asyncio.sleep(0.1)
    raise RuntimeError("the variant did not come up")


async def _commit_seconds(bench: Bench) -> float:
    async with _connection(bench) as connection:
        return statistics.median([await _commit(connection) for _ in range(300)])


@asynccontextmanager
async def _committing(bench: Bench) -> AsyncIterator[list[float]]:
    """What one commit after the other takes meanwhile, in seconds."""
    seconds: list[float] = []

    async def commit() -> None:
        async with _connection(bench) as connection:
            while True:
                seconds.append(await _commit(connection))
                await asyncio.sleep(_COMMIT_EVERY_SECONDS)

    committing = asyncio.create_task(commit())
    try:
        yield seconds
    finally:
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)


@asynccontextmanager
async def _connection(bench: Bench) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    url = bench.stack.postgres.superuser_url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def _commit(connection: psycopg.AsyncConnection[Any]) -> float:
    started = time.perf_counter()
    await connection.execute("INSERT INTO benchmark_records VALUES (gen_random_uuid(), gen_random_uuid(), '{}')")
    return time.perf_counter() - started


async def _memory(bench: Bench, bulk: Bulk) -> list[Finding]:
    """Growth of both processes while records pass through, the worker at work."""
    total = 200_000 if bench.quick else 10_000_000
    children = {"API": bench.stack.api, "worker": bench.stack.worker}
    idle = {name: resident_bytes(child) for name, child in children.items()}
    most = dict(idle)
    database = create_database(
        bench.stack.postgres.runtime_url, pool_size=1, statement_timeout_seconds=60, application_name="bench"
    )
    flusher = Flusher(database, most_records=5_000)
    started, sent, refused = time.perf_counter(), 0, 0
    while sent < total or await flusher.get_waiting_tenants(_STREAM):
        try:
            if sent < total:
                await bulk.post(lines_of(bulk.records))
                sent += bulk.records
                continue
        except BacklogError:
            refused += 1
        finally:
            most = {name: max(most[name], resident_bytes(child)) for name, child in children.items()}
        await asyncio.sleep(1.0 if sent < total else 0.2)
    seconds = time.perf_counter() - started
    await database.close()
    bench.say(f"{total:,} records: {seconds:.0f} s")
    grown = [
        Finding(f"{name}: growth while {total:,} records passed", (most[name] - idle[name]) / 1e6, "MB", at_most=200)
        for name in children
    ]
    note = f"{refused} posts were told to come again later"
    return [*grown, Finding("end to end, HTTP to tables", total / seconds, "records/s", note=note)]
