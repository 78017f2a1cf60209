"""The named steps of a job, and what each has already made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Integer,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, Statement
from domain.artifacts import Artifact
from domain.errors import Superseded
from domain.jobs import JobRef, StepPlan, StepStatus
from repositories.tables import job_steps, jobs, step_results
from repositories.transitions import PLAN_STEPS, step_plan
from repositories.waits import STANDING

_result: Final = select(step_results.c.result).where(
    step_results.c.job_id == bindparam("job_id"),
    step_results.c.step == bindparam("step"),
    step_results.c.input_hash == bindparam("input_hash"),
)
_running: Final = (
    select(job_steps.c.name)
    .join(jobs, jobs.c.id == job_steps.c.job_id)
    .where(
        job_steps.c.job_id == bindparam("job_id"),
        job_steps.c.name == bindparam("name"),
        job_steps.c.status == StepStatus.RUNNING,
        job_steps.c.attempt >= bindparam("attempt", type_=Integer),
        jobs.c.attempt == bindparam("job_attempt", type_=Integer),
        jobs.c.finished_at.is_(None),
    )
)


# Inserted by this very transaction, or by an earlier run of the same part.
_OURS: Final = """
    EXISTS (SELECT FROM step_results
            WHERE job_id = :id AND step = :part AND input_hash = :digest AND xmin = pg_current_xact_id()::xid)
"""

# The event of the row ``job`` that has just changed, and the news of it for whoever watches.
_TELL: Final = """
    event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, :event, jsonb_build_object('status', status, 'progress', progress) || :data
        FROM job
    )
    SELECT pg_notify('longhaul_jobs', id || ':' || version) FROM job
"""

_keep_part: Final = text(
    """
    WITH target AS (
        SELECT tenant_id, id FROM jobs
        WHERE id = :id AND attempt = :attempt AND status IN ('queued', 'running')
        FOR NO KEY UPDATE
    ), kept AS (
        INSERT INTO step_results (tenant_id, job_id, step, input_hash, result)
        SELECT tenant_id, id, :part, :digest, :result FROM target
        ON CONFLICT DO NOTHING
        RETURNING tenant_id, job_id
    ), named AS (
        INSERT INTO artifacts (id, tenant_id, job_id, name, media_type, bytes, sha256, role)
        SELECT :artifact_id, tenant_id, job_id, :name, :media_type, :bytes, :sha256, :role FROM kept
    ), step AS (
        UPDATE job_steps
        SET done = least(done + :more, total), started_at = coalesce(started_at, now()),
            -- What troubles another part of the step is not over because this part is done.
            status = CASE WHEN done + :more >= total THEN 'succeeded' WHEN status = 'failed' THEN status
                          ELSE 'running' END,
            finished_at = CASE WHEN done + :more >= total THEN now() END,
            last_error = CASE WHEN done + :more < total THEN last_error END,
            next_retry_at = CASE WHEN done + :more < total THEN next_retry_at END
        FROM kept WHERE job_steps.job_id = kept.job_id AND job_steps.name = :step
    )
    SELECT 1 AS current FROM target
    """
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("part", type_=Text),
    bindparam("digest", type_=Text),
    bindparam("result", type_=JSONB),
    bindparam("artifact_id", type_=Uuid),
    bindparam("bytes", type_=BigInteger),
    bindparam("more", type_=Integer),
)

# A statement of its own: what it sums up has to be written already.
_tell_part: Final = text(
    f"""
    WITH job AS (
        UPDATE jobs
        SET version = version + 1, updated_at = now(), waiting_on = {STANDING},
            progress = least(1, greatest(progress, (
                SELECT sum(weight * done / total) FROM job_steps WHERE job_id = :id))),
            cost_usd = spent.usd, input_tokens = spent.input, output_tokens = spent.output
        FROM (SELECT coalesce(sum(settled_usd), 0) AS usd, coalesce(sum(input_tokens), 0) AS input,
                     coalesce(sum(output_tokens), 0) AS output
              FROM provider_calls WHERE job_id = :id) AS spent
        WHERE id = :id AND {_OURS}
        RETURNING tenant_id, id, version, status, progress
    ), {_TELL}
    """  # noqa: S608 - a constant of this module
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("part", type_=Text),
    bindparam("digest", type_=Text),
    bindparam("event", type_=Text),
    bindparam("data", type_=JSONB),
)


_begin: Final = text(
    """
    WITH target AS (
        SELECT id FROM jobs
        WHERE id = :id AND attempt = :job_attempt AND status IN ('queued', 'running')
        FOR NO KEY UPDATE
    ), step AS (
        UPDATE job_steps
        SET status = 'running', attempt = greatest(attempt, :attempt), next_retry_at = NULL,
            started_at = coalesce(started_at, now()), finished_at = NULL
        FROM target
        -- A step that has succeeded stays so, also where a later attempt of the job only reads its result back.
        WHERE job_steps.job_id = target.id AND name = :step
          AND (status NOT IN ('running', 'succeeded') OR status = 'running' AND attempt < :attempt)
    )
    SELECT 1 AS current FROM target
    """
).bindparams(bindparam("id", type_=Uuid), bindparam("attempt", type_=Integer))

# A statement of its own, for the wait is taken from what is written already.
_tell_begin: Final = text(
    f"""
    WITH job AS (
        UPDATE jobs SET version = version + 1, updated_at = now(), waiting_on = {STANDING}
        WHERE id = :id AND EXISTS (
            SELECT FROM job_steps WHERE job_id = :id AND name = :step AND xmin = pg_current_xact_id()::xid)
        RETURNING tenant_id, id, version, status, progress
    ), {_TELL}
    """  # noqa: S608 - a constant of this module
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("step", type_=Text),
    bindparam("event", type_=Text),
    bindparam("data", type_=JSONB),
)


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part of a step that made one artifact: what it stands for, what to remember, and the event that tells.

    Not every part ``advances`` its step: several may be one unit of its progress, which the last of them completes.
    """

    step: str
    part: str
    digest: str
    result: dict[str, Any]
    event: str
    data: Mapping[str, Any]
    artifact: Artifact
    advances: bool = True


