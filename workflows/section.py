"""A part of a course made again, with what is made from it; and a version of a course rendered."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from pydantic import Field

    from activities.generation.lesson_parts import LessonPartActivities, WriteLessonPartInput, WriteLessonPartResult
    from activities.generation.sections import (
        APPLY_STEP,
        ApplySectionInput,
        ApplySectionResult,
        ExportVersionInput,
        LessonWork,
        SectionActivities,
        SectionPlan,
        SectionStepInput,
    )
    from activities.generation.steps import GenerationActivities, WriteLessonInput
    from activities.media.speech import SpeakLessonResult, SpeechActivities
    from activities.media.video import FilmLessonInput, VideoActivities
    from domain.course_graph import NodeKind, below, lesson_key
    from domain.generation_plan import EXPORT_STEP, VIDEO_STEP, module_step
    from domain.jobs import JobRef, StepPlan
    from domain.model import Frozen
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import COMPUTE, MODEL_CALL
    from workflows.video import RenderVideoWorkflow

SECTION_WORKFLOW: Final = "SectionGeneration"
EXPORT_WORKFLOW: Final = "VersionExport"

_NOT_MADE: Final = "the part could not be made here; the job's events say why, and the course is as it was"


class Place(Frozen):
    """Something to be made of a lesson, by the place of the lesson, counted from zero.

    ``lesson_id`` is the lesson as it is by now. ``before_id`` is what there was, where it is made anew for its own
    sake. ``is_last`` says that nothing more is written of the lesson. ``material`` are the documents of slides and
    recording as they are by now.
    """

    job: JobRef
    course_id: UUID | None
    corpus_id: UUID
    lesson_id: UUID
    module: int
    lesson: int
    is_last: bool
    before_id: UUID | None = None
    material: Mapping[NodeKind, UUID | None] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The lesson as people count."""
        return f"{self.module + 1}.{self.lesson + 1}"


Stopped = Callable[[], bool]
"""Whether another part has failed, so that nothing new is begun."""

Maker = Callable[[Place, Stopped], Awaitable[UUID | None]]
"""Makes a node of a lesson: the artifact behind it, or None where the lesson does without."""


def _written_by(
    write: Callable[[Any, WriteLessonPartInput], Awaitable[WriteLessonPartResult | SpeakLessonResult]], what: str
) -> Maker:
    async def make(place: Place, _stopped: Stopped) -> UUID | None:
        made = await workflow.execute_activity_method(
            write,
            WriteLessonPartInput(
                job=place.job, corpus_id=place.corpus_id, lesson_id=place.lesson_id, module=place.module,
                lesson=place.lesson, is_last=place.is_last, before_id=place.before_id,
            ),
            summary=f"{what} {place.name}",
            **MODEL_CALL,
        )  # fmt: skip
        return made.artifact_id

    return make


async def _film(place: Place, stopped: Stopped) -> UUID | None:
    """Have a lesson filmed. Once others fail nobody waits for it: what was ordered stays on record."""
    assert place.course_id is not None
    film = FilmLessonInput(
        job=place.job, course_id=place.course_id, lesson_id=place.lesson_id, module=place.module, lesson=place.lesson,
        material=dict(place.material),
    )  # fmt: skip
    handle = await workflow.start_child_workflow(
        RenderVideoWorkflow.run,
        film,
        id=f"{workflow.info().workflow_id}/video-{place.name}",
        id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
        parent_close_policy=ParentClosePolicy.TERMINATE,
        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        static_summary=f"Video {place.name}",
    )
    try:
        await workflow.wait_condition(lambda: stopped() or handle.done())
    except asyncio.CancelledError:
        handle.cancel()
        await asyncio.gather(handle, return_exceptions=True)
        raise
    if not handle.done():
        try:
            await handle.signal(RenderVideoWorkflow.on_leave)
        except FailureError:
            workflow.logger.info("video.closed_before_signal", extra={"child": handle.id})
    filmed = await handle
    return await workflow.execute_activity_method(
        VideoActivities.find_video,
        film.model_copy(update={"digest": filmed.digest}),
        summary=f"video {place.name}",
        **COMPUTE,
    )


MAKERS: Final[Mapping[NodeKind, Maker]] = {
    NodeKind.SLIDES: _written_by(LessonPartActivities.write_slides, "slides"),
    NodeKind.QUIZ: _written_by(LessonPartActivities.write_quiz, "quiz"),
    NodeKind.AUDIO: _written_by(SpeechActivities.speak_lesson, "speech"),
    NodeKind.VIDEO: _film,
}
"""Who makes what of a lesson: one line a kind. The order is that of ``domain.course_graph.made_from``."""


