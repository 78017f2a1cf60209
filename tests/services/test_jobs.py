import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import psycopg
import pytest

from core.database import Database
from core.temporal import connect, create_data_converter
from domain.errors import IdempotencyMismatch, InvalidInput, NotFound, StateError
from domain.jobs import JobAction, JobRef, JobStatus
from repositories.jobs import JobRepository
from services.commands import CommandSender, OlderRunOpen
from services.jobs import JobRequest
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import Life, dispatching, new_tenant, serving, soon, superuser
from tests.support.waiting import eventually


def hold(**changes: Any) -> JobRequest:
    """The wish for a job that waits to be told."""
    return JobRequest(**({"kind": "test.hold", "input": {}} | changes))


def stored(postgres: EmbeddedPostgres, tenant_id: UUID) -> dict[str, int]:
    """How many rows of each kind a tenant has."""
    tables = ("jobs", "job_events", "commands", "idempotency_keys")
    with superuser(postgres) as connection:
        return {
            table: connection.execute(
                f"SELECT count(*) FROM {table} WHERE tenant_id = %s",  # noqa: S608
                (tenant_id,),
            ).fetchall()[0][0]
            for table in tables
        }


@contextmanager
def refusing_commands(postgres: EmbeddedPostgres) -> Iterator[None]:
    """The last thing that a start writes fails."""
    with superuser(postgres) as connection:
        connection.execute("ALTER TABLE commands ADD CONSTRAINT refused CHECK (false) NOT VALID")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE commands DROP CONSTRAINT refused")


