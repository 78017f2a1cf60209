"""The ledger of renders, and the digests of webhooks that woke somebody."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import and_, delete, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound, Outcome
from domain.jobs import JobRef
from domain.video import OVER, RenderState
from repositories.generation import SENDING, CallLedger, NewCall
from repositories.rows import AnyRow
from repositories.tables import (
    course_nodes,
    jobs,
    node_revisions,
    provider_calls,
    provider_webhooks,
    video_renders,
)

_KEEP_DIGESTS: Final = timedelta(days=3)
_OPEN_CALL: Final = (SENDING, Outcome.UNKNOWN)
_lock_part: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('video_renders:' || CAST(:part AS text), 0))")


class RenderRepository:
    """Renders of the tenant (or, in a system transaction, of all tenants) behind one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_latest(self, job: JobRef, part: str, digest: str, *, lock: bool = False) -> AnyRow | None:
        """The render of a part of a job that counts: the one ordered last."""
        query = (
            select(video_renders)
            .where(video_renders.c.job_id == job.job_id, video_renders.c.part == part, video_renders.c.digest == digest)
            .order_by(video_renders.c.generation.desc())
            .limit(1)
        )
        return (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()

    async def get_open_or_none(self, job: JobRef, part: str, provider: str) -> AnyRow | None:
        """The render of a part of a job that was sent, and of which something may still come; locked."""
        query = select(video_renders).where(
            video_renders.c.job_id == job.job_id, video_renders.c.part == part, video_renders.c.provider == provider,
            video_renders.c.sends > 0, video_renders.c.state.not_in(sorted(OVER)),
        ).order_by(video_renders.c.id.desc()).limit(1)  # fmt: skip
        return (await self._connection.execute(query.with_for_update())).one_or_none()

    async def get_of_others(self, job: JobRef, course_id: UUID, part: str, digest: str) -> Sequence[AnyRow]:
        """The renders of the same part, from the same things, that count for other jobs of the course; locked.

        ``is_at_work`` says that the job is not finished. Those ordered last come first.
        """
        of_course = or_(jobs.c.id == course_id, jobs.c.input["course_id"].astext == str(course_id))
        query = (
            select(video_renders, jobs.c.finished_at.is_(None).label("is_at_work"))
            .join(jobs, and_(jobs.c.tenant_id == video_renders.c.tenant_id, jobs.c.id == video_renders.c.job_id))
            .where(
                video_renders.c.part == part, video_renders.c.digest == digest, jobs.c.id != job.job_id, of_course
            )
            .order_by(video_renders.c.generation)
            .with_for_update(of=video_renders)
        )  # fmt: skip
        latest = {row.job_id: row for row in await self._connection.execute(query)}
        return sorted(latest.values(), key=lambda row: row.id, reverse=True)

    async def stood_before(self, job: JobRef, course_id: UUID, part: str) -> bool:
        """Whether what stands in the course for this part is older than the wish for the job."""
        query = (
            select(course_nodes.c.key)
            .join(
                node_revisions,
                and_(
                    node_revisions.c.course_id == course_nodes.c.course_id,
                    node_revisions.c.id == course_nodes.c.revision_id,
                ),
            )
            .join(jobs, node_revisions.c.made_at < jobs.c.created_at)
            .where(course_nodes.c.course_id == course_id, course_nodes.c.key == part, jobs.c.id == job.job_id)
        )
        return (await self._connection.execute(query)).one_or_none() is not None

    async def get_one(self, render_id: UUID, *, lock: bool = False) -> AnyRow:
        """A render with the state of its job. Raises NotFound."""
        found = await self.get_or_none(render_id, lock=lock)
        if found is None:
            raise NotFound("there is no such render")
        return found

    async def get_or_none(self, render_id: UUID, *, lock: bool = False) -> AnyRow | None:
        """A render, or None."""
        query = select(video_renders).where(video_renders.c.id == render_id)
        return (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()

    async def get_by_video_or_none(self, provider: str, video_id: str) -> AnyRow | None:
        """The render with this id at its provider, or None."""
        query = select(video_renders).where(video_renders.c.provider == provider, video_renders.c.video_id == video_id)
        return (await self._connection.execute(query.limit(1))).one_or_none()

    async def get_page(self, *, job_id: UUID | None, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Renders, newest first, older than the render ``before``."""
        query = select(video_renders).order_by(video_renders.c.id.desc()).limit(limit)
        if job_id is not None:
            query = query.where(video_renders.c.job_id == job_id)
        if before is not None:
            query = query.where(video_renders.c.id < before)
        return (await self._connection.execute(query)).all()

    # --- changes ------------------------------------------------------------------------------------

    async def lock_part(self, course_id: UUID, part: str) -> None:
        """Until the transaction ends no other job of the course finds out what is to be ordered for this part."""
        await self._connection.execute(_lock_part, {"part": f"{course_id}/{part}"})

    async def add(self, values: Mapping[str, Any]) -> None:
        """Write a render down before anything is sent."""
        await self._connection.execute(insert(video_renders).values(dict(values)))

    async def change(self, render_id: UUID, **values: Any) -> None:
        """Write down what is known now."""
        await self._connection.execute(
            update(video_renders).where(video_renders.c.id == render_id).values(updated_at=func.now(), **values)
        )

    async def hand_over(self, row: AnyRow, job: JobRef, *, op: str, **values: Any) -> None:
        """Let a render belong to another job from now on, with what is reserved for it. A cost once settled stays."""
        await self._connection.execute(
            update(provider_calls)
            .where(
                provider_calls.c.job_id == row.job_id,
                provider_calls.c.op == row.op,
                provider_calls.c.state != Outcome.DONE,
            )
            .values(job_id=job.job_id, op=op)
        )
        await self.change(row.id, job_id=job.job_id, op=op, **values)

    async def count_look(self, render_id: UUID, *, seconds: float | None) -> None:
        """The truth was fetched once more."""
        await self.change(
            render_id, looks=video_renders.c.looks + 1, seconds=func.coalesce(seconds, video_renders.c.seconds)
        )

    # --- money --------------------------------------------------------------------------------------

    async def reserve(self, job: JobRef, row: AnyRow, call: NewCall) -> Decimal | None:
        """Reserve what a render can cost, once however often it is sent; None where the budget allows it.

        Otherwise the amount by which the budget would be exceeded; then the caller must not commit.
        """
        ledger = CallLedger(self._connection)
        known = await ledger.get_or_none(job, row.op)
        if known is not None and known.state in _OPEN_CALL:
            # Sent again under its key it is the same render, which is paid for once: nothing more is at stake.
            return None
        budget = (
            await self._connection.execute(
                select(jobs.c.budget_usd).where(jobs.c.id == job.job_id).with_for_update(key_share=True)
            )
        ).scalar_one()
        await ledger.reserve(job, call)
        if budget is None:
            return None
        over = await ledger.get_committed_usd(job) - budget
        return over if over > 0 else None

    async def settle(self, row: AnyRow, *, outcome: Outcome, cost_usd: Decimal | None = None) -> None:
        """Say in the ledger of paid calls what became of a render. A cost once settled stays."""
        await self._connection.execute(
            update(provider_calls)
            .where(
                provider_calls.c.job_id == row.job_id,
                provider_calls.c.op == row.op,
                provider_calls.c.state != Outcome.DONE,
            )
            .values(state=outcome, settled_usd=cost_usd, updated_at=func.now())
        )

    # --- webhooks -----------------------------------------------------------------------------------

    async def may_wake(self, render_id: UUID, *, at_most_every: timedelta) -> bool:
        """Whether a webhook may wake whoever waits for a render now; says so in the render's row."""
        quiet = or_(
            video_renders.c.woken_at.is_(None), video_renders.c.woken_at < func.clock_timestamp() - at_most_every
        )
        statement = (
            update(video_renders)
            .where(video_renders.c.id == render_id, video_renders.c.state.not_in(sorted(OVER)), quiet)
            .values(woken_at=func.clock_timestamp(), wakes=video_renders.c.wakes + 1)
            .returning(video_renders.c.id)
        )
        return (await self._connection.execute(statement)).one_or_none() is not None

    async def was_heard(self, provider: str, sha256: bytes) -> bool:
        """Whether the same bytes woke somebody before."""
        query = select(provider_webhooks.c.sha256).where(
            provider_webhooks.c.provider == provider, provider_webhooks.c.sha256 == sha256
        )
        return (await self._connection.execute(query)).one_or_none() is not None

    async def remember(self, provider: str, sha256: bytes, *, signed: bool) -> None:
        """These bytes woke somebody. What is older than some days is forgotten."""
        old = provider_webhooks.c.received_at < func.now() - _KEEP_DIGESTS
        await self._connection.execute(delete(provider_webhooks).where(old))
        row = {"provider": provider, "sha256": sha256, "signed": signed}
        await self._connection.execute(pg_insert(provider_webhooks).values(row).on_conflict_do_nothing())


def is_over(row: AnyRow) -> bool:
    """Whether nothing more comes of a render."""
    return RenderState(row.state) in OVER
