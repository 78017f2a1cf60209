"""What one unit of each kind of work leaves behind: rows and bytes in PostgreSQL, and what Temporal did for it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import sql
from temporalio.client import Client

from benchmarks.generation import make_course, text_of
from benchmarks.publishing import publishing_on_standin
from benchmarks.saving import lines_of
from benchmarks.support import Bench, Finding
from core.temporal import connect, create_data_converter

_KILOBYTE: Final = 1_024
_NOOPS: Final = 50
_RECORDS: Final = 20_000
_ORDERS: Final = 20
_LESSONS: Final = (10, 30)


async def run(bench: Bench) -> list[Finding]:
    """Each kind by itself, its traces counted before and after."""
    client = await connect(bench.stack.temporal.address, namespace="default", converter=create_data_converter(None))
    scale = _Scale(bench, client)
    noop = await scale.weigh(partial(_noops, bench))
    small, large = [await scale.weigh(partial(_course, bench, count)) for count in _LESSONS]
    records = await scale.weigh(partial(_save, bench))
    async with publishing_on_standin(bench) as publishing:
        channels = await publishing.connect(_ORDERS)
        orders = await scale.weigh(partial(_publish, bench, publishing, channels))
    lessons = _LESSONS[1] - _LESSONS[0]
    return [
        *_findings("a no-op job", noop, _NOOPS),
        *_findings("a lesson of a course", large.minus(small), lessons),
        *_findings("a course without its lessons", small.minus(large.minus(small).times(_LESSONS[0] / lessons)), 1),
        *_findings("a thousand records", records, _RECORDS / 1_000),
        *_findings("an order, until its post is live", orders, _ORDERS),
    ]


@dataclass
class _Weight:
    """How much there is of everything."""

    counts: Counter[str] = field(default_factory=Counter)

    def minus(self, other: "_Weight") -> "_Weight":
        return _Weight(Counter({name: self.counts[name] - other.counts[name] for name in self.counts}))

    def times(self, factor: float) -> "_Weight":
        return _Weight(Counter({name: round(count * factor) for name, count in self.counts.items()}))


class _Scale:
    """Weighs a stack."""

    def __init__(self, bench: Bench, client: Client) -> None:
        self._url = bench.stack.postgres.superuser_url.replace("+psycopg", "")
        self._client = client
        self._known: set[str] = set()

    async def weigh(self, work: Callable[[], Awaitable[None]]) -> _Weight:
        """What ``work`` adds."""
        before = await self._stored()
        await self._ran()
        await work()
        added = (await self._stored()).minus(before)
        added.counts.update(await self._ran())
        return added

    async def _stored(self) -> _Weight:
        counts: Counter[str] = Counter()
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            query = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'public'"
            for (table,) in await (await connection.execute(query)).fetchall():
                look = sql.SQL("SELECT count(*), coalesce(sum(pg_column_size(t)), 0) FROM {} t")
                row: Any = await (await connection.execute(look.format(sql.Identifier(table)))).fetchone()
                counts["rows"] += row[0]
                counts["bytes"] += int(row[1])
        return _Weight(counts)

    async def _ran(self) -> Counter[str]:
        """Workflow runs that were not known before."""
        counts: Counter[str] = Counter()
        # The list is a few seconds behind.
        await asyncio.sleep(3)
        async for execution in self._client.list_workflows():
            if execution.run_id in self._known:
                continue
            self._known.add(execution.run_id)
            handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
            info = (await handle.describe()).raw_info
            counts["runs"] += 1
            counts["events"] += info.history_length
            counts["history"] += info.history_size_bytes
            counts["transitions"] += info.state_transition_count
        return counts


async def _noops(bench: Bench) -> None:
    jobs = [await bench.stack.post("diagnostics.noop", {}) for _ in range(_NOOPS)]
    for job in jobs:
        await bench.stack.until_done(job["id"])


async def _course(bench: Bench, lessons: int) -> None:
    await make_course(bench, lessons // 10, 10, provider="offline", text=text_of(200_000))


async def _save(bench: Bench) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await bench.stack.http.post("/records/messages", content=lines_of(_RECORDS), headers=headers)
    answer.raise_for_status()
    batch = answer.json()["batch_id"]

    async def saved() -> bool:
        shown = (await bench.stack.http.get(f"/records/messages/batches/{batch}")).json()
        return bool(shown["saved"] == _RECORDS)

    await bench.stack.eventually(saved)


async def _publish(bench: Bench, publishing: Any, channels: list[str]) -> None:
    starts, step = datetime.now(UTC) + timedelta(seconds=20), timedelta(seconds=1)
    ids = [await publishing.book(channel, starts, step, place) for place, channel in enumerate(channels)]

    async def over() -> bool:
        shown = [await publishing.get(f"/orders/{one}") for one in ids]
        return all(one["state"] in {"finished", "live"} for one in shown)

    await bench.stack.eventually(over)


def _findings(what: str, weight: _Weight, units: float) -> list[Finding]:
    counts = weight.counts
    return [
        Finding(f"{what}: rows", counts["rows"] / units),
        Finding(f"{what}: bytes of rows", counts["bytes"] / units / _KILOBYTE, "kB"),
        Finding(f"{what}: workflow runs", counts["runs"] / units),
        Finding(f"{what}: events of histories", counts["events"] / units),
        Finding(f"{what}: bytes of histories", counts["history"] / units / _KILOBYTE, "kB"),
        Finding(f"{what}: state transitions of Temporal", counts["transitions"] / units),
    ]
