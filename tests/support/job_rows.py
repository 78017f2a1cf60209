"""Jobs on a real database: written down, set running, and read back."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select

from core.database import Database
from core.ids import new_id
from domain.jobs import JobRef, JobStatus, StepPlan
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepRepository
from repositories.tables import artifacts, job_events, job_steps, jobs, provider_calls, step_results


async def add_running_job(
    database: Database,
    tenant_id: UUID,
    *,
    budget_usd: Decimal | None = None,
    raw_input: dict[str, Any] | None = None,
    steps: Sequence[StepPlan] = (),
    kind: str = "generation.course",
) -> JobRef:
    """A job that has begun; of a course, unless told otherwise."""
    job = JobRef(job_id=new_id(), tenant_id=tenant_id, kind=kind)
    row = {
        "id": job.job_id, "tenant_id": tenant_id, "kind": job.kind, "task_queue": "none", "input": raw_input or {},
        "budget_usd": budget_usd, "status": JobStatus.RUNNING, "version": 0, "run_id": "run",
    }  # fmt: skip
    async with database.tenant(tenant_id) as connection:
        await connection.execute(insert(jobs).values(row))
        await JobRepository(connection).record(job_id=job.job_id, event="job.running")
        if steps:
            await StepRepository(connection).plan(job, steps, first_position=0)
    return job


async def finish_job(database: Database, job: JobRef) -> None:
    """The job ends without anybody telling its steps."""
    async with database.tenant(job.tenant_id) as connection:
        await JobRepository(connection).record(
            job_id=job.job_id,
            event="job.canceled",
            values={"status": JobStatus.CANCELED, "finished_at": func.now()},
        )


async def next_attempt(database: Database, job: JobRef) -> JobRef:
    """Another attempt takes the job over."""
    async with database.tenant(job.tenant_id) as connection:
        attempt = job.attempt + 1
        await JobRepository(connection).record(job_id=job.job_id, event="job.retried", values={"attempt": attempt})
    return job.model_copy(update={"attempt": attempt})


async def job_row(database: Database, job: JobRef) -> AnyRow:
    """The job as it stands."""
    async with database.tenant(job.tenant_id) as connection:
        return (await connection.execute(select(jobs).where(jobs.c.id == job.job_id))).one()


async def step_rows(database: Database, job: JobRef) -> dict[str, AnyRow]:
    """The steps of the job by name."""
    async with database.tenant(job.tenant_id) as connection:
        found = await connection.execute(
            select(job_steps).where(job_steps.c.job_id == job.job_id).order_by(job_steps.c.position)
        )
        return {row.name: row for row in found}


async def event_rows(database: Database, job: JobRef) -> Sequence[AnyRow]:
    """The events of the job in order."""
    async with database.tenant(job.tenant_id) as connection:
        query = select(job_events).where(job_events.c.job_id == job.job_id).order_by(job_events.c.seq)
        return (await connection.execute(query)).all()


async def result_parts(database: Database, job: JobRef) -> list[str]:
    """The names of all results that are kept."""
    async with database.tenant(job.tenant_id) as connection:
        query = select(step_results.c.step).where(step_results.c.job_id == job.job_id).order_by(step_results.c.step)
        return list((await connection.execute(query)).scalars())


async def call_rows(database: Database, job: JobRef) -> Sequence[AnyRow]:
    """The ledger of the job, in the order of reserving."""
    async with database.tenant(job.tenant_id) as connection:
        query = select(provider_calls).where(provider_calls.c.job_id == job.job_id)
        return (await connection.execute(query.order_by(provider_calls.c.created_at))).all()


async def artifact_names(database: Database, job: JobRef) -> list[str]:
    """The names of all artifacts of the job, sorted."""
    async with database.tenant(job.tenant_id) as connection:
        query = select(artifacts.c.name).where(artifacts.c.job_id == job.job_id).order_by(artifacts.c.name)
        return list((await connection.execute(query)).scalars())
