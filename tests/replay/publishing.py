"""The scenarios of publishing that are recorded and replayed; texts and the token are canaries."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from temporalio.client import WorkflowHistory

from core.ids import new_id
from domain.jobs import JobAction, JobRef
from domain.publishing.orders import OrderChange
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.rows import AnyRow
from repositories.tenants import TenantRepository
from services.jobs import JobRequest
from tests.support.course_service import Courses
from tests.support.orders import Orders, serving_orders
from tests.support.publishing import TOKEN, Shop, new_http
from tests.support.waiting import eventually
from workflows.dialog import dialog_id

CHAT: Final = -1001
TEXT: Final = "A canary of a post"


@asynccontextmanager
async def _publishing(courses: Courses) -> AsyncIterator[tuple[Orders, AnyRow]]:
    tenant_id = new_id()
    async with courses.database.system() as connection:
        await TenantRepository(connection).add(tenant_id=tenant_id, name=f"recorder-{tenant_id}")
    async with StandInTelegram() as standin, new_http() as http:
        shop = Shop(courses.database, tenant_id, standin, http)
        async with serving_orders(courses.client, shop) as orders:
            yield orders, await shop.add_channel(CHAT, requires_approval=False)


async def _history(orders: Orders, job_id: UUID, kind: str = "publishing.order") -> list[WorkflowHistory]:
    return [await orders.client.get_workflow_handle(f"{kind}/{job_id}").fetch_history()]


async def published(courses: Courses) -> list[WorkflowHistory]:
    """Pinned, removed, reported."""
    async with _publishing(courses) as (orders, channel):
        order_id = await orders.book(channel, TEXT, lasts=1.5, pin=True)
        await orders.until_job(order_id, "succeeded")
        return await _history(orders, order_id)


async def doubted(courses: Courses) -> list[WorkflowHistory]:
    """Lost on the way, looked for, sent again."""
    async with _publishing(courses) as (orders, channel):
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_BEFORE, chat_id=str(CHAT)))
        order_id = await orders.book(channel, TEXT, finish="keep")
        await orders.until_job(order_id, "succeeded")
        return await _history(orders, order_id)


async def rebooked(courses: Courses) -> list[WorkflowHistory]:
    """Moved in its sleep, then canceled."""
    async with _publishing(courses) as (orders, channel):
        order_id = await orders.book(channel, TEXT, within=600)
        await orders.until(order_id, "armed")
        slot_id = await orders.shop.add_slot(channel, datetime.now(UTC) + timedelta(hours=9))
        await orders.service.change_order(orders.shop.tenant_id, order_id, OrderChange(slot_id=slot_id))
        await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        await orders.until_job(order_id, "canceled")
        return await _history(orders, order_id)


async def decided(courses: Courses) -> list[WorkflowHistory]:
    """In doubt without an audit chat, decided by a person."""
    async with _publishing(courses) as (orders, _):
        channel = await orders.shop.add_channel(CHAT - 1, audit=False)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT - 1)))
        order_id = await orders.book(channel, TEXT, finish="keep")
        await orders.until(order_id, "needs_person")
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=(7,))
        await orders.until_job(order_id, "succeeded")
        return await _history(orders, order_id)


async def approved(courses: Courses) -> list[WorkflowHistory]:
    """The channel's owner has to agree."""
    async with _publishing(courses) as (orders, _):
        channel = await orders.shop.add_channel(CHAT - 1, requires_approval=True)
        order_id = await orders.book(channel, TEXT, within=1.5, finish="keep")
        await orders.until(order_id, "approval")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE)
        await orders.until_job(order_id, "succeeded")
        return await _history(orders, order_id)


async def moved(courses: Courses) -> list[WorkflowHistory]:
    """Moved while the channel's owner is asked, then canceled."""
    async with _publishing(courses) as (orders, _):
        channel = await orders.shop.add_channel(CHAT - 1, requires_approval=True)
        order_id = await orders.book(channel, TEXT, within=600)
        await orders.until(order_id, "approval")
        slot_id = await orders.shop.add_slot(channel, datetime.now(UTC) + timedelta(hours=9))
        await orders.service.change_order(orders.shop.tenant_id, order_id, OrderChange(slot_id=slot_id))
        await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        await orders.until_job(order_id, "canceled")
        return await _history(orders, order_id)


