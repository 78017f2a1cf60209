"""From the inbox to the tables on a real PostgreSQL: once, exactly counted, poison apart."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from uuid import UUID

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.saving.flush import Flusher
from activities.saving.importer import Importer, ImportLimits
from activities.saving.steps import SavingActivities
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.errors import DatabaseUnavailable, SavingHalted
from domain.saving import OnError
from repositories.saving.inbox import DEADLY_ATTEMPTS, SUSPICIOUS_ATTEMPTS, InboxRepository
from repositories.workers import WorkerRepository
from services.saving.intake import RecordIntake
from services.saving.letters import DeadLetterService
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import new_metrics, new_tenant, superuser
from tests.support.saving import (
    bring_home,
    counters,
    dead_letters,
    inbox_pieces,
    lines,
    message,
    saved_messages,
    saved_users,
    stream_of,
    take,
    taking,
)
from tests.support.waiting import eventually


@pytest.fixture
async def intake(database: Database) -> AsyncIterator[RecordIntake]:
    async with taking(database) as running:
        yield running


@contextmanager
def constraint(postgres: EmbeddedPostgres, name: str, check: str) -> Iterator[None]:
    """A constraint on messages that nobody at the door knows of."""
    with superuser(postgres) as connection:
        connection.execute(f"ALTER TABLE messages ADD CONSTRAINT {name} CHECK ({check}) NOT VALID")
        try:
            yield
        finally:
            connection.execute(f"ALTER TABLE messages DROP CONSTRAINT IF EXISTS {name}")


@contextmanager
def trigger(postgres: EmbeddedPostgres, body: str, when: str) -> Iterator[None]:
    """A trigger on messages that makes PostgreSQL itself refuse."""
    with superuser(postgres) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {body} RETURN NEW; END $$".encode()
        )
        connection.execute(f"CREATE TRIGGER refuse {when} EXECUTE FUNCTION refuse()".encode())
        try:
            yield
        finally:
            connection.execute("DROP TRIGGER refuse ON messages")


def full_disk(postgres: EmbeddedPostgres) -> AbstractContextManager[None]:
    """No message can be written for want of space."""
    return trigger(postgres, "RAISE EXCEPTION 'full' USING ERRCODE = '53100';", "BEFORE INSERT ON messages")


async def claims_and_attempts(postgres: EmbeddedPostgres, tenant_id: UUID) -> tuple[int, list[int]]:
    """How many claims there are, and what was counted against each row of the tenant."""
    with superuser(postgres) as connection:
        [(claims,)] = connection.execute("SELECT count(*) FROM record_claims").fetchall()
        query = "SELECT attempts FROM record_inbox WHERE tenant_id = %s ORDER BY id"
        return claims, [row[0] for row in connection.execute(query, [tenant_id]).fetchall()]


def activities_of(
    database: Database, store: ArtifactStore, metrics: WorkerMetrics, *, most_records: int = 100
) -> SavingActivities:
    """The activities of a worker process."""
    keeper = StepKeeper(database)
    limits = ImportLimits(
        max_record_bytes=262_144,
        shards=1,
        inbox_max_records=10_000_000,
        inbox_max_bytes=1 << 40,
        inbox_max_age_seconds=1e9,
    )
    importer = Importer(database, store, keeper, limits)
    return SavingActivities(Flusher(database, most_records=most_records), importer, keeper, metrics)


class TestMerge:
    async def test_messages_arrive_as_they_were_sent(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        sent = [
            message(),
            message(content="", model="m", tokens=7, status="done", processing_ms=12, metadata={"a": [1, None]}),
            message(dialog_id=17, user_id=42, metadata=None, created_at="2026-11-20T12:00:00.123456+02:00"),
        ]
        taken = await take(intake, tenant_id, lines(sent))
        assert await counters(database, tenant_id, taken.batch_id) == (3, 0, 0, 0, 3)
        assert await bring_home(database, tenant_id) == 3
        assert await counters(database, tenant_id, taken.batch_id) == (3, 3, 0, 0, 0)
        saved = await saved_messages(database, tenant_id)
        first, second, third = (saved[record["id"]] for record in sent)
        assert (first.content, first.model, first.metadata) == (sent[0]["content"], None, None)
        assert (second.content, second.model, second.tokens, second.status) == ("", "m", 7, "done")
        assert (second.processing_ms, second.metadata) == (12, {"a": [1, None]})
        assert (third.dialog_id, third.user_id, third.metadata) == ("17", "42", None)
        assert third.created_at.isoformat() == "2026-11-20T10:00:00.123456+00:00"

    async def test_the_first_message_with_an_id_stays(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        """Within a batch, within a flush and ever after; every other one is counted."""
        one = message(content="first")
        again = [one, {**one, "content": "second"}, message()]
        first = await take(intake, tenant_id, lines(again))
        second = await take(intake, tenant_id, lines([{**one, "content": "third"}]))
        await bring_home(database, tenant_id)
        third = await take(intake, tenant_id, lines([{**one, "content": "fourth"}, message()]))
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, first.batch_id) == (3, 2, 1, 0, 0)
        assert await counters(database, tenant_id, second.batch_id) == (1, 0, 1, 0, 0)
        assert await counters(database, tenant_id, third.batch_id) == (2, 1, 1, 0, 0)
        assert (await saved_messages(database, tenant_id))[one["id"]].content == "first"

    async def test_the_newest_user_stays(self, intake: RecordIntake, database: Database, tenant_id: UUID) -> None:
        """In whatever order versions come, in one flush or in several."""
        versions = [{"id": "a", "version": version, "attributes": {"v": version}} for version in (2, 5, 3)]
        taken = await take(intake, tenant_id, lines(versions), collection="users")
        await bring_home(database, tenant_id, "users")
        assert await counters(database, tenant_id, taken.batch_id, "users") == (3, 1, 2, 0, 0)
        late = await take(intake, tenant_id, lines([{"id": "a", "version": 4, "blocked": True}]), collection="users")
        newer = await take(intake, tenant_id, lines([{"id": "a", "version": 6, "premium": True}]), collection="users")
        await bring_home(database, tenant_id, "users", most=1)
        assert await counters(database, tenant_id, late.batch_id, "users") == (1, 0, 1, 0, 0)
        assert await counters(database, tenant_id, newer.batch_id, "users") == (1, 1, 0, 0, 0)
        user = (await saved_users(database, tenant_id))["a"]
        assert (user.version, user.premium, user.blocked, user.attributes) == (6, True, False, None)

    async def test_two_flushers_at_once_save_everything_once(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        sent = [message(dialog_id=f"d{number}") for number in range(400)]
        batches = [await take(intake, tenant_id, lines(sent[start : start + 10])) for start in range(0, 400, 10)]
        await asyncio.gather(*(bring_home(database, tenant_id, most=20) for _ in range(4)))
        await bring_home(database, tenant_id)
        for batch in batches:
            assert await counters(database, tenant_id, batch.batch_id) == (10, 10, 0, 0, 0)
        assert (await saved_messages(database, tenant_id)).keys() == {record["id"] for record in sent}

    async def test_what_one_has_in_hand_the_other_passes_by(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        await take(intake, tenant_id, lines([message()]))
        async with database.tenant(tenant_id) as connection:
            pieces = [row.id for row in await inbox_pieces(connection)]
        async with database.driver() as first, database.driver() as second:
            assert [piece.id for piece in await InboxRepository(first).lock(tenant_id, pieces)] == pieces
            assert await InboxRepository(second).lock(tenant_id, pieces) == []
        await bring_home(database, tenant_id)

    async def test_tenants_do_not_see_each_other(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        """The same ids twice: each tenant has its own, and none sees the other's inbox."""
        other = await new_tenant(database)
        sent = [message() for _ in range(3)]
        mine = await take(intake, tenant_id, lines(sent))
        theirs = await take(intake, other, lines(sent))
        async with database.tenant(tenant_id) as connection:
            assert {row.tenant_id for row in await inbox_pieces(connection)} == {tenant_id}
        assert await bring_home(database, tenant_id) == 3
        assert await counters(database, tenant_id, mine.batch_id) == (3, 3, 0, 0, 0)
        assert await counters(database, other, theirs.batch_id) == (3, 0, 0, 0, 3)
        await bring_home(database, other)
        assert await counters(database, other, theirs.batch_id) == (3, 3, 0, 0, 0)


