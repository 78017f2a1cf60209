"""Sending, settling, looking, asking: the four things that the course of an effect does to the world."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.errors import as_failures
from activities.heartbeat import heartbeating
from activities.publishing.desk import Counter, PublishingDesk, rendered
from core.logging import bind_job
from domain.errors import Outcome, ProviderError, StateError
from domain.jobs import JobRef, WaitingKind, WaitingOn
from domain.model import Frozen
from domain.publishing.channels import Probe, SendReport, Sight
from domain.publishing.content import Rendered
from domain.publishing.effects import POST, Attempt, Attempted, EffectState
from domain.publishing.orders import OVER, PUBLISHED, OrderState
from domain.publishing.times import LEAD
from repositories.publishing.channels import ChannelRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import ASKED, OrderRepository
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)

_LAST_METRE: Final = timedelta(seconds=1)
"""How long a sender waits at most, beyond its lead, for the time of its order; one further ahead it hands back."""
_LONGEST_EARLY: Final = timedelta(minutes=10)
"""How long an order that comes too early is sent away at most: a cancellation waits as long."""
_BUSY_PAUSE: Final = timedelta(milliseconds=250)
_LONGEST_BUSY_PAUSE: Final = timedelta(seconds=30)
_MARGIN: Final = timedelta(seconds=30)
_MAY_SEND: Final = frozenset({OrderState.ARMED, OrderState.SENDING, OrderState.NEEDS_PERSON})


class EffectInput(Frozen):
    """One attempt at the post of an order; ``number`` counts attempts over the whole life of the order."""

    job: JobRef
    order_id: UUID
    number: int


class DecideInput(Frozen):
    """What a person has decided about a post in doubt."""

    job: JobRef
    order_id: UUID
    decision: str
    message_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Opened:
    """An attempt that stands in the ledger; ``at`` is when, by this process's own clock."""

    counter: Counter
    content: Rendered
    publish_at: datetime
    at: float


async def _until(moment: datetime) -> None:
    """Wait for a moment that is about to come: an order comes to its sender a little early, and never goes out so."""
    left = moment - datetime.now(UTC)
    if left > timedelta(0):
        await asyncio.sleep(left.total_seconds())


