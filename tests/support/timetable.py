"""Schedules as in production - use cases, keeper, Temporal, the worker of their runs - over the jobs of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from temporalio.client import ScheduleHandle
from temporalio.worker import Worker

from activities.schedules import ScheduleActivities
from core.temporal import workflow_sandbox
from domain.schedules import ScheduleWish
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from repositories.tables import schedules
from services.kinds import KindRegistry
from services.schedules.clock import Clock, temporal_id
from services.schedules.keeper import ScheduleKeeper
from services.schedules.runs import ScheduledJobService
from services.schedules.service import ScheduleService, Shown
from tests.support.life import Life, kinds_on
from tests.support.waiting import eventually
from workflows.schedules import TASK_QUEUE, ScheduledRunWorkflow

NEVER = {"cron": "0 0 29 2 *"}
"""Fires on leap days only: what happens in a test is what the test asks for."""


@dataclass
class Timetable:
    """One tenant's schedules."""

    life: Life
    service: ScheduleService = field(init=False)
    clock: Clock = field(init=False)
    keeper: ScheduleKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.life.client, timeout=timedelta(seconds=5))
        self.service = self.service_with(self.clock)
        self.keeper = ScheduleKeeper(self.life.database, self.clock, interval=timedelta(seconds=10))

    def service_with(self, clock: Clock) -> ScheduleService:
        """The use cases over another way to Temporal."""
        kinds = KindRegistry(kinds_on(self.life.task_queue))
        return ScheduleService(self.life.database, kinds, clock, keep_keys=timedelta(hours=1))

    @property
    def tenant_id(self) -> UUID:
        """Whose schedules they are."""
        return self.life.tenant_id

    async def create(self, **wish: Any) -> Shown:
        """A schedule of jobs that end when they are told to; fires on leap days unless told otherwise."""
        wanted = ScheduleWish.model_validate({"kind": "test.hold", "spec": NEVER, **wish})
        return (await self.service.create(self.tenant_id, wanted, key=None)).shown

    async def trigger(self, schedule_id: UUID, **more: Any) -> None:
        """Run now."""
        await self.service.trigger(self.tenant_id, schedule_id, more.pop("overlap", None), key=more.pop("key", None))

    async def jobs(self, schedule_id: UUID) -> list[AnyRow]:
        """The jobs of a schedule, oldest first."""
        wanted = JobFilter(labels={"longhaul.schedule": str(schedule_id)})
        async with self.life.database.tenant(self.tenant_id) as connection:
            return list(reversed(await JobRepository(connection).get_page(wanted, limit=100, before=None)))

    async def until_jobs(self, schedule_id: UUID, count: int, *, within: float = 20.0) -> list[AnyRow]:
        """Wait until the schedule has made so many jobs."""
        return await eventually(lambda: self.jobs(schedule_id), lambda rows: len(rows) >= count, within=within)

    async def row(self, schedule_id: UUID) -> AnyRow | None:
        """Everything stored about a schedule."""
        async with self.life.database.system() as connection:
            return (await connection.execute(select(schedules).where(schedules.c.id == schedule_id))).one_or_none()

    def handle(self, schedule_id: UUID) -> ScheduleHandle:
        """The schedule in Temporal."""
        return self.life.client.get_schedule_handle(temporal_id(schedule_id))


@asynccontextmanager
async def serving_schedules(life: Life) -> AsyncIterator[Timetable]:
    """Everything that schedules need, with a worker for their runs."""
    doing = ScheduleActivities(life.database, ScheduledJobService(life.database, life.service))
    async with Worker(
        life.client,
        task_queue=TASK_QUEUE,
        workflows=[ScheduledRunWorkflow],
        activities=[
            doing.start_scheduled_job,
            doing.look_at_scheduled_job,
            doing.cancel_scheduled_job,
            doing.end_scheduled_run,
        ],
        workflow_runner=workflow_sandbox(),
    ):
        yield Timetable(life)
