"""The named steps of a job, and what each has already made."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Integer, and_, bindparam, case, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.jobs import JobRef, StepPlan, StepStatus
from repositories.tables import job_steps, jobs, step_results

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


class StepReader:
    """What every part of every step asks first, each question in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_result_or_none(self, job: JobRef, step: str, input_hash: str) -> dict[str, Any] | None:
        """As ``StepResultRepository.get_or_none``."""
        found = await self._database.read(job.tenant_id, _result, job_id=job.job_id, step=step, input_hash=input_hash)
        return dict(found[0].result) if found else None

    async def is_running(self, job: JobRef, name: str, *, attempt: int) -> bool:
        """Whether this step of this attempt of the job is known to run, so that there is nothing to say."""
        found = await self._database.read(
            job.tenant_id, _running, job_id=job.job_id, name=name, attempt=attempt, job_attempt=job.attempt
        )
        return bool(found)


class StepRepository:
    """Steps of one tenant's jobs."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def plan(self, job: JobRef, steps: Sequence[StepPlan], *, first_position: int) -> None:
        """Write down steps to come; those already known keep their state."""
        rows = [
            {
                "tenant_id": job.tenant_id,
                "job_id": job.job_id,
                "position": first_position + offset,
                **step.model_dump(),
            }
            for offset, step in enumerate(steps)
        ]
        await self._connection.execute(pg_insert(job_steps).values(rows).on_conflict_do_nothing())

    async def begin(self, job: JobRef, name: str, *, attempt: int) -> bool:
        """The step runs, for the ``attempt``-th time; False where that was known, as of a step in many parts."""
        # A step that has succeeded stays so, also where a later attempt of the job only reads its result back.
        waiting = job_steps.c.status.not_in([StepStatus.RUNNING, StepStatus.SUCCEEDED])
        again = and_(job_steps.c.status == StepStatus.RUNNING, job_steps.c.attempt < attempt)
        news = or_(waiting, again)
        statement = (
            update(job_steps)
            .where(job_steps.c.job_id == job.job_id, job_steps.c.name == name, news)
            .values(
                status=StepStatus.RUNNING,
                attempt=func.greatest(job_steps.c.attempt, attempt),
                next_retry_at=None,
                started_at=func.coalesce(job_steps.c.started_at, func.now()),
                finished_at=None,
            )
            .returning(job_steps.c.name)
        )
        return (await self._connection.execute(statement)).one_or_none() is not None

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
