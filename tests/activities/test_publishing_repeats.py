"""Steps whose answer was lost, and which are run again: the second says what the first said."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from activities.publishing.effects import DecideInput, EffectActivities, EffectInput
from activities.publishing.orders import ChangeOrderInput, OrderActivities
from core.database import Database
from domain.publishing.content import PostContent, render
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
        job, order_id = await shop.add_order(channel, "late", state="armed")
        orders, effects = OrderActivities(shop.desk), EffectActivities(shop.desk)
        await orders.move_order(MoveOrderInput(job=job, order_id=order_id, state=OrderState.MISSED))
        with pytest.raises(ApplicationError) as refused:
            await effects.decide_post(DecideInput(job=job, order_id=order_id, decision="give_up"))
        assert refused.value.type == "E.JOB.STATE"
