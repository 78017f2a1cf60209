"""Courses as in production - service, database, store, Temporal, worker - with a model that a test holds or breaks."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock
from uuid import UUID

from prometheus_client import CollectorRegistry
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

import worker
from activities.approvals import ApprovalActivities
from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.evaluation import EvaluationActivities
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
from activities.saving.flush import Flusher
from activities.saving.importer import Importer, ImportLimits
from activities.saving.steps import SavingActivities
from activities.steps import StepKeeper
from core.database import Database
from core.evaluation_metrics import EvaluationMetrics
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from core.temporal import workflow_sandbox
from domain.generation import (
    Completion,
    CompletionRequest,
    LessonTask,
    OutlineTask,
    Price,
    RevisionTask,
    SlidesTask,
    Task,
)
from domain.jobs import JobAction, JobRef
from domain.media import SpeechProvider
from gateways.offline import OfflineLanguageModel
from repositories.rows import AnyRow
from services.commands import CommandSender
from services.diagnostics import NOOP
from services.evaluation import evaluation_kind
from services.generation import course_kind
from services.jobs import JobRequest, JobService
from services.kinds import KindRegistry
from services.saving.kind import import_kind
from services.sections import export_kind, section_kind
from tests.support.job_rows import job_row
from tests.support.publishing import idle_publishing
from tests.support.waiting import eventually
from workflows import diagnostics, generation, publishing, saving

SOURCE: Final = Path(__file__).parent.parent / "data" / "tides.txt"


_NOT_FIRST: Final = ("slides of ", "quiz of ", "revision of ")


class HeldModel(OfflineLanguageModel):
    """The offline model, asked under the eyes of a test.

    ``asked`` counts calls by what is wanted: ``outline``, the title of a lesson, or ``slides of``, ``quiz of`` and
    that title. While ``open`` is not set, lessons stay in progress; while ``drawing`` is not, slides do. ``answers``
    replaces the answer by a text, or by an error, for as long as it is there.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.outlines: list[OutlineTask] = []
        self.revisions: list[RevisionTask] = []
        self.in_progress = 0
        self.open, self.drawing = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.drawing.set()
        self.answers: dict[str, str | Exception] = {}
        self.failing_lesson: int | None = None
        self.fault: Exception | None = None

    @property
    def lessons(self) -> list[str]:
        """The lessons asked for, in order."""
        return [name for name in self.asked if name != "outline" and not name.startswith(_NOT_FIRST)]

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Remember, wait, answer."""
        is_lesson = isinstance(request.task, LessonTask)
        name = _name_of(request.task)
        self.asked.append(name)
        if isinstance(request.task, OutlineTask):
            self.outlines.append(request.task)
        if isinstance(request.task, RevisionTask):
            self.revisions.append(request.task)
        self.in_progress += 1
        try:
            if is_lesson and self.fault is not None and len(self.lessons) == self.failing_lesson:
                raise self.fault
            if is_lesson:
                await self.open.wait()
            if isinstance(request.task, SlidesTask):
                await self.drawing.wait()
        finally:
            self.in_progress -= 1
        answer = await super().complete(request=request)
        text = self.answers.get(name)
        if isinstance(text, Exception):
            raise text
        return answer if text is None else answer.model_copy(update={"text": text})

    def price(self, model: str) -> Price:
        """As the offline model."""
        return super().price(model)


def _name_of(task: Task) -> str:
    match task:
        case OutlineTask():
            return "outline"
        case LessonTask():
            return task.lesson.title
        case RevisionTask():
            return f"revision of {_name_of(task.of)}"
        case _:
            return f"{task.kind} of {task.lesson.title}"


@dataclass(frozen=True)
class Courses:
    """One tenant's courses, with a worker of their own."""

    database: Database
    client: Client
    tenant_id: UUID
    service: JobService
    model: HeldModel
    store: ArtifactStore
    task_queue: str
    evaluation_registry: CollectorRegistry

    async def start(self, *, modules: int = 2, lessons: int = 2, **changes: Any) -> JobRef:
        """Start a course on tides."""
        wanted: Mapping[str, Any] = {
            "topic": "How tides come about",
            "modules": modules,
            "lessons_per_module": lessons,
            "sources": [{"name": SOURCE.name, "text": SOURCE.read_text(encoding="utf-8")}],
            **changes,
        }
        return await self.start_kind("generation.course", wanted)

    async def start_kind(self, kind: str, wanted: Mapping[str, Any]) -> JobRef:
        """Start a job."""
        started = await self.service.start(self.tenant_id, JobRequest(kind=kind, input=wanted), key=None)
        return JobRef(job_id=started.document.id, tenant_id=self.tenant_id, kind=kind)

    async def act(self, job: JobRef, action: JobAction, *, comment: str | None = None, seen: str | None = None) -> None:
        """Ask something of a job."""
        await self.service.act(self.tenant_id, job.job_id, action, comment=comment, seen=seen)

    async def until_status(self, job: JobRef, status: str, *, within: float = 30.0) -> AnyRow:
        """Wait until the job's row has this status."""
        return await eventually(lambda: job_row(self.database, job), lambda row: row.status == status, within=within)

    async def until_asked(self, lessons: int, *, within: float = 30.0) -> None:
        """Wait until so many lessons were asked of the model."""
        await self.until(lambda: len(self.model.lessons) >= lessons, within=within)

    async def until(self, condition: Callable[[], bool], *, within: float = 30.0) -> None:
        """Wait until something holds."""

        async def look() -> bool:
            return condition()

        await eventually(look, within=within)

    def workflow(self, job: JobRef, suffix: str = "") -> WorkflowHandle[Any, Any]:
        """The job's workflow, or with a suffix such as ``/module-01`` one of its children."""
        return self.client.get_workflow_handle(job.workflow_id + suffix)

    async def until_paused(self, job: JobRef, suffix: str = "") -> None:
        """Wait until the workflow itself stands at its gate."""

        async def look() -> bool:
            return "Paused" in str(await self.workflow(job, suffix).query("__temporal_workflow_metadata"))

        await eventually(look, within=30.0)


