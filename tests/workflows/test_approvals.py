"""Courses that wait for a person: for the outline, for the whole, with everything that can come in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from temporalio.client import Client

from activities.approvals import ApprovalActivities, AskApprovalInput
from core.database import Database
from core.store import ArtifactStore
from domain.approvals import MOST_ROUNDS, Subject, outline_sha256
from domain.course_graph import TreeNode, content_sha256
from domain.errors import ContentChanged, InvalidInput, NotFound, StateError
from domain.generation import CourseOutline, LessonContent
from domain.guarding import ContentPolicy, GuardAction
from domain.jobs import JobAction, JobRef
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository
from repositories.guarding import PolicyRepository
from repositories.rows import AnyRow
from repositories.tables import approvals
from services.approvals import ApprovalService, EditedNode, ShownOutline
from services.commands import CommandSender
from tests.support.approvals import PATIENCE, rounds, until_asked
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import artifact_names, event_rows, job_row
from tests.support.life import new_tenant
from tests.support.locks import until_done_or_blocked
from tests.support.waiting import eventually

BOTH: Final = {"outline": True, "final": True}
OUTLINE: Final = {"outline": True}
FINAL: Final = {"final": True}


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
) -> AsyncIterator[Courses]:
    """The real thing."""
    async with serving_courses(temporal, database, store, tenant_id) as made:
        yield made


@pytest.fixture
async def hasty(temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID) -> AsyncIterator[Courses]:
    """The same where an hour of waiting passes in a twentieth of a second."""
    async with serving_courses(temporal, database, store, tenant_id, hour=timedelta(seconds=0.05)) as made:
        yield made


@pytest.fixture
def service(temporal: Client, database: Database, store: ArtifactStore) -> ApprovalService:
    """What people edit with."""
    return ApprovalService(database, store, CommandSender(temporal, timeout=timedelta(seconds=10)))


async def end(courses: Courses, job: JobRef, status: str) -> AnyRow:
    """Wait until the job has ended like this."""
    return await courses.until_status(job, status, within=PATIENCE)


async def lesson_of(courses: Courses, job: JobRef, key: str) -> tuple[TreeNode, LessonContent]:
    """A lesson of the working tree, and what it says."""
    async with courses.database.tenant(job.tenant_id) as connection:
        tree = await CourseRepository(connection).get_tree(job.job_id)
    (node,) = [node for node in tree if node.key == key]
    assert node.artifact_id is not None
    return node, LessonContent.model_validate((await read_artifact(courses, node.artifact_id))["content"])


async def read_artifact(courses: Courses, artifact_id: UUID) -> dict[str, Any]:
    """A JSON artifact."""
    async with courses.database.tenant(courses.tenant_id) as connection:
        artifact = await ArtifactRepository(connection).get_one(artifact_id)
    document: dict[str, Any] = json.loads(await courses.store.get(artifact.store_key))
    return document


def titled(shown: ShownOutline, title: str) -> CourseOutline:
    """The outline under another title."""
    return shown.kept.outline.model_copy(update={"title": title})


class TestOutline:
    async def test_no_lesson_is_written_before_a_person_agrees(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=2, approval=OUTLINE)
        asked = await until_asked(courses, job, "outline")
        row = await job_row(database, job)
        assert row.status == "running"
        assert asked.content_sha256 in row.waiting_on["detail"]
        assert row.waiting_on["until"] is not None
        assert courses.model.lessons == []
        events = await event_rows(database, job)
        (told,) = [event.data for event in events if event.type == "approval.requested"]
        assert (told["subject"], told["content_sha256"]) == ("outline", asked.content_sha256)
        await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256, comment="go on")
        row = await end(courses, job, "succeeded")
        assert row.result["lessons"] == {"total": 2, "ready": 2}
        (asked,) = await rounds(database, job)
        assert (asked.state, asked.comment, asked.timed_out) == ("approved", "go on", False)
        assert asked.decided_at is not None
        (said,) = [event.data for event in await event_rows(database, job) if event.type == "job.approved"]
        assert (said["comment"], said["content_sha256"]) == ("go on", asked.content_sha256)

    async def test_what_was_rejected_comes_again_with_the_comment(self, courses: Courses, database: Database) -> None:
        """The offline provider reads no comments, so the digests may be the same; that it is asked again shows."""
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        await courses.act(job, JobAction.REJECT, comment="more about the moon")
        await until_asked(courses, job, "outline", 2)
        await courses.act(job, JobAction.REJECT)
        await until_asked(courses, job, "outline", 3)
        tasks = courses.model.outlines
        assert [task.comments for task in tasks] == [(), ("more about the moon",), ("more about the moon", "")]
        assert [task.previous is None for task in tasks] == [True, False, False]
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")
        assert [row.state for row in await rounds(database, job)] == ["rejected", "rejected", "approved"]
        assert {"outline.json", "outline-2.json", "outline-3.json"} <= set(await artifact_names(database, job))
        history = await courses.workflow(job).fetch_history()
        assert b"the moon" not in b"".join(event.SerializeToString() for event in history.events)

    async def test_rounds_are_bounded_and_a_retry_gives_more(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        for number in range(1, MOST_ROUNDS + 1):
            await until_asked(courses, job, "outline", number)
            await courses.act(job, JobAction.REJECT, comment=f"no {number}")
        row = await end(courses, job, "failed")
        assert row.error_code == "E.GENERATION.NOT_APPROVED"
        await courses.act(job, JobAction.RETRY)
        again = job.model_copy(update={"attempt": 2})
        await until_asked(courses, again, "outline", MOST_ROUNDS + 1)
        assert len(courses.model.outlines) == MOST_ROUNDS + 1
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")


class TestEditedOutline:
    async def test_is_what_the_course_is_made_from(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        job = await courses.start(modules=1, lessons=2, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        shown = await service.get_outline(job.tenant_id, job.job_id)
        mine = titled(shown, "By hand")
        edited = await service.put_outline(job.tenant_id, job.job_id, mine, seen=shown.row.content_sha256)
        assert edited.row.content_sha256 == outline_sha256(mine) != shown.row.content_sha256
        assert edited.row.content_sha256 in (await job_row(database, job)).waiting_on["detail"]
        assert (edited.kept.provenance.provider, edited.kept.provenance.model) == ("person", "offline/extractive-1")
        with pytest.raises(ContentChanged):
            await courses.act(job, JobAction.APPROVE, seen=shown.row.content_sha256)
        await courses.act(job, JobAction.APPROVE, seen=edited.row.content_sha256)
        row = await end(courses, job, "succeeded")
        assert row.result["title"] == "By hand"
        (said,) = [event.data for event in await event_rows(database, job) if event.type == "approval.edited"]
        assert said["content_sha256"] == edited.row.content_sha256

    async def test_has_to_fit_the_job(self, courses: Courses, service: ApprovalService) -> None:
        job = await courses.start(modules=1, lessons=2, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        shown = await service.get_outline(job.tenant_id, job.job_id)
        outline = shown.kept.outline
        (module,) = outline.modules
        strange = module.lessons[0].model_copy(update={"section_ids": ("s999",)})
        other = outline.model_copy(update={"modules": (module.model_copy(update={"lessons": (strange,)}),)})
        with pytest.raises(InvalidInput) as caught:
            await service.put_outline(job.tenant_id, job.job_id, other, seen=shown.row.content_sha256)
        assert [fault.pointer for fault in caught.value.faults] == [
            "/modules/0/lessons",
            "/modules/0/lessons/0/section_ids",
        ]
        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")
        with pytest.raises(StateError):
            await service.put_outline(job.tenant_id, job.job_id, titled(shown, "x"), seen=shown.row.content_sha256)

    async def test_no_approval_of_one_is_ever_of_another(self, courses: Courses, service: ApprovalService) -> None:
        """Two people at once: whoever is second is told, and what is approved is what one of them saw."""
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        shown = await service.get_outline(job.tenant_id, job.job_id)
        seen = shown.row.content_sha256
        ends = await asyncio.gather(
            service.put_outline(job.tenant_id, job.job_id, titled(shown, "One"), seen=seen),
            service.put_outline(job.tenant_id, job.job_id, titled(shown, "Two"), seen=seen),
            courses.act(job, JobAction.APPROVE, seen=seen),
            return_exceptions=True,
        )
        assert sum(not isinstance(one, BaseException) for one in ends) == 1
        assert all(isinstance(one, StateError) for one in ends if isinstance(one, BaseException))
        now = await service.get_outline(job.tenant_id, job.job_id)
        if now.row.state == "waiting":
            assert now.row.content_sha256 != seen
            await courses.act(job, JobAction.APPROVE, seen=now.row.content_sha256)
        else:
            assert now.row.content_sha256 == seen
        row = await end(courses, job, "succeeded")
        assert row.result["title"] == now.kept.outline.title

    async def test_of_another_tenant_is_not_there(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        asked = await until_asked(courses, job, "outline")
        shown = await service.get_outline(job.tenant_id, job.job_id)
        stranger = await new_tenant(database)
        with pytest.raises(NotFound):
            await service.get_outline(stranger, job.job_id)
        with pytest.raises(NotFound):
            await service.put_outline(stranger, job.job_id, shown.kept.outline, seen=asked.content_sha256)


class TestCourse:
    async def test_waits_when_everything_is_there(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, approval=BOTH)
        await until_asked(courses, job, "outline")
        await courses.act(job, JobAction.APPROVE)
        asked = await until_asked(courses, job, "course")
        row = await job_row(database, job)
        assert (row.status, row.finished_at) == ("running", None)
        assert "how-tides-come-about.json" in await artifact_names(database, job)
        with pytest.raises(ContentChanged):
            await courses.act(job, JobAction.APPROVE, seen="0" * 64)
        await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        assert (await end(courses, job, "succeeded")).result["complete"]

    async def test_rejected_fails_the_job_and_keeps_everything(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        await until_asked(courses, job, "course")
        await courses.act(job, JobAction.REJECT)
        row = await end(courses, job, "failed")
        assert row.error_code == "E.GENERATION.NOT_APPROVED"
        assert {"how-tides-come-about.json", "lessons/01-01.json"} <= set(await artifact_names(database, job))
        await courses.act(job, JobAction.RETRY)
        again = job.model_copy(update={"attempt": 2})
        await until_asked(courses, again, "course", 2)
        assert len(courses.model.asked) == 2, "nothing is made again"
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")

    async def test_approved_once_is_not_asked_again(self, courses: Courses, database: Database) -> None:
        """Not after a cancel that overtook the end, as long as the files are the same."""
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")
        async with database.tenant(job.tenant_id) as connection:
            values = {"state": "approved", "content_sha256": asked.content_sha256}
            await connection.execute(approvals.update().where(approvals.c.job_id == job.job_id).values(values))
        await courses.act(job, JobAction.RETRY)
        await end(courses, job, "succeeded")
        assert len(await rounds(database, job)) == 1


class TestRewritten:
    """A course that was rejected with a comment, from the next attempt on."""

    async def test_with_the_comment_and_what_follows_but_not_what_a_person_wrote(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        """Earlier versions stay, and an attempt after that pays for nothing twice."""
        job = await courses.start(modules=1, lessons=2, slides=True, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        await put_summary(courses, service, job, "lesson-1.2", "A person wrote this.")
        await until_asked_anew(courses, job, besides=asked.content_sha256)
        node, first = await lesson_of(courses, job, "lesson-1.1")
        answer_revision(courses, node, first.model_copy(update={"title": "By the harbour"}))
        await courses.act(job, JobAction.REJECT, comment="Mention the harbour.")
        row = await end(courses, job, "failed")
        assert "harbour" not in str(row.error)
        courses.model.asked.clear()
        await courses.act(job, JobAction.RETRY)
        await until_asked(courses, attempt_of(job, 2), "course", 2)
        (task,) = courses.model.revisions
        assert (task.comment, task.before) == ("Mention the harbour.", first.model_dump(mode="json"))
        assert courses.model.asked == [f"revision of {node.title}", "slides of By the harbour"]
        assert (await lesson_of(courses, job, "lesson-1.1"))[1].title == "By the harbour"
        assert (await lesson_of(courses, job, "lesson-1.2"))[1].summary == "A person wrote this."
        assert node in await version_of(courses, job, 2)
        told = [event.data for event in await event_rows(database, job) if event.type == "course.rewritten"]
        assert [(one["round"], one["version"], one["lessons"]) for one in told] == [(1, 3, 1)]

        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")
        await courses.workflow(job).result()
        await courses.act(job, JobAction.RETRY)
        asked = await until_asked(courses, attempt_of(job, 3), "course", 3)
        assert len(courses.model.asked) == 2
        await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        assert (await end(courses, job, "succeeded")).result["version"] == 3
        assert await version_of(courses, job, 3) == await version_of(courses, job, None)
        history = await courses.workflow(job).fetch_history()
        assert b"harbour" not in b"".join(event.SerializeToString() for event in history.events)

    async def test_each_time_it_is_rejected_from_what_there_is_by_then(self, courses: Courses) -> None:
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        for attempt, title in ((1, "One"), (2, "Two")):
            await until_asked(courses, attempt_of(job, attempt), "course", attempt)
            node, content = await lesson_of(courses, job, "lesson-1.1")
            answer_revision(courses, node, content.model_copy(update={"title": title}))
            await courses.act(job, JobAction.REJECT, comment=f"No. {title}")
            await end(courses, job, "failed")
            await courses.workflow(job).result()
            await courses.act(job, JobAction.RETRY)
        await until_asked(courses, attempt_of(job, 3), "course", 3)
        assert [task.comment for task in courses.model.revisions] == ["No. One", "No. Two"]
        assert courses.model.revisions[1].before is not None
        assert courses.model.revisions[1].before["title"] == "One"
        await courses.act(job, JobAction.APPROVE)
        assert (await end(courses, job, "succeeded")).result["version"] == 3

    async def test_by_a_model_that_has_nothing_else_to_say_it_is_the_same_course(
        self, courses: Courses, database: Database
    ) -> None:
        """As by the offline one, which reads no comments: the same files are asked about again. An event says so."""
        job = await courses.start(modules=1, lessons=1, slides=True, approval=FINAL)
        first = await until_asked(courses, job, "course")
        await courses.act(job, JobAction.REJECT, comment="not for us")
        await end(courses, job, "failed")
        courses.model.asked.clear()
        await courses.act(job, JobAction.RETRY)
        second = await until_asked(courses, attempt_of(job, 2), "course", 2)
        assert second.content_sha256 == first.content_sha256
        assert [name.partition(" of ")[0] for name in courses.model.asked] == ["revision"]
        told = [event.data for event in await event_rows(database, job) if event.type == "course.rewritten"]
        assert [(one["version"], one["lessons"]) for one in told] == [(None, 0)]
        await courses.act(job, JobAction.APPROVE)
        assert (await end(courses, job, "succeeded")).result["version"] == 1

    async def test_an_answer_that_is_no_good_fails_the_attempt_and_leaves_the_lesson(self, courses: Courses) -> None:
        """The next attempt asks for that lesson again, and for no other."""
        job = await courses.start(modules=1, lessons=2, approval=FINAL)
        await until_asked(courses, job, "course")
        (node, good), (other, content) = [await lesson_of(courses, job, f"lesson-1.{place}") for place in (1, 2)]
        answer_revision(courses, other, content.model_copy(update={"title": "Anew"}))
        courses.model.answers[f"revision of {node.title}"] = "no JSON"
        await courses.act(job, JobAction.REJECT, comment="Anew, please.")
        await end(courses, job, "failed")
        await courses.act(job, JobAction.RETRY)
        row = await eventually(
            lambda: job_row(courses.database, job), lambda row: (row.status, row.attempt) == ("failed", 2)
        )
        assert row.error_code == "E.GENERATION.INVALID"
        assert (await lesson_of(courses, job, "lesson-1.1"))[0] == node
        await courses.workflow(job).result()
        done = (await lesson_of(courses, job, "lesson-1.2"))[1].title == "Anew"
        courses.model.asked.clear()
        answer_revision(courses, node, good.model_copy(update={"title": "Good again"}))
        await courses.act(job, JobAction.RETRY)
        await until_asked(courses, attempt_of(job, 3), "course", 3)
        assert courses.model.asked.count(f"revision of {other.title}") == (0 if done else 1)
        assert [(await lesson_of(courses, job, f"lesson-1.{place}"))[1].title for place in (1, 2)] == [
            "Good again", "Anew",
        ]  # fmt: skip
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")


def attempt_of(job: JobRef, number: int) -> JobRef:
    """A later attempt of a job."""
    return job.model_copy(update={"attempt": number})


def answer_revision(courses: Courses, node: TreeNode, content: LessonContent) -> None:
    """What the model says when it is asked to write this lesson anew."""
    courses.model.answers[f"revision of {node.title}"] = content.model_dump_json()


async def put_summary(courses: Courses, service: ApprovalService, job: JobRef, key: str, summary: str) -> EditedNode:
    """Edit a lesson by hand."""
    node, content = await lesson_of(courses, job, key)
    mine = content.model_copy(update={"summary": summary})
    return await service.put_lesson(job.tenant_id, job.job_id, key, mine, seen=node.content_sha256)


async def version_of(courses: Courses, job: JobRef, number: int | None) -> tuple[TreeNode, ...]:
    """The nodes of a version, or of the working tree."""
    async with courses.database.tenant(job.tenant_id) as connection:
        repository = CourseRepository(connection)
        if number is None:
            return await repository.get_tree(job.job_id)
        return await repository.get_version_tree(job.job_id, number)


class TestEditedLesson:
    async def test_makes_the_course_be_put_together_anew(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        """And whoever agrees to what it was before is told."""
        job = await courses.start(modules=1, lessons=2, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        node, content = await lesson_of(courses, job, "lesson-1.2")
        mine = content.model_copy(update={"summary": "A person wrote this sentence."})
        edited = await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.2", mine, seen=node.content_sha256)
        assert edited.version == 2
        with pytest.raises(ContentChanged):
            await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        again = await eventually(
            lambda: until_asked(courses, job, "course"),
            lambda row: row.content_sha256 not in {None, asked.content_sha256},
            within=PATIENCE,
        )
        await courses.act(job, JobAction.APPROVE, seen=again.content_sha256)
        row = await end(courses, job, "succeeded")
        assert row.result["version"] == 2
        (file,) = [file for file in row.result["artifacts"] if file["name"].endswith(".json")]
        document = await read_artifact(courses, UUID(file["id"]))
        lesson = document["modules"][0]["lessons"][1]
        assert lesson["content"]["summary"] == "A person wrote this sentence."
        assert (lesson["provenance"]["provider"], lesson["provenance"]["calls"]) == ("person", 1)
        with pytest.raises(ContentChanged):
            await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.2", mine, seen=node.content_sha256)

    async def test_is_what_slides_and_questions_are_made_from_that_are_not_there_yet(
        self, courses: Courses, service: ApprovalService
    ) -> None:
        """Also the slides that were being made: those of the old text get into no tree."""
        courses.model.drawing.clear()
        job = await courses.start(modules=1, lessons=1, slides=True, quiz=True)
        await courses.until(lambda: any(name.startswith("slides of") for name in courses.model.asked), within=PATIENCE)
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"title": "By hand"})
        edited = await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
        assert edited.version is None
        courses.model.drawing.set()
        row = await end(courses, job, "succeeded")
        assert courses.model.asked[-3:] == [f"slides of {content.title}", "slides of By hand", "quiz of By hand"]
        async with courses.database.tenant(job.tenant_id) as connection:
            made = await CourseRepository(connection).get_made_by(job.job_id, job.job_id)
        assert [one.key for one in made if "/" in one.key] == ["lesson-1.1/slides", "lesson-1.1/quiz"]
        assert {one.key: one for one in await version_of(courses, job, 1)}.items() >= {
            one.key: one for one in made if "/" in one.key
        }.items()
        assert row.result["slides"]["lessons_without"] == row.result["quiz"]["lessons_without"] == 0

    async def test_of_a_finished_course_is_another_version(self, courses: Courses, service: ApprovalService) -> None:
        job = await courses.start(modules=1, lessons=1)
        await end(courses, job, "succeeded")
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"summary": "Later."})
        edited = await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
        assert edited.version == 2
        now, content = await lesson_of(courses, job, "lesson-1.1")
        assert (now.content_sha256, now.job_id, content.summary) == (edited.content_sha256, None, "Later.")
        for key in ("lesson-9.9", "outline", "lesson-1.1/block-1"):
            with pytest.raises(NotFound):
                await service.put_lesson(job.tenant_id, job.job_id, key, mine, seen=now.content_sha256)

    async def test_personal_data_in_it_is_dealt_with(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        """As in what a model writes; what was found is about the new text and nothing older."""
        job = await courses.start(modules=1, lessons=1)
        await end(courses, job, "succeeded")

        async def put(summary: str) -> tuple[EditedNode, dict[str, Any]]:
            node, content = await lesson_of(courses, job, "lesson-1.1")
            mine = content.model_copy(update={"summary": summary})
            edited = await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
            return edited, await read_artifact(courses, edited.artifact_id)

        edited, kept = await put("Write to anna@example.com.")
        assert kept["content"]["summary"] == "Write to [e-mail]."
        assert [(one["pointer"], one["action"]) for one in kept["findings"]] == [("/summary", "mask")]
        assert [(one.pointer, one.action) for one in edited.findings] == [("/summary", "mask")]
        node, _ = await lesson_of(courses, job, "lesson-1.1")
        assert node.content_sha256 == edited.content_sha256 == content_sha256(kept["content"])
        edited, kept = await put("Write to Anna.")
        assert (edited.findings, kept["findings"]) == ((), [])
        async with database.tenant(job.tenant_id) as connection:
            await PolicyRepository(connection).put(job.tenant_id, ContentPolicy(email=GuardAction.BLOCK))
        with pytest.raises(InvalidInput) as caught:
            await put("Write to anna@example.com.")
        assert [fault.pointer for fault in caught.value.faults] == ["/summary"]

    async def test_rejection_of_the_edited_course_and_retry(self, courses: Courses, service: ApprovalService) -> None:
        """The retry asks about the course as edited, and makes nothing again."""
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        await until_asked(courses, job, "course")
        await courses.act(job, JobAction.REJECT)
        await end(courses, job, "failed")
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"summary": "Mended."})
        await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
        await courses.act(job, JobAction.RETRY)
        again = job.model_copy(update={"attempt": 2})
        asked = await eventually(
            lambda: until_asked(courses, again, "course", 2),
            lambda row: row.content_sha256 is not None,
            within=PATIENCE,
        )
        await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        assert (await end(courses, job, "succeeded")).result["version"] == 2
        assert len(courses.model.asked) == 2

    async def test_after_a_cancel(self, courses: Courses, service: ApprovalService, database: Database) -> None:
        """What the canceled attempt asked stands in nobody's way: not in that of an edit, nor of the next question."""
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        await until_asked(courses, job, "course")
        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"summary": "Mended."})
        edited = await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
        assert edited.version == 2
        await courses.act(job, JobAction.RETRY)
        asked = await until_asked_anew(courses, job.model_copy(update={"attempt": 2}), number=2)
        assert [(row.round, row.state) for row in await rounds(database, job)] == [(1, "withdrawn"), (2, "waiting")]
        await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        assert (await end(courses, job, "succeeded")).result["version"] == 2
        assert len(courses.model.asked) == 2

    async def test_what_is_approved_already_leaves_no_question(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        """A cancel overtakes the end of a course that was edited and then approved; its retry asks nobody."""
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"summary": "Mended."})
        await service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
        await until_asked_anew(courses, job, besides=asked.content_sha256)
        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")
        async with database.tenant(job.tenant_id) as connection:
            mine_alone = approvals.update().where(approvals.c.job_id == job.job_id)
            await connection.execute(mine_alone.values(state="approved"))
        await courses.act(job, JobAction.RETRY)
        await end(courses, job, "succeeded")
        assert "waiting" not in [row.state for row in await rounds(database, job)]


