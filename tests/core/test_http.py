"""Outgoing HTTP: what an exception means, shown on sockets that really refuse, reset, hang and lie."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from prometheus_client import CollectorRegistry

from core.http import OUTCOMES, HttpTimeouts, OutboundMetrics, classify_exception, create_http_client
from domain.errors import Outcome

SHORT: Final = HttpTimeouts(connect=0.3, read=0.3, write=0.3, pool=0.3)
LONG: Final = HttpTimeouts(connect=10, read=10, write=10, pool=10)
GOOD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(handler: Handler) -> AsyncIterator[str]:
    """A server that does to each connection what ``handler`` says, then closes it."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    await reader.read()  # until the caller leaves


async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"this is not HTTP\r\n\r\n")


async def stop_halfway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(GOOD)


async def bad_gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def client(timeout: HttpTimeouts = LONG, *, proxy: str | None = None, connections: int = 10) -> httpx.AsyncClient:
    return create_http_client(timeout=timeout, proxy=proxy, user_agent="longhaul-test", max_connections=connections)


async def failure(http: httpx.AsyncClient, url: str, *, content: bytes = b"{}") -> Exception:
    with pytest.raises((httpx.HTTPError, httpx.InvalidURL)) as caught:
        await http.post(url, content=content)
    return caught.value


class TestTable:
    @pytest.mark.parametrize(
        ("kind", "outcome"),
        [
            (httpx.ConnectError, Outcome.NOT_SENT),
            (httpx.ConnectTimeout, Outcome.NOT_SENT),
            (httpx.PoolTimeout, Outcome.NOT_SENT),
            (httpx.UnsupportedProtocol, Outcome.NOT_SENT),
            (httpx.ProxyError, Outcome.NOT_SENT),
            (httpx.WriteError, Outcome.UNKNOWN),
            (httpx.WriteTimeout, Outcome.UNKNOWN),
            (httpx.ReadTimeout, Outcome.UNKNOWN),
            (httpx.ReadError, Outcome.UNKNOWN),
            (httpx.RemoteProtocolError, Outcome.UNKNOWN),
            (httpx.LocalProtocolError, Outcome.UNKNOWN),
            (httpx.CloseError, Outcome.UNKNOWN),
            (httpx.DecodingError, Outcome.UNKNOWN),
            (httpx.TooManyRedirects, Outcome.UNKNOWN),
        ],
    )
    def test_every_exception(self, kind: type[httpx.RequestError], outcome: Outcome) -> None:
        assert classify_exception(kind("made up")) is outcome

    def test_an_address_that_is_none_was_not_sent_to(self) -> None:
        assert classify_exception(httpx.InvalidURL("made up")) is Outcome.NOT_SENT

    @pytest.mark.parametrize("exc", [httpx.TransportError("?"), httpx.HTTPError("?"), OSError("?"), ValueError("?")])
    def test_what_is_not_listed_is_unknown(self, exc: Exception) -> None:
        assert classify_exception(exc) is Outcome.UNKNOWN

    def test_no_transport_exception_of_httpx_is_missing(self) -> None:
        def leaves(kind: type[Exception]) -> set[type[Exception]]:
            below = kind.__subclasses__()
            return {kind} if not below else set().union(*(leaves(child) for child in below))

        known = {kind for kind in leaves(httpx.RequestError) if kind.__module__.startswith("httpx")}
        assert known <= set(OUTCOMES)


