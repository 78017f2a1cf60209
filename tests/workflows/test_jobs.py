"""The course that every job takes: begin, gate, exactly one end - with doubles for the records, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    RetryState,
    TerminatedError,
    TimeoutType,
)
from temporalio.exceptions import (
    TimeoutError as StepTimeoutError,
)
from temporalio.worker import Worker

from activities.jobs import BeginJobInput, BeginJobResult, FinishJobInput
from core.ids import new_id
from core.temporal import workflow_sandbox
from domain.jobs import JobRef, JobStatus
from tests.support.course_doubles import CourseDoubles, RecordDoubles, new_job, serving, start_course
from tests.support.waiting import eventually
from workflows.diagnostics import NoopWorkflow
from workflows.jobs import JobResult, PauseGate, root_failure

TASK_TIMEOUT: Final = timedelta(seconds=2)
"""Short, so that a workflow task that waits for a local activity soon hears what else has happened."""


@asynccontextmanager
async def noop(client: Client, records: RecordDoubles) -> AsyncIterator[WorkflowHandle[Any, JobResult]]:
    """A running job that does nothing."""
    task_queue = f"noop-{new_id()}"
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[NoopWorkflow],
        activities=records.every,
        workflow_runner=workflow_sandbox(),
    ):
        job = JobRef(job_id=new_id(), tenant_id=new_id(), kind="diagnostics.noop")
        yield await client.start_workflow(
            NoopWorkflow.run, job, id=job.workflow_id, task_queue=task_queue, task_timeout=TASK_TIMEOUT
        )


async def cancel_and_be_heard(handle: WorkflowHandle[Any, JobResult]) -> None:
    """Request cancellation, and wait until the workflow has been told."""
    await handle.cancel()

    async def heard() -> bool:
        kinds = [event.event_type for event in (await handle.fetch_history()).events]
        asked = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        return asked in kinds and EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED in kinds[kinds.index(asked) :]

    await eventually(heard)


class FlakyRecords(RecordDoubles):
    """A database that is away for the first tries."""

    def __init__(self, *, failures: int) -> None:
        super().__init__()
        self.failures = failures

    @activity.defn(name="finish_job")
    async def finish_job(self, finish: FinishJobInput) -> None:
        """Fail, then remember."""
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        await super().finish_job(finish)


class SlowRecords(RecordDoubles):
    """Says when the end is being written."""

    def __init__(self) -> None:
        super().__init__()
        self.may_finish.clear()
        self.finishing = False

    @activity.defn(name="finish_job")
    async def finish_job(self, finish: FinishJobInput) -> None:
        """Say so, wait, remember."""
        self.finishing = True
        await super().finish_job(finish)


class SlowBeginning(RecordDoubles):
    """Says when the beginning is being written."""

    def __init__(self) -> None:
        super().__init__()
        self.may_begin = asyncio.Event()
        self.beginning = False

    @activity.defn(name="begin_job")
    async def begin_job(self, begin: BeginJobInput) -> BeginJobResult:
        """Say so, wait, let it run."""
        self.beginning = True
        await self.may_begin.wait()
        return await super().begin_job(begin)


class TestCarry:
    async def test_a_job_begins_and_ends(self, temporal: Client) -> None:
        """Once each."""
        records = RecordDoubles()
        async with noop(temporal, records) as handle:
            assert (await handle.result()).status is JobStatus.SUCCEEDED
        assert [(end.status, end.result, end.error_code) for end in records.ends] == [(JobStatus.SUCCEEDED, {}, None)]

    async def test_a_job_that_is_not_to_run_does_nothing(self, temporal: Client) -> None:
        """Canceled before it began, finished, or superseded: its row is somebody else's business."""
        records = RecordDoubles()
        records.proceed = False
        async with noop(temporal, records) as handle:
            assert (await handle.result()).status is JobStatus.CANCELED
        assert records.ends == []

    async def test_the_end_is_written_however_long_it_takes(self, temporal: Client) -> None:
        """A database that is away delays the record, and does not change it."""
        records = FlakyRecords(failures=3)
        async with noop(temporal, records) as handle:
            assert (await handle.result()).status is JobStatus.SUCCEEDED
        assert [end.status for end in records.ends] == [JobStatus.SUCCEEDED]

    async def test_a_cancellation_that_comes_while_the_end_is_written_loses_no_record(self, temporal: Client) -> None:
        """Success comes first, and the workflow completes: no row is left running for the reconciler."""
        records = SlowRecords()
        async with noop(temporal, records) as handle:

            async def finishing() -> bool:
                return records.finishing

            await eventually(finishing)
            await cancel_and_be_heard(handle)
            records.may_finish.set()
            assert (await handle.result()).status is JobStatus.SUCCEEDED
        assert [end.status for end in records.ends] == [JobStatus.SUCCEEDED]

    async def test_a_cancellation_that_comes_while_the_job_begins_is_on_record(self, temporal: Client) -> None:
        """The row says running by then; nobody else would say that it is over."""
        records = SlowBeginning()
        async with noop(temporal, records) as handle:

            async def beginning() -> bool:
                return records.beginning

            await eventually(beginning)
            await cancel_and_be_heard(handle)
            records.may_begin.set()
            assert (await handle.result()).status is JobStatus.CANCELED
        assert {end.status for end in records.ends} == {JobStatus.CANCELED}

    async def test_a_job_paused_before_its_start_waits_at_the_first_gate(self, temporal: Client) -> None:
        """And passes it once it is opened."""
        records = RecordDoubles()
        records.paused_at_start = True
        async with noop(temporal, records) as handle:

            async def waits() -> bool:
                return "Paused" in str(await handle.query("__temporal_workflow_metadata"))

            await eventually(waits)
            assert records.ends == []
            await handle.signal("set_paused", args=[False, 9])
            assert (await handle.result()).status is JobStatus.SUCCEEDED

    async def test_steps_are_planned_as_soon_as_they_are_known(self, temporal: Client) -> None:
        """After those the job began with, one for each module and the export."""
        doubles, records = CourseDoubles((2, 1), fan_out=3, held=False), RecordDoubles()
        async with serving(temporal, [*doubles.every, *records.every]) as task_queue:
            await (await start_course(temporal, task_queue, new_job())).result()
        (plan,) = records.planned
        assert plan.first_position == 2
        assert [(step.name, step.total) for step in plan.steps] == [("module-1", 2), ("module-2", 1), ("export", 1)]


