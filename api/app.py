"""The API process: reads settings, builds everything once, lists every family by name."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from api.container import Services
from api.documents import create_links
from api.edge import Edge
from api.errors import answer_fault
from api.gate import Gate, Patience
from api.hub import EventHub
from api.limits import RateLimiter
from api.methods import answer_wrong_method
from api.openapi import describe
from api.readiness import Readiness
from api.routes import (
    approvals,
    artifacts,
    codec,
    costs,
    courses,
    events,
    federated,
    guarding,
    health,
    jobs,
    media,
    publishing,
    records,
    schedules,
    webhooks,
)
from api.routing import PREFIX
from api.workers import ServedQueues
from core.database import Database, check_schema, create_database
from core.federated_metrics import IngestMetrics
from core.logging import configure_logging, create_mask
from core.metrics import ApiMetrics, PoolCollector, create_registry, temporal_runtime
from core.notify import Listener
from core.sealing import create_secret_box
from core.settings import Settings, load_settings
from core.store import create_artifact_store
from core.telemetry import Tracing, TracingMiddleware, create_tracing
from core.temporal import connect, create_codec, create_data_converter
from core.version import VERSION
from repositories.jobs import CHANNEL as JOB_CHANNEL
from repositories.jobs import JobReader
from repositories.tenants import KEY_CHANNEL
from services.approvals import ApprovalService
from services.artifacts import ArtifactService
from services.codec import RemoteCodec
from services.commands import CommandSender
from services.costs import CostService
from services.courses import CourseService
from services.families import create_kinds
from services.federated.runtime import create_runtime
from services.federated.services import create_federated
from services.guarding import PolicyService
from services.jobs import JobService
from services.kinds import KindRegistry
from services.media import MediaService, TemporalWaker
from services.pollers import Pollers
from services.publishing.dialogs import DialogService
from services.publishing.orders import PublishingService
from services.saving.backlog import Backlog, InboxLimits
from services.saving.intake import IntakeRules, RecordIntake
from services.saving.letters import DeadLetterService
from services.schedules.clock import Clock
from services.schedules.service import ScheduleService
from services.schema import schema_head
from services.stack.ports import free_port
from services.tenants import Authenticator, TenantService
from services.webhooks import WebhookService
from workflows.schedules import TASK_QUEUE as SCHEDULES_QUEUE

_log = structlog.get_logger(__name__)


FAMILIES: Final = (
    jobs.router,
    events.router,
    artifacts.router,
    approvals.router,
    costs.router,
    schedules.router,
    webhooks.router,
    records.router,
    federated.router,
    publishing.router,
    courses.router,
    guarding.router,
    media.router,
)
"""Every family's routes, one name each."""


