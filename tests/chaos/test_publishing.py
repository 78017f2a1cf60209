"""Real worker processes killed with real signals while posts go out: the channel shows each post once."""

import asyncio
import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from tests.support.publishing import AUDIT_CHAT, TOKEN
from tests.support.stack import RunningStack, running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

ORDERS: Final = 40
KILLS: Final = 8
SETTLED: Final = {"finished", "missed", "rejected", "needs_person"}


async def connect(stack: RunningStack, standin: StandInTelegram, chat_ids: list[int]) -> list[str]:
    """Channels that the worker has looked at."""
    standin.world.add_chat(AUDIT_CHAT, kind="supergroup")
    bot = (await stack.http.post("/credentials", json={"name": "bot", "secret": TOKEN})).json()
    ids = []
    for chat_id in chat_ids:
        standin.world.add_chat(chat_id, admins=[TOKEN])
        wish = {
            "gateway": "telegram",
            "chat_id": str(chat_id),
            "audit_chat_id": str(AUDIT_CHAT),
            "credential_id": bot["id"],
        }
        ids.append((await stack.http.post("/channels", json=wish)).json()["id"])

    async def ready() -> bool:
        shown = [(await stack.http.get(f"/channels/{one}")).json()["state"] for one in ids]
        return set(shown) == {"ready"}

    await stack.eventually(ready)
    return ids


async def book(stack: RunningStack, channel: str, text: str, ahead: timedelta) -> str:
    starts = datetime.now(UTC) + ahead
    slot = {"starts_at": starts.isoformat(), "ends_at": (starts + timedelta(minutes=5)).isoformat()}
    offered = (await stack.http.post(f"/channels/{channel}/slots", json=slot)).json()
    wish = {"slot_id": offered["id"], "content": {"text": text}, "finish": "keep", "late": {"tolerance_seconds": 240}}
    answer = await stack.http.post("/orders", json=wish)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return str(answer.json()["id"])


async def test_killed_workers_post_once() -> None:
    chance = random.Random(7)  # noqa: S311 - a schedule, no secret
    async with StandInTelegram(seed=7) as standin:
        settings = {
            "LONGHAUL_TELEGRAM_BASE_URL": standin.origin,
            "LONGHAUL_TELEGRAM_PER_TOKEN_SECOND": "0",
            "LONGHAUL_PUBLISHING_PROBE_PAUSES_SECONDS": "[1, 1, 1]",
            "LONGHAUL_PUBLISHING_WIRE_SECONDS": "2",
        }
        async with running_stack(**settings) as stack:
            chat_ids = [-(5_000 + number) for number in range(ORDERS)]
            channels = await connect(stack, standin, chat_ids)
            for chat_id in chance.sample(chat_ids, 10):
                standin.faults.add(Fault(kind=FaultKind.DELAY_AFTER, chat_id=str(chat_id), seconds=0.5))
            orders = [
                await book(stack, channel, f"post {place}", timedelta(seconds=4 + place * 0.6))
                for place, channel in enumerate(channels)
            ]
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(1.5, 3.5))
                stack.worker.kill(signal.SIGKILL)
                await asyncio.to_thread(stack.worker.start)

            async def settled() -> list[dict[str, Any]] | None:
                shown = [(await stack.http.get(f"/orders/{one}")).json() for one in orders]
                return shown if all(one["state"] in SETTLED for one in shown) else None

            shown = await stack.eventually(settled, timeout=200)
            posted = Counter(message.text for chat_id in chat_ids for message in standin.world.chats[chat_id].posted)
    doubled = [text for text, times in posted.items() if text.startswith("post ") and times > 1]
    assert doubled == []
    for place, order in enumerate(shown):
        assert (order["state"] == "finished") == (posted[f"post {place}"] == 1), order
    assert Counter(order["state"] for order in shown)["finished"] >= ORDERS * 0.9
