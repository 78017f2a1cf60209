"""Taking records in: judged as they come, written together with whatever else waits, acknowledged once committed.

Nobody is made to wait for company. A writer takes everything that came while its last transaction was under way: alone
a request is written at once, under load hundreds share one commit. Temporal has no part in it.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson
import structlog

from core.database import Database
from core.ids import new_id
from domain.errors import (
    DatabaseUnavailable,
    FieldFault,
    IdempotencyMismatch,
    InboxFull,
    InvalidInput,
    MalformedBody,
    NotFound,
    RecordsRejected,
)
from domain.saving import OnError, Refusal
from domain.saving_pieces import MOST_REFUSALS, Piece, PieceMaker, Tally
from domain.saving_records import COLLECTIONS, Collection
from repositories.saving.batches import BatchRepository
from repositories.saving.intake import NewBatch, lock_keys, row_prefix, shard_of, write_batches, write_few
from services.saving.backlog import Backlog
from services.saving.spool import Spool

_log = structlog.get_logger(__name__)

_MOST_HELD_BYTES: Final = 67_108_864
_FEW_BYTES: Final = 262_144
"""Up to how many bytes of records one round trip is faster than COPY."""
_TOO_MUCH_HELD: Final = "too many bytes wait to be written"
_BULK_LANES: Final = 2
_LONGEST_TURN_SECONDS: Final = 0.005
_BUSY_PAUSE_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 10.0  # for the key that another request has in hand
_RETRY: Final = timedelta(seconds=1)
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """How large a record may be, and over how many streams tenants are spread."""

    max_record_bytes: int
    shards: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What was acknowledged. ``replayed`` says that it was so before, under the same idempotency key."""

    batch_id: UUID
    received: int
    rejected: int
    refusals: Sequence[dict[str, Any]]
    replayed: bool = False


class _KeyIsBusy(Exception):
    """A batch with the same idempotency key is being written."""


