"""What happens to every single job - queued, begun, finished - as one statement each.

These three decide what a job costs, so they are written out: each one round trip and one transaction, nothing built at
run time. Everything rarer goes through ``JobRepository.record``, which does the same from parts.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Integer, Numeric, SmallInteger, Text, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, Statement
from domain.jobs import JobRef, NewJob, StepPlan
from repositories.rows import AnyRow
from repositories.tables import Moment
from repositories.tenants import CLAIM_KEY

MAY_RUN: Final = """
    (SELECT count(*) FROM jobs
     WHERE tenant_id = :tenant_id AND kind = :kind AND admitted_at IS NOT NULL AND finished_at IS NULL)
    < coalesce((SELECT (max_running ->> :kind)::int FROM tenants WHERE id = :tenant_id), :max_running)
"""
"""SQL: whether one more job of this kind of this tenant may run. Ask it after ``LOCK_ADMISSION``."""

LOCK_ADMISSION: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended('admission/' || :tenant_id || '/' || :kind, 0))"
).bindparams(bindparam("tenant_id", type_=Text), bindparam("kind", type_=Text))
"""Nobody else admits jobs of the same kind and tenant until the transaction ends, so the limit holds exactly."""

_queue = text(
    f"""
    WITH wish AS (
        SELECT CAST(:due AS timestamptz) IS NULL AND {MAY_RUN} AS admitted
        WHERE CAST(:key AS text) IS NULL OR EXISTS (
            SELECT FROM idempotency_keys WHERE tenant_id = :tenant_id AND key = :key AND job_id = :id)
    ), job AS (
        INSERT INTO jobs (id, tenant_id, kind, task_queue, priority, labels, input, waiting_on, callback_url,
                          budget_usd, start_at, admitted_at, request_id, traceparent)
        SELECT :id, :tenant_id, :kind, :task_queue, :priority, :labels, :input,
               CASE WHEN NOT admitted THEN :waiting_on END, :callback_url,
               :budget_usd, :start_at, CASE WHEN admitted THEN now() END, :request_id, :traceparent
        FROM wish
        RETURNING *
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'job.queued',
               jsonb_build_object('status', status, 'progress', progress, 'waiting_on', waiting_on)
        FROM job
    ), command AS (
        INSERT INTO commands (id, tenant_id, job_id, action, args, not_before)
        SELECT :command_id, tenant_id, id, 'start', :args,
               coalesce(:due, CASE WHEN admitted_at IS NULL THEN now() ELSE now() + make_interval(secs => :lease) END)
        FROM job
    )
    SELECT job.*, NULL::jsonb AS steps,
           CASE WHEN admitted_at IS NULL THEN pg_notify('longhaul_commands', '') END AS woken
    FROM job
    """  # noqa: S608 - a constant of this module
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("tenant_id", type_=Uuid),
    bindparam("command_id", type_=Uuid),
    bindparam("kind", type_=Text),
    bindparam("key", type_=Text),
    bindparam("task_queue", type_=Text),
    bindparam("priority", type_=SmallInteger),
    bindparam("max_running", type_=Integer),
    bindparam("labels", type_=JSONB),
    bindparam("input", type_=JSONB),
    bindparam("args", type_=JSONB),
    bindparam("waiting_on", type_=JSONB(none_as_null=True)),
    bindparam("callback_url", type_=Text),
    bindparam("budget_usd", type_=Numeric(14, 6)),
    bindparam("start_at", type_=Moment),
    bindparam("due", type_=Moment),
    bindparam("request_id", type_=Text),
    bindparam("traceparent", type_=Text),
)

PLAN_STEPS: Final = text(
    """
    INSERT INTO job_steps (tenant_id, job_id, position, name, title, weight, total)
    SELECT jobs.tenant_id, jobs.id, :first_position + step.ordinality - 1, step.name, step.title, step.weight,
           step.total
    FROM jobs, ROWS FROM (
        jsonb_to_recordset(:steps) AS (name text, title text, weight float8, total int)
    ) WITH ORDINALITY AS step (name, title, weight, total, ordinality)
    WHERE jobs.id = :id AND jobs.attempt = :attempt AND jobs.status IN ('queued', 'running')
    ON CONFLICT DO NOTHING
    """
).bindparams(bindparam("id", type_=Uuid), bindparam("steps", type_=JSONB), bindparam("first_position", type_=Integer))
"""Steps to come, of a job that is still ours; those already known keep their state."""

_begin = text(
    """
    WITH job AS (
        UPDATE jobs
        SET version = version + 1, updated_at = now(), status = 'running', run_id = :run_id,
            started_at = coalesce(started_at, now()), admitted_at = coalesce(admitted_at, now()),
            waiting_on = CASE WHEN paused THEN waiting_on END
        WHERE id = :id AND attempt = :attempt AND status IN ('queued', 'running')
        RETURNING *
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'job.running',
               jsonb_build_object('status', status, 'progress', progress, 'attempt', attempt)
        FROM job
    ), told AS (
        DELETE FROM commands USING job WHERE commands.job_id = job.id AND commands.action = 'start'
    )
    SELECT job.paused, pg_notify('longhaul_jobs', job.id || ':' || job.version) AS told FROM job
    """
).bindparams(bindparam("id", type_=Uuid))

_was_reset = text(
    """
    SELECT 1 AS found FROM jobs
    WHERE id = :id AND attempt = :attempt AND finished_at IS NOT NULL AND run_id <> :run_id
    """
).bindparams(bindparam("id", type_=Uuid))

LOCK_JOB: Final = text("SELECT 1 FROM jobs WHERE id = :id FOR NO KEY UPDATE").bindparams(bindparam("id", type_=Uuid))
"""Whoever settles a call and whoever ends its job take turns: a statement after this one sees what the other did."""

_finish = text(
    """
    WITH target AS (
        SELECT id FROM jobs
        WHERE id = :id AND attempt = :attempt AND status IN ('queued', 'running')
        FOR NO KEY UPDATE
    ), spent AS (
        SELECT coalesce(sum(settled_usd), 0) AS usd, coalesce(sum(input_tokens), 0) AS input,
               coalesce(sum(output_tokens), 0) AS output
        FROM provider_calls WHERE job_id = :id
    ), steps AS (
        UPDATE job_steps SET status = :step_status, finished_at = now(), next_retry_at = NULL
        FROM target WHERE job_steps.job_id = target.id AND job_steps.status = 'running'
    ), job AS (
        UPDATE jobs
        SET version = version + 1, updated_at = now(), status = :status, finished_at = now(), waiting_on = NULL,
            result = CASE WHEN :status = 'succeeded' THEN coalesce(:result, result) END,
            error = :error, error_code = :error_code,
            progress = CASE WHEN :status = 'succeeded' THEN 1 ELSE progress END,
            cost_usd = spent.usd, input_tokens = spent.input, output_tokens = spent.output
        FROM target, spent WHERE jobs.id = target.id
        RETURNING jobs.*
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'job.' || status,
               jsonb_strip_nulls(jsonb_build_object('status', status, 'progress', progress, 'code', error_code))
        FROM job
    ), next_in_line AS (
        SELECT c.id FROM commands c JOIN jobs waiting ON waiting.id = c.job_id JOIN job ON job.kind = waiting.kind
        WHERE c.tenant_id = job.tenant_id AND c.action = 'start' AND waiting.admitted_at IS NULL
          AND coalesce(waiting.start_at, now()) <= now() AND c.not_before > clock_timestamp()
        ORDER BY waiting.priority, c.id
        LIMIT 1
        FOR UPDATE OF c
    ), released AS (
        UPDATE commands SET not_before = now() FROM next_in_line WHERE commands.id = next_in_line.id
        RETURNING commands.id
    )
    SELECT extract(epoch FROM job.finished_at - job.created_at)::float8 AS seconds,
           pg_notify('longhaul_jobs', job.id || ':' || job.version) AS told,
           (SELECT pg_notify('longhaul_commands', '') FROM released) AS woken
    FROM job
    """
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("status", type_=Text),
    bindparam("result", type_=JSONB(none_as_null=True)),
    bindparam("error", type_=JSONB(none_as_null=True)),
    bindparam("error_code", type_=Text),
)


JobCompanion = Callable[[AsyncConnection], Awaitable[None]]
"""Writes what belongs to a job, in the job's own transaction. What it raises undoes the job as well."""


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """An idempotency key, the hash of the request it came with, and how long it stands for its job."""

    key: str
    request_hash: bytes
    keep: timedelta


