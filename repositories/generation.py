"""The ledger of paid calls, the cache of validated answers, and the prompts on record."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, Uuid, and_, bindparam, case, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database, Statement
from domain.errors import BudgetExceeded, Outcome, Superseded
from domain.generation import TokenUsage
from domain.jobs import JobRef
from repositories.rows import AnyRow
from repositories.tables import Money, jobs, prompts, provider_calls, response_cache
from repositories.transitions import LOCK_JOB

SENDING = "sending"


_before: Final = (
    select(
        provider_calls.c.state,
        provider_calls.c.reserved_usd,
        provider_calls.c.lost_usd,
        provider_calls.c.created_at,
        provider_calls.c.ended,
        (func.clock_timestamp() - provider_calls.c.updated_at).label("quiet_for"),
        jobs.c.budget_usd,
        jobs.c.attempt,
        jobs.c.finished_at,
    )
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
# Sent before with unknown outcome: that send is counted as lost.
_reserve: Final = text(
    """
    INSERT INTO provider_calls AS call (tenant_id, job_id, op, step, provider, model, state, reserved_usd)
    VALUES (:tenant_id, :job_id, :op, :step, :provider, :model, 'sending', :reserved_usd)
    ON CONFLICT (tenant_id, job_id, op) DO UPDATE
    SET state = 'sending', reserved_usd = excluded.reserved_usd, sends = call.sends + 1, ended = false,
        updated_at = now(),
        lost_usd = call.lost_usd + CASE WHEN call.state IN ('sending', 'unknown') THEN call.reserved_usd ELSE 0 END
    WHERE call.state <> 'done'
    RETURNING op
    """
).bindparams(
    bindparam("tenant_id", type_=Uuid), bindparam("job_id", type_=Uuid), bindparam("reserved_usd", type_=Money)
)

# What ``_before`` and ``_reserve`` do together where there is nothing to know: the call is new, and no budget watches.
_open: Final = text(
    """
    INSERT INTO provider_calls (tenant_id, job_id, op, step, provider, model, state, reserved_usd)
    SELECT tenant_id, id, :op, :step, :provider, :model, 'sending', :reserved_usd
    FROM jobs
    WHERE id = :job_id AND attempt = :attempt AND finished_at IS NULL AND budget_usd IS NULL
    ON CONFLICT (tenant_id, job_id, op) DO NOTHING
    RETURNING op
    """
).bindparams(bindparam("job_id", type_=Uuid), bindparam("reserved_usd", type_=Money))

# Where the answer is on record already, two attempts were under way at once, and it was paid for twice.
_settle: Final = text(
    """
    WITH kept AS (
        INSERT INTO step_results (tenant_id, job_id, step, input_hash, result)
        VALUES (:tenant_id, :job_id, :part, :op, :answer)
        ON CONFLICT DO NOTHING
        RETURNING job_id
    ), first AS (
        SELECT EXISTS (SELECT FROM kept) AS first
    )
    UPDATE provider_calls
    SET state = 'done', updated_at = now(),
        settled_usd = CASE WHEN first THEN :cost_usd ELSE settled_usd END,
        input_tokens = CASE WHEN first THEN :input_tokens ELSE input_tokens END,
        output_tokens = CASE WHEN first THEN :output_tokens ELSE output_tokens END,
        lost_usd = lost_usd + CASE WHEN first THEN 0 ELSE :cost_usd END
    FROM first
    WHERE provider_calls.job_id = :job_id AND provider_calls.op = :op
    """
).bindparams(
    bindparam("tenant_id", type_=Uuid),
    bindparam("job_id", type_=Uuid),
    bindparam("answer", type_=JSONB),
    bindparam("cost_usd", type_=Money),
    bindparam("input_tokens", type_=BigInteger),
    bindparam("output_tokens", type_=BigInteger),
)

# Of a job that is over nobody sums up the ledger any more: what was out then comes in here, as news of the job. Calls
# that cost nothing are none.
_settle_ended: Final = text(
    """
    WITH job AS (
        UPDATE jobs
        SET version = version + 1, updated_at = now(),
            cost_usd = spent.usd, input_tokens = spent.input, output_tokens = spent.output
        FROM (SELECT coalesce(sum(settled_usd), 0) AS usd, coalesce(sum(input_tokens), 0) AS input,
                     coalesce(sum(output_tokens), 0) AS output
              FROM provider_calls WHERE job_id = :job_id) AS spent
        WHERE id = :job_id AND finished_at IS NOT NULL
          AND cost_usd <> spent.usd
        RETURNING tenant_id, id, version, status, progress, cost_usd
    ), event AS (
        INSERT INTO job_events (tenant_id, job_id, seq, type, data)
        SELECT tenant_id, id, version, 'cost.settled',
               jsonb_build_object('status', status, 'progress', progress, 'usd', cost_usd::text)
        FROM job
    )
    SELECT pg_notify('longhaul_jobs', id || ':' || version) AS told FROM job
    """
).bindparams(bindparam("job_id", type_=Uuid))

_answer: Final = select(response_cache.c.answer).where(
    response_cache.c.key == bindparam("key"), response_cache.c.expires_at > func.now()
)
_keep_answer: Final = text(
    """
    INSERT INTO response_cache (tenant_id, key, answer, expires_at)
    VALUES (:tenant_id, :key, :answer, now() + make_interval(secs => :keep))
    ON CONFLICT (tenant_id, key) DO UPDATE SET answer = excluded.answer, expires_at = excluded.expires_at
    """
).bindparams(bindparam("tenant_id", type_=Uuid), bindparam("answer", type_=JSONB))


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call about to be sent, and the most it can cost."""

    op: str
    step: str
    provider: str
    model: str
    reserved_usd: Decimal

    def reservation(self, job: JobRef) -> Statement:
        """The statement that puts it into the ledger; no row comes back where the call is done already."""
        return _reserve, {"tenant_id": job.tenant_id, **self._facts(job)}

    def opening(self, job: JobRef) -> Statement:
        """The statement that puts it into the ledger where it is new; otherwise no row comes back."""
        return _open, {"attempt": job.attempt, **self._facts(job)}

    def _facts(self, job: JobRef) -> dict[str, Any]:
        facts = {"op": self.op, "step": self.step, "provider": self.provider, "model": self.model}
        return {"job_id": job.job_id, "reserved_usd": self.reserved_usd, **facts}


