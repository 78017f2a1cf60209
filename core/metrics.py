"""What operators measure: our own series, the pool's, the process's, and those of Temporal's SDK in one document.

Labels are short lists by construction: route templates, kinds, outcomes, models. No id, no tenant and no address
from outside may become one.
"""

import asyncio
import contextlib
import http.client
import logging
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of what :func:`render` returns."""

_SDK_TIMEOUT_SECONDS: Final = 2.0
_OK: Final = 200

# The long poll of a waiting client lasts a minute; a bulk upload may as well.
_REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_JOB_BUCKETS: Final = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400)

_QUICK: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS: Final = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
_EFFECTS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0)
_WHOLE_RUNS: Final = tuple(float(bound) for bound in _JOB_BUCKETS)
_SDK_BUCKETS: Final = {
    "temporal_request_latency": _QUICK,
    "temporal_long_request_latency": _WAITS,
    "temporal_workflow_task_execution_latency": _QUICK,
    "temporal_workflow_task_replay_latency": _QUICK,
    "temporal_workflow_task_schedule_to_start_latency": _WAITS,
    "temporal_activity_schedule_to_start_latency": _WAITS,
    "temporal_activity_execution_latency": _EFFECTS,
    "temporal_activity_succeed_endtoend_latency": _EFFECTS,
    "temporal_local_activity_execution_latency": _EFFECTS,
    "temporal_local_activity_succeed_endtoend_latency": _EFFECTS,
    "temporal_workflow_endtoend_latency": _WHOLE_RUNS,
}


def create_registry() -> CollectorRegistry:
    """A registry of one process, with what the process itself uses: CPU, memory, file descriptors, collections."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class ApiMetrics:
    """The series of an API process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            ("method", "route", "status"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("http_server_requests_in_flight", "Requests being answered now.", registry=registry)
        self.sse_watchers = Gauge("longhaul_sse_watchers", "Event streams that are open now.", registry=registry)

    def observe_request(self, *, method: str, route: str | None, status: int, seconds: float) -> None:
        """Record an answered request. ``route`` is the template; requests that met none share one label."""
        known = method if method in _METHODS else "other"
        self._duration.labels(known, route or "none", str(status)).observe(seconds)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count an event stream as open inside the block."""
        with self.sse_watchers.track_inprogress():
            yield


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class WorkerMetrics:
    """The series of a worker process; the attributes are the collectors, the methods are how to feed them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Counter(
            "longhaul_jobs_finished", "Jobs that reached a final state.", ("kind", "status"), registry=registry
        )
        self._job_duration = Histogram(
            "longhaul_job_duration_seconds",
            "Time from the acceptance of a job to its final state.",
            ("kind", "status"),
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._commands = Counter(
            "longhaul_commands_delivered",
            "Commands that the dispatcher gave to Temporal, by what came of it.",
            ("action", "outcome"),
            registry=registry,
        )
        self.commands_waiting = Gauge(
            "longhaul_commands_waiting", "Commands that Temporal has not been given yet.", registry=registry
        )
        self._reconciled = Counter(
            "longhaul_reconciled", "Jobs whose row was put right, by what was found.", ("finding",), registry=registry
        )
        self._tokens = Counter(
            "gen_ai_client_token_usage",
            "Tokens that a provider billed.",
            ("provider", "model", "kind", "token_type"),
            registry=registry,
        )
        self._cost = Counter(
            "longhaul_cost_usd", "What paid calls cost, in US dollars, by the kind of job.",
            ("provider", "model", "kind"), registry=registry,
        )  # fmt: skip
        self._cost_alerts = Counter(
            "longhaul_cost_alerts", "Jobs that spent as much as an alert was asked for.", ("kind",), registry=registry
        )
        self._calls = Counter(
            "longhaul_model_calls", "Calls of models, by outcome.", ("provider", "model", "outcome"), registry=registry
        )

        self._flushed = Counter(
            "longhaul_records_flushed", "Records that left the inbox.", ("collection",), registry=registry
        )
        self._flush_duration = Histogram(
            "longhaul_flush_duration_seconds", "One transaction from the inbox to the tables.", ("collection",),
            registry=registry,
        )  # fmt: skip
        self._flush_faults = Counter(
            "longhaul_flush_faults", "Looks into the inbox that failed, by code.", ("collection", "code"),
            registry=registry,
        )  # fmt: skip
        self.records_pending = Gauge(
            "longhaul_records_pending", "Acknowledged records in the inbox.", ("collection", "shard"), registry=registry
        )

    def count_flush(self, *, collection: str, records: int, seconds: float) -> None:
        """Record one transaction from the inbox to the tables."""
        self._flushed.labels(collection).inc(records)
        self._flush_duration.labels(collection).observe(seconds)

    def count_flush_fault(self, *, collection: str, code: str) -> None:
        """Record a look into the inbox that failed."""
        self._flush_faults.labels(collection, code).inc()

    def count_job(self, *, kind: str, status: str, seconds: float) -> None:
        """Record a job that reached its final ``status``, ``seconds`` after it was accepted."""
        self._jobs.labels(kind, status).inc()
        self._job_duration.labels(kind, status).observe(max(seconds, 0.0))

    def count_command(self, *, action: str, outcome: str) -> None:
        """Record a command that was handed to Temporal, and what came of it."""
        self._commands.labels(action, outcome).inc()

    def count_reconciled(self, finding: str) -> None:
        """Record a job that the reconciler put right."""
        self._reconciled.labels(finding).inc()

    def count_model_call(self, *, provider: str, model: str, outcome: str) -> None:
        """Record a call of a model, whatever its end."""
        self._calls.labels(provider, model, outcome).inc()

    def count_usage(
        self, *, provider: str, model: str, input_tokens: int, output_tokens: int, usd: float, kind: str = "other"
    ) -> None:
        """Record what a call of a job of this kind used and cost; cached answers use nothing and are not recorded."""
        self._tokens.labels(provider, model, kind, "input").inc(input_tokens)
        self._tokens.labels(provider, model, kind, "output").inc(output_tokens)
        self._cost.labels(provider, model, kind).inc(usd)

    def count_cost_alert(self, *, kind: str) -> None:
        """Record a job that has become expensive; each is counted once."""
        self._cost_alerts.labels(kind).inc()


class PoolCollector(Collector):
    """The connections of an engine's pool, read when somebody asks: ``registry.register(PoolCollector(engine))``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Nothing, which spares the registry a look at the pool when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The pool now. A pool without bounds has no numbers and yields nothing."""
        pool = self._engine.pool
        if not isinstance(pool, QueuePool):
            return
        connections = GaugeMetricFamily(
            "longhaul_database_pool_connections", "Connections of the pool, by state.", labels=("state",)
        )
        connections.add_metric(["used"], pool.checkedout())
        connections.add_metric(["idle"], pool.checkedin())
        yield connections
        yield GaugeMetricFamily(
            "longhaul_database_pool_limit", "Connections that the pool may open.", value=pool.size() + _overflow(pool)
        )


