"""The steps of a course called out of turn, as a worker that was believed dead calls them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import pytest
from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.models import Models
from activities.generation.steps import (
    CourseStepInput,
    ExportCourseInput,
    GenerationActivities,
    WriteLessonInput,
    WriteOutlineInput,
)
from activities.generation.writer import StructuredWriter
from activities.steps import StepKeeper
from core.database import Database
from core.store import ArtifactStore
from domain.generation import CourseInput, InlineSource
from domain.generation_plan import first_steps, module_steps
from domain.jobs import JobRef
from repositories.jobs import JobRepository
from tests.support.course_service import SOURCE, HeldModel
from tests.support.job_rows import add_running_job, artifact_names, event_rows, step_rows

InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")

WANTED: Final = CourseInput(
    topic="Tides",
    modules=1,
    lessons_per_module=2,
    sources=(InlineSource(name="tides.txt", text=SOURCE.read_text(encoding="utf-8")),),
)


@pytest.fixture
def model() -> HeldModel:
    """The offline model, counted."""
    return HeldModel()


@pytest.fixture
def course(database: Database, store: ArtifactStore, calls: PaidCalls, model: HeldModel) -> GenerationActivities:
    """The activities without a cache."""
    writer = StructuredWriter(database, calls, cache_for=timedelta(0))
    return GenerationActivities(
        StepKeeper(database), DocumentStore(database, store), writer, Models([model]), lessons_at_once=2
    )


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running course of two lessons."""
    steps = (*first_steps(), *module_steps((2,)))
    return await add_running_job(database, tenant_id, raw_input=WANTED.model_dump(mode="json"), steps=steps)


async def twice(act: Callable[[InputT], Awaitable[ResultT]], step: InputT) -> ResultT:
    """Run an activity twice at once, and once more afterwards; all have to agree."""

    async def once() -> ResultT:
        result: ResultT = await ActivityEnvironment().run(act, step)
        return result

    first, second = await asyncio.gather(once(), once())
    assert first == second == await once()
    return first


class TestTwiceAtOnce:
    async def test_every_step_leaves_one_of_everything(
        self, course: GenerationActivities, job: JobRef, database: Database, model: HeldModel
    ) -> None:
        """One artifact, one event, one result for each part, whoever comes second."""
        corpus_id = await twice(course.prepare_sources, CourseStepInput(job=job))
        outline = await twice(course.write_outline, WriteOutlineInput(job=job, corpus_id=corpus_id))
        where: dict[str, Any] = {"job": job, "corpus_id": corpus_id, "outline_id": outline.outline_id}
        assert (outline.lessons, outline.fan_out) == ((2,), 2)
        for lesson in range(2):
            await twice(course.write_lesson, WriteLessonInput(**where, module=0, lesson=lesson))
        await twice(course.export_course, ExportCourseInput(**where))
        async with database.tenant(job.tenant_id) as connection:
            kept = await JobRepository(connection).get_result(job.job_id)
        assert kept.result["lessons"] == {"total": 2, "ready": 2}
        names = Counter(await artifact_names(database, job))
        assert set(names.values()) == {1}, names
        assert len(names) == 7
        events = Counter(event.type for event in await event_rows(database, job))
        made = ("sources.prepared", "outline.written", "lesson.written", "course.exported")
        assert [events[kind] for kind in made] == [1, 1, 2, 1]
        assert {step.done for name, step in (await step_rows(database, job)).items() if name != "module-1"} == {1}
