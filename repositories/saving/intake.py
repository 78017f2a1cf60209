"""Writing down what is about to be acknowledged, in one transaction: many records by COPY, few in one round trip."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg
from sqlalchemy import text

from core.database import Database, enter_system
from domain.saving_pieces import Piece

CHANNEL: Final = "longhaul_records"
"""NOTIFY channel; the payload is ``<collection>/<shard>/<records>``."""

_BULK_TIMEOUT: Final = "300s"

_COPY: Final = (
    "COPY record_inbox (tenant_id, collection, shard, batch_id, first_index, records, bytes, refused, skipped, body)"
    " FROM STDIN"
)
_ADD_BATCHES: Final = """
    INSERT INTO record_batches (id, tenant_id, collection, idempotency_key, request_hash, received, rejected, refusals)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::bytea[], %s::bigint[], %s::bigint[],
                         %s::jsonb[])
    ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
    RETURNING id
"""

# COPY cannot go out together with other statements. For a handful of records the way there and back would be most of
# what it takes to write them down; so all of it is one statement, as idempotent as those of ``write_batches``.
_WRITE_FEW: Final = text(
    """
    WITH wanted AS (
        SELECT * FROM json_to_recordset(CAST(:batches AS json)) AS batch (
            id uuid, tenant_id uuid, collection text, shard smallint, key text, request_hash text, received bigint,
            rejected bigint, refusals jsonb)
    ), busy AS MATERIALIZED (
        SELECT id FROM wanted
        WHERE key IS NOT NULL AND NOT pg_try_advisory_xact_lock(hashtextextended(
            'longhaul.records/' || tenant_id || '/' || key, 0))
    ), added AS (
        INSERT INTO record_batches
            (id, tenant_id, collection, idempotency_key, request_hash, received, rejected, refusals)
        SELECT id, tenant_id, collection, key, decode(request_hash, 'hex'), received, rejected, refusals FROM wanted
        WHERE id NOT IN (SELECT id FROM busy)
        ORDER BY tenant_id, key
        ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
        RETURNING id
    ), laid AS (
        INSERT INTO record_inbox
            (tenant_id, collection, shard, batch_id, first_index, records, bytes, refused, skipped, body)
        SELECT tenant_id, collection, shard, batch_id, first_index, records, bytes, refused,
               CAST(skipped AS integer[]), body
        FROM ROWS FROM (
            json_to_recordset(CAST(:pieces AS json)) AS (
                batch_id uuid, first_index bigint, records integer, bytes integer, refused boolean, skipped text,
                body text)
        ) WITH ORDINALITY AS piece (batch_id, first_index, records, bytes, refused, skipped, body, place)
        JOIN added ON added.id = batch_id
        JOIN wanted ON wanted.id = batch_id
        ORDER BY place
    ), told AS MATERIALIZED (
        SELECT pg_notify('longhaul_records', collection || '/' || shard || '/' || sum(received))
        FROM wanted JOIN added USING (id)
        GROUP BY collection, shard
    )
    SELECT ARRAY(SELECT id FROM added) AS new, ARRAY(SELECT id FROM busy) AS busy, (SELECT count(*) FROM told) AS told
    """
)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that was judged and is about to be written down. ``rows`` are made by ``inbox_row``."""

    id: UUID
    tenant_id: UUID
    collection: str
    shard: int
    key: str | None
    request_hash: bytes | None
    received: int
    rejected: int
    refusals: str
    rows: Iterable[bytes]


def shard_of(tenant_id: UUID, shards: int) -> int:
    """Which of ``shards`` streams brings home the records of a tenant."""
    return zlib.crc32(tenant_id.bytes) % shards


def row_prefix(tenant_id: UUID, collection: str, shard: int, batch_id: UUID) -> bytes:
    """What all rows of a batch begin with."""
    return f"{tenant_id}\t{collection}\t{shard}\t{batch_id}\t".encode()


def inbox_row(prefix: bytes, piece: Piece) -> bytes:
    """A piece as a row in the text format of COPY."""
    skipped = "{" + ",".join(map(str, piece.skipped)) + "}" if piece.skipped else r"\N"
    refused = "t" if piece.refused else "f"
    numbers = f"{piece.first_index}\t{piece.records}\t{len(piece.body)}\t{refused}\t{skipped}\t".encode()
    return b"".join((prefix, numbers, escaped(piece.body), b"\n"))


def escaped(text: bytes) -> bytes:
    """Text as a column in the text format of COPY; the backslash goes first."""
    if b"\\" in text:
        text = text.replace(b"\\", rb"\\")
    if b"\t" in text:
        text = text.replace(b"\t", rb"\t")
    if b"\r" in text:
        text = text.replace(b"\r", rb"\r")
    return text.replace(b"\n", rb"\n")