class JobTransitions:
    """The three transitions of every job, each a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def queue(
        self,
        new: NewJob,
        *,
        job_id: UUID,
        tenant_id: UUID,
        command_id: UUID,
        args: dict[str, Any],
        max_running: int,
        waiting_on: dict[str, Any],
        due: datetime | None,
        lease: timedelta,
        key: KeyClaim | None = None,
        accompany: JobCompanion | None = None,
    ) -> AnyRow | None:
        """Write a job, its first event and its start command; the columns of its document.

        It is admitted at once unless it is ``due`` later or as many jobs run as may; otherwise it is ``waiting_on``.
        Dispatchers leave the command of an admitted job alone for the length of ``lease``. None, and nothing done,
        where the idempotency key is bound to another job. ``accompany`` writes what belongs to the job in the same
        transaction, which then takes more than one round trip.
        """
        admission = {"tenant_id": tenant_id, "kind": new.kind}
        row = new.model_dump(exclude={"labels", "input"}) | admission | {
            "id": job_id,
            "command_id": command_id,
            "labels": new.labels,
            "input": new.input,
            "args": args,
            "max_running": max_running,
            "waiting_on": waiting_on,
            "due": due,
            "lease": lease.total_seconds(),
            "key": key.key if key else None,
        }  # fmt: skip
        statements: list[Statement] = []
        if key is not None:
            bound = {"key": key.key, "request_hash": key.request_hash, "keep": key.keep.total_seconds()}
            statements.append((CLAIM_KEY, {**bound, "tenant_id": tenant_id, "job_id": job_id}))
        if due is None:
            statements.append((LOCK_ADMISSION, {"tenant_id": str(tenant_id), "kind": new.kind}))
        statements.append((_queue, row))
        if accompany is not None:
            return await self._queue_in_company(tenant_id, statements, accompany)
        queued = (await self._database.run(tenant_id, *statements))[-1]
        return queued[0] if queued else None

    async def _queue_in_company(
        self, tenant_id: UUID, statements: Sequence[Statement], accompany: JobCompanion
    ) -> AnyRow | None:
        async with self._database.tenant(tenant_id) as connection:
            for statement in statements[:-1]:
                await connection.execute(*statement)
            queued = (await connection.execute(*statements[-1])).one_or_none()
            if queued is not None:
                await accompany(connection)
            return queued

    async def was_reset(self, job: JobRef, *, run_id: str) -> bool:
        """Whether this attempt of the job was finished by another run than this one, which is then a reset of it."""
        values = {"id": job.job_id, "attempt": job.attempt, "run_id": run_id}
        return bool((await self._database.run(job.tenant_id, (_was_reset, values)))[0])

    async def begin(self, job: JobRef, *, run_id: str, steps: Sequence[StepPlan] = ()) -> bool | None:
        """The job runs, and nobody need start it any more; whether it is to pause. None where it is not to run."""
        statements: list[Statement] = [(_begin, {"id": job.job_id, "attempt": job.attempt, "run_id": run_id})]
        if steps:
            statements.append((PLAN_STEPS, step_plan(job, steps, first_position=0)))
        begun = (await self._database.run(job.tenant_id, *statements))[0]
        return bool(begun[0].paused) if begun else None

    async def finish(
        self,
        job: JobRef,
        *,
        status: str,
        step_status: str,
        result: dict[str, Any] | None,
        error: dict[str, Any] | None,
        error_code: str | None,
    ) -> float | None:
        """The job is over, and the slot it held goes to the next in line; the seconds since it was asked for.

        None where it was over already, or a newer attempt has taken over. Without a ``result`` the one that a step
        has set stands, if the job succeeded.
        """
        values = {
            "id": job.job_id,
            "attempt": job.attempt,
            "status": status,
            "step_status": step_status,
            "result": result,
            "error": error,
            "error_code": error_code,
        }
        _, finished = await self._database.run(job.tenant_id, (LOCK_JOB, {"id": job.job_id}), (_finish, values))
        return float(finished[0].seconds) if finished else None


def step_plan(job: JobRef, steps: Sequence[StepPlan], *, first_position: int) -> dict[str, Any]:
    """The parameters of ``PLAN_STEPS``."""
    return {
        "id": job.job_id,
        "attempt": job.attempt,
        "first_position": first_position,
        "steps": [step.model_dump(mode="json") for step in steps],
    }
