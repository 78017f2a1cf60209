import asyncio
import contextlib
import http.server
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from prometheus_client import CollectorRegistry
    from prometheus_client.parser import text_string_to_metric_families
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from core.metrics import ApiMetrics, PoolCollector, WorkerMetrics, create_registry, render, temporal_runtime

TEMPORAL = Path(sys.executable).with_name("temporal")
UNREACHABLE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"


def _samples(document: bytes) -> dict[str, float]:
    """The value of each series, by its name and labels; fails on what is not an exposition document."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(document.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            series = f"{sample.name}{{{labels}}}"
            assert series not in found, f"{series} appears twice"
            found[series] = sample.value
    return found


class TestRegistry:
    async def test_shows_the_process(self) -> None:
        samples = _samples(await render(create_registry()))
        assert samples["process_resident_memory_bytes{}"] > 0
        assert any(name.startswith("python_info") for name in samples)
        assert any(name.startswith("python_gc_collections_total") for name in samples)

    async def test_is_made_anew(self) -> None:
        """Two processes' worth of metrics fit into one, as tests and `make up` want."""
        for _ in range(2):
            registry = create_registry()
            ApiMetrics(registry)
            WorkerMetrics(registry)


class TestApi:
    async def test_counts_requests(self) -> None:
        registry = CollectorRegistry()
        metrics = ApiMetrics(registry)
        metrics.observe_request(method="GET", route="/jobs/{job_id}", status=200, seconds=0.02)
        metrics.observe_request(method="BREW", route=None, status=404, seconds=0.02)
        samples = _samples(await render(registry))
        assert samples["http_server_request_duration_seconds_count{method=GET,route=/jobs/{job_id},status=200}"] == 1
        assert samples["http_server_request_duration_seconds_count{method=other,route=none,status=404}"] == 1

    async def test_counts_what_is_open(self) -> None:
        registry = CollectorRegistry()
        metrics = ApiMetrics(registry)
        with metrics.watching(), metrics.in_flight.track_inprogress():
            samples = _samples(await render(registry))
        assert samples["longhaul_sse_watchers{}"] == 1
        assert samples["http_server_requests_in_flight{}"] == 1
        assert _samples(await render(registry))["longhaul_sse_watchers{}"] == 0


class TestWorker:
    async def test_has_the_names_that_alerts_use(self) -> None:
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry)
        metrics.count_job(kind="a.b", status="failed", seconds=-0.1)
        metrics.count_command(action="start", outcome="delivered")
        metrics.commands_waiting.set(3)
        metrics.count_reconciled("terminated")
        metrics.count_model_call(provider="openai", model="m", outcome="done")
        metrics.count_usage(provider="openai", model="m", input_tokens=7, output_tokens=2, usd=0.5, kind="a.b")
        metrics.count_cost_alert(kind="a.b")
        samples = _samples(await render(registry))
        expected = {
            "longhaul_jobs_finished_total{kind=a.b,status=failed}": 1,
            "longhaul_job_duration_seconds_sum{kind=a.b,status=failed}": 0,
            "longhaul_commands_delivered_total{action=start,outcome=delivered}": 1,
            "longhaul_commands_waiting{}": 3,
            "longhaul_reconciled_total{finding=terminated}": 1,
            "longhaul_model_calls_total{model=m,outcome=done,provider=openai}": 1,
            "gen_ai_client_token_usage_total{kind=a.b,model=m,provider=openai,token_type=input}": 7,
            "gen_ai_client_token_usage_total{kind=a.b,model=m,provider=openai,token_type=output}": 2,
            "longhaul_cost_usd_total{kind=a.b,model=m,provider=openai}": 0.5,
            "longhaul_cost_alerts_total{kind=a.b}": 1,
        }
        assert {series: samples[series] for series in expected} == expected


class TestPool:
    async def test_is_read_without_connecting(self) -> None:
        engine = create_async_engine(UNREACHABLE, pool_size=7, max_overflow=2)
        registry = CollectorRegistry()
        registry.register(PoolCollector(engine))
        samples = _samples(await render(registry))
        assert samples["longhaul_database_pool_limit{}"] == 9
        assert samples["longhaul_database_pool_connections{state=used}"] == 0
        assert samples["longhaul_database_pool_connections{state=idle}"] == 0
        await engine.dispose()

    async def test_without_bounds_has_no_numbers(self) -> None:
        engine = create_async_engine(UNREACHABLE, poolclass=NullPool)
        assert list(PoolCollector(engine).collect()) == []


