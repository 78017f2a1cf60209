"""Sequences of posts: deliveries at their times from a start, one after the other, each exactly once."""

import asyncio
import contextlib
from collections import Counter
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.publishing.notices import NEEDS_PERSON
    from activities.publishing.orders import MoveOrderInput, OrderActivities, OrderStep
    from domain.jobs import JobRef
    from domain.publishing.effects import End, Ended
    from domain.publishing.orders import Armed, OrderState
    from workflows.jobs import JobResult
    from workflows.options import RECORD, REPEATABLE
    from workflows.publishing import Decision, PostCourse, SoftlyCanceled, notify_people, sending_lead

SEQUENCE_WORKFLOW: Final = "DeliverSequence"

_UNSENT: Final = {End.REJECTED: OrderState.REJECTED, End.MISSED: OrderState.MISSED}


def _is_like_an_order() -> bool:
    # Sequences that were under way before asked nobody about a late delivery, and told nobody of one that was missed.
    return workflow.patched("deliveries like orders")


@workflow.defn(name=SEQUENCE_WORKFLOW)
class SequenceWorkflow(SoftlyCanceled):
    """``publishing.sequence``: deliveries at their times, one after the other, each exactly once."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._posts: dict[UUID, PostCourse] = {}

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Deliver."""
        return await self.carry(job, lambda: self.undisturbed(self._deliver))

    def want_out(self) -> None:
        """No further delivery."""
        super().want_out()
        for post in self._posts.values():
            post.canceled = True

    @workflow.update(name="resolve_order")
    async def on_resolve(self, decision: Decision) -> Armed:
        """A person says what became of a delivery, or what is to become of it."""
        if decision.order_id not in self._posts:
            raise ApplicationError("nothing about this delivery waits for a person", type="E.JOB.STATE")
        return await self._posts[decision.order_id].hear(decision)

    async def _deliver(self) -> dict[str, Any]:
        deliveries = await workflow.execute_local_activity_method(OrderActivities.load_sequence, self._job, **RECORD)
        under_way: list[asyncio.Task[str]] = []
        for delivery in deliveries:
            await self._wait_until(delivery.publish_at - sending_lead())
            post = self._posts[delivery.order_id] = PostCourse(self._job, delivery.order_id)
            post.canceled = self.wants_out
            task = asyncio.create_task(self._deliver_one(post, delivery.order_id))
            under_way.append(task)
            # A person who has to decide, or to be told, holds up the sequence's end, not the deliveries behind it.
            await workflow.wait_condition(
                lambda task=task, post=post: task.done() or post.asks or post.over  # type: ignore[misc]
            )
        ends = Counter(await asyncio.gather(*under_way))
        if self.wants_out:
            raise asyncio.CancelledError
        return {"deliveries": dict(ends)}

    async def _wait_until(self, moment: datetime) -> None:
        left = moment - workflow.now()
        if left > timedelta(0) and not self.wants_out:
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(lambda: self.wants_out, timeout=left)
        await self.gate(unless=lambda: self.wants_out)

    async def _deliver_one(self, post: PostCourse, order_id: UUID) -> str:
        step = OrderStep(job=self._job, order_id=order_id)
        if not self.wants_out:
            await workflow.execute_local_activity_method(OrderActivities.arm_order, step, **RECORD)
        ended = await post.carry()
        while ended.end in {End.NEEDS_PERSON, End.LATE}:
            ended = await self._decide(post, order_id, ended.end)
        if ended.end is End.DONE:
            await workflow.execute_activity_method(OrderActivities.finish_order, step, **REPEATABLE)
            return ended.end.value
        canceled = ended.code == "E.ORDER.CANCELED"
        state = OrderState.CANCELED if canceled else _UNSENT[ended.end]
        move = MoveOrderInput(job=self._job, order_id=order_id, state=state, code=ended.code)
        await workflow.execute_local_activity_method(OrderActivities.move_order, move, **RECORD)
        post.over = True
        if not canceled and _is_like_an_order():
            await notify_people(self._job, order_id, state.value)
        return ended.end.value

    async def _decide(self, post: PostCourse, order_id: UUID, end: End) -> Ended:
        """What a person says about a delivery in doubt or, where the sequence asks, about a late one."""
        decision: str | None = "give_up"
        if end is End.NEEDS_PERSON:
            await notify_people(self._job, order_id, NEEDS_PERSON)
            decision = await post.answer()
        elif _is_like_an_order():
            decision = await post.decide_if_late(unless=lambda: self.wants_out)
            if decision is None and self.wants_out:
                return Ended(end=End.REJECTED, code="E.ORDER.CANCELED")
        match decision:
            case "sent":
                return Ended(end=End.DONE)
            case "send":
                return await post.carry()
            case _:
                return Ended(end=End.MISSED, code="E.ORDER.MISSED")
