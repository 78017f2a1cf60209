"""What a schedule starts: a run that starts one job, and lasts exactly as long as that job.

So Temporal's overlap policy and its pause on failure see the truth about the job. A run holds no worker while it waits:
it looks, sleeps a tenth of the time it has waited so far, and looks again.
"""

import asyncio
from datetime import timedelta
from typing import Final
from uuid import UUID

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.schedules import EndRunInput, LookAtJobInput, ScheduleActivities
    from domain.jobs import TERMINAL, JobStatus
    from domain.model import Frozen
    from domain.schedules import RunOutcome, ScheduledRun, ScheduleRef, StartedRun
    from workflows.options import RECORD

TASK_QUEUE: Final = "schedules"
RUN_WORKFLOW: Final = "ScheduledRun"

_SHORTEST_SECONDS: Final = 0.5
_LONGEST_SECONDS: Final = 60.0
_SCHEDULED_AT: Final = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


class Waiting(Frozen):
    """A run that continues as new: which job it waits for, and for how long it has."""

    job_id: UUID
    kind: str
    seconds: float


class RunInput(Frozen):
    """Which schedule has fired; ``waiting`` where an earlier part of the run has started the job."""

    schedule: ScheduleRef
    waiting: Waiting | None = None


@workflow.defn(name=RUN_WORKFLOW)
class ScheduledRunWorkflow:
    """One firing of a schedule."""

    @workflow.init
    def __init__(self, run: RunInput) -> None:
        self._schedule = run.schedule
        self._waited = 0.0 if run.waiting is None else run.waiting.seconds

    @workflow.run
    async def run(self, run: RunInput) -> RunOutcome | None:
        """Start the job and wait for its end; fails where the job does. None where the schedule is gone."""
        waiting, canceled = run.waiting, False
        if waiting is None:
            started, canceled = await self._start_undisturbed()
        else:
            started = StartedRun(job_id=waiting.job_id, kind=waiting.kind)
        if started.job_id is None:
            return None
        workflow.set_current_details(f"Job `{started.kind}/{started.job_id}`")
        look = LookAtJobInput(tenant_id=self._schedule.tenant_id, job_id=started.job_id)
        if canceled:
            await self._cancel(look, started)
            raise asyncio.CancelledError
        try:
            outcome = await self._until_done(look, started)
        except asyncio.CancelledError:
            # Asked to make room for the next run: the job has to end first, or there would be two.
            await asyncio.shield(asyncio.ensure_future(self._cancel(look, started)))
            raise
        await self._record(look, outcome)
        if outcome.status is JobStatus.FAILED:
            code = outcome.error_code or "E.INTERNAL"
            raise ApplicationError(f"job {started.job_id} failed with {code}", type=code, non_retryable=True)
        return outcome

    async def _start_undisturbed(self) -> tuple[StartedRun, bool]:
        """The job of this run, and whether the run was canceled while it started.

        A start that was given up may have happened all the same, and nobody would know which job to cancel. A run is
        canceled once at most, so that the second wait needs no shield.
        """
        starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(starting), False
        except asyncio.CancelledError:
            return await starting, True

    async def _start(self) -> StartedRun:
        info = workflow.info()
        run = ScheduledRun(
            schedule=self._schedule,
            run=info.workflow_id,
            execution=info.first_execution_run_id,
            scheduled_at=info.typed_search_attributes.get(_SCHEDULED_AT) or info.start_time,
        )
        return await workflow.execute_local_activity_method(ScheduleActivities.start_scheduled_job, run, **RECORD)

    async def _until_done(self, look: LookAtJobInput, started: StartedRun) -> RunOutcome:
        while True:
            outcome = await self._look(look)
            if outcome.status in TERMINAL:
                return outcome
            pause = min(max(self._waited / 10, _SHORTEST_SECONDS), _LONGEST_SECONDS)
            await workflow.sleep(timedelta(seconds=pause), summary="the job is in progress")
            self._waited += pause
            if workflow.info().is_continue_as_new_suggested():
                waiting = Waiting(job_id=look.job_id, kind=started.kind, seconds=self._waited)
                workflow.continue_as_new(RunInput(schedule=self._schedule, waiting=waiting))

    async def _cancel(self, look: LookAtJobInput, started: StartedRun) -> None:
        await workflow.execute_local_activity_method(ScheduleActivities.cancel_scheduled_job, look, **RECORD)
        self._waited = 0.0
        await self._until_done(look, started)

    async def _look(self, look: LookAtJobInput) -> RunOutcome:
        return await workflow.execute_local_activity_method(ScheduleActivities.look_at_scheduled_job, look, **RECORD)

    async def _record(self, look: LookAtJobInput, outcome: RunOutcome) -> None:
        end = EndRunInput(schedule=self._schedule, job_id=look.job_id, status=outcome.status)
        await workflow.execute_local_activity_method(ScheduleActivities.end_scheduled_run, end, **RECORD)
