"""Everything around the post of an order: arming, approval, changes, pinning, removal, numbers, telling people."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.errors import as_failures, to_failure
from activities.publishing.desk import Counter, PublishingDesk
from activities.publishing.notices import Notices
from core.logging import bind_job
from domain.errors import FieldFault, InvalidInput, Outcome, ProviderError, StateError
from domain.jobs import JobRef, WaitingKind, WaitingOn
from domain.model import Frozen
from domain.publishing.channels import Change
from domain.publishing.content import PostContent, render
from domain.publishing.effects import PIN, POST, EffectState, Policy
from domain.publishing.orders import (
    BEFORE_SENDING,
    OVER,
    PUBLISHED,
    Armed,
    OrderInput,
    OrderState,
    check_changeable,
    removal_fault,
    takes_deleting,
)
from domain.publishing.times import REMOVE_BY
from repositories.jobs import JobRepository
from repositories.publishing.channels import ChannelRepository, SlotRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import ASKED, OrderRepository
from repositories.publishing.reports import report_of
from repositories.rows import AnyRow

END: Final = "end"


class OrderStep(Frozen):
    """A step of one order."""

    job: JobRef
    order_id: UUID


class OrderView(Frozen):
    """All that a workflow knows of an order: states, times, numbers; no text of people."""

    state: OrderState
    armed: Armed
    latest_at: datetime
    on_late: Literal["skip", "post", "ask"]
    patience: timedelta
    requires_approval: bool
    pin: bool
    finish: Literal["remove", "stub", "keep"]
    remove_by: datetime | None
    first_attempt: int
    policy: Policy
    watch_every: timedelta
    count_views_after: timedelta | None


class ChangeOrderInput(Frozen):
    """A change that was checked by the API; ``content`` travels by reference: it waits in the order's row."""

    job: JobRef
    order_id: UUID
    slot_id: UUID | None = None
    publish_at: datetime | None = None
    remove_at: datetime | None = None
    latest_at: datetime | None = None
    content_sha256: str | None = None


class MoveOrderInput(Frozen):
    """An order goes over to a state, for a reason."""

    job: JobRef
    order_id: UUID
    state: OrderState
    code: str | None = None


class Delivery(Frozen):
    """One delivery of a sequence."""

    order_id: UUID
    publish_at: datetime


class NotifyInput(Frozen):
    """Somebody is to be told of something, once."""

    job: JobRef
    order_id: UUID
    event: str