class _Turn:
    """How long one request has kept the event loop for itself; others want to be served as well."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give_way(self) -> None:
        """Let the others have theirs where this one is taking long."""
        if time.monotonic() - self._since > _LONGEST_TURN_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()


@dataclass(slots=True)
class _Share:
    """How many bytes one request has in memory, of what all of them have."""

    length: int = 0


class RecordIntake:
    """The way in for records, one in each API process. ``run`` has to be running."""

    def __init__(self, database: Database, backlog: Backlog, rules: IntakeRules) -> None:
        self._database = database
        self._backlog = backlog
        self._rules = rules
        self._pending: list[tuple[NewBatch, asyncio.Future[bool]]] = []
        self._wake = asyncio.Event()
        self._lanes = asyncio.Semaphore(_BULK_LANES)
        self._held_bytes = 0

    # --- one request --------------------------------------------------------------------------------

    async def take(
        self,
        tenant_id: UUID,
        collection_name: str,
        chunks: AsyncIterator[bytes],
        *,
        is_document: bool,
        on_error: OnError,
        key: str | None,
    ) -> Taken:
        """Take in a body: lines, or with ``is_document`` one JSON object or array. Once this returns it cannot be lost.

        Raises InvalidInput, RecordsRejected, MalformedBody, NotFound, IdempotencyMismatch, InboxFull,
        StoreUnavailable and DatabaseUnavailable; then nothing of the body was kept.
        """
        collection = get_collection(collection_name)
        self._expect_room()
        digest = hashlib.sha256(f"{collection.name}\n{on_error.value}\n".encode()) if key is not None else None
        batch_id, shard = new_id(), shard_of(tenant_id, self._rules.shards)
        maker = PieceMaker(collection, max_record_bytes=self._rules.max_record_bytes)
        share = _Share()
        with Spool(row_prefix(tenant_id, collection.name, shard, batch_id)) as spool:
            try:
                await self._read(chunks, maker, spool, share, digest, is_document=is_document, on_error=on_error)
                tally = maker.tally
                _expect_acceptable(tally, on_error, is_document=is_document)
                batch = NewBatch(
                    id=batch_id,
                    tenant_id=tenant_id,
                    collection=collection.name,
                    shard=shard,
                    key=key,
                    request_hash=digest.digest() if digest is not None else None,
                    received=tally.received,
                    rejected=tally.rejected,
                    refusals=_encoded(tally.refusals),
                    # Once it is handed over the request may be gone, and its spool with it.
                    rows=spool if spool.is_large else list(spool),
                )
                is_new = await self._write(batch, spool)
                if is_new:
                    self._backlog.add(tally.received, spool.length)
            finally:
                self._hold(share, -share.length)
        if not is_new:
            return await self._replay(batch)
        return Taken(batch_id, tally.received, tally.rejected, orjson.loads(batch.refusals))

    def _hold(self, share: _Share, more: int) -> None:
        share.length += more
        self._held_bytes += more

    async def _counted(self, chunks: AsyncIterator[bytes], share: _Share) -> AsyncIterator[bytes]:
        """A document as it comes: all of it is held until it is taken apart.

        Raises InboxFull where the others hold too much; where there are none it may have any length.
        """
        async for chunk in chunks:
            if self._held_bytes - share.length > _MOST_HELD_BYTES:
                raise InboxFull(_TOO_MUCH_HELD, retry_after=_RETRY)
            self._hold(share, len(chunk))
            yield chunk

    def _expect_room(self) -> None:
        self._backlog.expect_room()
        if self._held_bytes > _MOST_HELD_BYTES:
            raise InboxFull(_TOO_MUCH_HELD, retry_after=_RETRY)

    async def _read(
        self,
        chunks: AsyncIterator[bytes],
        maker: PieceMaker,
        spool: Spool,
        share: _Share,
        digest: "hashlib._Hash | None",
        *,
        is_document: bool,
        on_error: OnError,
    ) -> None:
        source = _lines_of_document(self._counted(chunks, share), digest) if is_document else _watched(chunks, digest)
        turn = _Turn()
        async for chunk in source:
            for piece in maker.feed(chunk):
                self._keep(maker.tally, spool, share, piece, on_error)
                await turn.give_way()
            await turn.give_way()
        for piece in maker.finish():
            self._keep(maker.tally, spool, share, piece, on_error)
            await turn.give_way()
        self._hold(share, spool.held_bytes - share.length)  # from here on a document is its rows

    def _keep(self, tally: Tally, spool: Spool, share: _Share, piece: Piece, on_error: OnError) -> None:
        before = spool.held_bytes
        if tally.rejected and on_error is OnError.REJECT:
            spool.clear()  # nothing of it is going to be taken; the rest is read to say what is wrong with it
            if tally.rejected >= MOST_REFUSALS:
                raise _rejected(tally, f"{tally.rejected} of the first {tally.received} records")
        else:
            spool.add(piece, in_memory=self._held_bytes < _MOST_HELD_BYTES)
        self._hold(share, spool.held_bytes - before)

    async def _replay(self, batch: NewBatch) -> Taken:
        """The answer that the first request with this key got. Raises IdempotencyMismatch."""
        assert batch.key is not None
        async with self._database.tenant(batch.tenant_id) as connection:
            first = await BatchRepository(connection).get_by_key(batch.key)
        if first.request_hash != batch.request_hash:
            raise IdempotencyMismatch("this idempotency key came with another request before")
        return Taken(first.id, first.received, first.rejected, first.refusals, replayed=True)

    # --- writing ------------------------------------------------------------------------------------

    async def _write(self, batch: NewBatch, spool: Spool) -> bool:
        """Have the batch committed; False where its idempotency key is taken."""
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            try:
                return await self._write_large(batch) if spool.is_large else await self._write_small(batch)
            except _KeyIsBusy:
                if time.monotonic() > until:
                    raise DatabaseUnavailable("another request with this idempotency key is being written") from None
                await asyncio.sleep(_BUSY_PAUSE_SECONDS)

    async def _write_large(self, batch: NewBatch) -> bool:
        async with self._lanes:
            new, busy = await self._commit([batch], bulk=True)
        if busy:
            raise _KeyIsBusy
        return batch.id in new

    async def _write_small(self, batch: NewBatch) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.append((batch, done))
        self._wake.set()
        return await done

    async def run(self) -> None:
        """Write until canceled: everything that waits, as soon as the last transaction is over."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                waiting, self._pending = self._pending, []
                await self._write_together(waiting)

    async def _write_together(self, waiting: Sequence[tuple[NewBatch, asyncio.Future[bool]]]) -> None:
        # Who has gone away meanwhile was promised nothing, and its rows may be gone as well.
        waiting = [(batch, done) for batch, done in waiting if not done.done()]
        if not waiting:
            return
        try:
            new, busy = await self._commit([batch for batch, _ in waiting], bulk=False)
        except DatabaseUnavailable as fault:
            _settle(waiting, fault)
        except Exception as fault:  # noqa: BLE001 - passed on to whoever waits for it
            if len(waiting) == 1:
                _settle(waiting, fault)
                return
            _log.warning("saving.written_apart", batches=len(waiting), fault=type(fault).__name__)
            for one in waiting:
                await self._write_together([one])
        else:
            _settle([one for one in waiting if one[0].id in busy], _KeyIsBusy())
            for batch, done in waiting:
                if not done.done():
                    done.set_result(batch.id in new)

    async def _commit(self, batches: Sequence[NewBatch], *, bulk: bool) -> tuple[set[UUID], set[UUID]]:
        """The ids of the batches that are new, and of those whose key somebody else has in hand."""
        if not bulk and sum(len(row) for batch in batches for row in batch.rows) <= _FEW_BYTES:
            return await write_few(self._database, batches)
        async with self._database.driver() as driver:
            busy = await lock_keys(driver, batches)
            free = [batch for batch in batches if batch.id not in busy]
            return (await write_batches(driver, free, bulk=bulk) if free else set()), busy


