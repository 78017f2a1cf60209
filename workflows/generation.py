"""A course, from its sources to its exports; one child workflow a module keeps every history short."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.approvals import ApprovalActivities, FreezeRewrittenInput, PlanRewritingInput, Rewriting
    from activities.generation.lesson_parts import LessonPartActivities, WriteLessonPartInput
    from activities.generation.steps import (
        CourseStepInput,
        ExportCourseInput,
        GenerationActivities,
        WriteLessonInput,
        WriteLessonResult,
        WriteOutlineInput,
        WriteOutlineResult,
    )
    from activities.media.speech import SpeechActivities
    from activities.media.video import FilmLessonInput
    from domain.approvals import MOST_ROUNDS, ApprovalState, Subject
    from domain.generation import ApprovalWish, ContentStatus
    from domain.generation_plan import LessonPart, first_steps, module_steps, outline_part
    from domain.jobs import JobRef
    from domain.model import Frozen
    from workflows.approvals import ApprovedWorkflow
    from workflows.jobs import JobResult, PauseGate
    from workflows.options import COMPUTE, MODEL_CALL, RECORD
    from workflows.video import RenderVideoWorkflow

TASK_QUEUE: Final = "generation"
COURSE_WORKFLOW: Final = "CourseGeneration"
MODULE_WORKFLOW: Final = "CourseModule"

_MOST_IDLE: Final = 4
"""A module near its end keeps at most one slot idle of so many; giving them back costs the course a few events."""


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
    """One module of a course: ``lessons`` lessons, at first at most ``slots`` of them at once.

    ``parts`` is made of every lesson that is ready, in this order; ``video`` says that it is filmed then. ``before``
    has the lessons that are made anew because a person did not agree to them, as they are. ``by_share`` says that idle
    slots are counted against those that are left; modules from before that go by those they had at first.
    """

    job: JobRef
    corpus_id: UUID
    outline_id: UUID
    module: int
    lessons: int
    slots: int
    parts: tuple[LessonPart, ...] = ()
    video: bool = False
    before: tuple[UUID | None, ...] = ()
    by_share: bool = False


class FreedSlots(Frozen):
    """Slots that a module no longer needs."""

    module: int
    count: int


@workflow.defn(name=COURSE_WORKFLOW)
class CourseGenerationWorkflow(ApprovedWorkflow):
    """``generation.course``: sources, outline, lessons module by module, export."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._free_slots = 0
        self._held_slots: dict[int, int] = {}
        self._missing_slots: dict[int, int] = {}
        self._failed_module: int | None = None
        self._modules: dict[int, ModuleHandle] = {}

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the course through; its result is in our tables."""
        return await self.carry(job, self._make_course, steps=first_steps())

    async def _make_course(self) -> None:
        workflow.set_current_details("Reading the sources")
        corpus_id = await self._prepare_sources()
        workflow.set_current_details("Designing the course")
        outline = await self._agree_on_outline(corpus_id)
        await self.plan(
            self._job, module_steps(outline.lessons, video=outline.video), first_position=len(first_steps())
        )
        workflow.set_current_details(f"Writing {sum(outline.lessons)} lessons in {len(outline.lessons)} modules")
        rewriting = await self._plan_rewriting(outline)
        await self._write_modules(corpus_id, outline, rewriting)
        workflow.set_current_details("Putting the course together")
        await self._export(corpus_id, outline, again=await self._freeze_rewritten(rewriting))
        if outline.approval is not None and outline.approval.final:
            await self._agree_on_course(corpus_id, outline, outline.approval)

    async def _prepare_sources(self) -> UUID:
        await self.gate()
        with workflow.create_event_group("sources", label="Sources").scope():
            return await workflow.execute_activity_method(
                GenerationActivities.prepare_sources, CourseStepInput(job=self._job), summary="sources", **COMPUTE
            )

    async def _write_outline(self, corpus_id: UUID, number: int) -> WriteOutlineResult:
        await self.gate()
        with workflow.create_event_group(outline_part(number), label="Course structure").scope():
            return await workflow.execute_activity_method(
                GenerationActivities.write_outline,
                WriteOutlineInput(job=self._job, corpus_id=corpus_id, round=number),
                summary=outline_part(number),
                **MODEL_CALL,
            )

    # --- what people agree to -----------------------------------------------------------------------

    async def _agree_on_outline(self, corpus_id: UUID) -> WriteOutlineResult:
        """The outline, as soon as a person agrees to one where that was asked for. Each no leads to another one."""
        number = rejections = 0
        while True:
            number += 1
            outline = await self._write_outline(corpus_id, number)
            if outline.approval is None or not outline.approval.outline:
                return outline
            found = await self.await_approval(
                self._job, outline.approval, Subject.OUTLINE, number,
                artifact_id=outline.outline_id, content_sha256=outline.content_sha256,
            )  # fmt: skip
            if found.state is ApprovalState.APPROVED:
                # Not necessarily the one that was written: a person may have edited it.
                return outline.model_copy(update={"outline_id": found.artifact_id})
            # Those of earlier attempts are only passed by: a retry is a wish for more outlines.
            rejections += found.attempt == self._job.attempt
            if rejections >= MOST_ROUNDS:
                raise ApplicationError(f"{rejections} outlines were rejected", type="E.GENERATION.NOT_APPROVED")

    async def _agree_on_course(self, corpus_id: UUID, outline: WriteOutlineResult, wish: ApprovalWish) -> None:
        """Wait until a person agrees to the course as it was put together last."""
        while True:
            found = await self.await_approval(self._job, wish, Subject.COURSE, self._job.attempt)
            if found.state is ApprovalState.APPROVED:
                return
            if found.state is ApprovalState.REJECTED:
                raise ApplicationError("the finished course was rejected", type="E.GENERATION.NOT_APPROVED")
            # A part of it was edited: people are shown, and asked about, what that makes of the whole.
            await self._export(corpus_id, outline, again=True)

    async def _plan_rewriting(self, outline: WriteOutlineResult) -> Rewriting | None:
        """What is made anew because a person rejected what an earlier attempt has made."""
        if self._job.attempt == 1 or outline.approval is None or not outline.approval.final:
            return None
        if not workflow.patched("rewriting"):
            return None
        plan = PlanRewritingInput(job=self._job, lessons=outline.lessons)
        return await workflow.execute_local_activity_method(ApprovalActivities.plan_rewriting, plan, **RECORD)

    async def _freeze_rewritten(self, rewriting: Rewriting | None) -> bool:
        """Whether the course has another version by what was rewritten."""
        if rewriting is None:
            return False
        done = FreezeRewrittenInput(job=self._job, round=rewriting.round)
        return await workflow.execute_local_activity_method(ApprovalActivities.freeze_rewritten, done, **RECORD)

    # --- modules ------------------------------------------------------------------------------------

    async def _write_modules(self, corpus_id: UUID, outline: WriteOutlineResult, rewriting: Rewriting | None) -> None:
        """Start modules as slots become free. After a failure start no more, but let paid work finish."""
        self._free_slots = outline.fan_out
        running: list[asyncio.Task[None]] = []
        try:
            for module, lessons in enumerate(outline.lessons):
                await self.gate(unless=lambda: self._failed)
                await workflow.wait_condition(lambda: self._failed or self._free_slots > 0)
                if self._failed:
                    break
                slots = self._take_slots(module, lessons)
                part = CourseModuleInput(
                    job=self._job, corpus_id=corpus_id, outline_id=outline.outline_id,
                    module=module, lessons=lessons, slots=slots, parts=outline.parts, video=outline.video,
                    before=() if rewriting is None else rewriting.before[module], by_share=True,
                )  # fmt: skip
                running.append(asyncio.create_task(self._write_module(part)))
            await asyncio.gather(*running)
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        except FailureError as failure:
            await self._stop_modules()
            ends = await asyncio.gather(*running, return_exceptions=True)
            # The failure that came first decides, also where its module was not the first to be done.
            first = ends[self._failed_module or 0]
            decisive = first if isinstance(first, FailureError) else failure
            raise decisive from decisive.cause

    @property
    def _failed(self) -> bool:
        return self._failed_module is not None

    @workflow.signal(name="lesson_failed")
    async def on_lesson_failed(self, module: int) -> None:
        """A lesson has failed for good, and others of its module are still in progress."""
        if not self._failed:
            self._failed_module = module
            await self._stop_modules()

    async def _stop_modules(self) -> None:
        for handle in list(self._modules.values()):
            await _tell(handle, CourseModuleWorkflow.stop)

    def _take_slots(self, module: int, lessons: int) -> int:
        slots = min(self._free_slots, lessons)
        self._free_slots -= slots
        self._held_slots[module] = slots
        self._missing_slots[module] = lessons - slots
        return slots

    @workflow.signal(name="free_slots")
    async def on_free_slots(self, freed: FreedSlots) -> None:
        """A module near its end has no lessons left for some of its slots."""
        if freed.module in self._held_slots:
            self._held_slots[freed.module] -= freed.count
            self._free_slots += freed.count
            self._missing_slots[freed.module] = 0
            await self._share_slots()

    async def _share_slots(self) -> None:
        """Free slots go to modules that run with fewer than they have lessons, before another module starts."""
        shares = {}
        for module in self._modules:
            share = min(self._missing_slots[module], self._free_slots)
            if share and not self._failed:
                self._free_slots -= share
                self._held_slots[module] += share
                self._missing_slots[module] -= share
                shares[module] = share
        for module, share in shares.items():
            if module in self._modules:
                await _tell(self._modules[module], CourseModuleWorkflow.on_more_slots, share)

    async def _write_module(self, part: CourseModuleInput) -> None:
        try:
            await self._run_module(part)
        except FailureError:
            if not self._failed:
                self._failed_module = part.module
            raise
        finally:
            self._modules.pop(part.module, None)
            self._missing_slots.pop(part.module)
            self._free_slots += self._held_slots.pop(part.module)
        await self._share_slots()

    async def _run_module(self, part: CourseModuleInput) -> None:
        with module_group(part.module).scope():
            handle = await workflow.start_child_workflow(
                CourseModuleWorkflow.run,
                part,
                id=module_workflow_id(self._job, part.module),
                # After a reset the modules of the run before may still be there; their finished lessons are kept.
                id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
                parent_close_policy=ParentClosePolicy.TERMINATE,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"Module {part.module + 1}: {part.lessons} lessons",
            )
        self._modules[part.module] = handle
        if self.gate.paused:
            await _tell(handle, CourseModuleWorkflow.on_set_paused, self.gate.paused, self.gate.version)
        if self._failed:
            await _tell(handle, CourseModuleWorkflow.stop)
        await self._share_slots()
        await handle

    async def pass_pause_on(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Modules pause between lessons."""
        for handle in list(self._modules.values()):
            await _tell(handle, CourseModuleWorkflow.on_set_paused, paused, version)

    async def _export(self, corpus_id: UUID, outline: WriteOutlineResult, *, again: bool = False) -> None:
        await self.gate()
        with workflow.create_event_group("export", label="Export").scope():
            await workflow.execute_activity_method(
                GenerationActivities.export_course,
                ExportCourseInput(job=self._job, corpus_id=corpus_id, outline_id=outline.outline_id, again=again),
                summary="export",
                **COMPUTE,
            )


