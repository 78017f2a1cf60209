"""The scenarios of videos that are recorded and replayed; topic and source are canaries."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from temporalio.client import WorkflowHistory

from core.ids import new_id
from domain.jobs import JobRef
from gateways.standin_heygen import Fault, FaultKind
from repositories.tenants import TenantRepository
from services.media import MediaService, TemporalWaker
from tests.support.course_service import Courses, serving_courses
from tests.support.renders import QUICK, Studio, open_studio
from tests.support.waiting import eventually

TOPIC: Final = "A canary of a topic"
SOURCE: Final = "# Lighthouses\n\nThe canary warden lights the lantern at dusk.\n\nThe lantern burns until sunrise."
WITHIN: Final = 90.0


@asynccontextmanager
async def _filming(courses: Courses, **options: Any) -> AsyncIterator[tuple[Courses, Studio]]:
    tenant_id = new_id()
    async with courses.database.system() as connection:
        await TenantRepository(connection).add(tenant_id=tenant_id, name=f"recorder-{tenant_id}")
    async with (
        open_studio(courses.database, courses.store, tenant_id, **{"policy": QUICK, **options}) as studio,
        serving_courses(courses.client, courses.database, courses.store, tenant_id, desk=studio.desk) as filming,
    ):
        yield filming, studio


async def _start(courses: Courses) -> JobRef:
    sources = [{"name": "lighthouses.md", "text": SOURCE}]
    return await courses.start(topic=TOPIC, sources=sources, modules=1, lessons=1, video={"provider": "heygen"})


async def _histories(courses: Courses, job: JobRef) -> list[WorkflowHistory]:
    return [await courses.workflow(job, suffix).fetch_history() for suffix in ("", "/module-01", "/module-01/video-01")]


async def filmed(courses: Courses) -> list[WorkflowHistory]:
    """A connection that breaks, the same order again, a video."""
    async with _filming(courses) as (filming, studio):
        studio.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        job = await _start(filming)
        await filming.until_status(job, "succeeded", within=WITHIN)
        return await _histories(filming, job)


async def unfilmed(courses: Courses) -> list[WorkflowHistory]:
    """In doubt, too old to be sent again, given up by a person."""
    policy = QUICK.model_copy(update={"replay_within": timedelta(seconds=1), "poll_stuck": timedelta(hours=1)})
    async with _filming(courses, policy=policy) as (filming, studio):
        studio.standin.faults.add(
            Fault(kind=FaultKind.DROP_AFTER), Fault(kind=FaultKind.STATUS_BEFORE, call="list", times=1_000)
        )
        studio.desk.policy = policy.model_copy(update={"patience": timedelta(0)})
        job = await _start(filming)
        (row,) = await eventually(
            lambda: studio.rows(job), lambda rows: bool(rows) and rows[0].state == "stuck", within=WITHIN
        )
        service = MediaService(courses.database, TemporalWaker(courses.client), webhook_secret=None)
        await service.resolve(job.tenant_id, row.id, "give_up")
        await filming.until_status(job, "succeeded", within=WITHIN)
        return await _histories(filming, job)


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[list[WorkflowHistory]]]]] = {
    scenario.__name__: scenario for scenario in (filmed, unfilmed)
}