class StepWriter:
    """The beginning of every step, and the end of every part that makes one artifact.

    Each is one round trip and one transaction, which raises Superseded where the job has moved on without us.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, job: JobRef, step: str, *, attempt: int) -> bool:
        """The step runs, for the ``attempt``-th time. False, and nothing done, where that was known."""
        values = {"id": job.job_id, "step": step}
        beginning = values | {"attempt": attempt, "job_attempt": job.attempt}
        telling = values | {"event": "step.running", "data": {"step": step, "attempt": attempt}}
        current, told = await self._database.run(job.tenant_id, (_begin, beginning), (_tell_begin, telling))
        if not current:
            raise Superseded
        return bool(told)

    async def finish(self, job: JobRef, part: FinishedPart, *more: Statement) -> bool:
        """Keep the part's result, name its artifact, advance its step and tell everybody.

        ``more`` are statements of the same transaction. They run in any case, and so have to be harmless where the
        part was finished before or the job has moved on. False, and nothing done, where another run of the same part
        was first.
        """
        made = part.artifact
        values = {"id": job.job_id, "part": part.part, "digest": part.digest}
        keeping = values | {
            "attempt": job.attempt,
            "step": part.step,
            "result": part.result,
            "artifact_id": made.id,
            "name": made.name,
            "media_type": made.media_type,
            "bytes": made.bytes,
            "sha256": made.sha256,
            "role": made.role,
            "more": int(part.advances),
        }
        telling = values | {"event": part.event, "data": {"step": part.step, **part.data}}
        current, *_, told = await self._database.run(job.tenant_id, (_keep_part, keeping), *more, (_tell_part, telling))
        if not current:
            raise Superseded
        return bool(told)


class StepReader:
    """What every part of every step asks first, each question in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_result_or_none(self, job: JobRef, step: str, input_hash: str) -> dict[str, Any] | None:
        """As ``StepResultRepository.get_or_none``."""
        found = await self._database.read(job.tenant_id, _result, job_id=job.job_id, step=step, input_hash=input_hash)
        return dict(found[0].result) if found else None

    async def look(
        self, job: JobRef, step: str, *, attempt: int, part: str, input_hash: str
    ) -> tuple[bool, dict[str, Any] | None]:
        """Whether this step of this attempt of the job is known to run, so that there is nothing to say.

        And what ``get_result_or_none`` says of one part of it.
        """
        asked = {"job_id": job.job_id, "name": step, "attempt": attempt, "job_attempt": job.attempt}
        kept = {"job_id": job.job_id, "step": part, "input_hash": input_hash}
        running, found = await self._database.run(job.tenant_id, (_running, asked), (_result, kept))
        return bool(running), dict(found[0].result) if found else None


