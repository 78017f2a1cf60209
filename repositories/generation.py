"""The ledger of paid calls, the cache of validated answers, and the prompts on record."""

from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import and_, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.errors import Outcome, Superseded
from domain.generation import TokenUsage
from domain.jobs import JobRef
from repositories.rows import AnyRow
from repositories.tables import jobs, prompts, provider_calls, response_cache

SENDING = "sending"


_before: Final = (
    select(provider_calls.c.state, jobs.c.budget_usd, jobs.c.attempt, jobs.c.finished_at)
    .outerjoin_from(
        jobs,
        provider_calls,
        and_(
            provider_calls.c.tenant_id == jobs.c.tenant_id,
            provider_calls.c.job_id == jobs.c.id,
            provider_calls.c.op == bindparam("op"),
        ),
    )
    .where(jobs.c.id == bindparam("job_id"))
)
_answer: Final = select(response_cache.c.answer).where(
    response_cache.c.key == bindparam("key"), response_cache.c.expires_at > func.now()
)


class CallReader:
    """What is asked before every call, each question in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_before(self, job: JobRef, op: str) -> AnyRow:
        """What is to be known before a call: its ``state`` (None: never reserved) and the job's ``budget_usd``.

        Raises Superseded where the job is finished or a newer attempt has taken over.
        """
        found = await self._database.read(job.tenant_id, _before, job_id=job.job_id, op=op)
        if not found or found[0].finished_at is not None or found[0].attempt != job.attempt:
            raise Superseded("the job is finished, or a newer attempt has taken over")
        return found[0]

    async def get_cached_or_none(self, job: JobRef, key: str) -> dict[str, Any] | None:
        """As ``ResponseCache.get_or_none``."""
        found = await self._database.read(job.tenant_id, _answer, key=key)
        return dict(found[0].answer) if found else None


class CallLedger:
    """The paid calls of one tenant's jobs. A call is in here before the wire is touched."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock_budget(self, job: JobRef) -> Decimal | None:
        """The budget of the job in US dollars; reservations of others wait until the transaction ends."""
        query = select(jobs.c.budget_usd).where(jobs.c.id == job.job_id).with_for_update(key_share=True)
        budget: Decimal | None = (await self._connection.execute(query)).scalar_one()
        return budget

    async def get_or_none(self, job: JobRef, op: str) -> AnyRow | None:
        """What is on record about a call."""
        query = select(provider_calls).where(provider_calls.c.job_id == job.job_id, provider_calls.c.op == op)
        return (await self._connection.execute(query)).one_or_none()

    async def get_committed_usd(self, job: JobRef) -> Decimal:
        """What the job has spent, and what its open and lost calls may still turn out to cost."""
        still_open = provider_calls.c.state.in_([SENDING, Outcome.UNKNOWN])
        own = case((still_open, provider_calls.c.reserved_usd), else_=func.coalesce(provider_calls.c.settled_usd, 0))
        per_call = own + provider_calls.c.lost_usd
        query = select(func.coalesce(func.sum(per_call), 0)).where(provider_calls.c.job_id == job.job_id)
        return Decimal((await self._connection.execute(query)).scalar_one())

    async def reserve(
        self, job: JobRef, *, op: str, step: str, provider: str, model: str, reserved_usd: Decimal
    ) -> bool:
        """The call is about to be sent; False where it is done already.

        Sent before with unknown outcome: that send is counted as lost.
        """
        row = {
            "tenant_id": job.tenant_id,
            "job_id": job.job_id,
            "op": op,
            "step": step,
            "provider": provider,
            "model": model,
            "state": SENDING,
            "reserved_usd": reserved_usd,
        }
        lost = func.coalesce(
            select(provider_calls.c.reserved_usd)
            .where(
                provider_calls.c.job_id == job.job_id,
                provider_calls.c.op == op,
                provider_calls.c.state.in_([SENDING, Outcome.UNKNOWN]),
            )
            .scalar_subquery(),
            0,
        )
        statement = pg_insert(provider_calls).values(row)
        reserving = statement.on_conflict_do_update(
            index_elements=["tenant_id", "job_id", "op"],
            set_={
                "state": SENDING,
                "reserved_usd": reserved_usd,
                "lost_usd": provider_calls.c.lost_usd + lost,
                "sends": provider_calls.c.sends + 1,
                "updated_at": func.now(),
            },
            where=provider_calls.c.state != Outcome.DONE,
        ).returning(provider_calls.c.op)
        return (await self._connection.execute(reserving)).one_or_none() is not None

    async def settle(self, job: JobRef, *, op: str, usage: TokenUsage, cost_usd: Decimal) -> None:
        """The call came back and cost this much."""
        await self._set(
            job,
            op,
            state=Outcome.DONE,
            settled_usd=cost_usd,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )

    async def settle_again(self, job: JobRef, *, op: str, cost_usd: Decimal) -> None:
        """The call came back a second time: two attempts were under way at once. It was paid for twice."""
        await self._set(job, op, state=Outcome.DONE, lost_usd=provider_calls.c.lost_usd + cost_usd)

    async def close(self, job: JobRef, *, op: str, outcome: Outcome) -> None:
        """The call did not come back with an answer."""
        await self._set(job, op, state=outcome)

    async def _set(self, job: JobRef, op: str, **values: Any) -> None:
        await self._connection.execute(
            update(provider_calls)
            .where(provider_calls.c.job_id == job.job_id, provider_calls.c.op == op)
            .values(updated_at=func.now(), **values)
        )


class ResponseCache:
    """Validated answers of one tenant by everything that went into them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_or_none(self, key: str) -> dict[str, Any] | None:
        """The answer kept under the key, unless its time is over."""
        query = select(response_cache.c.answer).where(
            response_cache.c.key == key, response_cache.c.expires_at > func.now()
        )
        found = (await self._connection.execute(query)).scalar_one_or_none()
        return None if found is None else dict(found)

    async def put(self, job: JobRef, key: str, answer: dict[str, Any], *, keep: timedelta) -> None:
        """Keep an answer; only validated ones belong here."""
        statement = pg_insert(response_cache).values(
            tenant_id=job.tenant_id, key=key, answer=answer, expires_at=func.now() + keep
        )
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["tenant_id", "key"],
                set_={"answer": statement.excluded.answer, "expires_at": statement.excluded.expires_at},
            )
        )

    async def delete_expired(self) -> None:
        """Forget answers whose time is over."""
        await self._connection.execute(delete(response_cache).where(response_cache.c.expires_at < func.now()))


class PromptRepository:
    """The prompts that ever ran here."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def record(self, prompt: dict[str, str]) -> str:
        """Write a prompt down where its version is new; the checksum on record for that version."""
        await self._connection.execute(pg_insert(prompts).values(prompt).on_conflict_do_nothing())
        query = select(prompts.c.sha256).where(prompts.c.id == prompt["id"], prompts.c.version == prompt["version"])
        return str((await self._connection.execute(query)).scalar_one())
