"""Records through real processes that are killed: what was acknowledged is there afterwards, once, by content.

After each test: acknowledged = saved + deduplicated + dead, to the record.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.support.saving import lines, message
from tests.support.stack import RunningStack, running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

LINES = {"content-type": "application/x-ndjson"}
HOME_SECONDS = 90.0
AWAY_SECONDS = 60


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """One stack for all tests of this module; each leaves it running."""
    async with running_stack(LONGHAUL_SAVING_FLUSH_SECONDS="0.1") as running:
        yield running


def superuser(stack: RunningStack) -> psycopg.Connection[tuple[Any, ...]]:
    """A session whose own commits are never held, see ``commits_held``."""
    url = stack.postgres.superuser_url.replace("+psycopg", "")
    return psycopg.connect(url, autocommit=True, options="-c synchronous_commit=local")


@contextlib.contextmanager
def locked(stack: RunningStack, table: str) -> Iterator[None]:
    """Whoever wants to write to the table waits inside the block, in the middle of its transaction."""
    with superuser(stack) as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@contextlib.contextmanager
def full_disk(stack: RunningStack, table: str) -> Iterator[None]:
    """The database refuses each row with 53100, as it does when its disk is full, and counts how often it did."""
    with superuser(stack) as connection:
        connection.execute("CREATE SEQUENCE no_space_refusals")  # a sequence keeps what a rolled back statement counted
        connection.execute(
            "CREATE FUNCTION no_space() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$"
            " BEGIN PERFORM nextval('no_space_refusals');"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        connection.execute(f"CREATE TRIGGER no_space BEFORE INSERT ON {table} EXECUTE FUNCTION no_space()".encode())
        try:
            yield
        finally:
            connection.execute(f"DROP TRIGGER no_space ON {table}".encode())
            connection.execute("DROP FUNCTION no_space")
            connection.execute("DROP SEQUENCE no_space_refusals")


async def until_refused(stack: RunningStack, times: int) -> None:
    """Wait until ``full_disk`` has refused so often."""

    async def look() -> bool:
        with superuser(stack) as connection:
            return connection.execute("SELECT last_value >= %s FROM no_space_refusals", [times]).fetchall() == [(True,)]

    await stack.eventually(look)


@contextlib.contextmanager
def commits_held(stack: RunningStack) -> Iterator[None]:
    """Commits are durable, and whoever made them is not told: they wait for a standby that there is not."""
    with superuser(stack) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")


async def until_locked_out(stack: RunningStack, table: str, *, by: str, doing: str) -> int:
    """Wait until a session of a process of ours waits for a table in the middle of a statement; its process id."""

    async def look() -> int | None:
        with superuser(stack) as connection:
            query = (
                "SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid)"
                " WHERE application_name = %s AND NOT granted AND relation = %s::regclass"
                " AND ltrim(query, E' \\n') LIKE %s"
            )
            found = connection.execute(query, [by, table, f"{doing}%"]).fetchall()
            return found[0][0] if found else None

    pid: int = await stack.eventually(look)
    return pid


async def until_commit_held(stack: RunningStack, *, by: str, pid: int | None = None) -> None:
    """Wait until a session of a process of ours, or just that one, has committed and is not told."""

    async def look() -> bool:
        with superuser(stack) as connection:
            query = (
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'SyncRep'"
                " AND coalesce(pid = %s, true)"
            )
            return connection.execute(query, [by, pid]).fetchall() == [(True,)]

    await stack.eventually(look)


def letters_of(stack: RunningStack, code: str) -> list[dict[str, Any]]:
    """The dead letters with a code as the records that they were, by batch and place."""
    with superuser(stack) as connection:
        query = "SELECT payload FROM record_dead_letters WHERE code = %s ORDER BY batch_id, position"
        return [json.loads(payload) for (payload,) in connection.execute(query, [code]).fetchall()]


@dataclass
class Sender:
    """A front end that sends records, remembers which were acknowledged, and tries again what was not."""

    stack: RunningStack
    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0

    def make(self, count: int) -> list[dict[str, Any]]:
        records = [message(content=f"content {uuid4()}", dialog_id=str(number % 7)) for number in range(count)]
        self.sent |= {record["id"]: record["content"] for record in records}
        return records

    async def post(self, records: list[dict[str, Any]], *, query: str = "", **headers: str) -> httpx.Response | None:
        """Post once; None where no answer came."""
        try:
            answer = await self.stack.http.post(
                f"/records/messages{query}", content=lines(records), headers={**LINES, **headers}
            )
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.ACCEPTED:
            self.acknowledged |= {record["id"] for record in records}
        else:
            self.refused += 1
            assert answer.status_code in {429, 503}, answer.text
        return answer

    async def be_killed_writing(self, records: list[dict[str, Any]], *, key: str, doing: str) -> None:
        """Post while the inbox is locked, kill the API in the middle of that statement, and start it again."""
        with locked(self.stack, "record_inbox"):
            posting = asyncio.create_task(self.post(records, **{"idempotency-key": key}))
            await until_locked_out(self.stack, "record_inbox", by="longhaul-api", doing=doing)
            self.stack.api.kill(signal.SIGKILL)
            assert await posting is None
        await asyncio.to_thread(self.stack.api.start)
        await self.stack.until_ready()

    async def keep_on(self, stop: asyncio.Event, *, size: int = 1) -> None:
        """Post one after the other until told to stop."""
        while not stop.is_set():
            answer = await self.post(self.make(size))
            if answer is None or answer.status_code != httpx.codes.ACCEPTED:
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def under_load(self, *, clients: int = 10, size: int = 1) -> AsyncIterator[None]:
        """Some clients post all the time inside the block."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self.keep_on(stop, size=size)) for _ in range(clients)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def until_acknowledged(self, count: int) -> None:
        async def look() -> bool:
            return len(self.acknowledged) >= count

        await self.stack.eventually(look)

    async def expect_home(self) -> None:
        """Everything acknowledged is saved as it was sent, and every batch adds up; nothing is left over."""

        async def is_home() -> bool:
            with superuser(self.stack) as connection:
                query = "SELECT (SELECT count(*) FROM record_inbox) + (SELECT count(*) FROM record_claims)"
                [found] = connection.execute(query).fetchall()
                return bool(found[0] == 0)

        await self.stack.eventually(is_home, timeout=HOME_SECONDS)
        with superuser(self.stack) as connection:
            saved = dict(connection.execute("SELECT id::text, content FROM messages").fetchall())
            wrong = connection.execute(
                "SELECT * FROM record_batches WHERE received <> saved + deduplicated + dead"
            ).fetchall()
            counted = connection.execute("SELECT sum(saved)::int FROM record_batches").fetchall()
            dead = connection.execute("SELECT count(*) FROM record_dead_letters").fetchall()
            died = connection.execute("SELECT sum(dead)::int FROM record_batches").fetchall()
        assert wrong == []
        assert counted[0][0] == len(saved)
        assert dead == died
        lost = self.acknowledged - saved.keys()
        assert not lost, f"{len(lost)} acknowledged records are lost"
        assert {key: saved[key] for key in self.acknowledged} == {key: self.sent[key] for key in self.acknowledged}