class TestPoison:
    async def test_what_the_database_refuses_is_named_exactly(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """Good neighbours are saved; each bad one is a dead letter with its place, its bytes and the reason."""
        sent = [message(role="bad" if number % 37 == 0 else "user") for number in range(300)]
        bad = [number for number in range(300) if number % 37 == 0]
        with constraint(postgres, "no_bad", "role <> 'bad'"):
            taken = await take(intake, tenant_id, lines(sent))
            await bring_home(database, tenant_id)
            assert await counters(database, tenant_id, taken.batch_id) == (300, 300 - len(bad), 0, len(bad), 0)
            letters = await dead_letters(database, tenant_id)
            assert [letter.position for letter in letters] == bad
            assert {letter.code for letter in letters} == {"E.RECORD.REFUSED"}
            assert {letter.sqlstate for letter in letters} == {"23514"}
            assert {letter.message for letter in letters} == {"violates the constraint no_bad"}
            assert [json.loads(letter.payload) for letter in letters] == [sent[number] for number in bad]
            service = DeadLetterService(database, shards=1)
            await service.retry(tenant_id, "messages", letters[0].id)
            assert await counters(database, tenant_id, taken.batch_id) == (300, 300 - len(bad), 0, len(bad) - 1, 1)
            await bring_home(database, tenant_id)  # nothing was mended: dead again, at the same place
            assert [letter.position for letter in await dead_letters(database, tenant_id)] == bad
        for letter in await dead_letters(database, tenant_id):
            await service.retry(tenant_id, "messages", letter.id)
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (300, 300, 0, 0, 0)
        assert (await saved_messages(database, tenant_id)).keys() == {record["id"] for record in sent}

    async def test_nothing_but_poison(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        with constraint(postgres, "no_bad_at_all", "role <> 'bad'"):
            taken = await take(intake, tenant_id, lines([message(role="bad") for _ in range(100)]))
            await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (100, 0, 0, 100, 0)

    async def test_what_was_refused_at_the_door_is_dead_with_its_bytes(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        good = message()
        body = b"\n".join([b"\xff\x00 no json", lines([good]), b'{"id": "x"}', b"x" * 300_000])
        taken = await take(intake, tenant_id, body, on_error=OnError.CONTINUE)
        assert (taken.received, taken.rejected) == (4, 3)
        assert [one["index"] for one in taken.refusals] == [0, 2, 3]
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (4, 1, 0, 3, 0)
        letters = await dead_letters(database, tenant_id)
        assert [(letter.position, letter.code, letter.whole) for letter in letters] == [
            (0, "E.RECORD.MALFORMED", True), (2, "E.RECORD.INVALID", True), (3, "E.RECORD.TOO_LARGE", False),
        ]  # fmt: skip
        assert letters[0].payload == b"\xff\x00 no json"
        assert letters[2].payload == b"x" * 1_024

    async def test_a_broken_installation_halts_and_keeps_everything(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """A missing right is nobody's record's fault: nothing dies, and it goes on once it is mended."""
        taken = await take(intake, tenant_id, lines([message() for _ in range(5)]))
        flusher = Flusher(database, most_records=100)
        with superuser(postgres) as connection:
            connection.execute("REVOKE INSERT ON messages FROM longhaul_app")
            try:
                with pytest.raises(SavingHalted, match="42501"):
                    await flusher.flush(stream_of("messages"), tenant_id)
            finally:
                connection.execute("GRANT INSERT ON messages TO longhaul_app")
        assert await counters(database, tenant_id, taken.batch_id) == (5, 0, 0, 0, 5)
        await flusher.take_over(stream_of("messages"))
        assert await flusher.flush(stream_of("messages"), tenant_id) == 5
        assert await counters(database, tenant_id, taken.batch_id) == (5, 5, 0, 0, 0)


class TestDeath:
    async def test_a_record_that_kills_workers_dies_alone(
        self,
        intake: RecordIntake,
        database: Database,
        tenant_id: UUID,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """After a few deaths its row is taken apart; its neighbours are saved, it is a dead letter."""
        killer = message(content="killer")
        sent = [message() for _ in range(9)]
        taken = await take(intake, tenant_id, lines([*sent[:4], killer, *sent[4:]]))
        merge = InboxRepository.merge
        deaths = 0

        class DeathError(BaseException):
            """The end of the process: nobody behind it tidies up."""

        async def deadly(self: InboxRepository, tenant: UUID, collection: str, pieces: list[int]) -> int:
            nonlocal deaths
            if any("killer" in row.body for row in await self.load(pieces)):
                deaths += 1
                raise DeathError
            return await merge(self, tenant, collection, pieces)

        monkeypatch.setattr(InboxRepository, "merge", deadly)
        merge_lines = InboxRepository.merge_lines

        async def deadly_lines(self: InboxRepository, tenant: UUID, collection: str, found: list[object]) -> None:
            nonlocal deaths
            if any("killer" in line.text for line in found):  # type: ignore[attr-defined]
                deaths += 1
                raise DeathError
            await merge_lines(self, tenant, collection, found)  # type: ignore[arg-type]

        monkeypatch.setattr(InboxRepository, "merge_lines", deadly_lines)
        for _ in range(DEADLY_ATTEMPTS + 20):
            flusher = Flusher(database, most_records=100)  # a new process
            await flusher.take_over(stream_of("messages"))
            try:
                while await flusher.flush(stream_of("messages"), tenant_id):
                    pass
            except DeathError:
                continue
            break
        assert deaths == DEADLY_ATTEMPTS
        assert await counters(database, tenant_id, taken.batch_id) == (10, 9, 0, 1, 0)
        [letter] = await dead_letters(database, tenant_id)
        assert (letter.position, letter.code) == (4, "E.RECORD.CRASHED")
        assert json.loads(letter.payload) == killer

    async def test_taking_apart_keeps_places(self, intake: RecordIntake, database: Database, tenant_id: UUID) -> None:
        """Also where records in between were refused at the door."""
        good = [message() for _ in range(4)]
        body = b"\n".join([b"{", lines([good[0]]), b"{", b"{", lines(good[1:3]), b"{", lines([good[3]])])
        await take(intake, tenant_id, body, on_error=OnError.CONTINUE)
        async with database.tenant(tenant_id) as connection:
            [piece] = [row for row in await inbox_pieces(connection) if not row.refused]
            await connection.execute(
                text("UPDATE tenant_record_inbox SET attempts = :attempts WHERE id = :id"),
                {"attempts": SUSPICIOUS_ATTEMPTS, "id": piece.id},
            )
        async with database.driver() as driver:
            inbox = InboxRepository(driver)
            await inbox.lock(tenant_id, [piece.id])
            await inbox.split(piece.id)
        async with database.tenant(tenant_id) as connection:
            rows = [row for row in await inbox_pieces(connection) if not row.refused]
        assert [row.first_index for row in rows] == [1, 4, 5, 7]
        assert [json.loads(row.body) for row in rows] == good

    async def test_a_claim_left_over_counts_against_its_rows(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        await take(intake, tenant_id, lines([message()]))
        async with database.tenant(tenant_id) as connection:
            [piece] = await inbox_pieces(connection)
        async with database.driver() as driver:
            await InboxRepository(driver).claim(new_id(), new_id(), stream_of("messages"), [piece.id])
        await Flusher(database, most_records=10).take_over(stream_of("messages"))
        async with database.tenant(tenant_id) as connection:
            [piece] = await inbox_pieces(connection)
        assert piece.attempts == 1
        await bring_home(database, tenant_id)

    async def test_a_connection_that_breaks_is_no_death(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker is alive and says so: nothing is counted against the records."""
        await take(intake, tenant_id, lines([message()]))
        flusher = Flusher(database, most_records=10)
        with monkeypatch.context() as patched:

            async def broken(*_: object) -> int:
                raise psycopg.errors.SerializationFailure

            patched.setattr(InboxRepository, "merge", broken)
            with pytest.raises(Exception, match="overloaded"):
                await flusher.flush(stream_of("messages"), tenant_id)
        await flusher.take_over(stream_of("messages"))
        async with database.tenant(tenant_id) as connection:
            [piece] = await inbox_pieces(connection)
        assert piece.attempts == 0
        assert await flusher.flush(stream_of("messages"), tenant_id) == 1

    async def test_with_two_workers_a_full_disk_is_no_death(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """Whichever of them tries next, nobody died; so often that each record would be given up."""
        taken = await take(intake, tenant_id, lines([message() for _ in range(3)]))
        with full_disk(postgres):
            for flusher in [Flusher(database, most_records=10) for _ in range(2)] * DEADLY_ATTEMPTS:
                await flusher.take_over(stream_of("messages"))
                with pytest.raises(DatabaseUnavailable):
                    await flusher.flush(stream_of("messages"), tenant_id)
        async with database.tenant(tenant_id) as connection:
            assert {piece.attempts for piece in await inbox_pieces(connection)} == {0}
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (3, 3, 0, 0, 0)

    async def test_a_claim_that_cannot_be_released_is_of_a_living_worker(
        self,
        intake: RecordIntake,
        database: Database,
        tenant_id: UUID,
        postgres: EmbeddedPostgres,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its name is on the claim: while it says that it is alive nobody counts it, and it lets go of it itself."""
        stream, living, other = stream_of("messages"), new_id(), Flusher(database, most_records=10)
        await take(intake, tenant_id, lines([message()]))
        async with database.system() as connection:
            await WorkerRepository(connection).beat(living, task_queues=["saving"], code_version="test")
        flusher = Flusher(database, most_records=10, worker_id=living)
        with full_disk(postgres), monkeypatch.context() as patched:

            async def broken(*_: object) -> None:
                raise psycopg.OperationalError

            patched.setattr(InboxRepository, "release", broken)
            with pytest.raises(DatabaseUnavailable):
                await flusher.flush(stream, tenant_id)
        await other.take_over(stream)
        assert await claims_and_attempts(postgres, tenant_id) == (1, [0])
        await flusher.take_over(stream)
        assert await claims_and_attempts(postgres, tenant_id) == (0, [0])
        async with database.driver() as driver:
            [piece] = await InboxRepository(driver).choose(tenant_id, stream, most_records=1, most_bytes=1)
            await InboxRepository(driver).claim(new_id(), living, stream, [piece.id])
        with superuser(postgres) as raw:
            raw.execute("UPDATE workers SET seen_at = now() - interval '1 minute' WHERE id = %s", [living])
        await other.take_over(stream)
        assert await claims_and_attempts(postgres, tenant_id) == (0, [1])
        await bring_home(database, tenant_id)

    async def test_a_database_that_dies_is_no_death(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """It ends the connection in the middle of a merge, as often as makes a dead letter; the workers live on."""
        taken = await take(intake, tenant_id, lines([message()]))

        async def ended(*, looking: psycopg.Connection[tuple[object, ...]]) -> int:
            query = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
                " WHERE NOT granted AND relation = 'messages'::regclass"
            )
            [(count,)] = looking.execute(query).fetchall()
            assert isinstance(count, int)
            return count

        for flusher in [Flusher(database, most_records=10) for _ in range(2)] * DEADLY_ATTEMPTS:
            with superuser(postgres) as raw, raw.transaction(), superuser(postgres) as looking:
                raw.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
                await flusher.take_over(stream_of("messages"))
                flushing = asyncio.create_task(flusher.flush(stream_of("messages"), tenant_id))
                await eventually(partial(ended, looking=looking))
                with pytest.raises(DatabaseUnavailable):
                    await flushing
        assert await claims_and_attempts(postgres, tenant_id) == (0, [0])
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (1, 1, 0, 0, 0)

    async def test_being_canceled_is_no_death(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """A worker that drains cancels what it does; its claim goes with it."""
        await take(intake, tenant_id, lines([message()]))
        flusher = Flusher(database, most_records=10)
        with superuser(postgres) as raw, raw.transaction():
            raw.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            flushing = asyncio.create_task(flusher.flush(stream_of("messages"), tenant_id))

            async def waits() -> bool:
                with superuser(postgres) as looking:
                    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'messages'::regclass"
                    return looking.execute(query).fetchall() == [(1,)]

            await eventually(waits)
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing
        assert await claims_and_attempts(postgres, tenant_id) == (0, [0])
        await bring_home(database, tenant_id)

    async def test_deaths_that_are_counted_late_condemn_nobody(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """Rows that were in hand together become suspicious, however many deaths come to light at once."""
        await take(intake, tenant_id, lines([message()]))
        await take(intake, tenant_id, lines([message()]))
        async with database.tenant(tenant_id) as connection:
            pieces = [row.id for row in await inbox_pieces(connection)]
        async with database.driver() as driver:
            for _ in range(DEADLY_ATTEMPTS):
                await InboxRepository(driver).claim(new_id(), new_id(), stream_of("messages"), pieces)
        await Flusher(database, most_records=10).take_over(stream_of("messages"))
        assert await claims_and_attempts(postgres, tenant_id) == (0, [SUSPICIOUS_ATTEMPTS] * 2)
        await bring_home(database, tenant_id)
        assert await dead_letters(database, tenant_id) == []

    async def test_what_keeps_coming_does_not_starve_what_is_suspicious(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        """A row that workers died with is spared, and tried now and then although others wait before each flush."""
        suspect = await take(intake, tenant_id, lines([message()]))
        async with database.tenant(tenant_id) as connection:
            await connection.execute(
                text("UPDATE tenant_record_inbox SET attempts = :attempts"), {"attempts": SUSPICIOUS_ATTEMPTS}
            )
        flusher = Flusher(database, most_records=100)
        pending = []
        for _ in range(12):
            await take(intake, tenant_id, lines([message()]))
            assert await flusher.flush(stream_of("messages"), tenant_id) >= 1
            pending.append((await counters(database, tenant_id, suspect.batch_id))[4])
        assert pending == [1] * 9 + [0] * 3
        assert await counters(database, tenant_id, suspect.batch_id) == (1, 1, 0, 0, 0)
        await bring_home(database, tenant_id)
        async with database.tenant(tenant_id) as connection:
            assert await inbox_pieces(connection) == []


class TestRefusedAtTheDoor:
    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({"message": "no member `a\x00b`", "pointer": "/x"}, ("E.RECORD.INVALID", "/x: no member `a\ufffdb`")),
            ({"message": "no member `\ud800`"}, ("E.RECORD.INVALID", "no member `?`")),
            ({"index": 2**70}, ("E.RECORD.REFUSED", "was refused at the door")),
            ({"payload": None}, ("E.RECORD.REFUSED", "was refused at the door")),
        ],
    )
    async def test_no_row_holds_a_stream(
        self,
        intake: RecordIntake,
        database: Database,
        tenant_id: UUID,
        told: dict[str, object],
        expected: tuple[str, str],
    ) -> None:
        """What PostgreSQL cannot read of a refusal becomes a dead letter all the same, and so do its neighbours."""
        taken = await take(intake, tenant_id, b"{\n{}\n" + lines([message()]), on_error=OnError.CONTINUE)
        async with database.tenant(tenant_id) as connection:
            [row] = [row for row in await inbox_pieces(connection) if row.refused]
            first, second = row.body.split("\n")
            body = "\n".join([first, json.dumps({**json.loads(second), "pointer": "", **told})])
            await connection.execute(
                text("UPDATE tenant_record_inbox SET body = :body WHERE id = :id"), {"body": body, "id": row.id}
            )
        assert await bring_home(database, tenant_id) == 3
        assert await counters(database, tenant_id, taken.batch_id) == (3, 1, 0, 2, 0)
        letters = await dead_letters(database, tenant_id)
        assert [letter.position for letter in letters] == [0, 1]
        assert (letters[1].code, letters[1].message) == expected
        assert letters[0].payload == b"{"

    async def test_nor_does_one_with_more_lines_than_records(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        """Its batch cannot account for more than it received: a letter is written, and not counted."""
        taken = await take(intake, tenant_id, lines([message()]))
        async with database.tenant(tenant_id) as connection:
            await connection.execute(text("UPDATE tenant_record_inbox SET body = body || E'\\n{}'"))
        await bring_home(database, tenant_id)
        assert await counters(database, tenant_id, taken.batch_id) == (1, 1, 0, 0, 0)
        assert [letter.payload for letter in await dead_letters(database, tenant_id)] == [b"{}"]


class TestSize:
    async def test_bytes_are_bounded_as_records_are(
        self, intake: RecordIntake, database: Database, tenant_id: UUID
    ) -> None:
        stream = stream_of("messages")
        for _ in range(4):
            await take(intake, tenant_id, lines([message(content="x" * 1_000)]))
        async with database.driver() as driver:
            inbox = InboxRepository(driver)
            assert len(await inbox.choose(tenant_id, stream, most_records=10, most_bytes=3_000)) == 2
            assert len(await inbox.choose(tenant_id, stream, most_records=10, most_bytes=1)) == 1
            assert len(await inbox.choose(tenant_id, stream, most_records=3, most_bytes=1 << 30)) == 3
        await bring_home(database, tenant_id)

    async def test_what_takes_too_long_is_halved(
        self, intake: RecordIntake, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """PostgreSQL itself cancels a merge of more than two records; the way home is found all the same."""
        taken = [await take(intake, tenant_id, lines([message()])) for _ in range(8)]
        flusher, stream, sizes = Flusher(database, most_records=8), stream_of("messages"), []
        with trigger(
            postgres,
            "IF (SELECT count(*) > 2 FROM fresh) THEN RAISE EXCEPTION 'slow' USING ERRCODE = '57014'; END IF;",
            "AFTER INSERT ON messages REFERENCING NEW TABLE AS fresh",
        ):
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable):
                    await flusher.flush(stream, tenant_id)
            while records := await flusher.flush(stream, tenant_id):
                sizes.append(records)
        assert sizes == [2, 2, 2, 2]
        for batch in taken:
            assert await counters(database, tenant_id, batch.batch_id) == (1, 1, 0, 0, 0)
        more = [await take(intake, tenant_id, lines([message()])) for _ in range(4)]
        assert await flusher.flush(stream, tenant_id) == len(more)  # whole again


class TestTenants:
    async def test_one_that_has_trouble_holds_up_nobody(
        self,
        intake: RecordIntake,
        database: Database,
        store: ArtifactStore,
        tenant_id: UUID,
        postgres: EmbeddedPostgres,
    ) -> None:
        """The others are served in the same look; the trouble is counted, raised, and told without its values."""
        other = await new_tenant(database)
        mine = await take(intake, tenant_id, lines([message()]))
        theirs = await take(intake, other, lines([message()]))
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry)
        with trigger(
            postgres,
            f"IF NEW.tenant_id = '{tenant_id}' THEN RAISE EXCEPTION 'secret' USING ERRCODE = 'XX000'; END IF;",
            "BEFORE INSERT ON messages FOR EACH ROW",
        ):
            with pytest.raises(ApplicationError, match="SQLSTATE XX000") as raised:
                await ActivityEnvironment().run(
                    activities_of(database, store, metrics).flush_stream, stream_of("messages")
                )
            assert raised.value.__cause__ is None
            assert await counters(database, tenant_id, mine.batch_id) == (1, 0, 0, 0, 1)
            assert await counters(database, other, theirs.batch_id) == (1, 1, 0, 0, 0)
        assert (
            registry.get_sample_value(
                "longhaul_flush_faults_total", {"collection": "messages", "code": "E.DB.UNAVAILABLE"}
            )
            == 1
        )
        await bring_home(database, tenant_id)

    async def test_everybodys_turn_comes(
        self, intake: RecordIntake, database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where time is enough for one tenant a look, the next look goes on behind it."""
        monkeypatch.setattr("activities.saving.steps._FLUSH_SECONDS", 0.0)
        tenants = [await new_tenant(database) for _ in range(3)]
        batches = [await take(intake, tenant, lines([message()])) for tenant in tenants for _ in range(6)]
        doing = activities_of(database, store, new_metrics(), most_records=2)
        for _ in tenants:
            result = await ActivityEnvironment().run(doing.flush_stream, stream_of("messages"))
            assert (result.records, result.drained) == (2, False)
        for tenant, batch in zip(tenants, batches[::6], strict=True):
            assert (await counters(database, tenant, batch.batch_id))[1] == 1
        for tenant in tenants:
            await bring_home(database, tenant)
