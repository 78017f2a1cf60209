"""Parts of courses made again, on real servers: what is made, what is used again, and who may do what meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from core.database import Database
from core.store import ArtifactStore
from domain.course_graph import TreeNode
from domain.errors import InvalidInput, Outcome, ProviderError
from domain.generation import Completion, CompletionRequest, Price, RevisionTask
from domain.jobs import JobAction, JobRef
from gateways.offline import OfflineLanguageModel
from gateways.standin_heygen import Play
from repositories.courses import CourseRepository
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import call_rows, event_rows, job_row, step_rows
from tests.support.renders import QUICK, open_studio
from tests.support.waiting import eventually


class Reviser(OfflineLanguageModel):
    """The offline model with a price, which does heed comments: it adds them to what it writes anew.

    ``asked`` counts calls by what is wanted. While ``open`` is not set, revisions stay in progress; so do lessons
    while ``writing`` is not.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.in_progress = 0
        self.open, self.writing = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.writing.set()
        self.faults: list[Exception] = []

    def price(self, model: str) -> Price:
        """A cent a call, roughly."""
        return Price(input_usd=Decimal(10), cached_input_usd=Decimal(10), output_usd=Decimal(10))

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Remember, wait, answer."""
        task = request.task
        self.asked.append(task.kind)
        self.in_progress += 1
        try:
            if isinstance(task, RevisionTask):
                await self.open.wait()
            elif task.kind == "lesson" and self.asked.count("lesson") > 1:
                await self.writing.wait()
        finally:
            self.in_progress -= 1
        if self.faults:
            raise self.faults.pop()
        answer = await super().complete(request=request)
        if isinstance(task, RevisionTask) and task.comment is not None:
            return answer.model_copy(update={"text": json.dumps(_heed(json.loads(answer.text), task.comment))})
        return answer


def _heed(document: dict[str, Any], comment: str) -> dict[str, Any]:
    for place in ("summary", "notes"):
        if place in document:
            return {**document, place: f"{document[place]} {comment}"}
    if "slides" in document:
        return {**document, "slides": [_heed(slide, comment) for slide in document["slides"]]}
    return {**document, "paragraphs": [*document["paragraphs"], comment]}


@pytest.fixture
def model() -> Reviser:
    """The model of every course here."""
    return Reviser()


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, model: Reviser
) -> AsyncIterator[Courses]:
    """The real thing."""
    async with serving_courses(temporal, database, store, tenant_id, more_models=[model]) as made:
        try:
            yield made
        finally:
            model.open.set()
            model.writing.set()


async def finished(courses: Courses, **changes: Any) -> JobRef:
    """A finished course of two lessons with slides and questions."""
    job = await courses.start(modules=1, lessons=2, **{"slides": True, "quiz": True, "exports": ["json"], **changes})
    await courses.until_status(job, "succeeded", within=120)
    return job


async def section(courses: Courses, course: JobRef, node: str, **more: Any) -> JobRef:
    """Start making a node again."""
    return await courses.start_kind("generation.section", {"course_id": str(course.job_id), "node": node, **more})


async def done(courses: Courses, job: JobRef) -> dict[str, Any]:
    """The result of a job, once it is there."""
    result: dict[str, Any] = (await courses.until_status(job, "succeeded", within=120)).result
    return result


async def tree(courses: Courses, course: JobRef, version: int | None = None) -> dict[str, TreeNode]:
    """The nodes of a version, or of the tree that is worked on."""
    async with courses.database.tenant(courses.tenant_id) as connection:
        repository = CourseRepository(connection)
        if version is None:
            nodes = await repository.get_tree(course.job_id)
        else:
            nodes = await repository.get_version_tree(course.job_id, version)
    return {node.key: node for node in nodes}


def keys(result: dict[str, Any]) -> list[str]:
    """What was made again."""
    return [made["node"] for made in result["recomputed"]]


class TestWhatIsMade:
    async def test_a_course_is_a_tree_and_its_export_version_one(self, courses: Courses) -> None:
        course = await finished(courses)
        row = await job_row(courses.database, course)
        assert (row.result["course_id"], row.result["version"]) == (str(course.job_id), 1)
        found = await tree(courses, course, 1)
        assert [key for key in found if "/" not in key] == ["outline", "module-1", "lesson-1.1", "lesson-1.2"]
        assert {"lesson-1.1/block-1", "lesson-1.1/slides", "lesson-1.1/slide-1", "lesson-1.1/quiz"} <= set(found)
        assert found == await tree(courses, course)
        assert sum(node.cost_usd for node in found.values()) == row.cost_usd > 0

    async def test_a_lesson_with_what_follows_from_it(self, courses: Courses, model: Reviser) -> None:
        """Its text, its slides and its questions; the other lesson and the outline are used as they are."""
        course = await finished(courses)
        before = await tree(courses, course)
        model.asked.clear()
        job = await section(courses, course, "lesson-1.2", comment="Mention the harbour.")
        result = await done(courses, job)
        assert model.asked == ["revision", "slides", "quiz"]
        assert keys(result) == ["lesson-1.2", "lesson-1.2/slides", "lesson-1.2/quiz"]
        assert result["version"] == 2
        assert result["reused"]["by_kind"] == {"lesson": 1, "outline": 1, "quiz": 1, "slides": 1}
        after = await tree(courses, course, 2)
        changed = {key for key in after if after[key].revision_id != before.get(key, after["outline"]).revision_id}
        assert {key.partition("/")[0] for key in changed} == {"lesson-1.2"}
        row = await job_row(courses.database, job)
        kept = [node for node in before.values() if not node.key.startswith("lesson-1.2")]
        assert Decimal(result["saved_usd"]) == sum(node.cost_usd for node in kept) > 0
        assert Decimal(result["cost_usd"]) == row.cost_usd > 0
        assert [file["name"].rpartition(".")[2] for file in result["artifacts"]] == ["json"]
        assert await tree(courses, course, 1) == before

    async def test_what_follows_is_used_again_where_the_text_came_out_the_same(
        self, courses: Courses, model: Reviser
    ) -> None:
        """The offline model writes the same without a comment, so that slides and questions still fit."""
        course = await finished(courses)
        model.asked.clear()
        job = await section(courses, course, "lesson-1.1")
        result = await done(courses, job)
        assert model.asked == ["revision"]
        assert [(made["node"], made["changed"]) for made in result["recomputed"]] == [("lesson-1.1", False)]
        assert result["reused"]["below"] == ["lesson-1.1/slides", "lesson-1.1/quiz"]
        assert {step.status for step in (await step_rows(courses.database, job)).values()} == {"succeeded"}

    async def test_a_single_block_and_a_single_slide(self, courses: Courses, model: Reviser) -> None:
        """Everything around them stays word for word."""
        course = await finished(courses)
        before = await tree(courses, course)
        model.asked.clear()
        await done(courses, await section(courses, course, "lesson-1.1/block-2", comment="Shorter."))
        assert model.asked == ["revision", "slides", "quiz"]
        after = await tree(courses, course)
        blocks = [key for key in before if key.startswith("lesson-1.1/block-")]
        assert [key for key in blocks if before[key].content_sha256 != after[key].content_sha256] == [
            "lesson-1.1/block-2"
        ]
        model.asked.clear()
        await done(courses, await section(courses, course, "lesson-1.2/slide-1", comment="A joke."))
        assert model.asked == ["revision"]
        last = await tree(courses, course)
        assert [key for key in last if last[key].content_sha256 != after[key].content_sha256] == [
            "lesson-1.2/slides", "lesson-1.2/slide-1",
        ]  # fmt: skip
        assert [version.number for version in await versions(courses, course)] == [3, 2, 1]

    async def test_a_whole_module(self, courses: Courses, model: Reviser) -> None:
        course = await finished(courses, slides=False, quiz=False)
        model.asked.clear()
        result = await done(courses, await section(courses, course, "module-1", comment="Plainer."))
        assert model.asked == ["revision"] * 2
        assert keys(result) == ["lesson-1.1", "lesson-1.2"]

    async def test_one_lesson_of_a_hundred(self, courses: Courses, model: Reviser) -> None:
        """As many calls as the lesson has descendants, itself included, for less than 2 % of the first run."""
        course = await courses.start(modules=10, lessons=10, slides=True, quiz=True, exports=["json"])
        first = await courses.until_status(course, "succeeded", within=240)
        model.asked.clear()
        job = await section(courses, course, "lesson-5.5", comment="Shorter.")
        result = await done(courses, job)
        assert model.asked == ["revision", "slides", "quiz"]
        assert result["reused"]["nodes"] == 1 + 3 * 99
        row = await job_row(courses.database, job)
        assert 0 < row.cost_usd < first.cost_usd * Decimal("0.02")

    async def test_no_comment_is_in_any_history(self, courses: Courses) -> None:
        course = await finished(courses, slides=False, quiz=False)
        job = await section(courses, course, "lesson-1.1", comment="Name the lighthouse keeper.")
        await done(courses, job)
        history = await courses.workflow(job).fetch_history()
        assert "lighthouse" not in history.to_json()
        assert "lighthouse" not in str([event.data for event in await event_rows(courses.database, job)])


class TestBudget:
    async def test_a_job_may_spend_as_much_as_its_course_unless_it_says_otherwise(self, courses: Courses) -> None:
        course = await finished(courses, slides=False, quiz=False, budget_usd="7")
        for said, limit in (({}, 7), ({"budget_usd": "3"}, 3)):
            job = await section(courses, course, "lesson-1.1", **said)
            assert (await job_row(courses.database, job)).budget_usd == limit
            await done(courses, job)
        job = await section(courses, await finished(courses, slides=False, quiz=False), "lesson-1.1")
        assert (await job_row(courses.database, job)).budget_usd is None
        await done(courses, job)


class OneByOne(asyncio.Event):
    """Lets those that wait pass one at a time; set, everybody."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = asyncio.Semaphore(0)

    async def wait(self) -> Literal[True]:
        """Wait for a turn."""
        if not self.is_set():
            await self._turns.acquire()
        return True

    def let_one_pass(self) -> None:
        """The one that waits longest."""
        self._turns.release()

    def set(self) -> None:
        """Nobody waits any more."""
        super().set()
        for _ in range(1_000):
            self._turns.release()


