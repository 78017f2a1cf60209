"""The scene of publishing: three posts seconds ahead, one of them hit by a dropped connection, and the proof."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.demo.front_end import DemoFailed, FrontEnd, announce

_AHEAD: Final = timedelta(seconds=3)
_SLOT: Final = timedelta(seconds=10)
"""Over before another demonstration can book the same channel."""
_PATIENCE_SECONDS: Final = 60.0
_OVER: Final = frozenset({"finished", "missed", "rejected", "needs_person"})


async def play(front_end: FrontEnd) -> None:
    """Book, break, prove. Needs the stand-in for Telegram that `make up` runs."""
    settings = front_end.settings
    if settings.telegram_base_url is not None:
        return
    announce("Three posts seconds ahead; the connection of the second breaks after Telegram has taken it")
    world = f"{settings.standin_telegram_url}/control"
    channels = await _connect(front_end, world)
    starts = datetime.now(UTC) + _AHEAD
    await front_end.send("POST", f"{world}/faults", [{"kind": "drop_after", "chat_id": channels[1]["chat_id"]}])
    orders = [await _book(front_end, channel, starts, number) for number, channel in enumerate(channels, start=1)]
    print(f"  booked     for {starts:%H:%M:%S} UTC, and armed")
    for channel, order in zip(channels, orders, strict=True):
        await _prove(front_end, world, channel, order)
    print(f"  channels as folders, by tenant: {(settings.data_dir / 'channels').resolve().as_uri()}")


async def _connect(front_end: FrontEnd, world: str) -> list[dict[str, Any]]:
    token = f"{int(time.time())}:demo-of-a-token"
    bot = await front_end.send("POST", "/api/v1/credentials", {"name": f"demo {token[:12]}", "secret": token})
    base = -1_000_000 - int(time.time()) % 1_000_000 * 10
    await front_end.send("POST", f"{world}/chats", {"id": base, "type": "supergroup", "title": "Audit"})
    wishes: list[dict[str, Any]] = []
    for number, title in enumerate(("Morning news", "Evening news"), start=1):
        chat = {"id": base - number, "title": title, "admins": [token]}
        await front_end.send("POST", f"{world}/chats", chat)
        wishes.append({"gateway": "telegram", "chat_id": str(base - number), "audit_chat_id": str(base),
                       "credential_id": bot["id"], "time_zone": "Europe/Berlin"})  # fmt: skip
    known = (await front_end.ask("/api/v1/channels?limit=200"))["items"]
    folder = next((one for one in known if one["gateway"] == "file" and one["chat_id"] == "demo"), None)
    made = [await front_end.send("POST", "/api/v1/channels", wish) for wish in wishes]
    folder = folder or await front_end.send("POST", "/api/v1/channels", {"gateway": "file", "chat_id": "demo"})
    return [await _until(front_end, f"/api/v1/channels/{one['id']}", {"ready", "refused"}) for one in (*made, folder)]


async def _book(front_end: FrontEnd, channel: dict[str, Any], starts: datetime, number: int) -> dict[str, Any]:
    slot = {"starts_at": starts.isoformat(), "ends_at": (starts + _SLOT).isoformat()}
    offered = await front_end.send("POST", f"/api/v1/channels/{channel['id']}/slots", slot)
    content = {"text": f"<b>Post {number}</b>, booked with Longhaul", "format": "html"}
    wish = {"slot_id": offered["id"], "content": content, "finish": "keep", "advertiser": {"name": "Demo"}}
    return await front_end.send("POST", "/api/v1/orders", wish)


async def _prove(front_end: FrontEnd, world: str, channel: dict[str, Any], order: dict[str, Any]) -> None:
    done = await _until(front_end, f"/api/v1/orders/{order['id']}", _OVER)
    if done["state"] != "finished":
        raise DemoFailed(f"order {order['id']} ended as {done['state']}")
    effect = next(one for one in done["effects"] if one["effect"] == "post")
    how = "answered at once"
    if effect["doubts"]:
        how = f"in doubt, {effect['resolved_by']} found it, sent {effect['sends']} time(s)"
    shown = 1
    if channel["gateway"] == "telegram":
        chats = await front_end.ask(f"{world}/chats")
        text = f"Post {done['content']['text'][8]}, booked with Longhaul"
        shown = sum(message.get("text") == text for message in chats[channel["chat_id"]]["posted"])
    if shown != 1:
        raise DemoFailed(f"the channel shows the post {shown} times")
    where = channel["title"] or channel["chat_id"]
    print(f"  {where:<13} shows it once; drift {done['drift_ms']:.0f} ms; {how}")


async def _until(front_end: FrontEnd, path: str, states: frozenset[str] | set[str]) -> dict[str, Any]:
    """The document once it is in one of the states. Raises DemoFailed."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (document := await front_end.ask(path))["state"] not in states:
        if time.monotonic() > deadline:
            raise DemoFailed(f"{path} is still {document['state']}")
        await asyncio.sleep(0.1)
    return document
