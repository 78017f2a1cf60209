"""The worker process: builds everything once, lists every registration by name, drains on SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import structlog
import uvloop
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from activities.approvals import ApprovalActivities
from activities.federated.steps import FederatedActivities
from activities.generation.calls import SETTLING_MARGIN_SECONDS, PaidCalls
from activities.generation.costs import CostWatch
from activities.generation.documents import DocumentStore
from activities.generation.evaluation import EvaluationActivities
from activities.generation.guard import ContentGuard
from activities.generation.lesson_parts import LessonPartActivities
from activities.generation.models import Models
from activities.generation.sections import SectionActivities
from activities.generation.slots import CallSlots
from activities.generation.steps import GenerationActivities
from activities.generation.writer import StructuredWriter
from activities.jobs import JobActivities
from activities.media.paid_speech import PaidSpeech
from activities.media.renders import RenderDesk
from activities.media.speech import SpeechActivities
from activities.media.video import VideoActivities
from activities.publishing.checks import CheckActivities
from activities.publishing.desk import PublishingDesk, PublishingPolicy
from activities.publishing.dialog import DialogActivities
from activities.publishing.effects import EffectActivities
from activities.publishing.orders import OrderActivities
from activities.saving.flush import Flusher
from activities.saving.importer import Importer, ImportLimits
from activities.saving.steps import SavingActivities
from activities.schedules import ScheduleActivities
from activities.steps import StepKeeper
from core.database import Database, check_schema, create_database
from core.evaluation_metrics import EvaluationMetrics
from core.federated_metrics import CycleMetrics
from core.health import health_app, serve
from core.http import HttpTimeouts, OutboundMetrics, create_http_client
from core.ids import new_id
from core.logging import configure_logging
from core.metrics import PoolCollector, WorkerMetrics, create_registry, render, temporal_runtime
from core.notify import Listener
from core.process import leave, settle
from core.sealing import SecretBox, create_secret_box
from core.settings import ConfigurationError, Settings, load_settings
from core.store import create_artifact_store
from core.telemetry import Tracing, create_tracing
from core.temporal import connect, create_data_converter, workflow_sandbox
from core.version import VERSION
from domain.errors import DatabaseUnavailable, LonghaulError, TemporalUnavailable
from domain.generation import LanguageModel
from domain.guarding import Moderator
from domain.media import SpeechProvider
from domain.video import RenderPolicy, VideoRenderer
from gateways.detection import PersonalDataDetector
from gateways.elevenlabs import ElevenLabsSpeech
from gateways.file_channel import FileGateway
from gateways.heygen import HeyGenRenderer
from gateways.moderation import OpenAIModerator
from gateways.offline import OfflineLanguageModel
from gateways.offline_speech import OfflineSpeech
from gateways.offline_video import OfflineVideoMaker
from gateways.openai import OpenAILanguageModel
from gateways.telegram import TelegramGateway
from gateways.telegram_preview import TelegramPreview
from gateways.webhooks import GuardedClient
from prompts.registry import PROMPTS
from repositories.commands import CHANNEL as COMMAND_CHANNEL
from repositories.saving.intake import CHANNEL as RECORD_CHANNEL
from repositories.schedules import CHANNEL as SCHEDULE_CHANNEL
from repositories.webhooks import CHANNEL as WEBHOOK_CHANNEL
from repositories.workers import WorkerRepository
from services.commands import CommandSender, Dispatcher
from services.families import create_kinds
from services.federated.runtime import create_plotter, create_runtime
from services.jobs import JobService
from services.kinds import KindRegistry
from services.pollers import Pollers
from services.prompts import record_prompts
from services.publishing.dialogs import BotPoller, DialogService, OrderBooker
from services.publishing.guardian import OrderGuardian
from services.reconciler import Reconciler
from services.saving.retention import Retention
from services.saving.streams import StreamKeeper
from services.schedules.clock import Clock
from services.schedules.keeper import ScheduleKeeper
from services.schedules.runs import ScheduledJobService
from services.schema import schema_head
from services.stack.ports import free_port
from services.webhooks import WebhookDeliverer
from workflows import diagnostics, federated, generation, publishing, saving, schedules
from workflows.diagnostics import NoopWorkflow
from workflows.dialog import DialogWorkflow
from workflows.evaluation import EvaluationWorkflow
from workflows.federated import FederatedCycleWorkflow
from workflows.generation import CourseGenerationWorkflow, CourseModuleWorkflow
from workflows.publishing import CheckWorkflow, OrderWorkflow
from workflows.saving import RecordImportWorkflow, RecordStreamWorkflow
from workflows.schedules import ScheduledRunWorkflow
from workflows.section import SectionWorkflow, VersionExportWorkflow
from workflows.sequences import SequenceWorkflow
from workflows.video import RenderVideoWorkflow

_log = structlog.get_logger(__name__)

_BEAT_SECONDS: Final = 4.0
_WORKFLOW_TASKS: Final = 20
"""At once, of a queue. What is taken from Temporal has to be done within ten seconds, or it is done in vain, and again:
with a hundred at once a burst of thousands of orders went round in circles for good. What waits at Temporal waits well.
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """A task queue with everything that is served on it."""

    name: str
    workflows: Sequence[type]
    activities: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Publishing:
    """The activities of publishing, and the client for addresses of tenants that webhooks share with them."""

    effects: EffectActivities
    orders: OrderActivities
    checks: CheckActivities
    dialogs: DialogActivities
    guarded: GuardedClient


