"""Reading whole files in, part by part: resumable at the byte, each record received once."""

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import obstore
import pytest

from activities.saving import importer
from activities.saving.importer import Importer, ImportLimits
from activities.steps import StepKeeper
from core.database import Database
from core.store import ArtifactStore
from domain.errors import InvalidInput, NotFound, Superseded
from domain.jobs import JobRef
from services.artifacts import ArtifactService
from services.stack.postgres import EmbeddedPostgres
from tests.support.job_rows import add_running_job
from tests.support.life import new_tenant, superuser
from tests.support.saving import (
    bring_home,
    counters,
    dead_letters,
    lines,
    message,
    saved_messages,
    saved_users,
    take,
    taking,
)

LIMITS = ImportLimits(
    max_record_bytes=2_000,
    shards=1,
    inbox_max_records=10_000_000,
    inbox_max_bytes=1 << 40,
    inbox_max_age_seconds=1e9,
)


@pytest.fixture
def reading(database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Importer:
    """An importer that reads a few kilobytes at once."""
    monkeypatch.setattr(importer, "_READ_BYTES", 4_000)
    monkeypatch.setattr(importer, "_FULL_PAUSE_SECONDS", 0.0)
    return Importer(database, store, StepKeeper(database), LIMITS)


@pytest.fixture
def empty_inbox(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Nothing waits for anybody, as what other tests left behind would count; and nothing old is left to others."""
    with superuser(postgres) as connection:
        connection.execute("DELETE FROM record_inbox")
        yield
        connection.execute("DELETE FROM record_inbox")


async def job_with(database: Database, tenant_id: Any, **wanted: Any) -> JobRef:
    """A running import."""
    return await add_running_job(database, tenant_id, raw_input={"collection": "messages", **wanted})


async def upload(database: Database, store: ArtifactStore, tenant_id: Any, body: bytes) -> str:
    async def once() -> AsyncIterator[bytes]:
        yield body

    artifacts = ArtifactService(database, store, max_bytes=1 << 30)
    return str((await artifacts.upload(tenant_id, once(), name="file", media_type="text/plain")).id)


async def read_all(reading: Importer, job: JobRef) -> int:
    """Read to the end; in how many parts."""
    for parts in range(1, 10_000):
        if await reading.read_on(job):
            return parts
    raise AssertionError("it never ends")


class TestImport:
    async def test_in_parts(self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any) -> None:
        """By another process each time, as after crashes; read once more, nothing changes."""
        sent = [message(content="x" * (number % 700)) for number in range(200)]
        file = await upload(database, store, tenant_id, lines(sent) + b"\nbroken\n")
        job = await job_with(database, tenant_id, artifact_id=file)
        assert await read_all(reading, job) > 10
        assert await reading.read_on(job)
        await bring_home(database, tenant_id)
        assert await reading.is_saved(job)
        result = await reading.get_result(job)
        assert {name: result[name] for name in ("received", "saved", "deduplicated", "dead", "pending")} == {
            "received": 201, "saved": 200, "deduplicated": 0, "dead": 1, "pending": 0,
        }  # fmt: skip
        [letter] = await dead_letters(database, tenant_id)
        assert (letter.position, letter.payload) == (200, b"broken")
        saved = await saved_messages(database, tenant_id)
        assert {key: row.content for key, row in saved.items()} == {one["id"]: one["content"] for one in sent}

    async def test_twice_at_once(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        """Whoever comes second finds that the position has moved, and lays nothing into the inbox."""
        file = await upload(database, store, tenant_id, lines([message() for _ in range(30)]))
        job = await job_with(database, tenant_id, artifact_id=file)
        stale = await reading._open(job)
        await reading.read_on(job)
        before = (await reading.get_result(job))["received"]
        with pytest.MonkeyPatch.context() as patched:

            async def opened(_job: JobRef) -> Any:
                return stale

            patched.setattr(reading, "_open", opened)
            await reading.read_on(job)
        assert (await reading.get_result(job))["received"] == before
        await read_all(reading, job)
        await bring_home(database, tenant_id)
        assert (await reading.get_result(job))["saved"] == 30

    async def test_an_endless_line(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        """A line longer than any record may be is one dead letter; what follows is read."""
        sent = [message(), message()]
        body = lines(sent[:1]) + b"\n" + b"x" * 50_000 + b"\n" + lines(sent[1:])
        job = await job_with(database, tenant_id, artifact_id=await upload(database, store, tenant_id, body))
        await read_all(reading, job)
        await bring_home(database, tenant_id)
        batch = (await reading.get_result(job))["batch_id"]
        assert await counters(database, tenant_id, batch) == (3, 2, 0, 1, 0)
        [letter] = await dead_letters(database, tenant_id)
        assert (letter.position, letter.code, letter.whole) == (1, "E.RECORD.TOO_LARGE", False)
        ending = await job_with(
            database, tenant_id, artifact_id=await upload(database, store, tenant_id, b"y" * 50_000)
        )
        await read_all(reading, ending)
        assert (await reading.get_result(ending))["received"] == 1

    async def test_csv_from_the_object_store(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        """Rows with line breaks in them, across the borders of parts."""
        rows = [f'u{number},{number},true,"{{""text"": ""a\nb{number}""}}"' for number in range(300)]
        body = "\r\n".join(["id,version,premium,attributes", *rows, "x,not a number,,"]).encode()
        body = body.replace(b"a\nb", b"a\\nb")
        await obstore.put_async(store._store, f"{tenant_id}/imports/2026/users.csv", body)
        job = await job_with(database, tenant_id, collection="users", object_name="2026/users.csv", format="csv")
        assert await read_all(reading, job) > 2
        await bring_home(database, tenant_id, "users")
        result = await reading.get_result(job)
        assert (result["received"], result["saved"], result["dead"]) == (301, 300, 1)
        saved = await saved_users(database, tenant_id)
        assert (saved["u17"].version, saved["u17"].premium, saved["u17"].attributes) == (17, True, {"text": "a\nb17"})
        [letter] = await dead_letters(database, tenant_id)
        assert json.loads(letter.payload) == {"id": "x", "version": "not a number"}

    async def test_csv_that_is_not_quite_csv(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        """Every row is saved or a dead letter with all that was in it, also beside inches and forgotten quotes."""
        rows = [
            *(f'pipe{number},1,"{{""text"": 5}}"' if number % 3 else f'5" pipe{number},1,' for number in range(300)),
            "cr,1,\rcr2,2,", 'after,"1"x,', 'open,1,"never closed', "last,1,",
        ]  # fmt: skip
        body = "\n".join(["id,version,attributes", *rows]).encode()
        job = await job_with(
            database, tenant_id, collection="users", format="csv",
            artifact_id=await upload(database, store, tenant_id, body),
        )  # fmt: skip
        await read_all(reading, job)
        await bring_home(database, tenant_id, "users")
        saved = await saved_users(database, tenant_id)
        good = [row.partition(",")[0] for row in rows if row.startswith(("pipe", "5", "last"))]
        assert sorted(saved) == sorted(good)
        told = [json.loads(letter.payload)["malformed row"] for letter in await dead_letters(database, tenant_id)]
        assert told == rows[300:303]

    @pytest.mark.parametrize("body", [b"id,version\n", b"id,version", b"id,version\r\n\r\n"])
    async def test_csv_of_nothing_but_a_header(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any, body: bytes
    ) -> None:
        """A header is no record, also where none follows."""
        file = await upload(database, store, tenant_id, body)
        job = await job_with(database, tenant_id, collection="users", artifact_id=file, format="csv")
        await read_all(reading, job)
        await bring_home(database, tenant_id, "users")
        assert await reading.is_saved(job)
        result = await reading.get_result(job)
        assert (result["received"], result["rejected"], result["dead"]) == (0, 0, 0)
        assert await dead_letters(database, tenant_id) == []

    async def test_a_header_before_an_endless_row(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        """What is told of the row is its beginning, and not the header's."""
        file = await upload(database, store, tenant_id, b"id,version\n" + b"x" * 50_000 + b"\nlast,1\n")
        job = await job_with(database, tenant_id, collection="users", artifact_id=file, format="csv")
        await read_all(reading, job)
        await bring_home(database, tenant_id, "users")
        assert set(await saved_users(database, tenant_id)) == {"last"}
        [letter] = await dead_letters(database, tenant_id)
        assert (letter.position, letter.code, letter.payload[:2]) == (0, "E.RECORD.TOO_LARGE", b"xx")

    @pytest.mark.parametrize("body", [b"id,version\ra,1\rb,2\r", b"id,id\na,1\n", b'"id' * 30_000])
    async def test_csv_without_a_header(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any, body: bytes
    ) -> None:
        """Nothing is received, and that is said."""
        file = await upload(database, store, tenant_id, body)
        job = await job_with(database, tenant_id, collection="users", artifact_id=file, format="csv")
        with pytest.raises(InvalidInput):
            await read_all(reading, job)

    @pytest.mark.parametrize("form", ["ndjson", "csv"])
    async def test_nothing_but_bad_lines(
        self, database: Database, store: ArtifactStore, tenant_id: Any, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        """A part ends early where what is told about its records grows."""
        monkeypatch.setattr(importer, "_MOST_JUDGED_BYTES", 100_000)
        reading = Importer(database, store, StepKeeper(database), dataclasses.replace(LIMITS, max_record_bytes=262_144))
        body = (b"id,version\n" if form == "csv" else b"") + b"x\n" * 400_000
        file = await upload(database, store, tenant_id, body)
        job = await job_with(database, tenant_id, collection="users", artifact_id=file, format=form)
        assert not await reading.read_on(job)
        received = (await reading.get_result(job))["received"]
        assert 0 < received < 200_000
        assert not await reading.read_on(job)
        assert received < (await reading.get_result(job))["received"] < 400_000

    async def test_nothing_in_it(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        job = await job_with(database, tenant_id, artifact_id=await upload(database, store, tenant_id, b""))
        assert await reading.read_on(job)
        assert await reading.is_saved(job)
        assert (await reading.get_result(job))["received"] == 0

    @pytest.mark.usefixtures("empty_inbox")
    async def test_it_waits_while_the_inbox_is_full(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        file = await upload(database, store, tenant_id, lines([message() for _ in range(100)]))
        job = await job_with(database, tenant_id, artifact_id=file)
        reading._limits = dataclasses.replace(LIMITS, inbox_max_records=4)
        while not (await reading.get_result(job))["received"]:
            assert not await reading.read_on(job)
        received = (await reading.get_result(job))["received"]
        for _ in range(3):
            assert not await reading.read_on(job)
        assert (await reading.get_result(job))["received"] == received
        while not await reading.read_on(job):
            await bring_home(database, tenant_id)
        await bring_home(database, tenant_id)
        assert (await reading.get_result(job))["saved"] == 100

    @pytest.mark.usefixtures("empty_inbox")
    @pytest.mark.parametrize(
        "limit", [{"inbox_max_records": 10}, {"inbox_max_bytes": 2_000}, {"inbox_max_age_seconds": 7_200.0}]
    )
    async def test_it_waits_while_what_others_sent_fills_the_inbox(
        self,
        reading: Importer,
        database: Database,
        postgres: EmbeddedPostgres,
        tenant_id: Any,
        limit: dict[str, Any],
    ) -> None:
        """Half of a limit is too many, too large or too old, whoever's records they are."""
        other = await new_tenant(database)
        async with taking(database) as intake:
            await take(intake, other, lines([message() for _ in range(6)]))
        with superuser(postgres) as connection:
            connection.execute(
                "UPDATE record_inbox SET accepted_at = now() - interval '61 minutes' WHERE tenant_id = %s", [other]
            )
        file = await upload(database, reading._store, tenant_id, lines([message() for _ in range(3)]))
        job = await job_with(database, tenant_id, artifact_id=file)
        reading._limits = dataclasses.replace(LIMITS, **limit)
        for _ in range(3):
            assert not await reading.read_on(job)
        assert (await reading.get_result(job))["received"] == 0
        await bring_home(database, other)
        await read_all(reading, job)
        assert (await reading.get_result(job))["received"] == 3
        await bring_home(database, tenant_id)

    async def test_a_file_that_is_gone(self, reading: Importer, database: Database, tenant_id: Any) -> None:
        job = await job_with(database, tenant_id, object_name="nothing.csv")
        with pytest.raises(NotFound):
            await reading.read_on(job)

    async def test_an_older_attempt_is_fenced_off(
        self, reading: Importer, database: Database, store: ArtifactStore, tenant_id: Any
    ) -> None:
        file = await upload(database, store, tenant_id, lines([message()]))
        job = await job_with(database, tenant_id, artifact_id=file)
        with pytest.raises(Superseded):
            await reading.read_on(job.model_copy(update={"attempt": 7}))