class TestAtOnce:
    """Somebody edits in the very moment in which a person is asked; the lock on the course puts that in an order."""

    async def test_what_is_asked_about_is_not_older_than_the_course(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        ask = AskApprovalInput(job=job, subject=Subject.COURSE, round=1, timeout_hours=24, on_timeout="fail")
        async with database.tenant(job.tenant_id) as connection:
            await CourseRepository(connection).snapshot(job.job_id, None, reason="edit")
            asking = asyncio.create_task(ApprovalActivities(database).ask_approval(ask))
            await until_done_or_blocked(database, job.tenant_id, asking)
        found = await asking
        assert (found.state, found.content_sha256) == ("waiting", None) != ("waiting", asked.content_sha256)
        await courses.act(job, JobAction.CANCEL)
        await end(courses, job, "canceled")

    async def test_an_edit_sees_what_was_asked_meanwhile(
        self, courses: Courses, service: ApprovalService, database: Database
    ) -> None:
        job = await courses.start(modules=1, lessons=1, approval=FINAL)
        asked = await until_asked(courses, job, "course")
        node, content = await lesson_of(courses, job, "lesson-1.1")
        mine = content.model_copy(update={"summary": "Mended."})
        question = approvals.update().where(approvals.c.job_id == job.job_id)
        async with database.tenant(job.tenant_id) as connection:
            await connection.execute(question.values(state="withdrawn"))
        async with database.tenant(job.tenant_id) as connection:
            await CourseRepository(connection).lock(job.job_id)
            await connection.execute(question.values(state="waiting"))
            editing = asyncio.create_task(
                service.put_lesson(job.tenant_id, job.job_id, "lesson-1.1", mine, seen=node.content_sha256)
            )
            await until_done_or_blocked(database, job.tenant_id, editing)
        assert (await editing).version == 2
        with pytest.raises(ContentChanged):
            await courses.act(job, JobAction.APPROVE, seen=asked.content_sha256)
        again = await until_asked_anew(courses, job, besides=asked.content_sha256)
        await courses.act(job, JobAction.APPROVE, seen=again.content_sha256)
        assert (await end(courses, job, "succeeded")).result["version"] == 2


class TestTime:
    @pytest.mark.parametrize("approval", [OUTLINE, FINAL])
    async def test_nobody_answers(self, hasty: Courses, database: Database, approval: dict[str, Any]) -> None:
        job = await hasty.start(modules=1, lessons=1, approval={**approval, "timeout_hours": 1})
        row = await end(hasty, job, "failed")
        assert row.error_code == "E.GENERATION.APPROVAL_TIMEOUT"
        (asked,) = await rounds(database, job)
        assert (asked.state, asked.timed_out) == ("expired", True)
        assert "approval.timed_out" in [event.type for event in await event_rows(database, job)]
        with pytest.raises(StateError):
            await hasty.act(job, JobAction.APPROVE)

    async def test_silence_may_mean_yes(self, hasty: Courses, database: Database) -> None:
        wish = {**BOTH, "timeout_hours": 1, "on_timeout": "approve"}
        job = await hasty.start(modules=1, lessons=1, approval=wish)
        await end(hasty, job, "succeeded")
        assert [(row.state, row.timed_out) for row in await rounds(database, job)] == [("approved", True)] * 2

    async def test_a_retry_asks_again(self, hasty: Courses, database: Database) -> None:
        job = await hasty.start(modules=1, lessons=1, approval={**OUTLINE, "timeout_hours": 1})
        await end(hasty, job, "failed")
        await hasty.act(job, JobAction.RETRY)
        row = await eventually(
            lambda: job_row(database, job), lambda row: (row.status, row.attempt) == ("failed", 2), within=PATIENCE
        )
        assert row.error_code == "E.GENERATION.APPROVAL_TIMEOUT"
        requests = [event for event in await event_rows(database, job) if event.type == "approval.requested"]
        assert len(requests) == 2
        assert len(hasty.model.outlines) == 1


class TestInBetween:
    async def test_cancel(self, courses: Courses, service: ApprovalService) -> None:
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        await courses.act(job, JobAction.CANCEL)
        assert (await end(courses, job, "canceled")).waiting_on is None
        assert (await service.get_outline(job.tenant_id, job.job_id)).row.state == "withdrawn"
        with pytest.raises(StateError):
            await courses.act(job, JobAction.APPROVE)
        await courses.act(job, JobAction.RETRY)
        await until_asked(courses, job.model_copy(update={"attempt": 2}), "outline")
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")
        assert len(courses.model.outlines) == 1

    async def test_a_pause_does_not_make_the_question_forgotten(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        await courses.act(job, JobAction.PAUSE)
        assert (await job_row(database, job)).waiting_on["kind"] == "paused"
        await courses.act(job, JobAction.RESUME)
        assert (await job_row(database, job)).waiting_on["kind"] == "approval"
        await courses.act(job, JobAction.PAUSE)
        await courses.act(job, JobAction.APPROVE)
        assert (await job_row(database, job)).waiting_on["kind"] == "paused"
        await courses.until_paused(job)
        assert courses.model.lessons == []
        await courses.act(job, JobAction.RESUME)
        await end(courses, job, "succeeded")

    async def test_the_worker_dies(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """While nobody is there the decision is taken; the next worker follows it."""
        async with serving_courses(temporal, database, store, tenant_id) as courses:
            job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
            await until_asked(courses, job, "outline")
        await courses.act(job, JobAction.APPROVE)
        async with serving_courses(temporal, database, store, tenant_id, task_queue=courses.task_queue) as others:
            await end(others, job, "succeeded")
            assert others.model.outlines == []

    async def test_signals_decide_nothing(self, courses: Courses, database: Database) -> None:
        """One that is forged, late or doubled makes the workflow look, and there is nothing to see."""
        job = await courses.start(modules=1, lessons=1, approval=OUTLINE)
        await until_asked(courses, job, "outline")
        handle = courses.workflow(job)
        for version in (1_000_000, 1_000_001):
            await handle.signal("decide", args=[True, version])
        await until_looked(courses, job, times=1)
        assert (await job_row(database, job)).waiting_on["kind"] == "approval"
        assert courses.model.lessons == []
        await courses.act(job, JobAction.APPROVE)
        await end(courses, job, "succeeded")


async def until_asked_anew(courses: Courses, job: JobRef, *, number: int = 1, besides: str | None = None) -> AnyRow:
    """Wait until a person is asked about files that are there, other than those of the digest ``besides``."""
    return await eventually(
        lambda: until_asked(courses, job, "course", number),
        lambda row: row.content_sha256 not in {None, besides},
        within=PATIENCE,
    )


async def until_looked(courses: Courses, job: JobRef, *, times: int) -> None:
    """Wait until the workflow has looked what was decided."""

    async def look() -> int:
        history = await courses.workflow(job).fetch_history()
        return sum(b"look_at_approval" in event.SerializeToString() for event in history.events)

    await eventually(look, lambda seen: seen >= times, within=PATIENCE)