def _settle(waiting: Sequence[tuple[NewBatch, asyncio.Future[bool]]], fault: Exception) -> None:
    for _, done in waiting:
        if not done.done():
            done.set_exception(fault)


def get_collection(name: str) -> Collection:
    """The collection of that name. Raises NotFound."""
    collection = COLLECTIONS.get(name)
    if collection is None:
        raise NotFound("there is no such collection")
    return collection


def _expect_acceptable(tally: Tally, on_error: OnError, *, is_document: bool) -> None:
    if not tally.received:
        raise InvalidInput("there is no record in the body")
    if tally.rejected and on_error is OnError.REJECT:
        if is_document and tally.received == 1 and tally.refusals[0].code == "E.RECORD.MALFORMED":
            raise MalformedBody("the body is not JSON")
        raise _rejected(tally, f"{tally.rejected} of {tally.received} records")


def _rejected(tally: Tally, what: str) -> RecordsRejected:
    faults = [FieldFault(f"/{one.index}{one.pointer}", f"{one.message} ({one.code})") for one in tally.refusals]
    return RecordsRejected(f"{what} are not acceptable, so none was taken", faults=faults)


def _encoded(refusals: Sequence[Refusal]) -> str:
    return orjson.dumps(refusals).decode()


async def _watched(chunks: AsyncIterator[bytes], digest: "hashlib._Hash | None") -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if digest is not None:
            digest.update(chunk)
        yield chunk


async def _lines_of_document(chunks: AsyncIterator[bytes], digest: "hashlib._Hash | None") -> AsyncIterator[bytes]:
    """A JSON object, or each item of an array, as a line. Raises MalformedBody.

    A line break is white space in JSON wherever it may stand, so that a space in its place changes nothing.
    """
    body = b"".join([chunk async for chunk in _watched(chunks, digest)]).strip()
    if body[:1] != b"[":
        yield body.replace(b"\n", b" ")
        return
    try:
        items = _raws.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedBody("the body is not JSON") from None
    yield b"\n".join(bytes(item).replace(b"\n", b" ") for item in items)
