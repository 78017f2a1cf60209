"""Reading a whole file into the inbox: each transaction lays records there and moves the position behind them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from activities.saving.names import READ_STEP, SAVE_STEP
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.jobs import JobRef
from domain.saving import BatchCounts, ImportInput, import_key
from domain.saving_csv import CsvShape, cut_rows
from domain.saving_pieces import PIECE_BYTES, Piece, PieceMaker, Tally
from domain.saving_records import COLLECTIONS
from repositories.artifacts import ArtifactRepository
from repositories.rows import AnyRow
from repositories.saving.batches import measure_inbox
from repositories.saving.imports import ImportRepository
from repositories.saving.intake import shard_of

_READ_BYTES: Final = 4_194_304
_MOST_JUDGED_BYTES: Final = 16_777_216  # what is told about a bad record may be far longer than the record
_FULL_PAUSE_SECONDS: Final = 0.5
_HEADER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """How large a record may be, how many streams there are, and how much may wait in the inbox."""

    max_record_bytes: int
    shards: int
    inbox_max_records: int
    inbox_max_bytes: int
    inbox_max_age_seconds: float


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    length: int
    wanted: ImportInput
    batch: AnyRow


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read at once: judged records, and where the next ones begin."""

    pieces: Sequence[Piece]
    tally: Tally
    position: int


