import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from core.database import Database
from core.ids import new_id
from core.notify import Listener
from domain.errors import NotFound
from domain.jobs import TERMINAL, JobRef, JobStatus, StepPlan
from repositories.jobs import CHANNEL, OPEN, JobFilter, JobRepository, measured_progress
from repositories.steps import StepRepository
from repositories.tables import job_events, jobs
from repositories.transitions import JobTransitions
from repositories.waits import standing_wait
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import add_job, new_tenant, superuser
from tests.support.waiting import eventually


async def state(database: Database, job: JobRef) -> tuple[str, int, int]:
    """Status, version and attempt."""
    async with database.tenant(job.tenant_id) as connection:
        row = (await connection.execute(select(jobs).where(jobs.c.id == job.job_id))).one()
    return row.status, row.version, row.attempt


async def end(database: Database, job: JobRef, status: JobStatus) -> bool:
    """Let a job end; whether it did."""
    ended = await JobTransitions(database).finish(
        job, status=status, step_status=status, result=None, error=None, error_code=None
    )
    return ended is not None


async def begin(database: Database, job: JobRef) -> bool | None:
    """Let a job begin."""
    return await JobTransitions(database).begin(job, run_id="run")


class TestRecord:
    async def test_changes_the_job_and_says_so(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            version = await JobRepository(connection).record(
                job_id=job.job_id, event="job.tested", data={"why": "because"}, values={"progress": 0.5}
            )
            assert version == 2
            queued, event = await JobRepository(connection).get_events(job.job_id, after=0, limit=10)
        assert (queued.seq, queued.type) == (1, "job.queued")
        assert (event.seq, event.type) == (2, "job.tested")
        assert event.data == {"status": "queued", "progress": 0.5, "why": "because"}

    async def test_concurrent_writers_leave_no_gap(self, database: Database, tenant_id: UUID) -> None:
        """Some of them fail after they have written."""
        job = await add_job(database, tenant_id)

        async def write(number: int) -> None:
            async with database.tenant(tenant_id) as connection:
                await JobRepository(connection).record(job_id=job.job_id, event="job.tested", data={"number": number})
                if number % 5 == 0:
                    raise RuntimeError("after the write")

        outcomes = await asyncio.gather(*(write(number) for number in range(100)), return_exceptions=True)
        assert sum(isinstance(outcome, RuntimeError) for outcome in outcomes) == 20
        async with database.tenant(tenant_id) as connection:
            events = await JobRepository(connection).get_events(job.job_id, after=0, limit=1000)
        assert [event.seq for event in events] == list(range(1, 82))
        assert len({event.data.get("number") for event in events}) == 81
        assert await state(database, job) == ("queued", 81, 1)

    async def test_an_older_attempt_writes_nothing(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            await repository.record(job_id=job.job_id, event="job.retried", values={"attempt": 2})
            assert await repository.record(job_id=job.job_id, event="job.late", attempt=1) is None
            assert not await repository.lock_attempt(job)
        assert not await end(database, job, JobStatus.SUCCEEDED)
        assert await begin(database, job) is None
        assert await state(database, job) == ("queued", 2, 2)

    async def test_announces_itself_when_it_is_committed(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        job = await add_job(database, tenant_id)
        heard: list[str] = []
        listener = Listener(postgres.runtime_url, on_notify={CHANNEL: heard.append}, on_gap=lambda: None)
        task = asyncio.create_task(listener.run())
        await listener.connected.wait()
        with contextlib.suppress(RuntimeError):
            async with database.tenant(tenant_id) as connection:
                await JobRepository(connection).record(job_id=job.job_id, event="job.undone")
                raise RuntimeError
        async with database.tenant(tenant_id) as connection:
            await JobRepository(connection).record(job_id=job.job_id, event="job.tested", values={"progress": 0.1})

        async def ours() -> list[str]:
            return [payload for payload in heard if payload.startswith(str(job.job_id))]

        assert await eventually(ours) == [f"{job.job_id}:2"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_another_tenants_job_is_out_of_reach(self, database: Database, tenant_id: UUID) -> None:
        theirs = await add_job(database, await new_tenant(database))
        async with database.tenant(tenant_id) as connection:
            assert await JobRepository(connection).record(job_id=theirs.job_id, event="job.stolen") is None
            assert not await JobRepository(connection).lock_attempt(theirs)
        assert (await state(database, theirs))[1] == 1


class TestFinal:
    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_nothing_leads_out_of_a_final_state_unasked(
        self, database: Database, tenant_id: UUID, status: JobStatus
    ) -> None:
        job = await add_job(database, tenant_id)
        assert await end(database, job, status)
        for other in TERMINAL:
            assert not await end(database, job, other)
        assert await begin(database, job) is None
        async with database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            values = {"status": JobStatus.RUNNING, "finished_at": None}
            assert await repository.record(job_id=job.job_id, event="job.running", values=values) is None
            assert not await repository.lock_attempt(job)
            assert await repository.record(job_id=job.job_id, event="job.retried", values=values, allowed=TERMINAL) == 3
        assert await state(database, job) == ("running", 3, 1)

    async def test_of_many_ends_one_counts(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        ends = sorted(TERMINAL) * 5
        outcomes = await asyncio.gather(*(end(database, job, status) for status in ends))
        assert sum(outcomes) == 1
        assert await state(database, job) == (ends[outcomes.index(True)], 2, 1)

    def test_every_state_is_open_or_final(self) -> None:
        assert set(JobStatus) == OPEN | TERMINAL
        assert not OPEN & TERMINAL

    @pytest.mark.parametrize(
        "change", ["status = 'failed'", "finished_at = now()", "status = 'lost'", "progress = 1.1", "priority = 9"]
    )
    async def test_the_database_itself_refuses_nonsense(self, database: Database, tenant_id: UUID, change: str) -> None:
        await add_job(database, tenant_id)
        with pytest.raises(IntegrityError):
            async with database.tenant(tenant_id) as connection:
                await connection.exec_driver_sql(f"UPDATE jobs SET {change}")  # noqa: S608


class TestBegin:
    async def test_runs_it_takes_its_start_off_the_list_and_says_whether_to_pause(
        self, database: Database, tenant_id: UUID
    ) -> None:
        job = await add_job(database, tenant_id)
        assert await begin(database, job) is False
        async with database.tenant(tenant_id) as connection:
            assert (await connection.exec_driver_sql("SELECT count(*) FROM commands")).scalar_one() == 0
            wait = {"kind": "paused", "detail": "", "since": "2026-01-01T00:00:00Z"}
            await JobRepository(connection).record(
                job_id=job.job_id, event="job.paused", values={"paused": True, "waiting_on": wait}
            )
        assert await begin(database, job) is True
        async with database.tenant(tenant_id) as connection:
            document = await JobRepository(connection).get_document(job.job_id)
        assert document.waiting_on["kind"] == "paused"

    async def test_does_not_move_the_first_start(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        await begin(database, job)
        async with database.tenant(tenant_id) as connection:
            first = await JobRepository(connection).get_document(job.job_id)
        await begin(database, job)
        async with database.tenant(tenant_id) as connection:
            second = await JobRepository(connection).get_document(job.job_id)
        assert (second.started_at, second.admitted_at) == (first.started_at, first.admitted_at)


class TestAdmission:
    async def test_counts_jobs_of_the_kind_that_hold_a_slot(self, database: Database, tenant_id: UUID) -> None:
        done = await add_job(database, tenant_id)
        await end(database, done, JobStatus.FAILED)
        await add_job(database, tenant_id)
        await add_job(database, tenant_id, admitted=False)
        await add_job(database, tenant_id, kind="test.other")
        await add_job(database, await new_tenant(database))
        for limit, free in ((1, False), (2, True)):
            async with database.tenant(tenant_id) as connection:
                assert await JobRepository(connection).try_admit(tenant_id, "test.hold", default_limit=limit) is free

    async def test_counts_the_same_for_the_platform(self, database: Database, tenant_id: UUID) -> None:
        await add_job(database, tenant_id)
        async with database.system() as connection:
            assert not await JobRepository(connection).try_admit(tenant_id, "test.hold", default_limit=1)

    async def test_the_tenants_own_limit_comes_first(self, database: Database) -> None:
        tenant_id = await new_tenant(database, max_running={"test.hold": 1})
        await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            assert not await JobRepository(connection).try_admit(tenant_id, "test.hold", default_limit=100)
            assert await JobRepository(connection).try_admit(tenant_id, "test.other", default_limit=100)


class TestRead:
    async def test_what_is_not_there_is_not_found(self, database: Database, tenant_id: UUID) -> None:
        theirs = await add_job(database, await new_tenant(database))
        async with database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            for job_id in (new_id(), theirs.job_id):
                for question in (
                    repository.get_document,
                    repository.get_for_update,
                    repository.get_input,
                    repository.get_result,
                ):
                    with pytest.raises(NotFound):
                        await question(job_id)
                assert await repository.get_version_or_none(job_id) is None
                assert await repository.get_events(job_id, after=0, limit=10) == []

    async def test_events_go_on_where_a_reader_stopped(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            for _ in range(5):
                await repository.record(job_id=job.job_id, event="job.tested")
            assert [event.seq for event in await repository.get_events(job.job_id, after=2, limit=3)] == [3, 4, 5]

    async def test_pages_hold_every_job_once_newest_first(self, database: Database, tenant_id: UUID) -> None:
        refs = [await add_job(database, tenant_id) for _ in range(7)]
        found: list[UUID] = []
        async with database.tenant(tenant_id) as connection:
            before = None
            while page := await JobRepository(connection).get_page(JobFilter(), limit=3, before=before):
                found += [row.id for row in page]
                before = found[-1]
        assert found == [job.job_id for job in reversed(refs)]

    async def test_filters_combine(self, database: Database, tenant_id: UUID) -> None:
        plain = await add_job(database, tenant_id)
        labeled = await add_job(database, tenant_id, labels={"team": "a", "stage": "b"})
        other = await add_job(database, tenant_id, kind="test.other")
        await end(database, other, JobStatus.FAILED)
        now = datetime.now(UTC)
        expected = [
            (JobFilter(kind="test.hold"), [labeled, plain]),
            (JobFilter(status=JobStatus.FAILED), [other]),
            (JobFilter(labels={"team": "a"}), [labeled]),
            (JobFilter(labels={"team": "a", "stage": "x"}), []),
            (JobFilter(kind="test.hold", labels={"stage": "b"}), [labeled]),
            (JobFilter(created_after=now - timedelta(minutes=1)), [other, labeled, plain]),
            (JobFilter(created_before=now - timedelta(minutes=1)), []),
        ]
        async with database.tenant(tenant_id) as connection:
            for wanted, refs in expected:
                page = await JobRepository(connection).get_page(wanted, limit=10, before=None)
                assert [row.id for row in page] == [job.job_id for job in refs], wanted


class TestProgress:
    async def test_is_the_weighted_share_and_never_goes_back(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            steps, repository = StepRepository(connection), JobRepository(connection)
            await steps.plan(
                job, [StepPlan(name="a", title="A", weight=0.25), StepPlan(name="b", title="B", weight=0.75, total=3)],
                first_position=0,
            )  # fmt: skip
            seen = []
            for name in ("a", "b", "b", "b", "b"):
                await steps.advance(job, name)
                await repository.record(
                    job_id=job.job_id, event="step", values={"progress": measured_progress, "waiting_on": standing_wait}
                )
                seen.append((await repository.get_document(job.job_id)).progress)
        assert seen == [0.25, 0.5, 0.75, 1.0, 1.0]


class TestReconciling:
    async def test_takes_the_longest_unseen_first_and_each_once(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        old, older, unadmitted, done = [
            await add_job(database, tenant_id, admitted=admitted) for admitted in (True, True, False, True)
        ]
        await end(database, done, JobStatus.SUCCEEDED)
        with superuser(postgres) as connection:
            for job, years in ((old, 1), (older, 2), (unadmitted, 3), (done, 3)):
                connection.execute(
                    "UPDATE jobs SET reconciled_at = now() - make_interval(years => %s) WHERE id = %s",
                    (years, job.job_id),
                )
        async with database.system() as system:
            repository = JobRepository(system)
            limit = datetime.now(UTC) - timedelta(days=30)
            found = [row.id for row in await repository.get_unreconciled(older_than=limit, limit=10)]
            assert found == [older.job_id, old.job_id]
            await repository.mark_reconciled(found)
            assert await repository.get_unreconciled(older_than=limit, limit=10) == []


class TestEventsOfAll:
    async def test_every_job_of_every_test_is_numbered_without_a_gap(self, postgres: EmbeddedPostgres) -> None:
        """Whatever the other tests did to their jobs: the last event's number is the version."""
        query = (
            select(jobs.c.id)
            .join(job_events, job_events.c.job_id == jobs.c.id)
            .where(jobs.c.kind.like("test.%"))
            .group_by(jobs.c.id, jobs.c.version)
            .having((func.count() != jobs.c.version) | (func.max(job_events.c.seq) != jobs.c.version))
        )
        with superuser(postgres) as connection:
            text = str(query.compile(compile_kwargs={"literal_binds": True}))
            assert connection.execute(text).fetchall() == []
