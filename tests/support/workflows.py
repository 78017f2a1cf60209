"""Workflows that do as they are told, so that a test can hold a job in any state."""

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.jobs import BeginJobInput, JobActivities
    from domain.jobs import JobRef, JobStatus, StepPlan
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import RECORD


@workflow.defn(name="Hold")
class HoldWorkflow(JobWorkflow):
    """Runs until it is told how to end; then passes the gate and ends so."""

    def __init__(self) -> None:
        super().__init__()
        self._told: str | None = None

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Begin, wait, end."""
        return await self.carry(job, self._hold, steps=[StepPlan(name="hold", title="Hold")])

    async def _hold(self) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self._told is not None)
        await self.gate()
        if self._told == "fail":
            raise ApplicationError("told to fail", type="E.BUDGET.EXCEEDED", non_retryable=True)
        return {"told": self._told}

    @workflow.signal(name="go")
    def on_go(self, how: str) -> None:
        """End now, by success or, where ``how`` is ``fail``, by failure."""
        self._told = how

    @workflow.query(name="gate")
    def show_gate(self) -> list[int]:
        """Whether the gate is closed, and by which version."""
        return [int(self.gate.paused), self.gate.version]


@workflow.defn(name="Careless")
class CarelessWorkflow:
    """Begins its job and completes without a word about its end, as no workflow of ours should."""

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Begin and forget."""
        await workflow.execute_local_activity_method(JobActivities.begin_job, BeginJobInput(job=job), **RECORD)
        return JobResult(status=JobStatus.SUCCEEDED)


@workflow.defn(name="Crash")
class CrashWorkflow:
    """Begins its job and fails by itself."""

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Begin and fail."""
        await workflow.execute_local_activity_method(JobActivities.begin_job, BeginJobInput(job=job), **RECORD)
        raise ApplicationError("failed without saying so", non_retryable=True)