@pytest.fixture
async def sender(stack: RunningStack) -> Sender:
    """A front end with nothing sent."""
    await stack.until_ready()
    return Sender(stack)


class TestApi:
    async def test_killed_before_the_commit(self, sender: Sender) -> None:
        """In the middle of writing: nothing is there, nothing was promised, and the retry takes hold once."""
        records = sender.make(4_000)  # so many that they are copied
        await sender.be_killed_writing(records, key="before", doing="COPY")
        answer = await sender.post(records, **{"idempotency-key": "before"})
        assert answer is not None
        assert "idempotent-replayed" not in answer.headers
        await sender.expect_home()

    async def test_killed_while_a_few_records_are_written(self, sender: Sender) -> None:
        """They are one statement, which PostgreSQL may end without us; either way the retry adds nothing."""
        records = sender.make(20)
        await sender.be_killed_writing(records, key="few", doing="WITH wanted")
        assert await sender.post(records, **{"idempotency-key": "few"}) is not None
        await sender.expect_home()

    async def test_killed_under_load(self, stack: RunningStack, sender: Sender) -> None:
        """Wherever it was, between commits and answers too: whatever was acknowledged is there."""
        for _ in range(3):
            async with sender.under_load(size=3):
                await sender.until_acknowledged(len(sender.acknowledged) + 150)
                stack.api.kill(signal.SIGKILL)
                await asyncio.to_thread(stack.api.start)
                await stack.until_ready()
        await sender.expect_home()

    async def test_killed_after_the_commit_and_before_the_answer(self, stack: RunningStack, sender: Sender) -> None:
        """The client cannot know; its retry with the same key gets the answer that was on its way."""
        records = sender.make(5)
        with commits_held(stack):
            posting = asyncio.create_task(sender.post(records, **{"idempotency-key": "after"}))
            await until_commit_held(stack, by="longhaul-api")
            stack.api.kill(signal.SIGKILL)
            assert await posting is None
        await asyncio.to_thread(stack.api.start)
        await stack.until_ready()
        answer = await sender.post(records, **{"idempotency-key": "after"})
        assert answer is not None
        assert answer.headers["idempotent-replayed"] == "true"
        await sender.expect_home()

    async def test_terminated_under_load(self, stack: RunningStack, sender: Sender) -> None:
        """SIGTERM leaves nothing behind in memory that was acknowledged."""
        async with sender.under_load(size=2):
            await sender.until_acknowledged(150)
            await asyncio.to_thread(stack.api.stop)
        await asyncio.to_thread(stack.api.start)
        await stack.until_ready()
        await sender.expect_home()

    async def test_five_times_at_once_with_one_key(self, stack: RunningStack, sender: Sender) -> None:
        records = sender.make(5_000)
        answers = await asyncio.gather(*(sender.post(records, **{"idempotency-key": "five"}) for _ in range(5)))
        assert len({answer.json()["batch_id"] for answer in answers if answer is not None}) == 1
        await sender.expect_home()
        answer = answers[0]
        assert answer is not None
        batch = (await stack.http.get(answer.json()["batch_url"])).json()
        assert (batch["received"], batch["saved"]) == (5_000, 5_000)

    async def test_a_hundred_percent_poison(self, stack: RunningStack, sender: Sender) -> None:
        """Refused at the door, one and all: each is a dead letter with what it held."""
        bad = [{**record, "tokens": -1} for record in sender.make(3_000)]
        answer = await sender.post(bad, query="?on_error=continue")
        assert answer is not None
        sender.acknowledged.clear()
        await sender.expect_home()
        batch = (await stack.http.get(answer.json()["batch_url"])).json()
        assert (batch["received"], batch["dead"]) == (3_000, 3_000)
        assert letters_of(stack, "E.RECORD.INVALID") == bad

    async def test_poison_that_only_the_database_knows(self, stack: RunningStack, sender: Sender) -> None:
        """PostgreSQL itself refuses some of a large batch: just those are dead, with what they held."""
        records = sender.make(3_000)
        bad = records[5::97]
        for record in bad:
            record["status"] = "bad"
        with superuser(stack) as connection:
            connection.execute("ALTER TABLE messages ADD CONSTRAINT no_bad CHECK (status <> 'bad') NOT VALID")
            try:
                await sender.post(records)
                sender.acknowledged -= {record["id"] for record in bad}
                await sender.expect_home()
            finally:
                connection.execute("ALTER TABLE messages DROP CONSTRAINT no_bad")
            found = connection.execute("SELECT count(*) FROM messages WHERE status = 'bad'").fetchall()
        assert found == [(0,)]
        assert letters_of(stack, "E.RECORD.REFUSED") == bad

    async def test_a_client_that_stops_in_the_middle(self, stack: RunningStack, sender: Sender) -> None:
        """Of a body that never ended nothing is kept."""
        body = lines(sender.make(2_000))
        port = int(stack.base_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /api/v1/records/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            f"authorization: {stack.http.headers['authorization']}\r\ncontent-type: application/x-ndjson\r\n\r\n"
        )
        writer.write(head.encode() + body[:-100])
        await writer.drain()
        writer.transport.abort()
        await sender.post(sender.make(1))
        await sender.expect_home()
        with superuser(stack) as connection:
            found = connection.execute("SELECT count(*) FROM messages WHERE id::text = ANY(%s)", [list(sender.sent)])
            assert found.fetchall() == [(1,)]


