"""500 event streams on one API process: what each costs, and how long an event takes from its commit to the reader."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from benchmarks.support import Bench, Finding, Load, cpu_seconds, load_process, percentile, resident_bytes
from core.database import Database, create_database
from repositories.jobs import JobRepository

_WARM_UP: Final = 10
_SETTLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Variant:
    """How many jobs share the watchers, and how many events a second all of them have together."""

    jobs: int
    events_per_second: float

    @property
    def title(self) -> str:
        """What to call it."""
        return f"{self.jobs} job{'s' if self.jobs > 1 else ''}, {self.events_per_second:.0f} events/s"


_VARIANTS: Final = (_Variant(jobs=1, events_per_second=20), _Variant(jobs=50, events_per_second=100))


async def run(bench: Bench) -> list[Finding]:
    """Each variant on an API process that has just been started, so that freed memory flatters nobody."""
    findings = []
    for variant in _VARIANTS:
        await asyncio.to_thread(bench.stack.api.restart)
        await bench.stack.until_ready()
        async with load_process() as load:
            findings += await _Watched(bench, load, variant).run()
    return findings


class _Watched:
    """One variant."""

    def __init__(self, bench: Bench, load: Load, variant: _Variant) -> None:
        self._bench = bench
        self._load = load
        self._variant = variant
        self._watchers = 100 if bench.quick else 500
        self._seconds = 4.0 if bench.quick else 15.0
        self._listeners = 0

    async def run(self) -> list[Finding]:
        """Open the streams, let things happen on them, count."""
        bench, api = self._bench, self._bench.stack.api
        jobs = [await self._waiting_job() for _ in range(self._variant.jobs)]
        await self._warm_up(jobs)
        idle = resident_bytes(api)
        await self._watch(jobs, self._watchers)
        await asyncio.sleep(_SETTLE_SECONDS)
        open_bytes = resident_bytes(api)
        cpu, began = cpu_seconds(api), time.monotonic()
        sent = await self._emit(jobs, self._seconds)
        await asyncio.sleep(1)
        cpu, took = cpu_seconds(api) - cpu, time.monotonic() - began
        busy_bytes = resident_bytes(api)
        done = await self._load.perform("collect", sent=sent)
        bench.say(f"{self._variant.title}: {len(done['delays'])} arrivals from {self._watchers} watchers")
        return self._findings(
            delays=done["delays"],
            missing=self._expected(sent) - len(done["delays"]),
            lost=done["lost"],
            kilobytes=[(used - idle) / self._watchers / 1_000 for used in (open_bytes, busy_bytes)],
            cores=cpu / took,
        )

    async def _waiting_job(self) -> str:
        """A job that does nothing by itself, so that all its events are ours."""
        later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        job = await self._bench.stack.post("diagnostics.noop", {}, start_at=later)
        return str(job["id"])

    async def _watch(self, jobs: list[str], watchers: int) -> None:
        await self._load.perform("watch", port=self._bench.port, key=self._bench.key, jobs=jobs, watchers=watchers)

    async def _warm_up(self, jobs: list[str]) -> None:
        """Have every piece of code and every pool used once before memory is measured."""
        await self._watch(jobs, _WARM_UP)
        await self._emit(jobs, 1.0)
        await self._load.perform("unwatch")
        await asyncio.sleep(_SETTLE_SECONDS)

    async def _emit(self, jobs: list[str], seconds: float) -> dict[str, dict[int, int]]:
        """Record events at an even pace; the moment just before each commit, in nanoseconds of the machine's clock."""
        stack = self._bench.stack
        database = create_database(
            stack.postgres.runtime_url, pool_size=4, statement_timeout_seconds=10, application_name="benchmark-emitter"
        )
        tenant = await self._tenant_of(jobs[0])
        sent: dict[str, dict[int, int]] = {job: {} for job in jobs}
        began, pause = time.monotonic(), 1 / self._variant.events_per_second
        try:
            for number in range(int(seconds / pause)):
                await asyncio.sleep(began + number * pause - time.monotonic())
                job = jobs[number % len(jobs)]
                version, at = await _record(database, tenant, job)
                sent[job][version] = at
                if number == 0:
                    self._listeners = await asyncio.to_thread(self._count_listeners)
        finally:
            await database.close()
        return sent

    async def _tenant_of(self, job: str) -> UUID:
        query = text("SELECT tenant_id FROM jobs WHERE id = :id")
        engine = create_engine(self._bench.stack.postgres.superuser_url, poolclass=NullPool)

        def look() -> Any:
            with engine.connect() as connection:
                return connection.execute(query, {"id": job}).scalar_one()

        found: UUID = await asyncio.to_thread(look)
        return found

    def _count_listeners(self) -> int:
        """LISTEN connections of the API; the worker has one of its own, for commands."""
        query = text(
            "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen%' AND query NOT ILIKE '%command%'"
        )
        engine = create_engine(self._bench.stack.postgres.superuser_url, poolclass=NullPool)
        with engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def _expected(self, sent: dict[str, dict[int, int]]) -> int:
        shares = [len(range(number, self._watchers, len(sent))) for number in range(len(sent))]
        return sum(len(numbers) * share for numbers, share in zip(sent.values(), shares, strict=True))

    def _findings(
        self, *, delays: list[float], missing: int, lost: int, kilobytes: list[float], cores: float
    ) -> list[Finding]:
        at = self._variant.title
        late = percentile(delays, 0.99) * 1e3
        return [
            Finding(
                f"memory a watcher, {self._watchers} on {at}", max(kilobytes), "kB", at_most=100,
                note=f"{kilobytes[0]:.1f} when open, {kilobytes[1]:.1f} after the events",
            ),
            Finding(
                f"delay from commit to arrival, p99, {at}", late, "ms", at_most=500,
                note=f"p50 {percentile(delays, 0.5) * 1e3:.0f} ms, most {max(delays) * 1e3:.0f} ms",
            ),
            Finding(f"events that did not arrive, {at}", missing, at_most=0, note=f"of {missing + len(delays)}"),
            Finding(f"streams that were cut, {at}", lost, at_most=0),
            Finding(f"LISTEN connections of the API, {at}", self._listeners, at_most=1),
            Finding(f"processor share of the API, {at}", cores, "cores"),
        ]  # fmt: skip


async def _record(database: Database, tenant: UUID, job: str) -> tuple[int, int]:
    """One event; its number, and the moment at which the commit was asked for."""
    async with database.tenant(tenant) as connection:
        version = await JobRepository(connection).record(job_id=UUID(job), event="benchmark.tick")
        assert version is not None
        at = time.monotonic_ns()
    return version, at
