"""From the inbox to the tables: claim, merge, count and delete in one transaction; isolate what is poison."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from core.database import Database
from core.ids import new_id
from domain.errors import DatabaseUnavailable, SavingHalted
from domain.saving import StreamInput, Verdict, verdict_of
from domain.saving_pieces import index_of
from repositories.saving.inbox import DEADLY_ATTEMPTS, SUSPICIOUS_ATTEMPTS, InboxRepository, Letter, Line, Waiting

_log = structlog.get_logger(__name__)

CRASHED: Final = "E.RECORD.CRASHED"
REFUSED: Final = "E.RECORD.REFUSED"
_HALTED: Final = "PostgreSQL refuses to save, whatever the records (SQLSTATE {}); a person has to look"


_MERGE_BYTES: Final = 16_777_216
_SUSPICIOUS_EVERY: Final = 10  # choices for a tenant; fresh records that keep coming must not hold it up for ever
_TOO_MUCH_AT_ONCE: Final = ("57014", "53200")  # it took too long, or too much memory
_MOST_HALVINGS: Final = 20
_AWAY: Final = ("08", "53", "57P", "25006")
_INT8: Final = 2**63 - 1
_NOBODY: Final = UUID(int=0)


class Flusher:
    """Brings home what waits for one tenant in one stream, so many records and bytes at a time.

    ``worker_id`` is the process that it works in, under the name by which the process says that it is alive. A flusher
    that is given none has one of its own, which never does.
    """

    def __init__(self, database: Database, *, most_records: int, worker_id: UUID | None = None) -> None:
        self._database = database
        self._most_records = most_records
        self._worker_id = worker_id or new_id()
        self._in_hand: set[UUID] = set()
        self._halvings: dict[tuple[str, UUID], int] = {}
        self._choices: dict[tuple[str, UUID], int] = {}
        self._served: dict[tuple[str, int], UUID] = {}

    async def get_waiting_tenants(self, stream: StreamInput) -> Sequence[UUID]:
        """Whose records wait, from behind the tenant that was served last on: everybody's turn comes."""
        after = self._served.get((stream.collection, stream.shard), _NOBODY)
        async with self._database.driver() as driver:
            return await InboxRepository(driver).get_waiting_tenants(stream, after=after)

    async def take_over(self, stream: StreamInput) -> None:
        """Count against the rows that dead workers had in hand that these did not come back."""
        async with self._database.driver() as driver:
            inbox = InboxRepository(driver)
            await inbox.let_go(self._worker_id, stream, besides=self._in_hand)
            lost = await inbox.take_over_claims(self._worker_id, stream)
        if lost:
            _log.warning("saving.worker_lost", collection=stream.collection, shard=stream.shard, pieces=lost)

    async def flush(self, stream: StreamInput, tenant_id: UUID) -> int:
        """One transaction's worth; how many records found their place.

        Raises DatabaseUnavailable, SavingHalted, and psycopg.Error for what may pass by itself. What took too long is
        half as much the next time, until nothing of the tenant waits any more.
        """
        claim_id = new_id()
        self._in_hand.add(claim_id)
        self._served[stream.collection, stream.shard] = tenant_id
        try:
            return await self._claim_and_settle(claim_id, stream, tenant_id)
        except (Exception, asyncio.CancelledError) as fault:
            # We are alive: what we had in hand is not to be counted as a death.
            await asyncio.shield(self._release(claim_id))
            sqlstate = sqlstate_of(fault)
            if sqlstate in _TOO_MUCH_AT_ONCE:
                key = stream.collection, tenant_id
                self._halvings[key] = min(self._halvings.get(key, 0) + 1, _MOST_HALVINGS)
            if sqlstate is not None and verdict_of(sqlstate) is Verdict.STOP:
                raise SavingHalted(_HALTED.format(sqlstate)) from None
            raise
        finally:
            self._in_hand.discard(claim_id)

    async def _claim_and_settle(self, claim_id: UUID, stream: StreamInput, tenant_id: UUID) -> int:
        key = stream.collection, tenant_id
        halvings = self._halvings.get(key, 0)
        most_records, most_bytes = max(self._most_records >> halvings, 1), _MERGE_BYTES >> halvings
        self._choices[key] = choices = self._choices.get(key, 0) + 1
        async with self._database.driver() as driver:
            inbox = InboxRepository(driver)
            chosen = await inbox.choose(
                tenant_id, stream, most_records=most_records, most_bytes=most_bytes,
                spare_suspicious=choices % _SUSPICIOUS_EVERY != 0,
            )  # fmt: skip
            if not chosen:
                self._halvings.pop(key, None)
                return 0
            await inbox.claim(claim_id, self._worker_id, stream, [piece.id for piece in chosen])
        async with self._database.driver() as driver:
            inbox = InboxRepository(driver)
            await inbox.release(claim_id)
            return await self._settle(inbox, driver, stream, tenant_id, [piece.id for piece in chosen])

    async def _release(self, claim_id: UUID) -> None:
        try:
            async with self._database.driver() as driver:
                await InboxRepository(driver).release(claim_id)
        except (psycopg.Error, DatabaseUnavailable) as fault:
            # It has our name on it: our next take_over lets go of it, and nobody else does while we live.
            _log.warning("saving.claim_left", sqlstate=sqlstate_of(fault))

    async def _settle(
        self,
        inbox: InboxRepository,
        driver: psycopg.AsyncConnection[tuple[object, ...]],
        stream: StreamInput,
        tenant_id: UUID,
        pieces: Sequence[int],
    ) -> int:
        mine = await inbox.lock(tenant_id, pieces)
        if len(mine) == 1 and mine[0].attempts >= SUSPICIOUS_ATTEMPTS:
            return await self._settle_suspicious(inbox, driver, stream, tenant_id, mine[0])
        refused = [piece.id for piece in mine if piece.refused]
        good = [piece.id for piece in mine if not piece.refused]
        records = await self._bury_refused(inbox, driver, stream.collection, tenant_id, refused) if refused else 0
        if good:
            try:
                async with driver.transaction():
                    records += await inbox.merge(tenant_id, stream.collection, good)
            except psycopg.Error as fault:
                if verdict_of(fault.sqlstate) is not Verdict.POISON:
                    raise
                records += await self._isolate(inbox, driver, stream.collection, tenant_id, good)
        if mine:
            await inbox.delete([piece.id for piece in mine])
        return records

    async def _settle_suspicious(
        self,
        inbox: InboxRepository,
        driver: psycopg.AsyncConnection[tuple[object, ...]],
        stream: StreamInput,
        tenant_id: UUID,
        piece: Waiting,
    ) -> int:
        """Workers died with this row in hand: take it apart, and give a record up that is deadly alone."""
        if piece.records > 1 and not piece.refused:
            await inbox.split(piece.id)
            return piece.records
        if piece.refused:
            await self._bury_refused(inbox, driver, stream.collection, tenant_id, [piece.id])
        elif piece.attempts >= DEADLY_ATTEMPTS:
            message = f"{piece.attempts} workers died while they were saving it"
            for line in await self._lines(inbox, [piece.id]):
                letter = Letter(line.batch_id, line.index, CRASHED, message, line.text.encode())
                await inbox.bury(tenant_id, stream.collection, letter)
        else:
            await self._isolate(inbox, driver, stream.collection, tenant_id, [piece.id])
        await inbox.delete([piece.id])
        return piece.records

    async def _bury_refused(
        self,
        inbox: InboxRepository,
        driver: psycopg.AsyncConnection[tuple[object, ...]],
        collection: str,
        tenant_id: UUID,
        pieces: Sequence[int],
    ) -> int:
        """Move what was refused at the door to the dead letters; one by one where PostgreSQL refuses to read of it."""
        try:
            async with driver.transaction():
                return await inbox.bury_refused(pieces)
        except psycopg.Error as fault:
            if verdict_of(fault.sqlstate) is not Verdict.POISON:
                raise
        letters = [
            _letter(piece, place, told)
            for piece in await inbox.load(pieces)
            for place, told in enumerate(piece.body.split("\n"))
        ]
        for letter in letters:
            await inbox.bury(tenant_id, collection, letter)
        return len(letters)

    async def _isolate(
        self,
        inbox: InboxRepository,
        driver: psycopg.AsyncConnection[tuple[object, ...]],
        collection: str,
        tenant_id: UUID,
        pieces: Sequence[int],
    ) -> int:
        """Save what can be saved: halve what PostgreSQL refuses until each record that it means is alone."""
        lines = await self._lines(inbox, pieces)
        waiting = [lines]
        while waiting:
            part = waiting.pop()
            try:
                async with driver.transaction():
                    await inbox.merge_lines(tenant_id, collection, part)
            except psycopg.Error as fault:
                if verdict_of(fault.sqlstate) is not Verdict.POISON:
                    raise
                if len(part) == 1:
                    [line] = part
                    letter = Letter(
                        line.batch_id, line.index, REFUSED, _reason(fault), line.text.encode(), sqlstate=fault.sqlstate
                    )
                    await inbox.bury(tenant_id, collection, letter)
                else:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
        return len(lines)

    async def _lines(self, inbox: InboxRepository, pieces: Sequence[int]) -> list[Line]:
        return [
            Line(piece.batch_id, index_of(piece.first_index, piece.skipped or (), place), text)
            for piece in await inbox.load(pieces)
            for place, text in enumerate(piece.body.split("\n"))
        ]