class OrderActivities:
    """Steps of an order besides its post; all of them may be repeated."""

    def __init__(self, desk: PublishingDesk) -> None:
        self._desk = desk

    @activity.defn(name="load_sequence")
    async def load_sequence(self, job: JobRef) -> list[Delivery]:
        """The deliveries of a sequence that are not over yet, in order."""
        async with self._desk.database.tenant(job.tenant_id) as connection:
            rows = await OrderRepository(connection).get_of_job(job.job_id)
        return [Delivery(order_id=row.id, publish_at=row.publish_at) for row in rows if row.state not in OVER]

    # --- before the post ----------------------------------------------------------------------------

    @activity.defn(name="load_order")
    async def load_order(self, step: OrderStep) -> OrderView:
        """The order as it stands."""
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id)
            channel = await ChannelRepository(connection).get_one(order.channel_id)
            row = await LedgerRepository(connection).get_or_none(step.order_id, POST)
            wish = OrderInput.model_validate({**order.wish, "content": order.content})
            policy = self._desk.policy
            limited = channel.gateway == "telegram"
            after = wish.count_views_after_seconds
            return OrderView(
                state=OrderState(order.state),
                armed=_armed(order),
                latest_at=order.latest_at,
                on_late=wish.late.on_late,
                patience=wish.late.patience,
                requires_approval=channel.requires_approval and order.approved_sha256 != order.content_sha256,
                pin=wish.pin,
                finish=wish.finish if order.slot_id is not None else "keep",
                remove_by=order.sent_at + REMOVE_BY if limited and order.sent_at else None,
                first_attempt=1 if row is None else max(row.attempt, row.fence) + 1,
                policy=policy.of_effects(),
                watch_every=policy.watch_every,
                count_views_after=None if after is None else timedelta(seconds=after),
            )

    @activity.defn(name="arm_order")
    async def arm_order(self, step: OrderStep) -> Armed:
        """Say that the workflow sleeps until the time of the order, which from now on it alone keeps.

        An order whose sending has begun, in an earlier run, stays as it is.
        """
        return await self._move(step, OrderState.ARMED, armed_at=func.now())

    @activity.defn(name="await_approval")
    async def await_approval(self, step: OrderStep) -> Armed:
        """Say that the channel's owner has to agree."""
        return await self._move(step, OrderState.APPROVAL)

    @activity.defn(name="approve_order")
    async def approve_order(self, step: OrderStep) -> Armed:
        """The owner has agreed, to this very content: that was written down with the decision."""
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id)
        if order.approved_sha256 != order.content_sha256:
            raise to_failure(StateError("no approval of this content is on record"))
        return await self._move(step, OrderState.ARMED, armed_at=func.now())

    async def _move(self, step: OrderStep, state: OrderState, **values: Any) -> Armed:
        with bind_job(step.job, step=state.value), as_failures():
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                order = await repository.get_one(step.order_id, lock=True)
                now = OrderState(order.state)
                if now in BEFORE_SENDING and (now is not state or state is OrderState.ARMED):
                    await repository.move(order, state, waiting_on=_wait_in(state, order), **values)
                return _armed(await repository.get_one(step.order_id))

    @activity.defn(name="change_order")
    async def change_order(self, change: ChangeOrderInput) -> Armed:
        """Re-book or edit. Fails without another try where sending has begun, or the slot was taken or withdrawn.

        May be repeated after its answer was lost: what is done already is left alone, and answered as before.
        """
        with bind_job(change.job, step="change"), as_failures():
            async with self._desk.database.tenant(change.job.tenant_id) as connection:
                order = await OrderRepository(connection).get_one(change.order_id, lock=True)
                check_changeable(OrderState(order.state), what="a change")
                values: dict[str, Any] = {
                    name: value
                    for name in ("slot_id", "publish_at", "remove_at", "latest_at")
                    if (value := getattr(change, name)) not in {None, getattr(order, name)}
                }
                if "slot_id" in values:
                    await _hold_slot(connection, values["slot_id"])
                if change.content_sha256 not in {None, order.content_sha256}:
                    values |= _new_content(order, change.content_sha256)
                    await _check_end(connection, order, values)
                return _armed(await _change(connection, order, values) if values else order)

    @activity.defn(name="move_order")
    async def move_order(self, move: MoveOrderInput) -> bool:
        """Bring an order to an end before its post, or count it as missed; False where it is somewhere else already."""
        with bind_job(move.job, step=move.state.value), as_failures():
            async with self._desk.database.tenant(move.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                order = await repository.get_one(move.order_id, lock=True)
                now = OrderState(order.state)
                if now in OVER or now in PUBLISHED:
                    return now is move.state
                await repository.close_tasks(order.id, kinds=ASKED, resolution=move.state.value)
                data = {"code": move.code} if move.code else {}
                await repository.move(order, move.state, data=data, ended_at=func.now())
                if move.state is OrderState.MISSED:
                    await LedgerRepository(connection).put(
                        tenant_id=order.tenant_id, order_id=order.id, effect=POST, channel_id=order.channel_id,
                        state=EffectState.MISSED, error_code=move.code,
                    )  # fmt: skip
                return True

    @activity.defn(name="ask_about_late")
    async def ask_about_late(self, step: OrderStep) -> bool:
        """A person is to say whether the post still goes out, although it is late. True: somebody has to."""
        with bind_job(step.job, step="late"):
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                order = await repository.get_one(step.order_id, lock=True)
                await repository.open_task(
                    tenant_id=order.tenant_id, order_id=order.id, kind="late",
                    detail="the post is late; say whether it still goes out",
                )  # fmt: skip
                detail = f"the post is late; a person decides: POST /orders/{order.id}/resolve"
                waiting = WaitingOn(kind=WaitingKind.PROVIDER, detail=detail, since=datetime.now(UTC))
                shown = waiting.model_dump(mode="json")
                await JobRepository(connection).record(
                    job_id=order.job_id,
                    event="order.late",
                    data={"order_id": str(order.id)},
                    values={"waiting_on": shown},
                )
                return True

    # --- after the post -----------------------------------------------------------------------------

    @activity.defn(name="pin_order")
    async def pin_order(self, step: OrderStep) -> Change:
        """Pin the post; without the right to, the owner gets a task and the post stays as it is."""
        with bind_job(step.job, step=PIN), as_failures():
            order, counter = await self._reach(step)
            change = await counter.gateway.pin(counter.secret, counter.target, order.message_ids[0])
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                fresh = await repository.get_one(order.id, lock=True)
                await self._note(connection, order, PIN, change)
                if change is Change.DONE:
                    await repository.close_tasks(order.id, kinds=[PIN], resolution=change.value)
                    await repository.move(fresh, OrderState.PINNED)
                elif change is Change.DENIED:
                    await _ask_to_pin(connection, order)
            return change

    @activity.defn(name="give_up_pin")
    async def give_up_pin(self, step: OrderStep) -> None:
        """The channel could not be reached in order to pin: the owner gets a task, and the report says so."""
        with bind_job(step.job, step=PIN):
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                order = await OrderRepository(connection).get_one(step.order_id, lock=True)
                await LedgerRepository(connection).put(
                    tenant_id=order.tenant_id, order_id=order.id, effect=PIN, channel_id=order.channel_id,
                    state=EffectState.UNKNOWN, detail="unreached",
                )  # fmt: skip
                await _ask_to_pin(connection, order)

    @activity.defn(name="end_order")
    async def end_order(self, step: OrderStep) -> OrderState:
        """Take the post away, or overwrite it, and look whether it is gone.

        Stays LIVE where the rights are lost: the owner then has a task, and the workflow tries again later.
        """
        with bind_job(step.job, step=END), as_failures():
            order, counter = await self._reach(step)
            if OrderState(order.state) in OVER:
                return OrderState(order.state)
            wish = OrderInput.model_validate({**order.wish, "content": order.content})
            if wish.finish != "stub":
                state, change = await self._remove(counter, order)
                if change is Change.DENIED:
                    state, change = await self._stub(counter, order, wish)
            else:
                state, change = await self._stub(counter, order, wish)
            await self._write_end(step, order, state, change)
            return state

    async def _remove(self, counter: Counter, order: AnyRow) -> tuple[OrderState, Change]:
        change = await _take_down(counter, order.message_ids)
        return (OrderState(order.state) if change is Change.DENIED else OrderState.REMOVED), change

    async def _stub(self, counter: Counter, order: AnyRow, wish: OrderInput) -> tuple[OrderState, Change]:
        first, *rest = order.message_ids
        caption = bool(wish.content.media)
        change = await counter.gateway.replace(counter.secret, counter.target, first, wish.stub_text, caption=caption)
        # Of an album only the first item can say something; as long as the others stay the post does.
        if Change.DENIED in (change, await _take_down(counter, rest)):
            return OrderState(order.state), Change.DENIED
        return (OrderState.STUBBED if change is Change.DONE else OrderState.GONE), change

    async def _write_end(self, step: OrderStep, order: AnyRow, state: OrderState, change: Change) -> None:
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            repository = OrderRepository(connection)
            fresh = await repository.get_one(order.id, lock=True)
            await self._note(connection, order, END, change)
            if change is Change.DENIED:
                await repository.open_task(
                    tenant_id=order.tenant_id, order_id=order.id, kind="remove",
                    detail="the bot can neither delete nor edit all of the post; remove it by hand or restore rights",
                )  # fmt: skip
            elif state in OVER and OrderState(fresh.state) not in OVER:
                await _end(connection, fresh, state, data={"how": change.value})

    @activity.defn(name="finish_order")
    async def finish_order(self, step: OrderStep) -> OrderState:
        """The post stays, no longer pinned, and the order is over."""
        with bind_job(step.job, step="finish"), as_failures():
            order, counter = await self._reach(step)
            if order.state == OrderState.PINNED:
                await counter.gateway.unpin(counter.secret, counter.target, order.message_ids[0])
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                order = await repository.get_one(step.order_id, lock=True)
                if OrderState(order.state) not in OVER:
                    await _end(connection, order, OrderState.FINISHED)
                    return OrderState.FINISHED
                return OrderState(order.state)

    @activity.defn(name="watch_order")
    async def watch_order(self, step: OrderStep) -> bool:
        """Look whether the post is still there; where somebody took it away, the order is over: False."""
        with bind_job(step.job, step="watch"), as_failures():
            order, counter = await self._reach(step)
            seen = await counter.gateway.is_there(counter.secret, counter.target, order.message_ids[0])
            if seen is not False:
                return True
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                fresh = await repository.get_one(order.id, lock=True)
                if OrderState(fresh.state) in PUBLISHED:
                    early = {"early_by_seconds": _early_by(fresh)}
                    await _end(connection, fresh, OrderState.GONE, data=early)
            return False

    @activity.defn(name="count_views")
    async def count_views(self, step: OrderStep) -> None:
        """Ask every source that may know how often the post was seen; the number is kept with the source's name."""
        with bind_job(step.job, step="views"), as_failures():
            order, counter = await self._reach(step)
            username = counter.channel.username
            source = self._desk.view_sources.get(counter.gateway.name)
            if source is None or username is None or not order.message_ids:
                return
            counted = await source.count(username, order.message_ids[0])
            if counted is not None:
                async with self._desk.database.tenant(step.job.tenant_id) as connection:
                    await OrderRepository(connection).add_views(
                        tenant_id=order.tenant_id, order_id=order.id, source=counted.source, views=counted.views
                    )

    @activity.defn(name="report_order")
    async def report_order(self, step: OrderStep) -> None:
        """Put the report together as the job's result: when, where, how long, how often seen, how it was proved."""
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            result = await report_of(connection, step.order_id)
            await JobRepository(connection).set_result(step.job.job_id, result)

    # --- telling people -----------------------------------------------------------------------------

    @activity.defn(name="notify")
    async def notify(self, step: NotifyInput) -> None:
        """Tell owner and advertiser, each once: a message in doubt is not sent again, a webhook carries an id."""
        with bind_job(step.job, step="notify"), as_failures():
            await Notices(self._desk).tell(step.job.tenant_id, step.order_id, step.event)

    # --- parts --------------------------------------------------------------------------------------

    async def _reach(self, step: OrderStep) -> tuple[AnyRow, Counter]:
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id)
            channel = await ChannelRepository(connection).get_one(order.channel_id)
            return order, await self._desk.counter(connection, channel)

    async def _note(self, connection: AsyncConnection, order: AnyRow, effect: str, change: Change) -> None:
        state = EffectState.REJECTED if change is Change.DENIED else EffectState.DONE
        await LedgerRepository(connection).put(
            tenant_id=order.tenant_id, order_id=order.id, effect=effect, channel_id=order.channel_id, state=state,
            detail=change.value, settled_at=func.now(),
        )  # fmt: skip


