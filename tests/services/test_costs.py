"""Costs: sums of the ledger by every group, page by page, each tenant its own; and the alert, once a job."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import insert

from activities.generation.costs import CostWatch
from core.database import Database
from core.ids import new_id
from core.metrics import WorkerMetrics
from domain.errors import InvalidInput
from domain.jobs import JobRef
from repositories.costs import CostGroup
from repositories.tables import provider_calls
from services.costs import Costs, CostService
from tests.support.job_rows import add_running_job, event_rows, finish_job
from tests.support.life import new_tenant

NOON: Final = datetime(2026, 5, 10, 12, tzinfo=UTC)


async def add_call(database: Database, job: JobRef, **values: Any) -> None:
    """A row of the ledger; settled for a cent unless told otherwise."""
    row: Mapping[str, Any] = {
        "tenant_id": job.tenant_id, "job_id": job.job_id, "op": str(new_id()), "step": "outline",
        "provider": "openai", "model": "m-1", "state": "done", "reserved_usd": Decimal("0.05"),
        "settled_usd": Decimal("0.01"), "input_tokens": 100, "output_tokens": 10, "created_at": NOON, **values,
    }  # fmt: skip
    async with database.tenant(job.tenant_id) as connection:
        await connection.execute(insert(provider_calls).values(row))


async def add_job(database: Database, tenant_id: UUID, kind: str = "generation.course", **raw_input: Any) -> JobRef:
    """A running job of a kind."""
    return await add_running_job(database, tenant_id, kind=kind, raw_input=raw_input)


@pytest.fixture
def service(database: Database) -> CostService:
    """What the API asks."""
    return CostService(database)


async def ask(service: CostService, tenant_id: UUID, group: CostGroup = CostGroup.DAY, **more: Any) -> Costs:
    """The costs of that May."""
    given: dict[str, Any] = {
        "start": NOON - timedelta(days=9), "end": NOON + timedelta(days=9), "course_id": None, "limit": 100,
        "after": None, **more,
    }  # fmt: skip
    return await service.get(tenant_id, group, **given)


def settled(costs: Costs) -> dict[str, Decimal]:
    """What each group cost."""
    return {row.key: row.settled_usd for row in costs.groups}


class TestSums:
    async def test_every_group(self, database: Database, tenant_id: UUID, service: CostService) -> None:
        course = await add_job(database, tenant_id)
        section = await add_job(database, tenant_id, "generation.section", course_id=str(course.job_id))
        other = await add_job(database, tenant_id)
        nightly = await add_job(database, tenant_id, "generation.evaluation")
        await add_call(database, course)
        await add_call(database, course, step="lesson-1.1", model="m-2", created_at=NOON + timedelta(days=1))
        await add_call(database, section, step="lesson-1.1", settled_usd=Decimal("0.02"))
        await add_call(database, other, provider="elevenlabs", settled_usd=Decimal("0.04"))
        await add_call(database, nightly, settled_usd=Decimal("0.08"))

        async def by(group: CostGroup) -> dict[str, Decimal]:
            return settled(await ask(service, tenant_id, group))

        cents = {number: Decimal(number) / 100 for number in range(16)}
        assert await by(CostGroup.DAY) == {"2026-05-11": cents[1], "2026-05-10": cents[15]}
        assert await by(CostGroup.KIND) == {
            "generation.course": cents[6], "generation.evaluation": cents[8], "generation.section": cents[2]
        }  # fmt: skip
        assert await by(CostGroup.MODEL) == {"m-1": cents[15], "m-2": cents[1]}
        assert await by(CostGroup.PROVIDER) == {"elevenlabs": cents[4], "openai": cents[12]}
        assert await by(CostGroup.STEP) == {"lesson-1.1": cents[3], "outline": cents[13]}
        assert await by(CostGroup.COURSE) == {str(course.job_id): cents[4], str(other.job_id): cents[4], "": cents[8]}
        one = await ask(service, tenant_id, CostGroup.KIND, course_id=course.job_id)
        assert settled(one) == {"generation.course": cents[2], "generation.section": cents[2]}
        assert one.total.settled_usd == cents[4]

    async def test_what_is_not_settled(self, database: Database, tenant_id: UUID, service: CostService) -> None:
        """Open calls are reserved, closed ones that were not carried out cost nothing, lost sends are lost."""
        job = await add_job(database, tenant_id)
        nothing = {"settled_usd": None, "input_tokens": None, "output_tokens": None}
        for state in ("sending", "unknown", "rejected", "not_sent"):
            await add_call(database, job, state=state, **nothing)
        await add_call(database, job, sends=3, lost_usd=Decimal("0.10"))
        total = (await ask(service, tenant_id)).total
        assert (total.calls, total.sends) == (5, 7)
        assert (total.estimated_usd, total.reserved_usd) == (Decimal("0.25"), Decimal("0.10"))
        assert (total.settled_usd, total.lost_usd) == (Decimal("0.01"), Decimal("0.10"))
        assert (total.input_tokens, total.output_tokens) == (100, 10)

    async def test_of_nobody_else(self, database: Database, tenant_id: UUID, service: CostService) -> None:
        job = await add_job(database, tenant_id)
        await add_call(database, job)
        stranger = await new_tenant(database)
        for group in CostGroup:
            costs = await ask(service, stranger, group, course_id=job.job_id)
            assert (list(costs.groups), costs.total.calls) == ([], 0)

    async def test_page_by_page(self, database: Database, tenant_id: UUID, service: CostService) -> None:
        """The total stays that of the whole span."""
        job = await add_job(database, tenant_id)
        for number in range(5):
            await add_call(database, job, step=f"lesson-1.{number}", created_at=NOON - timedelta(days=number))
        for group in (CostGroup.STEP, CostGroup.DAY):
            keys, after = [], None
            while True:
                page = await ask(service, tenant_id, group, limit=2, after=after)
                assert page.total.calls == 5
                if not page.groups:
                    break
                keys += [row.key for row in page.groups]
                after = keys[-1]
            assert len(keys) == len(set(keys)) == 5
            assert keys == sorted(keys, reverse=group is CostGroup.DAY)

    async def test_span(self, database: Database, tenant_id: UUID, service: CostService) -> None:
        """From its first moment on, up to and without its last."""
        job = await add_job(database, tenant_id)
        for moment in (NOON, NOON + timedelta(hours=1)):
            await add_call(database, job, created_at=moment)
        assert (await ask(service, tenant_id, start=NOON, end=NOON + timedelta(hours=1))).total.calls == 1
        for start, end in ((NOON, NOON), (NOON, NOON - timedelta(1)), (NOON - timedelta(days=367), NOON)):
            with pytest.raises(InvalidInput):
                await ask(service, tenant_id, start=start, end=end)


class TestAlert:
    @pytest.fixture
    def registry(self) -> CollectorRegistry:
        return CollectorRegistry()

    @pytest.fixture
    def watch(self, database: Database, registry: CollectorRegistry) -> CostWatch:
        return CostWatch(database, WorkerMetrics(registry), alert_usd=Decimal(1))

    async def test_once_a_job(
        self, database: Database, tenant_id: UUID, watch: CostWatch, registry: CollectorRegistry
    ) -> None:
        """Whoever looks how often, and however many at once; lost money counts."""
        job = await add_job(database, tenant_id)
        await add_call(database, job, settled_usd=Decimal("0.6"))
        await watch.look(job)
        assert "cost.alert" not in [event.type for event in await event_rows(database, job)]
        await add_call(database, job, settled_usd=Decimal("0.3"), lost_usd=Decimal("0.1"))
        await asyncio.gather(*(watch.look(job) for _ in range(5)))
        await add_call(database, job, settled_usd=Decimal(5))
        await watch.look(job)
        events = await event_rows(database, job)
        (alert,) = [event.data for event in events if event.type == "cost.alert"]
        assert (alert["usd"], alert["threshold_usd"]) == ("1.000000", "1")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert b'longhaul_cost_alerts_total{kind="generation.course"} 1.0' in generate_latest(registry)

    async def test_not_after_the_end(self, database: Database, tenant_id: UUID, watch: CostWatch) -> None:
        job = await add_job(database, tenant_id)
        await add_call(database, job, settled_usd=Decimal(2))
        await finish_job(database, job)
        await watch.look(job)
        assert (await event_rows(database, job))[-1].type == "job.canceled"

    async def test_not_without_a_threshold(self, database: Database, tenant_id: UUID) -> None:
        job = await add_job(database, tenant_id)
        await add_call(database, job, settled_usd=Decimal(2_000))
        await CostWatch(database, WorkerMetrics(CollectorRegistry()), alert_usd=None).look(job)
        assert "cost.alert" not in [event.type for event in await event_rows(database, job)]