class TestWorker:
    async def test_killed_before_the_commit(self, stack: RunningStack, sender: Sender) -> None:
        """In the middle of a merge: it is done again, and counted once."""
        with locked(stack, "messages"):
            await sender.post(sender.make(2_000))
            await until_locked_out(stack, "messages", by="longhaul-worker", doing="WITH line")
            stack.worker.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.worker.start)
        await sender.expect_home()

    async def test_killed_after_the_commit(self, stack: RunningStack, sender: Sender) -> None:
        """Its merge is durable and nobody has heard of it: nothing is counted or saved a second time."""
        records = sender.make(2_000)
        with contextlib.ExitStack() as held:
            with locked(stack, "messages"):
                await sender.post(records)
                merging = await until_locked_out(stack, "messages", by="longhaul-worker", doing="WITH line")
                held.enter_context(commits_held(stack))
            await until_commit_held(stack, by="longhaul-worker", pid=merging)
            stack.worker.kill(signal.SIGKILL)

        async def is_saved() -> bool:
            with superuser(stack) as connection:
                query = "SELECT count(*) FROM messages WHERE id::text = ANY(%s)"
                found = connection.execute(query, [[record["id"] for record in records]]).fetchall()
                return found == [(len(records),)]

        await stack.eventually(is_saved)  # with no worker there: it was this commit
        await asyncio.to_thread(stack.worker.start)
        await sender.expect_home()

    async def test_killed_between_commits(self, stack: RunningStack, sender: Sender) -> None:
        """In the middle of one look into the inbox, of which some transactions are done."""
        answer = await sender.post(sender.make(40_000))
        assert answer is not None

        async def begun() -> bool:
            batch = (await stack.http.get(answer.json()["batch_url"])).json()
            assert batch["received"] == sum(batch[name] for name in ("saved", "deduplicated", "dead", "pending"))
            return bool(batch["saved"])

        await stack.eventually(begun)
        stack.worker.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.worker.start)
        await sender.expect_home()


