import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from core.database import Database
from core.ids import new_id
from core.temporal import connect, create_data_converter
from domain.errors import TemporalUnavailable
from domain.jobs import CommandAction, JobAction, JobRef
from repositories.commands import CommandRepository
from repositories.tables import jobs
from services.commands import JOB_KIND, SEARCH_ATTRIBUTES, TENANT, Command, CommandSender
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.stack.temporal import EmbeddedTemporal
from tests.support.life import (
    CountingSender,
    Life,
    add_job,
    dispatching,
    new_tenant,
    pass_time,
    serving,
    soon,
    superuser,
)
from tests.support.waiting import eventually


def command(job: JobRef, action: CommandAction = CommandAction.START, *, task_queue: str = "nobody") -> Command:
    """What Temporal is to be told about a job."""
    args: dict[CommandAction, dict[str, Any]] = {
        CommandAction.START: {"workflow": "Hold", "summary": "A job of a test"},
        CommandAction.CANCEL: {},
        CommandAction.SIGNAL: {"signal": "set_paused", "args": [True, 2]},
    }
    return Command(id=new_id(), job=job, action=action, args=args[action], task_queue=task_queue, priority=2)


def nobodys_job() -> JobRef:
    """A job that only Temporal hears of."""
    return JobRef(job_id=new_id(), tenant_id=new_id(), kind="test.hold", request_id="request-1")


class TestDeliver:
    async def test_the_workflow_says_whose_it_is(self, life: Life) -> None:
        job = nobodys_job()
        await life.sender.deliver(command(job))
        found = await life.handle(job.job_id).describe()
        assert found.workflow_type == "Hold"
        assert found.typed_search_attributes[TENANT] == str(job.tenant_id)
        assert found.typed_search_attributes[JOB_KIND] == "test.hold"
        assert await found.memo() == {"attempt": 1, "request_id": "request-1"}
        assert await found.static_summary() == "A job of a test"
        priority = found.raw_description.workflow_execution_info.priority
        assert (priority.priority_key, priority.fairness_key) == (2, str(job.tenant_id))

    async def test_starting_twice_starts_once(self, life: Life) -> None:
        job = nobodys_job()
        await life.sender.deliver(command(job))
        first = (await life.handle(job.job_id).describe()).run_id
        await asyncio.gather(*(life.sender.deliver(command(job)) for _ in range(5)))
        assert (await life.handle(job.job_id).describe()).run_id == first

    async def test_a_late_second_start_does_not_undo_a_termination(self, life: Life) -> None:
        job = nobodys_job()
        await life.sender.deliver(command(job))
        await life.handle(job.job_id).terminate()
        await life.sender.deliver(command(job))
        found = await life.handle(job.job_id).describe()
        assert found.close_time is not None

    async def test_the_next_attempt_starts_where_the_older_has_closed(self, life: Life) -> None:
        job = nobodys_job()
        await life.sender.deliver(command(job))
        await life.handle(job.job_id).terminate()
        await life.sender.deliver(command(job.model_copy(update={"attempt": 2})))
        found = await life.handle(job.job_id).describe()
        assert found.close_time is None
        assert await found.memo_value("attempt") == 2

    @pytest.mark.parametrize("action", [CommandAction.CANCEL, CommandAction.SIGNAL])
    async def test_nobody_to_tell_is_nothing_to_do(self, life: Life, action: CommandAction) -> None:
        await life.sender.deliver(command(nobodys_job(), action))

    async def test_a_refused_connection_is_temporal_being_away(self) -> None:
        client = await connect(f"127.0.0.1:{free_port()}", namespace="default", converter=create_data_converter(None))
        sender = CommandSender(client, timeout=timedelta(seconds=1))
        with pytest.raises(TemporalUnavailable):
            await sender.deliver(command(nobodys_job()))
        assert not await sender.try_now(command(nobodys_job()))


@dataclass
class Outage:
    """A Temporal of one's own that can be away."""

    server: EmbeddedTemporal
    life: Life

    async def begin(self) -> None:
        """Kill it, as a crash would."""
        await asyncio.to_thread(self.server.kill)

    async def end(self) -> None:
        """Start it again on the same file and port."""
        await asyncio.to_thread(self.server.start)


