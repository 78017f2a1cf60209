"""A slot is booked or withdrawn, never both, however close the two come to each other."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from temporalio.exceptions import ApplicationError

from activities.publishing.orders import ChangeOrderInput, OrderActivities
from core.database import Database
from domain.errors import InvalidInput
from domain.publishing.content import PostContent
from domain.publishing.orders import OrderInput
from gateways.standin_telegram import StandInTelegram
from repositories.publishing.channels import SlotRepository
from services.publishing.kinds import BookingDesk
from tests.support.life import add_job
from tests.support.publishing import Shop, new_http
from tests.support.waiting import eventually

CHAT = -1001


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    """A tenant with a stand-in of its own, and no workflows."""
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def withdraw(shop: Shop, slot_id: UUID) -> bool:
    async with shop.database.tenant(shop.tenant_id) as connection:
        return await SlotRepository(connection).withdraw(slot_id)


class TestBooking:
    async def test_withdrawn_after_it_was_looked_at(self, shop: Shop) -> None:
        slot_id = await shop.add_slot(await shop.add_channel(CHAT), soon())
        desk, wanted = BookingDesk(shop.database, exempt_hosts=()), wish(slot_id)
        job = await add_job(shop.database, shop.tenant_id, kind="publishing.order")
        await desk.check_order(shop.tenant_id, wanted)
        assert await withdraw(shop, slot_id)
        with pytest.raises(InvalidInput) as refused:
            async with shop.database.tenant(shop.tenant_id) as connection:
                await desk.book_order(connection, shop.tenant_id, job.job_id, wanted)
        assert [fault.pointer for fault in refused.value.faults] == ["/input/slot_id"]

    async def test_withdrawal_waits_for_a_booking_and_is_refused(self, shop: Shop) -> None:
        slot_id = await shop.add_slot(await shop.add_channel(CHAT), soon())
        desk = BookingDesk(shop.database, exempt_hosts=())
        job = await add_job(shop.database, shop.tenant_id, kind="publishing.order")
        async with shop.database.tenant(shop.tenant_id) as connection:
            await desk.book_order(connection, shop.tenant_id, job.job_id, wish(slot_id))
            withdrawal = asyncio.create_task(withdraw(shop, slot_id))
            await eventually(lambda: is_over_or_waits(shop, withdrawal))
        assert await withdrawal is False


class TestRebooking:
    async def test_to_one_that_was_withdrawn_after_it_was_looked_at(self, shop: Shop) -> None:
        channel = await shop.add_channel(CHAT)
        job, order_id = await shop.add_order(channel, "stays where it is")
        slot_id = await shop.add_slot(channel, soon())
        assert await withdraw(shop, slot_id)
        change = ChangeOrderInput(job=job, order_id=order_id, slot_id=slot_id, publish_at=soon())
        with pytest.raises(ApplicationError) as refused:
            await OrderActivities(shop.desk).change_order(change)
        assert (refused.value.type, refused.value.non_retryable) == ("E.REQUEST.INVALID", True)
        assert (await shop.order(order_id)).slot_id is None


def wish(slot_id: UUID) -> OrderInput:
    return OrderInput(slot_id=slot_id, content=PostContent(text="x"))


async def is_over_or_waits(shop: Shop, task: asyncio.Task[bool]) -> bool:
    """Whether it has been done, or somebody waits for a lock: the one that the other holds."""
    async with shop.database.system() as connection:
        waiting = (await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one()
    return task.done() or bool(waiting)
