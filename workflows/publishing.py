"""Posts at their time: an order from its booking to its report, and the check of a channel."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.publishing.checks import CheckActivities, LinksStep
    from activities.publishing.effects import DecideInput, EffectActivities, EffectInput
    from activities.publishing.notices import NEEDS_PERSON
    from activities.publishing.orders import (
        ChangeOrderInput,
        MoveOrderInput,
        NotifyInput,
        OrderActivities,
        OrderStep,
        OrderView,
    )
    from domain.errors import Outcome
    from domain.jobs import JobRef, StepPlan
    from domain.model import Frozen
    from domain.publishing.channels import Sight
    from domain.publishing.effects import Attempt, Attempted, End, Ended, carry_effect
    from domain.publishing.orders import BEFORE_SENDING, OVER, PUBLISHED, Armed, OrderState
    from domain.publishing.times import LEAD
    from workflows.jobs import JobResult, JobWorkflow
    from workflows.options import LOOK, RECORD, REPEATABLE, SEND, within

TASK_QUEUE: Final = "publishing"
ORDER_WORKFLOW: Final = "PublishOrder"
CHECK_WORKFLOW: Final = "CheckChannel"

_AGAIN_WITHOUT_RIGHTS: Final = timedelta(minutes=10)
_LAST_CALL: Final = timedelta(minutes=25)
_PIN_AT_LEAST: Final = timedelta(seconds=5)
"""How long a pin is tried, however soon the post has to go."""
_FOR_GOOD: Final = {
    OrderState.MISSED: "E.ORDER.MISSED",
    OrderState.REJECTED: "E.ORDER.REJECTED",
    OrderState.CANCELED: "E.ORDER.CANCELED",
}
"""States in which an order that is run again stays."""


def sending_lead() -> timedelta:
    """How long before its time a post is handed to its sender."""
    # Orders that were asleep before there was a lead wake at their very time.
    return LEAD if workflow.patched("lead") else timedelta(0)


class Decision(Frozen):
    """What a person decided about the post of an order: ``sent``, ``send`` or ``give_up``."""

    order_id: UUID
    decision: str
    message_ids: tuple[int, ...] = ()


class PostCourse:
    """The post of one order as the course of an effect sees it: activities for deeds, timers for pauses."""

    def __init__(self, job: JobRef, order_id: UUID) -> None:
        self._job = job
        self._order_id = order_id
        self._deciding = asyncio.Lock()
        self._decision: str | None = None
        self.asks = False
        """A person has to decide; until then nothing else ends the order."""
        self.canceled = False
        self.over = False
        """Nothing is going to become of it any more; what is left is to tell people."""

    async def carry(self) -> Ended:
        """Send, and find out what became of it."""
        view = await self.load()
        return await carry_effect(self, view.policy, first=view.first_attempt)

    async def load(self) -> OrderView:
        """The order as it stands."""
        return await workflow.execute_local_activity_method(
            OrderActivities.load_order, OrderStep(job=self._job, order_id=self._order_id), **RECORD
        )

    def _step(self, number: int) -> EffectInput:
        return EffectInput(job=self._job, order_id=self._order_id, number=number)

    async def send(self, number: int) -> Attempt | None:
        """One attempt, unless nobody wants it any more: whenever this is asked, nothing is out."""
        if self.canceled:
            return Attempt(what=Attempted.REJECTED, code="E.ORDER.CANCELED")
        try:
            return await workflow.execute_activity_method(
                EffectActivities.send_post, self._step(number), summary=f"send, attempt {number}", **SEND
            )
        except ActivityError:
            return None

    async def settle(self, number: int) -> Outcome:
        """Close the attempt for ever."""
        return await workflow.execute_local_activity_method(EffectActivities.settle_post, self._step(number), **RECORD)

    async def probe(self, number: int) -> Sight:
        """Look at the channel."""
        try:
            return await workflow.execute_activity_method(
                EffectActivities.probe_post, self._step(number), summary="look for the post", **LOOK
            )
        except ActivityError:
            return Sight.BLIND

    # --- what only a person can say -----------------------------------------------------------------

    async def ask_person(self) -> None:
        """Hand over to a person, unless it turns out that the post is out."""
        async with self._deciding:
            self.asks = await workflow.execute_local_activity_method(
                EffectActivities.ask_person, self._step(0), **RECORD
            )
            self._decision = None if self.asks else "sent"

    async def ask_about_late(self) -> None:
        """Have a person say whether a late post still goes out."""
        async with self._deciding:
            step = OrderStep(job=self._job, order_id=self._order_id)
            self.asks = await workflow.execute_local_activity_method(OrderActivities.ask_about_late, step, **RECORD)

    async def decide_if_late(self, *, unless: Callable[[], bool]) -> str | None:
        """What is decided about a post that came too late: to give it up, unless its order asks and a person answers.

        None where nobody answered in time, or it is not wanted any more.
        """
        view = await self.load()
        left = view.armed.publish_at + view.patience - workflow.now()
        if view.on_late != "ask" or left <= timedelta(0):
            return "give_up"
        await self.ask_about_late()
        await notify_people(self._job, self._order_id, NEEDS_PERSON)
        return await self.answer(within=left, unless=unless)

    async def hear(self, decision: Decision) -> Armed:
        """A person decides: written down before it is followed. Raises where nothing is asked, or it cannot be."""
        async with self._deciding:
            if not self.asks:
                raise ApplicationError("nothing about this order waits for a person", type="E.JOB.STATE")
            await workflow.execute_local_activity_method(
                EffectActivities.decide_post, DecideInput(job=self._job, **decision.model_dump()), **RECORD
            )
            self.asks, self._decision = False, decision.decision
        return (await self.load()).armed

    async def answer(
        self, *, within: timedelta | None = None, unless: Callable[[], bool] = lambda: False
    ) -> str | None:
        """What was decided, as soon as it is; None where nobody did in that time, or it is not wanted any more."""
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._decision is not None or unless(), timeout=within)
        async with self._deciding:
            decision, self._decision, self.asks = self._decision, None, False
            return decision

    async def pause(self, length: timedelta) -> None:
        """A durable timer."""
        if length > timedelta(0):
            await workflow.sleep(length)

    def now(self) -> datetime:
        """The workflow's time."""
        return workflow.now()