async def delivered(courses: Courses) -> list[WorkflowHistory]:
    """A sequence of two."""
    async with _publishing(courses) as (orders, channel):
        wish = {
            "channel_id": str(channel.id),
            "starts_at": (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat(),
            "items": [{"offset_seconds": n, "content": {"text": f"{TEXT} {n}"}} for n in range(2)],
        }
        request = JobRequest(kind="publishing.sequence", input=wish)
        started = await orders.jobs.start(orders.shop.tenant_id, request, key=None)
        await courses.until_status(_ref(orders, started.document.id, "publishing.sequence"), "succeeded")
        return await _history(orders, started.document.id, "publishing.sequence")


async def overdue(courses: Courses) -> list[WorkflowHistory]:
    """A sequence whose only delivery is missed."""
    async with _publishing(courses) as (orders, channel):
        wish = {
            "channel_id": str(channel.id),
            "starts_at": (datetime.now(UTC) - timedelta(seconds=5)).isoformat(),
            "items": [{"offset_seconds": 0, "content": {"text": TEXT}}],
            "late": {"on_late": "skip", "tolerance_seconds": 1},
        }
        request = JobRequest(kind="publishing.sequence", input=wish)
        started = await orders.jobs.start(orders.shop.tenant_id, request, key=None)
        await courses.until_status(_ref(orders, started.document.id, "publishing.sequence"), "succeeded")
        return await _history(orders, started.document.id, "publishing.sequence")


async def checked(courses: Courses) -> list[WorkflowHistory]:
    """A look at a channel's rights."""
    async with _publishing(courses) as (orders, channel):
        started = await orders.service.check_channel(orders.shop.tenant_id, channel.id)
        await courses.until_status(_ref(orders, started.document.id, "publishing.check"), "succeeded")
        return await _history(orders, started.document.id, "publishing.check")


async def talked(courses: Courses) -> list[WorkflowHistory]:
    """A conversation that books a slot."""
    async with _publishing(courses) as (orders, channel):
        said = await talk(orders, channel, text=TEXT)
        assert any(line.startswith("Booked.") for line in said), said
        handle = orders.client.get_workflow_handle(said[0])
        return [await handle.fetch_history()]


async def talk(orders: Orders, channel: AnyRow, *, text: str, chat_id: int = 555) -> list[str]:
    """Book a slot in a conversation; the id of its workflow, and everything the bot said."""
    orders.standin.world.add_chat(chat_id, kind="private")
    await orders.shop.add_slot(channel, datetime.now(UTC) + timedelta(hours=5))
    bot_id, secret = await orders.dialogs.add_bot(orders.shop.tenant_id, channel_id=channel.id, polls=False)
    for turn, line in enumerate(("/book", "1", text, "yes"), start=1):
        update = orders.standin.world.say(TOKEN, chat_id=chat_id, sender=chat_id, text=line)
        for _ in range(2):
            await orders.dialogs.hear(bot_id, secret=secret, update=update)
        await eventually(lambda: _said(orders, chat_id), lambda said, turn=turn: len(said) >= turn)  # type: ignore[misc]
    return [dialog_id(bot_id, chat_id), *orders.shop.posted(chat_id)]


async def _said(orders: Orders, chat_id: int) -> Sequence[str]:
    return orders.shop.posted(chat_id)


def _ref(orders: Orders, job_id: UUID, kind: str) -> JobRef:
    return JobRef(job_id=job_id, tenant_id=orders.shop.tenant_id, kind=kind)


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[list[WorkflowHistory]]]]] = {
    scenario.__name__: scenario
    for scenario in (published, doubted, rebooked, decided, approved, moved, delivered, overdue, checked, talked)
}
