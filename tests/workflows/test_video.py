"""Courses with videos from start to end: real database, real Temporal, a stand-in HeyGen over a socket."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.service import RPCError

from activities.media.films import Film
from core.database import Database
from core.store import ArtifactStore
from core.temporal import connect, create_data_converter
from domain.errors import InvalidInput
from domain.jobs import JobAction, JobRef
from domain.video import RenderPolicy, Submitted
from gateways.offline_video import OfflineVideoMaker
from gateways.standin_heygen import Fault, FaultKind, Play
from repositories.courses import CourseRepository
from repositories.rows import AnyRow
from repositories.tables import artifacts, job_events, job_steps
from services.commands import SEARCH_ATTRIBUTES
from services.media import Hook, MediaService, TemporalWaker
from services.stack.ports import free_port
from services.stack.temporal import EmbeddedTemporal
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import job_row
from tests.support.renders import QUICK, SECRET, Studio, open_studio
from tests.support.waiting import eventually

HEYGEN = {"provider": "heygen"}
BY_WEBHOOK_ONLY = QUICK.model_copy(update={"poll_first": timedelta(hours=5), "poll_longest": timedelta(hours=5)})
SOON_STUCK = RenderPolicy(
    poll_first=timedelta(milliseconds=50), poll_longest=timedelta(milliseconds=100), poll_stuck=timedelta(hours=1),
    ask_for_place=timedelta(milliseconds=50), patience=timedelta(0), replay_within=timedelta(0),
)  # fmt: skip
WITHIN = 90.0


@asynccontextmanager
async def filming(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, **options: Any
) -> AsyncIterator[tuple[Courses, Studio]]:
    """Courses whose videos come from a stand-in."""
    async with (
        open_studio(database, store, tenant_id, **options) as studio,
        serving_courses(temporal, database, store, tenant_id, desk=studio.desk) as courses,
    ):
        yield courses, studio


async def course_of(courses: Courses, job: JobRef) -> dict[str, Any]:
    """The exported JSON."""
    query = select(artifacts).where(artifacts.c.job_id == job.job_id, artifacts.c.role == "export")
    async with courses.database.tenant(job.tenant_id) as connection:
        row = (await connection.execute(query)).one()
    document: dict[str, Any] = json.loads(await courses.store.get(f"{row.tenant_id}/{row.sha256[:2]}/{row.sha256}"))
    return document


async def events_of(courses: Courses, job: JobRef, kind: str) -> list[dict[str, Any]]:
    """What the job's events of a type say."""
    query = select(job_events.c.data).where(job_events.c.job_id == job.job_id, job_events.c.type == kind)
    async with courses.database.tenant(job.tenant_id) as connection:
        return list((await connection.execute(query.order_by(job_events.c.seq))).scalars())


async def video_step(courses: Courses, job: JobRef) -> AnyRow:
    """The step of videos."""
    query = select(job_steps).where(job_steps.c.job_id == job.job_id, job_steps.c.name == "video")
    async with courses.database.tenant(job.tenant_id) as connection:
        return (await connection.execute(query)).one()


class TestRendered:
    async def test_every_lesson_has_its_video(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            job = await courses.start(modules=1, lessons=2, video=HEYGEN, exports=["json"])
            row = await courses.until_status(job, "succeeded", within=WITHIN)
            rows = await studio.rows(job)
            sold = studio.standin.world.renders
            document = await course_of(courses, job)
        shown = [lesson["video"] for lesson in document["modules"][0]["lessons"]]
        assert {one["url"] for one in shown} == {f"/api/v1/artifacts/{one.artifact_id}" for one in rows}
        assert {one["sha256"] for one in shown} == {sha256(one.body()).hexdigest() for one in sold.values()}
        assert {one.state for one in rows} == {"done"}
        assert {one.video_id for one in rows} == set(sold)
        assert row.cost_usd == sum(one.cost_usd for one in rows) > 0
        assert {one["lesson"] for one in await events_of(courses, job, "video.priced")} == {"1.1", "1.2"}
        assert len(await events_of(courses, job, "lesson.filmed")) == 2
        step = await video_step(courses, job)
        assert (step.status, step.done, step.total) == ("succeeded", 2, 2)

    async def test_a_webhook_is_enough(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """No timer goes off within hours; early, twice, forged and late ones change nothing."""
        async with filming(temporal, database, store, tenant_id, policy=BY_WEBHOOK_ONLY) as (courses, studio):
            service = MediaService(database, TemporalWaker(temporal), webhook_secret=SECRET)
            studio.standin.world.play = Play(seconds=0, posts=0)
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            (row,) = await eventually(lambda: studio.rows(job), _all_rendering, within=WITHIN)
            (render,) = studio.standin.world.renders.values()
            hook = signed_hook(studio, render.video_id, str(row.id))
            assert await service.hear(hook)
            await courses.until_status(job, "succeeded", within=WITHIN)
            assert not await service.hear(hook)
            assert not await service.hear(signed_hook(studio, render.video_id, str(row.id), more="late"))
            assert len(studio.standin.world.renders) == 1

    async def test_places_are_waited_for(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK, at_once=1) as (courses, studio):
            studio.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=429, retry_after=0))
            studio.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
            job = await courses.start(modules=2, lessons=1, video=HEYGEN, exports=["json"])
            await courses.until_status(job, "succeeded", within=WITHIN)
            assert len(studio.standin.world.renders) == 2