class TestFaults:
    async def test_what_others_are_being_paid_for_meanwhile_is_not_thrown_away(
        self, courses: Courses, model: Reviser
    ) -> None:
        """One lesson fails while the other is being written; the next attempt asks only for the first again."""
        course = await finished(courses, slides=False, quiz=False)
        model.asked.clear()
        model.open = door = OneByOne()
        job = await section(courses, course, "module-1", comment="x")
        await courses.until(lambda: model.in_progress == 2, within=60)
        model.faults.append(ProviderError("no", code="E.OPENAI.REJECTED", outcome=Outcome.REJECTED, retryable=False))
        door.let_one_pass()
        await eventually(lambda: events_since_failure(courses, job), lambda types: _TASK_DONE in types, within=60)
        happened = await events_since_failure(courses, job)
        assert EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED not in happened
        door.set()
        row = await courses.until_status(job, "failed", within=60)
        assert row.error_code == "E.OPENAI.REJECTED"
        await courses.workflow(job).result()
        await courses.act(job, JobAction.RETRY)
        result = await done(courses, job)
        assert keys(result) == ["lesson-1.1", "lesson-1.2"]
        assert model.asked == ["revision"] * 3

    @pytest.mark.parametrize("end", ["failed", "canceled"])
    async def test_a_video_that_was_ordered_is_taken_up_by_the_next_attempt(  # noqa: PLR0917 - fixtures
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, model: Reviser, end: str
    ) -> None:
        """Nobody waits for it any more once another lesson has failed, or the job is canceled."""
        async with (
            open_studio(database, store, tenant_id, policy=QUICK) as studio,
            serving_courses(temporal, database, store, tenant_id, more_models=[model], desk=studio.desk) as courses,
        ):
            course = await finished(courses, slides=False, quiz=False, video={"provider": "heygen"})
            studio.standin.world.play = Play(seconds=100_000)
            model.open = door = OneByOne()
            job = await section(courses, course, "module-1", comment="x")
            await courses.until(lambda: model.in_progress == 2, within=60)
            if end == "failed":
                door.let_one_pass()
            else:
                door.set()
            ordered = 1 if end == "failed" else 2
            await eventually(
                lambda: studio.rows(job),
                lambda rows: len(rows) == ordered and all(row.state == "rendering" for row in rows),
                within=90,
            )
            if end == "failed":
                refusal = ProviderError("no", code="E.OPENAI.REJECTED", outcome=Outcome.REJECTED, retryable=False)
                model.faults.append(refusal)
                door.set()
            else:
                await courses.act(job, JobAction.CANCEL)
            await courses.until_status(job, end, within=90)
            assert {row.state for row in await studio.rows(job)} == {"rendering"}
            # There is no dispatcher here that would start the next attempt later, should this one not be closed yet.
            await courses.workflow(job).result()
            studio.standin.world.ahead_seconds = 200_000
            studio.standin.world.play = Play(seconds=0)
            await courses.act(job, JobAction.RETRY)
            result = await done(courses, job)
            assert len(studio.standin.world.renders) == 4
        assert {"lesson-1.1/video", "lesson-1.2/video"} <= set(keys(result))

    async def test_an_answer_that_is_no_good_leaves_the_course_as_it_was(
        self, courses: Courses, model: Reviser
    ) -> None:
        course = await finished(courses, slides=False, quiz=False)
        before = await tree(courses, course)
        refusal = ProviderError("no", code="E.OPENAI.REJECTED", outcome=Outcome.REJECTED, retryable=False)
        model.faults.append(refusal)
        job = await section(courses, course, "lesson-1.1", comment="x")
        row = await courses.until_status(job, "failed", within=60)
        assert row.error_code == "E.OPENAI.REJECTED"
        assert await tree(courses, course) == before
        assert len(await versions(courses, course)) == 1

    @pytest.mark.parametrize(
        ("node", "message"),
        [
            ("lesson-1.3", "not written yet"),
            ("lesson-1.1/block-30", "not written yet"),
            ("lesson-1.1/audio", "not asked for"),
            ("module-7", "no written lesson"),
            ("outline", "whole course"),
            ("chapter-1", "pattern"),
        ],
    )
    async def test_a_node_that_is_not_there_is_refused_at_once(self, courses: Courses, node: str, message: str) -> None:
        course = await finished(courses, slides=False, quiz=False)
        with pytest.raises(InvalidInput) as refused:
            await section(courses, course, node)
        (fault,) = refused.value.faults
        assert fault.pointer == "/input/node"
        assert message in fault.message

    async def test_a_course_or_a_version_of_nobody_is_refused_at_once(self, courses: Courses) -> None:
        stranger = JobRef(job_id=courses.tenant_id, tenant_id=courses.tenant_id, kind="generation.course")
        with pytest.raises(InvalidInput) as refused:
            await section(courses, stranger, "lesson-1.1")
        assert [fault.pointer for fault in refused.value.faults] == ["/input/course_id"]
        course = await finished(courses, slides=False, quiz=False)
        with pytest.raises(InvalidInput) as refused:
            await courses.start_kind("generation.export", {"course_id": str(course.job_id), "version": 2})
        assert [fault.pointer for fault in refused.value.faults] == ["/input/version"]


