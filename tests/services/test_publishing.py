"""Watching over orders whose workflow is gone: each is reported, and none is missed in silence."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from activities.publishing.effects import EffectActivities, EffectInput
from core.database import Database
from domain.publishing.effects import Attempted
from gateways.standin_telegram import StandInTelegram
from repositories.jobs import JobRepository
from repositories.publishing.orders import OrderRepository
from repositories.tables import jobs, publications
from services.publishing.guardian import OrderGuardian
from tests.support.publishing import Shop, new_http

CHAT = -1001


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    """A tenant with a stand-in of its own, and no workflows."""
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


class TestGuardian:
    @pytest.mark.parametrize("state", ["booked", "approval", "armed", "live"])
    async def test_order_whose_workflow_failed_is_reported(self, shop: Shop, state: str) -> None:
        order_id = await self._lose(shop, state)
        await OrderGuardian(shop.database).sweep()
        await OrderGuardian(shop.database).sweep()
        assert (await shop.order(order_id)).state == state
        assert await self._open_tasks(shop, order_id) == ["unattended"]

    async def test_retried_job_settles_the_matter_until_it_is_lost_again(self, shop: Shop) -> None:
        order_id = await self._lose(shop, "armed")
        await OrderGuardian(shop.database).sweep()
        await self._set_job(shop, order_id, status="running", finished_at=None)
        await OrderGuardian(shop.database).sweep()
        assert await self._open_tasks(shop, order_id) == []
        await self._set_job(shop, order_id, status="failed", finished_at=datetime.now(UTC) - timedelta(minutes=1))
        await OrderGuardian(shop.database).sweep()
        assert await self._open_tasks(shop, order_id) == ["unattended"]

    async def test_missed_one_stands_in_ledger_tasks_and_timeline(self, shop: Shop) -> None:
        order_id = await self._lose(shop, "armed", late=-1)
        await OrderGuardian(shop.database).sweep()
        await OrderGuardian(shop.database).sweep()
        ledger = await shop.ledger(order_id)
        assert ledger is not None
        assert ((await shop.order(order_id)).state, ledger.state, ledger.error_code) == (
            "missed", "missed", "E.ORDER.MISSED",
        )  # fmt: skip
        assert await self._open_tasks(shop, order_id) == ["unattended"]
        async with shop.database.tenant(shop.tenant_id) as connection:
            events = await JobRepository(connection).get_events(order_id, after=0, limit=100)
        assert [one.type for one in events if one.type.startswith("order.")] == ["order.missed"]

    async def test_canceled_job_gives_its_slot_back(self, shop: Shop) -> None:
        order_id = await self._lose(shop, "booked", status="canceled")
        await OrderGuardian(shop.database).sweep()
        assert (await shop.order(order_id)).state == "canceled"
        assert await self._open_tasks(shop, order_id) == []

    async def _lose(self, shop: Shop, state: str, *, late: float = 600, status: str = "failed") -> UUID:
        channel = await shop.add_channel(CHAT)
        _, order_id = await shop.add_order(channel, "lost", state=state, late=late)
        await self._set_job(shop, order_id, status=status, finished_at=datetime.now(UTC) - timedelta(minutes=1))
        return order_id

    async def _set_job(self, shop: Shop, order_id: UUID, **values: object) -> None:
        async with shop.database.system() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == order_id).values(**values))

    async def _open_tasks(self, shop: Shop, order_id: UUID) -> list[str]:
        async with shop.database.tenant(shop.tenant_id) as connection:
            return [one.kind for one in await OrderRepository(connection).get_tasks(order_id) if not one.closed_at]


class TestBusyChannel:
    async def test_post_that_nobody_looks_after_blocks_it_for_a_while_only(self, shop: Shop) -> None:
        """Its workflow was terminated between ledger and wire."""
        channel = await shop.add_channel(CHAT)
        effects = EffectActivities(shop.desk)
        job, lost = await shop.add_order(channel, "lost")
        await effects._open(EffectInput(job=job, order_id=lost, number=1))
        waiting, order_id = await shop.add_order(channel, "next")
        held = await effects.attempt(EffectInput(job=waiting, order_id=order_id, number=1))
        assert (held.what, held.wait) == (Attempted.HELD_BACK, timedelta(milliseconds=250))
        await self._age(shop, lost, seconds=50)
        held = await effects.attempt(EffectInput(job=waiting, order_id=order_id, number=2))
        ledger = await shop.ledger(lost)
        assert ledger is not None
        assert (ledger.state, ledger.doubts, ledger.fence) == ("unknown", 1, 1)
        assert held.what is Attempted.DONE
        assert (await shop.order(order_id)).state == "live"

    async def test_pause_grows_with_the_time_that_it_takes(self, shop: Shop) -> None:
        channel = await shop.add_channel(CHAT)
        effects = EffectActivities(shop.desk)
        job, lost = await shop.add_order(channel, "lost")
        await effects._open(EffectInput(job=job, order_id=lost, number=1))
        waiting, order_id = await shop.add_order(channel, "next")
        await self._age(shop, lost, seconds=20)
        held = await effects.attempt(EffectInput(job=waiting, order_id=order_id, number=1))
        assert timedelta(seconds=5) <= held.wait < timedelta(seconds=10)

    async def _age(self, shop: Shop, order_id: UUID, *, seconds: float) -> None:
        then = datetime.now(UTC) - timedelta(seconds=seconds)
        async with shop.database.tenant(shop.tenant_id) as connection:
            mine = update(publications).where(publications.c.order_id == order_id)
            await connection.execute(mine.values(sending_at=then, updated_at=then))