@asynccontextmanager
async def serving_courses(
    client: Client,
    database: Database,
    store: ArtifactStore,
    tenant_id: UUID,
    *,
    fan_out: int = 2,
    cache_for: timedelta = timedelta(0),
    more_models: Sequence[Any] = (),
    desk: RenderDesk | None = None,
    makers: Sequence[Any] = (),
    voices: Sequence[SpeechProvider] = (),
    hour: timedelta = timedelta(hours=1),
    task_queue: str | None = None,
) -> AsyncIterator[Courses]:
    """Everything that a course needs, on a task queue of its own unless told which.

    ``hour`` is how long an hour of waiting for a person takes.
    """
    task_queue = task_queue or f"real-{new_id()}"
    metrics = WorkerMetrics(CollectorRegistry())
    keeper = StepKeeper(database)
    model = HeldModel()
    documents = DocumentStore(database, store)
    writer = StructuredWriter(database, PaidCalls(database, keeper, metrics, CallSlots(100)), cache_for=cache_for)
    models = Models([model, *more_models])
    registry = CollectorRegistry()
    golden = EvaluationActivities(
        database, keeper, documents, writer, models=models, metrics=EvaluationMetrics(registry), at_once=fan_out
    )
    flusher = Flusher(database, most_records=5_000)
    limits = ImportLimits(
        max_record_bytes=262_144,
        shards=1,
        inbox_max_records=10_000_000,
        inbox_max_bytes=1 << 40,
        inbox_max_age_seconds=1e9,
    )
    families = worker.Families(
        jobs=JobActivities(database, metrics),
        approvals=ApprovalActivities(database, hour=hour),
        schedules=MagicMock(),
        generation=GenerationActivities(keeper, documents, writer, models, lessons_at_once=fan_out),
        lesson_parts=LessonPartActivities(keeper, documents, writer, models),
        sections=SectionActivities(keeper, documents, lessons_at_once=fan_out),
        speech=SpeechActivities(
            keeper,
            documents,
            PaidSpeech(database, store, keeper, metrics, look_pauses_seconds=(0.0, 0.0), settled_seconds=0),
            voices,
        ),
        video=VideoActivities(keeper, documents, desk or RenderDesk(database, keeper, store, metrics, ()), makers),
        evaluation=golden,
        saving=SavingActivities(flusher, Importer(database, store, keeper, limits), keeper, metrics),
        federated=MagicMock(),
        publishing=idle_publishing(database),
    )
    real = {diagnostics.TASK_QUEUE, generation.TASK_QUEUE, saving.TASK_QUEUE, publishing.TASK_QUEUE}
    served = [queue for queue in worker.queues(families) if queue.name in real]
    evaluations = evaluation_kind(database, default_budget_usd=Decimal(5))
    on_courses = (section_kind(database), export_kind(database))
    all_kinds = (course_kind(database, store), *on_courses, evaluations, NOOP, import_kind(database, store))
    kinds = [dataclasses.replace(kind, task_queue=task_queue) for kind in all_kinds]
    service = JobService(
        database,
        KindRegistry(kinds),
        CommandSender(client, timeout=timedelta(seconds=10)),
        max_running=100,
        keep_keys=timedelta(hours=1),
    )
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[kind for queue in served for kind in queue.workflows],
        activities=list({doing.__name__: doing for queue in served for doing in queue.activities}.values()),
        workflow_runner=workflow_sandbox(),
    ):
        try:
            yield Courses(database, client, tenant_id, service, model, store, task_queue, registry)
        finally:
            # A worker waits for its activities; none may be held for ever once the test is over.
            model.open.set()
            model.drawing.set()
