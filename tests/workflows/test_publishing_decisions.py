"""Posts that a person decides about, on real Temporal: no dead end, nothing done that was not said."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.publishing.effects import DecideInput, EffectActivities, EffectInput
from activities.publishing.orders import OrderActivities, OrderStep
from core.database import Database
from domain.errors import InvalidInput, StateError
from domain.jobs import JobAction
from domain.publishing.orders import OrderChange
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from gateways.webhooks import GuardedClient
from repositories.publishing.bots import BotRepository
from repositories.publishing.orders import OrderRepository
from repositories.rows import AnyRow
from services.jobs import JobRequest
from tests.support.orders import Orders, serving_orders
from tests.support.publishing import Shop, new_http
from tests.support.waiting import eventually

CHAT = -1001


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    """A tenant with a stand-in of its own, and no workflows."""
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


@pytest.fixture
async def orders(shop: Shop, temporal: Client) -> AsyncIterator[Orders]:
    """The same with workflows."""
    async with serving_orders(temporal, shop) as made:
        yield made


async def tasks_of(shop: Shop, order_id: UUID) -> Sequence[AnyRow]:
    async with shop.database.tenant(shop.tenant_id) as connection:
        return await OrderRepository(connection).get_tasks(order_id)


async def open_kinds(shop: Shop, order_id: UUID) -> list[str]:
    return [one.kind for one in await tasks_of(shop, order_id) if one.closed_at is None]


async def in_doubt(orders: Orders, kind: FaultKind = FaultKind.DROP_AFTER, *, times: int = 1, **more: object) -> UUID:
    """An order whose sending nobody saw the end of, in a channel without an audit chat."""
    channel = await orders.shop.add_channel(CHAT, audit=False, **more)
    orders.standin.faults.add(Fault(kind=kind, chat_id=str(CHAT), times=times))
    order_id = await orders.book(channel, "doubt")
    await orders.until(order_id, "needs_person")
    return order_id


class TestDoubt:
    async def test_is_not_canceled_but_decided_first(self, orders: Orders) -> None:
        """Canceled, it would stay in the channel for good."""
        order_id = await in_doubt(orders)
        with pytest.raises(StateError, match="resolve that first"):
            await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        there = orders.standin.world.chats[CHAT].posted[0].id
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=(there,))
        await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        assert (await orders.until_job(order_id, "canceled")).state == "removed"
        assert orders.standin.world.chats[CHAT].messages == {}

    async def test_job_canceled_meanwhile_is_taken_away_once_decided(self, orders: Orders) -> None:
        order_id = await in_doubt(orders)
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.CANCEL)
        there = orders.standin.world.chats[CHAT].posted[0].id
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=(there,))
        assert (await orders.until_job(order_id, "canceled")).state == "removed"
        assert orders.standin.world.chats[CHAT].messages == {}

    async def test_second_one_is_asked_about_and_told_again(self, orders: Orders) -> None:
        orders.standin.world.add_chat(77, kind="private")
        order_id = await in_doubt(orders, FaultKind.DROP_BEFORE, times=2, notify={"telegram_chat_id": 77})
        first = (await tasks_of(orders.shop, order_id))[0].id
        await eventually(lambda: asyncio.sleep(0, len(orders.shop.posted(77)) == 1))
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="send", message_ids=())

        async def asked_again() -> bool:
            [task] = await tasks_of(orders.shop, order_id)
            return task.closed_at is None and task.id != first

        await eventually(asked_again)
        await eventually(lambda: asyncio.sleep(0, len(orders.shop.posted(77)) == 2))
        armed = await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="give_up", message_ids=())
        assert armed.state == "missed"
        await orders.until_job(order_id, "failed")
        assert await open_kinds(orders.shop, order_id) == []

    async def test_answer_that_comes_late_needs_nobody(self, shop: Shop) -> None:
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "out")
        effects, step = EffectActivities(shop.desk), EffectInput(job=job, order_id=order_id, number=1)
        await effects.attempt(step)
        assert await effects.ask_person(step) is False
        with pytest.raises(ApplicationError) as refused:
            await effects.decide_post(DecideInput(job=job, order_id=order_id, decision="send"))
        assert (refused.value.type, refused.value.non_retryable) == ("E.JOB.STATE", True)
        assert (await shop.order(order_id)).state == "live"


class TestSequence:
    async def test_delivery_in_doubt_is_decided_and_holds_up_no_other(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, audit=False)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT)))
        job_id = await deliver(orders, channel)
        rows = await until_states(orders, job_id, "needs_person", "finished")
        there = orders.standin.world.chats[CHAT].posted[0].id
        with pytest.raises(StateError):
            await orders.service.resolve_order(orders.shop.tenant_id, rows[1].id, decision="give_up", message_ids=())
        await orders.service.resolve_order(orders.shop.tenant_id, rows[0].id, decision="sent", message_ids=(there,))
        await orders.until_job(rows[0].id, "succeeded")
        await until_states(orders, job_id, "finished", "finished")
        assert orders.shop.posted(CHAT) == ["lesson 0", "lesson 1"]

    async def test_late_delivery_is_asked_about_and_holds_up_no_other(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        late = {"on_late": "ask", "tolerance_seconds": 1, "latest_seconds": 600}
        job_id = await deliver(orders, channel, seconds_ago=3, every=5, late=late)
        rows = await until_states(orders, job_id, "armed", "finished")
        assert await open_kinds(orders.shop, rows[0].id) == ["late"]
        await orders.service.resolve_order(orders.shop.tenant_id, rows[0].id, decision="send", message_ids=())
        await orders.until_job(rows[0].id, "succeeded")
        assert orders.shop.posted(CHAT) == ["lesson 1", "lesson 0"]

    async def test_late_delivery_that_is_not_wanted_any_more_is_canceled(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        late = {"on_late": "ask", "tolerance_seconds": 1, "latest_seconds": 600}
        job_id = await deliver(orders, channel, seconds_ago=3, every=600, late=late)
        [first, _] = await until_states(orders, job_id, "armed", "booked")
        await eventually(lambda: open_kinds(orders.shop, first.id))
        await orders.jobs.act(orders.shop.tenant_id, job_id, JobAction.CANCEL)
        await orders.until_job(first.id, "canceled")
        await until_states(orders, job_id, "canceled", "canceled")
        assert await open_kinds(orders.shop, first.id) == []

    @pytest.mark.parametrize("is_reached", [True, False])
    async def test_missed_delivery_is_told_of_and_holds_up_no_other(self, orders: Orders, is_reached: bool) -> None:
        channel = await orders.shop.add_channel(CHAT, notify={"telegram_chat_id": 77})
        orders.standin.world.add_chat(77, kind="private")
        if not is_reached:
            orders.standin.faults.add(
                Fault(kind=FaultKind.STATUS_BEFORE, chat_id="77", status=429, retry_after=1, times=99)
            )
        late = {"on_late": "skip", "tolerance_seconds": 1}
        job_id = await deliver(orders, channel, seconds_ago=3, every=5, late=late)
        rows = await until_states(orders, job_id, "missed", "finished")
        if is_reached:
            await orders.until_job(rows[0].id, "succeeded")
            assert ["was not published in time" in line for line in orders.shop.posted(77)] == [True]


async def deliver(orders: Orders, channel: AnyRow, *, seconds_ago: float = 0, every: int = 1, **more: object) -> UUID:
    """The job of a sequence of two."""
    wish = {
        "channel_id": str(channel.id), "starts_at": (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(),
        "items": [{"offset_seconds": n * every, "content": {"text": f"lesson {n}"}} for n in range(2)], **more,
    }  # fmt: skip
    request = JobRequest(kind="publishing.sequence", input=wish)
    started = await orders.jobs.start(orders.shop.tenant_id, request, key=None)
    job_id: UUID = started.document.id
    return job_id


async def until_states(orders: Orders, job_id: UUID, *states: str) -> Sequence[AnyRow]:
    """The deliveries of a sequence as soon as they are in these states."""

    async def look() -> Sequence[AnyRow]:
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            return await OrderRepository(connection).get_of_job(job_id)

    return await eventually(look, lambda rows: [row.state for row in rows] == list(states), within=30)


class TestLate:
    async def test_one_that_was_never_tried_cannot_be_out(
        self, orders: Orders, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wrong answer is refused, and the right one is heard afterwards."""

        async def slow(_self: GuardedClient, _url: str) -> None:
            await asyncio.sleep(3)

        monkeypatch.setattr(GuardedClient, "fault", slow)
        channel = await orders.shop.add_channel(CHAT)
        content = {"text": "late", "buttons": [{"text": "go", "url": "https://example.org/"}]}
        late = {"on_late": "ask", "tolerance_seconds": 1, "latest_seconds": 600}
        order_id = await orders.book(channel, "", content=content, late=late)
        await eventually(lambda: open_kinds(orders.shop, order_id), lambda kinds: kinds == ["late"])
        with pytest.raises(StateError, match="no attempt"):
            await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=(7,))
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="send", message_ids=())
        await orders.until(order_id, "live")
        assert orders.shop.posted(CHAT) == ["late"]

    @pytest.mark.parametrize("state", ["sending", "needs_person", "live"])
    async def test_one_that_was_begun_is_not_armed_again(self, shop: Shop, state: str) -> None:
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "x", state=state)
        armed = await OrderActivities(shop.desk).arm_order(OrderStep(job=job, order_id=order_id))
        assert armed.state == state


