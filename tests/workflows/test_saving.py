"""A stream's life: halted and resumed, ended where nothing comes."""

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from core.ids import new_id
from core.temporal import workflow_sandbox
from domain.saving import FlushStreamResult, StreamInput
from tests.support.waiting import eventually
from workflows.saving import RecordStreamWorkflow


async def test_a_halt_waits_for_a_person(temporal: Client) -> None:
    """A refusal that nothing but a person can mend is shown, and tried again once it is said to be mended."""
    looks = 0

    @activity.defn(name="flush_stream")
    async def flush_stream(_stream: StreamInput) -> FlushStreamResult:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ApplicationError("a right is missing", type="E.SAVING.HALTED", non_retryable=True)
        return FlushStreamResult(records=0, drained=True)

    queue = f"halt-{new_id()}"
    stream = StreamInput(collection="messages", shard=9, flush_seconds=0.0, idle_seconds=0.2)
    async with Worker(
        temporal,
        task_queue=queue,
        workflows=[RecordStreamWorkflow],
        activities=[flush_stream],
        workflow_runner=workflow_sandbox(),
    ):
        handle = await temporal.start_workflow(RecordStreamWorkflow.run, stream, id=queue, task_queue=queue)

        async def shown() -> str:
            return str(await handle.query("__temporal_workflow_metadata"))

        await eventually(shown, lambda details: "Halted" in details and "a right is missing" in details)
        assert looks == 1
        await handle.signal("resume")
        await handle.result()
    assert looks >= 2