class CallDesk:
    """What happens around every paid call, each a transaction of its own in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, job: JobRef, call: NewCall) -> bool:
        """Reserve a call that is new, for a job without a budget.

        Where it is False ``get_before`` knows why, and nothing is reserved.
        """
        (opened,) = await self._database.run(job.tenant_id, call.opening(job))
        return bool(opened)

    async def get_before(self, job: JobRef, op: str) -> AnyRow:
        """What is to be known before a call: its ``state`` (None: never reserved) and the job's ``budget_usd``.

        Also when it was first reserved, for how much, what sends of unknown outcome may have cost, for how long
        nothing was heard of it (``quiet_for``), and whether its provider has ``ended`` the latest.

        Raises Superseded where the job is finished or a newer attempt has taken over.
        """
        found = await self._database.read(job.tenant_id, _before, job_id=job.job_id, op=op)
        if not found or found[0].finished_at is not None or found[0].attempt != job.attempt:
            raise Superseded
        return found[0]

    async def reserve(self, job: JobRef, call: NewCall, *, budgeted: bool) -> bool:
        """As ``CallLedger.reserve``, and within the budget of the job where it has one. Raises BudgetExceeded."""
        # A budget never changes. Only where there is one do reservations have to wait for each other.
        if not budgeted:
            (reserved,) = await self._database.run(job.tenant_id, call.reservation(job))
            return bool(reserved)
        async with self._database.tenant(job.tenant_id) as connection:
            ledger = CallLedger(connection)
            budget = await ledger.lock_budget(job)
            if not await ledger.reserve(job, call):
                return False
            committed = await ledger.get_committed_usd(job)
            if committed > budget:
                worst = call.reserved_usd
                # Leaving by exception takes the reservation back: the call is not made.
                raise BudgetExceeded(
                    f"the next call may cost {worst:f} USD, which with {committed - worst:f} USD spent or reserved "
                    f"is over the budget of {budget:f} USD"
                )
        return True

    async def close(self, job: JobRef, *, op: str, outcome: Outcome, ended: bool = False) -> None:
        """The call did not come back with an answer; ``ended``: its provider is not at work on it any more."""
        async with self._database.tenant(job.tenant_id) as connection:
            await CallLedger(connection).close(job, op=op, outcome=outcome, ended=ended)

    async def settle(
        self,
        job: JobRef,
        *more: Statement,
        op: str,
        part: str,
        answer: dict[str, Any],
        usage: TokenUsage,
        cost_usd: Decimal,
    ) -> list[Sequence[AnyRow]]:
        """The call came back and cost this much; the answer is remembered as that ``part`` of the job.

        Where the job is over already its cost is put right, with the event ``cost.settled``. The rows of ``more``,
        statements of the same transaction, are returned.
        """
        values = {
            "tenant_id": job.tenant_id,
            "job_id": job.job_id,
            "op": op,
            "part": part,
            "answer": answer,
            "cost_usd": cost_usd,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        }
        who = {"job_id": job.job_id}
        _, _, _, *rows = await self._database.run(
            job.tenant_id, (LOCK_JOB, {"id": job.job_id}), (_settle, values), (_settle_ended, who), *more
        )
        return rows


class CallLedger:
    """The paid calls of one tenant's jobs. A call is in here before the wire is touched."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock_budget(self, job: JobRef) -> Decimal:
        """The budget of the job in US dollars; reservations of others wait until the transaction ends."""
        query = select(jobs.c.budget_usd).where(jobs.c.id == job.job_id).with_for_update(key_share=True)
        budget: Decimal = (await self._connection.execute(query)).scalar_one()
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

    async def reserve(self, job: JobRef, call: NewCall) -> bool:
        """The call is about to be sent; False where it is done already.

        Sent before with unknown outcome: that send is counted as lost.
        """
        return (await self._connection.execute(*call.reservation(job))).one_or_none() is not None

    async def close(self, job: JobRef, *, op: str, outcome: Outcome, ended: bool = False) -> None:
        """The call did not come back with an answer. Where another try of it did, that stands."""
        await self._connection.execute(
            update(provider_calls)
            .where(
                provider_calls.c.job_id == job.job_id,
                provider_calls.c.op == op,
                provider_calls.c.state != Outcome.DONE,
            )
            .values(updated_at=func.now(), state=outcome, ended=ended)
        )


