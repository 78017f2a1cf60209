import asyncio
import contextlib
import http.server
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import httpx
    from fastapi import APIRouter, FastAPI
    from opentelemetry import trace
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

    from core.http import HttpTimeouts, create_http_client
    from core.logging import create_mask
    from core.telemetry import Tracing, TracingMiddleware, create_tracing, operation_of
    from services.stack.postgres import EmbeddedPostgres

TEMPORAL = Path(sys.executable).with_name("temporal")
CANARY = "canary-7f3a"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT_SPAN = "b7ad6b7169203331"


class Collector:
    """An OTLP/HTTP collector on a real socket; also takes any other request and remembers its headers."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.called_with: list[dict[str, str]] = []
        self.url = ""

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def one(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found


def _attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with _collecting() as one:
        yield one


@contextlib.contextmanager
def _collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
            else:
                collector.called_with.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
async def tracing(collector: Collector) -> AsyncIterator[Tracing]:
    """Tracing that is on; a test calls shutdown to see what it exported."""
    one = create_tracing(endpoint=collector.url, service_name="api", version="1.2.3", mask=create_mask([CANARY]))
    yield one
    await one.shutdown()


@pytest.fixture(scope="module")
async def database_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    server = EmbeddedPostgres(data_dir=tmp_path_factory.mktemp("telemetry") / "postgres")
    await asyncio.to_thread(server.start)
    yield server.superuser_url
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    one = create_async_engine(database_url, pool_size=2, hide_parameters=True)
    yield one
    await one.dispose()


class TestOff:
    async def test_costs_nothing(self) -> None:
        """No provider, no interceptor, no thread, no listener; every method can be called all the same."""
        threads = threading.active_count()
        tracing = create_tracing(endpoint=None, service_name="api", version="1")
        engine = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
        tracing.instrument_engine(engine)
        headers: dict[str, str] = {}
        with tracing.attach(PARENT), tracing.continued([(b"traceparent", PARENT.encode())]), tracing.span("x") as span:
            tracing.inject(headers)
            assert tracing.current_traceparent() is None
        assert not tracing.enabled
        assert not span.is_recording()
        assert headers == {}
        assert tracing.temporal_interceptors() == []
        assert not engine.sync_engine.dispatch.before_cursor_execute
        assert not engine.sync_engine.dispatch.after_cursor_execute
        assert not engine.sync_engine.dialect.dispatch.handle_error
        assert threading.active_count() == threads
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        await tracing.shutdown()


class TestOn:
    async def test_leaves_the_global_provider_alone(self, tracing: Tracing) -> None:
        assert tracing.enabled
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    async def test_says_who_it_is(self, tracing: Tracing, collector: Collector) -> None:
        with tracing.span("work", attributes={"n": 1}):
            pass
        await tracing.shutdown()
        resource = _attributes(collector.requests[0].resource_spans[0].resource)
        assert resource["service.name"] == "api"
        assert resource["service.version"] == "1.2.3"
        assert resource["service.instance.id"]
        assert _attributes(collector.one("work")) == {"n": 1}

    @pytest.mark.parametrize("suffix", ["", "/", "/v1/traces"])
    async def test_takes_the_base_url_or_the_whole(self, collector: Collector, suffix: str) -> None:
        tracing = create_tracing(endpoint=collector.url + suffix, service_name="api", version="1")
        with tracing.span("work"):
            pass
        await tracing.shutdown()
        assert collector.one("work")

    async def test_masks_what_leaves(self, tracing: Tracing, collector: Collector) -> None:
        """Exceptions quote URLs and answers; the type of the fault and its place stay readable."""
        with pytest.raises(ValueError, match="canary"), tracing.span("work", attributes={"url": "http://u:pw@h/"}):
            raise ValueError(f"bad {CANARY} and lh_live_abcdefgh")
        await tracing.shutdown()
        exported = b"".join(request.SerializeToString() for request in collector.requests)
        assert CANARY.encode() not in exported
        assert b"abcdefgh" not in exported
        assert b"u:pw@" not in exported
        span = collector.one("work")
        assert span.status.code == span.status.STATUS_CODE_ERROR
        assert _attributes(span.events[0])["exception.message"] == "bad *** and lh_***"

    async def test_shutdown_gives_up_on_an_absent_collector(self) -> None:
        tracing = create_tracing(endpoint="http://127.0.0.1:1", service_name="api", version="1")
        with tracing.span("work"):
            pass
        async with asyncio.timeout(15):
            await tracing.shutdown()
            await tracing.shutdown()


class TestContinuing:
    async def test_a_job_continues_the_trace_of_its_request(self, tracing: Tracing, collector: Collector) -> None:
        with tracing.span("request"):
            kept = tracing.current_traceparent()
        assert tracing.current_traceparent() is None
        with tracing.attach(kept), tracing.span("dispatch"):
            headers: dict[str, str] = {}
            tracing.inject(headers)
        await tracing.shutdown()
        request, dispatch = collector.one("request"), collector.one("dispatch")
        assert dispatch.trace_id == request.trace_id
        assert dispatch.parent_span_id == request.span_id
        assert headers["traceparent"].split("-")[2] == dispatch.span_id.hex()

    @pytest.mark.parametrize("broken", [None, "", "nonsense", "00-0-0-00", f"{PARENT}\r\n"])
    async def test_a_broken_one_changes_nothing(
        self, tracing: Tracing, collector: Collector, broken: str | None
    ) -> None:
        with tracing.span("outer"), tracing.attach(broken), tracing.span("inner"):
            pass
        await tracing.shutdown()
        assert collector.one("inner").parent_span_id == collector.one("outer").span_id


@pytest.fixture
async def api(tracing: Tracing) -> AsyncIterator[httpx.AsyncClient]:
    jobs, v1, app = APIRouter(prefix="/jobs"), APIRouter(prefix="/api/v1"), FastAPI()

    @jobs.get("/{job_id}")
    async def get_job(job_id: str) -> str:
        if job_id == "broken":
            raise ValueError(job_id)
        return tracing.current_traceparent() or ""

    @app.get("/healthz")
    async def get_health() -> None:
        """Alive."""

    v1.include_router(jobs)
    app.include_router(v1)
    traced = TracingMiddleware(app, tracing=tracing)
    transport = httpx.ASGITransport(traced, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


class TestMiddleware:
    async def test_names_the_route(self, tracing: Tracing, api: httpx.AsyncClient, collector: Collector) -> None:
        """The whole template: a route of an included router knows only its end of it."""
        answer = await api.get("/api/v1/jobs/7", headers={"traceparent": PARENT})
        await tracing.shutdown()
        span = collector.one("GET /api/v1/jobs/{job_id}")
        assert span.kind == Span.SPAN_KIND_SERVER
        assert span.trace_id.hex() == PARENT_TRACE
        assert span.parent_span_id.hex() == PARENT_SPAN
        assert answer.json().split("-")[2] == span.span_id.hex()
        assert _attributes(span) == {
            "http.request.method": "GET",
            "http.route": "/api/v1/jobs/{job_id}",
            "http.response.status_code": 200,
            "url.path": "/api/v1/jobs/7",
            "url.scheme": "http",
        }

    async def test_what_is_not_found_has_no_route(
        self, tracing: Tracing, api: httpx.AsyncClient, collector: Collector
    ) -> None:
        await api.get("/api/v1/other")
        await api.request("BREW", "/api/v1/other")
        await tracing.shutdown()
        assert _attributes(collector.one("GET"))["http.response.status_code"] == 404
        assert "http.route" not in _attributes(collector.one("GET"))
        assert _attributes(collector.one("HTTP"))["http.request.method"] == "_OTHER"
        assert _attributes(collector.one("HTTP"))["http.request.method_original"] == "BREW"

    async def test_a_fault_is_an_error(self, tracing: Tracing, api: httpx.AsyncClient, collector: Collector) -> None:
        assert (await api.get("/api/v1/jobs/broken")).status_code == 500
        await tracing.shutdown()
        span = collector.one("GET /api/v1/jobs/{job_id}")
        assert span.status.code == span.status.STATUS_CODE_ERROR
        assert _attributes(span)["error.type"] == "ValueError"

    async def test_probes_are_not_traced(self, tracing: Tracing, api: httpx.AsyncClient, collector: Collector) -> None:
        await api.get("/healthz")
        await tracing.shutdown()
        assert collector.spans == []


class TestSql:
    async def test_each_statement_has_its_span(
        self, tracing: Tracing, engine: AsyncEngine, collector: Collector
    ) -> None:
        tracing.instrument_engine(engine)
        with tracing.span("work"):
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TEMPORARY TABLE facts (id int, name text)"))
                statement = text("INSERT INTO facts VALUES (:id, :name)")
                await connection.execute(statement, [{"id": 1, "name": CANARY}, {"id": 2, "name": "b"}])
                await connection.execute(text("/* why */ SELECT name FROM facts WHERE id = :id"), {"id": 1})
        await tracing.shutdown()
        work, insert, select = (collector.one(name) for name in ("work", "INSERT", "SELECT"))
        assert insert.parent_span_id == select.parent_span_id == work.span_id
        assert select.kind == Span.SPAN_KIND_CLIENT
        assert _attributes(insert)["db.operation.batch.size"] == 2
        attributes = _attributes(select)
        assert attributes["db.system.name"] == "postgresql"
        assert attributes["db.namespace"] == "longhaul"
        assert attributes["db.operation.name"] == "SELECT"
        assert attributes["db.query.text"].endswith("WHERE id = %(id)s")
        assert CANARY not in str(collector.spans)

    async def test_a_refused_one_says_so(self, tracing: Tracing, engine: AsyncEngine, collector: Collector) -> None:
        """With the state, not the message: that quotes values."""
        tracing.instrument_engine(engine)
        with tracing.span("work"):
            async with engine.connect() as connection:
                with pytest.raises(DBAPIError):
                    await connection.execute(text("SELECT CAST(:value AS int)"), {"value": "personal"})
                await connection.rollback()
                await connection.execute(text("SELECT 1"))
        await tracing.shutdown()
        failed, fine = (span for span in collector.spans if span.name == "SELECT")
        assert failed.status.code == failed.status.STATUS_CODE_ERROR
        assert _attributes(failed)["error.type"] == "22P02"
        assert _attributes(failed)["db.response.status_code"] == "22P02"
        assert fine.status.code == fine.status.STATUS_CODE_UNSET
        assert fine.parent_span_id == collector.one("work").span_id
        assert "personal" not in str(collector.spans)

    async def test_a_cancelled_one_ends(self, tracing: Tracing, engine: AsyncEngine, collector: Collector) -> None:
        tracing.instrument_engine(engine)
        with tracing.span("work"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2), engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(30)"))
        await tracing.shutdown()
        assert _attributes(collector.one("SELECT"))["error.type"] == "CancelledError"

    async def test_concurrent_ones_keep_their_parents(
        self, tracing: Tracing, engine: AsyncEngine, collector: Collector
    ) -> None:
        tracing.instrument_engine(engine)

        async def ask(name: str) -> None:
            with tracing.span(name):
                async with engine.connect() as connection:
                    await connection.execute(text(f"SELECT '{name}', pg_sleep(0.05)"))

        await asyncio.gather(ask("a"), ask("b"))
        await tracing.shutdown()
        selects = {_attributes(one)["db.query.text"][8]: one for one in collector.spans if one.name == "SELECT"}
        for name in ("a", "b"):
            assert selects[name].parent_span_id == collector.one(name).span_id

    async def test_outside_a_trace_there_is_none(
        self, tracing: Tracing, engine: AsyncEngine, collector: Collector
    ) -> None:
        """The dispatcher looks into the database for ever."""
        tracing.instrument_engine(engine)
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await tracing.shutdown()
        assert collector.spans == []

    @pytest.mark.parametrize(
        ("statement", "operation"),
        [
            ("SELECT 1", "SELECT"),
            ("\n  with x as (select 1) select * from x", "WITH"),
            ("-- why\n/* and\nhow */ update t set a = 1", "UPDATE"),
            ("", "SQL"),
            ("/* unfinished", "SQL"),
            ("(SELECT 1)", "SQL"),
        ],
    )
    def test_is_named_after_its_operation(self, statement: str, operation: str) -> None:
        assert operation_of(statement) == operation


class Activities:
    def __init__(self, engine: AsyncEngine, client: httpx.AsyncClient, url: str) -> None:
        self._engine = engine
        self._client = client
        self._url = url

    @activity.defn
    async def publish(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await self._client.post(f"{self._url}/vendor", content=b"x")


@workflow.defn
class Publishing:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(Activities.publish, start_to_close_timeout=timedelta(seconds=30))


@pytest.fixture
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(TEMPORAL), dev_server_log_level="error"
    ) as environment:
        yield environment


class TestTheWholeWay:
    async def test_one_trace_from_the_request_to_the_vendor(
        self, tracing: Tracing, engine: AsyncEngine, collector: Collector, temporal: WorkflowEnvironment
    ) -> None:
        """HTTP request -> kept with the job -> dispatcher -> workflow (sandboxed) -> activity -> SQL and HTTP."""
        tracing.instrument_engine(engine)
        config = temporal.client.config()
        config["interceptors"] = tracing.temporal_interceptors()
        client = type(temporal.client)(**config)
        kept: list[str | None] = []
        app = FastAPI()

        @app.post("/jobs")
        async def accept_job() -> None:
            kept.append(tracing.current_traceparent())

        timeout = HttpTimeouts(connect=5, read=5, write=5, pool=5)
        traced = TracingMiddleware(app, tracing=tracing)
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(traced), base_url="http://test") as caller,
            create_http_client(timeout=timeout, proxy=None, user_agent="test", inject=tracing.inject) as outgoing,
            Worker(
                client,
                task_queue="publishing",
                workflows=[Publishing],
                activities=[Activities(engine, outgoing, collector.url).publish],
            ),
        ):
            assert (await caller.post("/jobs", headers={"traceparent": PARENT})).status_code == 200
            with tracing.attach(kept[0]):
                handle = await client.start_workflow(Publishing.run, id="publishing/1", task_queue="publishing")
            await handle.result()
        await tracing.shutdown()
        parents = {
            "POST /jobs": PARENT_SPAN,
            "StartWorkflow:Publishing": collector.one("POST /jobs").span_id.hex(),
            "RunWorkflow:Publishing": collector.one("StartWorkflow:Publishing").span_id.hex(),
            "StartActivity:publish": collector.one("StartWorkflow:Publishing").span_id.hex(),
            "RunActivity:publish": collector.one("StartActivity:publish").span_id.hex(),
            "SELECT": collector.one("RunActivity:publish").span_id.hex(),
        }
        assert {name: collector.one(name).parent_span_id.hex() for name in parents} == parents
        assert {span.trace_id.hex() for span in collector.spans} == {PARENT_TRACE}
        (vendor,) = collector.called_with
        assert vendor["traceparent"].split("-")[1:3] == [
            PARENT_TRACE,
            collector.one("RunActivity:publish").span_id.hex(),
        ]
