"""Activities under the names of the real ones, which a test holds and lets go as it likes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.generation.steps import (
    CourseStepInput,
    ExportCourseInput,
    WriteLessonInput,
    WriteLessonResult,
    WriteOutlineInput,
    WriteOutlineResult,
)
from activities.jobs import BeginJobInput, BeginJobResult, FinishJobInput, PlanStepsInput
from core.ids import new_id
from core.temporal import workflow_sandbox
from domain.generation import ContentStatus
from domain.jobs import JobRef
from tests.support.waiting import eventually
from workflows.generation import CourseGenerationWorkflow, CourseModuleWorkflow
from workflows.jobs import JobResult

Place = tuple[int, int]


def new_job() -> JobRef:
    """A course that is in no database."""
    return JobRef(job_id=new_id(), tenant_id=new_id(), kind="generation.course")


class RecordDoubles:
    """Begin, plan and finish without a database; what they were told is kept."""

    def __init__(self) -> None:
        self.paused_at_start = False
        self.proceed = True
        self.planned: list[PlanStepsInput] = []
        self.ends: list[FinishJobInput] = []
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    @activity.defn(name="begin_job")
    async def begin_job(self, begin: BeginJobInput) -> BeginJobResult:
        """Let it run."""
        return BeginJobResult(proceed=self.proceed, paused=self.paused_at_start)

    @activity.defn(name="plan_steps")
    async def plan_steps(self, plan: PlanStepsInput) -> None:
        """Remember."""
        self.planned.append(plan)

    @activity.defn(name="finish_job")
    async def finish_job(self, finish: FinishJobInput) -> None:
        """Remember, as soon as that is allowed."""
        await self.may_finish.wait()
        self.ends.append(finish)

    @property
    def every(self) -> list[Callable[..., Any]]:
        """All of them."""
        return [self.begin_job, self.plan_steps, self.finish_job]


class CourseDoubles:
    """A course of given modules, whose lessons are in progress until the test lets them go."""

    def __init__(self, lessons: Sequence[int], *, fan_out: int, held: bool = True) -> None:
        self.lessons = tuple(lessons)
        self.fan_out = fan_out
        self.held = held
        self.running: dict[Place, asyncio.Future[None]] = {}
        self.started: list[Place] = []
        self.written: list[Place] = []
        self.exported = 0
        self.most_at_once = 0

    @activity.defn(name="prepare_sources")
    async def prepare_sources(self, step: CourseStepInput) -> UUID:
        """Nothing to prepare."""
        return step.job.job_id

    @activity.defn(name="write_outline")
    async def write_outline(self, step: WriteOutlineInput) -> WriteOutlineResult:
        """The given size."""
        return WriteOutlineResult(outline_id=step.corpus_id, lessons=self.lessons, fan_out=self.fan_out)

    @activity.defn(name="write_lesson")
    async def write_lesson(self, step: WriteLessonInput) -> WriteLessonResult:
        """In progress until let go."""
        place = (step.module, step.lesson)
        self.started.append(place)
        self.running[place] = asyncio.get_running_loop().create_future()
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            if self.held:
                await self.running[place]
        finally:
            del self.running[place]
        self.written.append(place)
        return WriteLessonResult(lesson_id=step.outline_id, status=ContentStatus.READY)

    @activity.defn(name="export_course")
    async def export_course(self, step: ExportCourseInput) -> None:
        """Nothing to export."""
        self.exported += 1

    @property
    def every(self) -> list[Callable[..., Any]]:
        """All of them."""
        return [self.prepare_sources, self.write_outline, self.write_lesson, self.export_course]

    def let_go(self, *places: Place) -> None:
        """Finish these lessons, or all that are in progress."""
        for place in places or tuple(self.running):
            if not self.running[place].done():
                self.running[place].set_result(None)

    def let_all_go(self) -> None:
        """Finish what is in progress and whatever comes."""
        self.held = False
        self.let_go()

    def fail(self, place: Place, error: Exception) -> None:
        """Make a lesson in progress fail."""
        self.running[place].set_exception(error)

    async def until_running(self, count: int, *, within: float = 30.0) -> None:
        """Wait until at least so many lessons are in progress."""
        await self.until(lambda: len(self.running) >= count, within=within)

    async def until_written(self, count: int) -> None:
        """Wait until at least so many lessons are done."""
        await self.until(lambda: len(self.written) >= count)

    async def until(self, condition: Callable[[], bool], *, within: float = 30.0) -> None:
        """Wait until something holds for these doubles."""

        async def look() -> bool:
            return condition()

        await eventually(look, within=within)


@asynccontextmanager
async def serving(client: Client, activities: Sequence[Callable[..., Any]]) -> AsyncIterator[str]:
    """A worker for courses with the given activities; the name of its task queue."""
    task_queue = f"courses-{new_id()}"
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[CourseGenerationWorkflow, CourseModuleWorkflow],
        activities=activities,
        workflow_runner=workflow_sandbox(),
        max_concurrent_activities=200,
        max_concurrent_local_activities=200,
        max_concurrent_workflow_tasks=100,
    ):
        yield task_queue


async def start_course(client: Client, task_queue: str, job: JobRef | None = None) -> WorkflowHandle[Any, JobResult]:
    """Start the workflow of a course."""
    job = job or new_job()
    return await client.start_workflow(CourseGenerationWorkflow.run, job, id=job.workflow_id, task_queue=task_queue)


async def until_signaled(client: Client, workflow_id: str, signal: str, *, or_closed: bool = False) -> None:
    """Wait until a workflow has heard a signal, and has had a task to act on it."""

    async def look() -> bool:
        try:
            events = (await client.get_workflow_handle(workflow_id).fetch_history()).events
        except RPCError:
            return False
        heard = [
            event.event_id
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
            and event.workflow_execution_signaled_event_attributes.signal_name == signal
        ]
        tasks = [event.event_id for event in events if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
        if or_closed and events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return True
        return bool(heard) and max(tasks) > heard[0]

    await eventually(look)