class TestStart:
    async def test_job_event_command_and_key_are_written_together(self, life: Life, postgres: EmbeddedPostgres) -> None:
        started = await life.without_fast_path().start(life.tenant_id, hold(labels={"a": "b"}), key="k")
        assert not started.replayed
        assert stored(postgres, life.tenant_id) == {"jobs": 1, "job_events": 1, "commands": 1, "idempotency_keys": 1}
        assert started.document.status == "queued"
        assert started.document.version == 1
        assert started.document.labels == {"a": "b"}

    async def test_nothing_is_written_where_the_last_write_fails(self, life: Life, postgres: EmbeddedPostgres) -> None:
        with refusing_commands(postgres), pytest.raises(psycopg.IntegrityError):
            await life.without_fast_path().start(life.tenant_id, hold(), key="k")
        assert set(stored(postgres, life.tenant_id).values()) == {0}
        started = await life.without_fast_path().start(life.tenant_id, hold(), key="k")
        assert not started.replayed

    async def test_runs_to_its_end(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop")
        row = await life.until(job_id, "succeeded")
        assert row.progress == 1.0
        assert row.started_at is not None
        assert row.waiting_on is None
        assert await life.events(job_id) == ["job.queued", "job.running", "job.succeeded"]
        assert await life.commands(job_id) == []

    async def test_carries_the_failure_of_its_workflow(self, life: Life) -> None:
        job_id = await life.start_running()
        await life.go(job_id, "fail")
        row = await life.until(job_id, "failed")
        assert row.error_code == "E.BUDGET.EXCEEDED"
        assert row.error == {
            "type": "urn:longhaul:error:E.BUDGET.EXCEEDED",
            "title": "The budget does not cover the next call",
            "detail": "told to fail",
            "code": "E.BUDGET.EXCEEDED",
        }

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"kind": "test.unknown"}, "/kind"),
            ({"input": {"surplus": 1}}, "/input/surplus"),
            ({"input": []}, "/input"),
            ({"start_at": datetime(2020, 1, 1, tzinfo=UTC)}, "/start_at"),
            ({"start_at": datetime.now(UTC) + timedelta(days=400)}, "/start_at"),
        ],
    )
    async def test_refuses_by_naming_the_field(
        self, life: Life, postgres: EmbeddedPostgres, changes: dict[str, Any], pointer: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await life.service.start(life.tenant_id, hold(**changes), key="k")
        assert [fault.pointer for fault in refused.value.faults] == [pointer]
        assert set(stored(postgres, life.tenant_id).values()) == {0}


class TestIdempotency:
    async def test_fifty_at_once_make_one_job(self, life: Life, postgres: EmbeddedPostgres) -> None:
        answers = await asyncio.gather(*(life.service.start(life.tenant_id, hold(), key="one") for _ in range(50)))
        assert len({answer.document.id for answer in answers}) == 1
        assert sorted(answer.replayed for answer in answers) == [False] + [True] * 49
        assert stored(postgres, life.tenant_id)["jobs"] == 1

    async def test_the_same_job_comes_back_as_it_is_now(self, life: Life) -> None:
        first = await life.service.start(life.tenant_id, hold(kind="diagnostics.noop"), key="k")
        await life.until(first.document.id, "succeeded")
        again = await life.service.start(
            life.tenant_id, hold(kind="diagnostics.noop", request_id="other", traceparent="00-1"), key="k"
        )
        assert again.replayed
        assert (again.document.id, again.document.status) == (first.document.id, "succeeded")

    async def test_another_request_under_the_same_key_is_refused(self, life: Life, postgres: EmbeddedPostgres) -> None:
        await life.service.start(life.tenant_id, hold(), key="k")
        with pytest.raises(IdempotencyMismatch):
            await life.service.start(life.tenant_id, hold(priority=1), key="k")
        assert stored(postgres, life.tenant_id)["jobs"] == 1

    async def test_keys_of_tenants_have_nothing_to_do_with_each_other(self, life: Life, database: Database) -> None:
        other = await new_tenant(database)
        mine, theirs = await asyncio.gather(
            life.service.start(life.tenant_id, hold(), key="k"), life.service.start(other, hold(priority=1), key="k")
        )
        assert mine.document.id != theirs.document.id
        assert not mine.replayed
        assert not theirs.replayed

    async def test_an_expired_key_is_free_again(self, life: Life, postgres: EmbeddedPostgres) -> None:
        first = await life.service.start(life.tenant_id, hold(), key="k")
        with superuser(postgres) as connection:
            connection.execute(
                "UPDATE idempotency_keys SET expires_at = now() - interval '1 s' WHERE tenant_id = %s",
                (life.tenant_id,),
            )
        second = await life.service.start(life.tenant_id, hold(priority=1), key="k")
        assert second.document.id != first.document.id

    async def test_a_replay_is_answered_also_when_the_booked_time_has_passed(self, life: Life) -> None:
        """The time was possible when the job was accepted; the replay only asks which job it became."""
        booked = soon(60)
        first = await life.service.start(life.tenant_id, hold(start_at=booked), key="k")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("services.jobs.datetime", _LaterClock)
            again = await life.service.start(life.tenant_id, hold(start_at=booked), key="k")
        assert again.replayed
        assert again.document.id == first.document.id

    def test_spelling_makes_no_other_request(self) -> None:
        noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
        same_moment = noon.astimezone(timezone(timedelta(hours=2)))
        one = hold(input={"a": 1, "b": 2}, start_at=noon).fingerprint()
        assert one == hold(input={"b": 2, "a": 1}, start_at=same_moment, request_id="r").fingerprint()

    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": "other"},
            {"input": {"a": 2}},
            {"priority": 2},
            {"labels": {"x": "y"}},
            {"callback_url": "https://example.org"},
            {"start_at": datetime(2026, 5, 1, tzinfo=UTC)},
        ],
    )
    def test_every_part_of_the_wish_counts(self, changes: dict[str, Any]) -> None:
        assert hold(input={"a": 1}).fingerprint() != hold(**({"input": {"a": 1}} | changes)).fingerprint()


class _LaterClock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(hours=2)


