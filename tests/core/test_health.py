import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from core.health import ASGIApp, health_app, serve

HOST = "127.0.0.1"


class Parts:
    """What the process would know about itself."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.fails: Exception | None = None
        self.hangs = False

    async def ready(self) -> dict[str, str]:
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            await asyncio.Event().wait()
        return self.faults

    async def metrics(self) -> bytes:
        if self.fails is not None:
            raise self.fails
        return b"longhaul_up 1\n"


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def app(parts: Parts) -> ASGIApp:
    return health_app(ready=parts.ready, metrics=parts.metrics)


@pytest.fixture
async def client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(app, HOST, 0) as port, httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        yield client


def _problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    return body


class TestAlive:
    async def test_whatever_else_is_broken(self, client: httpx.AsyncClient, parts: Parts) -> None:
        """A restart would not bring the database back."""
        parts.fails = RuntimeError("all is lost")
        answer = await client.get("/healthz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "alive"}
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


class TestReady:
    async def test_when_nothing_is_at_fault(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})

    async def test_names_the_parts_at_fault(self, client: httpx.AsyncClient, parts: Parts) -> None:
        parts.faults = {"temporal": "not connected", "database": "cannot be reached"}
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        body = _problem(answer)
        assert body["faults"] == parts.faults
        assert body["detail"] == "not ready: database, temporal"

    async def test_is_not_when_nobody_knows(self, client: httpx.AsyncClient, parts: Parts) -> None:
        """The message of the fault stays in the log: it may quote addresses and credentials."""
        parts.fails = RuntimeError("secret")
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert _problem(answer)["faults"] == {"readiness": "could not be found out: RuntimeError"}

    async def test_is_not_when_the_answer_takes_too_long(
        self, client: httpx.AsyncClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("core.health._READY_TIMEOUT_SECONDS", 0.05)
        parts.hangs = True
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "no answer" in _problem(answer)["faults"]["readiness"]


class TestMetrics:
    async def test_are_exposed(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics")
        assert answer.content == b"longhaul_up 1\n"
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    async def test_that_fail_are_a_problem(self, client: httpx.AsyncClient, parts: Parts) -> None:
        parts.fails = RuntimeError("secret")
        answer = await client.get("/metrics")
        assert answer.status_code == 500
        assert "secret" not in _problem(answer)["detail"]


class TestTheRest:
    async def test_is_not_found(self, client: httpx.AsyncClient) -> None:
        for path in ("/", "/healthz/", "/readyz/x", "/debug"):
            answer = await client.get(path)
            assert answer.status_code == 404
            _problem(answer)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
    async def test_methods_are_refused(self, client: httpx.AsyncClient, method: str) -> None:
        answer = await client.request(method, "/healthz")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
        _problem(answer)

    async def test_head_has_no_body(self, client: httpx.AsyncClient) -> None:
        answer = await client.head("/readyz")
        assert answer.status_code == 200
        assert answer.content == b""
        assert int(answer.headers["content-length"]) > 0


class TestServing:
    async def test_leaves_signals_alone(self, app: ASGIApp) -> None:
        """The worker drains on SIGTERM; a server that took the signal would end at once instead."""
        before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        async with serve(app, HOST, 0):
            assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before

    async def test_ends_with_the_block(self, app: ASGIApp) -> None:
        async with serve(app, HOST, 0) as port, httpx.AsyncClient() as client:
            assert (await client.get(f"http://{HOST}:{port}/healthz")).status_code == 200
        with pytest.raises(ConnectionRefusedError), socket.create_connection((HOST, port), timeout=1):
            pass

    async def test_ends_although_an_answer_is_under_way(self, app: ASGIApp, parts: Parts) -> None:
        parts.hangs = True
        async with httpx.AsyncClient(timeout=10) as client:
            async with asyncio.timeout(8), serve(app, HOST, 0) as port:
                asking = asyncio.create_task(client.get(f"http://{HOST}:{port}/readyz"))
                await asyncio.sleep(0.1)
            await asyncio.gather(asking, return_exceptions=True)

    async def test_raises_where_the_port_is_taken(self, app: ASGIApp) -> None:
        """Uvicorn by itself would end the whole process."""
        with socket.create_server((HOST, 0)) as taken, pytest.raises(OSError, match="in use"):
            async with serve(app, HOST, taken.getsockname()[1]):
                pytest.fail("was served")  # pragma: no cover

    async def test_passes_the_fault_of_the_block(self, app: ASGIApp) -> None:
        with pytest.raises(KeyError):
            async with serve(app, HOST, 0):
                raise KeyError
