"""An evaluation: golden cases made into courses, a few at once, and judged together."""

import asyncio
from typing import Final

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.generation.evaluation import (
        EvaluateSampleInput,
        EvaluationActivities,
        EvaluationPlan,
        EvaluationStepInput,
    )
    from domain.evaluation import PREPARE_STEP, evaluation_steps
    from domain.jobs import JobRef, StepPlan
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import COMPUTE, MODEL_CALL

EVALUATION_WORKFLOW: Final = "Evaluation"


@workflow.defn(name=EVALUATION_WORKFLOW)
class EvaluationWorkflow(JobWorkflow):
    """``generation.evaluation``: open, one activity for each sample of each case, judge."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._busy = 0
        self._failures: list[FailureError] = []

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the evaluation through; its result is in our tables."""
        first = (StepPlan(name=PREPARE_STEP, title="Golden cases", weight=0.02),)
        return await self.carry(job, self._evaluate, steps=first)

    async def _evaluate(self) -> None:
        await self.gate()
        step = EvaluationStepInput(job=self._job)
        plan = await workflow.execute_activity_method(
            EvaluationActivities.open_evaluation, step, summary="open", **COMPUTE
        )
        await self.plan(self._job, evaluation_steps(len(plan.cases), plan.samples), first_position=1)
        workflow.set_current_details(f"{plan.samples} samples of each of {len(plan.cases)} cases")
        await self._sample_all(plan)
        await self.gate()
        workflow.set_current_details("Judging")
        await workflow.execute_activity_method(EvaluationActivities.judge_evaluation, step, summary="judge", **COMPUTE)

    async def _sample_all(self, plan: EvaluationPlan) -> None:
        """Sample by sample over all cases. After a failure start no more, but let what is paid for finish."""
        running: list[asyncio.Task[None]] = []
        try:
            for sample in range(1, plan.samples + 1):
                for case in plan.cases:
                    await self._next_turn(plan.at_once)
                    if not self._failures:
                        self._busy += 1
                        running.append(asyncio.create_task(self._sample(case, sample)))
            await asyncio.gather(*running)
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        if self._failures:
            raise self._failures[0]

    async def _next_turn(self, at_once: int) -> None:
        """Until there is room and the gate is open, or there is no sense in going on."""
        while not self._failures:
            await self.gate(unless=lambda: bool(self._failures))
            await workflow.wait_condition(lambda: bool(self._failures) or self.gate.paused or self._busy < at_once)
            if not self.gate.paused:
                return

    async def _sample(self, case: str, sample: int) -> None:
        try:
            await workflow.execute_activity_method(
                EvaluationActivities.evaluate_sample,
                EvaluateSampleInput(job=self._job, case=case, sample=sample),
                summary=f"{case} {sample}",
                **MODEL_CALL,
            )
        except FailureError as failure:
            self._failures.append(failure)
        finally:
            self._busy -= 1