def _all_rendering(rows: list[AnyRow]) -> bool:
    return bool(rows) and all(row.state == "rendering" for row in rows)


def signed_hook(studio: Studio, video_id: str, callback_id: str, *, more: str = "") -> Hook:
    """A webhook as HeyGen signs it."""
    data = {"video_id": video_id, "callback_id": callback_id, "more": more}
    body = json.dumps({"event_type": "avatar_video.success", "event_data": data}).encode()
    studio.standin.webhook_secret = SECRET
    (render,) = [one for one in studio.standin.world.renders.values() if one.video_id == video_id]
    headers = studio.standin._headers(render, body, forged=False)
    return Hook(body=body, headers={name.lower(): value for name, value in headers.items()})


class TestPeople:
    @pytest.mark.parametrize("decision", ["give_up", "order_again"])
    async def test_decide_about_one_that_is_stuck(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, decision: Any
    ) -> None:
        """An order of unknown fate that is too old to be sent again is never sent again by itself."""
        async with filming(temporal, database, store, tenant_id, policy=SOON_STUCK) as (courses, studio):
            service = MediaService(database, TemporalWaker(temporal), webhook_secret=None)
            studio.standin.faults.add(
                Fault(kind=FaultKind.DROP_AFTER), Fault(kind=FaultKind.STATUS_BEFORE, call="list", times=1_000)
            )
            # The first try goes out: nothing is in doubt yet.
            studio.desk.policy = SOON_STUCK.model_copy(update={"replay_within": timedelta(seconds=1)})
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            (row,) = await eventually(
                lambda: studio.rows(job), lambda rows: bool(rows) and rows[0].state == "stuck", within=WITHIN
            )
            waiting = (await courses.until_status(job, "running")).waiting_on
            assert waiting["kind"] == "provider"
            assert str(row.id) in waiting["detail"]
            studio.standin.faults.clear()
            await service.resolve(tenant_id, row.id, decision)
            await courses.until_status(job, "succeeded", within=WITHIN)
            states = [one.state for one in await studio.rows(job)]
            sold = len(studio.standin.world.renders)
        made = len(await events_of(courses, job, "lesson.filmed"))
        expected = {"give_up": (1, 0, ["abandoned"]), "order_again": (2, 1, ["replaced", "done"])}
        assert (sold, made, states) == expected[decision]

    async def test_a_decision_while_it_is_looked_for_once_more_is_followed(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Also where the look ends with the same question to a person."""
        policy = SOON_STUCK.model_copy(update={"poll_stuck": timedelta(milliseconds=200)})
        async with filming(temporal, database, store, tenant_id, policy=policy) as (courses, studio):
            service = MediaService(database, TemporalWaker(temporal), webhook_secret=None)
            studio.standin.faults.add(
                Fault(kind=FaultKind.DROP_AFTER), Fault(kind=FaultKind.STATUS_BEFORE, call="list", times=100_000)
            )
            studio.desk.policy = policy.model_copy(update={"replay_within": timedelta(seconds=1)})
            submit = studio.desk.submit
            decided: list[UUID] = []

            async def decide_meanwhile(film: Film) -> Submitted:
                (row,) = await studio.rows(film.job)
                if row.state == "stuck" and not decided:
                    decided.append(row.id)
                    await service.resolve(tenant_id, row.id, "give_up")
                return await submit(film)

            monkeypatch.setattr(studio.desk, "submit", decide_meanwhile)
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            await courses.until_status(job, "succeeded", within=WITHIN)
            (row,) = await studio.rows(job)
        assert (decided, row.state) == ([row.id], "abandoned")


class TestWithout:
    async def test_a_render_that_fails_leaves_the_course_whole(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=0, end="failed")
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            row = await courses.until_status(job, "succeeded", within=WITHIN)
        assert row.cost_usd == 0
        (left,) = await events_of(courses, job, "lesson.not_filmed")
        assert left["code"] == "E.HEYGEN.RENDER_FAILED"

    async def test_a_budget_that_does_not_cover_it(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"], budget_usd="0.01")
            await courses.until_status(job, "succeeded", within=WITHIN)
            assert studio.standin.world.renders == {}
            assert studio.standin.call_log == []
        (left,) = await events_of(courses, job, "lesson.not_filmed")
        assert left["code"] == "E.BUDGET.EXCEEDED"

    async def test_no_credentials(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with serving_courses(temporal, database, store, tenant_id) as courses:
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            await courses.until_status(job, "succeeded", within=WITHIN)
        (left,) = await events_of(courses, job, "lesson.not_filmed")
        assert left["code"] == "E.HEYGEN.NOT_CONFIGURED"

    async def test_a_missing_program(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        maker = OfflineVideoMaker(program="no-such-program")
        async with serving_courses(temporal, database, store, tenant_id, makers=[maker]) as courses:
            job = await courses.start(modules=1, lessons=1, video={"provider": "offline"}, exports=["json"])
            await courses.until_status(job, "succeeded", within=WITHIN)
        (left,) = await events_of(courses, job, "lesson.not_filmed")
        assert left["code"] == "E.VIDEO.UNAVAILABLE"
        assert "no-such-program is not installed" in left["detail"]
        assert (await video_step(courses, job)).status == "succeeded"


class TestCanceled:
    async def test_what_was_ordered_is_taken_up_by_the_next_attempt(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=100_000)
            job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            await eventually(lambda: studio.rows(job), _all_rendering, within=WITHIN)
            await courses.act(job, JobAction.CANCEL)
            await courses.until_status(job, "canceled", within=WITHIN)
            studio.standin.world.ahead_seconds = 200_000
            await courses.act(job, JobAction.RETRY)
            await courses.until_status(job, "succeeded", within=WITHIN)
            assert len(studio.standin.world.renders) == 1
            (row,) = await studio.rows(job)
        assert (row.state, row.attempt) == ("done", 2)

    async def test_a_course_that_is_stopped_does_not_wait_for_videos(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=0, end="stuck")
            job = await courses.start(modules=2, lessons=1, video=HEYGEN, exports=["json"])
            await eventually(lambda: studio.rows(job), lambda rows: len(rows) == 2, within=WITHIN)
            await courses.workflow(job, "/module-01").signal("stop")
            await courses.workflow(job, "/module-02").signal("stop")
            await courses.until_status(job, "succeeded", within=WITHIN)
            states = {row.state for row in await studio.rows(job)}
        assert states <= {"rendering", "planned", "submitting", "unknown"}


class TestLong:
    async def test_goes_on_in_a_new_history(
        self, scratch: Path, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """A render that is looked at for days is ordered once, and its video belongs to the lesson as any other."""
        server = EmbeddedTemporal(
            scratch / f"long-{tenant_id}", port=free_port(), ui_port=None, search_attributes=SEARCH_ATTRIBUTES,
            dynamic_config={"limit.historyCount.suggestContinueAsNew": 40},
        )  # fmt: skip
        await asyncio.to_thread(server.start)
        try:
            converter = create_data_converter(None)
            client = await connect(server.address, namespace="default", converter=converter, lazy=False)
            async with filming(client, database, store, tenant_id, policy=QUICK) as (courses, studio):
                studio.standin.world.play = Play(seconds=100_000, posts=0)
                job = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
                film = courses.workflow(job, "/module-01/video-01")
                (row,) = await eventually(lambda: studio.rows(job), _all_rendering, within=WITHIN)
                first = (await film.describe()).run_id
                await eventually(film.describe, lambda now: now.run_id != first, within=WITHIN)
                studio.standin.world.ahead_seconds = 200_000
                await courses.until_status(job, "succeeded", within=WITHIN)
                rows = await studio.rows(job)
                begun = (await film.fetch_history()).events[0].workflow_execution_started_event_attributes
        finally:
            await asyncio.to_thread(server.stop)
        assert begun.continued_execution_run_id
        assert [(one.id, one.state, one.sends) for one in rows] == [(row.id, "done", 1)]
        assert len(studio.standin.world.renders) == 1
        assert len(await events_of(courses, job, "lesson.filmed")) == 1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: no slide video can be made here")
class TestMade:
    async def test_a_slide_video_of_every_lesson(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with serving_courses(temporal, database, store, tenant_id, makers=[OfflineVideoMaker()]) as courses:
            job = await courses.start(modules=1, lessons=1, video={"provider": "offline"}, exports=["json"])
            await courses.until_status(job, "succeeded", within=WITHIN)
        (made,) = await events_of(courses, job, "lesson.filmed")
        assert made["provider"] == "offline"
        assert made["bytes"] > 10_000


class TestAgain:
    async def test_a_lesson_that_comes_out_the_same_is_not_filmed_again(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """Its video is taken over; made again for its own sake, it is ordered anew and replaces the old one."""
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            course = await courses.start(modules=1, lessons=2, slides=True, video=HEYGEN, exports=["json"])
            await courses.until_status(course, "succeeded", within=WITHIN)
            sold = set(studio.standin.world.renders)
            wish = {"course_id": str(course.job_id), "node": "lesson-1.1"}
            job = await courses.start_kind("generation.section", wish)
            same = (await courses.until_status(job, "succeeded", within=WITHIN)).result
            assert set(studio.standin.world.renders) == sold
            # New slides of the same text: a film that shows a person saying it shows none of them.
            job = await courses.start_kind("generation.section", {**wish, "node": "lesson-1.1/slides"})
            slides = (await courses.until_status(job, "succeeded", within=WITHIN)).result
            assert set(studio.standin.world.renders) == sold
            job = await courses.start_kind("generation.section", {**wish, "node": "lesson-1.1/video"})
            anew = (await courses.until_status(job, "succeeded", within=WITHIN)).result
            first = await course_of(courses, course)
            last = await course_of(courses, job)
            # What cannot be made again stays.
            studio.standin.world.play = Play(seconds=0, end="failed")
            job = await courses.start_kind("generation.section", {**wish, "node": "lesson-1.2/video"})
            failed = await courses.until_status(job, "failed", within=WITHIN)
            async with database.tenant(tenant_id) as connection:
                kept = {node.key for node in await CourseRepository(connection).get_tree(course.job_id)}
        assert failed.error_code == "E.GENERATION.NOT_MADE"
        assert "lesson-1.2/video" in kept
        assert same["version"] == 2
        assert "lesson-1.1/video" not in [made["node"] for made in same["recomputed"]]
        assert [made["node"] for made in slides["recomputed"]] == ["lesson-1.1/slides"]
        assert slides["reused"]["below"] == []
        assert anew["version"] == 4
        assert [made["node"] for made in anew["recomputed"]] == ["lesson-1.1/video"]
        videos = [[lesson["video"]["artifact_id"] for lesson in one["modules"][0]["lessons"]] for one in (first, last)]
        assert videos[0][0] != videos[1][0]
        assert videos[0][1] == videos[1][1]

    async def test_what_is_being_rendered_is_not_bought_again(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """New slides do not concern it; a lesson that comes out the same waits for the video of the course."""
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=100_000)
            course = await courses.start(modules=1, lessons=1, slides=True, video=HEYGEN, exports=["json"])
            await eventually(lambda: studio.rows(course), _all_rendering, within=WITHIN)
            with pytest.raises(InvalidInput):
                await section(courses, course, "lesson-1.1/video")
            slides = await section(courses, course, "lesson-1.1/slides")
            await courses.until_status(slides, "succeeded", within=WITHIN)
            same = await section(courses, course, "lesson-1.1")
            await eventually(lambda: is_waiting(courses, same), within=WITHIN)
            studio.standin.world.ahead_seconds = 200_000
            await courses.until_status(course, "succeeded", within=WITHIN)
            result = (await courses.until_status(same, "succeeded", within=WITHIN)).result
            assert len(studio.standin.world.renders) == 1
            (row,) = await studio.rows(course)
            assert row.state == "done"
            assert (await job_row(database, same)).cost_usd == 0
        assert "lesson-1.1/video" in result["reused"]["below"]

    async def test_what_a_canceled_course_had_ordered_is_taken_over(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """By whoever waited for it; and the next attempt of the course waits in its turn."""
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=100_000)
            course = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            (row,) = await eventually(lambda: studio.rows(course), _all_rendering, within=WITHIN)
            same = await section(courses, course, "lesson-1.1")
            await eventually(lambda: is_waiting(courses, same), within=WITHIN)
            await courses.act(course, JobAction.CANCEL)
            await courses.until_status(course, "canceled", within=WITHIN)
            await courses.workflow(course).result()
            (taken,) = await eventually(lambda: studio.rows(same), _all_rendering, within=WITHIN)
            await courses.act(course, JobAction.RETRY)
            await eventually(lambda: is_waiting(courses, course, "/module-01.2/video-01"), within=WITHIN)
            studio.standin.world.ahead_seconds = 200_000
            for job in (same, course):
                await courses.until_status(job, "succeeded", within=WITHIN)
            assert len(studio.standin.world.renders) == 1
            (done,) = await studio.rows(same)
            costs = [(await job_row(database, job)).cost_usd for job in (course, same)]
            async with database.tenant(tenant_id) as connection:
                tree = {node.key for node in await CourseRepository(connection).get_tree(course.job_id)}
        assert row.id == taken.id == done.id
        assert done.cost_usd > 0
        assert costs == [0, done.cost_usd]
        assert "lesson-1.1/video" in tree


class TestLacking:
    """A course has succeeded without a video, and a person asks for it."""

    async def test_one_that_failed_is_ordered(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=QUICK) as (courses, studio):
            studio.standin.world.play = Play(seconds=0, end="failed")
            course = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            await courses.until_status(course, "succeeded", within=WITHIN)
            studio.standin.world.play = Play(seconds=0)
            job = await section(courses, course, "lesson-1.1/video")
            result = (await courses.until_status(job, "succeeded", within=WITHIN)).result
            (lesson,) = (await course_of(courses, job))["modules"][0]["lessons"]
            (row,) = await studio.rows(job)
        assert [made["node"] for made in result["recomputed"]] == ["lesson-1.1/video"]
        assert lesson["video"]["artifact_id"] == str(row.artifact_id)

    async def test_one_that_was_given_up_is_fetched_and_not_bought_again(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        async with filming(temporal, database, store, tenant_id, policy=SOON_STUCK) as (courses, studio):
            service = MediaService(database, TemporalWaker(temporal), webhook_secret=None)
            studio.standin.faults.add(
                Fault(kind=FaultKind.DROP_AFTER), Fault(kind=FaultKind.STATUS_BEFORE, call="list", times=1_000)
            )
            studio.desk.policy = SOON_STUCK.model_copy(update={"replay_within": timedelta(seconds=1)})
            course = await courses.start(modules=1, lessons=1, video=HEYGEN, exports=["json"])
            (row,) = await eventually(
                lambda: studio.rows(course), lambda rows: bool(rows) and rows[0].state == "stuck", within=WITHIN
            )
            await service.resolve(tenant_id, row.id, "give_up")
            await courses.until_status(course, "succeeded", within=WITHIN)
            studio.standin.faults.clear()
            job = await section(courses, course, "lesson-1.1/video")
            await courses.until_status(job, "succeeded", within=WITHIN)
            (render,) = studio.standin.world.renders.values()
            (lesson,) = (await course_of(courses, job))["modules"][0]["lessons"]
        assert lesson["video"]["sha256"] == sha256(render.body()).hexdigest()


async def section(courses: Courses, course: JobRef, node: str) -> JobRef:
    """Start making a node again."""
    return await courses.start_kind("generation.section", {"course_id": str(course.job_id), "node": node})


async def is_waiting(courses: Courses, job: JobRef, film: str = "/video-1.1") -> bool:
    """Whether the film of a lesson lets time pass."""
    try:
        history = await courses.workflow(job, film).fetch_history()
    except RPCError:
        return False
    return any(event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events)
