"""What keeps streams going and what forgets; and writing that fails for one and not for the others."""

import asyncio
import contextlib
import errno
import gc
import io
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, select
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.saving.flush import Flusher
from activities.saving.importer import Importer, ImportLimits
from activities.saving.steps import SavingActivities
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.notify import Listener
from core.store import ArtifactStore
from core.temporal import workflow_sandbox
from domain.errors import DatabaseUnavailable, IdempotencyMismatch, InboxFull, RecordsRejected, StoreUnavailable
from domain.saving import FlushStreamResult, OnError, StreamInput
from domain.saving_pieces import PIECE_BYTES
from repositories.saving import intake as intake_sql
from repositories.saving.intake import CHANNEL, NewBatch
from repositories.saving.retention import get_tenants
from repositories.tables import record_batches, record_dead_letters
from services.saving.backlog import Backlog, InboxLimits
from services.saving.intake import RecordIntake
from services.saving.retention import Retention
from services.saving.streams import StreamKeeper
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import new_metrics, new_tenant, superuser
from tests.support.saving import (
    PLENTY,
    RULES,
    bring_home,
    counters,
    lines,
    message,
    saved_messages,
    take,
    taking,
)
from tests.support.waiting import eventually
from workflows.saving import TASK_QUEUE, RecordStreamWorkflow


def activities_of(database: Database, store: ArtifactStore) -> SavingActivities:
    keeper = StepKeeper(database)
    limits = ImportLimits(
        max_record_bytes=262_144,
        shards=1,
        inbox_max_records=10_000_000,
        inbox_max_bytes=1 << 40,
        inbox_max_age_seconds=1e9,
    )
    return SavingActivities(
        Flusher(database, most_records=5_000), Importer(database, store, keeper, limits), keeper, new_metrics()
    )