class TestSockets:
    """Each case is a real socket; the exception that httpx makes of it gets the right outcome."""

    async def test_a_refused_connection(self) -> None:
        async with client() as http:
            exc = await failure(http, f"http://127.0.0.1:{closed_port()}/")
        assert isinstance(exc, httpx.ConnectError)
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_name_that_does_not_resolve(self) -> None:
        async with client() as http:
            exc = await failure(http, "http://nowhere.invalid/")
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_failed_tls_handshake(self) -> None:
        async with peer(babble) as url, client(SHORT) as http:
            exc = await failure(http, url.replace("http:", "https:"))
        assert isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_listener_whose_queue_is_full(self) -> None:
        """Nobody accepts and the queue is full, so the connection is never made."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            crowd = [socket.socket() for _ in range(8)]
            for waiting in crowd:
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            async with client(SHORT) as http:
                exc = await failure(http, f"http://127.0.0.1:{listener.getsockname()[1]}/")
            for waiting in crowd:
                waiting.close()
        assert isinstance(exc, httpx.ConnectTimeout)
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_pool_that_is_used_up(self) -> None:
        arrived = asyncio.Event()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await reader.read()

        only_pool = HttpTimeouts(connect=10, read=10, write=10, pool=0.1)
        async with peer(hold) as url, client(only_pool, connections=1) as http:
            first = asyncio.create_task(http.post(url))
            await arrived.wait()
            exc = await failure(http, url)
            first.cancel()
            await asyncio.wait({first})
        assert isinstance(exc, httpx.PoolTimeout)
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_scheme_that_is_not_http(self) -> None:
        async with client() as http:
            exc = await failure(http, "ftp://127.0.0.1/")
        assert isinstance(exc, httpx.UnsupportedProtocol)
        assert classify_exception(exc) is Outcome.NOT_SENT

    async def test_a_proxy_that_refuses_the_tunnel(self) -> None:
        async with peer(bad_gateway) as url, client(proxy=url) as http:
            exc = await failure(http, "https://example.org/")
        assert isinstance(exc, httpx.ProxyError)
        assert classify_exception(exc) is Outcome.NOT_SENT

    @pytest.mark.parametrize(
        ("handler", "kind"),
        [
            (hang, httpx.ReadTimeout),
            (reset, httpx.ReadError),
            (leave, httpx.RemoteProtocolError),
            (babble, httpx.RemoteProtocolError),
            (stop_halfway, httpx.RemoteProtocolError),
        ],
    )
    async def test_after_the_request_went_out(self, handler: Handler, kind: type[Exception]) -> None:
        async with peer(handler) as url, client(SHORT) as http:
            exc = await failure(http, url)
        assert isinstance(exc, kind)
        assert classify_exception(exc) is Outcome.UNKNOWN

    async def test_a_peer_that_does_not_read(self) -> None:
        async with peer(never_read) as url, client(SHORT) as http:
            exc = await failure(http, url, content=b"x" * 64_000_000)
        assert isinstance(exc, httpx.WriteTimeout)
        assert classify_exception(exc) is Outcome.UNKNOWN


class TestClient:
    async def test_redirects_are_not_followed(self) -> None:
        async with peer(redirect) as url, client() as http:
            assert (await http.post(url)).status_code == 307

    async def test_the_proxy_of_the_environment_is_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port()}")
        async with peer(answer) as url, client() as http:
            assert (await http.get(url)).text == "ok"

    async def test_the_given_proxy_is_taken(self) -> None:
        async with peer(answer) as proxy, client(proxy=proxy) as http:
            assert (await http.get("http://nowhere.invalid/")).text == "ok"

    async def test_headers_carry_user_agent_and_trace_context(self) -> None:
        seen: list[bytes] = []

        async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append((await head(reader)).lower())
            writer.write(GOOD)

        calls = 0

        def inject(headers: MutableMapping[str, str]) -> None:
            nonlocal calls
            calls += 1
            headers["traceparent"] = f"00-{calls:032x}-00000000000000ab-01"

        http = create_http_client(timeout=LONG, proxy=None, user_agent="longhaul/9", inject=inject)
        async with peer(note) as url, http:
            await http.get(url)
            await http.get(url)
        assert all(b"user-agent: longhaul/9\r\n" in request for request in seen)
        assert [f"traceparent: 00-{n:032x}-".encode() in seen[n - 1] for n in (1, 2)] == [True, True]


class TestMetrics:
    async def test_an_answer_is_timed_once(self) -> None:
        registry = CollectorRegistry()
        http = create_http_client(timeout=LONG, proxy=None, user_agent="t", metrics=OutboundMetrics(registry))
        async with peer(bad_gateway) as url, http:
            await http.post(url)
        labels = {"host": "127.0.0.1", "method": "POST", "status": "502"}
        assert registry.get_sample_value("longhaul_outbound_request_duration_seconds_count", labels) == 1

    @pytest.mark.parametrize(
        ("handler", "kind", "status"),
        [(hang, "ReadTimeout", "none"), (reset, "ReadError", "none"), (stop_halfway, "RemoteProtocolError", "200")],
    )
    async def test_a_failure_is_counted_and_timed_once(self, handler: Handler, kind: str, status: str) -> None:
        """Also where the answer had begun: its body belongs to the call."""
        registry = CollectorRegistry()
        http = create_http_client(timeout=SHORT, proxy=None, user_agent="t", metrics=OutboundMetrics(registry))
        async with peer(handler) as url, http:
            await failure(http, url)
        errors = registry.get_sample_value("longhaul_outbound_errors_total", {"host": "127.0.0.1", "kind": kind})
        timed = registry.get_sample_value(
            "longhaul_outbound_request_duration_seconds_count",
            {"host": "127.0.0.1", "method": "POST", "status": status},
        )
        assert (errors, timed) == (1, 1)

    def test_hosts_beyond_the_limit_share_a_label(self) -> None:
        """Callback addresses are chosen by tenants; they cannot grow the series without end."""
        registry = CollectorRegistry()
        metrics = OutboundMetrics(registry, max_hosts=2)
        for index in range(5):
            metrics.observe(httpx.Request("GET", f"http://h{index}.example/"), status=200, seconds=0.1)
        name = "longhaul_outbound_request_duration_seconds_count"
        counts = [
            registry.get_sample_value(name, {"host": host, "method": "GET", "status": "200"})
            for host in ("h0.example", "h1.example", "h2.example", "other")
        ]
        assert counts == [1, 1, None, 3]