async def _change(connection: AsyncConnection, order: AnyRow, values: Mapping[str, Any]) -> AnyRow:
    """Write a change down, and say so in the timeline; the order as it is then."""
    repository = OrderRepository(connection)
    await repository.change(order.id, **values)
    order = await repository.get_one(order.id)
    changed = sorted({*values} - {"pending"})
    await JobRepository(connection).record(
        job_id=order.job_id,
        event="order.changed",
        data={"order_id": str(order.id), "changed": changed, "version": order.version},
        values={"waiting_on": _wait_in(OrderState(order.state), order)},
    )
    return order


def _new_content(order: AnyRow, sha256: str | None) -> dict[str, Any]:
    """The content that waits in the order's row. Raises StateError where it is not the one that was asked for."""
    if order.approved_sha256 is not None:
        raise StateError("the content was approved as it is")
    if order.pending is None or render(PostContent.model_validate(order.pending)).sha256 != sha256:
        raise StateError("another change of the content came later")
    return {"content": order.pending, "content_sha256": sha256, "pending": None}


async def _check_end(connection: AsyncConnection, order: AnyRow, values: Mapping[str, Any]) -> None:
    """Raise StateError where a post whose end would take deleting with its new content could not be deleted."""
    finish, before, after = order.wish["finish"], order.content, values["content"]
    was, becomes = (takes_deleting(finish, PostContent.model_validate(one)) for one in (before, after))
    if was or not becomes:
        return
    channel = await ChannelRepository(connection).get_one(order.channel_id)
    starts, ends = (values.get(name, getattr(order, name)) for name in ("publish_at", "remove_at"))
    content, limited = PostContent.model_validate(after), channel.gateway == "telegram"
    fault = removal_fault(starts, ends, finish=finish, content=content, limited=limited)
    if fault is not None:
        raise StateError(f"the post {fault}")
    if not channel.rights.get("can_delete"):
        raise StateError("the bot may not delete in this channel, which the end of an album takes")


