import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from core.database import Database
from domain.errors import Outcome
from domain.generation import TokenUsage
from domain.jobs import JobRef
from repositories.generation import CallDesk, CallLedger, NewCall, ResponseCache, keep_answer_statement
from tests.support.life import add_job, new_tenant

USAGE = TokenUsage(input_tokens=10, output_tokens=5)


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A job that pays for calls."""
    return await add_job(database, tenant_id)


async def reserve(ledger: CallLedger, job: JobRef, op: str, usd: str) -> None:
    """The call is about to be sent."""
    await ledger.reserve(job, NewCall(op=op, step="s", provider="p", model="m", reserved_usd=Decimal(usd)))


class TestLedger:
    async def test_an_open_call_counts_in_full_and_a_settled_one_what_it_cost(
        self, database: Database, job: JobRef
    ) -> None:
        async with database.tenant(job.tenant_id) as connection:
            ledger = CallLedger(connection)
            await reserve(ledger, job, "one", "0.5")
            await reserve(ledger, job, "two", "0.25")
            assert await ledger.get_committed_usd(job) == Decimal("0.75")
        desk = CallDesk(database)
        await desk.settle(job, op="one", part="call/one", answer={}, usage=USAGE, cost_usd=Decimal("0.1"))
        async with database.tenant(job.tenant_id) as connection:
            ledger = CallLedger(connection)
            assert await ledger.get_committed_usd(job) == Decimal("0.35")
            row = await ledger.get_or_none(job, "one")
        assert row is not None
        assert (row.state, row.input_tokens, row.output_tokens, row.sends) == ("done", 10, 5, 1)

    @pytest.mark.parametrize(
        ("outcome", "committed"), [(Outcome.UNKNOWN, "0.5"), (Outcome.NOT_SENT, "0"), (Outcome.REJECTED, "0")]
    )
    async def test_only_what_may_have_happened_stays_reserved(
        self, database: Database, job: JobRef, outcome: Outcome, committed: str
    ) -> None:
        async with database.tenant(job.tenant_id) as connection:
            ledger = CallLedger(connection)
            await reserve(ledger, job, "one", "0.5")
            await ledger.close(job, op="one", outcome=outcome)
            assert await ledger.get_committed_usd(job) == Decimal(committed)

    @pytest.mark.parametrize(("outcome", "lost"), [(Outcome.UNKNOWN, "0.5"), (Outcome.NOT_SENT, "0"), (None, "0.5")])
    async def test_sending_again_keeps_account_of_what_may_be_lost(
        self, database: Database, job: JobRef, outcome: Outcome | None, lost: str
    ) -> None:
        async with database.tenant(job.tenant_id) as connection:
            ledger = CallLedger(connection)
            await reserve(ledger, job, "one", "0.5")
            if outcome is not None:
                await ledger.close(job, op="one", outcome=outcome)
            await reserve(ledger, job, "one", "0.4")
            row = await ledger.get_or_none(job, "one")
            assert row is not None
            assert (row.lost_usd, row.sends, row.state) == (Decimal(lost), 2, "sending")
            assert await ledger.get_committed_usd(job) == Decimal("0.4") + Decimal(lost)

    async def test_reservations_wait_for_each_other(self, database: Database, job: JobRef) -> None:
        """Ten calls at once, and a budget for three: the lock makes it exactly three."""

        async def call(number: int) -> bool:
            async with database.tenant(job.tenant_id) as connection:
                ledger = CallLedger(connection)
                await ledger.lock_budget(job)
                if await ledger.get_committed_usd(job) + 1 > Decimal("3.5"):
                    return False
                await reserve(ledger, job, f"call-{number}", "1")
                return True

        assert sum(await asyncio.gather(*(call(number) for number in range(10)))) == 3


class TestCache:
    async def test_keeps_an_answer_for_its_time_and_its_tenant(self, database: Database, job: JobRef) -> None:
        cache = ResponseCache(database)
        await database.run(job.tenant_id, keep_answer_statement(job, "new", {"a": 1}, keep=timedelta(hours=1)))
        await database.run(job.tenant_id, keep_answer_statement(job, "old", {"a": 1}, keep=timedelta(seconds=-1)))
        assert await cache.get_or_none(job, "new") == {"a": 1}
        assert await cache.get_or_none(job, "old") is None
        await database.run(job.tenant_id, keep_answer_statement(job, "new", {"a": 2}, keep=timedelta(hours=1)))
        assert await cache.get_or_none(job, "new") == {"a": 2}
        theirs = await add_job(database, await new_tenant(database))
        assert await cache.get_or_none(theirs, "new") is None