class TestWhatWeLeanOn:
    async def test_the_database_stops_at_once_in_the_middle(self, stack: RunningStack, sender: Sender) -> None:
        """``pg_ctl stop -m immediate`` under load and in the middle of a merge: 503 and then everything is there."""
        await sender.post(sender.make(20_000))
        async with sender.under_load(size=2):
            await sender.until_acknowledged(20_100)
            stack.postgres.kill(signal.SIGQUIT)
            refused = sender.refused

            async def is_refused() -> bool:
                return sender.refused > refused

            await stack.eventually(is_refused)
            await asyncio.to_thread(stack.postgres.start)
            await stack.until_ready()
            await sender.until_acknowledged(len(sender.acknowledged) + 100)
        await sender.expect_home()

    async def test_temporal_is_away(self, stack: RunningStack, sender: Sender) -> None:
        """For a minute: acknowledgements go on to its end as if nothing were; what waits goes home afterwards."""
        stack.temporal.kill(signal.SIGKILL)
        async with sender.under_load(clients=2, size=2):
            for _ in range(AWAY_SECONDS):
                before = len(sender.acknowledged)
                await asyncio.sleep(1)
                assert len(sender.acknowledged) > before
        assert sender.refused == 0
        await asyncio.to_thread(stack.temporal.start)
        await sender.expect_home()

    @pytest.mark.parametrize("table", ["record_inbox", "messages"])
    async def test_the_disk_is_full(self, stack: RunningStack, sender: Sender, table: str) -> None:
        """On the way in: 503, nothing promised. On the way home: it waits and is tried again, nothing dies."""
        with full_disk(stack, table):
            answer = await sender.post(sender.make(200))
            assert answer is not None
            if table == "record_inbox":
                assert answer.json()["code"] == "E.DB.UNAVAILABLE"
            else:
                batch_url = answer.json()["batch_url"]
                await until_refused(stack, 3)
                assert (await stack.http.get(batch_url)).json()["pending"] == 200
        await sender.post(sender.make(200))
        await sender.expect_home()
        with superuser(stack) as connection:
            query = "SELECT count(*) FROM record_dead_letters WHERE code = 'E.RECORD.CRASHED'"
            assert connection.execute(query).fetchall() == [(0,)]


class TestImport:
    async def test_killed_in_the_middle_of_a_file(self, stack: RunningStack, sender: Sender) -> None:
        """The worker dies while it reads: it goes on at the byte, and each record is received once."""
        body = lines(sender.make(60_000))
        uploaded = await stack.http.post(
            "/artifacts",
            content=body,
            headers={**LINES, "content-disposition": "attachment; filename=mailbox.ndjson"},
        )
        job = await stack.post("saving.import", {"collection": "messages", "artifact_id": uploaded.json()["id"]})
        await stack.until(job["id"], lambda now: now["progress"] > 0)
        stack.worker.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.worker.start)
        done = await stack.until_done(job["id"], timeout=120)
        assert done["status"] == "succeeded", done
        result = (await stack.http.get(f"/jobs/{job['id']}/result")).json()
        assert (result["received"], result["saved"], result["pending"]) == (60_000, 60_000, 0)
        sender.acknowledged = set(sender.sent)
        await sender.expect_home()
