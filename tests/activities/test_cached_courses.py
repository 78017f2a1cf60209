"""What one job has paid for serves the next one that wants the same."""

from collections import Counter
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.lesson_parts import LessonPartActivities, WriteLessonPartInput
from activities.generation.models import Models
from activities.generation.steps import CourseStepInput, GenerationActivities, WriteLessonInput, WriteOutlineInput
from activities.generation.writer import StructuredWriter
from activities.steps import StepKeeper
from core.database import Database
from core.store import ArtifactStore
from domain.generation import CourseInput, InlineSource
from domain.generation_plan import first_steps, module_steps
from domain.jobs import JobRef
from tests.support.course_service import SOURCE, HeldModel
from tests.support.job_rows import add_running_job

WANTED: Final = CourseInput(
    topic="Tides",
    modules=1,
    lessons_per_module=1,
    slides=True,
    quiz=True,
    sources=(InlineSource(name="tides.txt", text=SOURCE.read_text(encoding="utf-8")),),
)


async def test_every_step_keeps_its_answer_for_other_jobs(
    database: Database, store: ArtifactStore, calls: PaidCalls, tenant_id: UUID
) -> None:
    """The structure, the lesson, the slides and the quiz are asked for once, and by the second job not at all."""
    model, keeper, documents = HeldModel(), StepKeeper(database), DocumentStore(database, store)
    writer = StructuredWriter(database, calls, cache_for=timedelta(hours=1))
    course = GenerationActivities(keeper, documents, writer, Models([model]), lessons_at_once=2)
    parts = LessonPartActivities(keeper, documents, writer, Models([model]))

    async def make() -> None:
        steps = (*first_steps(), *module_steps((1,)))
        raw = WANTED.model_dump(mode="json")
        job: JobRef = await add_running_job(database, tenant_id, raw_input=raw, steps=steps)
        run = ActivityEnvironment().run
        corpus_id = await run(course.prepare_sources, CourseStepInput(job=job))
        outline = await run(course.write_outline, WriteOutlineInput(job=job, corpus_id=corpus_id))
        where: dict[str, Any] = {"job": job, "corpus_id": corpus_id, "module": 0, "lesson": 0}
        lesson = WriteLessonInput(**where, outline_id=outline.outline_id, is_last=False)
        written = await run(course.write_lesson, lesson)
        for make_part, is_last in ((parts.write_slides, False), (parts.write_quiz, True)):
            await run(make_part, WriteLessonPartInput(**where, lesson_id=written.lesson_id, is_last=is_last))

    await make()
    paid = Counter(model.asked)
    assert len(paid) == 4
    await make()
    assert Counter(model.asked) == paid
