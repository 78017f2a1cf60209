"""Steps whose answer was lost, and which are run again: the second says what the first said."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from temporalio.exceptions import ApplicationError

from activities.publishing.effects import DecideInput, EffectActivities, EffectInput
from activities.publishing.orders import ChangeOrderInput, MoveOrderInput, OrderActivities
from core.database import Database
from domain.publishing.content import PostContent, render
from domain.publishing.effects import Attempted
from domain.publishing.orders import OrderState
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.publishing.orders import OrderRepository
from tests.support.publishing import Shop, new_http

CHAT = -1001


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    """A tenant with a stand-in of its own, and no workflows."""
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


class TestDecision:
    @pytest.mark.parametrize(
        ("decision", "message_ids", "state", "ledger"),
        [
            ("sent", (1,), "live", "done"),
            ("send", (), "needs_person", "not_sent"),
            ("give_up", (), "missed", "missed"),
        ],
    )
    async def test_is_written_down_once_more(
        self, shop: Shop, decision: str, message_ids: tuple[int, ...], state: str, ledger: str
    ) -> None:
        channel = await shop.add_channel(CHAT)
        shop.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT)))
        job, order_id = await shop.add_order(channel, "doubt")
        effects, step = EffectActivities(shop.desk), EffectInput(job=job, order_id=order_id, number=1)
        await effects.attempt(step)
        assert await effects.ask_person(step)
        decided = DecideInput(job=job, order_id=order_id, decision=decision, message_ids=message_ids)
        for _ in range(2):
            await effects.decide_post(decided)
            row = await shop.ledger(order_id)
            assert row is not None
            assert ((await shop.order(order_id)).state, row.state, row.resolved_by) == (state, ledger, "person")

    async def test_is_not_that_of_somebody_else(self, shop: Shop) -> None:
        """An order that was missed by itself was given up by nobody."""
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "late")
        orders, effects = OrderActivities(shop.desk), EffectActivities(shop.desk)
        await orders.move_order(MoveOrderInput(job=job, order_id=order_id, state=OrderState.MISSED))
        with pytest.raises(ApplicationError) as refused:
            await effects.decide_post(DecideInput(job=job, order_id=order_id, decision="give_up"))
        assert refused.value.type == "E.JOB.STATE"


class TestChange:
    async def test_of_slot_and_content_answers_as_the_first_did(self, shop: Shop) -> None:
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "before")
        starts, content = datetime.now(UTC) + timedelta(hours=1), PostContent(text="after")
        change = ChangeOrderInput(
            job=job, order_id=order_id, slot_id=await shop.add_slot(channel, starts), publish_at=starts,
            latest_at=starts + timedelta(minutes=5), content_sha256=render(content).sha256,
        )  # fmt: skip
        async with shop.database.tenant(shop.tenant_id) as connection:
            await OrderRepository(connection).change(order_id, pending=content.model_dump(mode="json"))
        orders = OrderActivities(shop.desk)
        first = await orders.change_order(change)
        assert first.publish_at == starts
        assert await orders.change_order(change) == first
        order = await shop.order(order_id)
        assert (order.slot_id, order.content["text"], order.version) == (change.slot_id, "after", first.version)

    async def test_another_content_that_came_later_is_not_this_one(self, shop: Shop) -> None:
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "before")
        wanted = render(PostContent(text="never came")).sha256
        with pytest.raises(ApplicationError) as refused:
            await OrderActivities(shop.desk).change_order(
                ChangeOrderInput(job=job, order_id=order_id, content_sha256=wanted)
            )
        assert refused.value.type == "E.JOB.STATE"


class TestSending:
    async def test_sender_that_is_called_long_before_the_time_holds_back(self, shop: Shop) -> None:
        """Whatever its workflow believes: the calendar says when a post goes out."""
        channel = await shop.add_channel(CHAT)
        publish_at = datetime.now(UTC) + timedelta(minutes=5)
        job, order_id = await shop.add_order(channel, "early", publish_at=publish_at, late=600)
        attempt = await EffectActivities(shop.desk).attempt(EffectInput(job=job, order_id=order_id, number=1))
        assert attempt.what is Attempted.HELD_BACK
        assert timedelta(minutes=4) < attempt.wait < timedelta(minutes=5)
        assert shop.posted(CHAT) == []
        assert (await shop.order(order_id)).state == "armed"
