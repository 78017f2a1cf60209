"""The worker process: builds everything once, lists every registration by name, drains on SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
import uvloop
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.steps import GenerationActivities
from activities.generation.writer import StructuredWriter
from activities.jobs import JobActivities
from activities.steps import StepKeeper
from core.database import Database, check_schema, create_database
from core.health import health_app, serve
from core.http import HttpTimeouts, OutboundMetrics, create_http_client
from core.ids import new_id
from core.leaving import leave
from core.logging import configure_logging
from core.metrics import PoolCollector, WorkerMetrics, create_registry, render, temporal_runtime
from core.notify import Listener
from core.settings import ConfigurationError, Settings, load_settings
from core.store import create_artifact_store
from core.telemetry import Tracing, create_tracing
from core.temporal import connect, create_data_converter, workflow_sandbox
from core.version import VERSION
from domain.errors import DatabaseUnavailable, LonghaulError, TemporalUnavailable
from domain.generation import LanguageModel
from gateways.offline import OfflineLanguageModel
from gateways.openai import OpenAILanguageModel
from prompts.registry import PROMPTS
from repositories.commands import CHANNEL as COMMAND_CHANNEL
from repositories.workers import WorkerRepository
from services.commands import CommandSender, Dispatcher
from services.pollers import Pollers
from services.prompts import record_prompts
from services.reconciler import Reconciler
from services.schema import schema_head
from services.stack.ports import free_port
from workflows import diagnostics, generation
from workflows.diagnostics import NoopWorkflow
from workflows.generation import CourseGenerationWorkflow, CourseModuleWorkflow

_log = structlog.get_logger(__name__)

_BEAT_SECONDS: Final = 4.0
_WORKFLOW_TASKS: Final = 100


@dataclass(frozen=True, slots=True)
class Queue:
    """A task queue with everything that is served on it."""

    name: str
    workflows: Sequence[type]
    activities: Sequence[Any]


def queues(jobs: JobActivities, course: GenerationActivities) -> list[Queue]:
    """Every registration of this process, one line a family."""
    every_job = [jobs.begin_job, jobs.plan_steps, jobs.finish_job]
    return [
        Queue(diagnostics.TASK_QUEUE, [NoopWorkflow], every_job),
        Queue(
            generation.TASK_QUEUE,
            [CourseGenerationWorkflow, CourseModuleWorkflow],
            [*every_job, course.prepare_sources, course.write_outline, course.write_lesson, course.export_course],
        ),
    ]


class WorkerProcess:
    """One worker process, from wiring to the last drained task."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = new_id()
        self._registry = create_registry()
        self._metrics = WorkerMetrics(self._registry)
        self._draining = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain. Raises LonghaulError where a start is not safe."""
        async with AsyncExitStack() as stack:
            settings = self._settings
            tracing = create_tracing(endpoint=settings.otlp_endpoint, service_name="longhaul-worker", version=VERSION)
            stack.push_async_callback(tracing.shutdown)
            database = create_worker_database(settings, tracing)
            stack.push_async_callback(database.close)
            self._registry.register(PoolCollector(database.engine))
            await check_schema(database, head=schema_head(), profile=settings.profile.value)
            await record_prompts(database, PROMPTS)
            sdk_port = free_port()
            client = await self._connect(tracing, sdk_port, stop)
            if client is None:
                return
            course = await stack.enter_async_context(self._generation(database, tracing))
            served = queues(JobActivities(database, self._metrics), course)
            health = health_app(
                ready=lambda: self._faults(database, client, [queue.name for queue in served]),
                metrics=lambda: render(self._registry, f"http://127.0.0.1:{sdk_port}/metrics"),
            )
            await stack.enter_async_context(serve(health, settings.worker_host, settings.worker_port))
            await self._serve(client, database, tracing, served, stop)

    async def _connect(self, tracing: Tracing, sdk_port: int, stop: asyncio.Event) -> Client | None:
        """The client, as soon as Temporal answers; None where ``stop`` came first."""
        settings = self._settings
        runtime = temporal_runtime(metrics_address=f"127.0.0.1:{sdk_port}")
        while not stop.is_set():
            try:
                return await connect(
                    settings.require_temporal_address(),
                    namespace=settings.temporal_namespace,
                    converter=create_data_converter(_secret(settings.payload_keys)),
                    runtime=runtime,
                    interceptors=tracing.temporal_interceptors(),
                    api_key=_secret(settings.temporal_api_key),
                    tls=settings.temporal_tls,
                    lazy=False,
                )
            except TemporalUnavailable as fault:
                _log.warning("worker.waits_for_temporal", fault=fault.detail)
                await asyncio.sleep(1)
        return None

    @asynccontextmanager
    async def _generation(self, database: Database, tracing: Tracing) -> AsyncIterator[GenerationActivities]:
        settings = self._settings
        keeper = StepKeeper(database)
        async with create_http_client(
            timeout=HttpTimeouts(
                connect=settings.http_connect_timeout_seconds,
                read=settings.http_read_timeout_seconds,
                write=settings.http_read_timeout_seconds,
                pool=settings.http_connect_timeout_seconds,
            ),
            proxy=settings.http_proxy,
            user_agent=f"longhaul/{VERSION}",
            metrics=OutboundMetrics(self._registry),
            inject=tracing.inject if tracing.enabled else None,
        ) as http:
            models: list[LanguageModel] = [OfflineLanguageModel()]
            if settings.openai_api_key is not None:
                models.append(
                    OpenAILanguageModel(
                        client=http,
                        base_url=settings.openai_base_url,
                        api_key=settings.openai_api_key,
                        default_model=settings.openai_model,
                        prices=settings.openai_prices,
                        can_look_up=settings.openai_can_look_up,
                    )
                )
            yield GenerationActivities(
                keeper,
                DocumentStore(database, create_artifact_store(settings.store_url)),
                StructuredWriter(
                    database,
                    PaidCalls(database, keeper, self._metrics),
                    cache_for=timedelta(hours=settings.response_cache_hours),
                ),
                models,
                fan_out=settings.generation_fan_out,
            )

    async def _serve(
        self, client: Client, database: Database, tracing: Tracing, served: Sequence[Queue], stop: asyncio.Event
    ) -> None:
        settings = self._settings
        sender = CommandSender(
            client, timeout=timedelta(seconds=max(settings.start_timeout_seconds, 5)), attach=tracing.attach
        )
        dispatcher = Dispatcher(database, sender, self._metrics, max_running=settings.max_running_per_kind)
        listener = Listener(
            settings.require_database_url(),
            on_notify={COMMAND_CHANNEL: dispatcher.wake},
            on_gap=dispatcher.wake,
        )
        reconciler = Reconciler(
            database, client, self._metrics, interval=timedelta(seconds=settings.reconcile_interval_seconds)
        )
        housekeeping = [
            listener.run(), dispatcher.run(), reconciler.run(), self._beat(database, [queue.name for queue in served]),
        ]  # fmt: skip
        tasks = [asyncio.create_task(job) for job in housekeeping]
        tasks += [asyncio.create_task(self._work(client, queue, stop)) for queue in served]
        _log.info("worker.ready", task_queues=[queue.name for queue in served], worker_id=str(self._id))
        await self._until_stopped(tasks, stop)
        async with database.system() as connection:
            await WorkerRepository(connection).leave(self._id)
        _log.info("worker.stopped")

    async def _until_stopped(self, tasks: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> None:
        """Wait for the end; a task that fails takes the process down, so that it is started again whole."""
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        self._draining = True
        _log.info("worker.draining")
        stop.set()
        housekeeping = tasks[:4]
        workers = tasks[4:]
        await asyncio.gather(*workers, return_exceptions=True)
        for task in housekeeping:
            task.cancel()
        await asyncio.gather(*housekeeping, return_exceptions=True)
        for task in done - {stopping}:
            task.result()

    async def _work(self, client: Client, queue: Queue, stop: asyncio.Event) -> None:
        """Serve one task queue until ``stop``, then drain it."""
        async with self._worker(client, queue):
            await stop.wait()

    def _worker(self, client: Client, queue: Queue) -> Worker:
        return Worker(
            client,
            task_queue=queue.name,
            workflows=queue.workflows,
            activities=queue.activities,
            max_concurrent_activities=self._settings.worker_max_activities,
            max_concurrent_local_activities=self._settings.worker_max_activities,
            max_concurrent_workflow_tasks=_WORKFLOW_TASKS,
            workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
            activity_task_poller_behavior=PollerBehaviorAutoscaling(),
            graceful_shutdown_timeout=timedelta(seconds=self._settings.shutdown_grace_seconds),
            workflow_runner=workflow_sandbox(),
            identity=f"{os.getpid()}@longhaul/{queue.name}",
        )

    async def _beat(self, database: Database, task_queues: list[str]) -> None:
        """Say every few seconds that this process is alive, so that waiting jobs can say when none is."""
        while True:
            try:
                async with database.system() as connection:
                    await WorkerRepository(connection).beat(self._id, task_queues=task_queues, code_version=VERSION)
            except DatabaseUnavailable as fault:
                _log.warning("worker.beat_missed", fault=fault.detail)
            await asyncio.sleep(_BEAT_SECONDS)

    async def _faults(self, database: Database, client: Client, task_queues: Sequence[str]) -> dict[str, str]:
        faults = {"process": "draining"} if self._draining else {}
        try:
            async with database.system():
                pass
        except DatabaseUnavailable as fault:
            faults["database"] = fault.detail
        try:
            for queue in task_queues:
                if not await Pollers(client).exist_on(queue):
                    faults[f"queue {queue}"] = "no poller"
        except TemporalUnavailable as fault:
            faults["temporal"] = fault.detail
        return faults


def create_worker_database(settings: Settings, tracing: Tracing) -> Database:
    """The pool of a worker process."""
    database = create_database(
        settings.require_database_url(),
        pool_size=settings.database_pool_size,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        application_name="longhaul-worker",
    )
    tracing.instrument_engine(database.engine)
    return database


def _secret(value: Any) -> str | None:
    return None if value is None else str(value.get_secret_value())


async def serve_until_signal(settings: Settings) -> None:
    """Run one worker process until SIGTERM or SIGINT; a second one ends it at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await WorkerProcess(settings).run(stop)


def main() -> int:
    """Entry point of ``python worker.py``."""
    try:
        settings = load_settings()
    except ConfigurationError as fault:
        print(fault, file=sys.stderr)  # noqa: T201 - logging is configured by the settings that could not be read
        return 2
    configure_logging(
        json_lines=settings.json_logs,
        level=settings.log_level,
        process="worker",
        secrets=settings.secrets(),
    )
    try:
        uvloop.run(serve_until_signal(settings))
    except (LonghaulError, ConfigurationError) as fault:
        _log.error("worker.refused_to_start", fault=str(fault))
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
