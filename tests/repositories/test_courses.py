import asyncio
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import update
from sqlalchemy.exc import ProgrammingError

from core.database import Database
from core.ids import new_id
from domain.course_graph import NodeKind, NodeMade, TreeNode
from domain.errors import NotFound
from domain.jobs import JobRef
from repositories.courses import CourseRepository, course_statement, revision_statement, revisions_statement
from repositories.tables import node_revisions
from tests.support.job_rows import add_running_job, finish_job, next_attempt
from tests.support.locks import until_done_or_blocked


def lesson(key: str, content: str, *, made_from: str = "plan", blocks: int = 2) -> list[NodeMade]:
    """A revision of a lesson with its blocks."""
    whole = NodeMade(
        key=key, kind=NodeKind.LESSON, title="Queues", input_hash=made_from, content_sha256=content,
        artifact_id=new_id(), calls=1, cost_usd=Decimal("0.25"),
    )  # fmt: skip
    return [
        whole,
        *(
            NodeMade(
                key=f"{key}/block-{number}", kind=NodeKind.BLOCK, title=f"Block {number}", input_hash=made_from,
                content_sha256=f"{content}-{number}",
            )
            for number in range(1, blocks + 1)
        ),
    ]  # fmt: skip


def slides(lesson: str, content: str) -> NodeMade:
    """A revision of a deck."""
    return NodeMade(
        key=f"{lesson}/slides", kind=NodeKind.SLIDES, title="Queues", input_hash=content, content_sha256=content,
        artifact_id=new_id(),
    )  # fmt: skip


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """The job of a course, and the course's row."""
    made = await add_running_job(database, tenant_id)
    await database.run(tenant_id, course_statement(made, made.job_id, title="Queues", corpus_id=new_id()))
    return made


async def tree(database: Database, job: JobRef, course_id: UUID | None = None) -> dict[str, TreeNode]:
    """The working tree of a course, by key."""
    async with database.tenant(job.tenant_id) as connection:
        found = await CourseRepository(connection).get_tree(course_id or job.job_id)
    return {node.key: node for node in found}


async def edit(database: Database, job: JobRef, nodes: list[NodeMade]) -> None:
    """Let somebody else's revision stand."""
    async with database.tenant(job.tenant_id) as connection:
        courses = CourseRepository(connection)
        await courses.point(job.tenant_id, job.job_id, await courses.add_revisions(job.job_id, nodes))


async def snapshot(database: Database, job: JobRef, course_id: UUID | None = None) -> int:
    """The number of a version that the job makes."""
    async with database.tenant(job.tenant_id) as connection:
        return await CourseRepository(connection).snapshot(course_id or job.job_id, job, reason="made")


