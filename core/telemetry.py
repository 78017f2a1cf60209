"""Tracing: one trace from the HTTP request through the dispatcher and Temporal to the SQL of an activity.

Nothing here is global. Where no collector is configured there is no provider, no interceptor and no listener, and
every method returns at once.
"""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.contrib.opentelemetry import TracingInterceptor

from core.database import on_each_statement
from core.logging import Mask, create_mask

_EXPORT_TIMEOUT_SECONDS: Final = 5.0  # bounds shutdown as well: an absent collector must not use up the grace period
_TRACES_PATH: Final = "/v1/traces"
_LONGEST_STATEMENT_CHARS: Final = 4_096
_OPERATION: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)
_SPANS_KEY: Final = "longhaul.spans"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_SERVER_FAULT: Final = 500
_UNTRACED_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Tracing:
    """The tracing of one process, on or off; made by :func:`create_tracing`, closed with :meth:`shutdown`."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("longhaul")
        self._propagator = TraceContextTextMapPropagator()

    @property
    def enabled(self) -> bool:
        """Whether spans are recorded at all."""
        return self._tracer is not None

    def temporal_interceptors(self) -> list[TracingInterceptor]:
        """What ``Client.connect`` takes as interceptors. Workers take them over from their client: not there again."""
        if self._tracer is None:
            return []
        return [TracingInterceptor(self._tracer)]

    def instrument_engine(self, engine: AsyncEngine) -> None:
        """Give each statement of ``engine`` a span, from now on; only inside a trace.

        What polls the database outside any trace would otherwise make a trace of each look.
        """
        if self._tracer is not None:
            _StatementSpans(self._tracer, engine).listen()

    def span(
        self, name: str, *, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes = None
    ) -> AbstractContextManager[Span]:
        """A span around a block, current inside it; an exception is recorded on it and passes."""
        if self._tracer is None:
            return nullcontext(trace.INVALID_SPAN)
        return self._tracer.start_as_current_span(name, kind=kind, attributes=attributes)

    def inject(self, headers: MutableMapping[str, str]) -> None:
        """Write the current trace context into the headers of an outgoing request."""
        if self._tracer is not None:
            self._propagator.inject(headers)

    def current_traceparent(self) -> str | None:
        """The W3C ``traceparent`` of the current span, to be kept with a job; None outside any trace."""
        headers: dict[str, str] = {}
        self.inject(headers)
        return headers.get("traceparent")

    def attach(self, traceparent: str | None) -> AbstractContextManager[None]:
        """Continue the trace of ``traceparent`` inside the block; without one, or with a broken one, change nothing."""
        if self._tracer is None or traceparent is None:
            return nullcontext()
        return self._attached({"traceparent": traceparent})

    def continued(self, headers: Sequence[tuple[bytes, bytes]]) -> AbstractContextManager[None]:
        """Continue the trace that the raw headers of an incoming request name, inside the block."""
        if self._tracer is None:
            return nullcontext()
        fields = self._propagator.fields
        return self._attached(
            {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in headers
                if name.decode("latin-1") in fields
            }
        )

    @contextlib.contextmanager
    def _attached(self, headers: Mapping[str, str]) -> Iterator[None]:
        # Without a context to start from, extract would answer a broken traceparent with an empty one.
        token = otel_context.attach(self._propagator.extract(headers, otel_context.get_current()))
        try:
            yield
        finally:
            otel_context.detach(token)

    async def shutdown(self) -> None:
        """Send what is still waiting and end; without a collector in reach, give up after a few seconds."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