class StepRepository:
    """Steps of one tenant's jobs."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def plan(self, job: JobRef, steps: Sequence[StepPlan], *, first_position: int) -> None:
        """Write down steps to come; those already known keep their state."""
        await self._connection.execute(PLAN_STEPS, step_plan(job, steps, first_position=first_position))

    async def advance(self, job: JobRef, name: str) -> None:
        """One more part of the step is done; with the last one the step has succeeded."""
        done = func.least(job_steps.c.done + 1, job_steps.c.total)
        complete = done >= job_steps.c.total
        await self._set(
            job,
            name,
            done=done,
            # What troubles another part of the step is not over because this part is done.
            status=case(
                (complete, StepStatus.SUCCEEDED),
                (job_steps.c.status == StepStatus.FAILED, StepStatus.FAILED),
                else_=StepStatus.RUNNING,
            ),
            started_at=func.coalesce(job_steps.c.started_at, func.now()),
            finished_at=case((complete, func.now()), else_=null()),
            last_error=case((complete, null()), else_=job_steps.c.last_error),
            next_retry_at=case((complete, null()), else_=job_steps.c.next_retry_at),
        )

    async def complete(self, job: JobRef, name: str) -> None:
        """All that is left of the step turned out to be there already."""
        await self._set(
            job,
            name,
            done=job_steps.c.total,
            status=StepStatus.SUCCEEDED,
            started_at=func.coalesce(job_steps.c.started_at, func.now()),
            finished_at=func.coalesce(job_steps.c.finished_at, func.now()),
            last_error=null(),
            next_retry_at=null(),
        )

    async def trouble(
        self, job: JobRef, name: str, *, attempt: int, error: dict[str, Any], next_retry_at: datetime | None
    ) -> None:
        """The step failed; it runs again at ``next_retry_at``, or never where that is None."""
        await self._set(
            job,
            name,
            status=StepStatus.FAILED if next_retry_at is None else StepStatus.RUNNING,
            attempt=attempt,
            last_error=error,
            next_retry_at=next_retry_at,
        )

    async def close_open(self, job: JobRef, status: StepStatus) -> None:
        """The job ended: steps still running are ``status`` now."""
        await self._connection.execute(
            update(job_steps)
            .where(job_steps.c.job_id == job.job_id, job_steps.c.status == StepStatus.RUNNING)
            .values(status=status, finished_at=func.now(), next_retry_at=None)
        )

    async def reopen(self, job: JobRef) -> None:
        """A new attempt of the job begins: what did not succeed is to be done again."""
        await self._connection.execute(
            update(job_steps)
            .where(job_steps.c.job_id == job.job_id, job_steps.c.status != StepStatus.SUCCEEDED)
            .values(status=StepStatus.QUEUED, finished_at=None, next_retry_at=None)
        )

    async def _set(self, job: JobRef, name: str, **values: Any) -> None:
        await self._connection.execute(
            update(job_steps).where(job_steps.c.job_id == job.job_id, job_steps.c.name == name).values(**values)
        )


class StepResultRepository:
    """What steps have made, by the hash of what they were made from."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_or_none(self, job: JobRef, step: str, input_hash: str) -> dict[str, Any] | None:
        """The earlier result of the same step with the same input."""
        query = select(step_results.c.result).where(
            step_results.c.job_id == job.job_id,
            step_results.c.step == step,
            step_results.c.input_hash == input_hash,
        )
        found = (await self._connection.execute(query)).scalar_one_or_none()
        return None if found is None else dict(found)

    async def get_by_prefix(self, job: JobRef, prefix: str) -> dict[str, dict[str, Any]]:
        """The latest result of each step whose name begins with ``prefix``, by name."""
        query = (
            select(step_results.c.step, step_results.c.result)
            .where(step_results.c.job_id == job.job_id, step_results.c.step.startswith(prefix, autoescape=True))
            .order_by(step_results.c.created_at)
        )
        return {row.step: row.result for row in await self._connection.execute(query)}

    async def inherit(self, job: JobRef, steps: Sequence[str], *, jobs: Sequence[UUID]) -> None:
        """Remember what these other jobs have made under these steps, where it is good and not known yet."""
        made = (
            select(
                step_results.c.tenant_id,
                literal(job.job_id, Uuid),
                step_results.c.step,
                step_results.c.input_hash,
                step_results.c.result,
            )
            .where(
                step_results.c.job_id.in_(jobs),
                step_results.c.job_id != job.job_id,
                step_results.c.step.in_(steps),
                func.coalesce(step_results.c.result["status"].astext, "ready") == "ready",
                step_results.c.result.has_key("artifact_id"),
            )
            .order_by(step_results.c.created_at.desc())
        )
        columns = ["tenant_id", "job_id", "step", "input_hash", "result"]
        await self._connection.execute(pg_insert(step_results).from_select(columns, made).on_conflict_do_nothing())

    async def add(self, job: JobRef, step: str, input_hash: str, result: dict[str, Any]) -> bool:
        """Keep a result; False where another run of the step was first, whose result stands."""
        row = {
            "tenant_id": job.tenant_id,
            "job_id": job.job_id,
            "step": step,
            "input_hash": input_hash,
            "result": result,
        }
        statement = pg_insert(step_results).values(row).on_conflict_do_nothing().returning(step_results.c.step)
        return (await self._connection.execute(statement)).one_or_none() is not None