class EffectActivities:
    """The post of an order. Each method is safe to call again: the ledger knows what was before."""

    def __init__(self, desk: PublishingDesk) -> None:
        self._desk = desk

    # --- one attempt --------------------------------------------------------------------------------

    @activity.defn(name="send_post")
    async def send_post(self, step: EffectInput) -> Attempt:
        """Publish, at most once for each number: a row in the ledger, one call, and what came of it in the ledger."""
        with bind_job(step.job, step="send"):
            async with heartbeating():
                return await self.attempt(step)

    async def attempt(self, step: EffectInput) -> Attempt:
        """The same, without Temporal around it."""
        opened = await self._open(step)
        if isinstance(opened, Attempt):
            return opened
        report = await self._touch_wire(opened)
        return await self._close(step, opened, report)

    async def _open(self, step: EffectInput) -> _Opened | Attempt:
        """Everything that speaks against sending; then the row, committed. From there on the wire may be touched."""
        tenant_id = step.job.tenant_id
        async with self._desk.database.tenant(tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id)
            channel = await ChannelRepository(connection).get_one(order.channel_id)
            try:
                counter = await self._desk.counter(connection, channel)
            except ProviderError as fault:
                return Attempt(what=Attempted.REJECTED, code=fault.code, detail=fault.detail)
            known = await LedgerRepository(connection).get_or_none(step.order_id, POST)
        early = order.publish_at - LEAD - datetime.now(UTC)
        if early > _LAST_METRE:
            # Its workflow has not heard that it was moved: what is armed must not come before what the calendar says.
            return Attempt(
                what=Attempted.HELD_BACK, wait=min(early, _LONGEST_EARLY), detail="the time of the order is yet to come"
            )
        await _until(order.publish_at)
        is_first_or_again = known is None or known.state == EffectState.NOT_SENT
        if is_first_or_again and datetime.now(UTC) <= order.latest_at:
            wait = await self._desk.take_turn(tenant_id, counter, messages=rendered(order.content).messages)
            if wait > timedelta(0):
                # Not beyond the moment from which on it is too late: then that is what there is to say.
                too_late = max(order.latest_at - datetime.now(UTC), timedelta(0)) + _BUSY_PAUSE
                return Attempt(what=Attempted.HELD_BACK, wait=min(wait, too_late), code="E.ORDER.LIMIT")
        async with self._desk.database.tenant(tenant_id) as connection:
            return await self._begin(connection, step, counter)

    async def _begin(self, connection: AsyncConnection, step: EffectInput, counter: Counter) -> _Opened | Attempt:
        # The lock on the channel makes one post at a time: whoever comes later sees the row of whoever was first.
        channel = await ChannelRepository(connection).get_one(counter.channel.id, lock=True)
        order = await OrderRepository(connection).get_one(step.order_id, lock=True)
        ledger = LedgerRepository(connection)
        row = await ledger.get_or_none(step.order_id, POST, lock=True)
        against = await self._what_speaks_against(ledger, step, order, row)
        if against is not None:
            return against
        content = rendered(order.content)
        await ledger.begin(
            tenant_id=order.tenant_id, order_id=order.id, effect=POST, channel_id=channel.id, number=step.number,
            sha256=content.sha256, after=channel.last_message_id,
        )  # fmt: skip
        if order.state != OrderState.SENDING:
            await OrderRepository(connection).move(order, OrderState.SENDING, data={"attempt": step.number})
        return _Opened(counter, content, order.publish_at, time.monotonic())

    async def _what_speaks_against(
        self, ledger: LedgerRepository, step: EffectInput, order: AnyRow, row: AnyRow | None
    ) -> Attempt | None:
        against = None if row is None else await self._what_the_ledger_says(ledger, step, row)
        if against is not None:
            return against
        if OrderState(order.state) not in _MAY_SEND:
            return Attempt(what=Attempted.REJECTED, code="E.ORDER.STATE", detail=f"the order is {order.state}")
        if datetime.now(UTC) > order.latest_at:
            return Attempt(what=Attempted.LATE, code="E.ORDER.MISSED")
        await ledger.give_up_sending(order.channel_id, besides=order.id, older_than=self._desk.policy.wire + _MARGIN)
        busy_for = await ledger.busy_for(order.channel_id, besides=order.id, at_most=self._desk.policy.busy + _MARGIN)
        if busy_for is not None:
            # What is on the wire is over in a moment; what has been in doubt for long is likely to stay so for long.
            wait = min(max(busy_for / 4, _BUSY_PAUSE), _LONGEST_BUSY_PAUSE)
            too_late = max(order.latest_at - datetime.now(UTC), timedelta(0)) + _BUSY_PAUSE
            return Attempt(what=Attempted.HELD_BACK, wait=min(wait, too_late), code="E.ORDER.CHANNEL_BUSY")
        return None

    async def _what_the_ledger_says(self, ledger: LedgerRepository, step: EffectInput, row: AnyRow) -> Attempt | None:
        if row.state in _KNOWN_ENDS:
            return Attempt(what=_KNOWN_ENDS[row.state], code=row.error_code)
        if step.number <= row.fence or step.number < row.attempt:
            return Attempt(what=Attempted.HELD_BACK, wait=_BUSY_PAUSE, detail="this attempt is closed")
        if row.state == EffectState.NOT_SENT or self._is_proven_absent(row):
            return None
        if row.state == EffectState.SENDING:
            # An earlier attempt, of an earlier run perhaps, never said how it ended.
            await self._doubt(ledger, step.order_id, row, fence=step.number)
        else:
            await ledger.close(step.order_id, POST, fence=step.number)
        return Attempt(what=Attempted.UNKNOWN, code="E.ORDER.IN_DOUBT")

    def _is_proven_absent(self, row: AnyRow) -> bool:
        """Whether every look after the latest doubt saw nothing, as often as the policy asks for."""
        if row.state == EffectState.SENDING:
            return False
        looks = [one for one in row.evidence if one.get("doubt") == row.doubts]
        enough = len(looks) >= len(self._desk.policy.probe_pauses) > 0
        return enough and all(one["sight"] == Sight.ABSENT for one in looks) and row.doubts <= self._desk.policy.resends

    async def _touch_wire(self, opened: _Opened) -> SendReport:
        counter, policy = opened.counter, self._desk.policy
        if time.monotonic() - opened.at > policy.stale.total_seconds():
            # This process stood still between the ledger and the wire: others may have given this attempt up.
            return SendReport(outcome=Outcome.NOT_SENT, code="E.ORDER.STALE", detail="the process stood still")
        try:
            async with asyncio.timeout(policy.wire.total_seconds()):
                return await counter.gateway.post(counter.secret, counter.target, opened.content)
        except TimeoutError:
            return SendReport(outcome=Outcome.UNKNOWN, code="E.TELEGRAM.TIMEOUT", detail="no answer in time")

    async def _close(self, step: EffectInput, opened: _Opened, report: SendReport) -> Attempt:
        """Write down what came of it. A success is written down also where the attempt was given up meanwhile."""
        if report.migrated_to is not None:
            report = await self._migrate(step, opened, report)
        if report.retry_after is not None:
            await self._desk.freeze(opened.counter, report.frozen, report.retry_after)
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id, lock=True)
            ledger = LedgerRepository(connection)
            row = await ledger.get_or_none(step.order_id, POST, lock=True)
            assert row is not None
            if report.outcome is Outcome.DONE:
                await self._go_live(connection, order, report.message_ids, resolved_by=None)
            elif row.attempt == step.number and row.state == EffectState.SENDING:
                if report.outcome is Outcome.UNKNOWN:
                    await self._doubt(ledger, order.id, row, fence=step.number, report=report)
                else:
                    await ledger.close(
                        order.id, POST, state=EffectState(report.outcome.value), fence=step.number,
                        error_code=report.code, detail=report.detail, settled_at=func.now(),
                    )  # fmt: skip
        return Attempt(
            what=Attempted(report.outcome.value),
            wait=report.retry_after or timedelta(0),
            code=report.code,
            detail=report.detail,
        )

    async def _migrate(self, step: EffectInput, opened: _Opened, report: SendReport) -> SendReport:
        """The chat goes on under another id; nothing was sent, and the next attempt goes there."""
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            channel_id = opened.counter.channel.id
            await ChannelRepository(connection).change(channel_id, chat_id=report.migrated_to, last_message_id=0)
            await LedgerRepository(connection).close(step.order_id, POST, after_message_id=0)
        return SendReport(outcome=Outcome.NOT_SENT, code=report.code, detail=report.detail)

    async def _doubt(
        self, ledger: LedgerRepository, order_id: UUID, row: AnyRow, *, fence: int, report: SendReport | None = None
    ) -> None:
        await ledger.close(
            order_id, POST, state=EffectState.UNKNOWN, fence=fence, doubts=row.doubts + 1,
            error_code="E.ORDER.IN_DOUBT" if report is None else report.code,
            detail="nobody said how it ended" if report is None else report.detail,
        )  # fmt: skip
        _log.warning("publishing.in_doubt", order_id=str(order_id), attempt=row.attempt)

    async def _go_live(
        self, connection: AsyncConnection, order: AnyRow, message_ids: tuple[int, ...], *, resolved_by: str | None
    ) -> None:
        await LedgerRepository(connection).close(
            order.id, POST, state=EffectState.DONE, message_ids=list(message_ids), resolved_by=resolved_by,
            settled_at=func.now(), error_code=None, detail=None,
        )  # fmt: skip
        await ChannelRepository(connection).raise_last_id(order.channel_id, max(message_ids, default=0))
        await OrderRepository(connection).close_tasks(order.id, kinds=ASKED, resolution=resolved_by or "sent")
        if OrderState(order.state) in {*PUBLISHED, OrderState.CANCELED, OrderState.MISSED}:
            return
        sent_at = await self._sent_at(connection, order, resolved_by)
        await OrderRepository(connection).move(
            order, OrderState.LIVE, sent_at=sent_at, drift_ms=(sent_at - order.publish_at).total_seconds() * 1_000,
            message_ids=list(message_ids),
            data={"message_ids": list(message_ids), **({"resolved_by": resolved_by} if resolved_by else {})},
        )  # fmt: skip

    async def _sent_at(self, connection: AsyncConnection, order: AnyRow, resolved_by: str | None) -> datetime:
        """When the post went out: now, or for one that was found later when its call was made."""
        row = await LedgerRepository(connection).get_or_none(order.id, POST)
        if resolved_by is None or row is None or row.sending_at is None:
            return datetime.now(UTC)
        sent: datetime = row.sending_at
        return sent

    # --- after an attempt ---------------------------------------------------------------------------

    @activity.defn(name="settle_post")
    async def settle_post(self, step: EffectInput) -> Outcome:
        """Close an attempt for ever, whatever became of its worker, and say what the ledger knows of it."""
        with bind_job(step.job, step="settle"):
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                order = await OrderRepository(connection).get_one(step.order_id, lock=True)
                ledger = LedgerRepository(connection)
                row = await ledger.get_or_none(step.order_id, POST, lock=True)
                if row is None:
                    await ledger.put(
                        tenant_id=order.tenant_id, order_id=order.id, effect=POST, channel_id=order.channel_id,
                        state=EffectState.NOT_SENT, attempt=step.number, fence=step.number,
                    )  # fmt: skip
                    return Outcome.NOT_SENT
                if row.attempt < step.number:
                    await ledger.close(order.id, POST, fence=step.number)
                    return Outcome.DONE if row.state == EffectState.DONE else Outcome.NOT_SENT
                if row.state == EffectState.SENDING:
                    await self._doubt(ledger, order.id, row, fence=step.number)
                    return Outcome.UNKNOWN
                await ledger.close(order.id, POST, fence=step.number)
                return _OUTCOMES[row.state]

    @activity.defn(name="probe_post")
    async def probe_post(self, step: EffectInput) -> Sight:
        """Look for the post in its channel, and keep what was seen as evidence."""
        with bind_job(step.job, step="probe"):
            tenant_id = step.job.tenant_id
            async with self._desk.database.tenant(tenant_id) as connection:
                order = await OrderRepository(connection).get_one(step.order_id)
                ledger = LedgerRepository(connection)
                row = await ledger.get_or_none(step.order_id, POST)
                channel = await ChannelRepository(connection).get_one(order.channel_id)
                counter = await self._desk.counter(connection, channel)
                known = await ledger.get_known_ids(order.channel_id)
            if row is None or row.state in _KNOWN_ENDS:
                return Sight.FOUND if row is not None and row.state == EffectState.DONE else Sight.ABSENT
            probe = await counter.gateway.find(
                counter.secret, counter.target, rendered(order.content), after=row.after_message_id, known=known,
                since=row.sending_at,
            )  # fmt: skip
            await self._keep(step, probe)
            witness = self._desk.witnesses.get(counter.gateway.name)
            if probe.sight is Sight.BLIND and witness is not None and channel.username is not None:
                probe = await witness.find(
                    channel.username, rendered(order.content), after=row.after_message_id, known=known,
                    since=row.sending_at,
                )  # fmt: skip
                await self._keep(step, probe)
            return probe.sight

    async def _keep(self, step: EffectInput, probe: Probe) -> None:
        async with self._desk.database.tenant(step.job.tenant_id) as connection:
            order = await OrderRepository(connection).get_one(step.order_id, lock=True)
            ledger = LedgerRepository(connection)
            row = await ledger.get_or_none(step.order_id, POST, lock=True)
            assert row is not None
            seen = {**probe.evidence(), "at": datetime.now(UTC).isoformat(), "doubt": row.doubts}
            await ledger.add_evidence(order.id, POST, seen)
            if probe.sight is Sight.FOUND and row.state != EffectState.DONE:
                await self._go_live(connection, order, probe.message_ids, resolved_by=f"probe:{probe.source}")

    @activity.defn(name="ask_person")
    async def ask_person(self, step: EffectInput) -> bool:
        """Hand a post in doubt to a person, who decides through the API with the evidence before him.

        False where nobody needs to: an answer that came late has said meanwhile that the post is out.
        """
        with bind_job(step.job, step="ask"), as_failures():
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository = OrderRepository(connection)
                order = await repository.get_one(step.order_id, lock=True)
                if OrderState(order.state) in PUBLISHED:
                    return False
                await LedgerRepository(connection).close(order.id, POST, state=EffectState.NEEDS_PERSON)
                await repository.open_task(
                    tenant_id=order.tenant_id, order_id=order.id, kind="decide",
                    detail="it is not certain whether the post is out; look at the channel and at the evidence",
                )  # fmt: skip
                await repository.move(order, OrderState.NEEDS_PERSON, waiting_on=_person_wait(order.id))
                return True

    @activity.defn(name="decide_post")
    async def decide_post(self, step: DecideInput) -> None:
        """Write down what a person decided: it is out, it is not and goes out again, or it is given up.

        May be repeated after its answer was lost. Fails for good with E.JOB.STATE where what is known of the post
        speaks against the decision.
        """
        with bind_job(step.job, step="decide"), as_failures():
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                repository, ledger = OrderRepository(connection), LedgerRepository(connection)
                order = await repository.get_one(step.order_id, lock=True)
                row = await ledger.get_or_none(order.id, POST, lock=True)
                if step.decision == "give_up" and _is_given_up(order, row):
                    return  # by an earlier try of this very step: the other decisions leave the order open to a repeat
                check_decision(order, row, step.decision)
                await repository.close_tasks(order.id, kinds=ASKED, resolution=step.decision)
                if step.decision == "sent":
                    await self._go_live(connection, order, step.message_ids, resolved_by="person")
                    return
                said: dict[str, Any] = {"resolved_by": "person", "settled_at": func.now()}
                if step.decision == "give_up":
                    await ledger.put(
                        tenant_id=order.tenant_id, order_id=order.id, effect=POST, channel_id=order.channel_id,
                        state=EffectState.MISSED, error_code="E.ORDER.MISSED", **said,
                    )  # fmt: skip
                    data = {"code": "E.ORDER.MISSED", "resolved_by": "person"}
                    await repository.move(order, OrderState.MISSED, data=data, ended_at=func.now())
                    return
                await ledger.close(order.id, POST, state=EffectState.NOT_SENT, **said)
                soon = datetime.now(UTC) + timedelta(minutes=10)
                await repository.change(order.id, latest_at=func.greatest(soon, order.latest_at))