def create_tracing(*, endpoint: str | None, service_name: str, version: str, mask: Mask | None = None) -> Tracing:
    """Tracing to the OTLP/HTTP collector at ``endpoint`` (its base URL); off where that is None.

    The global provider stays untouched. ``mask`` replaces secrets in whatever is exported (``create_mask`` of
    ``core.logging``); without it, only what looks like a secret is replaced. Headers for the collector, the sampler
    and further resource attributes come from OpenTelemetry's own environment variables.
    """
    if endpoint is None:
        return Tracing(None)
    base = endpoint.rstrip("/").removesuffix(_TRACES_PATH)
    exporter = OTLPSpanExporter(endpoint=base + _TRACES_PATH, timeout=_EXPORT_TIMEOUT_SECONDS)
    resource = Resource.create(
        {
            "service.name": service_name,
            "service.version": version,
            "service.namespace": "longhaul",
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    # Our own shutdown is awaited in order; at exit it would be too late for logging and too long for operators.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_MaskingExporter(exporter, mask or create_mask(()))))
    return Tracing(provider)


class _MaskingExporter(SpanExporter):
    """Takes secrets out of texts before they leave: exceptions quote URLs, headers and what a vendor answered."""

    def __init__(self, inner: SpanExporter, mask: Mask) -> None:
        self._inner = inner
        self._mask = mask

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export masked copies; this runs on the processor's thread, not where the span was made."""
        return self._inner.export([self._masked(span) for span in spans])

    def shutdown(self) -> None:
        """Close the connection to the collector."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything handed over has been sent."""
        return self._inner.force_flush(timeout_millis)

    def _masked(self, span: ReadableSpan) -> ReadableSpan:
        description = span.status.description
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._clean(span.attributes),
            events=[Event(one.name, self._clean(one.attributes), one.timestamp) for one in span.events],
            links=span.links,
            kind=span.kind,
            status=Status(span.status.status_code, None if description is None else self._mask(description)),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _clean(self, attributes: Attributes) -> dict[str, AttributeValue]:
        return {
            key: self._mask(value) if isinstance(value, str) else value for key, value in (attributes or {}).items()
        }


# --- SQL --------------------------------------------------------------------------------------------


class _StatementSpans:
    """Spans of the statements of one engine, named after their operation, with the stable database conventions."""

    def __init__(self, tracer: trace.Tracer, engine: AsyncEngine) -> None:
        self._tracer = tracer
        self._engine = engine
        url = engine.url
        host = url.query.get("host", url.host)
        where = {
            "db.system.name": url.get_backend_name(),
            "db.namespace": url.database,
            "server.address": host if isinstance(host, str) else None,
            "server.port": url.port,
        }
        self._attributes: dict[str, AttributeValue] = {key: value for key, value in where.items() if value is not None}

    def listen(self) -> None:
        """Hook into the engine, failures included."""
        on_each_statement(self._engine, self._before, self._after)
        event.listen(self._engine.sync_engine, "handle_error", self._failed)

    def _before(
        self,
        connection: Any,
        _cursor: Any,
        statement: str,
        parameters: Any,
        _context: Any,
        executemany: bool,  # noqa: FBT001
    ) -> None:
        if not trace.get_current_span().get_span_context().is_valid:
            return
        operation = operation_of(statement)
        attributes = {
            **self._attributes,
            "db.operation.name": operation,
            "db.query.text": statement[:_LONGEST_STATEMENT_CHARS],
        }
        if executemany and len(parameters) > 1:
            attributes["db.operation.batch.size"] = len(parameters)
        span = self._tracer.start_span(operation, kind=SpanKind.CLIENT, attributes=attributes)
        # Statements on one connection follow each other, so the connection is where a span waits for its end.
        connection.info.setdefault(_SPANS_KEY, []).append(span)

    def _after(self, connection: Any, *_: Any) -> None:
        spans = connection.info.get(_SPANS_KEY)
        if spans:
            spans.pop().end()

    def _failed(self, failure: ExceptionContext) -> None:
        connection = failure.connection
        spans = None if connection is None else connection.info.get(_SPANS_KEY)
        if not spans:
            return
        span, fault = spans.pop(), failure.original_exception
        state = getattr(fault, "sqlstate", None)
        # The message is left out: PostgreSQL quotes the values of the row it refuses.
        span.set_attribute("error.type", state or type(fault).__qualname__)
        if state is not None:
            span.set_attribute("db.response.status_code", state)
        span.set_status(Status(StatusCode.ERROR))
        span.end()


def operation_of(statement: str) -> str:
    """The first keyword of a statement in capitals; ``SQL`` where there is none."""
    found = _OPERATION.match(statement)
    return "SQL" if found is None else found.group(1).upper()


# --- HTTP -------------------------------------------------------------------------------------------


def route_template(scope: Mapping[str, Any]) -> str | None:
    """The template of the route that took a request, such as ``/api/v1/jobs/{job_id}``; None where none did.

    To be asked after the call. A route of an included router knows only its own end of the path; FastAPI keeps the
    whole of it aside.
    """
    effective = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(effective, "path_format", None) or getattr(scope.get("route"), "path_format", None)
    return path if isinstance(path, str) else None


class TracingMiddleware:
    """Gives each HTTP request its server span, continuing the caller's trace; add it only where tracing is on."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on inside a span; what is not HTTP, and what probes ask, passes without."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        original: str = scope["method"]
        method = original if original in _METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
        }
        if method != original:
            attributes["http.request.method_original"] = original
        name = method if method == original else "HTTP"
        with (
            self._tracing.continued(scope["headers"]),
            self._tracing.span(name, kind=SpanKind.SERVER, attributes=attributes) as span,
        ):
            try:
                await self._app(scope, receive, _watching(send, span))
            except Exception as fault:
                span.set_attribute("error.type", type(fault).__qualname__)
                raise
            finally:
                route = route_template(scope)
                if route is not None:
                    span.update_name(f"{name} {route}")
                    span.set_attribute("http.route", route)


def _watching(send: Send, span: Span) -> Send:
    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            status: int = message["status"]
            span.set_attribute("http.response.status_code", status)
            if status >= _SERVER_FAULT:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
        await send(message)

    return watch
