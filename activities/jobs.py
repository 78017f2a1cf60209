"""The first and the last thing that happens to every job, whatever its family."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import func
from temporalio import activity

from activities.errors import problem
from core.database import Database
from core.logging import bind_job
from domain.jobs import CommandAction, JobRef, JobStatus, StepPlan, StepStatus
from domain.model import Frozen
from repositories.commands import CommandRepository
from repositories.jobs import OPEN, JobRepository, admitted_once, keep_pause, settled_cost, started_once
from repositories.steps import StepRepository

_CLOSED_STEP: Final = {
    JobStatus.SUCCEEDED: StepStatus.SUCCEEDED,
    JobStatus.FAILED: StepStatus.FAILED,
    JobStatus.CANCELED: StepStatus.CANCELED,
}


class BeginJobInput(Frozen):
    """Which job begins, and the steps it is known to take."""

    job: JobRef
    steps: Sequence[StepPlan] = ()


class BeginJobResult(Frozen):
    """``proceed`` is False where there is nothing to do: canceled meanwhile, finished, or superseded."""

    proceed: bool
    paused: bool = False


class PlanStepsInput(Frozen):
    """Further steps that became known while the job runs."""

    job: JobRef
    steps: Sequence[StepPlan]
    first_position: int


class FinishJobInput(Frozen):
    """How a job ended. ``result`` is small; anything large is an artifact it refers to."""

    job: JobRef
    status: JobStatus
    result: dict[str, Any] | None = None
    error_code: str | None = None
    error_detail: str | None = None


class JobActivities:
    """Begin, plan and finish. Short transactions, run as local activities."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="begin_job")
    async def begin_job(self, begin: BeginJobInput) -> BeginJobResult:
        """Mark the job running and take its start command off the list."""
        job = begin.job
        with bind_job(job):
            async with self._database.tenant(job.tenant_id) as connection:
                version = await JobRepository(connection).record(
                    job_id=job.job_id,
                    attempt=job.attempt,
                    event="job.running",
                    data={"attempt": job.attempt},
                    values={
                        "status": JobStatus.RUNNING,
                        "started_at": started_once,
                        "run_id": activity.info().workflow_run_id,
                        "admitted_at": admitted_once,
                        "waiting_on": keep_pause,
                    },
                )
                if version is None:
                    return BeginJobResult(proceed=False)
                await CommandRepository(connection).delete_of_job(job.job_id, CommandAction.START)
                if begin.steps:
                    await StepRepository(connection).plan(job, begin.steps, first_position=0)
                return BeginJobResult(proceed=True, paused=await JobRepository(connection).is_paused(job.job_id))

    @activity.defn(name="plan_steps")
    async def plan_steps(self, plan: PlanStepsInput) -> None:
        """Add steps to the job's document."""
        async with self._database.tenant(plan.job.tenant_id) as connection:
            if not await JobRepository(connection).lock_attempt(plan.job):
                return
            await StepRepository(connection).plan(plan.job, plan.steps, first_position=plan.first_position)
            await JobRepository(connection).record(
                job_id=plan.job.job_id,
                attempt=plan.job.attempt,
                event="job.planned",
                data={"steps": [step.name for step in plan.steps]},
            )

    @activity.defn(name="finish_job")
    async def finish_job(self, finish: FinishJobInput) -> None:
        """Write the end down, once; the slot it held goes to the next job in line."""
        job = finish.job
        error = problem(finish.error_code, finish.error_detail or "") if finish.error_code else None
        with bind_job(job):
            async with self._database.tenant(job.tenant_id) as connection:
                repository = JobRepository(connection)
                if not await repository.lock_attempt(job):
                    return
                await StepRepository(connection).close_open(job, _CLOSED_STEP[finish.status])
                progress = {"progress": 1.0} if finish.status is JobStatus.SUCCEEDED else {}
                await repository.record(
                    job_id=job.job_id,
                    attempt=job.attempt,
                    event=f"job.{finish.status.value}",
                    data={"code": finish.error_code} if finish.error_code else {},
                    allowed=OPEN,
                    values={
                        "status": finish.status,
                        "result": finish.result,
                        "error": error,
                        "error_code": finish.error_code,
                        "finished_at": func.now(),
                        "waiting_on": None,
                        **progress,
                        **settled_cost,
                    },
                )
                await CommandRepository(connection).release_waiting(job.tenant_id, job.kind)