def _overflow(pool: QueuePool) -> int:
    return max(pool._max_overflow, 0)  # noqa: SLF001 - the pool has no other way to tell


# --- Temporal's SDK ---------------------------------------------------------------------------------


def temporal_runtime(*, metrics_address: str | None) -> Runtime:
    """The runtime that ``Client.connect`` takes; one per process, as each brings threads of its own.

    With an address (``host:port``, loopback: nothing guards it) the SDK serves its metrics there, in seconds and with
    the usual suffixes. What it has to say goes to the logger ``temporalio``, not past our pipeline.
    Raises ValueError where the address is taken.
    """
    metrics = None
    if metrics_address is not None:
        metrics = PrometheusConfig(
            bind_address=metrics_address,
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
            histogram_bucket_overrides=_SDK_BUCKETS,
        )
    logs = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio")),
    )
    return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics))


async def render(registry: CollectorRegistry, sdk_metrics_url: str | None = None) -> bytes:
    """Our series and the SDK's as one exposition document of the type ``CONTENT_TYPE``.

    ``longhaul_sdk_metrics_up`` is 0 where the SDK's cannot be read or make no sense; that is never an error.
    """
    ours = generate_latest(registry)
    if sdk_metrics_url is None:
        return ours
    # Reading a socket and parsing a few thousand lines have no place on the event loop.
    theirs = await asyncio.to_thread(_read_sdk, sdk_metrics_url)
    up = Gauge(
        "longhaul_sdk_metrics_up",
        "Whether the metrics of Temporal's SDK could be read.",
        registry=(own := CollectorRegistry()),
    )
    up.set(theirs is not None)
    return ours + generate_latest(own) + (theirs or b"")


def _read_sdk(url: str) -> bytes | None:
    """The SDK's exposition text, checked to be one; None where there is none."""
    parts = urlsplit(url)
    # http.client knows nothing of proxies in the environment, which must not see a request to loopback.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_SDK_TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path or "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != _OK:
            return None
        list(text_string_to_metric_families(text))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    body = text.removesuffix("# EOF\n")
    return body.encode() if body.endswith("\n") or not body else f"{body}\n".encode()
