"""The workflows of saving: a stream that brings records home for ever, and a whole file as a job."""

from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.saving.names import READ_STEP, SAVE_STEP
    from activities.saving.steps import SavingActivities
    from domain.jobs import JobRef, StepPlan
    from domain.saving import ImportStepInput, StreamInput
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import COMPUTE, FLUSH, RECORD

TASK_QUEUE: Final = "saving"
STREAM_WORKFLOW: Final = "RecordStream"
IMPORT_WORKFLOW: Final = "RecordImport"

_MOST_EVENTS: Final = 1_000  # of the 51,200 that Temporal allows; each look at the inbox costs about a dozen
_HALT: Final = timedelta(minutes=5)


@workflow.defn(name=STREAM_WORKFLOW)
class RecordStreamWorkflow:
    """``saving.stream``: looks into the inbox when it is woken, and brings home what is there.

    It is no job: it belongs to no tenant, nobody waits for its end, and it may be terminated at any time, as the
    keeper of the worker process starts it again where something waits.
    """

    def __init__(self) -> None:
        self._awake = True  # whoever starts it has a reason
        self._full = False
        self._resumed = False

    @workflow.signal(name="wake")
    def on_wake(self, full: bool) -> None:  # noqa: FBT001 - the arguments of a signal are positional
        """Records have come in; ``full`` says that they are enough not to wait for more."""
        self._awake = True
        self._full = self._full or full

    @workflow.signal(name="resume")
    def on_resume(self) -> None:
        """What made PostgreSQL refuse is mended."""
        self._resumed = True

    @workflow.run
    async def run(self, stream: StreamInput) -> None:
        """Collect, flush, and end once nothing has come for a while; whoever has something wakes a new run."""
        while True:
            woken = await self._until_woken(stream)
            records = await self._flush(stream)
            if not woken and not records and not self._awake:
                return
            info = workflow.info()
            if info.is_continue_as_new_suggested() or info.get_current_history_length() > _MOST_EVENTS:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(stream)

    async def _until_woken(self, stream: StreamInput) -> bool:
        """Wait for records by size and by time; False where the safety timer fired instead."""
        if not await _within(stream.idle_seconds, lambda: self._awake):
            return False
        await _within(stream.flush_seconds, lambda: self._full)
        return True

    async def _flush(self, stream: StreamInput) -> int:
        """Bring home what waits; how many records that were in the last look."""
        self._awake = self._full = False
        try:
            result = await workflow.execute_activity_method(SavingActivities.flush_stream, stream, **FLUSH)
        except ActivityError as error:
            if not isinstance(error.cause, ApplicationError):
                raise
            await self._halt(error.cause)
            self._awake = True
            return 0
        if not result.drained:
            self._awake = self._full = True
        workflow.set_current_details(f"The last look found {result.records} records.")
        return result.records

    async def _halt(self, cause: ApplicationError) -> None:
        workflow.set_current_details(
            f"**Halted**: {cause.message}. Records stay safe in the inbox. Mend it and send the signal `resume`; it is"
            " tried again by itself every five minutes."
        )
        self._resumed = False
        await _within(_HALT.total_seconds(), lambda: self._resumed)


async def _within(seconds: float, condition: Any) -> bool:
    try:
        await workflow.wait_condition(condition, timeout=timedelta(seconds=seconds))
    except TimeoutError:
        return False
    return True


@workflow.defn(name=IMPORT_WORKFLOW)
class RecordImportWorkflow(JobWorkflow):
    """``saving.import``: read a file into the inbox, then wait until everything in it found its place."""

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Go the way of every job."""
        steps = [
            StepPlan(name=READ_STEP, title="Read the file", weight=0.5, total=100),
            StepPlan(name=SAVE_STEP, title="Save the records", weight=0.5, total=100),
        ]
        return await self.carry(job, lambda: self._import(job), steps=steps)

    async def _import(self, job: JobRef) -> dict[str, Any]:
        step = ImportStepInput(job=job)
        for doing in (SavingActivities.import_records, SavingActivities.await_saved):
            done = False
            while not done:
                await self.gate()
                done = (await workflow.execute_activity_method(doing, step, **COMPUTE)).done
        return await workflow.execute_local_activity_method(SavingActivities.sum_up_import, step, **RECORD)