async def _tell(handle: ModuleHandle, signal: Callable[..., Any], *args: Any) -> None:
    """Signal a module; one that closes at the same moment need not hear it."""
    try:
        await handle.signal(signal, args=args)
    except FailureError:
        workflow.logger.info("module.closed_before_signal", extra={"child": handle.id})


_MAKERS: Final[dict[LessonPart, Callable[[Any, WriteLessonPartInput], Awaitable[Any]]]] = {
    LessonPart.SLIDES: LessonPartActivities.write_slides,
    LessonPart.QUIZ: LessonPartActivities.write_quiz,
    LessonPart.AUDIO: SpeechActivities.speak_lesson,
}
"""The activity that makes each part of a lesson."""


@workflow.defn(name=MODULE_WORKFLOW)
class CourseModuleWorkflow:
    """The lessons of one module, a bounded number at once."""

    @workflow.init
    def __init__(self, part: CourseModuleInput) -> None:
        self._part = part
        self._gate = PauseGate()
        self._slots = part.slots
        self._busy = 0
        self._stopped = False
        self._failures: list[FailureError] = []

    @workflow.signal(name="set_paused")
    def on_set_paused(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Close or open the gate before the next lesson."""
        self._gate.set(paused, version)

    @workflow.signal(name="more_slots")
    def on_more_slots(self, count: int) -> None:
        """Other modules have left slots over."""
        self._slots += count

    @workflow.signal
    def stop(self) -> None:
        """Another module has failed: start no further lesson, finish those in progress."""
        self._stopped = True

    @workflow.run
    async def run(self, part: CourseModuleInput) -> None:
        """Write all lessons; the first failure, if any, is raised once the lessons in progress are done."""
        running: list[asyncio.Task[None]] = []
        for lesson in range(part.lessons):
            if not await self._next_turn():
                break
            self._busy += 1
            running.append(asyncio.create_task(self._write_lesson(lesson)))
        await self._give_back_slots()
        if part.video and not self._stopped:
            await self._give_back_all()
        if self._failures and self._busy:
            await self._tell_course(CourseGenerationWorkflow.on_lesson_failed, part.module)
        await asyncio.gather(*running)
        if self._failures:
            raise self._failures[0]

    async def _next_turn(self) -> bool:
        """Wait until another lesson may start; False where none is to."""
        while not self._stopped:
            await self._gate(unless=lambda: self._stopped)
            await workflow.wait_condition(lambda: self._stopped or self._gate.paused or self._busy < self._slots)
            if not self._stopped and not self._gate.paused:
                return True
        return False

    async def _write_lesson(self, lesson: int) -> None:
        try:
            written = await self._execute_lesson(lesson)
        except FailureError as error:
            self._stopped = True
            self._failures.append(error)
            return
        finally:
            self._busy -= 1
        # The slot is free for another lesson: a video takes minutes, and nothing of ours meanwhile.
        if self._part.video:
            await self._film(lesson, written)

    async def _film(self, lesson: int, written: WriteLessonResult) -> None:
        """Have a lesson filmed. Once lessons fail nobody waits for videos: what was ordered stays on record."""
        part = self._part
        await self._gate(unless=lambda: self._stopped)
        if self._stopped:
            return
        film = FilmLessonInput(
            job=part.job, course_id=part.job.job_id, lesson_id=written.lesson_id, module=part.module, lesson=lesson
        )
        try:
            handle = await workflow.start_child_workflow(
                RenderVideoWorkflow.run,
                film,
                id=f"{workflow.info().workflow_id}/video-{lesson + 1:02}",
                id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
                parent_close_policy=ParentClosePolicy.TERMINATE,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"Video {part.module + 1}.{lesson + 1}",
            )
            await workflow.wait_condition(lambda: self._stopped or handle.done())
            if not handle.done():
                await handle.signal(RenderVideoWorkflow.on_leave)
            await handle
        except FailureError as error:
            self._stopped = True
            self._failures.append(error)

    async def _give_back_all(self) -> None:
        """All lessons are written and only videos are waited for: other modules may have every slot."""
        await workflow.wait_condition(lambda: self._stopped or not self._busy)
        if self._slots and not self._stopped:
            freed = FreedSlots(module=self._part.module, count=self._slots)
            self._slots = 0
            await self._tell_course(CourseGenerationWorkflow.on_free_slots, freed)

    async def _execute_lesson(self, lesson: int) -> WriteLessonResult:
        part = self._part
        name = f"{part.module + 1}.{lesson + 1}"
        with workflow.create_event_group(f"lesson-{name}", label=f"Lesson {name}").scope():
            written = await workflow.execute_activity_method(
                GenerationActivities.write_lesson,
                WriteLessonInput(
                    job=part.job, corpus_id=part.corpus_id, outline_id=part.outline_id,
                    module=part.module, lesson=lesson, is_last=not part.parts,
                    before_id=part.before[lesson] if part.before else None,
                ),
                summary=f"lesson {name}",
                **MODEL_CALL,
            )  # fmt: skip
            # Nothing can be made of a lesson that did not come out right.
            if written.status is ContentStatus.READY:
                await self._make_parts(lesson, written)
        return written

    async def _make_parts(self, lesson: int, written: WriteLessonResult) -> None:
        """What comes after the text, one after the other; the lesson counts as done with the last."""
        part = self._part
        for kind in part.parts:
            await self._gate(unless=lambda: self._stopped)
            if self._stopped:
                return
            await workflow.execute_activity_method(
                _MAKERS[kind],
                WriteLessonPartInput(
                    job=part.job, corpus_id=part.corpus_id, lesson_id=written.lesson_id,
                    module=part.module, lesson=lesson, is_last=kind == part.parts[-1],
                ),
                summary=f"{kind} {part.module + 1}.{lesson + 1}",
                **MODEL_CALL,
            )  # fmt: skip

    async def _give_back_slots(self) -> None:
        """No lesson is left to start: let other modules use the slots that become idle, a few at once."""
        portion = max(1, self._slots // _MOST_IDLE)

        def many_are_idle() -> bool:
            idle = self._slots - self._busy
            return idle * _MOST_IDLE > self._slots if self._part.by_share else idle >= portion

        while self._busy and not self._stopped:
            await workflow.wait_condition(lambda: self._stopped or not self._busy or many_are_idle())
            idle = self._slots - self._busy
            if self._busy and idle and not self._stopped:
                self._slots -= idle
                freed = FreedSlots(module=self._part.module, count=idle)
                await self._tell_course(CourseGenerationWorkflow.on_free_slots, freed)

    async def _tell_course(self, signal: Callable[..., Any], what: Any) -> None:
        parent = workflow.info().parent
        if parent is not None:
            course: workflow.ExternalWorkflowHandle[CourseGenerationWorkflow] = (
                workflow.get_external_workflow_handle_for(CourseGenerationWorkflow.run, parent.workflow_id)
            )
            await course.signal(signal, what)
