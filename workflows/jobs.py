"""The course that every job takes, whatever its family: begin, pause where asked, end in exactly one way."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,  # noqa: A004 - Temporal's, which is what causes carry
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from activities.jobs import BeginJobInput, FinishJobInput, JobActivities, PlanStepsInput
    from domain.jobs import JobRef, JobStatus, StepPlan
    from domain.model import Frozen
    from workflows.options import RECORD


T = TypeVar("T")


class JobResult(Frozen):
    """What a job's workflow returns to Temporal; the result itself is in our tables."""

    status: JobStatus


class PauseGate:
    """A gate that workflows pass before each step. It opens and closes by versions, so that late signals lose."""

    def __init__(self) -> None:
        self.paused = False
        self.version = 0

    def set(self, paused: bool, version: int) -> bool:  # noqa: FBT001 - the arguments of a signal are positional
        """Close or open the gate; False where a newer wish is known already."""
        if version <= self.version:
            return False
        self.paused, self.version = paused, version
        return True

    async def __call__(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until the gate is open, or ``unless`` says that there is nothing left to wait for."""
        if self.paused and not unless():
            before = workflow.get_current_details()
            workflow.set_current_details("**Paused** on request. Resume it through the API.")
            await workflow.wait_condition(lambda: not self.paused or unless())
            workflow.set_current_details(before)


class JobWorkflow:
    """Base of every job's main workflow. Subclasses have a ``run`` that hands its body to ``carry``."""

    def __init__(self) -> None:
        self.gate = PauseGate()

    @workflow.signal(name="set_paused")
    async def on_set_paused(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Close or open the gate before the next step."""
        if self.gate.set(paused, version):
            await self.pass_pause_on(paused, version)

    async def pass_pause_on(self, paused: bool, version: int) -> None:  # noqa: FBT001 - see PauseGate
        """Tell child workflows, where a family has them."""

    async def carry(
        self, job: JobRef, body: Callable[[], Awaitable[dict[str, Any] | None]], *, steps: Sequence[StepPlan] = ()
    ) -> JobResult:
        """Begin the job, run its body, and write down how it ended."""
        begun, canceled = await _undisturbed(
            workflow.execute_local_activity_method(
                JobActivities.begin_job, BeginJobInput(job=job, steps=steps), **RECORD
            )
        )
        if not begun.proceed:
            return JobResult(status=JobStatus.CANCELED)
        self.gate.set(begun.paused, 1)
        end = FinishJobInput(job=job, status=JobStatus.CANCELED) if canceled else await self._end_of(job, body)
        await _undisturbed(workflow.execute_local_activity_method(JobActivities.finish_job, end, **RECORD))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return JobResult(status=end.status)

    async def plan(self, job: JobRef, steps: Sequence[StepPlan], *, first_position: int) -> None:
        """Show further steps in the job's document."""
        await workflow.execute_local_activity_method(
            JobActivities.plan_steps, PlanStepsInput(job=job, steps=steps, first_position=first_position), **RECORD
        )

    async def _end_of(self, job: JobRef, body: Callable[[], Awaitable[dict[str, Any] | None]]) -> FinishJobInput:
        try:
            return FinishJobInput(job=job, status=JobStatus.SUCCEEDED, result=await body())
        except BaseException as error:
            if is_cancelled_exception(error):
                return FinishJobInput(job=job, status=JobStatus.CANCELED)
            failure = root_failure(error)
            if failure is None:
                # A fault in workflow code: Temporal keeps the task waiting for a repaired version.
                raise
            return FinishJobInput(
                job=job,
                status=JobStatus.FAILED,
                error_code=failure.type,
                error_detail=failure.message,
            )


async def _undisturbed(writing: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """The result of what must be on record whether or not cancellation comes meanwhile, and whether it came."""
    task, canceled = asyncio.ensure_future(writing), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            canceled = True
    return task.result(), canceled


def root_failure(error: BaseException | None) -> ApplicationError | None:
    """The reason at the bottom of a chain of activity and child failures, as an application failure.

    None where the error is not a failure of the job but a fault in workflow code.
    """
    if isinstance(error, ApplicationError):
        # Anything else is the name of some exception: no code of ours, and its words may quote anything.
        ours = (error.type or "").startswith("E.")
        return error if ours else ApplicationError("a step failed unexpectedly", type="E.INTERNAL")
    if not isinstance(error, ActivityError | ChildWorkflowError):
        return None
    match error.cause:
        case ActivityError() | ChildWorkflowError() | ApplicationError():
            return root_failure(error.cause)
        case TimeoutError():
            return ApplicationError(f"a step ran out of its time: {error.cause.message}", type="E.STEP.TIMEOUT")
        case TerminatedError():
            return ApplicationError("a part of the job was terminated by an operator", type="E.JOB.TERMINATED")
        case cause:
            return ApplicationError(f"a step failed: {cause}", type="E.INTERNAL")