class TestAtOnce:
    async def test_two_lessons_at_once_lose_nothing(self, courses: Courses, model: Reviser) -> None:
        course = await finished(courses, slides=False, quiz=False)
        model.open.clear()
        jobs = [await section(courses, course, f"lesson-1.{number}", comment=f"No. {number}") for number in (1, 2)]
        await courses.until(lambda: model.in_progress == 2, within=60)
        model.open.set()
        results = [await done(courses, job) for job in jobs]
        assert sorted(result["version"] for result in results) == [2, 3]
        first, last = await tree(courses, course, 1), await tree(courses, course, 3)
        for key in ("lesson-1.1", "lesson-1.2"):
            assert first[key].content_sha256 != last[key].content_sha256

    async def test_two_blocks_of_one_lesson_at_once_lose_nothing(self, courses: Courses, model: Reviser) -> None:
        """Who comes second makes its block again, within the lesson that the first has left."""
        course = await finished(courses, slides=False, quiz=False)
        first = await tree(courses, course)
        model.open.clear()
        jobs = [await section(courses, course, f"lesson-1.1/block-{number}", comment="Anew.") for number in (1, 2)]
        await courses.until(lambda: model.in_progress == 2, within=60)
        model.open.set()
        for job in jobs:
            await done(courses, job)
        last = await tree(courses, course, 3)
        for key in ("lesson-1.1/block-1", "lesson-1.1/block-2"):
            assert first[key].content_sha256 != last[key].content_sha256

    async def test_a_lesson_made_again_while_the_course_is_still_being_made_is_what_is_exported(
        self, courses: Courses, model: Reviser
    ) -> None:
        model.writing.clear()
        course = await courses.start(modules=1, lessons=2, exports=["json"])

        await eventually(
            lambda: tree(courses, course), lambda found: bool({"lesson-1.1", "lesson-1.2"} & set(found)), within=120
        )
        (key,) = [key for key in await tree(courses, course) if key in {"lesson-1.1", "lesson-1.2"}]
        result = await done(courses, await section(courses, course, key, comment="Early bird."))
        assert result["version"] is None
        model.writing.set()
        await courses.until_status(course, "succeeded", within=120)
        assert (await tree(courses, course, 1))[key].job_id != course.job_id
        row = await job_row(courses.database, course)
        (file,) = row.result["artifacts"]
        async with courses.database.tenant(courses.tenant_id) as connection:
            exports = await CourseRepository(connection).get_exports(course.job_id, 1)
        assert [(export.export, str(export.artifact_id)) for export in exports] == [("json", file["id"])]

    async def test_a_late_video_of_the_old_text_does_not_stand_beside_the_new_one(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, model: Reviser
    ) -> None:
        """The section went without a video; the course's own comes home after that, and is of a text that is gone."""
        async with (
            open_studio(database, store, tenant_id, policy=QUICK) as studio,
            serving_courses(temporal, database, store, tenant_id, more_models=[model], desk=studio.desk) as courses,
        ):
            studio.standin.world.play = Play(seconds=100_000)
            course = await courses.start(modules=1, lessons=1, video={"provider": "heygen"}, exports=["json"])
            await eventually(
                lambda: studio.rows(course), lambda rows: [row.state for row in rows] == ["rendering"], within=90
            )
            studio.standin.world.play = Play(seconds=0, end="failed")
            result = await done(courses, await section(courses, course, "lesson-1.1", comment="Mention the harbour."))
            assert result["version"] is None
            studio.standin.world.ahead_seconds = 200_000
            row = await courses.until_status(course, "succeeded", within=120)
            assert [row.state for row in await studio.rows(course)] == ["done"]
        found = await tree(courses, course, 1)
        assert found["lesson-1.1"].job_id != course.job_id
        assert "lesson-1.1/video" not in found
        assert "video" not in row.result


class TestExport:
    async def test_a_version_is_rendered_in_other_forms(self, courses: Courses) -> None:
        course = await finished(courses, slides=False, quiz=False)
        job = await courses.start_kind(
            "generation.export", {"course_id": str(course.job_id), "version": 1, "exports": ["html", "pptx"]}
        )
        result = await done(courses, job)
        assert [file["name"].rpartition(".")[2] for file in result["artifacts"]] == ["html", "pptx"]
        assert await call_rows(courses.database, job) == []


_TASK_DONE = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED


async def events_since_failure(courses: Courses, job: JobRef) -> list[int]:
    """What has happened in a workflow since an activity failed."""
    history = await courses.workflow(job).fetch_history()
    types = [event.event_type for event in history.events]
    failed = EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED
    return [int(one) for one in types[types.index(failed) :]] if failed in types else []


async def versions(courses: Courses, course: JobRef) -> list[Any]:
    """Every version of a course, newest first."""
    async with courses.database.tenant(courses.tenant_id) as connection:
        return list(await CourseRepository(connection).get_versions(course.job_id, limit=100, before=None))