class TestRevisions:
    async def test_stand_in_the_tree_in_reading_order_with_their_parts(self, database: Database, job: JobRef) -> None:
        nodes = [*lesson("lesson-1.10", "b"), *lesson("lesson-1.2", "a")]
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, nodes))
        found = await tree(database, job)
        assert list(found) == [
            "lesson-1.2", "lesson-1.2/block-1", "lesson-1.2/block-2",
            "lesson-1.10", "lesson-1.10/block-1", "lesson-1.10/block-2",
        ]  # fmt: skip
        whole = found["lesson-1.2"]
        assert (whole.cost_usd, whole.calls, whole.job_id) == (Decimal("0.25"), 1, job.job_id)
        assert found["lesson-1.2/block-1"].whole_id == whole.revision_id

    async def test_written_twice_change_nothing(self, database: Database, job: JobRef) -> None:
        statement = revisions_statement(job, job.job_id, lesson("lesson-1.1", "a"))
        await database.run(job.tenant_id, statement)
        before = await tree(database, job)
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "other bytes")))
        await database.run(job.tenant_id, statement)
        assert await tree(database, job) == before

    async def test_later_ones_take_over_with_their_parts_and_earlier_ones_stay(
        self, database: Database, job: JobRef
    ) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a", blocks=3)))
        first = (await tree(database, job))["lesson-1.1"]
        later = lesson("lesson-1.1", "b", made_from="comment", blocks=1)
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, later))
        found = await tree(database, job)
        assert list(found) == ["lesson-1.1", "lesson-1.1/block-1"]
        assert found["lesson-1.1"].content_sha256 == "b"
        async with database.tenant(job.tenant_id) as connection:
            kept = await CourseRepository(connection).get_revisions(job.job_id, [first.revision_id])
        assert [node.content_sha256 for node in kept] == ["a", "a-1", "a-2", "a-3"]

    async def test_of_another_job_wait_to_be_applied(self, database: Database, job: JobRef) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        section = await add_running_job(database, job.tenant_id)
        again = lesson("lesson-1.1", "b", made_from="comment")
        await database.run(job.tenant_id, revisions_statement(section, job.job_id, again))
        assert (await tree(database, job))["lesson-1.1"].content_sha256 == "a"
        async with database.tenant(job.tenant_id) as connection:
            courses = CourseRepository(connection)
            (made,) = await courses.get_made_by(job.job_id, section.job_id)
            await courses.point(job.tenant_id, job.job_id, {made.key: made.revision_id})
        assert (await tree(database, job))["lesson-1.1/block-2"].content_sha256 == "b-2"

    async def test_of_the_course_do_not_undo_what_a_section_job_or_a_person_did_meanwhile(
        self, database: Database, job: JobRef
    ) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        await edit(database, job, lesson("lesson-1.1", "b", made_from="a person"))
        late = lesson("lesson-1.1", "c", made_from="late")
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, late))
        assert (await tree(database, job))["lesson-1.1"].content_sha256 == "b"

    async def test_of_the_course_do_not_get_below_a_text_they_were_not_made_from(
        self, database: Database, job: JobRef
    ) -> None:
        """What replaced the text went without slides; those of the old one, made late, are on record and no more."""
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        await edit(database, job, lesson("lesson-1.1", "b", made_from="a person"))
        await database.run(job.tenant_id, revision_statement(job, job.job_id, slides("lesson-1.1", "of a")))
        assert "lesson-1.1/slides" not in await tree(database, job)
        async with database.tenant(job.tenant_id) as connection:
            made = await CourseRepository(connection).get_made_by(job.job_id, job.job_id)
        assert [node.content_sha256 for node in made] == ["a", "of a"]

    async def test_of_the_course_get_below_the_text_they_were_made_from_whoever_wrote_it(
        self, database: Database, job: JobRef
    ) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        by_hand = lesson("lesson-1.1", "b", made_from="a person")
        await edit(database, job, by_hand)
        made_from = by_hand[0].artifact_id
        nodes = [slides("lesson-1.1", "of b")]
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, nodes, made_from=made_from))
        assert (await tree(database, job))["lesson-1.1/slides"].content_sha256 == "of b"

    async def test_of_the_course_get_below_the_same_text_by_somebody_else(
        self, database: Database, job: JobRef
    ) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        await edit(database, job, lesson("lesson-1.1", "a", made_from="a section job"))
        await database.run(job.tenant_id, revision_statement(job, job.job_id, slides("lesson-1.1", "of a")))
        assert (await tree(database, job))["lesson-1.1/slides"].content_sha256 == "of a"

    async def test_wait_for_whoever_is_about_to_replace_their_text(self, database: Database, job: JobRef) -> None:
        """Between looking at the text and taking a place below it there is no moment for another text."""
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        async with database.tenant(job.tenant_id) as connection:
            courses = CourseRepository(connection)
            other = await courses.add_revisions(job.job_id, lesson("lesson-1.1", "b", made_from="a person"))
            await courses.point(job.tenant_id, job.job_id, other)
            late = revision_statement(job, job.job_id, slides("lesson-1.1", "of a"))
            putting = asyncio.create_task(database.run(job.tenant_id, late))
            await until_done_or_blocked(database, job.tenant_id, putting)
            assert not putting.done()
        await putting
        assert "lesson-1.1/slides" not in await tree(database, job)

    async def test_an_outline_of_the_course_always_takes_over(self, database: Database, job: JobRef) -> None:
        def outline(content: str) -> NodeMade:
            return NodeMade(
                key="outline", kind=NodeKind.OUTLINE, title="Queues", input_hash=content, content_sha256=content,
                artifact_id=new_id(),
            )  # fmt: skip

        async with database.tenant(job.tenant_id) as connection:
            courses = CourseRepository(connection)
            await courses.point(job.tenant_id, job.job_id, await courses.add_revisions(job.job_id, [outline("hand")]))
        for content in ("a", "b", "a"):
            await database.run(job.tenant_id, revision_statement(job, job.job_id, outline(content)))
            assert (await tree(database, job))["outline"].content_sha256 == content

    async def test_of_a_job_that_has_moved_on_are_dropped(self, database: Database, job: JobRef) -> None:
        statement = revisions_statement(job, job.job_id, lesson("lesson-1.1", "a"))
        later = await next_attempt(database, job)
        await database.run(job.tenant_id, statement)
        await finish_job(database, later)
        await database.run(job.tenant_id, revisions_statement(later, job.job_id, lesson("lesson-1.1", "a")))
        assert await tree(database, job) == {}

    async def test_cannot_be_changed(self, database: Database, job: JobRef) -> None:
        with pytest.raises(ProgrammingError) as refused:
            async with database.tenant(job.tenant_id) as connection:
                await connection.execute(update(node_revisions).values(title="x"))
        assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)


class TestVersions:
    async def test_freeze_the_tree_and_are_numbered_without_gaps(self, database: Database, job: JobRef) -> None:
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, lesson("lesson-1.1", "a")))
        assert await snapshot(database, job) == 1
        sections = [await add_running_job(database, job.tenant_id) for _ in range(5)]
        numbers = await asyncio.gather(*(snapshot(database, section, job.job_id) for section in sections))
        assert sorted(numbers) == [2, 3, 4, 5, 6]
        later = lesson("lesson-1.1", "b", made_from="comment")
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, later))
        async with database.tenant(job.tenant_id) as connection:
            kept = await CourseRepository(connection).get_version_tree(job.job_id, 1)
        assert [node.content_sha256 for node in kept] == ["a", "a-1", "a-2"]

    async def test_a_job_makes_one(self, database: Database, job: JobRef) -> None:
        assert [await snapshot(database, job) for _ in range(3)] == [1, 1, 1]

    async def test_exact_trees_replace_what_was_there(self, database: Database, job: JobRef) -> None:
        nodes = [*lesson("lesson-1.1", "a"), *lesson("lesson-1.2", "b")]
        await database.run(job.tenant_id, revisions_statement(job, job.job_id, nodes))
        first = (await tree(database, job))["lesson-1.1"]
        async with database.tenant(job.tenant_id) as connection:
            await CourseRepository(connection).set_tree(job.tenant_id, job.job_id, {"lesson-1.1": first.revision_id})
        assert list(await tree(database, job)) == ["lesson-1.1", "lesson-1.1/block-1", "lesson-1.1/block-2"]

    async def test_of_nobody_are_not_found(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            courses = CourseRepository(connection)
            with pytest.raises(NotFound):
                await courses.get(new_id())
            with pytest.raises(NotFound):
                await courses.get_version_tree(job.job_id, 1)
            with pytest.raises(NotFound):
                await courses.snapshot(new_id(), None, reason="mix")
