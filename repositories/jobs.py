"""Jobs and their events. Every change of a job is one event, numbered by the job's version, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.errors import NotFound
from domain.jobs import TERMINAL, JobRef, JobStatus
from repositories.rows import AnyRow
from repositories.tables import job_events, job_steps, jobs, provider_calls
from repositories.transitions import LOCK_ADMISSION, MAY_RUN

CHANNEL: Final = "longhaul_jobs"
"""NOTIFY channel; the payload is ``<job id>:<version>``."""

OPEN: Final = frozenset(JobStatus) - TERMINAL

_step_document = func.jsonb_build_object(
    "name", job_steps.c.name,
    "title", job_steps.c.title,
    "status", job_steps.c.status,
    "attempt", job_steps.c.attempt,
    "progress", func.round(cast(job_steps.c.done, type_=jobs.c.cost_usd.type) / job_steps.c.total, 4),
    "started_at", job_steps.c.started_at,
    "finished_at", job_steps.c.finished_at,
    "last_error", job_steps.c.last_error,
    "next_retry_at", job_steps.c.next_retry_at,
)  # fmt: skip

_steps: Final = (
    select(func.jsonb_agg(aggregate_order_by(_step_document, job_steps.c.position)))
    .where(job_steps.c.tenant_id == jobs.c.tenant_id, job_steps.c.job_id == jobs.c.id)
    .scalar_subquery()
    .label("steps")
)

_DOCUMENT: Final = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.task_queue,
    jobs.c.status,
    jobs.c.version,
    jobs.c.attempt,
    jobs.c.progress,
    jobs.c.priority,
    jobs.c.labels,
    jobs.c.waiting_on,
    jobs.c.error,
    jobs.c.error_code,
    jobs.c.cost_usd,
    jobs.c.input_tokens,
    jobs.c.output_tokens,
    jobs.c.start_at,
    jobs.c.admitted_at,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.updated_at,
    jobs.c.request_id,
    _steps,
)

_one_document: Final = select(*_DOCUMENT)

# The questions that watchers ask all day, fixed so that they can be asked in one round trip.
_document_by_id: Final = _one_document.where(jobs.c.id == bindparam("job_id"))
_version_by_id: Final = select(jobs.c.version, jobs.c.status, jobs.c.task_queue, jobs.c.admitted_at).where(
    jobs.c.id == bindparam("job_id")
)
_events_after: Final = (
    select(job_events.c.seq, job_events.c.type, job_events.c.data, job_events.c.at)
    .where(job_events.c.job_id == bindparam("job_id"), job_events.c.seq > bindparam("after"))
    .order_by(job_events.c.seq)
    .limit(bindparam("limit", type_=Integer))
)

measured_progress: Final = func.least(
    1,
    func.greatest(
        jobs.c.progress,
        select(func.sum(job_steps.c.weight * job_steps.c.done / job_steps.c.total))
        .where(job_steps.c.tenant_id == jobs.c.tenant_id, job_steps.c.job_id == jobs.c.id)
        .scalar_subquery(),
    ),
)
"""Progress as the shares of finished parts; it never goes back."""


def _spent(column: Any) -> ColumnElement[Any]:
    return func.coalesce(
        select(func.sum(column))
        .where(provider_calls.c.tenant_id == jobs.c.tenant_id, provider_calls.c.job_id == jobs.c.id)
        .scalar_subquery(),
        0,
    )


settled_cost: Final[dict[str, Any]] = {
    "cost_usd": _spent(provider_calls.c.settled_usd),
    "input_tokens": _spent(provider_calls.c.input_tokens),
    "output_tokens": _spent(provider_calls.c.output_tokens),
}
"""The job's cost columns, summed up from the ledger of paid calls."""


