"""Renders on a real ledger, against a stand-in HeyGen: what jobs do with what they, or others, ordered before."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from activities.media.renders import RenderDesk
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeKind, NodeMade
from domain.jobs import JobRef, JobStatus, StepPlan
from domain.video import Close, Kept, Said, VideoPrice, Way, render_deadline
from gateways.standin_heygen import Fault, FaultKind, Play
from repositories.courses import CourseRepository, revision_statement
from repositories.steps import FinishedPart, StepRepository
from repositories.tables import jobs
from services.generation import course_kind
from services.sections import section_kind
from tests.support.job_rows import add_running_job, finish_job, job_row, next_attempt
from tests.support.renders import PRICES, Studio, film_of, open_studio
from tests.support.waiting import eventually

SCRIPT = "The tide comes in, and the tide goes out."


@pytest.fixture
async def studio(database: Database, store: ArtifactStore, tenant_id: UUID) -> AsyncIterator[Studio]:
    async with open_studio(database, store, tenant_id, play=Play(seconds=0)) as running:
        yield running


async def ordered(studio: Studio) -> JobRef:
    """A job whose video is ordered."""
    job = await studio.add_job()
    film, wish = film_of(job, SCRIPT)
    await studio.desk.plan(film, wish, workflow_id="first")
    assert (await studio.desk.submit(film)).said is Said.ORDERED
    return job


class TestTriedAgain:
    @pytest.mark.parametrize(
        ("how", "code"), [(Close.ABANDONED, "E.VIDEO.GIVEN_UP"), (Close.FAILED, "E.HEYGEN.UNUSABLE")]
    )
    async def test_what_may_have_been_paid_for_is_brought_home_and_not_ordered_anew(
        self, studio: Studio, how: Close, code: str
    ) -> None:
        job = await ordered(studio)
        film, _ = film_of(job, SCRIPT)
        await studio.desk.close(film, how, code)
        film, wish = film_of(await next_attempt(studio.database, job), SCRIPT)
        assert (await studio.desk.plan(film, wish, workflow_id="second")).way is Way.RENDER
        (row,) = await studio.rows(job)
        assert (row.state, row.error_code, row.settled_at) == ("rendering", None, None)
        assert (row.attempt, row.workflow_id) == (2, "second")
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        assert await studio.desk.keep(film) is Kept.DONE
        (render,) = studio.bought(SCRIPT)
        assert await studio.video(job) == render.body()
        (row,) = await studio.rows(job)
        (call,) = await studio.calls(job)
        assert (row.state, call.state) == ("done", "done")
        assert call.settled_usd > 0

    async def test_an_order_of_unknown_fate_that_was_given_up_is_looked_for(self, studio: Studio) -> None:
        """However old: what is found needs no second order."""
        studio.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        job = await studio.add_job()
        film, wish = film_of(job, SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="first")
        assert (await studio.desk.submit(film)).said is Said.DOUBT
        await studio.desk.close(film, Close.ABANDONED, "E.VIDEO.GIVEN_UP")
        film, wish = film_of(await next_attempt(studio.database, job), SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="second")
        (row,) = await studio.rows(job)
        assert (row.state, row.generation, row.attempt) == ("unknown", 1, 2)
        studio.desk.policy = studio.policy.model_copy(update={"replay_within": timedelta(0)})
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        assert len(studio.bought(SCRIPT)) == 1

    async def test_what_failed_and_cost_nothing_is_ordered_anew(self, studio: Studio) -> None:
        job = await ordered(studio)
        film, wish = film_of(job, SCRIPT)
        await studio.desk.close(film, Close.FAILED, "E.HEYGEN.RENDER_FAILED")
        film, wish = film_of(await next_attempt(studio.database, job), SCRIPT)
        assert (await studio.desk.plan(film, wish, workflow_id="second")).way is Way.RENDER
        assert [row.state for row in await studio.rows(job)] == ["failed", "planned"]

    async def test_the_same_attempt_leaves_what_was_given_up(self, studio: Studio) -> None:
        film, wish = film_of(await ordered(studio), SCRIPT)
        await studio.desk.close(film, Close.ABANDONED, "E.VIDEO.GIVEN_UP")
        assert (await studio.desk.plan(film, wish, workflow_id="first")).way is Way.SKIPPED

    async def test_one_that_is_stuck_is_looked_at_before_a_person_is_asked_again(self, studio: Studio) -> None:
        """Nobody follows a decision before the course says that it waits for one."""
        job = await ordered(studio)
        film, _ = film_of(job, SCRIPT)
        await studio.desk.close(film, Close.STUCK, "E.HEYGEN.STUCK")
        film, wish = film_of(await next_attempt(studio.database, job), SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="second")
        (row,) = await studio.rows(job)
        assert (row.state, row.error_code, row.workflow_id) == ("rendering", None, "second")


async def add_section(studio: Studio, course: JobRef) -> JobRef:
    """A job at work on a part of a course."""
    wish = {"course_id": str(course.job_id), "node": "lesson-1.1"}
    return await add_running_job(studio.database, studio.tenant_id, raw_input=wish, kind="generation.section")


async def planned(studio: Studio, job: JobRef, course: JobRef, *, for_itself: bool = False) -> Way:
    """How a job of a course comes by the video."""
    film, wish = film_of(job, SCRIPT, course=course)
    return (await studio.desk.plan(film, wish, workflow_id=f"of {job.job_id}", for_itself=for_itself)).way


async def remembered(studio: Studio, job: JobRef) -> dict[str, Any] | None:
    """What a job remembers of the video."""
    film, _ = film_of(job, SCRIPT)
    return await StepKeeper(studio.database).recall(job, film.key, film.digest)


class HesitantDesk(RenderDesk):
    """Has looked at what there is, and waits before it writes down an order."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.about_to_enter, self.may_enter = asyncio.Event(), asyncio.Event()

    async def _enter(self, *args: Any, **options: Any) -> None:
        self.about_to_enter.set()
        await self.may_enter.wait()
        await super()._enter(*args, **options)