@asynccontextmanager
async def keeping(
    database: Database, client: Client, store: ArtifactStore, url: str, **settings: Any
) -> AsyncIterator[StreamKeeper]:
    """A worker process's share in saving: the keeper, woken by the database, and a worker on the queue."""
    options = {"flush_records": 5_000, "flush_seconds": 0.1, **settings}
    keeper = StreamKeeper(database, client, new_metrics(), **options)
    listener = Listener(url, on_notify={CHANNEL: keeper.on_notify}, on_gap=keeper.on_gap)
    doing = activities_of(database, store)
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[RecordStreamWorkflow],
        activities=[doing.flush_stream],
        workflow_runner=workflow_sandbox(),
    ):
        tasks = [asyncio.create_task(listener.run()), asyncio.create_task(keeper.run())]
        await listener.connected.wait()
        try:
            yield keeper
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class TestStreams:
    async def test_records_find_their_way_home(
        self, postgres: EmbeddedPostgres, database: Database, temporal: Client, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """Acknowledged while no worker was there, and while one was; nobody but the database tells the worker."""
        async with taking(database) as intake:
            first = await take(intake, tenant_id, lines([message() for _ in range(50)]))
            async with keeping(database, temporal, store, postgres.runtime_url):
                second = await take(intake, tenant_id, lines([message() for _ in range(50)]))

                async def home() -> bool:
                    found = [await counters(database, tenant_id, batch.batch_id) for batch in (first, second)]
                    return all(batch == (50, 50, 0, 0, 0) for batch in found)

                await eventually(home)
                description = await temporal.get_workflow_handle("saving.stream/messages-0").describe()
                assert description.status is WorkflowExecutionStatus.RUNNING

    async def test_by_size_and_not_by_time(
        self, postgres: EmbeddedPostgres, database: Database, temporal: Client, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """A stream that collects for a minute flushes at once when enough has come."""
        async with taking(database) as intake:
            handle = temporal.get_workflow_handle("saving.stream/messages-0")
            with contextlib.suppress(RPCError):  # none runs where this test is the first
                await handle.terminate()
            async with keeping(database, temporal, store, postgres.runtime_url, flush_records=100, flush_seconds=60.0):
                few = await take(intake, tenant_id, lines([message() for _ in range(10)]))
                await asyncio.sleep(1.5)  # time in which nothing may happen
                assert await counters(database, tenant_id, few.batch_id) == (10, 0, 0, 0, 10)
                await take(intake, tenant_id, lines([message() for _ in range(100)]))
                await eventually(
                    lambda: counters(database, tenant_id, few.batch_id),
                    lambda found: found == (10, 10, 0, 0, 0),
                    # Temporal may still give the flush to the worker of the test before, whose silence it notices
                    # after ten seconds; by time nothing would happen for a minute.
                    within=40.0,
                )
                await handle.terminate()

    async def test_two_million_rows_grow_no_history(self, temporal: Client) -> None:
        """The history of a stream stays below a tenth of the limit, however much comes: it continues as new."""
        looks = 0

        @activity.defn(name="flush_stream")
        async def flush_stream(_stream: StreamInput) -> FlushStreamResult:
            nonlocal looks
            looks += 1
            return FlushStreamResult(records=5_000 if looks <= 200 else 0, drained=looks > 200)

        queue = f"stream-{new_id()}"
        stream = StreamInput(collection="messages", shard=7, flush_seconds=0.01, idle_seconds=0.2)
        async with Worker(
            temporal,
            task_queue=queue,
            workflows=[RecordStreamWorkflow],
            activities=[flush_stream],
            workflow_runner=workflow_sandbox(),
        ):
            handle = await temporal.start_workflow(
                RecordStreamWorkflow.run, stream, id=f"stream-{new_id()}", task_queue=queue
            )
            await handle.result()
        assert looks >= 201
        runs = [run async for run in temporal.list_workflows(f"WorkflowId = '{handle.id}'")]
        histories = [await temporal.get_workflow_handle(run.id, run_id=run.run_id).fetch_history() for run in runs]
        assert len(histories) >= 2
        assert max(len(history.events) for history in histories) < 1_500

    async def test_a_stream_that_is_announced_while_another_is_woken(self, database: Database) -> None:
        """The first records of a stream come in while Temporal is being told of another: both are woken."""
        woken: list[str] = []

        class Announcing:
            """A Temporal that takes so long that the database has news."""

            async def start_workflow(self, _name: str, stream: StreamInput, **_: Any) -> None:
                if "messages-77" in stream.workflow_id:
                    keeper.on_notify("users/77/1")
                woken.append(stream.workflow_id)

        keeper = StreamKeeper(
            database, cast("Client", Announcing()), new_metrics(), flush_records=5_000, flush_seconds=0.0
        )
        keeper.on_notify("messages/77/1")
        running = asyncio.create_task(keeper.run())

        async def is_told() -> bool:
            return running.done() or "saving.stream/users-77" in woken

        await eventually(is_told)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "saving.stream/messages-77" in woken
        assert "saving.stream/users-77" in woken


class TestBacklog:
    async def test_sees_what_waits(self, database: Database, tenant_id: UUID) -> None:
        async with taking(database) as intake:
            await take(intake, tenant_id, lines([message() for _ in range(7)]))
            backlog = Backlog(database, InboxLimits(records=7, bytes=1 << 40, age_seconds=1e9))
            await backlog.refresh()
            assert backlog.records >= 7
            assert backlog.bytes > 0
            with pytest.raises(InboxFull):
                backlog.expect_room()
        await bring_home(database, tenant_id)


class FullDisk(io.RawIOBase):
    """A file for which there is no room."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        return 0

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "made up")


class TestHolding:
    @pytest.mark.parametrize(
        "buffer_bytes", [None, 8_192, 1 << 24], ids=["making the file", "writing", "writing out what was buffered"]
    )
    async def test_a_full_disk_leaves_no_mark(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int | None
    ) -> None:
        """Wherever it shows that there is no room for a large body: 503, and nothing of it counts as held."""
        sent = [message(content="x" * 1_000) for _ in range(1_500)]

        def make_file(**_: object) -> io.BufferedRandom:
            if buffer_bytes is None:
                raise OSError(errno.ENOSPC, "made up")
            return io.BufferedRandom(FullDisk(), buffer_bytes)

        async with taking(database) as intake:
            with monkeypatch.context() as patched:
                patched.setattr("services.saving.spool.tempfile.TemporaryFile", make_file)
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await take(intake, tenant_id, lines(sent))
                    assert intake._held_bytes == 0
            assert (await take(intake, tenant_id, lines(sent))).received == len(sent)
            assert intake._held_bytes == 0
        assert await bring_home(database, tenant_id) == len(sent)

    async def test_what_is_too_much_for_all_together_goes_to_files(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bodies that were let in while there was room, and are small enough for memory each."""
        most = 600_000
        monkeypatch.setattr("services.saving.intake._MOST_HELD_BYTES", most)
        body = lines([message(content="x" * 800) for _ in range(380)])
        inside, go_on = 0, asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal inside
            inside += 1
            await go_on.wait()
            yield body

        intake = RecordIntake(database, Backlog(database, PLENTY), RULES)  # what is in memory waits, as nobody writes
        tasks = [
            asyncio.create_task(
                intake.take(tenant_id, "messages", chunks(), is_document=False, on_error=OnError.REJECT, key=None)
            )
            for _ in range(8)
        ]
        while inside < len(tasks):
            await asyncio.sleep(0)
        go_on.set()

        async def written() -> int:
            return sum(task.done() for task in tasks)

        await eventually(written, lambda found: found == 7, within=20.0)
        assert len(intake._pending) == 1
        assert 0 < intake._held_bytes <= most
        writing = asyncio.create_task(intake.run())
        assert [taken.received for taken in await asyncio.gather(*tasks)] == [380] * 8
        assert intake._held_bytes == 0
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert await bring_home(database, tenant_id) == 380 * 8
        assert len(await saved_messages(database, tenant_id)) == 380

    async def test_a_document_counts_from_its_first_byte(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is held whole. Where others hold too much it is refused, and one that is alone is taken however large."""
        monkeypatch.setattr("services.saving.intake._MOST_HELD_BYTES", 150_000)
        body = json.dumps([message(content="x" * 800) for _ in range(380)]).encode()
        go_on = [asyncio.Event(), asyncio.Event()]

        async def chunks(number: int) -> AsyncIterator[bytes]:
            yield body[: 200_000 * number]
            await go_on[number].wait()
            yield body[200_000 * number :]

        async def held() -> int:
            return intake._held_bytes

        async with taking(database) as intake:
            late, early = (
                asyncio.create_task(
                    intake.take(
                        tenant_id, "messages", chunks(number), is_document=True, on_error=OnError.REJECT, key=None
                    )
                )
                for number in range(2)
            )
            await eventually(held, within=20.0)
            go_on[0].set()
            with pytest.raises(InboxFull):
                await late
            assert intake._held_bytes == 200_000
            go_on[1].set()
            assert (await early).received == 380
            assert intake._held_bytes == 0
        await bring_home(database, tenant_id)

    async def test_what_is_refused_is_not_held(self, database: Database, tenant_id: UUID) -> None:
        """A large body that is refused leaves no mark on those who come while the rest of it is read, or later."""
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(80):
                yield lines([message(content="y" * 100_000) for _ in range(10)]) + b"\n"
            for _ in range(4):
                yield b"x" * 262_143 + b"\n"
            arrived.set()
            await go_on.wait()

        async with taking(database) as intake:
            task = asyncio.create_task(
                intake.take(tenant_id, "messages", chunks(), is_document=False, on_error=OnError.REJECT, key=None)
            )
            await arrived.wait()
            assert (await take(intake, tenant_id, lines([message()]))).received == 1
            go_on.set()
            with pytest.raises(RecordsRejected):
                await task
            assert (await take(intake, tenant_id, lines([message()]))).received == 1
        await bring_home(database, tenant_id)


class TestTurns:
    async def test_bad_records_keep_nobody_waiting(self, database: Database, tenant_id: UUID) -> None:
        """While a hundred thousand bad records are judged, the event loop serves others."""
        longest, started = 0.0, asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                started.set()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x\n" * 100_000

        gc.collect()
        gc.disable()  # what thousands of other tests have left in this process takes its time, and is not ours
        try:
            async with taking(database) as intake:
                watching = asyncio.create_task(watch())
                await started.wait()
                taken = await intake.take(
                    tenant_id, "messages", chunks(), is_document=False, on_error=OnError.CONTINUE, key=None
                )
                watching.cancel()
        finally:
            gc.enable()
        assert taken.rejected == 100_000
        assert longest < 0.4  # seconds of the processor; all of it together takes longer
        await bring_home(database, tenant_id, most=50_000)

    async def test_who_wants_all_or_nothing_is_not_read_to_the_end(self, database: Database, tenant_id: UUID) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x\n" * PIECE_BYTES

        async with taking(database) as intake:
            with pytest.raises(RecordsRejected, match="1000 of the first 1000 records") as caught:
                await intake.take(tenant_id, "messages", chunks(), is_document=False, on_error=OnError.REJECT, key=None)
        assert len(caught.value.faults) == 1_000


class TestWriting:
    @pytest.mark.parametrize("few", [True, False])
    async def test_one_that_cannot_be_written_harms_no_other(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch, *, few: bool
    ) -> None:
        """Requests that came together are written apart where the database refuses one of them."""
        name = "write_few" if few else "write_batches"
        write = getattr(intake_sql, name)

        async def refusing(where: Any, batches: Sequence[NewBatch], **more: Any) -> Any:
            if any(batch.received == 2 for batch in batches):
                raise psycopg.errors.DataError("made up")
            return await write(where, batches, **more)

        monkeypatch.setattr(f"services.saving.intake.{name}", refusing)
        if not few:
            monkeypatch.setattr("services.saving.intake._FEW_BYTES", -1)
        async with taking(database) as intake:
            sizes = (1, 2, 3)
            taken = await asyncio.gather(
                *(take(intake, tenant_id, lines([message() for _ in range(size)])) for size in sizes),
                return_exceptions=True,
            )
        assert isinstance(taken[1], psycopg.errors.DataError)
        assert [one.received for one in (taken[0], taken[2]) if not isinstance(one, BaseException)] == [1, 3]
        assert await bring_home(database, tenant_id) == 4

    async def test_a_key_in_hand_holds_up_nobody_else(self, database: Database, tenant_id: UUID) -> None:
        """While a large body with the same idempotency key is written, other requests go on; that one waits."""
        other = await new_tenant(database)
        async with taking(database) as intake:
            async with database.driver() as driver:
                first = NewBatch(
                    id=new_id(), tenant_id=tenant_id, collection="messages", shard=0, key="K", request_hash=b"x",
                    received=0, rejected=0, refusals="[]", rows=[],
                )  # fmt: skip
                assert await intake_sql.lock_keys(driver, [first]) == set()
                await intake_sql.write_batches(driver, [first], bulk=True)
                same = asyncio.create_task(take(intake, tenant_id, lines([message()]), key="K"))
                while not intake._pending:
                    await asyncio.sleep(0)
                async with asyncio.timeout(5):
                    for key in (None, "K", "L"):
                        assert (await take(intake, other, lines([message()]), key=key)).received == 1
                assert not same.done()
            with pytest.raises(IdempotencyMismatch):
                await same
        await bring_home(database, other)


class TestRetention:
    async def test_what_is_old_goes(self, postgres: EmbeddedPostgres, database: Database) -> None:
        """Messages by when they were created; batches with their dead letters once nothing of them is pending."""
        tenant_id = await new_tenant(database)
        old, new = message(created_at="2020-01-01T00:00:00Z"), message(created_at="2100-01-01T00:00:00Z")
        async with taking(database) as intake:
            done = await take(intake, tenant_id, lines([old, new]) + b"\n{}", on_error=OnError.CONTINUE)
            await bring_home(database, tenant_id)
            waiting = await take(intake, tenant_id, lines([message()]))
        with superuser(postgres) as connection:
            connection.execute(
                "UPDATE record_batches SET created_at = now() - interval '40 days' WHERE tenant_id = %s", [tenant_id]
            )
        retention = Retention(database, message_days=30, batch_days=30)
        await retention.sweep()
        assert set(await saved_messages(database, tenant_id)) == {new["id"]}
        async with database.tenant(tenant_id) as connection:
            left = (await connection.execute(select(record_batches.c.id))).scalars().all()
            letters = (await connection.execute(select(func.count()).select_from(record_dead_letters))).scalar_one()
        assert left == [waiting.batch_id]
        assert done.batch_id not in left
        assert letters == 0
        await bring_home(database, tenant_id)

    async def test_messages_are_kept_unless_told_otherwise(self, database: Database, tenant_id: UUID) -> None:
        async with taking(database) as intake:
            await take(intake, tenant_id, lines([message(created_at="1990-01-01T00:00:00Z")]))
        await bring_home(database, tenant_id)
        await Retention(database, message_days=0, batch_days=30).sweep()
        assert len(await saved_messages(database, tenant_id)) == 1

    async def test_nothing_is_left_however_much_there_is(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sweep goes on, a few rows at a time, until everything that is old is gone."""
        monkeypatch.setattr("services.saving.retention._AT_ONCE", 2)
        async with taking(database) as intake:
            await take(intake, tenant_id, lines([message(created_at="1990-01-01T00:00:00Z") for _ in range(61)]))
        await bring_home(database, tenant_id)
        assert await Retention(database, message_days=30, batch_days=30).sweep() >= 61
        assert await saved_messages(database, tenant_id) == {}

    async def test_it_goes_on_by_itself(
        self, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every so often, also after a sweep that found no database."""
        monkeypatch.setattr("services.saving.retention._EVERY_SECONDS", 0.01)
        looks = 0

        async def away_at_first(connection: Any) -> Sequence[UUID]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise DatabaseUnavailable("away")
            return await get_tenants(connection)

        monkeypatch.setattr("services.saving.retention.get_tenants", away_at_first)
        async with taking(database) as intake:
            await take(intake, tenant_id, lines([message(created_at="1990-01-01T00:00:00Z")]))
        await bring_home(database, tenant_id)
        running = asyncio.create_task(Retention(database, message_days=30, batch_days=30).run())
        await eventually(lambda: saved_messages(database, tenant_id), lambda found: not found)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert looks >= 2