_KNOWN_ENDS: Final = {
    EffectState.DONE: Attempted.DONE,
    EffectState.REJECTED: Attempted.REJECTED,
    EffectState.MISSED: Attempted.LATE,
}
_OUTCOMES: Final = {
    EffectState.DONE: Outcome.DONE,
    EffectState.REJECTED: Outcome.REJECTED,
    EffectState.MISSED: Outcome.REJECTED,
    EffectState.NOT_SENT: Outcome.NOT_SENT,
    EffectState.UNKNOWN: Outcome.UNKNOWN,
    EffectState.NEEDS_PERSON: Outcome.UNKNOWN,
}


def check_decision(order: AnyRow, row: AnyRow | None, decision: str) -> None:
    """Raise StateError where a decision contradicts what is known: a post that is out, one that was never tried."""
    if row is not None and row.state == EffectState.DONE and decision != "sent":
        raise StateError("the post is out; it can be canceled, and is then taken away")
    if (row is None or row.sends == 0) and decision == "sent":
        raise StateError("no attempt to send the post was made, so it cannot be out")
    if OrderState(order.state) in OVER:
        raise StateError(f"the order is {order.state}")


def _is_given_up(order: AnyRow, row: AnyRow | None) -> bool:
    """Whether a person has given the post up, and it is missed."""
    return (
        OrderState(order.state) is OrderState.MISSED
        and row is not None
        and (row.state, row.resolved_by) == (EffectState.MISSED, "person")
    )


def _person_wait(order_id: UUID) -> dict[str, Any]:
    detail = f"a person has to decide: POST /orders/{order_id}/resolve"
    return WaitingOn(kind=WaitingKind.PROVIDER, detail=detail, since=datetime.now(UTC)).model_dump(mode="json")