@activity.defn
async def greet() -> str:
    return "hello"


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(greet, start_to_close_timeout=timedelta(seconds=10))


@pytest.fixture(scope="module")
def sdk_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
async def sdk_url(sdk_address: str) -> AsyncIterator[str]:
    """The metrics of a worker that has run one workflow."""
    runtime = temporal_runtime(metrics_address=sdk_address)
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(TEMPORAL), dev_server_log_level="error", runtime=runtime
        ) as environment,
        Worker(environment.client, task_queue="q", workflows=[Greeting], activities=[greet]),
    ):
        assert await environment.client.execute_workflow(Greeting.run, id="greeting", task_queue="q") == "hello"
        yield f"http://{sdk_address}/metrics"


class TestSdk:
    async def test_is_part_of_the_document(self, sdk_url: str) -> None:
        registry = create_registry()
        WorkerMetrics(registry).commands_waiting.set(1)
        samples = _samples(await render(registry, sdk_url))
        assert samples["longhaul_sdk_metrics_up{}"] == 1
        assert samples["longhaul_commands_waiting{}"] == 1
        assert any(series.startswith("temporal_workflow_completed_total{") for series in samples)

    async def test_measures_in_seconds_and_counts_totals(self, sdk_url: str) -> None:
        document = await render(CollectorRegistry(), sdk_url)
        families = [
            one for one in text_string_to_metric_families(document.decode()) if one.name.startswith("temporal_")
        ]
        histograms = [one for one in families if one.type == "histogram"]
        counters = [sample.name for one in families if one.type == "counter" for sample in one.samples]
        assert "temporal_activity_execution_latency_seconds" in {one.name for one in histograms}
        assert all(one.name.endswith("_seconds") for one in histograms)
        assert counters
        assert all(name.endswith("_total") for name in counters)

    async def test_buckets_reach_as_far_as_jobs_take(self, sdk_url: str) -> None:
        samples = _samples(await render(CollectorRegistry(), sdk_url))
        bounds = {
            float(series.partition("le=")[2].split(",")[0].rstrip("}"))
            for series in samples
            if series.startswith("temporal_workflow_endtoend_latency_seconds_bucket")
        }
        assert {0.5, 3_600.0, 86_400.0} <= bounds

    async def test_an_address_in_use_is_refused(self, sdk_url: str, sdk_address: str) -> None:
        with pytest.raises(ValueError, match="in use"):
            temporal_runtime(metrics_address=sdk_address)

    async def test_ignores_proxies(self, sdk_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert _samples(await render(CollectorRegistry(), sdk_url))["longhaul_sdk_metrics_up{}"] == 1


class TestSdkAway:
    async def test_is_said_and_no_error(self, sdk_address: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        registry = CollectorRegistry()
        WorkerMetrics(registry).commands_waiting.set(1)
        samples = _samples(await render(registry, f"http://127.0.0.1:{port}/metrics"))
        assert samples["longhaul_sdk_metrics_up{}"] == 0
        assert samples["longhaul_commands_waiting{}"] == 1

    @pytest.mark.parametrize(
        ("status", "body"), [(500, b"x 1\n"), (200, b"<html>no metrics</html>"), (200, b"\xff\xfe"), (200, b"x y z\n")]
    )
    async def test_nonsense_spoils_nothing(self, status: int, body: bytes) -> None:
        with _answering(status, body) as url:
            samples = _samples(await render(CollectorRegistry(), url))
        assert samples == {"longhaul_sdk_metrics_up{}": 0}

    async def test_silence_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("core.metrics._SDK_TIMEOUT_SECONDS", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with asyncio.timeout(5):
                samples = _samples(await render(CollectorRegistry(), f"http://127.0.0.1:{silent.getsockname()[1]}/"))
        assert samples["longhaul_sdk_metrics_up{}"] == 0

    async def test_an_unfinished_last_line_is_finished(self) -> None:
        with _answering(200, b"# TYPE x gauge\nx 1") as url:
            document = await render(CollectorRegistry(), url)
        assert document.endswith(b"x 1\n")


class TestSdkOff:
    async def test_adds_nothing(self) -> None:
        assert await render(CollectorRegistry()) == b""

    def test_needs_no_address(self) -> None:
        assert temporal_runtime(metrics_address=None) is not None


@contextlib.contextmanager
def _answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join()
