"""Outgoing HTTP: the one place that builds a client, measures its calls and says what its exceptions mean.

Gateways receive the client and name httpx types; nobody else constructs one. Changing the HTTP library is a
change to this file and to the imports of the gateways.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client import CollectorRegistry, Counter, Histogram

from domain.errors import Outcome

HeaderInjector = Callable[[MutableMapping[str, str]], None]
"""Writes the current trace context (W3C ``traceparent``) into the headers it is given."""

_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_OTHER_HOSTS: Final = "other"
_NO_STATUS: Final = "none"
_MAX_IDLE: Final = 20


# --- what an exception means ------------------------------------------------------------------------

OUTCOMES: Final[Mapping[type[Exception], Outcome]] = {
    # No connection, hence no request.
    httpx.ConnectError: Outcome.NOT_SENT,  # also every failure of the TLS handshake
    httpx.ConnectTimeout: Outcome.NOT_SENT,
    httpx.PoolTimeout: Outcome.NOT_SENT,
    httpx.ProxyError: Outcome.NOT_SENT,  # the proxy refused the tunnel
    httpx.UnsupportedProtocol: Outcome.NOT_SENT,
    httpx.InvalidURL: Outcome.NOT_SENT,
    # Bytes may have left: a peer can act on a request whose last packet we believe lost.
    httpx.WriteError: Outcome.UNKNOWN,
    httpx.WriteTimeout: Outcome.UNKNOWN,
    httpx.ReadError: Outcome.UNKNOWN,
    httpx.ReadTimeout: Outcome.UNKNOWN,
    httpx.CloseError: Outcome.UNKNOWN,
    httpx.RemoteProtocolError: Outcome.UNKNOWN,
    # Raised both before the first byte and in the middle of a body; the worse case counts.
    httpx.LocalProtocolError: Outcome.UNKNOWN,
    httpx.DecodingError: Outcome.UNKNOWN,
    httpx.TooManyRedirects: Outcome.UNKNOWN,
}
"""The whole table. What is not in it, nor derived from what is, counts as UNKNOWN."""


def classify_exception(exc: Exception) -> Outcome:
    """Say what is known about a request that ended in ``exc``; in doubt UNKNOWN, never a false NOT_SENT."""
    for ancestor in type(exc).__mro__:
        if ancestor in OUTCOMES:
            return OUTCOMES[ancestor]
    return Outcome.UNKNOWN


# --- measuring --------------------------------------------------------------------------------------


class OutboundMetrics:
    """The two series on outgoing calls. Create once per registry and share among clients.

    Callback addresses come from tenants, so only the first ``max_hosts`` hosts get a label of their own and all
    later ones are counted as ``other``: nobody outside can grow our metrics without end.
    """

    def __init__(self, registry: CollectorRegistry, *, max_hosts: int = 100) -> None:
        self._hosts: set[str] = set()
        self._max_hosts = max_hosts
        self._duration = Histogram(
            "longhaul_outbound_request_duration_seconds",
            "Time from sending a request to the end of its answer.",
            ("host", "method", "status"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "longhaul_outbound_errors_total",
            "Requests that ended without a complete answer.",
            ("host", "kind"),
            registry=registry,
        )

    def observe(self, request: httpx.Request, *, status: int | None, seconds: float) -> None:
        """Record how long ``request`` took; ``status`` is None where no answer began."""
        label = _NO_STATUS if status is None else str(status)
        self._duration.labels(self._host(request), request.method, label).observe(seconds)

    def count_error(self, request: httpx.Request, exc: BaseException) -> None:
        """Count ``exc`` under its class name."""
        self._errors.labels(self._host(request), type(exc).__name__).inc()

    def _host(self, request: httpx.Request) -> str:
        host = request.url.host
        if host not in self._hosts:
            if len(self._hosts) >= self._max_hosts:
                return _OTHER_HOSTS
            self._hosts.add(host)
        return host


class _Call:
    """One request being measured; its duration is observed exactly once, however it ends."""

    def __init__(self, metrics: OutboundMetrics | None, request: httpx.Request) -> None:
        self._metrics = metrics
        self._request = request
        self._started = time.perf_counter()
        self._over = False

    def fail(self, exc: BaseException, *, status: int | None = None) -> None:
        if self._metrics is not None and not self._over:
            self._metrics.count_error(self._request, exc)
        self.end(status=status)

    def end(self, *, status: int | None) -> None:
        if self._metrics is not None and not self._over:
            self._metrics.observe(self._request, status=status, seconds=time.perf_counter() - self._started)
        self._over = True


class _ObservedStream(httpx.AsyncByteStream):
    """The body of an answer; its end, good or bad, is the end of the call."""

    def __init__(self, inner: httpx.AsyncByteStream, call: _Call, status: int) -> None:
        self._inner = inner
        self._call = call
        self._status = status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except GeneratorExit:
            raise  # the reader had enough, which is no fault of the other side
        except BaseException as exc:
            self._call.fail(exc, status=self._status)
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        except BaseException as exc:
            self._call.fail(exc, status=self._status)
            raise
        self._call.end(status=self._status)


class ObservedTransport(httpx.AsyncBaseTransport):
    """Puts the trace context into each request and measures it, failures included.

    Event hooks cannot do this: they are not called when a request fails.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *,
        metrics: OutboundMetrics | None,
        inject: HeaderInjector | None,
    ) -> None:
        self._inner = inner
        self._metrics = metrics
        self._inject = inject

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``; the answer's stream goes on measuring until it is closed."""
        if self._inject is not None:
            self._inject(request.headers)
        call = _Call(self._metrics, request)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as exc:
            call.fail(exc)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _ObservedStream(response.stream, call, response.status_code)
        return response

    async def aclose(self) -> None:
        """Close the connections underneath."""
        await self._inner.aclose()


# --- the client -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds until a phase of a call is given up: connecting, silence while reading or writing, the pool."""

    connect: float
    read: float
    write: float
    pool: float


def create_http_client(
    *,
    timeout: HttpTimeouts,
    proxy: str | None,
    user_agent: str,
    metrics: OutboundMetrics | None = None,
    inject: HeaderInjector | None = None,
    max_connections: int = 1_000,
    max_idle: int = _MAX_IDLE,
) -> httpx.AsyncClient:
    """Build the client of one process; whoever calls this closes it.

    It never follows redirects (a redirected POST is a second effect, a redirected callback an open door), never
    retries, and takes neither proxy nor credentials from the environment: ``proxy`` says it all.
    ``max_connections`` has to exceed the number of calls at once, since waiting in the pool costs far more CPU than
    a connection does. ``max_idle`` 0 gives every call a connection of its own: none can die unseen under it.
    """
    # Few connections are kept: for each event the pool walks the square of the idle ones (httpcore 1.0), and every
    # kept one may die unseen under the next request, which turns that call's outcome into UNKNOWN.
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_idle)
    # The transport's trust_env only honours SSL_CERT_FILE and SSL_CERT_DIR, which operators rely on.
    wire = httpx.AsyncHTTPTransport(proxy=proxy, limits=limits, retries=0, trust_env=True)
    return httpx.AsyncClient(
        transport=ObservedTransport(wire, metrics=metrics, inject=inject),
        timeout=httpx.Timeout(connect=timeout.connect, read=timeout.read, write=timeout.write, pool=timeout.pool),
        headers={"User-Agent": user_agent},
        follow_redirects=False,
        trust_env=False,
    )
