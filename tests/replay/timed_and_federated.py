"""Scenarios of schedules and of federated cycles, beside those of courses in ``record.py``."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio.client import WorkflowHistory
from temporalio.worker import Worker

from activities.schedules import ScheduleActivities
from core.ids import new_id
from core.store import create_artifact_store
from core.temporal import workflow_sandbox
from domain.jobs import JobAction, JobRef
from domain.schedules import ScheduleWish
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from services.schedules.clock import Clock
from services.schedules.runs import ScheduledJobService
from services.schedules.service import ScheduleService
from tests.support.course_service import Courses
from tests.support.federation import Federation, serving_cycles
from tests.support.timetable import NEVER
from tests.support.waiting import eventually
from workflows.schedules import TASK_QUEUE, ScheduledRunWorkflow

Record = list[WorkflowHistory]


@asynccontextmanager
async def _cycles(courses: Courses) -> AsyncIterator[tuple[Federation, str]]:
    """Cycles of the same tenant, and a model of a name that is free."""
    name = f"m{new_id().hex}"
    with tempfile.TemporaryDirectory(prefix="longhaul-cycles-") as folder:
        store = create_artifact_store((Path(folder) / "store").as_uri())
        async with serving_cycles(
            courses.client, courses.database, store, courses.tenant_id, Path(folder)
        ) as federation:
            await federation.model(name)
            yield federation, name


async def _history(courses: Courses, job: JobRef) -> Record:
    return [await courses.workflow(job).fetch_history()]


async def cycle(courses: Courses) -> Record:
    """Two rounds, each closed by the signal that its goal is reached."""
    async with _cycles(courses) as (federation, name):
        devices = await federation.devices(2, model=name)
        job = await federation.start(model=name, rounds=2, goal=2)
        for number in (1, 2):
            for seed, device in enumerate(devices):
                await federation.take_part(device, seed, round_=number)
        await federation.until(job, "succeeded")
        return await _history(courses, job)


async def cycle_abandoned(courses: Courses) -> Record:
    """A round that nobody takes part in is closed by its deadline, and the cycle fails."""
    async with _cycles(courses) as (federation, name):
        job = await federation.start(model=name, goal=2, deadline_seconds=1, min_deadline_seconds=1)
        await federation.until(job, "failed")
        return await _history(courses, job)


async def cycle_canceled(courses: Courses) -> Record:
    """Canceled while a round waits."""
    async with _cycles(courses) as (federation, name):
        job = await federation.start(model=name)
        await federation.until_open(job, 1)
        await federation.act(job, JobAction.CANCEL)
        await federation.until(job, "canceled")
        return await _history(courses, job)


@asynccontextmanager
async def _schedules(courses: Courses) -> AsyncIterator[ScheduleService]:
    doing = ScheduleActivities(courses.database, ScheduledJobService(courses.database, courses.service))
    clock = Clock(courses.client, timeout=timedelta(seconds=5))
    async with Worker(
        courses.client,
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
        yield ScheduleService(courses.database, courses.service._kinds, clock, keep_keys=timedelta(hours=1))


async def scheduled(courses: Courses) -> Record:
    """One firing of a schedule, from its job's start to its end."""
    async with _schedules(courses) as service:
        wish = ScheduleWish.model_validate({"kind": "diagnostics.noop", "spec": NEVER})
        made = (await service.create(courses.tenant_id, wish, key=None)).shown.row
        await service.trigger(courses.tenant_id, made.id, None, key=None)

        async def job() -> AnyRow | None:
            async with courses.database.tenant(courses.tenant_id) as connection:
                wanted = JobFilter(labels={"longhaul.schedule": str(made.id)})
                found = await JobRepository(connection).get_page(wanted, limit=1, before=None)
            return found[0] if found else None

        row = await eventually(job)
        assert row is not None
        run = courses.client.get_workflow_handle(row.labels["longhaul.run"])
        await run.result()
        return [await run.fetch_history()]


MORE: Final[tuple[Callable[[Courses], Awaitable[Record]], ...]] = (cycle, cycle_abandoned, cycle_canceled, scheduled)