class SoftlyCanceled(JobWorkflow):
    """A job in whose middle something irreversible may be under way: cancellation is a wish, and waits for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.wants_out = False

    async def undisturbed(self, body: Any) -> Any:
        """Run ``body`` to its own end; a cancellation only sets ``wants_out``."""
        task = asyncio.create_task(body())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.want_out()
            return await task

    def want_out(self) -> None:
        """Somebody wants this to end."""
        self.wants_out = True


async def notify_people(job: JobRef, order_id: UUID, event: str) -> None:
    """Tell people; that it cannot be done never holds up an order."""
    try:
        await workflow.execute_activity_method(
            OrderActivities.notify,
            NotifyInput(job=job, order_id=order_id, event=event),
            summary=f"notify: {event}",
            **REPEATABLE,
        )
    except ActivityError:
        workflow.logger.warning("publishing.nobody_told")


@workflow.defn(name=ORDER_WORKFLOW)
class OrderWorkflow(SoftlyCanceled):
    """``publishing.order``: booked, approved, armed, sent exactly once, watched, taken away, reported."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job
        self._order_id = job.job_id
        self._post = PostCourse(job, job.job_id)
        self._booking = asyncio.Lock()
        self._view: OrderView | None = None
        self._armed: Armed | None = None
        self._latest_at: datetime | None = None
        self._changes = 0
        self._closed_to_changes = False
        self._settled = False
        self._in_doubt = False
        self._approved: bool | None = None

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Carry the order through."""
        steps = [
            StepPlan(name="arm", title="Booked and armed", weight=0.1),
            StepPlan(name="send", title="Published", weight=0.5),
            StepPlan(name="end", title="Ended", weight=0.4),
        ]
        return await self.carry(job, lambda: self.undisturbed(self._publish), steps=steps)

    def want_out(self) -> None:
        """The order is canceled: before the post it ends, after it the post is taken away."""
        super().want_out()
        self._post.canceled = True

    # --- what people ask for ------------------------------------------------------------------------

    @workflow.signal(name="decide")
    def on_decide(self, approved: bool, _version: int) -> None:  # noqa: FBT001 - arguments of a signal are positional
        """The channel's owner agrees, or does not."""
        if self._approved is None:
            self._approved = approved

    @workflow.update(name="change_order")
    async def on_change(self, change: ChangeOrderInput) -> Armed:
        """Re-book or edit, and say what is armed from now on."""
        await workflow.wait_condition(lambda: self._armed is not None)
        if change.content_sha256 is not None:
            # Before the lock: a slow address must not hold up the post.
            fault = await workflow.execute_activity_method(
                CheckActivities.check_links, self._links(pending=True), summary="links of a change", **LOOK
            )
            if fault is not None:
                raise ApplicationError(f"a link leads nowhere: {fault}", type="E.ORDER.LINKS")
        async with self._booking:
            if self._closed_to_changes or self.wants_out:
                raise ApplicationError("sending has begun, or the order is over", type="E.JOB.STATE")
            self._armed = await workflow.execute_local_activity_method(OrderActivities.change_order, change, **RECORD)
            self._changes += 1
            # A wait for approval that was under way before this was patched keeps its first end.
            if change.latest_at is not None and workflow.patched("approval moves"):
                self._latest_at = change.latest_at
            return self._armed

    @workflow.update(name="cancel_order")
    async def on_cancel(self) -> Armed:
        """Cancel; in the middle of sending this waits for the outcome. Says what became of the order.

        A post in doubt is neither: it may be in the channel, and nobody would take it away. Refused until a person has
        decided; where the doubt comes up afterwards, the order is canceled as soon as somebody has.
        """
        if self._in_doubt:
            raise ApplicationError("nobody knows whether the post is out; resolve that first", type="E.JOB.STATE")
        self.want_out()
        await workflow.wait_condition(lambda: self._settled or self._in_doubt)
        return (await self._post.load()).armed

    @workflow.update(name="resolve_order")
    async def on_resolve(self, decision: Decision) -> Armed:
        """A person says what became of the post, or what is to become of it."""
        return await self._post.hear(decision)

    # --- the course of an order ---------------------------------------------------------------------

    async def _publish(self) -> None:
        self._view = await self._post.load()
        self._armed, self._latest_at = self._view.armed, self._view.latest_at
        state = self._view.state
        if state in _FOR_GOOD:
            raise ApplicationError(f"the order is {state.value}", type=_FOR_GOOD[state])
        if state in BEFORE_SENDING:
            await self._arm(state)
        if state not in OVER and state not in PUBLISHED:
            await self._send()
        self._settled = True
        view = await self._post.load()
        if view.state in PUBLISHED:
            await self._stay_live(view)
        await self._report()

    async def _arm(self, state: OrderState) -> None:
        assert self._view is not None
        fault = await self._look_at_links()
        if fault is not None:
            await self._move(OrderState.REJECTED, code="E.ORDER.LINKS")
            raise await self._failed(
                "rejected", ApplicationError(f"a link leads nowhere: {fault}", type="E.ORDER.LINKS")
            )
        if self._view.requires_approval:
            await self._await_approval(state)
        elif not self.wants_out:
            self._armed = await self._local(OrderActivities.arm_order)
        await self._sleep_until_due()

    async def _look_at_links(self) -> str | None:
        """Which link leads nowhere; None where all answer, and where a person cancels before that is known."""
        looking = workflow.start_activity_method(CheckActivities.check_links, self._links(), **REPEATABLE)
        await workflow.wait_condition(lambda: looking.done() or self.wants_out)
        # Orders that were being canceled before this was patched wait for the look.
        if not looking.done() and workflow.patched("canceled while links are looked at"):
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            return None
        return await looking

    async def _await_approval(self, state: OrderState) -> None:
        if state is not OrderState.APPROVAL:
            self._armed = await self._local(OrderActivities.await_approval)
        if not await self._hear_owner():
            await self._miss()
        if self._approved is False:
            await self._move(OrderState.REJECTED, code="E.ORDER.NOT_APPROVED")
            raise await self._failed(
                "rejected", ApplicationError("the channel's owner did not agree", type="E.ORDER.NOT_APPROVED")
            )
        if self._approved:
            self._armed = await self._local(OrderActivities.approve_order)

    async def _hear_owner(self) -> bool:
        """Wait for the owner, or a cancellation, until it is too late, whenever that is meanwhile: then False."""
        while True:
            latest_at = self._latest_at
            assert latest_at is not None
            try:
                await workflow.wait_condition(
                    lambda latest_at=latest_at: self._is_heard() or self._latest_at != latest_at,  # type: ignore[misc]
                    timeout=max(latest_at - workflow.now(), timedelta(0)),
                )
            except TimeoutError:
                async with self._booking:
                    # A change that was under way has its say before the door is shut.
                    if self._latest_at == latest_at:
                        self._closed_to_changes = True
                        return False
            if self._is_heard():
                return True

    def _is_heard(self) -> bool:
        return self._approved is not None or self.wants_out

    async def _sleep_until_due(self) -> None:
        """Sleep until the time of the order, whatever that has become meanwhile; then close it to changes."""
        lead = sending_lead()
        while not self.wants_out:
            assert self._armed is not None
            workflow.set_current_details(f"Armed for {self._armed.publish_at.isoformat()}")
            left = self._armed.publish_at - lead - workflow.now()
            if left > timedelta(0):
                await self._doze(left, self._changes)
                continue
            await self.gate(unless=lambda: self.wants_out)
            async with self._booking:
                # A change that was under way has its say before the door is shut.
                if self._armed.publish_at - lead <= workflow.now():
                    self._closed_to_changes = True
                    return

    async def _doze(self, left: timedelta, seen: int) -> None:
        try:
            await workflow.wait_condition(
                lambda: self.wants_out or self._changes != seen, timeout=left, timeout_summary="until its time"
            )
        except TimeoutError:
            return

    async def _send(self) -> None:
        """Until the post is out, or it is certain that it never will be."""
        while True:
            ended = await self._post.carry()
            match ended.end:
                case End.DONE:
                    return
                case End.REJECTED:
                    await self._end_unsent(ended)
                case End.LATE | End.MISSED:
                    if await self._come_too_late():
                        return
                case End.NEEDS_PERSON:
                    self._in_doubt = True
                    await self._notify(NEEDS_PERSON)
                    decision = await self._post.answer()
                    self._in_doubt = False
                    if await self._follow(decision):
                        return

    async def _end_unsent(self, ended: Ended) -> None:
        if ended.code == "E.ORDER.CANCELED":
            await self._move(OrderState.CANCELED)
            self._settled = True
            raise asyncio.CancelledError
        await self._move(OrderState.REJECTED, code=ended.code)
        code = ended.code or "E.ORDER.REJECTED"
        raise await self._failed("rejected", ApplicationError(ended.detail or "the post was refused", type=code))

    async def _come_too_late(self) -> bool:
        """Miss the post, or ask; whether it is out after all."""
        decision = await self._post.decide_if_late(unless=lambda: self.wants_out)
        if decision is None and self.wants_out:
            await self._move(OrderState.CANCELED)
            self._settled = True
            raise asyncio.CancelledError
        return await self._follow(decision)

    async def _follow(self, decision: str | None) -> bool:
        """Do as a person said, or nobody; whether the post is out."""
        if decision is None or decision == "give_up":
            await self._miss()
        return decision == "sent"

    async def _miss(self) -> None:
        await self._move(OrderState.MISSED, code="E.ORDER.MISSED")
        raise await self._failed("missed", ApplicationError("its time had passed", type="E.ORDER.MISSED"))

    async def _failed(self, event: str, failure: ApplicationError) -> ApplicationError:
        self._settled = True
        await self._notify(event)
        await self._report()
        return failure

    # --- after the post -----------------------------------------------------------------------------

    async def _stay_live(self, view: OrderView) -> None:
        await self._notify("live")
        if view.pin and view.state is OrderState.LIVE and not self.wants_out:
            await self._pin(view)
        there = await self._watch(view)
        if there:
            await self._count_views()
            await self._take_away(view)
        await self._notify("ended" if there else "gone")
        if self.wants_out:
            raise asyncio.CancelledError

    async def _pin(self, view: OrderView) -> None:
        """Pin, until the post has to go at the latest; that it cannot be done keeps no post from its end."""
        ends = self._ends_at(view, None)
        left = None if ends is None else max(ends - workflow.now(), _PIN_AT_LEAST)
        try:
            await workflow.execute_activity_method(
                OrderActivities.pin_order, self._step(), summary="pin", **within(REPEATABLE, left)
            )
        except ActivityError:
            if not workflow.patched("ends unpinned"):
                raise
            await self._local(OrderActivities.give_up_pin)

    async def _watch(self, view: OrderView) -> bool:
        """Look after the post until its end; whether it is still there."""
        counting = view.count_views_after
        count_at = None if counting is None else workflow.now() + counting
        while not self.wants_out:
            ends = self._ends_at(view, count_at)
            now = workflow.now()
            if ends is None or ends <= now:
                return True
            marks = [ends, now + view.watch_every, *([count_at] if count_at and count_at > now else [])]
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self.wants_out, timeout=min(marks) - now, timeout_summary="while it is live"
                )
            if count_at is not None and workflow.now() >= count_at:
                await self._count_views()
                count_at = None
            elif not self.wants_out and workflow.now() < ends and not await self._is_still_there():
                return False
        return True

    def _ends_at(self, view: OrderView, count_at: datetime | None) -> datetime | None:
        if view.finish == "keep" and not view.pin:
            return count_at
        ends = [moment for moment in (view.armed.remove_at, view.remove_by) if moment is not None]
        return min(ends) if view.finish == "remove" and ends else view.armed.remove_at

    async def _is_still_there(self) -> bool:
        try:
            return await workflow.execute_activity_method(
                OrderActivities.watch_order, self._step(), summary="is it still there?", **LOOK
            )
        except ActivityError:
            return True

    async def _count_views(self) -> None:
        try:
            await workflow.execute_activity_method(
                OrderActivities.count_views, self._step(), summary="count views", **LOOK
            )
        except ActivityError:
            workflow.logger.warning("publishing.views_not_counted")

    async def _take_away(self, view: OrderView) -> None:
        """End the post. Where the rights are lost the owner has a task, and it is tried again while bots may."""
        if view.finish == "keep" and not self.wants_out:
            await workflow.execute_activity_method(OrderActivities.finish_order, self._step(), **REPEATABLE)
            return
        last = view.remove_by + _LAST_CALL if view.remove_by else workflow.now() + timedelta(hours=24)
        while True:
            try:
                state = await workflow.execute_activity_method(
                    OrderActivities.end_order, self._step(), summary="take away", **REPEATABLE
                )
            except ActivityError:
                state = view.state
            if state in OVER:
                return
            if workflow.now() + _AGAIN_WITHOUT_RIGHTS > last:
                raise ApplicationError("the post could not be taken away", type="E.ORDER.NOT_REMOVED")
            await workflow.sleep(_AGAIN_WITHOUT_RIGHTS)

    # --- parts --------------------------------------------------------------------------------------

    def _links(self, *, pending: bool = False) -> LinksStep:
        return LinksStep(job=self._job, order_id=self._order_id, pending=pending)

    def _step(self) -> OrderStep:
        return OrderStep(job=self._job, order_id=self._order_id)

    async def _local(self, activity: Any) -> Any:
        return await workflow.execute_local_activity_method(activity, self._step(), **RECORD)

    async def _move(self, state: OrderState, *, code: str | None = None) -> None:
        move = MoveOrderInput(job=self._job, order_id=self._order_id, state=state, code=code)
        await workflow.execute_local_activity_method(OrderActivities.move_order, move, **RECORD)

    async def _notify(self, event: str) -> None:
        await notify_people(self._job, self._order_id, event)

    async def _report(self) -> None:
        await self._local(OrderActivities.report_order)


@workflow.defn(name=CHECK_WORKFLOW)
class CheckWorkflow(JobWorkflow):
    """``publishing.check``: look whether a channel can be published to."""

    @workflow.init
    def __init__(self, job: JobRef) -> None:
        super().__init__()
        self._job = job

    @workflow.run
    async def run(self, job: JobRef) -> JobResult:
        """Look."""
        return await self.carry(job, self._check, steps=[StepPlan(name="check", title="Rights of the bot")])

    async def _check(self) -> dict[str, Any]:
        await self.gate()
        await workflow.execute_activity_method(CheckActivities.check_channel, self._job, summary="look", **REPEATABLE)
        return {"state": "ready"}
