"""Connections that misbehave, and a server that is told to end: sockets and bytes, no client library."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.app import create_app
from api.protocol import GuardedProtocol
from api.routes import events
from core.database import Database
from tests.api.conftest import MakeFront, MakeSettings, serve
from tests.api.support import Front, Serving, count_artifacts, read_events, record
from tests.support.waiting import eventually

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(serving: Serving) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer_on(reader: asyncio.StreamReader, *, within: float = 10) -> tuple[int, dict[str, object]]:
    async with asyncio.timeout(within):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        assert length is not None, head
        body = await reader.readexactly(int(length.group(1)))
    assert "application/problem+json" in head
    return int(head.split(" ", 2)[1]), json.loads(body)


def head_of(front: Front, *more: str, path: str = "/api/v1/jobs") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {front.key}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
async def live(make_front: MakeFront, served: Serving) -> Front:
    """A front end of a new tenant, over a socket."""
    return await make_front(on=served.url)


class TestSlowness:
    async def test_slow_body_is_408_and_hurts_nobody(self, live: Front, served: Serving) -> None:
        async with connected(served) as (reader, writer):
            writer.write(head_of(live, "Content-Type: application/json", "Content-Length: 100") + b'{"kind"')
            answer = asyncio.create_task(answer_on(reader))
            while not answer.done():
                assert (await live.http.get("/jobs")).status_code == 200
                with contextlib.suppress(ConnectionError):
                    writer.write(b" ")
                await asyncio.sleep(0.1)
            status, problem = await answer
            assert (status, problem["code"]) == (408, "E.REQUEST.TIMEOUT")
            assert await reader.read() == b""

    async def test_upload_that_stalls_is_408(self, live: Front, served: Serving) -> None:
        async with connected(served) as (reader, writer):
            writer.write(head_of(live, "Content-Length: 100", path="/api/v1/artifacts") + b"some")
            assert (await answer_on(reader))[0] == 408

    @pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
    async def test_head_that_never_ends_is_closed(
        self, served: Serving, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.5)
        async with connected(served) as (reader, writer):
            writer.write(sent)
            status, problem = await answer_on(reader, within=30)
            assert (status, problem["code"]) == (408, "E.REQUEST.TIMEOUT")
            assert await reader.read() == b""

    async def test_second_head_on_a_kept_connection_has_no_longer(
        self, served: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.5)
        async with connected(served) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b'"alive"}')
            await asyncio.sleep(0.8)
            writer.write(b"GET /healthz HTTP/1.1\r\n")
            assert (await answer_on(reader, within=30))[0] == 408


class TestReaders:
    async def test_one_that_takes_nothing_is_dropped_and_hurts_nobody(
        self, live: Front, served: Serving, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "STALL_SECONDS", 0.5)
        job = await live.post()
        hub = served.app.state.services.hub

        async def others() -> list[int]:
            async with live.http.stream("GET", f"/jobs/{job['id']}/events") as answer:
                return [event.id async for event in read_events(answer)]

        async def watchers() -> int:
            return sum(len(channel.watches) for channel in hub._channels.values() if str(channel.job_id) == job["id"])

        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", served.port))
        lines = [f"GET /api/v1/jobs/{job['id']}/events HTTP/1.1", "Host: x", f"Authorization: Bearer {live.key}"]
        await loop.sock_sendall(deaf, ("\r\n".join(lines) + "\r\n\r\n").encode())
        reading = asyncio.create_task(others())
        await eventually(watchers, lambda count: count == 2)
        for _ in range(200):
            await record(database, live.tenant_id, job["id"], "running", filler="x" * 40_000)
        await eventually(watchers, lambda count: count == 1)
        await record(database, live.tenant_id, job["id"], "succeeded")
        async with asyncio.timeout(10):
            assert await reading == list(range(1, 203))
        deaf.close()

    async def test_upload_that_breaks_off_leaves_nothing(
        self, live: Front, served: Serving, database: Database, scratch: Path
    ) -> None:
        async with connected(served) as (_, writer):
            writer.write(head_of(live, "Content-Length: 100000", path="/api/v1/artifacts") + b"x" * 50_000)
            await writer.drain()
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.3)
        assert await count_artifacts(database, live.tenant_id) == 0
        assert list((scratch / "api").glob(f"artifacts/{live.tenant_id}/**/*")) in (
            [],
            [scratch / "api" / "artifacts" / str(live.tenant_id) / "incoming"],
        )


class TestWhatIsNotHttp:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 400_000,
            b"GET / HTTP/1.1\r\n\r\n",
        ],
    )
    async def test_is_400_as_a_problem(self, served: Serving, sent: bytes) -> None:
        async with connected(served) as (reader, writer):
            writer.write(sent)
            status, problem = await answer_on(reader)
        assert (status, problem["code"]) == (400, "E.REQUEST.MALFORMED")

    async def test_two_lengths_are_no_way_in(self, live: Front, served: Serving) -> None:
        """Content-Length beside Transfer-Encoding never makes two requests of one."""
        async with connected(served) as (reader, writer):
            inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(head_of(live, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + inner)
            async with asyncio.timeout(5):
                first = await reader.readuntil(b"\r\n")
        assert first.split(b" ")[1] in {b"400", b"415", b"422"}


class TestEnd:
    async def test_streams_and_waits_end_when_told_and_the_rest_is_answered(
        self, make_settings: MakeSettings, make_front: MakeFront
    ) -> None:
        async with serve(create_app(make_settings())) as serving:
            front = await make_front(on=serving.url)
            job = await front.post()
            etag = (await front.http.get(f"/jobs/{job['id']}")).headers["etag"]

            async def watch() -> list[int]:
                async with front.http.stream("GET", f"/jobs/{job['id']}/events") as answer:
                    return [event.id async for event in read_events(answer)]

            watching = asyncio.create_task(watch())
            headers = {"If-None-Match": etag}
            waiting = asyncio.create_task(front.http.get(f"/jobs/{job['id']}?wait=60", headers=headers))
            await asyncio.sleep(0.5)
            serving.server.should_exit = True
            async with asyncio.timeout(5):
                assert await watching == [1]
                assert (await waiting).status_code == 304