_may_run: Final = text(f"SELECT {MAY_RUN}").bindparams(bindparam("kind", type_=Text))


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None means any."""

    kind: str | None = None
    status: JobStatus | None = None
    labels: Mapping[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class JobRepository:
    """Jobs of the tenant (or, in a system transaction, of all tenants) behind one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_document(self, job_id: UUID) -> AnyRow:
        """The columns of a job document with its steps. Raises NotFound."""
        found = (await self._connection.execute(_one_document.where(jobs.c.id == job_id))).one_or_none()
        if found is None:
            raise NotFound("there is no such job")
        return found

    async def get_version_or_none(self, job_id: UUID) -> AnyRow | None:
        """Version, status, queue and admission of a job: enough to compare an ETag."""
        wanted = select(jobs.c.version, jobs.c.status, jobs.c.task_queue, jobs.c.admitted_at)
        return (await self._connection.execute(wanted.where(jobs.c.id == job_id))).one_or_none()

    async def get_for_update(self, job_id: UUID) -> AnyRow:
        """The whole row, locked until the end of the transaction. Raises NotFound."""
        wanted = select(jobs).where(jobs.c.id == job_id).with_for_update(key_share=True)
        found = (await self._connection.execute(wanted)).one_or_none()
        if found is None:
            raise NotFound("there is no such job")
        return found

    async def get_input(self, job_id: UUID) -> dict[str, Any]:
        """The validated input of a job. Raises NotFound."""
        found = (await self._connection.execute(select(jobs.c.input).where(jobs.c.id == job_id))).one_or_none()
        if found is None:
            raise NotFound("there is no such job")
        return dict(found.input)

    async def get_result(self, job_id: UUID) -> AnyRow:
        """Status and result of a job. Raises NotFound."""
        wanted = select(jobs.c.status, jobs.c.result).where(jobs.c.id == job_id)
        found = (await self._connection.execute(wanted)).one_or_none()
        if found is None:
            raise NotFound("there is no such job")
        return found

    async def get_page(self, wanted: JobFilter, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Up to ``limit`` documents, newest first, older than the job ``before``."""
        query = _filtered(_one_document, wanted)
        if before is not None:
            query = query.where(jobs.c.id < before)
        page: Sequence[AnyRow] = (await self._connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))).all()
        return page

    async def get_events(self, job_id: UUID, *, after: int, limit: int) -> Sequence[AnyRow]:
        """Events of a job with a number above ``after``, in order."""
        query = (
            select(job_events.c.seq, job_events.c.type, job_events.c.data, job_events.c.at)
            .where(job_events.c.job_id == job_id, job_events.c.seq > after)
            .order_by(job_events.c.seq)
            .limit(limit)
        )
        return (await self._connection.execute(query)).all()

    async def try_admit(self, tenant_id: UUID, kind: str, *, default_limit: int) -> bool:
        """Whether one more job of this kind of this tenant may run.

        Nobody else admits jobs of the same kind and tenant until the transaction ends, so the limit holds exactly.
        """
        await self._connection.execute(LOCK_ADMISSION, {"tenant_id": str(tenant_id), "kind": kind})
        values = {"tenant_id": tenant_id, "kind": kind, "max_running": default_limit}
        return bool((await self._connection.execute(_may_run, values)).scalar_one())

    async def get_unreconciled(self, *, older_than: datetime, limit: int) -> Sequence[AnyRow]:
        """Admitted, unfinished jobs not looked at since ``older_than``, longest ago first."""
        query = (
            select(jobs.c.id, jobs.c.tenant_id, jobs.c.kind, jobs.c.attempt, jobs.c.run_id, jobs.c.status)
            .where(jobs.c.admitted_at.is_not(None), jobs.c.finished_at.is_(None), jobs.c.reconciled_at < older_than)
            .order_by(jobs.c.reconciled_at)
            .limit(limit)
        )
        return (await self._connection.execute(query)).all()

    async def get_states(self, job_ids: Sequence[UUID]) -> Sequence[AnyRow]:
        """Status, attempt and run of the given jobs, as far as they exist."""
        query = select(
            jobs.c.id, jobs.c.tenant_id, jobs.c.kind, jobs.c.status, jobs.c.attempt, jobs.c.run_id, jobs.c.finished_at
        ).where(jobs.c.id.in_(job_ids))
        return (await self._connection.execute(query)).all()

    # --- changes ------------------------------------------------------------------------------------

    async def record(
        self,
        *,
        job_id: UUID,
        event: str,
        data: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        attempt: int | None = None,
        allowed: frozenset[JobStatus] = OPEN,
    ) -> int | None:
        """Change a job and append the event that says so, in one statement; wakes everybody who watches.

        Returns the new version, or None where nothing was done: the job is in none of the ``allowed`` states, or
        ``attempt`` is no longer the current one.
        """
        target = update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(sorted(allowed)))
        if attempt is not None:
            target = target.where(jobs.c.attempt == attempt)
        changed = (
            target.values(version=jobs.c.version + 1, updated_at=func.now(), **(values or {}))
            .returning(jobs.c.tenant_id, jobs.c.id, jobs.c.version, jobs.c.status, jobs.c.progress)
            .cte("changed")
        )
        facts = func.jsonb_build_object("status", changed.c.status, "progress", changed.c.progress)
        logged = (
            insert(job_events)
            .from_select(
                ["tenant_id", "job_id", "seq", "type", "data"],
                select(
                    changed.c.tenant_id,
                    changed.c.id,
                    changed.c.version,
                    literal(event, Text),
                    facts.op("||")(literal(dict(data or {}), JSONB)),
                ),
            )
            .cte("logged")
        )
        payload = cast(changed.c.id, Text) + ":" + cast(changed.c.version, Text)
        told = select(changed.c.version, func.pg_notify(CHANNEL, payload)).add_cte(logged)
        return (await self._connection.execute(told)).scalar_one_or_none()

    async def set_result(self, job_id: UUID, result: dict[str, Any]) -> None:
        """What the job is going to hand out once it has succeeded."""
        await self._connection.execute(update(jobs).where(jobs.c.id == job_id).values(result=result))

    async def inherit_budget(self, job_id: UUID, *, of: UUID) -> None:
        """Let a new job spend at most what another one may; only in the transaction that writes the job."""
        others = jobs.alias()
        budget = select(others.c.budget_usd).where(others.c.id == of).scalar_subquery()
        await self._connection.execute(update(jobs).where(jobs.c.id == job_id).values(budget_usd=budget))

    async def lock_attempt(self, job: JobRef) -> bool:
        """Lock the job's row; False where it is finished or a newer attempt has taken over."""
        query = (
            select(jobs.c.id)
            .where(jobs.c.id == job.job_id, jobs.c.attempt == job.attempt, jobs.c.status.in_(sorted(OPEN)))
            .with_for_update(key_share=True)
        )
        return (await self._connection.execute(query)).one_or_none() is not None

    async def mark_reconciled(self, job_ids: Sequence[UUID]) -> None:
        """Remember that these jobs were just compared with Temporal."""
        await self._connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(reconciled_at=func.now()))


