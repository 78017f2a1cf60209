"""The steps of a section job called out of turn, as after the death of a worker."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import null, update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.models import Models
from activities.generation.sections import (
    ApplySectionInput,
    ExportVersionInput,
    SectionActivities,
    SectionPlan,
    SectionStepInput,
)
from activities.generation.steps import GenerationActivities, WriteLessonInput, WriteLessonResult
from activities.generation.writer import StructuredWriter
from activities.steps import StepKeeper
from core.database import Database
from core.store import ArtifactStore
from domain.guarding import ContentPolicy, GuardAction
from domain.jobs import JobRef
from repositories.courses import CourseRepository
from repositories.guarding import PolicyRepository
from repositories.tables import jobs
from tests.support.course_service import HeldModel
from tests.support.course_trees import CourseTree, add_course
from tests.support.job_rows import add_running_job, event_rows, job_row, next_attempt


@pytest.fixture
def model() -> HeldModel:
    """The offline model, counted."""
    return HeldModel()


@pytest.fixture
def keeper(database: Database) -> StepKeeper:
    """The book-keeping."""
    return StepKeeper(database)


@pytest.fixture
def sections(database: Database, store: ArtifactStore, keeper: StepKeeper) -> SectionActivities:
    """The activities."""
    return SectionActivities(keeper, DocumentStore(database, store), lessons_at_once=2)


@pytest.fixture
def writing(
    database: Database, store: ArtifactStore, keeper: StepKeeper, calls: PaidCalls, model: HeldModel
) -> GenerationActivities:
    """The activities of a course, without a cache."""
    writer = StructuredWriter(database, calls, cache_for=timedelta(0))
    return GenerationActivities(keeper, DocumentStore(database, store), writer, Models([model]), lessons_at_once=2)


@pytest.fixture
async def course(database: Database, store: ArtifactStore, tenant_id: UUID) -> CourseTree:
    """Two lessons, version 1."""
    made = await add_course(database, store, tenant_id)
    await made.write_lesson(1, "Moon: The moon pulls the sea.", "Sun: So does the sun.")
    await made.write_lesson(2, "Bay: Bays can be high.")
    await made.freeze()
    return made


async def start(course: CourseTree, node: str) -> JobRef:
    """A running section job."""
    wish = {"course_id": str(course.id), "node": node, "comment": "Anew."}
    job = await add_running_job(course.database, course.job.tenant_id, raw_input=wish)
    return job.model_copy(update={"kind": "generation.section"})


async def run(act: Any, step: Any) -> Any:
    """Run an activity once."""
    return await ActivityEnvironment().run(act, step)


def lesson_step(job: JobRef, plan: SectionPlan) -> WriteLessonInput:
    """The only lesson of a plan."""
    (work,) = plan.lessons
    return WriteLessonInput(
        job=job, corpus_id=plan.corpus_id, outline_id=plan.outline_id, module=work.module, lesson=work.lesson,
        before_id=work.lesson_id,
    )  # fmt: skip


async def test_a_retry_after_it_took_its_place_finds_everything_again(
    sections: SectionActivities, writing: GenerationActivities, course: CourseTree, model: HeldModel
) -> None:
    """The export failed, say: the next attempt plans the same, pays nothing, and makes no second version."""
    job = await start(course, "lesson-1.1")
    seen = []
    for _ in range(2):
        plan = await run(sections.plan_section, SectionStepInput(job=job))
        lesson: WriteLessonResult = await run(writing.write_lesson, lesson_step(job, plan))
        made = {"lesson-1.1": lesson.lesson_id}
        applied = await run(sections.apply_section, ApplySectionInput(job=job, base=plan.base, made=made))
        applied_result = (await job_row(course.database, job)).result
        await run(sections.export_version, ExportVersionInput(job=job, version=applied.version))
        exported_result = (await job_row(course.database, job)).result
        seen.append((plan, lesson, applied, applied_result["recomputed"], exported_result))
        job = (await next_attempt(course.database, job)).model_copy(update={"kind": job.kind})
        # As every end of an attempt does that is no success.
        async with course.database.tenant(job.tenant_id) as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job.job_id).values(result=null()))
    assert seen[0] == seen[1]
    assert [made["node"] for made in seen[1][4]["recomputed"]] == ["lesson-1.1"]
    assert seen[0][2].version == 2
    assert len(model.asked) == 1


async def test_every_step_twice_at_once_leaves_one_of_everything(
    sections: SectionActivities, writing: GenerationActivities, course: CourseTree, model: HeldModel
) -> None:
    job = await start(course, "lesson-1.1")
    first, second = await asyncio.gather(*(run(sections.plan_section, SectionStepInput(job=job)) for _ in range(2)))
    assert first == second
    one, other = await asyncio.gather(*(run(writing.write_lesson, lesson_step(job, first)) for _ in range(2)))
    assert one == other
    applying = ApplySectionInput(job=job, base=first.base, made={"lesson-1.1": one.lesson_id})
    results = await asyncio.gather(*(run(sections.apply_section, applying) for _ in range(2)))
    assert [result.version for result in results] == [2, 2]
    types = [event.type for event in await event_rows(course.database, job)]
    assert types.count("section.applied") == 1
    assert (await job_row(course.database, job)).result["version"] == 2


async def test_what_could_not_be_made_anew_stays_unless_the_text_below_it_has_changed(
    sections: SectionActivities, writing: GenerationActivities, course: CourseTree
) -> None:
    await course.write_slides(1, "Moon", "Sun")
    await course.freeze()
    nothing: dict[str, UUID | None] = {"lesson-1.1/slides": None}

    same = await start(course, "lesson-1.1")
    await run(sections.apply_section, ApplySectionInput(job=same, base={}, made=nothing))
    assert (await job_row(course.database, same)).result["kept"] == ["lesson-1.1/slides"]
    assert "lesson-1.1/slides" in await standing(course)

    other = await start(course, "lesson-1.1")
    plan = await run(sections.plan_section, SectionStepInput(job=other))
    lesson = await run(writing.write_lesson, lesson_step(other, plan))
    made = {"lesson-1.1": lesson.lesson_id, **nothing}
    await run(sections.apply_section, ApplySectionInput(job=other, base={}, made=made))
    assert (await job_row(course.database, other)).result["kept"] == []
    assert "lesson-1.1/slides" not in await standing(course)


async def standing(course: CourseTree) -> set[str]:
    """The keys of the tree."""
    async with course.database.tenant(course.job.tenant_id) as connection:
        return {node.key for node in await CourseRepository(connection).get_tree(course.id)}


async def test_what_was_made_from_something_older_does_not_take_its_place(
    sections: SectionActivities, writing: GenerationActivities, course: CourseTree
) -> None:
    job = await start(course, "lesson-1.1/block-1")
    plan = await run(sections.plan_section, SectionStepInput(job=job))
    lesson = await run(writing.write_lesson, lesson_step(job, plan))
    await course.write_lesson(1, "Moon: Somebody else was here.", "Sun: So does the sun.")
    applying = ApplySectionInput(job=job, base=plan.base, made={"lesson-1.1": lesson.lesson_id})
    assert not (await run(sections.apply_section, applying)).applied
    again = await run(sections.plan_section, SectionStepInput(job=job, round=2))
    assert again.base != plan.base
    with pytest.raises(ApplicationError) as failure:
        await run(sections.apply_section, applying.model_copy(update={"round": 5}))
    assert failure.value.type == "E.GENERATION.OVERTAKEN"
    async with course.database.tenant(job.tenant_id) as connection:
        assert (await CourseRepository(connection).get(course.id)).latest_version == 1


async def test_the_policy_of_the_tenant_is_not_taken_for_the_filter_of_the_provider(
    sections: SectionActivities, writing: GenerationActivities, course: CourseTree, model: HeldModel
) -> None:
    """The course stays as it is, and the job says who stopped it."""
    job = await start(course, "lesson-1.1")
    async with course.database.tenant(job.tenant_id) as connection:
        await PolicyRepository(connection).put(job.tenant_id, ContentPolicy(phone=GuardAction.BLOCK))
    plan = await run(sections.plan_section, SectionStepInput(job=job))
    model.answers["revision of Lesson 1"] = '{"title": "Call +7 916 123-45-67"}'
    with pytest.raises(ApplicationError, match="content policy stopped what was written anew") as failure:
        await run(writing.write_lesson, lesson_step(job, plan))
    assert failure.value.type == "E.GENERATION.BLOCKED"
    async with course.database.tenant(job.tenant_id) as connection:
        assert (await CourseRepository(connection).get(course.id)).latest_version == 1