class TestApproval:
    async def test_is_of_what_the_owner_has_seen(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "seen", within=600)
        await orders.until(order_id, "approval")
        seen = (await orders.shop.order(order_id)).content_sha256
        swap = OrderChange.model_validate({"content": {"text": "swapped"}})
        await orders.service.change_order(orders.shop.tenant_id, order_id, swap)
        with pytest.raises(StateError, match="not the one that was seen"):
            await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE, seen=seen)
        now = (await orders.shop.order(order_id)).content_sha256
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE, seen=now)
        assert (await orders.until(order_id, "armed")).approved_sha256 == now

    async def test_fixes_the_content_with_the_decision(self, orders: Orders) -> None:
        """Not when the workflow hears of it: a change in between would be one that nobody agreed to."""
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "seen", within=600)
        await orders.until(order_id, "approval")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE)
        row = await orders.shop.order(order_id)
        assert row.approved_sha256 == row.content_sha256
        swap = OrderChange.model_validate({"content": {"text": "swapped"}})
        with pytest.raises(InvalidInput):
            await orders.service.change_order(orders.shop.tenant_id, order_id, swap)

    async def test_change_that_overlaps_the_decision_never_gets_through(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "seen", within=600)
        await orders.until(order_id, "approval")
        seen = (await orders.shop.order(order_id)).content_sha256
        swap = OrderChange.model_validate({"content": {"text": "swapped"}})
        await asyncio.gather(
            orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE, seen=seen),
            orders.service.change_order(orders.shop.tenant_id, order_id, swap),
            return_exceptions=True,
        )
        row = await orders.shop.order(order_id)
        assert row.approved_sha256 in {None, row.content_sha256}

    async def test_has_as_long_as_the_order_that_was_moved(self, orders: Orders) -> None:
        """The owner answers after the time that the order had at first, and before that which it has now."""
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "moved", within=5, lasts=60, late={"tolerance_seconds": 1})
        first = (await orders.until(order_id, "approval")).latest_at
        slot_id = await orders.shop.add_slot(channel, datetime.now(UTC) + timedelta(minutes=10))
        await orders.service.change_order(orders.shop.tenant_id, order_id, OrderChange(slot_id=slot_id))
        await eventually(lambda: asyncio.sleep(0, datetime.now(UTC) > first + timedelta(seconds=1)))
        assert (await orders.shop.order(order_id)).state == "approval"
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE)
        await orders.until(order_id, "armed")

    async def test_is_not_forgotten_by_a_pause(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "seen", within=600)
        await orders.until(order_id, "approval")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.PAUSE)
        document = await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.RESUME)
        assert document.waiting_on["kind"] == "approval"
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE)
        await orders.until(order_id, "armed")


