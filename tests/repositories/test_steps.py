from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from core.database import Database
from domain.errors import Superseded
from domain.jobs import JobRef, StepPlan, StepStatus
from repositories.jobs import JobRepository
from repositories.steps import StepRepository, StepResultRepository, StepWriter
from tests.support.job_rows import event_rows
from tests.support.life import add_job

ERROR = {"code": "E.X", "detail": "broken"}


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A job with two steps, the second in three parts."""
    made = await add_job(database, tenant_id)
    async with database.tenant(tenant_id) as connection:
        await StepRepository(connection).plan(
            made, [StepPlan(name="a", title="A"), StepPlan(name="b", title="B", total=3)], first_position=0
        )
    return made


async def shown(database: Database, job: JobRef) -> dict[str, dict[str, Any]]:
    """The steps as in the job's document, by name."""
    async with database.tenant(job.tenant_id) as connection:
        document = await JobRepository(connection).get_document(job.job_id)
    return {step["name"]: step for step in document.steps}


class TestPlan:
    async def test_keeps_the_order(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            await StepRepository(connection).plan(job, [StepPlan(name="0", title="Last")], first_position=2)
        assert list(await shown(database, job)) == ["a", "b", "0"]

    async def test_leaves_known_steps_as_they_are(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            steps = StepRepository(connection)
            await steps.advance(job, "a")
            await steps.plan(job, [StepPlan(name="a", title="Again")], first_position=0)
        step = (await shown(database, job))["a"]
        assert (step["title"], step["status"]) == ("A", "succeeded")


class TestRun:
    async def test_begins_once_for_each_attempt(self, database: Database, job: JobRef) -> None:
        writer = StepWriter(database)
        assert [await writer.begin(job, "b", attempt=attempt) for attempt in (1, 1, 2, 1)] == [True, False, True, False]
        step = (await shown(database, job))["b"]
        assert (step["status"], step["attempt"]) == ("running", 2)
        assert step["started_at"] is not None
        running = [event.data for event in await event_rows(database, job) if event.type == "step.running"]
        assert [(data["step"], data["attempt"], data["status"]) for data in running] == [
            ("b", 1, "queued"),
            ("b", 2, "queued"),
        ]

    async def test_does_not_begin_where_the_job_has_moved_on(self, database: Database, job: JobRef) -> None:
        later = job.model_copy(update={"attempt": job.attempt + 1})
        with pytest.raises(Superseded):
            await StepWriter(database).begin(later, "b", attempt=1)
        assert (await shown(database, job))["b"]["status"] == "queued"

    async def test_stays_succeeded(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            await StepRepository(connection).advance(job, "a")
        assert not await StepWriter(database).begin(job, "a", attempt=2)
        assert (await shown(database, job))["a"]["status"] == "succeeded"

    async def test_advances_part_by_part(self, database: Database, job: JobRef) -> None:
        seen = []
        for _ in range(4):
            async with database.tenant(job.tenant_id) as connection:
                await StepRepository(connection).advance(job, "b")
            step = (await shown(database, job))["b"]
            seen.append((step["progress"], step["status"], step["finished_at"] is not None))
        assert seen == [
            (0.3333, "running", False),
            (0.6667, "running", False),
            (1.0, "succeeded", True),
            (1.0, "succeeded", True),
        ]

    async def test_shows_trouble_until_it_is_over(self, database: Database, job: JobRef) -> None:
        again = datetime(2030, 1, 1, tzinfo=UTC)
        await StepWriter(database).begin(job, "a", attempt=1)
        async with database.tenant(job.tenant_id) as connection:
            steps = StepRepository(connection)
            await steps.trouble(job, "a", attempt=1, error=ERROR, next_retry_at=again)
        step = (await shown(database, job))["a"]
        assert (step["status"], step["last_error"]) == ("running", ERROR)
        assert datetime.fromisoformat(step["next_retry_at"]) == again
        async with database.tenant(job.tenant_id) as connection:
            await StepRepository(connection).advance(job, "a")
        step = (await shown(database, job))["a"]
        assert (step["status"], step["last_error"], step["next_retry_at"]) == ("succeeded", None, None)

    async def test_fails_where_it_is_not_tried_again(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            await StepRepository(connection).trouble(job, "a", attempt=3, error=ERROR, next_retry_at=None)
        step = (await shown(database, job))["a"]
        assert (step["status"], step["attempt"]) == ("failed", 3)


class TestEnd:
    async def test_closes_what_runs_and_reopens_what_did_not_succeed(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            steps = StepRepository(connection)
            await steps.advance(job, "a")
            await steps.advance(job, "b")
            await steps.close_open(job, StepStatus.CANCELED)
        found = await shown(database, job)
        assert [found[name]["status"] for name in "ab"] == ["succeeded", "canceled"]
        async with database.tenant(job.tenant_id) as connection:
            await StepRepository(connection).reopen(job)
        found = await shown(database, job)
        assert [found[name]["status"] for name in "ab"] == ["succeeded", "queued"]
        assert found["b"]["progress"] == 0.3333


class TestResults:
    async def test_the_first_result_stands(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            results = StepResultRepository(connection)
            assert await results.add(job, "a", "hash", {"n": 1})
            assert not await results.add(job, "a", "hash", {"n": 2})
            assert await results.add(job, "a", "other", {"n": 3})
            assert await results.get_or_none(job, "a", "hash") == {"n": 1}
            assert await results.get_or_none(job, "b", "hash") is None

    async def test_prefixes_are_taken_literally(self, database: Database, job: JobRef) -> None:
        async with database.tenant(job.tenant_id) as connection:
            results = StepResultRepository(connection)
            for step in ("lesson_1", "lessonX1", "outline"):
                await results.add(job, step, "h", {"step": step})
            assert set(await results.get_by_prefix(job, "lesson_")) == {"lesson_1"}