@dataclass(frozen=True, slots=True)
class Courses:
    """The activities of generation that share models, guard and ledger."""

    generation: GenerationActivities
    lesson_parts: LessonPartActivities
    sections: SectionActivities
    speech: SpeechActivities
    evaluation: EvaluationActivities


@dataclass(frozen=True, slots=True)
class Families:
    """The activities of every family, one name each."""

    jobs: JobActivities
    approvals: ApprovalActivities
    schedules: ScheduleActivities
    generation: GenerationActivities
    evaluation: EvaluationActivities
    video: VideoActivities
    lesson_parts: LessonPartActivities
    sections: SectionActivities
    speech: SpeechActivities
    saving: SavingActivities
    federated: FederatedActivities
    publishing: Publishing


def queues(families: Families) -> list[Queue]:
    """Every registration of this process, one line a family."""
    timed, course, saved, cycle = families.schedules, families.generation, families.saving, families.federated
    golden = families.evaluation
    every_job = [families.jobs.begin_job, families.jobs.plan_steps, families.jobs.finish_job]
    return [
        Queue(diagnostics.TASK_QUEUE, [NoopWorkflow], every_job),
        Queue(
            schedules.TASK_QUEUE,
            [ScheduledRunWorkflow],
            [
                timed.start_scheduled_job,
                timed.look_at_scheduled_job,
                timed.cancel_scheduled_job,
                timed.end_scheduled_run,
            ],
        ),
        Queue(
            generation.TASK_QUEUE,
            [
                CourseGenerationWorkflow,
                CourseModuleWorkflow,
                SectionWorkflow,
                VersionExportWorkflow,
                RenderVideoWorkflow,
                EvaluationWorkflow,
            ],
            [
                *every_job,
                course.prepare_sources,
                course.write_outline,
                course.write_lesson,
                families.lesson_parts.write_slides,
                families.lesson_parts.write_quiz,
                families.speech.speak_lesson,
                *video_activities(families.video),
                course.export_course,
                families.approvals.ask_approval,
                families.approvals.look_at_approval,
                families.approvals.plan_rewriting,
                families.approvals.freeze_rewritten,
                families.sections.plan_section,
                families.sections.apply_section,
                families.sections.export_version,
                golden.open_evaluation,
                golden.evaluate_sample,
                golden.judge_evaluation,
            ],
        ),
        Queue(
            saving.TASK_QUEUE,
            [RecordStreamWorkflow, RecordImportWorkflow],
            [*every_job, saved.flush_stream, saved.import_records, saved.await_saved, saved.sum_up_import],
        ),
        Queue(
            federated.TASK_QUEUE,
            [FederatedCycleWorkflow],
            [
                *every_job,
                cycle.open_round,
                cycle.close_round,
                cycle.aggregate_round,
                cycle.evaluate_round,
                cycle.publish_round,
                cycle.report_cycle,
            ],
        ),
        Queue(
            publishing.TASK_QUEUE,
            [OrderWorkflow, SequenceWorkflow, CheckWorkflow, DialogWorkflow],
            [*every_job, *publishing_activities(families.publishing)],
        ),
    ]


