"""Courses from start to end: with the real activities on real servers, and with doubles where order matters."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import ApplicationError

from core.database import Database
from core.store import ArtifactStore
from domain.errors import Outcome, ProviderError
from domain.jobs import JobAction, JobStatus
from tests.support.course_doubles import CourseDoubles, RecordDoubles, new_job, serving, start_course, until_signaled
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import artifact_names, event_rows, job_row, step_rows
from tests.support.waiting import eventually
from workflows.generation import module_workflow_id
from workflows.jobs import JobResult

QUOTA = ProviderError("quota used up", code="E.OPENAI.QUOTA", outcome=Outcome.REJECTED, retryable=False)


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
) -> AsyncIterator[Courses]:
    """The real thing, two lessons at once."""
    async with serving_courses(temporal, database, store, tenant_id) as made:
        yield made


class TestRealCourse:
    async def test_a_text_becomes_a_course(self, courses: Courses, database: Database) -> None:
        """Every step succeeded, every lesson is there, and the row says all of it."""
        job = await courses.start(modules=3, lessons=2)
        row = await courses.until_status(job, "succeeded")
        assert row.result["lessons"] == {"total": 6, "ready": 6}
        assert row.result["complete"]
        assert (row.progress, row.waiting_on, row.error) == (1.0, None, None)
        steps = await step_rows(database, job)
        assert list(steps) == ["sources", "outline", "module-1", "module-2", "module-3", "export"]
        assert {step.status for step in steps.values()} == {"succeeded"}
        assert Counter(courses.model.asked) == dict.fromkeys(courses.model.asked, 1)
        assert len(courses.model.lessons) == 6
        assert [name for name in await artifact_names(database, job) if name.startswith("lessons/")] == [
            f"lessons/{module:02}-{lesson:02}.json" for module in (1, 2, 3) for lesson in (1, 2)
        ]
        assert (await courses.workflow(job).result())["status"] == "succeeded"

    async def test_events_have_no_gap(self, courses: Courses, database: Database) -> None:
        """From queued to succeeded, numbered one by one; progress never goes back."""
        job = await courses.start()
        row = await courses.until_status(job, "succeeded")
        events = await event_rows(database, job)
        assert [event.seq for event in events] == list(range(1, row.version + 1))
        kinds = [event.type for event in events]
        assert (kinds[0], kinds[1], kinds[-1]) == ("job.queued", "job.running", "job.succeeded")
        assert kinds.count("lesson.written") == 4
        progress = [event.data["progress"] for event in events]
        assert progress == sorted(progress)

    async def test_a_bad_lesson_is_shown_as_a_draft(self, courses: Courses) -> None:
        """It does not sink the course, which says that it is not complete."""
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=2)
        await courses.until_asked(1)
        courses.model.answers[courses.model.lessons[0]] = '{"title": "half a les'
        courses.model.open.set()
        row = await courses.until_status(job, "succeeded")
        assert row.result["lessons"] == {"total": 2, "ready": 1, "draft": 1}
        assert not row.result["complete"]

    async def test_the_fan_out_of_the_worker_holds(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """Three lessons at once over all modules."""
        async with serving_courses(temporal, database, store, tenant_id, fan_out=3) as courses:
            courses.model.open.clear()
            job = await courses.start(modules=4, lessons=2)
            await courses.until(lambda: courses.model.in_progress == 3)
            courses.model.open.set()
            await courses.until_status(job, "succeeded")


class TestCancel:
    async def test_in_the_middle_of_lessons(self, courses: Courses, database: Database) -> None:
        """The course and its modules end as canceled, the row says so, and late lessons leave no trace."""
        courses.model.open.clear()
        job = await courses.start(modules=2, lessons=3)
        await courses.until_asked(2)
        await courses.act(job, JobAction.CANCEL)
        row = await courses.until_status(job, "canceled")
        assert (row.error, row.waiting_on) == (None, None)
        assert row.finished_at is not None
        version = row.version
        assert (await courses.workflow(job).result())["status"] == "canceled"
        described = await courses.workflow(job, "/module-01").describe()
        assert described.status is WorkflowExecutionStatus.CANCELED
        steps = await step_rows(database, job)
        assert steps["module-1"].status == "canceled"
        courses.model.open.set()
        await courses.until(lambda: courses.model.in_progress == 0)
        assert (await job_row(database, job)).version == version
        assert not [name for name in await artifact_names(database, job) if name.startswith("lessons/")]

    async def test_of_many_modules(self, temporal: Client) -> None:
        """Modules that close one by one do not get in each other's way."""
        doubles, records = CourseDoubles((2,) * 12, fan_out=24), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(24, within=30)
            await handle.cancel()
            assert (await handle.result()).status is JobStatus.CANCELED
            for module in range(12):
                child = temporal.get_workflow_handle(f"{handle.id}/module-{module + 1:02}")
                assert (await child.describe()).status is WorkflowExecutionStatus.CANCELED
            doubles.let_all_go()
        assert [end.status for end in records.ends] == [JobStatus.CANCELED]
        assert doubles.exported == 0

    async def test_while_paused(self, courses: Courses) -> None:
        """A gate holds nobody back from leaving."""
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=3)
        await courses.until_asked(1)
        await courses.act(job, JobAction.PAUSE)
        await courses.until_paused(job, "/module-01")
        courses.model.open.set()
        await courses.act(job, JobAction.CANCEL)
        row = await courses.until_status(job, "canceled")
        assert row.waiting_on is None


