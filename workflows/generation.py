"""A course, from its sources to its exports; one child workflow a module keeps every history short."""

import asyncio
from typing import Any, Final
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.generation.steps import (
        CourseStepInput,
        ExportCourseInput,
        GenerationActivities,
        WriteLessonInput,
        WriteOutlineInput,
        WriteOutlineResult,
    )
    from domain.generation_plan import first_steps, module_steps
    from domain.jobs import JobRef
    from domain.model import Frozen
    from workflows.jobs import JobResult, JobWorkflow, PauseGate
    from workflows.options import COMPUTE, MODEL_CALL

TASK_QUEUE: Final = "generation"
COURSE_WORKFLOW: Final = "CourseGeneration"
MODULE_WORKFLOW: Final = "CourseModule"

_REPORTS_PER_MODULE: Final = 4
"""In how many portions a module gives its slots back near its end; each costs the course four events."""


ModuleHandle = workflow.ChildWorkflowHandle["CourseModuleWorkflow", None]


def module_group(module: int) -> workflow.EventGroup:
    """The events of one module, together in the Temporal UI."""
    return workflow.create_event_group(f"module-{module + 1}", label=f"Module {module + 1}")


def module_workflow_id(job: JobRef, module: int) -> str:
    """``<course workflow id>/module-03``: beside its course in every list.

    Later attempts add ``.2`` and so on, because modules of an attempt that was terminated may still be closing.
    """
    attempt = f".{job.attempt}" if job.attempt > 1 else ""
    return f"{job.workflow_id}/module-{module + 1:02}{attempt}"


class CourseModuleInput(Frozen):
    """One module of a course: ``lessons`` lessons, at most ``slots`` of them at once."""

    job: JobRef
    corpus_id: UUID
    outline_id: UUID
    module: int
    lessons: int
    slots: int


class FreedSlots(Frozen):
    """Slots that a module no longer needs."""

    module: int
    count: int