class TestTemporalAway:
    @pytest.fixture
    async def outage(
        self, scratch: Path, postgres: EmbeddedPostgres, database: Database, tenant_id: UUID, unserved: Life
    ) -> AsyncIterator[Outage]:
        folder = scratch / f"outage-{new_id()}"
        server = EmbeddedTemporal(folder, port=free_port(), ui_port=None, search_attributes=SEARCH_ATTRIBUTES)
        await asyncio.to_thread(server.start)
        client = await connect(server.address, namespace="default", converter=create_data_converter(None), lazy=False)
        life = Life(postgres, database, client, tenant_id, unserved.task_queue)
        yield Outage(server, life)
        await asyncio.to_thread(server.kill)

    async def test_jobs_are_taken_in_explained_and_started_when_it_is_back(self, outage: Outage) -> None:
        life = outage.life
        life.service = life.service_with(CommandSender(life.client, timeout=timedelta(seconds=1)))
        await outage.begin()
        job_ids = [await life.start("diagnostics.noop") for _ in range(5)]
        dispatcher = life.dispatcher(CommandSender(life.client, timeout=timedelta(seconds=1)))
        for _ in range(2):
            life.pass_time(*job_ids)
            await dispatcher.dispatch_once()
        for row in await life.rows(job_ids):
            assert row.status == "queued"
            assert row.waiting_on["kind"] == "temporal"
        for job_id in job_ids:
            assert await life.events(job_id) == ["job.queued", "job.waiting"]
            (left,) = await life.commands(job_id)
            assert left.tries == 2
            assert timedelta(seconds=2) < left.not_before - datetime.now(UTC) <= timedelta(seconds=4)
            assert left.last_error
        await outage.end()
        life.pass_time(*job_ids)
        async with serving(life.client, life.database, life.task_queue), dispatching(dispatcher):
            for job_id in job_ids:
                row = await life.until(job_id, "succeeded")
                assert row.waiting_on is None
        for job_id in job_ids:
            assert await life.events(job_id) == ["job.queued", "job.waiting", "job.running", "job.succeeded"]


class TestPausedBeforeItBegan:
    """Whatever it waits for besides, a job that a person paused says so."""

    async def paused(self, life: Life, job_id: UUID) -> None:
        await life.service.act(life.tenant_id, job_id, JobAction.PAUSE)

    async def test_its_time_comes(self, unserved: Life) -> None:
        job_id = await unserved.start(start_at=soon(3_600))
        await self.paused(unserved, job_id)
        unserved.pass_time(job_id, seconds=7_200)
        await unserved.dispatcher().dispatch_once()
        row = await unserved.row(job_id)
        assert row.admitted_at is not None
        assert row.waiting_on["kind"] == "paused"

    async def test_a_slot_becomes_free(self, unserved: Life) -> None:
        service = unserved.service_with(unserved.sender, max_running=1)
        await unserved.start(service=service)
        job_id = await unserved.start(service=service)
        await self.paused(unserved, job_id)
        for most in (1, 2):
            unserved.pass_time(job_id)
            await unserved.dispatcher(max_running=most).dispatch_once()
            row = await unserved.row(job_id)
            assert (row.admitted_at is not None, row.waiting_on["kind"]) == (most == 2, "paused")
        assert await unserved.events(job_id) == ["job.queued", "job.paused", "job.admitted"]

    async def test_temporal_is_away(self, unserved: Life) -> None:
        job_id = await unserved.start(service=unserved.without_fast_path())
        await self.paused(unserved, job_id)
        nobody = await connect(f"127.0.0.1:{free_port()}", namespace="default", converter=create_data_converter(None))
        unserved.pass_time(job_id)
        await unserved.dispatcher(CommandSender(nobody, timeout=timedelta(seconds=1))).dispatch_once()
        start, *_ = await unserved.commands(job_id)
        assert (start.tries, bool(start.last_error)) == (1, True)
        assert (await unserved.row(job_id)).waiting_on["kind"] == "paused"


