"""What happens to every single job - queued, begun, finished - as one statement each.

These three decide what a job costs, so they are written out: one round trip, nothing built at run time. Everything
rarer goes through ``JobRepository.record``, which does the same from parts.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Numeric, Text, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.jobs import JobRef, NewJob
from repositories.rows import AnyRow
from repositories.tables import Moment

_queue = text(
    """
    WITH job AS (
        INSERT INTO jobs (id, tenant_id, kind, task_queue, priority, labels, input, waiting_on, callback_url,
                          budget_usd, start_at, admitted_at, request_id, traceparent)
        VALUES (:id, :tenant_id, :kind, :task_queue, :priority, :labels, :input, :waiting_on, :callback_url,
                :budget_usd, :start_at, CASE WHEN :admitted THEN now() END, :request_id, :traceparent)
        RETURNING *
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'job.queued',
               jsonb_build_object('status', status, 'progress', progress, 'waiting_on', waiting_on)
        FROM job
    ), command AS (
        INSERT INTO commands (id, tenant_id, job_id, action, args, not_before)
        SELECT :command_id, tenant_id, id, 'start', :args, coalesce(:due, now() + make_interval(secs => :lease))
        FROM job
    )
    SELECT job.*, NULL::jsonb AS steps FROM job
    """
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("tenant_id", type_=Uuid),
    bindparam("command_id", type_=Uuid),
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
    SELECT job.paused, pg_notify('longhaul_jobs', job.id || ':' || job.version) FROM job
    """
).bindparams(bindparam("id", type_=Uuid))

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
           pg_notify('longhaul_jobs', job.id || ':' || job.version),
           (SELECT pg_notify('longhaul_commands', '') FROM released)
    FROM job
    """
).bindparams(
    bindparam("id", type_=Uuid),
    bindparam("status", type_=Text),
    bindparam("result", type_=JSONB(none_as_null=True)),
    bindparam("error", type_=JSONB(none_as_null=True)),
    bindparam("error_code", type_=Text),
)


class JobTransitions:
    """The three transitions of every job."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def queue(
        self,
        new: NewJob,
        *,
        job_id: UUID,
        tenant_id: UUID,
        command_id: UUID,
        args: dict[str, Any],
        admitted: bool,
        waiting_on: dict[str, Any] | None,
        due: datetime | None,
        lease: timedelta,
    ) -> AnyRow:
        """Write a job, its first event and its start command; the columns of its document.

        Dispatchers leave the command alone until ``due`` or, without one, for the length of ``lease``.
        """
        row = new.model_dump(exclude={"labels", "input"}) | {
            "id": job_id,
            "tenant_id": tenant_id,
            "command_id": command_id,
            "labels": new.labels,
            "input": new.input,
            "args": args,
            "admitted": admitted,
            "waiting_on": waiting_on,
            "due": due,
            "lease": lease.total_seconds(),
        }
        return (await self._connection.execute(_queue, row)).one()

    async def begin(self, job: JobRef, *, run_id: str) -> bool | None:
        """The job runs, and nobody need start it any more; whether it is to pause. None where it is not to run."""
        values = {"id": job.job_id, "attempt": job.attempt, "run_id": run_id}
        begun = (await self._connection.execute(_begin, values)).one_or_none()
        return None if begun is None else bool(begun.paused)

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
        finished = (await self._connection.execute(_finish, values)).one_or_none()
        return None if finished is None else float(finished.seconds)
