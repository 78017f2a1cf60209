"""The inbox as the worker sees it: what waits, what it has in hand, and how it goes home or to the dead letters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from core.database import enter_system, enter_tenant
from domain.saving import StreamInput
from repositories.saving.merge import merge_statement

SUSPICIOUS_ATTEMPTS: Final = 3
"""So often a worker may die with a row of the inbox in hand before its records are tried one by one."""

DEADLY_ATTEMPTS: Final = 5
"""So often before a record that is alone in its row is a dead letter."""

WORKER_SILENCE: Final = timedelta(seconds=12)
"""So long a worker may be silent, which says every four seconds that it is alive, before it counts as dead."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the inbox, without its body."""

    id: int
    records: int
    refused: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Line:
    """One record on its way, and where it comes from."""

    batch_id: UUID
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One record that is given up. ``whole`` is False where ``payload`` is only its beginning."""

    batch_id: UUID
    index: int
    code: str
    message: str
    payload: bytes
    sqlstate: str | None = None
    whole: bool = True


class InboxRepository:
    """The inbox, in transactions of the driver that change between the platform and one tenant."""

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver

    # --- as the platform ----------------------------------------------------------------------------

    async def get_streams(self) -> Mapping[tuple[str, int], int]:
        """How many records wait, by collection and shard."""
        await enter_system(self._driver)
        query = "SELECT collection, shard, sum(records)::bigint FROM record_inbox GROUP BY collection, shard"
        return {(row[0], row[1]): row[2] for row in await self._all(query)}

    async def get_waiting_tenants(self, stream: StreamInput, *, after: UUID) -> Sequence[UUID]:
        """Whose records wait in a stream: in order from behind one tenant on, and then round to it."""
        await enter_system(self._driver)
        query = """
            SELECT tenant_id FROM (
                SELECT DISTINCT tenant_id FROM record_inbox WHERE collection = %s AND shard = %s
            ) AS waiting
            ORDER BY tenant_id <= %s, tenant_id LIMIT 1000
        """
        return [row[0] for row in await self._all(query, [stream.collection, stream.shard, after])]

    async def let_go(self, worker_id: UUID, stream: StreamInput, *, besides: Collection[UUID]) -> None:
        """Forget the claims of a worker that it could not release, ``besides`` what it has in hand.

        ``besides`` is read once the transaction has begun, and younger claims are left alone, so that a claim which is
        made meanwhile is safe.
        """
        await enter_system(self._driver)
        query = """
            DELETE FROM record_claims WHERE worker_id = %s AND collection = %s AND shard = %s
              AND id <> ALL(%s) AND claimed_at < now()
        """
        await self._driver.execute(query, [worker_id, stream.collection, stream.shard, list(besides)])

    async def take_over_claims(self, worker_id: UUID, stream: StreamInput) -> int:
        """Count what dead workers had in hand against it; how many rows that were.

        Dead is a worker that has not said for a while that it is alive. What was in hand together can make its rows
        suspicious and no more, as only one of them is to blame; what was in hand alone is counted each time. Claims on
        rows that found their place meanwhile are forgotten.
        """
        await enter_system(self._driver)
        query = """
            WITH gone AS (
                DELETE FROM record_claims AS claim
                WHERE collection = %(collection)s AND shard = %(shard)s AND worker_id <> %(me)s AND (
                    NOT EXISTS (
                        SELECT FROM workers WHERE workers.id = claim.worker_id AND seen_at > now() - %(silence)s
                    )
                    OR NOT EXISTS (SELECT FROM record_inbox WHERE id = ANY(claim.pieces))
                )
                RETURNING pieces
            ), lost AS (
                SELECT piece, count(*) FILTER (WHERE cardinality(pieces) = 1) AS alone,
                       count(*) FILTER (WHERE cardinality(pieces) > 1) AS together
                FROM gone, unnest(pieces) AS piece GROUP BY piece
            )
            UPDATE record_inbox
            SET attempts = greatest(attempts, least(attempts + together, %(suspicious)s)) + alone
            FROM lost WHERE id = lost.piece
        """
        values = {
            "collection": stream.collection, "shard": stream.shard, "me": worker_id, "silence": WORKER_SILENCE,
            "suspicious": SUSPICIOUS_ATTEMPTS,
        }  # fmt: skip
        return (await self._driver.execute(query, values)).rowcount

    async def claim(self, claim_id: UUID, worker_id: UUID, stream: StreamInput, pieces: Sequence[int]) -> None:
        """Write down which rows a worker has in hand from now on."""
        await enter_system(self._driver)
        query = "INSERT INTO record_claims (id, worker_id, collection, shard, pieces) VALUES (%s, %s, %s, %s, %s)"
        await self._driver.execute(query, [claim_id, worker_id, stream.collection, stream.shard, list(pieces)])

    async def release(self, claim_id: UUID) -> None:
        """Nothing is in hand any more."""
        await enter_system(self._driver)
        await self._driver.execute("DELETE FROM record_claims WHERE id = %s", [claim_id])

    # --- as one tenant ------------------------------------------------------------------------------

    async def choose(
        self, tenant_id: UUID, stream: StreamInput, *, most_records: int, most_bytes: int, spare_suspicious: bool = True
    ) -> Sequence[Waiting]:
        """The oldest rows up to so many records and bytes, one at least.

        A suspicious one comes alone: once nothing else waits, or, unless it is to be spared, where it is the oldest.
        """
        await enter_tenant(self._driver, tenant_id)
        query = """
            SELECT id, records, refused, attempts, bytes FROM tenant_record_inbox
            WHERE collection = %(collection)s AND shard = %(shard)s AND tenant_id = %(tenant)s
              AND (attempts >= %(suspicious)s) = ANY(%(kinds)s)
            ORDER BY id LIMIT %(limit)s
        """
        values: dict[str, Any] = {
            "collection": stream.collection, "shard": stream.shard, "tenant": tenant_id,
            "suspicious": SUSPICIOUS_ATTEMPTS,
        }  # fmt: skip
        if not spare_suspicious:
            oldest = await self._all(query, {**values, "kinds": [True, False], "limit": 1})
            chosen = [Waiting(*piece) for *piece, _ in oldest]
            if chosen and chosen[0].attempts >= SUSPICIOUS_ATTEMPTS:
                return chosen
        found = await self._all(query, {**values, "kinds": [False], "limit": most_records})
        if not found:
            found = await self._all(query, {**values, "kinds": [True], "limit": 1})
        chosen = []
        records = length = 0
        for *piece, piece_bytes in found:
            chosen.append(Waiting(*piece))
            records, length = records + chosen[-1].records, length + piece_bytes
            if len(chosen) > 1 and (records > most_records or length > most_bytes):
                return chosen[:-1]
        return chosen

    async def lock(self, tenant_id: UUID, pieces: Sequence[int]) -> Sequence[Waiting]:
        """Those of the rows that are still there and that nobody else has in hand; they are ours until the end."""
        await enter_tenant(self._driver, tenant_id)
        query = """
            SELECT id, records, refused, attempts FROM tenant_record_inbox
            WHERE id = ANY(%s) ORDER BY id FOR UPDATE SKIP LOCKED
        """
        return [Waiting(*row) for row in await self._all(query, [list(pieces)])]

    async def merge(self, tenant_id: UUID, collection: str, pieces: Sequence[int]) -> int:
        """Bring the records of these rows home; how many records that were."""
        values = {"tenant": tenant_id, "pieces": list(pieces)}
        found = await self._all(merge_statement(collection, "inbox"), values)
        return sum(row[0] for row in found)

    async def merge_lines(self, tenant_id: UUID, collection: str, lines: Sequence[Line]) -> None:
        """Bring single records home, which are in rows that the caller has locked."""
        values = {
            "tenant": tenant_id,
            "batches": [line.batch_id for line in lines],
            "lines": [line.text for line in lines],
        }
        await self._all(merge_statement(collection, "lines"), values)

    async def load(self, pieces: Sequence[int]) -> Sequence[Any]:
        """Rows with their bodies."""
        cursor = self._driver.cursor(row_factory=namedtuple_row)
        query = (
            "SELECT id, batch_id, first_index, skipped, body FROM tenant_record_inbox WHERE id = ANY(%s) ORDER BY id"
        )
        await cursor.execute(query, [list(pieces)])
        return await cursor.fetchall()

    async def bury_refused(self, pieces: Sequence[int]) -> int:
        """Move what was refused at the door to the dead letters; how many records that were."""
        query = """
            WITH line AS MATERIALIZED (
                SELECT piece.tenant_id, piece.collection, piece.batch_id, text::jsonb AS told
                FROM tenant_record_inbox AS piece, LATERAL string_to_table(piece.body, E'\\n') AS text
                WHERE piece.id = ANY(%s)
            ), buried AS (
                INSERT INTO record_dead_letters
                    (tenant_id, collection, batch_id, position, code, message, payload, whole)
                SELECT tenant_id, collection, batch_id, (told ->> 'index')::bigint, told ->> 'code',
                       concat_ws(': ', nullif(told ->> 'pointer', ''), told ->> 'message'),
                       decode(told ->> 'payload', 'base64'), (told ->> 'whole')::boolean
                FROM line
            ), seen AS (SELECT batch_id, count(*) AS records FROM line GROUP BY batch_id)
            UPDATE record_batches AS batch SET dead = batch.dead + seen.records
            FROM seen WHERE batch.id = seen.batch_id RETURNING seen.records
        """
        return sum(row[0] for row in await self._all(query, [list(pieces)]))

    async def bury(self, tenant_id: UUID, collection: str, letter: Letter) -> None:
        """Make one record a dead letter. PostgreSQL has no reason to refuse it, whatever the record holds.

        Where a batch has accounted for all that it received, which takes a row that holds more lines than records, the
        letter is written and not counted.
        """
        query = """
            WITH buried AS (
                INSERT INTO record_dead_letters
                    (tenant_id, collection, batch_id, position, code, sqlstate, message, payload, whole)
                VALUES (%(tenant)s, %(collection)s, %(batch)s, %(index)s, %(code)s, %(sqlstate)s, %(message)s,
                        %(payload)s, %(whole)s)
            )
            UPDATE record_batches SET dead = dead + 1
            WHERE id = %(batch)s AND saved + deduplicated + dead < received
        """
        await self._driver.execute(query, {
            "tenant": tenant_id, "collection": collection, "batch": letter.batch_id, "index": letter.index,
            "code": letter.code, "sqlstate": letter.sqlstate, "message": letter.message, "payload": letter.payload,
            "whole": letter.whole,
        })  # fmt: skip

    async def split(self, piece: int) -> None:
        """Give every record of a row a row of its own, as suspicious as the old one and not yet deadly."""
        query = """
            INSERT INTO tenant_record_inbox
                (tenant_id, collection, shard, batch_id, first_index, records, bytes, attempts, accepted_at, body)
            SELECT tenant_id, collection, shard, batch_id,
                   first_index + place - 1 + (
                       SELECT count(*) FROM unnest(coalesce(skipped, '{}')) WITH ORDINALITY AS gap (at, number)
                       WHERE gap.at - gap.number + 1 <= place - 1
                   ),
                   1, octet_length(text), least(attempts, %(suspicious)s), accepted_at, text
            FROM tenant_record_inbox, LATERAL string_to_table(body, E'\\n') WITH ORDINALITY AS line (text, place)
            WHERE id = %(piece)s
        """
        await self._driver.execute(query, {"piece": piece, "suspicious": SUSPICIOUS_ATTEMPTS})
        await self.delete([piece])

    async def delete(self, pieces: Sequence[int]) -> None:
        """Take rows off the inbox: every record in them is accounted for."""
        await self._driver.execute("DELETE FROM tenant_record_inbox WHERE id = ANY(%s)", [list(pieces)])

    async def _all(self, query: str, values: Any = None) -> Sequence[Any]:
        # The text is always one of the constants above, or made of the names of our own tables.
        return await (await self._driver.execute(query, values)).fetchall()