class TestTheRequestThatDied:
    async def test_a_dispatcher_starts_the_job_after_the_lease(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop", service=life.without_fast_path())
        await life.dispatcher().dispatch_once()
        assert (await life.row(job_id)).status == "queued"
        life.pass_time(job_id, seconds=5)
        await life.dispatcher().dispatch_once()
        await life.until(job_id, "succeeded")
        assert await life.commands(job_id) == []

    async def test_a_dispatcher_that_dies_gives_its_commands_back(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop", service=life.without_fast_path())
        life.pass_time(job_id, seconds=5)
        async with life.database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=10, lease=timedelta(seconds=30))
        assert [row.job_id for row in claimed] == [job_id]
        await life.dispatcher().dispatch_once()
        assert (await life.row(job_id)).status == "queued"
        life.pass_time(job_id, seconds=30)
        await life.dispatcher().dispatch_once()
        await life.until(job_id, "succeeded")


class TestSideBySide:
    async def test_two_dispatchers_start_each_job_once(self, life: Life) -> None:
        silent = life.without_fast_path()
        job_ids = await asyncio.gather(*(life.start("diagnostics.noop", service=silent) for _ in range(60)))
        life.pass_time(*job_ids)
        sender = CountingSender(life.client)
        await asyncio.gather(*(life.dispatcher(sender).dispatch_once() for _ in range(2)))
        assert Counter(sent.job.job_id for sent in sender.delivered) == Counter(job_ids)
        for job_id in job_ids:
            await life.until(job_id, "succeeded")
            assert await life.events(job_id) == ["job.queued", "job.running", "job.succeeded"]


@dataclass
class Watch:
    """Looks at how many slots of a tenant are taken, over and over; one statement sees one moment."""

    database: Database
    tenant_id: UUID
    seen: list[int] = field(default_factory=list)

    async def run(self) -> None:
        """Look until canceled."""
        taken = select(func.count()).where(jobs.c.admitted_at.is_not(None), jobs.c.finished_at.is_(None))
        while True:
            async with self.database.tenant(self.tenant_id) as connection:
                self.seen.append((await connection.execute(taken)).scalar_one())


class TestCapacity:
    async def test_concurrent_starts_take_no_more_slots_than_there_are(self, unserved: Life) -> None:
        service = unserved.service_with(unserved.sender, max_running=3)
        job_ids = await asyncio.gather(*(unserved.start(service=service) for _ in range(30)))
        rows = await unserved.rows(job_ids)
        assert sum(row.admitted_at is not None for row in rows) == 3
        assert Counter((row.waiting_on or {}).get("kind") for row in rows) == {None: 3, "capacity": 27}

    async def test_concurrent_dispatchers_take_no_more_slots_than_there_are(
        self, unserved: Life, database: Database
    ) -> None:
        jobs_ = [await add_job(database, unserved.tenant_id, admitted=False) for _ in range(30)]
        dispatchers = [unserved.dispatcher(max_running=4) for _ in range(4)]
        await asyncio.gather(*(dispatcher.dispatch_once() for dispatcher in dispatchers))
        rows = await unserved.rows(job.job_id for job in jobs_)
        assert sum(row.admitted_at is not None for row in rows) == 4
        waiting = [row for row in rows if row.admitted_at is None]
        assert {row.waiting_on["kind"] for row in waiting} == {"capacity"}
        assert await unserved.events(waiting[0].id) == ["job.queued", "job.waiting"]

    async def test_the_limit_holds_at_every_moment_and_everything_is_done(
        self, life: Life, postgres: EmbeddedPostgres
    ) -> None:
        service = life.service_with(life.sender, max_running=3)
        watch = Watch(life.database, life.tenant_id)
        watching = asyncio.create_task(watch.run())
        dispatchers = [life.dispatcher(max_running=3) for _ in range(2)]
        async with dispatching(*dispatchers, listen_at=postgres.runtime_url):
            job_ids = await asyncio.gather(*(life.start("diagnostics.noop", service=service) for _ in range(40)))

            async def statuses() -> Counter[str]:
                return Counter(row.status for row in await life.rows(job_ids))

            await eventually(statuses, lambda seen: seen["succeeded"] == 40, within=30)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert len(watch.seen) > 50
        assert max(watch.seen) <= 3
        for job_id in job_ids:
            assert [kind for kind in await life.events(job_id) if kind == "job.running"] == ["job.running"]

    async def test_a_tenant_may_have_limits_of_its_own(self, unserved: Life, database: Database) -> None:
        unserved.tenant_id = await new_tenant(database, max_running={"test.hold": 2})
        job_ids = [await unserved.start() for _ in range(4)]
        assert sum(row.admitted_at is not None for row in await unserved.rows(job_ids)) == 2
        other_kind = await unserved.start("diagnostics.noop")
        assert (await unserved.row(other_kind)).admitted_at is not None

    async def test_a_finished_job_wakes_the_next_in_line(self, life: Life, postgres: EmbeddedPostgres) -> None:
        """By priority first, then by age; everybody else goes on waiting."""
        service = life.service_with(life.sender, max_running=1)
        first = await life.start(service=service)
        await life.until(first, "running")
        later = await life.start(service=service)
        urgent = await life.start(service=service, priority=1)
        dispatcher = life.dispatcher(max_running=1)
        await dispatcher.dispatch_once()
        for job_id in (later, urgent):
            assert (await life.commands(job_id))[0].not_before > soon(30)
        async with dispatching(dispatcher, listen_at=postgres.runtime_url):
            await life.go(first)
            await life.until(urgent, "running")
            row = await life.row(later)
        assert (row.status, row.waiting_on["kind"]) == ("queued", "capacity")

    async def test_two_slots_freed_at_once_wake_two(self, life: Life) -> None:
        service = life.service_with(life.sender, max_running=2)
        running = [await life.start(service=service) for _ in range(2)]
        waiting = [await life.start(service=service) for _ in range(3)]
        for job_id in running:
            await life.until(job_id, "running")
        dispatcher = life.dispatcher(max_running=2)
        await dispatcher.dispatch_once()
        await asyncio.gather(*(life.go(job_id) for job_id in running))
        for job_id in running:
            await life.until(job_id, "succeeded")
        await dispatcher.dispatch_once()
        for job_id in waiting[:2]:
            await life.until(job_id, "running")
        assert (await life.row(waiting[2])).admitted_at is None

    @pytest.mark.parametrize("status", ["failed", "canceled"])
    async def test_every_end_frees_the_slot(self, life: Life, status: str) -> None:
        service = life.service_with(life.sender, max_running=1)
        first = await life.start(service=service)
        await life.until(first, "running")
        second = await life.start(service=service)
        dispatcher = life.dispatcher(max_running=1)
        await dispatcher.dispatch_once()
        if status == "failed":
            await life.go(first, "fail")
        else:
            await service.act(life.tenant_id, first, JobAction.CANCEL)
        await life.until(first, status)
        await dispatcher.dispatch_once()
        await life.until(second, "running")

    async def test_canceling_before_the_start_frees_the_slot(self, unserved: Life) -> None:
        service = unserved.service_with(unserved.sender, max_running=1)
        first = await unserved.start(service=service)
        second = await unserved.start(service=service)
        dispatcher = unserved.dispatcher(max_running=1)
        await dispatcher.dispatch_once()
        await service.act(unserved.tenant_id, first, JobAction.CANCEL)
        await dispatcher.dispatch_once()
        assert (await unserved.row(second)).admitted_at is not None


def add_many(postgres: EmbeddedPostgres, tenant_id: UUID, *, count: int, priority: int) -> None:
    """Write jobs down in one go, their starts due."""
    job_ids = [new_id() for _ in range(count)]
    with superuser(postgres) as connection:
        connection.execute(
            "INSERT INTO jobs (id, tenant_id, kind, task_queue, input, priority, admitted_at)"
            " SELECT id, %s, 'test.hold', 'nobody', '{}', %s, now() FROM unnest(%s::uuid[]) AS id",
            (tenant_id, priority, job_ids),
        )
        connection.execute(
            "INSERT INTO job_events (tenant_id, job_id, seq, type) SELECT %s, id, 1, 'job.queued'"
            " FROM unnest(%s::uuid[]) AS id",
            (tenant_id, job_ids),
        )
        connection.execute(
            "INSERT INTO commands (id, tenant_id, job_id, action, args)"
            ' SELECT id, %s, id, \'start\', \'{"workflow": "Hold", "summary": "one of many"}\''
            " FROM unnest(%s::uuid[]) AS id",
            (tenant_id, job_ids),
        )


class TestFairness:
    async def test_five_hundred_of_a_neighbour_do_not_hold_up_one(
        self, unserved: Life, database: Database, postgres: EmbeddedPostgres
    ) -> None:
        """Not even where the neighbour came first and calls all of his urgent."""
        neighbour = await new_tenant(database)
        add_many(postgres, neighbour, count=500, priority=1)
        mine = await add_job(database, unserved.tenant_id, priority=5)
        sender = CountingSender(unserved.client)
        assert await unserved.dispatcher(sender).dispatch_once()
        delivered = [sent.job.job_id for sent in sender.delivered]
        assert len(delivered) == 100
        assert mine.job_id in delivered
        await eventually(lambda: unserved.is_known_to_temporal(mine.job_id))
        with superuser(postgres) as connection:  # so many would keep every later sweep busy
            connection.execute("DELETE FROM jobs WHERE tenant_id = %s", (neighbour,))

    async def test_within_a_tenant_the_urgent_come_first(self, unserved: Life, database: Database) -> None:
        refs = [await add_job(database, unserved.tenant_id, priority=priority) for priority in (5, 3, 1, 3)]
        async with database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=3, lease=timedelta(seconds=30))
        assert {row.job_id for row in claimed} == {refs[index].job_id for index in (1, 2, 3)}

    async def test_what_is_to_stop_comes_before_what_is_to_start(self, unserved: Life, database: Database) -> None:
        running = await unserved.start()
        await add_job(database, unserved.tenant_id, priority=1)
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(running, "running")
        await unserved.without_fast_path().act(unserved.tenant_id, running, JobAction.CANCEL)
        pass_time(unserved.postgres, [running])
        async with database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=1, lease=timedelta(seconds=30))
        assert [row.action for row in claimed] == ["cancel"]