class TestOneCourse:
    """Several jobs of a course want the same video of a lesson."""

    async def test_what_another_job_has_ordered_is_waited_for_and_used(self, studio: Studio) -> None:
        course = await ordered(studio)
        section = await add_section(studio, course)
        assert await planned(studio, section, course) is Way.WAIT
        assert await studio.desk.keep(film_of(course, SCRIPT)[0]) is Kept.DONE
        assert await planned(studio, section, course) is Way.KEPT
        assert await remembered(studio, section) == await remembered(studio, course) is not None
        assert await studio.rows(section) == []

    async def test_what_came_to_nothing_there_and_cost_nothing_is_ordered(self, studio: Studio) -> None:
        course = await ordered(studio)
        section = await add_section(studio, course)
        await studio.desk.close(film_of(course, SCRIPT)[0], Close.FAILED, "E.HEYGEN.RENDER_FAILED")
        assert await planned(studio, section, course) is Way.RENDER
        (row,) = await studio.rows(section)
        assert (row.state, row.generation) == ("planned", 1)

    async def test_what_a_person_wants_anew_is_not_ordered_beside_it(self, studio: Studio) -> None:
        """Between the decision and the new order, too."""
        course = await ordered(studio)
        section = await add_section(studio, course)
        await studio.desk.close(film_of(course, SCRIPT)[0], Close.REPLACED, None)
        assert await planned(studio, section, course) is Way.WAIT
        assert await planned(studio, course, course) is Way.RENDER
        assert [row.state for row in await studio.rows(course)] == ["replaced", "planned"]
        assert await planned(studio, section, course) is Way.WAIT

    async def test_of_two_that_begin_at_once_one_orders(self, studio: Studio) -> None:
        """Who comes second waits until the first has written down what it orders."""
        course = await studio.add_job()
        section = await add_section(studio, course)
        desk = studio.new_desk(HesitantDesk)
        assert isinstance(desk, HesitantDesk)
        film, wish = film_of(course, SCRIPT)
        first = asyncio.create_task(desk.plan(film, wish, workflow_id="first"))
        await desk.about_to_enter.wait()
        second = asyncio.create_task(planned(studio, section, course))

        async def is_held_up_or_done() -> bool:
            async with studio.database.tenant(studio.tenant_id) as connection:
                query = text("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
                return second.done() or bool((await connection.execute(query)).scalar_one())

        await eventually(is_held_up_or_done)
        desk.may_enter.set()
        assert ((await first).way, await second) == (Way.RENDER, Way.WAIT)

    async def test_what_a_job_has_left_behind_is_handed_over_with_its_reservation(self, studio: Studio) -> None:
        """The course is canceled while its video is rendered. Tried again, it waits in its turn."""
        course = await ordered(studio)
        section = await add_section(studio, course)
        (before,), (reserved,) = await studio.rows(course), await studio.calls(course)
        await finish_job(studio.database, course)
        assert await planned(studio, section, course) is Way.RENDER
        assert (await studio.rows(course), await studio.calls(course)) == ([], [])
        (row,), (call,) = await studio.rows(section), await studio.calls(section)
        assert (row.id, row.key, row.video_id, row.state) == (before.id, before.key, before.video_id, "rendering")
        assert (call.op, call.reserved_usd, call.state) == (row.op, reserved.reserved_usd, reserved.state)
        film, _ = film_of(section, SCRIPT, course=course)
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        course = await opened_again(studio, course)
        assert await planned(studio, course, course) is Way.WAIT
        assert await studio.desk.keep(film) is Kept.DONE
        assert await planned(studio, course, course) is Way.KEPT
        assert len(studio.bought(SCRIPT)) == 1
        (call,) = await studio.calls(section)
        assert (call.state, call.settled_usd) == ("done", (await studio.rows(section))[0].cost_usd)

    async def test_what_was_left_without_being_sent_is_nobody_s(self, studio: Studio) -> None:
        course = await studio.add_job()
        await planned(studio, course, course)
        section = await add_section(studio, course)
        await finish_job(studio.database, course)
        assert await planned(studio, section, course) is Way.RENDER
        assert [row.state for row in (*await studio.rows(course), *await studio.rows(section))] == ["planned"] * 2

    @pytest.mark.parametrize(
        ("how", "code"), [(Close.ABANDONED, "E.VIDEO.GIVEN_UP"), (Close.FAILED, "E.HEYGEN.UNUSABLE")]
    )
    async def test_what_was_given_up_and_may_be_paid_for_is_fetched(
        self, studio: Studio, how: Close, code: str
    ) -> None:
        course = await ordered(studio)
        section = await add_section(studio, course)
        await studio.desk.close(film_of(course, SCRIPT)[0], how, code)
        assert await planned(studio, section, course, for_itself=True) is Way.RENDER
        film, _ = film_of(section, SCRIPT, course=course)
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        assert await studio.desk.keep(film) is Kept.DONE
        (render,) = studio.bought(SCRIPT)
        assert await studio.video(section) == render.body()

    async def test_who_asks_for_another_video_gets_one(self, studio: Studio) -> None:
        """Who asked while there was none gets the first."""
        course = await ordered(studio)
        early = await add_section(studio, course)
        await make_lesson(studio, course)
        assert await studio.desk.keep(film_of(course, SCRIPT)[0]) is Kept.DONE
        late = await add_section(studio, course)
        assert await planned(studio, early, course, for_itself=True) is Way.KEPT
        assert await planned(studio, late, course, for_itself=True) is Way.RENDER
        assert [row.state for row in await studio.rows(late)] == ["planned"]

    async def test_the_course_shows_what_a_section_has_made(self, studio: Studio) -> None:
        """Also where the section itself never comes as far as that."""
        course = await studio.add_job()
        await make_lesson(studio, course)
        section = await add_section(studio, course)
        assert await planned(studio, section, course) is Way.RENDER
        film, _ = film_of(section, SCRIPT, course=course)
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        assert await studio.desk.keep(film) is Kept.DONE
        assert await planned(studio, course, course) is Way.KEPT
        async with studio.database.tenant(studio.tenant_id) as connection:
            tree = {node.key: node for node in await CourseRepository(connection).get_tree(course.job_id)}
        kept = await remembered(studio, section)
        assert kept is not None
        assert str(tree[film.key].artifact_id) == kept["artifact_id"]
        assert tree[film.key].job_id == course.job_id
        assert tree[film.key].cost_usd == Decimal(0)


async def make_lesson(studio: Studio, course: JobRef) -> None:
    """The lesson stands in the course."""
    node = NodeMade(
        key="lesson-1.1", kind=NodeKind.LESSON, title="A title", input_hash="i", content_sha256="c",
        artifact_id=new_id(),
    )  # fmt: skip
    async with studio.database.tenant(course.tenant_id) as connection:
        await connection.execute(*revision_statement(course, course.job_id, node))


async def opened_again(studio: Studio, job: JobRef) -> JobRef:
    """A finished job is tried again."""
    async with studio.database.tenant(job.tenant_id) as connection:
        again = {"status": JobStatus.RUNNING, "finished_at": None}
        await connection.execute(update(jobs).where(jobs.c.id == job.job_id).values(again))
    return await next_attempt(studio.database, job)


class TestShown:
    @pytest.mark.parametrize("paused", [False, True])
    async def test_what_the_job_waits_for(self, studio: Studio, *, paused: bool) -> None:
        """A pause stays shown; a question to a person is shown until it is answered."""
        job = await studio.add_job()
        pause = {"kind": "paused", "detail": "on request", "since": "2026-11-21T12:00:00Z"} if paused else None
        async with studio.database.tenant(job.tenant_id) as connection:
            query = update(jobs).where(jobs.c.id == job.job_id)
            await connection.execute(query.values(paused=paused, waiting_on=pause))

        async def shown() -> Any:
            return (await job_row(studio.database, job)).waiting_on

        film, wish = film_of(job, SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="first")
        await studio.desk.submit(film)
        assert (await shown())["kind"] == ("paused" if paused else "webhook")
        for answer in (Close.WAITING, Close.REPLACED):
            await studio.desk.close(film, Close.STUCK, "E.HEYGEN.STUCK")
            assert (await shown())["kind"] == ("paused" if paused else "provider")
            await studio.desk.close(film, answer, None)
            assert await shown() == pause

    async def test_a_question_to_a_person_outlasts_what_others_do(self, studio: Studio) -> None:
        """Two renders are stuck while other lessons go on; the question shown is the oldest that is open."""
        job = await studio.add_job()
        films = [film_of(job, f"{SCRIPT} {lesson}", lesson=lesson)[0] for lesson in (0, 1)]
        keeper = StepKeeper(studio.database)

        async def shown() -> Any:
            return (await job_row(studio.database, job)).waiting_on

        for lesson, film in enumerate(films):
            wish = film_of(job, f"{SCRIPT} {lesson}", lesson=lesson)[1]
            await studio.desk.plan(film, wish, workflow_id="first")
            await studio.desk.submit(film)
            await studio.desk.close(film, Close.STUCK, "E.HEYGEN.STUCK")
        first, second = await studio.rows(job)
        await another_part(studio, keeper, job, "lesson-1.3")
        assert (await shown())["detail"].endswith(
            f"lesson 1.1 is late; a person decides: POST /renders/{first.id}/resolve"
        )
        since = datetime.fromisoformat((await shown())["since"])
        assert since == (await studio.rows(job))[0].asked_at
        async with studio.database.tenant(job.tenant_id) as connection:
            for waits in (course_kind(studio.database, studio.store).waits, section_kind(studio.database).waits):
                assert waits is not None
                asked = await waits(connection, job.job_id)
                assert asked is not None
                assert str(first.id) in asked.detail
        await studio.desk.close(films[0], Close.ABANDONED, "E.VIDEO.GIVEN_UP")
        assert str(second.id) in (await shown())["detail"]
        await studio.desk.close(films[1], Close.WAITING, None)
        assert await shown() is None
        await another_part(studio, keeper, job, "lesson-1.4")
        assert await shown() is None


async def another_part(studio: Studio, keeper: StepKeeper, job: JobRef, part: str) -> None:
    """Another lesson is finished, in either of the two ways in which parts are."""
    async with keeper.effect(job) as connection:
        await StepRepository(connection).plan(
            job, [StepPlan(name="lessons", title="Lessons", weight=1, total=9)], first_position=0
        )
        await keeper.finish_part(
            connection, job, step="lessons", part=part, digest="d", result={}, event="lesson.ready", data={}
        )
    sha256 = await studio.store.put(job.tenant_id, part.encode())
    artifact = Artifact(
        id=new_id(), tenant_id=job.tenant_id, job_id=job.job_id, name=f"{part}.json", media_type="application/json",
        bytes=len(part), sha256=sha256, role=ArtifactRole.PARTIAL,
    )  # fmt: skip
    finished = FinishedPart(
        step="lessons", part=f"{part}/slides", digest="d", result={}, event="lesson.ready", data={}, artifact=artifact
    )
    assert await keeper.finish_artifact(job, finished)


class TestSettingsThatChange:
    async def test_a_render_costs_what_it_was_ordered_at(self, studio: Studio) -> None:
        """Also where nobody knows a price any more."""
        job = await ordered(studio)
        film, _ = film_of(job, SCRIPT)
        (before,) = await studio.rows(job)
        studio.renderer._prices = {}
        assert await studio.desk.keep(film) is Kept.DONE
        (row,) = await studio.rows(job)
        assert before.usd_per_minute == PRICES["avatar_iv"]
        assert row.cost_usd == VideoPrice(usd_per_minute=before.usd_per_minute).of(row.seconds)

    async def test_without_credentials_what_was_ordered_waits(self, studio: Studio) -> None:
        """Nothing is given up and nothing fails; with credentials again the same render is brought home."""
        studio.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        job = await studio.add_job()
        film, wish = film_of(job, SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="first")
        assert (await studio.desk.submit(film)).said is Said.DOUBT
        bare = RenderDesk(studio.database, StepKeeper(studio.database), studio.store, studio.metrics, [])
        taken = await bare.take_up(film, workflow_id="second")
        assert taken is not None
        assert (taken.way, taken.digest, taken.deadline) == (Way.RENDER, film.digest, render_deadline(SCRIPT))
        assert await bare.take_place(film)
        said = await bare.submit(film)
        assert (said.said, said.code) == (Said.DOUBT, "E.HEYGEN.NOT_CONFIGURED")
        assert await bare.look(film) is None
        assert await bare.keep(film) is Kept.AGAIN
        assert (await studio.desk.submit(film)).said is Said.ORDERED
        assert await studio.desk.keep(film) is Kept.DONE
        assert len(studio.bought(SCRIPT)) == 1

    async def test_without_credentials_nothing_that_was_never_sent_is_taken_up(self, studio: Studio) -> None:
        job = await studio.add_job()
        film, wish = film_of(job, SCRIPT)
        await studio.desk.plan(film, wish, workflow_id="first")
        bare = RenderDesk(studio.database, StepKeeper(studio.database), studio.store, studio.metrics, [])
        assert await bare.take_up(film, workflow_id="second") is None
        assert (await bare.submit(film)).said is Said.NOT_NOW
