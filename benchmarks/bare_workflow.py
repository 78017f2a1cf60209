"""What a no-op job is compared with: a workflow of the same shape on the SDK alone, with nothing of ours in it."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

_TIMEOUT = timedelta(seconds=10)
_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30))


@dataclass
class BareInput:
    """As much as our workflows are told about a job."""

    job_id: str
    tenant_id: str
    kind: str
    attempt: int = 1


@activity.defn
async def begin(given: BareInput) -> bool:
    """Do nothing where ours marks a job as running."""
    return given.attempt > 0


@activity.defn
async def finish(given: BareInput) -> None:
    """Do nothing where ours writes the end down."""


@workflow.defn
class BareWorkflow:
    """Two local activities, one after the other."""

    @workflow.run
    async def run(self, given: BareInput) -> str:
        """Begin and finish."""
        await workflow.execute_local_activity(begin, given, start_to_close_timeout=_TIMEOUT, retry_policy=_RETRIES)
        await workflow.execute_local_activity(finish, given, start_to_close_timeout=_TIMEOUT, retry_policy=_RETRIES)
        return "succeeded"