def video_activities(video: VideoActivities) -> list[Any]:
    """Every activity of videos by name."""
    return [
        video.plan_video, video.make_video, video.take_render_place, video.submit_render, video.look_at_render,
        video.keep_video, video.close_render, video.find_video,
    ]  # fmt: skip


def publishing_activities(post: Publishing) -> list[Any]:
    """Every activity of publishing by name."""
    effects, orders, checks = post.effects, post.orders, post.checks
    return [
        effects.send_post, effects.settle_post, effects.probe_post, effects.ask_person, effects.decide_post,
        orders.load_order, orders.load_sequence, orders.arm_order, orders.await_approval, orders.approve_order,
        orders.change_order, orders.move_order, orders.ask_about_late, orders.pin_order, orders.end_order,
        orders.finish_order, orders.give_up_pin, orders.watch_order, orders.count_views, orders.report_order,
        orders.notify, checks.check_channel, checks.check_links, post.dialogs.take_turn,
    ]  # fmt: skip


def speech_providers(settings: Settings, http: httpx.AsyncClient) -> list[SpeechProvider]:
    """The voices of this process: espeak-ng, and ElevenLabs where there is a key."""
    providers: list[SpeechProvider] = [OfflineSpeech(at_once=settings.offline_speech_at_once)]
    if settings.elevenlabs_api_key is not None:
        providers.append(
            ElevenLabsSpeech(
                client=http,
                base_url=settings.elevenlabs_base_url,
                api_key=settings.elevenlabs_api_key,
                default_voice=settings.elevenlabs_voice,
                default_model=settings.elevenlabs_model,
                models=settings.elevenlabs_models,
                at_once=settings.elevenlabs_at_once,
            )
        )
    return providers


