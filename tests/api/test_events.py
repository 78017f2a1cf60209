"""Events: as a list, and as a stream on a real socket that loses nothing and ends when the job does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from api.hub import EventHub, Watch
from api.schemas import EventPage
from core.database import Database
from repositories.jobs import JobReader
from services.stack.postgres import EmbeddedPostgres
from services.tenants import TenantService
from tests.api.conftest import MakeFront
from tests.api.support import Front, Serving, SseEvent, pointers, problem_of, read_events, record, sequence_of
from tests.support.life import superuser
from tests.support.waiting import eventually

STREAM = {"Accept": "text/event-stream"}
LIST = {"Accept": "application/json"}


@pytest.fixture
async def live(make_front: MakeFront, served: Serving) -> Front:
    """A front end of a new tenant, over a socket."""
    return await make_front(on=served.url)


@contextlib.asynccontextmanager
async def streaming(front: Front, job_id: str, **headers: str) -> AsyncIterator[httpx.Response]:
    async with front.http.stream("GET", f"/jobs/{job_id}/events", headers={**STREAM, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer


async def read_to_end(front: Front, job_id: str, **headers: str) -> list[SseEvent]:
    async with asyncio.timeout(10), streaming(front, job_id, **headers) as answer:
        return [event async for event in read_events(answer)]


class TestList:
    async def test_holds_everything_in_order(self, front: Front, database: Database) -> None:
        job = await front.post()
        await record(database, front.tenant_id, job["id"], "running", note="x")
        page = (await front.http.get(f"/jobs/{job['id']}/events", headers=LIST)).json()
        EventPage.model_validate(page)
        assert [(item["seq"], item["type"]) for item in page["items"]] == [(1, "job.queued"), (2, "job.running")]
        assert page["items"][1]["data"]["note"] == "x"

    async def test_pages(self, front: Front, database: Database) -> None:
        job = await front.post()
        for _ in range(4):
            await record(database, front.tenant_id, job["id"], "running")
        first = (await front.http.get(f"/jobs/{job['id']}/events?limit=3", headers=LIST)).json()
        second = (
            await front.http.get(f"/jobs/{job['id']}/events?limit=3&cursor={first['next_cursor']}", headers=LIST)
        ).json()
        assert [item["seq"] for item in first["items"] + second["items"]] == [1, 2, 3, 4, 5]
        assert second["next_cursor"] is None

    @pytest.mark.parametrize(
        ("accept", "status"),
        [
            ("application/json", 200), ("application/*;q=0.5", 200), ("text/event-stream;q=0.1,application/json", 200),
            ("text/html", 406), ("application/xml", 406), ("application/json;q=0", 406), ("image/*;q=x", 406),
        ],
    )  # fmt: skip
    async def test_accept_decides(self, front: Front, accept: str, status: int) -> None:
        job = await front.post()
        answer = await front.http.get(f"/jobs/{job['id']}/events", headers={"Accept": accept})
        assert answer.status_code == status
        if status == 406:
            problem_of(answer, 406, "E.REQUEST.NOT_ACCEPTABLE")

    @pytest.mark.parametrize("given", ["x", "-1", "1.5", "٣"])
    async def test_bad_event_ids_are_named(self, front: Front, given: str) -> None:
        path = f"/jobs/{uuid4()}/events"
        answer = await front.http.get(path, headers={b"Last-Event-ID": given.encode()})
        assert pointers(answer) == ["/header/last-event-id"]
        assert pointers(await front.http.get(path, params={"last_event_id": given})) == ["/query/last_event_id"]


class TestStream:
    async def test_goes_along_and_ends_with_the_job(self, live: Front, database: Database) -> None:
        job = await live.post()
        seen: list[SseEvent] = []
        async with asyncio.timeout(10), streaming(live, job["id"]) as answer:
            async for event in read_events(answer):
                seen.append(event)
                if event.id == 1:
                    await record(database, live.tenant_id, job["id"], "running", note="a")
                if event.id == 2:
                    await record(database, live.tenant_id, job["id"], "succeeded")
        assert [(event.id, event.event) for event in seen] == [
            (1, "job.queued"), (2, "job.running"), (3, "job.succeeded"),
        ]  # fmt: skip
        assert seen[1].data["seq"] == 2
        assert seen[1].data["data"] == {"status": "running", "progress": 0, "note": "a"}

    async def test_resumes_without_a_gap(self, live: Front, database: Database) -> None:
        """A client that is cut off again and again while much happens sees every number once."""
        job = await live.post()

        async def much() -> None:
            for _ in range(300):
                await record(database, live.tenant_id, job["id"], "running")
            await record(database, live.tenant_id, job["id"], "succeeded")

        working = asyncio.create_task(much())
        seen: list[int] = []
        async with asyncio.timeout(60):
            while not (working.done() and len(seen) == 302):
                last = {"Last-Event-ID": str(seen[-1])} if seen else {}
                async with streaming(live, job["id"], **last) as answer:
                    async for event in read_events(answer):
                        seen.append(event.id)
                        if len(seen) % 40 == 0:
                            break
        await working
        assert seen == list(range(1, 303)) == await sequence_of(database, live.tenant_id, job["id"])

    async def test_history_longer_than_a_page(self, live: Front, database: Database) -> None:
        job = await live.post()
        for _ in range(399):
            await record(database, live.tenant_id, job["id"], "running")
        await record(database, live.tenant_id, job["id"], "failed")
        assert [event.id for event in await read_to_end(live, job["id"])] == list(range(1, 402))

    async def test_page_that_ends_with_the_job_ends_the_stream(self, live: Front, database: Database) -> None:
        job = await live.post()
        for _ in range(198):
            await record(database, live.tenant_id, job["id"], "running")
        await record(database, live.tenant_id, job["id"], "failed")
        assert len(await read_to_end(live, job["id"])) == 200

    async def test_retried_job_goes_on_past_its_first_end(self, live: Front, database: Database) -> None:
        job = await live.post()
        for status in ("failed", "queued", "running", "succeeded"):
            await record(database, live.tenant_id, job["id"], status)
        assert [event.id for event in await read_to_end(live, job["id"])] == [1, 2, 3, 4, 5]

    async def test_nothing_left_to_tell_ends_at_once(self, live: Front, database: Database) -> None:
        job = await live.post()
        await record(database, live.tenant_id, job["id"], "succeeded")
        assert await read_to_end(live, job["id"], **{"Last-Event-ID": "2"}) == []
        assert await read_to_end(live, job["id"], **{"Last-Event-ID": "999"}) == []

    async def test_number_from_the_future_does_not_make_deaf(self, live: Front, database: Database) -> None:
        job = await live.post()
        async with asyncio.timeout(10), streaming(live, job["id"], **{"Last-Event-ID": "999"}) as answer:
            reading = asyncio.ensure_future(anext(read_events(answer)))
            await asyncio.sleep(0.2)
            await record(database, live.tenant_id, job["id"], "running")
            assert (await reading).id == 2

    async def test_many_watchers_see_the_same(self, live: Front, database: Database, served: Serving) -> None:
        job = await live.post()
        watching = [asyncio.create_task(read_to_end(live, job["id"])) for _ in range(30)]
        hub = served.app.state.services.hub

        async def watchers() -> int:
            return sum(len(channel.watches) for channel in hub._channels.values() if channel.job_id == UUID(job["id"]))

        await eventually(watchers, lambda count: count == 30)
        for status in ("running", "running", "succeeded"):
            await record(database, live.tenant_id, job["id"], status)
        assert {tuple(event.id for event in seen) for seen in await asyncio.gather(*watching)} == {(1, 2, 3, 4)}
        await eventually(watchers, lambda count: count == 0)

    async def test_reader_that_leaves_is_forgotten(self, live: Front, served: Serving) -> None:
        job = await live.post()
        hub = served.app.state.services.hub
        async with streaming(live, job["id"]) as answer:
            await anext(read_events(answer))
            assert any(channel.job_id == UUID(job["id"]) for channel in hub._channels.values())

        async def left() -> bool:
            return all(channel.job_id != UUID(job["id"]) for channel in hub._channels.values())

        await eventually(left)

    async def test_lost_listen_connection_loses_no_event(self, live: Front, database: Database, postgres: Any) -> None:
        """What happens while nobody listens is read once somebody does again."""
        job = await live.post()
        async with asyncio.timeout(20), streaming(live, job["id"]) as answer:
            events = read_events(answer)
            assert (await anext(events)).id == 1
            with superuser(postgres) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longhaul-listen'"
                )
            await record(database, live.tenant_id, job["id"], "running")
            assert (await anext(events)).id == 2

    async def test_one_listen_connection(self, live: Front, database: Database, served: Serving) -> None:
        job = await live.post()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await anext(read_events(await stack.enter_async_context(streaming(live, job["id"]))))
            async with database.engine.connect() as connection:
                query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longhaul-listen'")
                listening = (await connection.execute(query)).scalar_one()
        assert listening <= 2  # this server's, and that of the application in process


class TestEndOfTheKey:
    """Who may not ask any more does not go on hearing either."""

    async def to_the_end(self, front: Front, job_id: str, then: Callable[[], Awaitable[None]]) -> list[int]:
        """The events of a stream that has a second to end after something has happened."""
        seen = []
        async with asyncio.timeout(10), streaming(front, job_id) as answer:
            events = read_events(answer)
            seen.append((await anext(events)).id)
            await then()
            async with asyncio.timeout(1):
                seen += [event.id async for event in events]
        return seen

    async def test_revoked(self, live: Front, database: Database, tenants: TenantService) -> None:
        job = await live.post()

        async def revoke() -> None:
            await tenants.revoke_key(live.prefix)
            await record(database, live.tenant_id, job["id"], "running")

        assert await self.to_the_end(live, job["id"], revoke) == [1]
        problem_of(await live.http.get(f"/jobs/{job['id']}/events", headers=STREAM), 401)

    async def test_other_keys_go_on(
        self, live: Front, database: Database, tenants: TenantService, make_front: MakeFront, served: Serving
    ) -> None:
        second = await make_front(on=served.url, of=live)
        job = await live.post()

        async def revoke_the_second() -> None:
            await tenants.revoke_key(second.prefix)
            await record(database, live.tenant_id, job["id"], "succeeded")

        assert await self.to_the_end(live, job["id"], revoke_the_second) == [1, 2]

    async def test_expired(self, make_front: MakeFront, served: Serving, database: Database) -> None:
        front = await make_front(on=served.url, expires_at=datetime.now(UTC) + timedelta(seconds=2))
        job = await front.post()

        async def expire() -> None:
            await eventually(lambda: front.http.get("/jobs"), lambda answer: answer.status_code == 401)
            await record(database, front.tenant_id, job["id"], "running")

        assert await self.to_the_end(front, job["id"], expire) == [1]

    async def test_revoked_while_nobody_listened(self, live: Front, postgres: EmbeddedPostgres) -> None:
        """What was not announced to this process is found once it listens again."""
        job = await live.post()
        async with asyncio.timeout(20), streaming(live, job["id"]) as answer:
            events = read_events(answer)
            assert (await anext(events)).id == 1
            with superuser(postgres) as connection:
                connection.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = %s", (live.prefix,))
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longhaul-listen'"
                )
            assert [event.id async for event in events] == []

    async def test_revoked_between_the_door_and_the_stream(
        self, live: Front, served: Serving, tenants: TenantService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The announcement comes when the stream is not there yet to be ended by it."""
        job = await live.post()
        services = served.app.state.services
        reader = services.reader.get_version

        async def revoke_first(*where: Any) -> Any:
            version = await reader(*where)
            await tenants.revoke_key(live.prefix)
            await eventually(_true_of(lambda: live.prefix not in services.authenticator._verified))
            return version

        monkeypatch.setattr(services.reader, "get_version", revoke_first)
        problem_of(await live.http.get(f"/jobs/{job['id']}/events", headers=STREAM), 401)

    async def test_a_long_poll_tells_nothing_either(
        self, live: Front, database: Database, tenants: TenantService, served: Serving
    ) -> None:
        job = await live.post()
        polling = asyncio.create_task(live.http.get(f"/jobs/{job['id']}", params={"wait": 10}))
        hub = served.app.state.services.hub
        await eventually(_true_of(lambda: any(channel.bells for channel in hub._channels.values())))
        await tenants.revoke_key(live.prefix)
        await record(database, live.tenant_id, job["id"], "running")
        problem_of(await polling, 401, "E.AUTH.INVALID")