class TestStartWhileTemporalIsAway:
    async def _service(self, life: Life, port: int) -> tuple[CommandSender, Any]:
        client = await connect(f"127.0.0.1:{port}", namespace="default", converter=create_data_converter(None))
        sender = CommandSender(client, timeout=timedelta(seconds=0.5))
        return sender, life.service_with(sender)

    async def test_a_refused_connection_costs_nothing(self, life: Life) -> None:
        _, service = await self._service(life, free_port())
        started = await service.start(life.tenant_id, hold(), key=None)
        assert started.document.status == "queued"
        assert [command.action for command in await life.commands(started.document.id)] == ["start"]

    async def test_silence_costs_the_time_out_once(self, life: Life) -> None:
        """A server that accepts connections and never answers; after it, the fast path is not even tried."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            _, service = await self._service(life, silent.getsockname()[1])
            before = time.monotonic()
            await service.start(life.tenant_id, hold(), key=None)
            once = time.monotonic() - before
            for _ in range(5):
                await service.start(life.tenant_id, hold(), key=None)
            six_times = time.monotonic() - before
        assert once < 1.5
        assert six_times - once < 0.4

    async def test_acting_on_a_job_works_as_well(self, life: Life) -> None:
        job_id = await life.start_running()
        _, service = await self._service(life, free_port())
        document = await service.act(life.tenant_id, job_id, JobAction.CANCEL)
        assert document.status == "running"
        assert [command.action for command in await life.commands(job_id)] == ["cancel"]
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        await life.until(job_id, "canceled")


class TestStartLater:
    async def test_waits_for_its_time(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop", start_at=soon(3600))
        row = await life.row(job_id)
        assert row.waiting_on["kind"] == "timer"
        assert datetime.fromisoformat(row.waiting_on["until"]) == row.start_at
        assert row.admitted_at is None
        await life.dispatcher().dispatch_once()
        assert not await life.is_known_to_temporal(job_id, "diagnostics.noop")

    async def test_takes_no_slot_before_its_time(self, life: Life) -> None:
        service = life.service_with(life.sender, max_running=1)
        await life.start(service=service, start_at=soon(3600))
        now_id = await life.start("test.hold", service=service)
        assert (await life.row(now_id)).admitted_at is not None

    async def test_a_time_just_gone_means_now(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop", start_at=soon(-60))
        await life.until(job_id, "succeeded")

    async def test_begins_at_its_time(self, life: Life, postgres: EmbeddedPostgres) -> None:
        booked = soon(1.0)
        async with dispatching(life.dispatcher(), listen_at=postgres.runtime_url):
            job_id = await life.start("diagnostics.noop", start_at=booked)
            row = await life.until(job_id, "succeeded")
        assert timedelta(0) <= row.started_at - booked < timedelta(seconds=0.8)

    async def test_a_freed_slot_does_not_start_it_early(self, life: Life) -> None:
        later = await life.start(start_at=soon(3600))
        first = await life.start_running()
        await life.go(first)
        await life.until(first, "succeeded")
        assert (await life.commands(later))[0].not_before > soon(3000)


class TestCancel:
    async def test_a_queued_job_never_runs(self, unserved: Life) -> None:
        job_id = await unserved.start(service=unserved.without_fast_path())
        document = await unserved.without_fast_path().act(unserved.tenant_id, job_id, JobAction.CANCEL)
        assert document.status == "canceled"
        assert document.finished_at is not None
        assert [left.action for left in await unserved.commands(job_id)] == ["cancel"]
        unserved.pass_time(job_id)
        await unserved.dispatcher().dispatch_once()
        assert await unserved.commands(job_id) == []
        assert not await unserved.is_known_to_temporal(job_id)
        assert await unserved.events(job_id) == ["job.queued", "job.canceled"]

    async def test_a_job_whose_workflow_has_no_worker_yet_never_runs(self, unserved: Life) -> None:
        """The workflow is there; when a worker comes at last it finds nothing to do."""
        job_id = await unserved.start()
        assert (await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)).status == "canceled"
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await eventually(lambda: _closed(unserved, job_id))
        assert await unserved.events(job_id) == ["job.queued", "job.canceled"]

    async def test_a_running_job_cleans_up_and_ends(self, life: Life) -> None:
        job_id = await life.start_running()
        document = await life.service.act(life.tenant_id, job_id, JobAction.CANCEL)
        assert document.status in {"running", "canceled"}
        row = await life.until(job_id, "canceled")
        assert row.error is None
        assert await life.events(job_id) == ["job.queued", "job.running", "job.cancel_requested", "job.canceled"]

    async def test_an_end_at_the_same_moment_is_on_record_all_the_same(self, unserved: Life) -> None:
        """The workflow hears of its success and of its cancellation at once."""
        job_id = await unserved.start()
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(job_id, "running")
        await unserved.go(job_id)
        await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await eventually(lambda: _closed(unserved, job_id))
        assert (await unserved.row(job_id)).status in {"succeeded", "canceled"}

    async def test_asking_twice_asks_once(self, unserved: Life) -> None:
        job_id = await unserved.start()
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(job_id, "running")
        first = await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)
        second = await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)
        assert first.version == second.version
        assert len(await unserved.commands(job_id)) == 1

    async def test_a_finished_job_is_beyond_it(self, life: Life) -> None:
        job_id = await life.start("diagnostics.noop")
        await life.until(job_id, "succeeded")
        with pytest.raises(StateError):
            await life.service.act(life.tenant_id, job_id, JobAction.CANCEL)
        assert (await life.row(job_id)).status == "succeeded"

    async def test_another_tenants_job_does_not_exist(self, life: Life, database: Database) -> None:
        job_id = await life.start_running()
        other = await new_tenant(database)
        for action in JobAction:
            with pytest.raises(NotFound):
                await life.service.act(other, job_id, action)
        assert (await life.row(job_id)).version == 2


async def _closed(life: Life, job_id: UUID) -> bool:
    description = await life.handle(job_id).describe()
    return description.close_time is not None


class TestPause:
    async def test_holds_before_the_next_step_and_goes_on(self, life: Life) -> None:
        job_id = await life.start_running()
        document = await life.service.act(life.tenant_id, job_id, JobAction.PAUSE)
        assert document.waiting_on["kind"] == "paused"
        assert await life.handle(job_id).query("gate") == [1, document.version]
        await life.go(job_id)
        resumed = await life.service.act(life.tenant_id, job_id, JobAction.RESUME)
        assert resumed.waiting_on is None
        await life.until(job_id, "succeeded")

    async def test_before_the_start_holds_as_well(self, unserved: Life) -> None:
        """The workflow reads the wish when it begins, however the job was started."""
        job_id = await unserved.start(service=unserved.without_fast_path())
        await unserved.without_fast_path().act(unserved.tenant_id, job_id, JobAction.PAUSE)
        unserved.pass_time(job_id)
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.dispatcher().dispatch_once()
            row = await unserved.until(job_id, "running")
            assert row.waiting_on["kind"] == "paused"
            assert (await unserved.handle(job_id).query("gate"))[0] == 1

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_the_latest_wish_holds_however_signals_arrive(self, life: Life, order: tuple[int, int]) -> None:
        """Pause and resume are both still to be delivered, and come late, in either order, even twice."""
        job_id = await life.start_running()
        silent = life.without_fast_path()
        await silent.act(life.tenant_id, job_id, JobAction.PAUSE)
        resumed = await silent.act(life.tenant_id, job_id, JobAction.RESUME)
        late = await life.commands(job_id)
        for index in (*order, *order):
            await life.handle(job_id).signal(late[index].args["signal"], args=late[index].args["args"])
        assert await life.handle(job_id).query("gate") == [0, resumed.version]
        await life.go(job_id)
        await life.until(job_id, "succeeded")

    async def test_pausing_twice_says_it_once(self, life: Life) -> None:
        job_id = await life.start_running()
        first = await life.service.act(life.tenant_id, job_id, JobAction.PAUSE)
        second = await life.service.act(life.tenant_id, job_id, JobAction.PAUSE)
        assert first.version == second.version

    async def test_only_a_paused_job_can_be_resumed(self, life: Life) -> None:
        job_id = await life.start_running()
        with pytest.raises(StateError, match="not paused"):
            await life.service.act(life.tenant_id, job_id, JobAction.RESUME)


class TestDecide:
    async def test_is_refused_where_nothing_waits_for_it(self, life: Life) -> None:
        job_id = await life.start_running()
        for action in (JobAction.APPROVE, JobAction.REJECT):
            with pytest.raises(StateError, match="nothing waits"):
                await life.service.act(life.tenant_id, job_id, action)

    async def test_tells_the_workflow_and_keeps_the_comment_to_us(self, life: Life) -> None:
        job_id = await life.start_running()
        async with life.database.tenant(life.tenant_id) as connection:
            wait = {"kind": "approval", "detail": "a person decides", "since": "2026-01-01T00:00:00Z"}
            await JobRepository(connection).record(job_id=job_id, event="job.waiting", values={"waiting_on": wait})
        document = await life.without_fast_path().act(
            life.tenant_id, job_id, JobAction.APPROVE, comment="fine by me, Ann"
        )
        assert document.waiting_on is None
        (command,) = await life.commands(job_id)
        assert command.args == {"signal": "decide", "args": [True, document.version]}


class TestRetry:
    async def _failed(self, life: Life) -> UUID:
        job_id = await life.start_running()
        await life.go(job_id, "fail")
        await life.until(job_id, "failed")
        return job_id

    async def test_runs_again_as_the_next_attempt(self, life: Life) -> None:
        job_id = await self._failed(life)
        document = await life.service.act(life.tenant_id, job_id, JobAction.RETRY)
        assert (document.status, document.attempt) == ("queued", 2)
        assert (document.error, document.error_code, document.finished_at) == (None, None, None)
        async with dispatching(life.dispatcher()):
            await life.until(job_id, "running", attempt=2)
        await life.go(job_id)
        row = await life.until(job_id, "succeeded")
        assert row.attempt == 2
        assert (await life.events(job_id))[-4:] == ["job.failed", "job.retried", "job.running", "job.succeeded"]

    async def test_waits_while_the_older_run_is_still_open(self, life: Life) -> None:
        """The row is final before its workflow has closed; the next run starts when it has."""
        job_id = await life.start_running()
        async with life.database.tenant(life.tenant_id) as connection:
            await JobRepository(connection).record(
                job_id=job_id, event="job.failed", values={"status": JobStatus.FAILED, "finished_at": soon(0)}
            )
        await life.service.act(life.tenant_id, job_id, JobAction.RETRY)
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        (command,) = await life.commands(job_id)
        assert command.last_error == "the previous attempt has not closed yet"
        assert (await life.row(job_id)).status == "queued"
        await life.go(job_id)  # the older run ends; its word counts no more
        await eventually(lambda: _closed(life, job_id))
        assert (await life.row(job_id)).status == "queued"
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        await life.until(job_id, "running", attempt=2)
        assert "job.succeeded" not in await life.events(job_id)

    async def test_a_cancellation_of_the_older_attempt_does_not_reach_the_newer(self, life: Life) -> None:
        """It may still be on the list of what Temporal is to be told, or be told a second time."""
        job_id = await life.start_running()
        await life.service.act(life.tenant_id, job_id, JobAction.CANCEL)
        await life.until(job_id, "canceled")
        await eventually(lambda: _closed(life, job_id))
        await life.service.act(life.tenant_id, job_id, JobAction.RETRY)
        await life.until(job_id, "running", attempt=2)
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        await life.go(job_id)
        await life.until(job_id, "succeeded", attempt=2)

    async def test_a_pause_of_the_older_attempt_does_not_reach_the_newer(self, life: Life) -> None:
        job_id = await life.start_running()
        await life.without_fast_path().act(life.tenant_id, job_id, JobAction.PAUSE)
        await life.handle(job_id).cancel()
        await life.until(job_id, "canceled")
        await eventually(lambda: _closed(life, job_id))
        document = await life.service.act(life.tenant_id, job_id, JobAction.RETRY)
        assert document.waiting_on is None
        await life.until(job_id, "running", attempt=2)
        life.pass_time(job_id)
        await life.dispatcher().dispatch_once()
        assert (await life.handle(job_id).query("gate"))[0] == 0

    async def test_only_failure_and_cancellation_can_be_retried(self, life: Life) -> None:
        running = await life.start_running()
        done = await life.start("diagnostics.noop")
        await life.until(done, "succeeded")
        for job_id in (running, done):
            with pytest.raises(StateError):
                await life.service.act(life.tenant_id, job_id, JobAction.RETRY)

    async def test_takes_its_place_in_the_line(self, life: Life) -> None:
        service = life.service_with(life.sender, max_running=1)
        failed = await self._failed(life)
        other = await life.start(service=service)
        document = await service.act(life.tenant_id, failed, JobAction.RETRY)
        assert document.waiting_on["kind"] == "capacity"
        assert document.admitted_at is None
        await life.until(other, "running")

    async def test_closed_between_two_looks_counts_as_still_open(self, life: Life) -> None:
        """Temporal said "already started", a moment later that run is over: the command must not be forgotten."""
        job_id = await life.start_running()
        await life.handle(job_id).terminate()
        newer = JobRef(job_id=job_id, tenant_id=life.tenant_id, kind="test.hold", attempt=2)
        with pytest.raises(OlderRunOpen):
            await life.sender._expect_same_attempt(newer)
