"""Who has to be silent after the other side asked for it: the chat, and the token only where two chats were asked."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from temporalio.exceptions import ApplicationError

from activities.publishing.orders import NotifyInput, OrderActivities, OrderStep
from core.database import Database
from core.ids import new_id
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from tests.support.publishing import QUICK, Shop, new_http

LIMITED = replace(QUICK, per_token_second=30.0)


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    async with StandInTelegram() as standin, new_http() as http:
        made = Shop(database, tenant_id, standin, http, policy=LIMITED)
        # Limits are shared by everybody with the same token, so each test has one of its own.
        await made.add_credential(f"4242:{new_id().hex}")
        yield made


async def test_a_flood_freezes_its_chat_and_a_second_one_the_token(shop: Shop) -> None:
    counters = []
    for chat_id in (-1, -2, -3):
        channel = await shop.add_channel(chat_id)
        counters.append(await shop.desk.counter_of(shop.tenant_id, channel.id))
    first, second, third = counters
    await shop.desk.freeze(first, "chat", timedelta(seconds=40))
    assert await shop.desk.take_turn(shop.tenant_id, first) > timedelta(seconds=30)
    assert await shop.desk.take_turn(shop.tenant_id, third) == timedelta(0)
    await shop.desk.freeze(second, "chat", timedelta(seconds=40))
    assert await shop.desk.take_turn(shop.tenant_id, third) > timedelta(seconds=30)


async def test_a_notification_takes_its_turn(shop: Shop) -> None:
    channel = await shop.add_channel(-1, notify={"telegram_chat_id": 77})
    shop.standin.world.add_chat(77, kind="private")
    job, order_id = await shop.add_order(channel, "x", state="live", message_ids=[1])
    step = NotifyInput(job=job, order_id=order_id, event="live")
    activities = OrderActivities(shop.desk)
    shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, chat_id="77", status=429, retry_after=40))
    for _ in range(2):
        with pytest.raises(ApplicationError) as refused:
            await activities.notify(step)
        assert refused.value.next_retry_delay is not None
        assert refused.value.next_retry_delay > timedelta(seconds=30)
    # The second one did not even ask: the chat of the person is frozen, and that of the channel is not.
    assert [method for method, _ in shop.standin.call_log] == ["sendMessage"]
    counter = await shop.desk.counter_of(shop.tenant_id, channel.id)
    assert await shop.desk.take_turn(shop.tenant_id, counter) == timedelta(0)


@pytest.mark.parametrize(
    ("method", "activity", "state", "finish"),
    [
        ("pinChatMessage", "pin_order", "live", "remove"),
        ("unpinChatMessage", "finish_order", "pinned", "keep"),
        ("deleteMessage", "end_order", "live", "remove"),
        ("editMessageText", "end_order", "live", "stub"),
    ],
)
async def test_a_change_that_is_refused_for_now_freezes_its_chat(
    shop: Shop, method: str, activity: str, state: str, finish: str
) -> None:
    channel, other = [await shop.add_channel(chat_id) for chat_id in (-1, -2)]
    wish = {"slot_id": str(new_id()), "finish": finish}
    job, order_id = await shop.add_order(channel, "x", state=state, message_ids=[1], wish=wish)
    shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method=method, status=429, retry_after=40))
    with pytest.raises(ApplicationError) as refused:
        await getattr(OrderActivities(shop.desk), activity)(OrderStep(job=job, order_id=order_id))
    assert refused.value.next_retry_delay == timedelta(seconds=40)
    frozen, free = [await shop.desk.counter_of(shop.tenant_id, one.id) for one in (channel, other)]
    assert await shop.desk.take_turn(shop.tenant_id, frozen) > timedelta(seconds=30)
    assert await shop.desk.take_turn(shop.tenant_id, free) == timedelta(0)
