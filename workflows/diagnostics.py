"""The smallest family there is: a job that does nothing, for probes and measurements, and as an example."""

from typing import Any, Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from domain.jobs import JobRef
    from workflows.jobs import JobResult, JobWorkflow

TASK_QUEUE: Final = "diagnostics"
NOOP_WORKFLOW: Final = "Noop"


@workflow.defn(name=NOOP_WORKFLOW)
class NoopWorkflow(JobWorkflow):
    """``diagnostics.noop``: begin and finish, nothing between."""

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Go the way of every job with an empty body."""
        return await self.carry(job, self._nothing)

    async def _nothing(self) -> dict[str, Any]:
        await self.gate()
        return {}
