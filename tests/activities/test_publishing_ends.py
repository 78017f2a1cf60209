"""The end of a post, on the stand-in: over only when all of it is provably gone or overwritten."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from temporalio.exceptions import ApplicationError

from activities.publishing.orders import ChangeOrderInput, OrderActivities, OrderStep
from core.database import Database
from domain.publishing.content import MediaItem, PostContent, render
from domain.publishing.orders import OrderInput
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.publishing.orders import OrderRepository
from repositories.publishing.reports import report_of
from repositories.rows import AnyRow
from tests.support.publishing import TOKEN, Shop, new_http

CHAT = -1001
BOT = int(TOKEN.partition(":")[0])
ALBUM = PostContent(text="album", media=tuple(MediaItem(url=f"https://example.org/{n}.jpg") for n in range(3)))


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


async def live(shop: Shop, channel: AnyRow, content: PostContent) -> OrderStep:
    """An order whose post is out, by its channel's own hand."""
    counter = await shop.desk.counter_of(shop.tenant_id, channel.id)
    sent = await shop.gateway.post(counter.secret, counter.target, render(content))
    job, order_id = await shop.add_order(channel, "", content=content, state="live", message_ids=list(sent.message_ids))
    return OrderStep(job=job, order_id=order_id)


async def tasks(shop: Shop, step: OrderStep) -> list[tuple[str, bool]]:
    async with shop.database.tenant(shop.tenant_id) as connection:
        found = await OrderRepository(connection).get_tasks(step.order_id)
    return [(task.kind, task.closed_at is None) for task in found]


async def pin_in_report(shop: Shop, step: OrderStep) -> str | None:
    async with shop.database.tenant(shop.tenant_id) as connection:
        pin: str | None = (await report_of(connection, step.order_id))["pin"]
    return pin


async def test_album_is_not_over_while_its_pictures_stay(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT), ALBUM)
    chat = shop.standin.world.chats[CHAT]
    for message in chat.messages.values():
        message.sender = 1
    chat.rights[BOT] = {"can_post_messages", "can_edit_messages"}
    activities = OrderActivities(shop.desk)
    assert await activities.end_order(step) == "live"
    assert await tasks(shop, step) == [("remove", True)]
    chat.rights[BOT] |= {"can_delete_messages"}
    assert await activities.end_order(step) == "removed"
    assert chat.messages == {}
    assert await tasks(shop, step) == [("remove", False)]


@pytest.mark.parametrize(("hours", "rights", "is_taken"), [(72, True, False), (24, False, False), (24, True, True)])
async def test_stub_becomes_an_album_only_where_that_can_be_deleted(
    shop: Shop, hours: int, rights: bool, is_taken: bool
) -> None:
    channel = await shop.add_channel(CHAT, rights={"can_edit": True, "can_delete": rights})
    starts, lasts = datetime.now(UTC) + timedelta(hours=1), timedelta(hours=hours)
    slot_id = await shop.add_slot(channel, starts, lasts=lasts)
    wish = OrderInput(slot_id=slot_id, content=ALBUM, finish="stub").model_dump(mode="json")
    job, order_id = await shop.add_order(
        channel, "one", slot_id=slot_id, wish=wish, publish_at=starts, remove_at=starts + lasts,
        pending=ALBUM.model_dump(mode="json"),
    )  # fmt: skip
    changing = OrderActivities(shop.desk).change_order(
        ChangeOrderInput(job=job, order_id=order_id, content_sha256=render(ALBUM).sha256)
    )
    if is_taken:
        await changing
    else:
        with pytest.raises(ApplicationError, match="delete"):
            await changing
    assert bool((await shop.order(order_id)).content["media"]) is is_taken


async def test_refusal_of_another_kind_opens_the_task_too(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT), PostContent(text="stays"))
    for method in ("deleteMessage", "editMessageText"):
        shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method=method, status=400))
    assert await OrderActivities(shop.desk).end_order(step) == "live"
    assert await tasks(shop, step) == [("remove", True)]


async def test_without_sight_a_second_deletion_is_the_proof(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT, audit=False), PostContent(text="unseen"))
    assert await OrderActivities(shop.desk).end_order(step) == "removed"
    assert [method for method, _ in shop.standin.call_log].count("deleteMessage") == 2


async def test_what_is_not_proved_is_tried_again(shop: Shop) -> None:
    """The look fails, and so does the second deletion: the post may be there."""
    step = await live(shop, await shop.add_channel(CHAT), PostContent(text="unproved"))
    shop.standin.faults.add(
        Fault(kind=FaultKind.STATUS_BEFORE, method="forwardMessage", status=403),
        Fault(kind=FaultKind.STATUS_BEFORE, method="deleteMessage", skip=1, status=403),
    )
    with pytest.raises(ApplicationError, match="still there"):
        await OrderActivities(shop.desk).end_order(step)
    assert (await shop.order(step.order_id)).state == "live"


async def test_a_pin_that_is_refused_is_a_task_until_it_is_made(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT), PostContent(text="to be pinned"))
    chat, activities = shop.standin.world.chats[CHAT], OrderActivities(shop.desk)
    rights = chat.rights[BOT]
    chat.rights[BOT] = {"can_post_messages"}
    assert await activities.pin_order(step) == "denied"
    assert await tasks(shop, step) == [("pin", True)]
    assert await pin_in_report(shop, step) == "denied"
    chat.rights[BOT] = rights
    assert await activities.pin_order(step) == "done"
    assert await tasks(shop, step) == [("pin", False)]
    assert await pin_in_report(shop, step) == "done"


async def test_nobody_is_asked_to_pin_what_is_over(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT), PostContent(text="never pinned"))
    activities = OrderActivities(shop.desk)
    await activities.give_up_pin(step)
    assert await tasks(shop, step) == [("pin", True)]
    assert await activities.end_order(step) == "removed"
    assert await tasks(shop, step) == [("pin", False)]
    assert await pin_in_report(shop, step) == "unreached"


async def test_a_protected_post_is_not_taken_for_gone(shop: Shop) -> None:
    step = await live(shop, await shop.add_channel(CHAT), PostContent(text="protected"))
    shop.standin.world.chats[CHAT].protected = True
    assert await OrderActivities(shop.desk).watch_order(step) is True
    assert (await shop.order(step.order_id)).state == "live"
