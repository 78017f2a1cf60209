"""Jobs in whose course a person decides."""

import contextlib
from datetime import datetime, timedelta
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.approvals import Approval, ApprovalActivities, AskApprovalInput, LookAtApprovalInput
    from domain.approvals import ApprovalState, Subject
    from domain.generation import ApprovalWish
    from domain.jobs import JobRef
    from workflows.jobs import JobWorkflow
    from workflows.options import RECORD


class PlaceToDecide:
    """Where a workflow waits for people. What they said stands in our tables; the signal only says: look.

    So a signal that comes twice, late or out of turn costs a look and decides nothing.
    """

    def __init__(self) -> None:
        self.heard = 0
        """How often somebody said that there is something to see."""

    def hear(self) -> None:
        """Somebody decided, or changed what is to be decided."""
        self.heard += 1

    async def wait(self, *, since: int, until: datetime) -> bool:
        """Wait until more is heard than ``since``; False where ``until`` came first."""
        left = max(until - workflow.now(), timedelta(0))
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self.heard > since, timeout=left, timeout_summary="until a person decides"
            )
        return self.heard > since


class ApprovedWorkflow(JobWorkflow):
    """Base of the main workflow of jobs that a person may have to agree to."""

    def __init__(self) -> None:
        super().__init__()
        self.place = PlaceToDecide()

    @workflow.signal(name="decide")
    def on_decide(self, _approved: bool, _version: int) -> None:  # noqa: FBT001 - arguments of a signal are positional
        """A person has decided; what, is on record."""
        self.place.hear()

    @workflow.signal(name="content_changed")
    def on_content_changed(self, _version: int) -> None:
        """A person has changed what waits for approval."""
        self.place.hear()

    async def await_approval(
        self, job: JobRef, wish: ApprovalWish, subject: Subject, number: int, *,
        artifact_id: UUID | None = None, content_sha256: str | None = None,
    ) -> Approval:  # fmt: skip
        """How a person decides; WAITING where the content has to be put together anew before anybody can.

        Fails the job with E.GENERATION.APPROVAL_TIMEOUT where nobody answers, and that was not to mean yes.
        """
        heard = self.place.heard
        ask = AskApprovalInput(
            job=job, subject=subject, round=number, timeout_hours=wish.timeout_hours, on_timeout=wish.on_timeout,
            artifact_id=artifact_id, content_sha256=content_sha256,
        )  # fmt: skip
        found = await workflow.execute_local_activity_method(ApprovalActivities.ask_approval, ask, **RECORD)
        while found.state is ApprovalState.WAITING and found.content_sha256 is not None:
            workflow.set_current_details(f"**Waits for a person** to agree: {subject.value}, round {number}.")
            in_time = await self.place.wait(since=heard, until=found.until)
            heard = self.place.heard
            look = LookAtApprovalInput(job=job, subject=subject, round=number, expired=not in_time)
            found = await workflow.execute_local_activity_method(ApprovalActivities.look_at_approval, look, **RECORD)
        if found.state is ApprovalState.EXPIRED:
            raise ApplicationError(
                f"nobody answered in time about the {subject.value}", type="E.GENERATION.APPROVAL_TIMEOUT"
            )
        return found
