"""The first and the last thing that happens to every job, whatever its family."""

from collections.abc import Sequence
from typing import Any, Final

from temporalio import activity

from activities.errors import problem, to_failure
from core.database import Database
from core.logging import bind_job
from core.metrics import WorkerMetrics
from domain.errors import NotReopened
from domain.jobs import JobRef, JobStatus, StepPlan, StepStatus
from domain.model import Frozen
from repositories.jobs import JobRepository
from repositories.steps import StepRepository
from repositories.transitions import JobTransitions

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

    def __init__(self, database: Database, metrics: WorkerMetrics) -> None:
        self._database = database
        self._transitions = JobTransitions(database)
        self._metrics = metrics

    @activity.defn(name="begin_job")
    async def begin_job(self, begin: BeginJobInput) -> BeginJobResult:
        """Mark the job running and take its start command off the list."""
        job = begin.job
        with bind_job(job):
            run_id = activity.info().workflow_run_id or ""
            paused = await self._transitions.begin(job, run_id=run_id, steps=begin.steps)
            if paused is None:
                await self._await_reopening(job, run_id)
            return BeginJobResult(proceed=False) if paused is None else BeginJobResult(proceed=True, paused=paused)

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
            seconds = await self._transitions.finish(
                job,
                status=finish.status,
                step_status=_CLOSED_STEP[finish.status],
                result=finish.result,
                error=error,
                error_code=finish.error_code,
            )
            if seconds is None:
                await self._await_reopening(job, activity.info().workflow_run_id or "")
        if seconds is not None:
            self._metrics.count_job(kind=job.kind, status=finish.status.value, seconds=seconds)

    async def _await_reopening(self, job: JobRef, run_id: str) -> None:
        """Where an operator has reset a finished job, try again once the reconciler has opened it."""
        if await self._transitions.was_reset(job, run_id=run_id):
            raise to_failure(NotReopened())
