"""How quick this machine is beside the one that targets in milliseconds were set on.

There a workflow with one activity took 5.9 ms of processor time, on the SDK alone with its sandbox letting everything
through, fifty at a time, against a server in memory. The same is measured here, client and worker in one process:
``python -m benchmarks.pace COUNT`` prints the milliseconds.
"""

import asyncio
import sys
import time
from datetime import timedelta
from typing import Final

import uvloop
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

_IN_FLIGHT: Final = 50
_QUEUE: Final = "pace"


@activity.defn
async def give_back(number: int) -> int:
    """Do nothing."""
    return number


@workflow.defn
class OneActivity:
    """The workflow that was measured there."""

    @workflow.run
    async def run(self, number: int) -> int:
        """Its one activity."""
        return await workflow.execute_activity(give_back, number, start_to_close_timeout=timedelta(seconds=10))


async def measure(binary: str, count: int) -> float:
    """Milliseconds of processor time for one of ``count`` workflows."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary, dev_server_log_level="error"
    ) as environment:
        passing = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_all_modules())
        worker = Worker(
            environment.client,
            task_queue=_QUEUE,
            workflows=[OneActivity],
            activities=[give_back],
            workflow_runner=passing,
        )
        async with worker:
            await _perform(environment.client, count // 5)
            began = time.process_time()
            await _perform(environment.client, count)
            return 1_000 * (time.process_time() - began) / count


async def _perform(client: Client, count: int) -> None:
    slots = asyncio.Semaphore(_IN_FLIGHT)

    async def one(number: int) -> None:
        async with slots:
            await client.execute_workflow(OneActivity.run, number, id=f"pace-{count}-{number}", task_queue=_QUEUE)

    await asyncio.gather(*(one(number) for number in range(count)))


if __name__ == "__main__":
    from benchmarks.pace import measure as measured  # the sandbox cannot import __main__

    print(uvloop.run(measured(sys.argv[1], int(sys.argv[2]))))