class TestWatch:
    """A reader that does not keep up costs a bounded buffer and loses nothing."""

    async def test_falls_behind_and_reads_again_from_its_own_place(self, front: Front, database: Database) -> None:
        job = await front.post()
        hub = EventHub(JobReader(database))
        watch = Watch(0)
        job_id = UUID(job["id"])
        pieces = hub.follow(front.tenant_id, job_id, watch, heartbeat=5)
        first = await anext(pieces)
        assert first.startswith(b"id: 1\n")
        for number in range(2, 60):
            await record(database, front.tenant_id, job["id"], "running", filler="x" * 4_000)
            hub.on_notify(f"{job_id}:{number}")
            await asyncio.sleep(0)
        await eventually(_true_of(lambda: watch.behind), within=30)
        assert watch._bytes == 0
        await record(database, front.tenant_id, job["id"], "succeeded")
        hub.on_notify(f"{job_id}:60")
        rest = b"".join([piece async for piece in pieces])
        seen = [int(line[4:]) for line in rest.splitlines() if line.startswith(b"id: ")]
        assert seen == list(range(2, 61))

    async def test_quiet_stream_is_kept_alive(self, front: Front, database: Database) -> None:
        job = await front.post()
        hub = EventHub(JobReader(database))
        pieces = hub.follow(front.tenant_id, UUID(job["id"]), Watch(1), heartbeat=0.05)
        async with asyncio.timeout(2):
            assert await anext(pieces) == b": still here\n\n"
        await pieces.aclose()
        assert hub._channels == {}

    async def test_strange_announcements_are_ignored(self, database: Database) -> None:
        hub = EventHub(JobReader(database))
        for payload in ("", "x", "x:1", f"{uuid4()}:", f"{uuid4()}:1"):
            hub.on_notify(payload)


def _true_of(check: Any) -> Any:
    async def look() -> bool:
        return bool(check())

    return look
