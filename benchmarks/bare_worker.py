"""A worker process with the SDK and nothing else: ``python -m benchmarks.bare_worker ADDRESS TASK_QUEUE``."""

import asyncio
import sys

import uvloop
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from benchmarks.bare_workflow import BareWorkflow, begin, finish
from core.temporal import strict_sandbox


async def serve(address: str, task_queue: str) -> None:
    """Poll until killed, with the SDK's sandbox, and the pollers and limits of our own worker."""
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=task_queue,
        workflows=[BareWorkflow],
        activities=[begin, finish],
        max_concurrent_activities=100,
        max_concurrent_local_activities=100,
        max_concurrent_workflow_tasks=100,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        workflow_runner=strict_sandbox(),
    )
    async with worker:
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:3]))