async def _hold_slot(connection: AsyncConnection, slot_id: UUID) -> None:
    """Keep a slot on offer until the transaction ends. Raises InvalidInput where it is not any more."""
    if await SlotRepository(connection).get_offered_or_none(slot_id) is None:
        fault = FieldFault("/slot_id", "is not a slot on offer")
        raise InvalidInput("the slot is not on offer any more", faults=[fault])


async def _ask_to_pin(connection: AsyncConnection, order: AnyRow) -> None:
    await OrderRepository(connection).open_task(
        tenant_id=order.tenant_id, order_id=order.id, kind=PIN,
        detail="the bot could not pin the post; pin it by hand, and look at the rights of the bot",
    )  # fmt: skip


async def _end(
    connection: AsyncConnection, order: AnyRow, state: OrderState, *, data: Mapping[str, Any] | None = None
) -> None:
    """The post is over, and with it what its owner was asked to do by hand."""
    repository = OrderRepository(connection)
    await repository.close_tasks(order.id, kinds=[PIN, "remove"], resolution=state.value)
    await repository.move(order, state, ended_at=func.now(), data=data)


async def _take_down(counter: Counter, message_ids: Sequence[int]) -> Change:
    """Delete messages, and make sure that they are gone; DENIED where one of them stays.

    Raises ProviderError where it has to be tried again.
    """
    changes = [await counter.gateway.remove(counter.secret, counter.target, one) for one in message_ids]
    if Change.DENIED in changes:
        return Change.DENIED
    for one in message_ids:
        if not await _is_gone(counter, one):
            raise ProviderError(
                "the post is still there", code="E.TELEGRAM.UNAVAILABLE", outcome=Outcome.UNKNOWN, retryable=True
            )
    return Change.DONE if Change.DONE in changes else Change.GONE


async def _is_gone(counter: Counter, message_id: int) -> bool:
    """Whether a message is provably gone; where one cannot look, by being told that there is nothing to delete."""
    seen = await counter.gateway.is_there(counter.secret, counter.target, message_id)
    if seen is not None:
        return not seen
    return await counter.gateway.remove(counter.secret, counter.target, message_id) is Change.GONE


def _armed(order: AnyRow) -> Armed:
    return Armed(
        state=OrderState(order.state), publish_at=order.publish_at, remove_at=order.remove_at, version=order.version
    )


def _early_by(order: AnyRow) -> float | None:
    return (order.remove_at - datetime.now(UTC)).total_seconds() if order.remove_at else None


def _wait_in(state: OrderState, order: AnyRow) -> Mapping[str, Any] | None:
    waits = {
        OrderState.ARMED: (WaitingKind.TIMER, "publishes at its booked time", order.publish_at),
        OrderState.APPROVAL: (WaitingKind.APPROVAL, "the channel's owner has to agree", order.latest_at),
    }
    if state not in waits:
        return None
    kind, detail, until = waits[state]
    return WaitingOn(kind=kind, detail=detail, since=datetime.now(UTC), until=until).model_dump(mode="json")