_PIECE_COLUMNS: Final = ("first_index", "records", "bytes", "refused", "skipped", "body")
_ESCAPED: Final = re.compile(rb"\\(.)")
_PLAIN: Final = {b"\\": b"\\", b"t": b"\t", b"r": b"\r", b"n": b"\n"}


def fields_of(row: bytes) -> list[str | None]:
    """The columns of a row that ``inbox_row`` has made, behind those of its prefix; the inverse of it."""
    _, _, _, _, *fields = row.removesuffix(b"\n").split(b"\t")
    return [None if one == rb"\N" else _ESCAPED.sub(lambda found: _PLAIN[found[1]], one).decode() for one in fields]


async def write_few(database: Database, batches: Sequence[NewBatch]) -> tuple[set[UUID], set[UUID]]:
    """Write small batches down in a transaction of their own; the ids of those that are new, and of the busy ones.

    One whose idempotency key is taken is neither: it was written before. One whose key another transaction has in hand
    is busy.
    """
    wanted = [
        {
            "id": batch.id, "tenant_id": batch.tenant_id, "collection": batch.collection, "shard": batch.shard,
            "key": batch.key, "request_hash": batch.request_hash and batch.request_hash.hex(),
            "received": batch.received, "rejected": batch.rejected, "refusals": orjson.Fragment(batch.refusals),
        }
        for batch in batches
    ]  # fmt: skip
    pieces = [
        {"batch_id": batch.id, **dict(zip(_PIECE_COLUMNS, fields_of(row), strict=True))}
        for batch in batches
        for row in batch.rows
    ]
    values = {"batches": orjson.dumps(wanted).decode(), "pieces": orjson.dumps(pieces).decode()}
    (((new, busy, _told),),) = await database.run_system((_WRITE_FEW, values))
    return set(new), set(busy)


async def lock_keys(driver: psycopg.AsyncConnection[Any], batches: Sequence[NewBatch]) -> set[UUID]:
    """Take the idempotency keys of batches for the caller's transaction; the ids of those whose key is another's now.

    To insert those would be to wait until that other transaction is over, and with it everybody who came along.
    """
    keyed = [batch for batch in batches if batch.key is not None]
    if not keyed:
        return set()
    query = """
        SELECT id FROM unnest(%s::uuid[], %s::text[]) AS wanted (id, key)
        WHERE NOT pg_try_advisory_xact_lock(hashtextextended('longhaul.records/' || key, 0))
    """
    keys = [f"{batch.tenant_id}/{batch.key}" for batch in keyed]
    cursor = await driver.execute(query, [[batch.id for batch in keyed], keys])
    return {row[0] for row in await cursor.fetchall()}


async def write_batches(driver: psycopg.AsyncConnection[Any], batches: Sequence[NewBatch], *, bulk: bool) -> set[UUID]:
    """Write batches with their records in the caller's transaction; the ids of those that are new.

    One whose idempotency key is taken is left out. ``bulk`` gives the statements minutes instead of seconds.
    """
    await enter_system(driver)
    if bulk:
        await driver.execute("SELECT set_config('statement_timeout', %s, true)", [_BULK_TIMEOUT])
    new = await _add_batches(driver, batches)
    async with driver.cursor().copy(_COPY) as copy:
        for batch in batches:
            if batch.id in new:
                for row in batch.rows:
                    await copy.write(row)
                    if bulk:
                        await asyncio.sleep(0)  # the driver gives way only where the server is slower than we are
    for stream, records in _by_stream(batches, new).items():
        await driver.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"{stream}/{records}"])
    return new


async def _add_batches(driver: psycopg.AsyncConnection[Any], batches: Sequence[NewBatch]) -> set[UUID]:
    # In the order of their keys: two processes that were sent the same ones wait for each other, not in a circle.
    ordered = sorted(batches, key=lambda batch: (batch.tenant_id, batch.key or ""))
    columns = zip(
        *(
            (batch.id, batch.tenant_id, batch.collection, batch.key, batch.request_hash, batch.received,
             batch.rejected, batch.refusals)
            for batch in ordered
        ),
        strict=True,
    )  # fmt: skip
    cursor = await driver.execute(_ADD_BATCHES, [list(column) for column in columns])
    return {row[0] for row in await cursor.fetchall()}


def _by_stream(batches: Sequence[NewBatch], new: set[UUID]) -> dict[str, int]:
    streams: dict[str, int] = {}
    for batch in batches:
        if batch.id in new:
            name = f"{batch.collection}/{batch.shard}"
            streams[name] = streams.get(name, 0) + batch.received
    return streams