def keep_answer_statement(job: JobRef, key: str, answer: dict[str, Any], *, keep: timedelta) -> Statement:
    """The statement that puts an answer into the cache of its tenant; only validated ones belong there."""
    return _keep_answer, {"tenant_id": job.tenant_id, "key": key, "answer": answer, "keep": keep.total_seconds()}


class ResponseCache:
    """Validated answers of tenants by everything that went into them, each asked for in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_or_none(self, job: JobRef, key: str) -> dict[str, Any] | None:
        """The answer kept under the key, unless its time is over."""
        found = await self._database.read(job.tenant_id, _answer, key=key)
        return dict(found[0].answer) if found else None


async def delete_expired_answers(connection: AsyncConnection) -> None:
    """Forget cached answers whose time is over."""
    await connection.execute(delete(response_cache).where(response_cache.c.expires_at < func.now()))


class PromptRepository:
    """The prompts that ever ran here."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def record(self, prompt: dict[str, str]) -> str:
        """Write a prompt down where its version is new; the checksum on record for that version."""
        await self._connection.execute(pg_insert(prompts).values(prompt).on_conflict_do_nothing())
        query = select(prompts.c.sha256).where(prompts.c.id == prompt["id"], prompts.c.version == prompt["version"])
        return str((await self._connection.execute(query)).scalar_one())