def create_app(settings: Settings, *, patience: Patience | None = None) -> FastAPI:
    """The application; what it works with is built when it starts and closed when it ends."""
    tracing = create_tracing(
        endpoint=settings.otlp_endpoint,
        service_name="longhaul-api",
        version=VERSION,
        mask=create_mask(settings.secrets()),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = services = await _build(settings, tracing, stack)
            yield
            drain(services)

    app = FastAPI(
        title="Longhaul",
        version=VERSION,
        description="Long work over HTTP, carried to the end.",
        lifespan=lifespan,
        docs_url=None if settings.production else "/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    # Each straight into the application: FastAPI matches anew for every level of routers within routers.
    for family in FAMILIES:
        app.include_router(family, prefix=PREFIX)
    app.include_router(publishing.incoming)
    app.include_router(media.incoming)
    app.include_router(health.router)
    if settings.payload_keys is not None:
        app.include_router(codec.router)
    app.add_exception_handler(HTTPException, answer_fault)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, answer_wrong_method)
    app.add_exception_handler(RequestValidationError, answer_fault)
    # The last one added is the outermost.
    app.add_middleware(Gate, patience=patience or Patience())
    origins = _origins(settings)
    if origins:
        app.add_middleware(CORSMiddleware, **_cors(origins))
    app.add_middleware(Edge, production=settings.production)
    if tracing.enabled:
        app.add_middleware(TracingMiddleware, tracing=tracing)
    describe(app)
    return app


def drain(services: Services) -> None:
    """Begin to end: not ready any more, and everybody who waits is told to connect elsewhere."""
    services.readiness.drain()
    services.hub.drain()


async def _build(settings: Settings, tracing: Tracing, stack: AsyncExitStack) -> Services:
    stack.push_async_callback(tracing.shutdown)
    registry = create_registry()
    database = create_database(
        settings.require_database_url(),
        pool_size=settings.database_pool_size,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        application_name="longhaul-api",
    )
    stack.push_async_callback(database.close)
    tracing.instrument_engine(database.engine)
    registry.register(PoolCollector(database.engine))
    head = schema_head()
    await check_schema(database, head=head, profile=settings.profile.value)
    sdk_metrics = f"127.0.0.1:{free_port()}"
    sender, clock, pollers, client = await _reach_temporal(settings, tracing, sdk_metrics)
    store = create_artifact_store(settings.store_url)
    kinds = create_kinds(settings, database, store)
    tenants = TenantService(database, pepper=settings.api_key_pepper.get_secret_value())
    box = create_secret_box(settings.sealing_keys.get_secret_value())
    job_service = _create_jobs(settings, database, kinds, sender)
    reader = JobReader(database)
    hub = EventHub(reader)
    served = ServedQueues(database, on_change=hub.ring_all)
    services = Services(
        settings=settings,
        database=database,
        tracing=tracing,
        registry=registry,
        metrics=ApiMetrics(registry),
        authenticator=await _watch_database(settings, database, hub, stack),
        limiter=RateLimiter(settings.rate_limit, storage_url=settings.rate_limit_storage_url),
        jobs=job_service,
        schedules=ScheduleService(database, kinds, clock, keep_keys=_keep_keys(settings)),
        courses=CourseService(database, store),
        publishing=PublishingService(database, job_service, client, box, exempt_hosts=settings.webhook_exempt_hosts),
        dialogs=DialogService(database, client),
        policies=PolicyService(database),
        media=MediaService(database, TemporalWaker(client), webhook_secret=_secret(settings.heygen_webhook_secret)),
        webhooks=WebhookService(database, box, exempt_hosts=settings.webhook_exempt_hosts),
        reader=reader,
        federated=create_federated(
            database,
            store,
            tenants,
            sender=sender,
            runtime=create_runtime(),
            metrics=IngestMetrics(registry),
            folder=settings.federated_dir,
        ),
        prediction_limiter=RateLimiter(
            settings.federated_predict_rate_limit, storage_url=settings.rate_limit_storage_url
        ),
        store=store,
        approvals=ApprovalService(database, store, sender),
        costs=CostService(database),
        artifacts=ArtifactService(database, store, max_bytes=settings.max_artifact_bytes),
        hub=hub,
        served=served,
        links=create_links(base_url=settings.base_url, ui_url=settings.ui_url, namespace=settings.temporal_namespace),
        readiness=Readiness(
            database,
            pollers,
            head=head,
            profile=settings.profile.value,
            task_queues=sorted({*kinds.task_queues(), SCHEDULES_QUEUE}),
        ),
        intake=await _take_records(settings, database, stack),
        dead_letters=DeadLetterService(database, shards=settings.saving_shards),
        codec=None
        if settings.payload_keys is None
        else RemoteCodec(create_codec(settings.payload_keys.get_secret_value())),
        sdk_metrics_url=f"http://{sdk_metrics}/metrics",
    )
    await served.refresh()
    _in_background(stack, served.run(), "served-queues")
    return services


async def _reach_temporal(
    settings: Settings, tracing: Tracing, metrics_address: str
) -> tuple[CommandSender, Clock, Pollers, Any]:
    client = await connect(
        settings.require_temporal_address(),
        namespace=settings.temporal_namespace,
        converter=create_data_converter(_secret(settings.payload_keys)),
        runtime=temporal_runtime(metrics_address=metrics_address),
        interceptors=tracing.temporal_interceptors(),
        api_key=_secret(settings.temporal_api_key),
        tls=settings.temporal_tls,
    )
    timeout = timedelta(seconds=settings.start_timeout_seconds)
    return (
        CommandSender(client, timeout=timeout, attach=tracing.attach),
        Clock(client, timeout=timeout),
        Pollers(client),
        client,
    )


async def _watch_database(
    settings: Settings, database: Database, hub: EventHub, stack: AsyncExitStack
) -> Authenticator:
    """Start the one LISTEN connection; what it hears goes to the hub and to the memory of verified keys."""
    authenticator = Authenticator(
        database,
        pepper=settings.api_key_pepper.get_secret_value(),
        is_told=lambda: listener.connected.is_set(),  # noqa: PLW0108 - it does not exist yet
    )

    def on_gap() -> None:
        authenticator.forget_all()
        hub.on_gap()
        hub.check_keys(authenticator.confirm)

    def on_key(prefix: str) -> None:
        authenticator.forget(prefix)
        hub.on_key(prefix)

    listener = Listener(
        settings.require_database_url(),
        on_notify={JOB_CHANNEL: hub.on_notify, KEY_CHANNEL: on_key},
        on_gap=on_gap,
    )
    stack.push_async_callback(authenticator.close)
    _in_background(stack, listener.run(), "listener")
    return authenticator


async def _take_records(settings: Settings, database: Database, stack: AsyncExitStack) -> RecordIntake:
    """Start what writes records down, and what looks how many wait."""
    limits = InboxLimits(
        records=settings.saving_inbox_max_records,
        bytes=settings.saving_inbox_max_bytes,
        age_seconds=settings.saving_inbox_max_age_seconds,
    )
    backlog = Backlog(database, limits)
    await backlog.refresh()
    rules = IntakeRules(max_record_bytes=settings.saving_max_record_bytes, shards=settings.saving_shards)
    intake = RecordIntake(database, backlog, rules)
    _in_background(stack, backlog.run(), "backlog")
    _in_background(stack, intake.run(), "intake")
    return intake


def _create_jobs(settings: Settings, database: Database, kinds: KindRegistry, sender: CommandSender) -> JobService:
    return JobService(
        database,
        kinds,
        sender,
        max_running=settings.max_running_per_kind,
        keep_keys=_keep_keys(settings),
    )


def _keep_keys(settings: Settings) -> timedelta:
    return timedelta(hours=settings.idempotency_retention_hours)


def _in_background(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """Run ``work`` until the stack closes; should it end by itself, the log says so."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report_end)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("background.ended", task=task.get_name(), exc_info=task.exception())


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _origins(settings: Settings) -> list[str]:
    # The Temporal UI asks the codec endpoint from the operator's browser.
    return [*settings.cors_origins, *([settings.ui_url] if settings.payload_keys is not None else [])]


def _cors(origins: list[str]) -> dict[str, Any]:
    return {
        "allow_origins": origins,
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": [
            "Authorization", "Content-Encoding", "Content-Type", "Content-Disposition", "Idempotency-Key",
            "If-Match", "If-None-Match", "If-Range", "Last-Event-ID", "Range", "X-Request-ID", "X-Namespace",
            "traceparent",
        ],
        "expose_headers": [
            "Content-Disposition", "Content-Range", "ETag", "Idempotent-Replayed", "Location", "RateLimit",
            "RateLimit-Policy", "Retry-After", "X-Request-ID",
        ],
        "allow_credentials": False,
    }  # fmt: skip


def app_from_environment(settings: Settings | None = None) -> FastAPI:
    """The application with the settings of the environment: ``uvicorn --factory api.app:app_from_environment``.

    Raises ConfigurationError. ``python -m api`` serves the same with more care for connections.
    """
    settings = settings or load_settings()
    configure_logging(
        json_lines=settings.json_logs, level=settings.log_level, process="api", secrets=settings.secrets()
    )
    return create_app(settings)