@workflow.defn(name=SECTION_WORKFLOW)
class SectionWorkflow(JobWorkflow):
    """``generation.section``: the text where it is wanted anew, what follows from it, then all of it into the tree.

    What others have changed meanwhile decides: was it something that our parts were made from, they are made again
    from what stands there now.
    """

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._failures: list[FailureError] = []

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the part through; its result is in our tables."""
        return await self.carry(job, self._make_section, steps=(StepPlan(name=APPLY_STEP, title="Course", weight=0.1),))

    async def _make_section(self) -> None:
        tries = 0
        applied = ApplySectionResult(applied=False)
        while not applied.applied:
            tries += 1
            plan = await self._plan(tries)
            made = await self._make_all(plan)
            await self.gate()
            applied = await workflow.execute_activity_method(
                SectionActivities.apply_section,
                ApplySectionInput(job=self._job, base=plan.base, made=made, round=tries),
                summary="into the course",
                **COMPUTE,
            )
        if applied.version is not None:
            await self.gate()
            await workflow.execute_activity_method(
                SectionActivities.export_version,
                ExportVersionInput(job=self._job, version=applied.version),
                summary=f"version {applied.version}",
                **COMPUTE,
            )

    async def _plan(self, tries: int) -> SectionPlan:
        await self.gate()
        plan = await workflow.execute_activity_method(
            SectionActivities.plan_section,
            SectionStepInput(job=self._job, round=tries),
            summary="what is to be made again",
            **COMPUTE,
        )
        if tries == 1:
            await self.plan(self._job, _steps(plan), first_position=1)
        return plan

    async def _make_all(self, plan: SectionPlan) -> dict[str, UUID | None]:
        """Every lesson of the plan, a bounded number at once; the artifacts behind the nodes, by key.

        The first failure, if any, is raised once the calls in progress are done: they are paid for.
        """
        slots = asyncio.Semaphore(plan.fan_out)

        async def make(work: LessonWork) -> dict[str, UUID | None]:
            async with slots:
                await self.gate(unless=self._is_stopped)
                if self._is_stopped():
                    return {}
                try:
                    return await self._make_lesson(plan, work)
                except FailureError as error:
                    self._failures.append(error)
                    return {}

        tasks = [asyncio.create_task(make(work)) for work in plan.lessons]
        try:
            lessons = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        if self._failures:
            raise self._failures[0]
        return {key: artifact for lesson in lessons for key, artifact in lesson.items()}

    def _is_stopped(self) -> bool:
        return bool(self._failures)

    async def _make_lesson(self, plan: SectionPlan, work: LessonWork) -> dict[str, UUID | None]:
        key, lesson_id = lesson_key(work.module, work.lesson), work.lesson_id
        made: dict[str, UUID | None] = {}
        with workflow.create_event_group(key, label=f"Lesson {work.module + 1}.{work.lesson + 1}").scope():
            if work.anew:
                lesson_id = await self._write_lesson(plan, work)
                made[key] = lesson_id
            material: dict[NodeKind, UUID | None] = dict(work.standing)
            written = [kind for kind in work.parts if kind is not NodeKind.VIDEO]
            for kind in work.parts:
                await self.gate(unless=self._is_stopped)
                if self._is_stopped():
                    break
                made[below(key, kind.value)] = material[kind] = await MAKERS[kind](
                    Place(
                        job=self._job, course_id=plan.course_id, corpus_id=plan.corpus_id, lesson_id=lesson_id,
                        module=work.module, lesson=work.lesson, is_last=kind in written[-1:],
                        before_id=work.before_id if kind is work.parts[0] else None, material=dict(material),
                    ),
                    self._is_stopped,
                )  # fmt: skip
                if material[kind] is None and not work.anew and kind is work.parts[0]:
                    # Asked for itself. What stands there is better than nothing.
                    raise ApplicationError(_NOT_MADE, type="E.GENERATION.NOT_MADE", non_retryable=True)
        return made

    async def _write_lesson(self, plan: SectionPlan, work: LessonWork) -> UUID:
        written = await workflow.execute_activity_method(
            GenerationActivities.write_lesson,
            WriteLessonInput(
                job=self._job, corpus_id=plan.corpus_id, outline_id=plan.outline_id, module=work.module,
                lesson=work.lesson, is_last=not work.parts, before_id=work.lesson_id,
            ),
            summary=f"lesson {work.module + 1}.{work.lesson + 1}",
            **MODEL_CALL,
        )  # fmt: skip
        return written.lesson_id


def _steps(plan: SectionPlan) -> tuple[StepPlan, ...]:
    modules = sorted({work.module for work in plan.lessons})
    counts = {module: sum(work.module == module for work in plan.lessons) for module in modules}
    films = sum(NodeKind.VIDEO in work.parts for work in plan.lessons)
    share = 0.8 / len(plan.lessons)
    return (
        *(
            StepPlan(name=module_step(module), title=f"Module {module + 1}", weight=share * count, total=count)
            for module, count in counts.items()
        ),
        *((StepPlan(name=VIDEO_STEP, title="Videos", weight=0.0, total=films),) if films else ()),
        StepPlan(name=EXPORT_STEP, title="Export", weight=0.1),
    )


@workflow.defn(name=EXPORT_WORKFLOW)
class VersionExportWorkflow(JobWorkflow):
    """``generation.export``: a version of a course in the forms asked for."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the export through; its result is in our tables."""
        return await self.carry(job, self._export, steps=(StepPlan(name=EXPORT_STEP, title="Export"),))

    async def _export(self) -> None:
        await self.gate()
        await workflow.execute_activity_method(
            SectionActivities.export_version, ExportVersionInput(job=self._job), summary="export", **COMPUTE
        )
