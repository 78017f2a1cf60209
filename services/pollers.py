"""Whether anybody takes work from a task queue, asked of Temporal itself."""

import asyncio
from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from domain.errors import TemporalUnavailable

_PATIENCE: Final = timedelta(seconds=2)


class Pollers:
    """The pollers of one namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def exist_on(self, task_queue: str) -> bool:
        """Whether a worker polls this queue. Raises TemporalUnavailable."""
        request = DescribeTaskQueueRequest(
            namespace=self._client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
        try:
            # The client retries by itself within its own time; a probe waits for none of that.
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                answer = await self._client.workflow_service.describe_task_queue(request, timeout=_PATIENCE)
        except (TimeoutError, RPCError, RuntimeError) as fault:  # RuntimeError: the first connection of a lazy client
            raise TemporalUnavailable("cannot be reached") from fault
        return len(answer.pollers) > 0