class TestPause:
    async def test_between_lessons(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """The lesson in progress is finished, the next one waits; afterwards everything goes on."""
        async with serving_courses(temporal, database, store, tenant_id, fan_out=1) as courses:
            courses.model.open.clear()
            job = await courses.start(modules=2, lessons=2)
            await courses.until_asked(1)
            await courses.act(job, JobAction.PAUSE)
            await courses.until_paused(job, "/module-01")
            courses.model.open.set()
            await courses.until(lambda: courses.model.in_progress == 0)
            row = await job_row(database, job)
            assert (row.status, row.waiting_on["kind"]) == ("running", "paused")
            kinds = [event.type for event in await event_rows(database, job)]
            assert kinds.count("lesson.written") <= 1
            assert len(courses.model.lessons) == 1
            await courses.act(job, JobAction.RESUME)
            row = await courses.until_status(job, "succeeded")
            assert row.result["lessons"]["ready"] == 4
            assert len(courses.model.lessons) == 4

    async def test_a_module_that_starts_late_hears_of_it(self, temporal: Client) -> None:
        """Paused before the first module: nothing starts, and everything does after the resume."""
        doubles, records = CourseDoubles((2, 2), fan_out=4), RecordDoubles()
        records.paused_at_start = True
        async with running(temporal, doubles, records) as (handle, _):
            await until_details(handle, "Paused")
            await handle.signal("set_paused", args=[False, 2])
            await doubles.until_running(4)
            doubles.let_all_go()
            assert (await handle.result()).status is JobStatus.SUCCEEDED

    async def test_late_signals_lose(self, temporal: Client) -> None:
        """A pause that arrives after the resume that followed it is ignored."""
        doubles, records = CourseDoubles((1, 1), fan_out=1), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(1)
            await handle.signal("set_paused", args=[False, 7])
            await handle.signal("set_paused", args=[True, 6])
            doubles.let_all_go()
            assert (await handle.result()).status is JobStatus.SUCCEEDED

    async def test_a_module_that_closes_meanwhile_breaks_nothing(self, temporal: Client) -> None:
        """Pausing and resuming while modules come and go: the signal may miss, the course may not."""
        doubles, records = CourseDoubles((1,) * 30, fan_out=5, held=False), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            version = 2
            while not records.ends:
                await handle.signal("set_paused", args=[True, version])
                await handle.signal("set_paused", args=[False, version + 1])
                version += 2
                await doubles.until_written(min(len(doubles.written) + 1, 30))
                if len(doubles.written) == 30:
                    break
            assert (await handle.result()).status is JobStatus.SUCCEEDED
        assert len(doubles.written) == 30


class TestFailure:
    async def test_no_new_lesson_starts_and_those_in_progress_finish(self, temporal: Client) -> None:
        """Also in other modules, and also with the slot that the failed lesson leaves; the job has its code."""
        doubles, records = CourseDoubles((3, 3, 3), fan_out=4), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(4)
            assert sorted(doubles.running) == [(0, 0), (0, 1), (0, 2), (1, 0)]
            doubles.fail((0, 1), ApplicationError("no money", type="E.BUDGET.EXCEEDED", non_retryable=True))
            await until_signaled(temporal, f"{handle.id}/module-02", "stop")
            doubles.let_go()
            assert (await handle.result()).status is JobStatus.FAILED
        assert len(doubles.started) == 4
        assert sorted(doubles.written) == [(0, 0), (0, 2), (1, 0)]
        (end,) = records.ends
        assert (end.error_code, end.error_detail) == ("E.BUDGET.EXCEEDED", "no money")
        assert doubles.exported == 0

    async def test_the_first_failure_names_the_code(self, temporal: Client) -> None:
        """Though the module of a later one is done earlier."""
        doubles, records = CourseDoubles((3, 3), fan_out=4), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(4)
            doubles.fail((0, 1), ApplicationError("first", type="E.OPENAI.QUOTA", non_retryable=True))
            await until_signaled(temporal, f"{handle.id}/module-02", "stop")
            doubles.fail((1, 0), ApplicationError("second", type="E.OPENAI.AUTH", non_retryable=True))
            await temporal.get_workflow_handle(f"{handle.id}/module-02").fetch_history()
            await doubles.until(lambda: (1, 0) not in doubles.running)
            doubles.let_go()
            await handle.result()
        assert records.ends[0].error_code == "E.OPENAI.QUOTA"

    async def test_a_failure_does_not_wait_for_a_resume(self, temporal: Client) -> None:
        """A paused course whose lesson fails is over; what was waiting at the gate is never started."""
        doubles, records = CourseDoubles((2, 4, 2), fan_out=3), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(3)
            await handle.signal("set_paused", args=[True, 2])
            await until_details(temporal.get_workflow_handle(f"{handle.id}/module-02"), "Paused")
            doubles.fail((1, 0), ApplicationError("no money", type="E.BUDGET.EXCEEDED", non_retryable=True))
            doubles.let_go((0, 0), (0, 1))
            assert (await handle.result()).status is JobStatus.FAILED
        assert len(doubles.started) == 3

    async def test_a_stranger_among_failures_is_internal(self, temporal: Client) -> None:
        """Names of exceptions are no codes, and their words are not for clients."""
        doubles, records = CourseDoubles((1,), fan_out=1), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(1)
            doubles.fail((0, 0), ApplicationError("a secret line", type="ValueError", non_retryable=True))
            await handle.result()
        (end,) = records.ends
        assert end.error_code == "E.INTERNAL"
        assert "secret" not in (end.error_detail or "")

    async def test_a_terminated_module_fails_the_course(self, temporal: Client) -> None:
        """An operator ends one module in the Temporal UI: the course says so instead of waiting for ever."""
        doubles, records = CourseDoubles((1, 1), fan_out=2), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            await doubles.until_running(2)
            await temporal.get_workflow_handle(f"{handle.id}/module-02").terminate()
            await until_signaled(temporal, f"{handle.id}/module-01", "stop")
            doubles.let_go()
            await handle.result()
        assert records.ends[0].error_code == "E.JOB.TERMINATED"


class TestPatience:
    async def test_a_provider_that_asks_for_a_moment_again_and_again_is_given_more(self, courses: Courses) -> None:
        """What it names is the least: by its moments alone thirty tries would be over within seconds."""
        courses.model.answers["outline"] = ProviderError(
            "slow down", code="E.OPENAI.RATE_LIMITED", outcome=Outcome.REJECTED, retryable=True,
            retry_after=timedelta(milliseconds=40),
        )  # fmt: skip
        clock = asyncio.get_running_loop().time
        job = await courses.start(modules=1, lessons=1)
        await courses.until(lambda: len(courses.model.asked) >= 1)
        first = clock()
        await courses.until(lambda: len(courses.model.asked) >= 3)
        assert clock() - first > 2.5  # a second, and two more
        del courses.model.answers["outline"]
        await courses.until_status(job, "succeeded")
        assert courses.model.asked.count("outline") <= 4


class TestRetry:
    async def test_finished_lessons_are_read_back(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """A second attempt asks for the lessons that are missing, and for no other."""
        async with serving_courses(temporal, database, store, tenant_id, fan_out=1) as courses:
            courses.model.failing_lesson, courses.model.fault = 4, QUOTA
            job = await courses.start(modules=2, lessons=3)
            row = await courses.until_status(job, "failed")
            assert (row.error_code, row.error["detail"]) == ("E.OPENAI.QUOTA", "quota used up")
            assert (await step_rows(database, job))["module-2"].last_error["code"] == "E.OPENAI.QUOTA"
            courses.model.fault = None
            await courses.act(job, JobAction.RETRY)
            row = await courses.until_status(job, "succeeded")
            assert (row.attempt, row.error, row.result["lessons"]["ready"]) == (2, None, 6)
            asked = Counter(courses.model.asked)
            assert asked.pop(courses.model.lessons[3]) == 2
            assert set(asked.values()) == {1}
            assert {step.status for step in (await step_rows(database, job)).values()} == {"succeeded"}

    async def test_after_a_cancel(self, courses: Courses) -> None:
        """A canceled course can be taken up again."""
        courses.model.open.clear()
        job = await courses.start(modules=2, lessons=1)
        await courses.until_asked(2)
        await courses.act(job, JobAction.CANCEL)
        await courses.until_status(job, "canceled")
        courses.model.open.set()
        await courses.act(job, JobAction.RETRY)
        row = await courses.until_status(job, "succeeded")
        assert row.result["complete"]

    async def test_an_outline_that_was_no_good_is_asked_for_again(self, courses: Courses) -> None:
        """Retrying is the only remedy of a course whose outline was invalid or refused."""
        courses.model.answers["outline"] = "{}"
        job = await courses.start()
        row = await courses.until_status(job, "failed")
        assert row.error_code == "E.GENERATION.INVALID"
        del courses.model.answers["outline"]
        await courses.act(job, JobAction.RETRY)
        row = await eventually(
            lambda: job_row(courses.database, job), lambda row: row.attempt == 2 and row.finished_at, within=30
        )
        assert row.status == "succeeded"


class TestHistories:
    async def test_a_thousand_lessons_stay_below_a_tenth_of_the_limits(
        self, temporal: Client, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """50 modules of 20 lessons: 5,120 events and 5 MB are a tenth of what Temporal allows a history."""
        doubles, records = CourseDoubles((20,) * 50, fan_out=20, held=False), RecordDoubles()
        async with running(temporal, doubles, records) as (handle, _):
            assert (await handle.result()).status is JobStatus.SUCCEEDED
        assert len(doubles.written) == len(set(doubles.written)) == 1_000
        course = await size(handle)
        modules = [await size(temporal.get_workflow_handle(f"{handle.id}/module-{n + 1:02}")) for n in range(50)]
        most = max(modules)
        with capsys.disabled():
            print(  # noqa: T201 - measured numbers are the point
                f"\n1,000 lessons, 50 x 20, fan-out 20: course {course[0]} events, {course[1]} bytes; "
                f"largest module {most[0]} events, {most[1]} bytes"
            )
        for events, length in (course, most):
            assert events < 5_120
            assert length < 5_000_000

    def test_modules_of_later_attempts_have_names_of_their_own(self) -> None:
        """Those of a terminated attempt may still be closing."""
        job = new_job()
        assert module_workflow_id(job, 2) == f"{job.workflow_id}/module-03"
        later = module_workflow_id(job.model_copy(update={"attempt": 2}), 2)
        assert later.startswith(f"{job.workflow_id}/module-03")
        assert later != module_workflow_id(job, 2)


@asynccontextmanager
async def running(
    client: Client, doubles: CourseDoubles, records: RecordDoubles
) -> AsyncIterator[tuple[WorkflowHandle[Any, JobResult], str]]:
    """A course of doubles."""
    async with serving(client, [*doubles.every, *records.every]) as task_queue:
        try:
            yield await start_course(client, task_queue), task_queue
        finally:
            doubles.let_all_go()


async def size(handle: WorkflowHandle[Any, Any]) -> tuple[int, int]:
    """Events and bytes of a history."""
    events = (await handle.fetch_history()).events
    return len(events), sum(event.ByteSize() for event in events)


async def until_details(handle: WorkflowHandle[Any, Any], words: str) -> None:
    """Wait until the workflow shows these words in the Temporal UI."""

    async def look() -> bool:
        return words in str(await handle.query("__temporal_workflow_metadata"))

    await eventually(look)
