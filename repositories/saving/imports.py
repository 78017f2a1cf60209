"""How far an import has come: its batch, with the position in the file, changed together with the inbox."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, null, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.jobs import JobRef, StepStatus
from domain.saving_pieces import Piece
from repositories.jobs import JobRepository, measured_progress
from repositories.rows import AnyRow
from repositories.saving.intake import CHANNEL
from repositories.tables import job_steps, jobs, record_batches
from repositories.waits import standing_wait

_ADD_PIECES = text(
    """
    INSERT INTO tenant_record_inbox
        (tenant_id, collection, shard, batch_id, first_index, records, bytes, refused, skipped, body)
    SELECT :tenant, :collection, :shard, :batch, first_index, records, octet_length(body), refused,
           nullif(skipped, '{}')::int[], body
    FROM unnest(CAST(:firsts AS bigint[]), CAST(:records AS int[]), CAST(:refused AS boolean[]),
                CAST(:skipped AS text[]), CAST(:bodies AS text[]))
        AS piece (first_index, records, refused, skipped, body)
    """
)


class ImportRepository:
    """Imports of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_input(self, job_id: UUID) -> dict[str, Any]:
        """The input of the job."""
        return dict((await self._connection.execute(select(jobs.c.input).where(jobs.c.id == job_id))).scalar_one())

    async def open_batch(self, job: JobRef, *, batch_id: UUID, collection: str) -> AnyRow:
        """The batch of an import; made where there is none."""
        await self._connection.execute(
            pg_insert(record_batches)
            .values(id=batch_id, tenant_id=job.tenant_id, collection=collection, job_id=job.job_id)
            .on_conflict_do_nothing(index_elements=["tenant_id", "job_id"])
        )
        query = select(record_batches).where(record_batches.c.job_id == job.job_id)
        return (await self._connection.execute(query)).one()

    async def advance(
        self, batch: AnyRow, *, position_bytes: int, received: int, rejected: int, pieces: Sequence[Piece], shard: int
    ) -> bool:
        """Lay pieces into the inbox and move the position; False, and nothing done, where it has moved already."""
        moved = await self._connection.execute(
            update(record_batches)
            .where(record_batches.c.id == batch.id, record_batches.c.position_bytes == batch.position_bytes)
            .values(
                position_bytes=position_bytes,
                received=record_batches.c.received + received,
                rejected=record_batches.c.rejected + rejected,
            )
        )
        if moved.rowcount != 1:
            return False
        if pieces:
            await self._connection.execute(_ADD_PIECES, {
                "tenant": batch.tenant_id, "collection": batch.collection, "shard": shard, "batch": batch.id,
                "firsts": [piece.first_index for piece in pieces],
                "records": [piece.records for piece in pieces],
                "refused": [piece.refused for piece in pieces],
                "skipped": ["{" + ",".join(map(str, piece.skipped)) + "}" for piece in pieces],
                "bodies": [piece.body.decode() for piece in pieces],
            })  # fmt: skip
            await self._connection.execute(select(func.pg_notify(CHANNEL, f"{batch.collection}/{shard}/{received}")))
        return True

    async def show_progress(self, job: JobRef, *, step: str, percent: int, event: str, data: dict[str, Any]) -> None:
        """Tell how far a step of a hundred parts has come; the last one ends it."""
        done = func.greatest(job_steps.c.done, percent)
        complete = done >= job_steps.c.total
        changed = await self._connection.execute(
            update(job_steps)
            .where(job_steps.c.job_id == job.job_id, job_steps.c.name == step, job_steps.c.done < percent)
            .values(
                done=done,
                status=case((complete, StepStatus.SUCCEEDED), else_=StepStatus.RUNNING),
                finished_at=case((complete, func.now()), else_=null()),
                last_error=case((complete, null()), else_=job_steps.c.last_error),
                next_retry_at=null(),
            )
        )
        if changed.rowcount:
            await JobRepository(self._connection).record(
                job_id=job.job_id,
                attempt=job.attempt,
                event=event,
                data={"step": step, **data},
                values={"progress": measured_progress, "waiting_on": standing_wait},
            )
