"""Publishing: how exactly posts go out at their time, and what sleeping orders cost a worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import psycopg

from benchmarks.support import Bench, Finding, percentile, resident_bytes, running

TOKEN: Final = "4242:benchmark-of-a-token"  # noqa: S105 - of a stand-in
AUDIT: Final = -1_000_999
_CHANNELS: Final = 20
_MEGABYTE: Final = 1_048_576


async def drift(bench: Bench) -> list[Finding]:
    """Orders spread over ten minutes (a minute with ``--quick``): booked second against the second it went out."""
    orders, span = (100, timedelta(seconds=60)) if bench.quick else (1_000, timedelta(minutes=10))
    async with publishing_on_standin(bench) as publishing:
        channels = await publishing.connect(_CHANNELS)
        starts = datetime.now(UTC) + timedelta(seconds=30 if bench.quick else 120)
        step = span / orders
        ids = [
            await publishing.book(channels[place % _CHANNELS], starts + step * place, step, place)
            for place in range(orders)
        ]
        bench.say(f"{orders} orders are booked over {span}")
        await asyncio.sleep((starts + span - datetime.now(UTC)).total_seconds() + 5)
        shown = [await publishing.get(f"/orders/{one}") for one in ids]
    drifts = [one["drift_ms"] for one in shown if one["drift_ms"] is not None]
    sent = f"{len(drifts)} of {orders} sent"
    return [
        Finding(f"drift p50, {orders} orders", percentile(drifts, 0.5), "ms", at_most=200, note=sent),
        Finding(f"drift p99, {orders} orders", percentile(drifts, 0.99), "ms", at_most=2_000),
        Finding("orders not sent", orders - len(drifts), "", at_most=0),
    ]


async def sleeping(bench: Bench) -> list[Finding]:
    """Orders far in the future: what the worker's memory grows by, and how long it takes to start over them."""
    orders = 300 if bench.quick else 10_000
    async with publishing_on_standin(bench) as publishing:
        channels = await publishing.connect(_CHANNELS)
        worker = bench.stack.worker
        start_over_none = await _restart(bench)
        before = resident_bytes(worker)
        starts = datetime.now(UTC) + timedelta(hours=5)
        step = timedelta(days=30) / orders

        async def book_on(channel: int) -> None:
            # Those of one channel one after the other, as its slots must not overlap.
            for place in range(channel, orders, _CHANNELS):
                await publishing.book(channels[channel], starts + step * place, step, place)

        resident = []
        async with asyncio.TaskGroup() as booking:
            for channel in range(_CHANNELS):
                booking.create_task(book_on(channel))
            for quarter in range(1, 5):
                await _armed(bench, orders * quarter // 4)
                resident.append(resident_bytes(worker))
                shown = ", ".join(f"{(one - before) / _MEGABYTE:.0f}" for one in resident)
                bench.say(f"{orders * quarter // 4:,} orders sleep; the worker has grown by {shown} MB")
        start = await _restart(bench)
    grown = (resident[-1] - before) / _MEGABYTE
    later = (resident[-1] - resident[1]) / _MEGABYTE
    return [
        Finding(f"worker memory grown by {orders} sleeping orders", grown, "MB", at_most=200),
        Finding("of that, by the second half of them", later, "MB", at_most=20),
        Finding(f"start of a worker, to its first job, over {orders} sleeping orders", start, "s", at_most=15),
        Finding("the same, over none", start_over_none, "s"),
    ]


async def _restart(bench: Bench) -> float:
    """Seconds from the start of the worker's process until it is ready: until a job that needs it is done."""
    await asyncio.to_thread(bench.stack.worker.stop)
    begun = asyncio.get_running_loop().time()
    await asyncio.to_thread(bench.stack.worker.start)
    await bench.stack.until_done((await bench.stack.post("diagnostics.noop", {}))["id"])
    return asyncio.get_running_loop().time() - begun


async def _armed(bench: Bench, count: int) -> None:
    """Wait until so many orders sleep until their time."""
    url = bench.stack.postgres.superuser_url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute("SELECT count(*) FROM orders WHERE state = 'armed'")
            row = await cursor.fetchone()
            if row is not None and row[0] >= count:
                return
            await asyncio.sleep(1)


class _Publishing:
    """A tenant's view of publishing, on channels of the stand-in."""

    def __init__(self, bench: Bench, control: str) -> None:
        self._control = control
        self._stack = bench.stack
        self._http = bench.stack.http

    async def connect(self, count: int) -> list[str]:
        """Channels that are ready."""
        base = -int(datetime.now(UTC).timestamp()) * 100
        name = {"name": f"bench {base}", "secret": TOKEN}
        bot = (await self._http.post("/credentials", json=name)).json()
        ids = []
        async with httpx.AsyncClient() as http:
            for number in range(count):
                await http.post(f"{self._control}/chats", json={"id": base - number, "admins": [TOKEN]})
                wish = {"gateway": "telegram", "chat_id": str(base - number), "credential_id": bot["id"],
                        "audit_chat_id": str(AUDIT)}  # fmt: skip
                ids.append((await self._http.post("/channels", json=wish)).json()["id"])

        async def ready() -> bool:
            shown = [await self.get(f"/channels/{one}") for one in ids]
            return all(one["state"] == "ready" for one in shown)

        await self._stack.eventually(ready)
        return ids

    async def book(self, channel: str, at: datetime, step: timedelta, place: int) -> str:
        """One order, with a slot as long as the channel's next one allows."""
        slot = {"starts_at": at.isoformat(), "ends_at": (at + step * (_CHANNELS - 1)).isoformat()}
        offered = (await self._http.post(f"/channels/{channel}/slots", json=slot)).json()
        wish = {"slot_id": offered["id"], "content": {"text": f"post {place}"}, "finish": "keep"}
        answer = await self._http.post("/orders", json=wish)
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def get(self, path: str) -> dict[str, Any]:
        """A document of the API."""
        document: dict[str, Any] = (await self._http.get(path)).json()
        return document


@asynccontextmanager
async def publishing_on_standin(bench: Bench) -> AsyncIterator[_Publishing]:
    """A stand-in where the stack's worker looks for it: seven ports above the API."""
    port = int(bench.stack.base_url.rpartition(":")[2]) + 7
    control = f"http://127.0.0.1:{port}/control"
    child = bench.child("telegram", "-m", "gateways.standin_telegram", "--port", str(port))
    async with running(child), httpx.AsyncClient() as http:

        async def up() -> bool:
            try:
                return (await http.get(f"{control}/chats")).is_success
            except httpx.TransportError:
                return False

        await bench.stack.eventually(up)
        await http.post(f"{control}/chats", json={"id": AUDIT, "type": "supergroup"})
        yield _Publishing(bench, control)