class TestChange:
    async def test_links_of_new_content_are_looked_at(self, orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
        async def dead(_self: GuardedClient, url: str) -> str | None:
            return "does not answer" if "dead" in url else None

        monkeypatch.setattr(GuardedClient, "fault", dead)
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "before", within=600)
        await orders.until(order_id, "armed")
        for host, is_taken in (("dead", False), ("alive", True)):
            button = {"text": "go", "url": f"https://{host}.example/"}
            change = OrderChange.model_validate({"content": {"text": host, "buttons": [button]}})
            changing = orders.service.change_order(orders.shop.tenant_id, order_id, change)
            if is_taken:
                await changing
            else:
                with pytest.raises(InvalidInput) as refused:
                    await changing
                assert [fault.pointer for fault in refused.value.faults] == ["/content"]
            assert (await orders.shop.order(order_id)).content["text"] == ("alive" if is_taken else "before")


class TestDialog:
    async def test_update_heard_again_after_its_answer_is_left_alone(self, orders: Orders) -> None:
        """The API died before it could note that the conversation has the update; Telegram sends it again."""
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.world.add_chat(55, kind="private")
        await orders.shop.add_slot(channel, datetime.now(UTC) + timedelta(hours=5))
        bot_id, _ = await orders.dialogs.add_bot(orders.shop.tenant_id, channel_id=channel.id, polls=False)
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            bot = await BotRepository(connection).get_one(bot_id)
        for turn, line in enumerate(("/book", "1", "my advert", "yes"), start=1):
            message = {"update_id": turn, "message": {"chat": {"id": 55}, "text": line}}
            await orders.dialogs.take_in(bot, message)
            await eventually(lambda turn=turn: asyncio.sleep(0, len(orders.shop.posted(55)) == turn))  # type: ignore[misc]
            await orders.dialogs._tell(bot, 55, turn)
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            booked = await OrderRepository(connection).get_page(limit=9, before=None)
        assert [row.content["text"] for row in booked] == ["my advert"]
        assert len(orders.shop.posted(55)) == 4
