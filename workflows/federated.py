"""A federated cycle, round by round: a handful of events each, however many take part.

Participants never meet the workflow. It opens a round, sleeps until the one signal that its goal is reached or until
its deadline, whichever comes first, and then closes, aggregates, evaluates and publishes.
"""

from datetime import timedelta
from typing import Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.federated.steps import CycleInput, FederatedActivities, RoundInput
    from domain.federated_rounds import FINAL, OpenRound, RoundState
    from domain.jobs import JobRef
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import RECORD, ROUND, TURN

TASK_QUEUE: Final = "federated"
CYCLE_WORKFLOW: Final = "FederatedCycle"


@workflow.defn(name=CYCLE_WORKFLOW)
class FederatedCycleWorkflow(JobWorkflow):
    """``federated.cycle``."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._full = 0

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the cycle through; its result is in our tables."""
        return await self.carry(job, self._go_round)

    @workflow.signal(name="goal_reached")
    def on_goal_reached(self, number: int) -> None:
        """A round has all the updates it wants."""
        self._full = max(self._full, number)

    async def _go_round(self) -> None:
        while (found := await self._open()) is not None:
            with workflow.create_event_group(f"round-{found.number}", label=f"Round {found.number}").scope():
                await self._carry_round(found)
            if found.last:
                break
            if workflow.info().is_continue_as_new_suggested():
                # Which round is next is in the database; nothing has to be carried over.
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(self._job)
        await workflow.execute_activity_method(
            FederatedActivities.report_cycle, CycleInput(job=self._job), summary="report", **ROUND
        )

    async def _open(self) -> OpenRound | None:
        await self.gate()
        return await workflow.execute_activity_method(
            FederatedActivities.open_round, CycleInput(job=self._job), summary="open a round", **TURN
        )

    async def _carry_round(self, found: OpenRound) -> None:
        """One round, from whatever phase it is in to its end."""
        name, part = f"round {found.number}", RoundInput(job=self._job, number=found.number)
        state = found.state
        if state is RoundState.OPEN:
            await self._wait(found)
            closed = await workflow.execute_local_activity_method(
                FederatedActivities.close_round, part, summary=f"{name}: close", **RECORD
            )
            if closed.state in FINAL:
                workflow.set_current_details(f"Round {found.number} was abandoned with {closed.accepted} updates")
                return
        workflow.set_current_details(f"Round {found.number} of {found.rounds}: making a model of the updates")
        made = await workflow.execute_activity_method(
            FederatedActivities.aggregate_round, part, summary=f"{name}: aggregate", **ROUND
        )
        if made.version_id is None:
            return
        await self.gate()
        await workflow.execute_activity_method(
            FederatedActivities.evaluate_round, part, summary=f"{name}: evaluate", **ROUND
        )
        await workflow.execute_activity_method(
            FederatedActivities.publish_round, part, summary=f"{name}: publish", **ROUND
        )

    async def _wait(self, found: OpenRound) -> None:
        """Until the goal is reached, or the deadline has passed: then the signal may be lost and nothing is."""
        workflow.set_current_details(f"Round {found.number} of {found.rounds}: waiting for {found.goal} updates")
        left = found.deadline - workflow.now()
        if found.full or left <= timedelta(0):
            return
        try:
            await workflow.wait_condition(
                lambda: self._full >= found.number, timeout=left, timeout_summary=f"round {found.number}: deadline"
            )
        except TimeoutError:
            workflow.logger.info("round.deadline", extra={"round": found.number})
