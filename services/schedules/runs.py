"""How the run of a schedule starts its job: once, and the same way that a request does."""

from uuid import UUID

from core.database import Database
from core.ids import new_id
from domain.errors import NotFound, StateError
from domain.jobs import JobAction
from domain.schedules import EXECUTION_LABEL, RUN_LABEL, SCHEDULE_LABEL, TIME_LABEL, ScheduledRun, StartedRun
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from repositories.schedules import ScheduleRepository
from services.jobs import JobRequest, JobService


class ScheduledJobService:
    """Implements ``ScheduledJobs`` over the use cases of jobs."""

    def __init__(self, database: Database, jobs: JobService) -> None:
        self._database = database
        self._jobs = jobs

    async def start(self, run: ScheduledRun) -> StartedRun:
        """Write the job down with the run as its idempotency key. Raises InvalidInput where the kind refuses by now."""
        tenant_id, schedule_id = run.schedule.tenant_id, run.schedule.schedule_id
        async with self._database.tenant(tenant_id) as connection:
            try:
                row = await ScheduleRepository(connection).get_one(schedule_id)
            except NotFound:
                row = None
            # The key below is kept for days only; a worker may have been away for longer than that.
            known = JobFilter(kind=None if row is None else row.kind, labels=_name(run))
            if earlier := await JobRepository(connection).get_page(known, limit=1, before=None):
                return StartedRun(job_id=earlier[0].id, kind=earlier[0].kind)
        if row is None:
            return StartedRun(job_id=None)
        return await self._start_new(run, row)

    async def _start_new(self, run: ScheduledRun, row: AnyRow) -> StartedRun:
        labels = {
            **row.labels,
            TIME_LABEL: run.scheduled_at.isoformat(),
            **_name(run),
        }
        request = JobRequest(
            kind=row.kind, input=row.input, priority=row.priority, labels=labels, request_id=str(new_id())
        )
        # No header can spell this key, so it meets none of a client's.
        started = await self._jobs.start(
            run.schedule.tenant_id, request, key=f"schedule\x1f{run.run}\x1f{run.execution}"
        )
        return StartedRun(job_id=started.document.id, kind=row.kind)

    async def cancel(self, tenant_id: UUID, job_id: UUID) -> None:
        """Cancel a job; one that is finished or gone stays as it is."""
        try:
            await self._jobs.act(tenant_id, job_id, JobAction.CANCEL)
        except (NotFound, StateError):
            return


def _name(run: ScheduledRun) -> dict[str, str]:
    return {SCHEDULE_LABEL: str(run.schedule.schedule_id), RUN_LABEL: run.run, EXECUTION_LABEL: run.execution}
