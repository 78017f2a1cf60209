"""What the run of a schedule does to the world: it starts a job, looks at it, and cancels it where it is told to."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from temporalio import activity

from activities.errors import problem, to_failure
from core.database import Database
from domain.errors import LonghaulError, NotFound, RequestError
from domain.jobs import JobStatus
from domain.model import Frozen
from domain.schedules import RunOutcome, ScheduledJobs, ScheduledRun, ScheduleRef, StartedRun
from repositories.jobs import JobRepository
from repositories.schedules import ScheduleRepository

_log = structlog.get_logger(__name__)


class LookAtJobInput(Frozen):
    """Which job to look at."""

    tenant_id: UUID
    job_id: UUID


class EndRunInput(Frozen):
    """The run is over, and how its job ended."""

    schedule: ScheduleRef
    job_id: UUID
    status: JobStatus


class ScheduleActivities:
    """Short transactions, run as local activities; each may be repeated at will."""

    def __init__(self, database: Database, jobs: ScheduledJobs) -> None:
        self._database = database
        self._jobs = jobs

    @activity.defn(name="start_scheduled_job")
    async def start_scheduled_job(self, run: ScheduledRun) -> StartedRun:
        """Start the job of this run, once. A kind that refuses by now fails the run, and the schedule says why."""
        try:
            started = await self._jobs.start(run)
        except RequestError as fault:
            await self._set_trouble(run, fault)
            raise to_failure(fault) from fault
        except LonghaulError as fault:
            raise to_failure(fault) from fault
        if started.job_id is not None:
            await self._clear_trouble(run)
        return started

    @activity.defn(name="look_at_scheduled_job")
    async def look_at_scheduled_job(self, look: LookAtJobInput) -> RunOutcome:
        """How the job stands. One that is gone counts as canceled."""
        try:
            async with self._database.tenant(look.tenant_id) as connection:
                row = await JobRepository(connection).get_document(look.job_id)
        except NotFound:
            return RunOutcome(status=JobStatus.CANCELED)
        return RunOutcome(status=JobStatus(row.status), error_code=row.error_code)

    @activity.defn(name="cancel_scheduled_job")
    async def cancel_scheduled_job(self, look: LookAtJobInput) -> None:
        """Cancel the job, unless it is over."""
        await self._jobs.cancel(look.tenant_id, look.job_id)

    @activity.defn(name="end_scheduled_run")
    async def end_scheduled_run(self, end: EndRunInput) -> None:
        """Pause a schedule that is to pause on failure, in its row; the keeper tells Temporal.

        Where runs may overlap Temporal does not watch how they end, and pauses nothing by itself.
        """
        if end.status is not JobStatus.FAILED:
            return
        async with self._database.tenant(end.schedule.tenant_id) as connection:
            schedules = ScheduleRepository(connection)
            try:
                row = await schedules.get_one(end.schedule.schedule_id)
            except NotFound:
                return
            if row.pause_on_failure and not row.paused:
                note = f"paused because job {end.job_id} failed"
                await schedules.change(row.id, {"paused": True, "note": note}, lease=timedelta(0))

    async def _set_trouble(self, run: ScheduledRun, fault: LonghaulError) -> None:
        _log.warning("schedule.refused", schedule_id=str(run.schedule.schedule_id), code=fault.code)
        trouble = problem(fault.code, fault.detail) | {
            "at": datetime.now(UTC).isoformat(), "scheduled_at": run.scheduled_at.isoformat(),
        }  # fmt: skip
        async with self._database.tenant(run.schedule.tenant_id) as connection:
            await ScheduleRepository(connection).set_trouble(run.schedule.schedule_id, trouble)

    async def _clear_trouble(self, run: ScheduledRun) -> None:
        async with self._database.tenant(run.schedule.tenant_id) as connection:
            await ScheduleRepository(connection).set_trouble(run.schedule.schedule_id, None)