class TestPauseGate:
    def test_newer_wishes_win(self) -> None:
        """In whatever order they arrive."""
        gate = PauseGate()
        assert gate.set(True, 3)
        assert gate.set(False, 5)
        assert not gate.set(True, 4)
        assert not gate.set(True, 5)
        assert (gate.paused, gate.version) == (False, 5)


def chained(cause: BaseException | None, *, child: bool = False) -> ActivityError | ChildWorkflowError:
    """A failure as workflows see it."""
    failure: ActivityError | ChildWorkflowError
    if child:
        failure = ChildWorkflowError(
            "child", namespace="n", workflow_id="w", run_id="r", workflow_type="t", initiated_event_id=1,
            started_event_id=2, retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
        )  # fmt: skip
    else:
        failure = ActivityError(
            "activity", scheduled_event_id=1, started_event_id=2, identity="i", activity_type="t", activity_id="1",
            retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
        )  # fmt: skip
    failure.__cause__ = cause
    return failure


QUOTA = ApplicationError("used up", type="E.OPENAI.QUOTA")
TIMED_OUT = StepTimeoutError("slow", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])


class TestRootFailure:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (QUOTA, "E.OPENAI.QUOTA"),
            (chained(QUOTA), "E.OPENAI.QUOTA"),
            (chained(chained(QUOTA), child=True), "E.OPENAI.QUOTA"),
            (chained(TIMED_OUT), "E.STEP.TIMEOUT"),
            (chained(TerminatedError("by hand"), child=True), "E.JOB.TERMINATED"),
            (chained(None), "E.INTERNAL"),
            (chained(ApplicationError("words", type="KeyError")), "E.INTERNAL"),
            (ApplicationError("words"), "E.INTERNAL"),
        ],
    )
    def test_the_bottom_of_the_chain_names_the_code(self, error: BaseException, code: str) -> None:
        """However many activities and children lie above it."""
        failure = root_failure(error)
        assert failure is not None
        assert failure.type == code
        assert "words" not in failure.message

    def test_a_fault_in_workflow_code_is_no_failure_of_the_job(self) -> None:
        """Temporal keeps the task for a repaired version."""
        assert root_failure(KeyError("slots")) is None
