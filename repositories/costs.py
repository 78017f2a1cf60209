"""What the paid calls of a tenant cost, summed up by one thing at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, Uuid, bindparam, case, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, Statement
from domain.errors import Outcome
from domain.jobs import JobRef
from repositories.generation import SENDING
from repositories.rows import AnyRow
from repositories.tables import Money, jobs, provider_calls
from repositories.transitions import LOCK_JOB


class CostGroup(StrEnum):
    """By what costs can be summed up."""

    DAY = "day"
    KIND = "kind"
    MODEL = "model"
    PROVIDER = "provider"
    COURSE = "course"
    STEP = "step"


_NEWEST_FIRST: Final = frozenset({CostGroup.DAY, CostGroup.COURSE})

# A course is the job that made it; what was made of it later says so in its input.
_course: Final = case(
    (jobs.c.kind == "generation.course", cast(jobs.c.id, Text)),
    (jobs.c.kind.startswith("generation."), jobs.c.input["course_id"].astext),
    else_=None,
)
_KEYS: Final[Mapping[CostGroup, ColumnElement[Any]]] = {
    CostGroup.DAY: func.to_char(func.timezone("UTC", provider_calls.c.created_at), "YYYY-MM-DD"),
    CostGroup.KIND: jobs.c.kind,
    CostGroup.MODEL: provider_calls.c.model,
    CostGroup.PROVIDER: provider_calls.c.provider,
    CostGroup.COURSE: func.coalesce(_course, ""),
    CostGroup.STEP: provider_calls.c.step,
}

_open: Final = provider_calls.c.state.in_([SENDING, Outcome.UNKNOWN])


def _sum(column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0).label(name)


_SUMS: Final = (
    func.count().label("calls"),
    _sum(provider_calls.c.sends, "sends"),
    _sum(provider_calls.c.reserved_usd, "estimated_usd"),
    _sum(case((_open, provider_calls.c.reserved_usd), else_=0), "reserved_usd"),
    _sum(provider_calls.c.settled_usd, "settled_usd"),
    _sum(provider_calls.c.lost_usd, "lost_usd"),
    _sum(provider_calls.c.input_tokens, "input_tokens"),
    _sum(provider_calls.c.output_tokens, "output_tokens"),
)


@dataclass(frozen=True, slots=True)
class CostFilter:
    """Which calls to look at: reserved from ``start`` on and before ``end``, of one course where that is given."""

    start: datetime
    end: datetime
    course_id: UUID | None = None


class CostRepository:
    """The costs of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_total(self, wanted: CostFilter) -> AnyRow:
        """The sums over all calls."""
        total: AnyRow = (await self._connection.execute(_filtered(select(*_SUMS), wanted))).one()
        return total

    async def get_groups(
        self, wanted: CostFilter, group: CostGroup, *, limit: int, after: str | None
    ) -> Sequence[AnyRow]:
        """Up to ``limit`` groups by their ``key``, behind the key ``after``; days and courses newest first.

        The key is empty for what belongs to no course.
        """
        key = _KEYS[group].label("key")
        groups = _filtered(select(key, *_SUMS), wanted).group_by(key).subquery()
        newest_first = group in _NEWEST_FIRST
        query = select(groups).order_by(groups.c.key.desc() if newest_first else groups.c.key).limit(limit)
        if after is not None:
            query = query.where(groups.c.key < after if newest_first else groups.c.key > after)
        return (await self._connection.execute(query)).all()


def _filtered(query: Select[Any], wanted: CostFilter) -> Select[Any]:
    query = query.select_from(provider_calls).join(
        jobs, (jobs.c.tenant_id == provider_calls.c.tenant_id) & (jobs.c.id == provider_calls.c.job_id)
    )
    query = query.where(provider_calls.c.created_at >= wanted.start, provider_calls.c.created_at < wanted.end)
    return query if wanted.course_id is None else query.where(_course == str(wanted.course_id))


# The mark is a result of the job like any other, so that the event is written once, whoever looks how often.
_alert: Final = text(
    """
    WITH spent AS (
        SELECT coalesce(sum(coalesce(settled_usd, 0) + lost_usd), 0) AS usd FROM provider_calls WHERE job_id = :job_id
    ), marked AS (
        INSERT INTO step_results (tenant_id, job_id, step, input_hash, result)
        SELECT :tenant_id, :job_id, 'cost-alert', '', jsonb_build_object('usd', usd::text) FROM spent
        WHERE usd >= :threshold AND EXISTS (SELECT FROM jobs WHERE id = :job_id AND finished_at IS NULL)
        ON CONFLICT DO NOTHING
        RETURNING job_id
    ), job AS (
        UPDATE jobs SET version = version + 1, updated_at = now()
        FROM marked WHERE jobs.id = marked.job_id AND jobs.finished_at IS NULL
        RETURNING jobs.tenant_id, jobs.id, jobs.version, jobs.status, jobs.progress
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'cost.alert',
               jsonb_build_object('status', status, 'progress', progress, 'usd', usd::text,
                                  'threshold_usd', CAST(:threshold AS text))
        FROM job, spent
    )
    SELECT spent.usd, pg_notify('longhaul_jobs', job.id || ':' || job.version) AS told FROM job, spent
    """
).bindparams(bindparam("job_id", type_=Uuid), bindparam("tenant_id", type_=Uuid), bindparam("threshold", type_=Money))


def alert_statement(job: JobRef, *, threshold_usd: Decimal) -> Statement:
    """Write the event ``cost.alert`` where the job has spent that much; ``alert_of`` its rows says what it spent."""
    return _alert, {"tenant_id": job.tenant_id, "job_id": job.job_id, "threshold": threshold_usd}


def alert_of(rows: Sequence[AnyRow]) -> Decimal | None:
    """What the job has spent, the first time that it was over the threshold alone."""
    return Decimal(rows[0].usd) if rows else None


class CostDesk:
    """The one question about costs that is asked after every paid call, in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def alert(self, job: JobRef, *, threshold_usd: Decimal) -> Decimal | None:
        """Write the event ``cost.alert`` where the job has spent that much; what it spent, the first time alone."""
        # The job before the mark, as whoever settles a call within whose transaction the same is asked.
        _, found = await self._database.run(
            job.tenant_id, (LOCK_JOB, {"id": job.job_id}), alert_statement(job, threshold_usd=threshold_usd)
        )
        return alert_of(found)