class JobReader:
    """The few questions about jobs that are asked most often, each a transaction of its own in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_document(self, tenant_id: UUID, job_id: UUID) -> AnyRow:
        """As ``JobRepository.get_document``. Raises NotFound."""
        found = await self._database.read(tenant_id, _document_by_id, job_id=job_id)
        if not found:
            raise NotFound("there is no such job")
        return found[0]

    async def get_version(self, tenant_id: UUID, job_id: UUID) -> AnyRow:
        """As ``JobRepository.get_version_or_none``. Raises NotFound."""
        found = await self._database.read(tenant_id, _version_by_id, job_id=job_id)
        if not found:
            raise NotFound("there is no such job")
        return found[0]

    async def get_events(self, tenant_id: UUID, job_id: UUID, *, after: int, limit: int) -> Sequence[AnyRow]:
        """As ``JobRepository.get_events``."""
        return await self._database.read(tenant_id, _events_after, job_id=job_id, after=after, limit=limit)


def _filtered(query: Select[Any], wanted: JobFilter) -> Select[Any]:
    if wanted.kind is not None:
        query = query.where(jobs.c.kind == wanted.kind)
    if wanted.status is not None:
        query = query.where(jobs.c.status == wanted.status)
    if wanted.labels:
        query = query.where(jobs.c.labels.contains(dict(wanted.labels)))
    if wanted.created_after is not None:
        query = query.where(jobs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(jobs.c.created_at < wanted.created_before)
    return query


__all__ = [
    "CHANNEL",
    "OPEN",
    "JobFilter",
    "JobReader",
    "JobRepository",
    "measured_progress",
    "settled_cost",
]
