"""What is looked at before anything is promised for good: links of a post, and what chat a channel is."""

import asyncio
from typing import Any

import pytest

from domain.errors import Outcome, ProviderError
from gateways.webhooks import GuardedClient
from tests.support.orders import Orders
from tests.support.publishing import TOKEN
from tests.support.waiting import eventually

CHAT = -1001


async def test_order_outlives_a_look_up_that_failed(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our resolver was away for a moment: that is no fault of the link."""
    asked: list[str] = []

    async def fault(_self: GuardedClient, url: str) -> str | None:
        asked.append(url)
        if len(asked) == 1:
            raise ProviderError("no answer", code="E.ORDER.LINKS", outcome=Outcome.UNKNOWN, retryable=True)
        return None

    monkeypatch.setattr(GuardedClient, "fault", fault)
    channel = await orders.shop.add_channel(CHAT)
    content = {"text": "with a link", "buttons": [{"text": "go", "url": "http://example.org/"}]}
    order_id = await orders.book(channel, "", content=content)
    await orders.until(order_id, "live")
    assert orders.shop.posted(CHAT) == ["with a link"]
    assert len(asked) == 2


async def test_a_cancel_does_not_wait_for_links_that_nobody_can_look_at(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def fault(_self: GuardedClient, _url: str) -> str | None:
        asked.set()
        raise ProviderError("no answer", code="E.ORDER.LINKS", outcome=Outcome.UNKNOWN, retryable=True)

    monkeypatch.setattr(GuardedClient, "fault", fault)
    channel = await orders.shop.add_channel(CHAT)
    content = {"text": "with a link", "buttons": [{"text": "go", "url": "http://example.org/"}]}
    order_id = await orders.book(channel, "", within=3_600, content=content)
    await asyncio.wait_for(asked.wait(), 60)
    armed = await orders.service.cancel_order(orders.shop.tenant_id, order_id)
    assert armed.state == "canceled"
    await orders.until_job(order_id, "canceled")
    assert orders.shop.posted(CHAT) == []


async def test_one_chat_under_two_names_is_connected_once(orders: Orders) -> None:
    await orders.shop.add_channel(CHAT)
    orders.standin.world.chats[CHAT].username = "news"
    wanted: dict[str, Any] = {
        "gateway": "telegram", "chat_id": "@news", "audit_chat_id": None, "time_zone": "Europe/Berlin",
        "credential_id": await orders.shop.add_credential(TOKEN), "requires_approval": False, "notify": {},
    }  # fmt: skip
    channel, _ = await orders.service.connect_channel(orders.shop.tenant_id, wanted)

    async def look() -> object:
        return (await orders.shop.desk.counter_of(orders.shop.tenant_id, channel.id)).channel

    refused = await eventually(look, lambda row: row.state != "checking")  # type: ignore[attr-defined]
    assert refused.state == "refused"  # type: ignore[attr-defined]
    assert "connected already" in str(refused.rights)  # type: ignore[attr-defined]