class WorkerProcess:
    """One worker process, from wiring to the last drained task."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = new_id()
        self._registry = create_registry()
        self._metrics = WorkerMetrics(self._registry)
        self._outbound = OutboundMetrics(self._registry)
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
            sender = self._sender(client, tracing)
            kinds = create_kinds(settings, database, create_artifact_store(settings.store_url))
            jobs = self._jobs(database, kinds, sender)
            box = create_secret_box(settings.sealing_keys.get_secret_value())
            post, poller = await self._publishing(database, client, jobs=jobs, box=box, tracing=tracing, stack=stack)
            courses = await stack.enter_async_context(self._generation(database, tracing))
            families = Families(
                jobs=JobActivities(database, self._metrics),
                approvals=ApprovalActivities(database),
                schedules=ScheduleActivities(database, ScheduledJobService(database, jobs)),
                generation=courses.generation,
                lesson_parts=courses.lesson_parts,
                sections=courses.sections,
                speech=courses.speech,
                video=await stack.enter_async_context(self._video(database, tracing, post.guarded)),
                evaluation=courses.evaluation,
                saving=create_saving(settings, database, self._metrics, worker_id=self._id),
                federated=self._federated(database),
                publishing=post,
            )
            served = queues(families)
            health = health_app(
                ready=lambda: self._faults(database, client, [queue.name for queue in served]),
                metrics=lambda: render(self._registry, f"http://127.0.0.1:{sdk_port}/metrics"),
            )
            await stack.enter_async_context(serve(health, settings.worker_host, settings.worker_port))
            deliverer = WebhookDeliverer(database, box, post.guarded)
            dispatcher = Dispatcher(
                database, sender, self._metrics, max_running=settings.max_running_per_kind, limits=kinds.limits()
            )
            interval = timedelta(seconds=settings.reconcile_interval_seconds)
            schedule_keeper = ScheduleKeeper(database, Clock(client, timeout=timedelta(seconds=5)), interval=interval)
            streams = self._streams(client, database)
            ears: dict[str, Callable[[str], None]] = {
                COMMAND_CHANNEL: dispatcher.wake,
                SCHEDULE_CHANNEL: schedule_keeper.wake,
                RECORD_CHANNEL: streams.on_notify,
                WEBHOOK_CHANNEL: deliverer.wake,
            }

            def on_gap() -> None:
                dispatcher.wake()
                schedule_keeper.wake()
                streams.on_gap()
                deliverer.wake()

            listener = Listener(settings.require_database_url(), on_notify=ears, on_gap=on_gap)
            reconciler = Reconciler(database, client, self._metrics, interval=interval)
            housekeeping = [
                listener.run(), dispatcher.run(), reconciler.run(), schedule_keeper.run(), streams.run(),
                self._retention(database).run(), deliverer.run(), OrderGuardian(database).run(), poller.run(),
                self._beat(database, [queue.name for queue in served]),
            ]  # fmt: skip
            await self._serve(client, database, served, housekeeping, stop)

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
    async def _generation(self, database: Database, tracing: Tracing) -> AsyncIterator[Courses]:
        settings = self._settings
        keeper = StepKeeper(database)
        slots = CallSlots(settings.generation_fan_out, most_parts=settings.worker_max_activities // 2)
        async with create_http_client(
            timeout=HttpTimeouts(
                connect=settings.http_connect_timeout_seconds,
                read=settings.http_read_timeout_seconds,
                write=settings.http_read_timeout_seconds,
                pool=settings.http_connect_timeout_seconds,
            ),
            proxy=settings.http_proxy,
            user_agent=f"longhaul/{VERSION}",
            metrics=self._outbound,
            inject=tracing.inject if tracing.enabled else None,
        ) as http:
            models: list[LanguageModel] = [OfflineLanguageModel()]
            moderators: list[Moderator] = []
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
            store = create_artifact_store(settings.store_url)
            documents = DocumentStore(database, store)
            if settings.openai_api_key is not None and settings.openai_moderation:
                moderators.append(
                    OpenAIModerator(
                        client=http,
                        base_url=settings.openai_base_url,
                        api_key=settings.openai_api_key,
                        model=settings.openai_moderation_model,
                    )
                )
            guard = ContentGuard(database, keeper, PersonalDataDetector(), moderators)
            watch = CostWatch(database, self._metrics, alert_usd=settings.generation_cost_alert_usd)
            writer = StructuredWriter(
                database,
                PaidCalls(
                    database,
                    keeper,
                    self._metrics,
                    slots,
                    guard=guard,
                    settled_seconds=settings.http_read_timeout_seconds + SETTLING_MARGIN_SECONDS,
                    watch=watch,
                ),
                cache_for=timedelta(hours=settings.response_cache_hours),
            )
            known = Models(models)
            measured = EvaluationMetrics(self._registry, [(model.name, model.default_model) for model in models])
            yield Courses(
                generation=GenerationActivities(keeper, documents, writer, known, lessons_at_once=slots.parts_at_once),
                lesson_parts=LessonPartActivities(keeper, documents, writer, known),
                sections=SectionActivities(keeper, documents, lessons_at_once=slots.parts_at_once),
                speech=SpeechActivities(
                    keeper,
                    documents,
                    PaidSpeech(database, store, keeper, self._metrics, watch=watch),
                    speech_providers(settings, http),
                ),
                evaluation=EvaluationActivities(
                    database,
                    keeper,
                    documents,
                    writer,
                    models=known,
                    metrics=measured,
                    at_once=settings.evaluation_fan_out,
                ),
            )

    @asynccontextmanager
    async def _video(
        self, database: Database, tracing: Tracing, files: GuardedClient
    ) -> AsyncIterator[VideoActivities]:
        settings = self._settings
        keeper, store = StepKeeper(database), create_artifact_store(settings.store_url)
        wait = HttpTimeouts(connect=settings.http_connect_timeout_seconds, read=30, write=30, pool=5)
        # A connection of its own for each call: one that died unseen would leave an order in doubt.
        async with create_http_client(
            timeout=wait, proxy=settings.http_proxy, user_agent=f"longhaul/{VERSION}", metrics=self._outbound,
            inject=tracing.inject if tracing.enabled else None, max_idle=0,
        ) as http:  # fmt: skip
            desk = RenderDesk(
                database, keeper, store, self._metrics, create_renderers(settings, http, files),
                policy=RenderPolicy(poll_first=timedelta(seconds=settings.video_poll_seconds)),
                max_bytes=settings.video_max_bytes,
                watch=CostWatch(database, self._metrics, alert_usd=settings.generation_cost_alert_usd),
            )  # fmt: skip
            yield VideoActivities(keeper, DocumentStore(database, store), desk, [OfflineVideoMaker()])

    def _federated(self, database: Database) -> FederatedActivities:
        settings = self._settings
        return FederatedActivities(
            StepKeeper(database),
            database,
            create_artifact_store(settings.store_url),
            runtime=create_runtime(),
            metrics=CycleMetrics(self._registry),
            plot=create_plotter(),
            folder=settings.federated_dir,
        )

    async def _publishing(
        self,
        database: Database,
        client: Client,
        *,
        jobs: JobService,
        box: SecretBox,
        tracing: Tracing,
        stack: AsyncExitStack,
    ) -> tuple[Publishing, BotPoller]:
        settings = self._settings
        inject = tracing.inject if tracing.enabled else None
        wait = settings.publishing_wire_seconds
        # A connection of its own for each call: one that died unseen would leave a post in doubt.
        http, strange = [
            await stack.enter_async_context(
                create_http_client(
                    timeout=HttpTimeouts(connect=settings.http_connect_timeout_seconds, read=wait, write=wait, pool=5),
                    proxy=settings.http_proxy, user_agent=f"longhaul/{VERSION}", metrics=self._outbound, inject=traced,
                    max_idle=0,
                )
            )
            for traced in (inject, None)
        ]  # fmt: skip
        guarded = GuardedClient(
            strange, exempt=settings.webhook_exempt_hosts, timeout_seconds=settings.webhook_timeout_seconds
        )
        telegram = TelegramGateway(client=http, base_url=settings.telegram_url)
        preview = TelegramPreview(client=http, base_url=settings.telegram_preview_url)
        desk = PublishingDesk(
            database,
            box,
            [telegram, FileGateway(settings.data_dir / "channels")],
            publishing_policy(settings),
            view_sources={telegram.name: preview},
            witnesses={telegram.name: preview},
        )
        checks = CheckActivities(desk, StepKeeper(database), guarded)
        dialogs = DialogActivities(desk, OrderBooker(jobs))
        poller = BotPoller(database, box, telegram, DialogService(database, client))
        return Publishing(EffectActivities(desk), OrderActivities(desk), checks, dialogs, guarded), poller

    async def _serve(
        self,
        client: Client,
        database: Database,
        served: Sequence[Queue],
        housekeeping: Sequence[Coroutine[Any, Any, None]],
        stop: asyncio.Event,
    ) -> None:
        housekeepers = [asyncio.create_task(job) for job in housekeeping]
        workers = [asyncio.create_task(self._work(client, queue, stop)) for queue in served]
        _log.info("worker.ready", task_queues=[queue.name for queue in served], worker_id=str(self._id))
        await self._until_stopped(housekeepers, workers, stop)
        async with database.system() as connection:
            await WorkerRepository(connection).leave(self._id)
        _log.info("worker.stopped")

    async def _until_stopped(
        self, housekeepers: Sequence[asyncio.Task[None]], workers: Sequence[asyncio.Task[None]], stop: asyncio.Event
    ) -> None:
        """Wait for the end; a task that fails takes the process down, so that it is started again whole."""
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *housekeepers, *workers], return_when=asyncio.FIRST_COMPLETED)
        self._draining = True
        _log.info("worker.draining")
        stop.set()
        await asyncio.gather(*workers, return_exceptions=True)
        for task in housekeepers:
            task.cancel()
        await asyncio.gather(*housekeepers, return_exceptions=True)
        for task in done - {stopping}:
            task.result()

    async def _work(self, client: Client, queue: Queue, stop: asyncio.Event) -> None:
        """Serve one task queue until ``stop``, then drain it."""
        async with self._worker(client, queue):
            await stop.wait()

    def _streams(self, client: Client, database: Database) -> StreamKeeper:
        settings = self._settings
        return StreamKeeper(
            database,
            client,
            self._metrics,
            flush_records=settings.saving_flush_records,
            flush_seconds=settings.saving_flush_seconds,
        )

    def _retention(self, database: Database) -> Retention:
        return Retention(
            database,
            message_days=self._settings.saving_message_retention_days,
            batch_days=self._settings.saving_batch_retention_days,
        )

    def _sender(self, client: Client, tracing: Tracing) -> CommandSender:
        timeout = timedelta(seconds=max(self._settings.start_timeout_seconds, 5))
        return CommandSender(client, timeout=timeout, attach=tracing.attach)

    def _jobs(self, database: Database, kinds: KindRegistry, sender: CommandSender) -> JobService:
        settings = self._settings
        return JobService(
            database,
            kinds,
            sender,
            max_running=settings.max_running_per_kind,
            keep_keys=timedelta(hours=settings.idempotency_retention_hours),
        )

    def _worker(self, client: Client, queue: Queue) -> Worker:
        return Worker(
            client,
            task_queue=queue.name,
            workflows=queue.workflows,
            activities=queue.activities,
            max_concurrent_activities=self._settings.worker_max_activities,
            max_concurrent_local_activities=self._settings.worker_max_activities,
            max_concurrent_workflow_tasks=_WORKFLOW_TASKS,
            # Each holds a sandbox in memory. One that sleeps for days is replayed when it wakes.
            max_cached_workflows=self._settings.worker_max_cached_workflows,
            workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
            activity_task_poller_behavior=PollerBehaviorAutoscaling(),
            graceful_shutdown_timeout=timedelta(seconds=self._settings.shutdown_grace_seconds),
            workflow_runner=workflow_sandbox(),
            # Without one the SDK digests the source of every loaded module, for more than a second.
            build_id=f"longhaul-{VERSION}",
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


def create_saving(
    settings: Settings, database: Database, metrics: WorkerMetrics, *, worker_id: UUID
) -> SavingActivities:
    """What saves records, and what reads whole files in."""
    limits = ImportLimits(
        max_record_bytes=settings.saving_max_record_bytes,
        shards=settings.saving_shards,
        inbox_max_records=settings.saving_inbox_max_records,
        inbox_max_bytes=settings.saving_inbox_max_bytes,
        inbox_max_age_seconds=settings.saving_inbox_max_age_seconds,
    )
    keeper = StepKeeper(database)
    return SavingActivities(
        Flusher(database, most_records=settings.saving_flush_records, worker_id=worker_id),
        Importer(database, create_artifact_store(settings.store_url), keeper, limits),
        keeper,
        metrics,
    )


def create_renderers(settings: Settings, http: Any, files: GuardedClient) -> list[VideoRenderer]:
    """The providers of videos that this installation has credentials for."""
    if settings.heygen_api_key is None:
        return []
    return [
        HeyGenRenderer(
            client=http,
            files=files,
            base_url=settings.heygen_base_url,
            api_key=settings.heygen_api_key,
            prices=settings.heygen_prices,
            at_once=settings.heygen_concurrency,
            default_avatar=settings.heygen_avatar,
            default_voice=settings.heygen_voice,
            default_engine=settings.heygen_engine,
            callback_url=settings.heygen_callback_url,
        )
    ]


def publishing_policy(settings: Settings) -> PublishingPolicy:
    """How this installation publishes."""
    return PublishingPolicy(
        probe_pauses=tuple(timedelta(seconds=pause) for pause in settings.publishing_probe_pauses_seconds),
        wire=timedelta(seconds=settings.publishing_wire_seconds),
        watch_every=timedelta(seconds=settings.publishing_watch_seconds),
        per_chat_second=settings.telegram_per_chat_second,
        per_chat_minute=settings.telegram_per_chat_minute,
        per_token_second=settings.telegram_per_token_second,
    )


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
    settle()
    try:
        uvloop.run(serve_until_signal(settings))
    except (LonghaulError, ConfigurationError) as fault:
        _log.error("worker.refused_to_start", fault=str(fault))
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