@workflow.defn(name=COURSE_WORKFLOW)
class CourseGenerationWorkflow(JobWorkflow):
    """``generation.course``: sources, outline, lessons module by module, export."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._free_slots = 0
        self._held_slots: dict[int, int] = {}
        self._failed = False
        self._modules: dict[int, ModuleHandle] = {}

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the course through; its result is in our tables."""
        return await self.carry(job, self._make_course, steps=first_steps())

    async def _make_course(self) -> dict[str, Any]:
        workflow.set_current_details("Reading the sources")
        corpus_id = await self._prepare_sources()
        workflow.set_current_details("Designing the course")
        outline = await self._write_outline(corpus_id)
        workflow.set_current_details(f"Writing {sum(outline.lessons)} lessons in {len(outline.lessons)} modules")
        await self._write_modules(corpus_id, outline)
        workflow.set_current_details("Putting the course together")
        return await self._export(corpus_id, outline)

    async def _prepare_sources(self) -> UUID:
        await self.gate()
        with workflow.create_event_group("sources", label="Sources").scope():
            return await workflow.execute_activity_method(
                GenerationActivities.prepare_sources, CourseStepInput(job=self._job), summary="sources", **COMPUTE
            )

    async def _write_outline(self, corpus_id: UUID) -> WriteOutlineResult:
        await self.gate()
        with workflow.create_event_group("outline", label="Course structure").scope():
            outline = await workflow.execute_activity_method(
                GenerationActivities.write_outline,
                WriteOutlineInput(job=self._job, corpus_id=corpus_id),
                summary="outline",
                **MODEL_CALL,
            )
        await self.plan(self._job, module_steps(outline.lessons), first_position=len(first_steps()))
        return outline

    async def _write_modules(self, corpus_id: UUID, outline: WriteOutlineResult) -> None:
        """Start modules as slots become free. After a failure start no more, but let paid work finish."""
        self._free_slots = outline.fan_out
        running: list[asyncio.Task[None]] = []
        try:
            for module, lessons in enumerate(outline.lessons):
                await self.gate()
                await workflow.wait_condition(lambda: self._free_slots > 0 or self._failed)
                if self._failed:
                    break
                slots = self._take_slots(module, lessons)
                part = CourseModuleInput(
                    job=self._job, corpus_id=corpus_id, outline_id=outline.outline_id,
                    module=module, lessons=lessons, slots=slots,
                )  # fmt: skip
                running.append(asyncio.create_task(self._write_module(part)))
            await asyncio.gather(*running)
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        except FailureError:
            for handle in list(self._modules.values()):
                await handle.signal(CourseModuleWorkflow.stop)
            await asyncio.gather(*running, return_exceptions=True)
            raise

    def _take_slots(self, module: int, lessons: int) -> int:
        slots = min(self._free_slots, lessons)
        self._free_slots -= slots
        self._held_slots[module] = slots
        return slots

    @workflow.signal(name="free_slots")
    def on_free_slots(self, freed: FreedSlots) -> None:
        """A module near its end has no lessons left for some of its slots."""
        if freed.module in self._held_slots:
            self._held_slots[freed.module] -= freed.count
            self._free_slots += freed.count

    async def _write_module(self, part: CourseModuleInput) -> None:
        try:
            await self._run_module(part)
        except FailureError:
            self._failed = True
            raise
        finally:
            self._modules.pop(part.module, None)
            self._free_slots += self._held_slots.pop(part.module)

    async def _run_module(self, part: CourseModuleInput) -> None:
        with module_group(part.module).scope():
            handle = await workflow.start_child_workflow(
                CourseModuleWorkflow.run,
                part,
                id=module_workflow_id(self._job, part.module),
                parent_close_policy=ParentClosePolicy.TERMINATE,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"Module {part.module + 1}: {part.lessons} lessons",
            )
        self._modules[part.module] = handle
        if self.gate.paused:
            await handle.signal(CourseModuleWorkflow.on_set_paused, args=[True, self.gate.version])
        await handle

    async def pass_pause_on(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Modules pause between lessons."""
        for handle in list(self._modules.values()):
            await handle.signal(CourseModuleWorkflow.on_set_paused, args=[paused, version])

    async def _export(self, corpus_id: UUID, outline: WriteOutlineResult) -> dict[str, Any]:
        await self.gate()
        with workflow.create_event_group("export", label="Export").scope():
            return await workflow.execute_activity_method(
                GenerationActivities.export_course,
                ExportCourseInput(job=self._job, corpus_id=corpus_id, outline_id=outline.outline_id),
                summary="export",
                **COMPUTE,
            )


@workflow.defn(name=MODULE_WORKFLOW)
class CourseModuleWorkflow:
    """The lessons of one module, a bounded number at once."""

    @workflow.init
    def __init__(self, part: CourseModuleInput) -> None:
        self._part = part
        self._gate = PauseGate()
        self._stopped = False
        self._given_back = 0

    @workflow.signal(name="set_paused")
    def on_set_paused(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Close or open the gate before the next lesson."""
        self._gate.set(paused, version)

    @workflow.signal
    def stop(self) -> None:
        """Another module has failed: start no further lesson, finish those in progress."""
        self._stopped = True

    @workflow.run
    async def run(self, part: CourseModuleInput) -> None:
        """Write all lessons; the first failure, if any, is raised once the lessons in progress are done."""
        pending: set[asyncio.Task[None]] = set()
        failures: list[BaseException] = []
        lessons = iter(range(part.lessons))
        left = part.lessons
        while True:
            while left and not failures and not self._stopped and len(pending) < part.slots:
                await self._gate()
                pending.add(asyncio.create_task(self._write_lesson(next(lessons))))
                left -= 1
            if not pending:
                break
            done, still = await workflow.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            pending = set(still)
            failures += [error for task in done if (error := task.exception()) is not None]
            await self._give_back_slots(left, len(pending))
        if failures:
            raise failures[0]

    async def _write_lesson(self, lesson: int) -> None:
        part = self._part
        name = f"{part.module + 1}.{lesson + 1}"
        with workflow.create_event_group(f"lesson-{name}", label=f"Lesson {name}").scope():
            await workflow.execute_activity_method(
                GenerationActivities.write_lesson,
                WriteLessonInput(
                    job=part.job, corpus_id=part.corpus_id, outline_id=part.outline_id,
                    module=part.module, lesson=lesson,
                ),
                summary=f"lesson {name}",
                **MODEL_CALL,
            )  # fmt: skip

    async def _give_back_slots(self, left: int, busy: int) -> None:
        """Let other modules use the slots for which there is no lesson left, in a few portions."""
        idle = self._part.slots - self._given_back - busy
        parent = workflow.info().parent
        if left or not busy or parent is None or idle < max(1, self._part.slots // _REPORTS_PER_MODULE):
            return
        self._given_back += idle
        course = workflow.get_external_workflow_handle_for(CourseGenerationWorkflow.run, parent.workflow_id)
        await course.signal(CourseGenerationWorkflow.on_free_slots, FreedSlots(module=self._part.module, count=idle))