class TestDispatch:
    async def test_a_start_that_has_become_pointless_is_forgotten(self, life: Life, database: Database) -> None:
        """The job runs already; its start was not taken off the list in time."""
        job_id = await life.start_running()
        async with database.tenant(life.tenant_id) as connection:
            await CommandRepository(connection).add(
                command_id=new_id(), tenant_id=life.tenant_id, job_id=job_id, action=CommandAction.START, args={}
            )
        sender = CountingSender(life.client)
        await life.dispatcher(sender).dispatch_once()
        assert sender.delivered == []
        assert await life.commands(job_id) == []

    async def test_signals_and_cancellations_are_carried_too(self, life: Life) -> None:
        job_id = await life.start_running()
        silent = life.without_fast_path()
        document = await silent.act(life.tenant_id, job_id, JobAction.PAUSE)
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        assert await life.handle(job_id).query("gate") == [1, document.version]
        await silent.act(life.tenant_id, job_id, JobAction.CANCEL)
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        await life.until(job_id, "canceled")
        assert await life.commands(job_id) == []

    async def test_says_whether_more_may_wait(self, unserved: Life, database: Database) -> None:
        assert not await unserved.dispatcher().dispatch_once()
        await add_job(database, unserved.tenant_id)
        assert not await unserved.dispatcher().dispatch_once()

    async def test_is_woken_by_a_job_that_could_not_start_at_once(self, life: Life, postgres: EmbeddedPostgres) -> None:
        """Nobody looks at the clock: what is written down announces itself."""
        async with dispatching(life.dispatcher(), listen_at=postgres.runtime_url):
            booked = soon(0.5)
            await life.start("diagnostics.noop", start_at=soon(3600))
            job_id = await life.start("diagnostics.noop", start_at=booked)
            row = await life.until(job_id, "succeeded")
        assert row.started_at - booked < timedelta(seconds=0.8)