class Importer:
    """Imports, a few megabytes at a time."""

    def __init__(self, database: Database, store: ArtifactStore, keeper: StepKeeper, limits: ImportLimits) -> None:
        self._database = database
        self._store = store
        self._keeper = keeper
        self._limits = limits

    async def read_on(self, job: JobRef) -> bool:
        """Take in the next part of the file; whether that was the last one.

        While too much waits in the inbox nothing is read. Raises Superseded, NotFound and StoreUnavailable.
        """
        file = await self._open(job)
        if file.batch.position_bytes >= file.length:
            await self._show_read(job, file.length, file)
            return True
        if await self._is_inbox_full():
            await asyncio.sleep(_FULL_PAUSE_SECONDS)
            return False
        part = await self._read(file)
        async with self._keeper.effect(job) as connection:
            repository = ImportRepository(connection)
            if await repository.advance(
                file.batch, position_bytes=part.position, received=part.tally.received, rejected=part.tally.rejected,
                pieces=part.pieces, shard=shard_of(job.tenant_id, self._limits.shards),
            ):  # fmt: skip
                await self._show(repository, job, part.position, file)
        return part.position >= file.length

    async def is_saved(self, job: JobRef) -> bool:
        """Whether nothing of the import is pending any more."""
        file = await self._open(job)
        counts = _counts(file.batch)
        done = counts.received - counts.pending
        percent = 100 if counts.pending == 0 else 100 * done // max(counts.received, 1)
        if percent:
            async with self._keeper.effect(job) as connection:
                await ImportRepository(connection).show_progress(
                    job, step=SAVE_STEP, percent=percent, event="records.saved", data=counts.model_dump()
                )
        return counts.pending == 0

    async def get_result(self, job: JobRef) -> dict[str, Any]:
        """The counters of the import."""
        file = await self._open(job)
        counts = _counts(file.batch)
        return {
            "batch_id": str(file.batch.id),
            "collection": file.batch.collection,
            "bytes": file.length,
            **counts.model_dump(),
            "pending": counts.pending,
            "rejected": file.batch.rejected,
        }

    async def _open(self, job: JobRef) -> _File:
        async with self._keeper.effect(job) as connection:
            repository = ImportRepository(connection)
            wanted = ImportInput.model_validate(await repository.get_input(job.job_id))
            batch = await repository.open_batch(job, batch_id=new_id(), collection=wanted.collection)
            if wanted.artifact_id is not None:
                artifact = await ArtifactRepository(connection).get_one(wanted.artifact_id)
                return _File(artifact.store_key, artifact.bytes, wanted, batch)
        key = import_key(job.tenant_id, wanted)
        return _File(key, await self._store.measure(key), wanted, batch)

    async def _is_inbox_full(self) -> bool:
        """Whether half of what may wait does, whoever it belongs to: requests that come in meanwhile have room."""
        async with self._database.system() as connection:
            records, length, age_seconds = await measure_inbox(connection)
        limits = self._limits
        return (
            records > limits.inbox_max_records // 2
            or length > limits.inbox_max_bytes // 2
            or age_seconds > limits.inbox_max_age_seconds / 2
        )

    async def _read(self, file: _File) -> _Part:
        position = file.batch.position_bytes
        end = min(position + max(_READ_BYTES, 2 * self._limits.max_record_bytes), file.length)
        data = b"".join([piece async for piece in self._store.stream(file.key, start=position, end=end)])
        header = await self._header(file) if file.wanted.format == "csv" else None
        part = await asyncio.to_thread(self._judge, file, data, header, at_end=end == file.length)
        if part.position > position:
            return part
        return await self._skip_endless_line(file, data, end)

    def _judge(self, file: _File, data: bytes, header: bytes | None, *, at_end: bool) -> _Part:
        maker = self._maker(file)
        position = 0
        if header is None:
            records = _lines(data, at_end=at_end)
        else:
            rows = cut_rows(data, at_end=at_end, most_bytes=self._most_row_bytes)
            if file.batch.position_bytes == 0:
                _, position = next(rows, (b"", 0))
            shape = CsvShape(COLLECTIONS[file.wanted.collection], header)
            records = ((shape.to_json(row) + b"\n" if row.strip() else b"", end) for row, end in rows)
        pieces: list[Piece] = []
        judged_bytes = 0
        for text, position in records:  # noqa: B007 - the last one counts
            for piece in maker.feed(text):
                pieces.append(piece)
                judged_bytes += len(piece.body)
            if judged_bytes > _MOST_JUDGED_BYTES:
                break
        pieces += maker.finish()
        return _Part(pieces, maker.tally, file.batch.position_bytes + position)

    @property
    def _most_row_bytes(self) -> int:
        # As JSON a row may be half as long: quotes are doubled in it.
        return 2 * self._limits.max_record_bytes

    def _maker(self, file: _File) -> PieceMaker:
        return PieceMaker(
            COLLECTIONS[file.wanted.collection],
            max_record_bytes=self._limits.max_record_bytes,
            first_index=file.batch.received,
        )

    async def _header(self, file: _File) -> bytes:
        end = min(_HEADER_BYTES, file.length)
        data = b"".join([piece async for piece in self._store.stream(file.key, start=0, end=end)])
        row, _ = next(cut_rows(data, at_end=end == file.length, most_bytes=self._most_row_bytes), (b"", 0))
        return row

    async def _skip_endless_line(self, file: _File, data: bytes, end: int) -> _Part:
        """A record that is longer than anything a record may be: find where it ends."""
        maker = self._maker(file)
        pieces = list(maker.judge_lines([data]))
        async for chunk in self._store.stream(file.key, start=end, end=file.length):
            line_break = chunk.find(b"\n")
            if line_break >= 0:
                return _Part(pieces, maker.tally, end + line_break + 1)
            end += len(chunk)
        return _Part(pieces, maker.tally, file.length)

    async def _show_read(self, job: JobRef, position: int, file: _File) -> None:
        async with self._keeper.effect(job) as connection:
            await self._show(ImportRepository(connection), job, position, file)

    async def _show(self, repository: ImportRepository, job: JobRef, position: int, file: _File) -> None:
        percent = 100 if position >= file.length else 100 * position // file.length
        data = {"position_bytes": position, "bytes": file.length}
        await repository.show_progress(job, step=READ_STEP, percent=percent, event="records.read", data=data)


def _lines(data: bytes, *, at_end: bool) -> Iterator[tuple[bytes, int]]:
    """Whole lines of ``data``, many at a time, each time with the place where the next ones begin."""
    whole = len(data) if at_end else data.rfind(b"\n") + 1
    begin = 0
    while begin < whole:
        line_break = data.find(b"\n", min(begin + PIECE_BYTES, whole) - 1, whole)
        end = line_break + 1 if line_break >= 0 else whole
        yield data[begin:end], end
        begin = end


def _counts(batch: AnyRow) -> BatchCounts:
    return BatchCounts(received=batch.received, saved=batch.saved, deduplicated=batch.deduplicated, dead=batch.dead)
