"""Slides and quiz of every lesson: made after the text, nodes of the course, in the exports, and never fatal."""

import json
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import Client

from core.database import Database
from core.store import ArtifactStore
from domain.course_graph import NodeKind, TreeNode
from domain.errors import Outcome, ProviderError
from domain.jobs import JobAction, JobRef
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import artifact_names, event_rows, step_rows

QUOTA = ProviderError("quota used up", code="E.OPENAI.QUOTA", outcome=Outcome.REJECTED, retryable=False)
PATIENCE = 120.0


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
) -> AsyncIterator[Courses]:
    """The real thing, two lessons at once."""
    async with serving_courses(temporal, database, store, tenant_id) as made:
        yield made


async def tree_of(courses: Courses, job: JobRef) -> dict[str, TreeNode]:
    """The nodes of a course by key."""
    async with courses.database.tenant(job.tenant_id) as connection:
        return {node.key: node for node in await CourseRepository(connection).get_tree(job.job_id)}


async def exported(courses: Courses, job: JobRef, result: dict[str, Any], ending: str) -> bytes:
    """The bytes of the export with this ending."""
    (found,) = [one for one in result["artifacts"] if one["name"].endswith(ending)]
    async with courses.database.tenant(job.tenant_id) as connection:
        artifact = await ArtifactRepository(connection).get_one(UUID(found["id"]))
    return await courses.store.get(artifact.store_key)


def lessons_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The lessons of a JSON export."""
    return [lesson for module in document["modules"] for lesson in module["lessons"]]


class TestCourseWithParts:
    async def test_every_lesson_has_slides_and_a_quiz(self, courses: Courses, database: Database) -> None:
        """One call each, one node each, steps that count lessons, and all of it in the exports."""
        job = await courses.start(modules=2, lessons=2, slides=True, quiz=True, exports=["json", "pptx", "site"])
        row = await courses.until_status(job, "succeeded", within=PATIENCE)

        assert row.result["lessons"] == {"total": 4, "ready": 4}
        assert row.result["slides"]["lessons_without"] == row.result["quiz"]["lessons_without"] == 0
        assert Counter(name.partition(" of ")[0] for name in courses.model.asked if " of " in name) >= Counter(
            {"slides": 4, "quiz": 4}
        )
        assert max(Counter(courses.model.asked).values()) == 1
        steps = await step_rows(database, job)
        assert {(name, step.done, step.total, step.status) for name, step in steps.items() if "module" in name} == {
            ("module-1", 2, 2, "succeeded"),
            ("module-2", 2, 2, "succeeded"),
        }
        events = await event_rows(database, job)
        kinds = Counter(event.type for event in events)
        assert (kinds["lesson.written"], kinds["slides.written"], kinds["quiz.written"]) == (4, 4, 4)
        progress = [event.data["progress"] for event in events]
        assert progress == sorted(progress)
        assert [name for name in await artifact_names(database, job) if name.startswith("lessons/01-01")] == [
            "lessons/01-01-quiz.json", "lessons/01-01-slides.json", "lessons/01-01.json",
        ]  # fmt: skip

        document = json.loads(await exported(courses, job, row.result, ".json"))
        tree = await tree_of(courses, job)
        for number, lesson in enumerate(lessons_of(document)):
            key = f"lesson-{number // 2 + 1}.{number % 2 + 1}"
            slides = lesson["slides"]["slides"]
            assert tree[f"{key}/slides"].kind is NodeKind.SLIDES
            assert tree[f"{key}/quiz"].kind is NodeKind.QUIZ
            shown = [node.title for name, node in tree.items() if name.startswith(f"{key}/slide-")]
            assert shown == [slide["title"] for slide in slides]
        assert sum(len(lesson["slides"]["slides"]) for lesson in lessons_of(document)) == row.result["slides"]["total"]
        assert sum(len(lesson["quiz"]["questions"]) for lesson in lessons_of(document)) == (
            row.result["quiz"]["questions"]
        )
        with zipfile.ZipFile(BytesIO(await exported(courses, job, row.result, "-site.zip"))) as site:
            assert b'class="quiz"' in site.read("lesson-1-1.html")

    async def test_one_part_alone(self, courses: Courses) -> None:
        """Questions without slides; the result is silent about what nobody asked for."""
        job = await courses.start(modules=1, lessons=1, quiz=True)
        row = await courses.until_status(job, "succeeded", within=PATIENCE)

        assert "slides" not in row.result
        assert set(row.result["quiz"]) == {"questions", "lessons_without"}

    async def test_bad_slides_leave_the_lesson_without_them(self, courses: Courses, database: Database) -> None:
        """The answer is kept as a draft, the lesson is ready, and everything says that its slides are missing."""
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=1, slides=True, quiz=True)
        await courses.until_asked(1, within=PATIENCE)
        (title,) = courses.model.lessons
        courses.model.answers[f"slides of {title}"] = '{"slides": []}'
        courses.model.open.set()
        row = await courses.until_status(job, "succeeded", within=PATIENCE)

        assert (row.result["complete"], row.result["slides"]) == (
            True,
            {"total": 0, "figures": 0, "lessons_without": 1},
        )
        (told,) = [event.data for event in await event_rows(database, job) if event.type == "slides.written"]
        assert told["content"] == "draft"
        (lesson,) = lessons_of(json.loads(await exported(courses, job, row.result, ".json")))
        assert (lesson["slides"], lesson["slides_provenance"]["calls"]) == (None, 2)
        assert lesson["quiz"]["questions"]
        assert (await tree_of(courses, job))["lesson-1.1/slides"].status == "draft"

    async def test_nothing_is_made_of_a_draft(self, courses: Courses, database: Database) -> None:
        """And the lesson counts as done all the same."""
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=1, slides=True, quiz=True)
        await courses.until_asked(1, within=PATIENCE)
        (title,) = courses.model.lessons
        courses.model.answers[title] = "{}"
        courses.model.open.set()
        row = await courses.until_status(job, "succeeded", within=PATIENCE)

        assert row.result["lessons"] == {"total": 1, "draft": 1}
        assert not [name for name in courses.model.asked if " of " in name and name != title]
        assert ((await step_rows(database, job))["module-1"].done, row.progress) == (1, 1.0)

    async def test_a_retry_goes_on_behind_the_text(self, courses: Courses, database: Database) -> None:
        """Trouble with the provider fails the job; what was paid for before is read back."""
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=1, slides=True, quiz=True)
        await courses.until_asked(1, within=PATIENCE)
        (title,) = courses.model.lessons
        courses.model.answers[f"quiz of {title}"] = QUOTA
        courses.model.open.set()
        await courses.until_status(job, "failed", within=PATIENCE)
        assert (await step_rows(database, job))["module-1"].done == 0
        del courses.model.answers[f"quiz of {title}"]
        await courses.act(job, JobAction.RETRY)
        row = await courses.until_status(job, "succeeded", within=PATIENCE)

        asked = Counter(courses.model.asked)
        assert (asked["outline"], asked[title], asked[f"slides of {title}"]) == (1, 1, 1)
        assert asked[f"quiz of {title}"] == 2
        assert row.result["quiz"]["lessons_without"] == 0
        assert (await step_rows(database, job))["module-1"].done == 1