def sqlstate_of(fault: BaseException) -> str | None:
    """The SQLSTATE behind a fault; None where PostgreSQL has not spoken."""
    if isinstance(fault, DatabaseUnavailable) and fault.__cause__ is not None:
        return sqlstate_of(fault.__cause__)
    return fault.sqlstate if isinstance(fault, psycopg.Error) else None


def is_one_tenants(fault: psycopg.Error | DatabaseUnavailable) -> bool:
    """Whether a fault says nothing of what waits for other tenants: PostgreSQL is there and answers."""
    sqlstate = sqlstate_of(fault)
    return isinstance(fault, psycopg.Error) if sqlstate is None else not sqlstate.startswith(_AWAY)


def _letter(piece: Any, place: int, told: str) -> Letter:
    """The dead letter for one line of a refused row, whatever stands in it; see ``refused_line``."""
    try:
        refusal = json.loads(told)
        message = ": ".join(part for part in (refusal["pointer"], refusal["message"]) if part)
        payload = base64.b64decode(refusal["payload"])
        if 0 <= refusal["index"] <= _INT8:
            return Letter(
                piece.batch_id, refusal["index"], _plain(refusal["code"]), _plain(message), payload,
                whole=bool(refusal["whole"]),
            )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        _log.warning("saving.refusal_unreadable", batch_id=str(piece.batch_id), place=place)
    return Letter(piece.batch_id, piece.first_index + place, REFUSED, "was refused at the door", told.encode())


def _plain(text: str) -> str:
    """A text that PostgreSQL takes: without NUL and without lone surrogates."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _reason(fault: psycopg.Error) -> str:
    """What PostgreSQL says without the values: its first line, and the constraint where there is one."""
    diagnosis = fault.diag
    if diagnosis.constraint_name:
        return f"violates the constraint {diagnosis.constraint_name}"
    name = type(fault).__name__
    column = f" in the column {diagnosis.column_name}" if diagnosis.column_name else ""
    return f"PostgreSQL refuses it: {name}{column}"
