"""Watching over orders whose workflow has ended without them: nothing stays booked, or live, with nobody in charge."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.errors import DatabaseUnavailable
from domain.jobs import TERMINAL, JobStatus
from domain.publishing.effects import POST, EffectState
from domain.publishing.orders import BEFORE_SENDING, OrderState
from repositories.jobs import JobRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import ASKED, OrderRepository
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)

_EVERY: Final = timedelta(seconds=10)

_ENDED: Final = "jobs.finished_at < now() - interval '2 seconds' AND jobs.status IN ('failed', 'canceled')"

# What was promised and has nobody in charge: a retry of the job takes it up again. A job that was canceled before it
# began has promised nothing any more.
_report = text(
    f"""
    INSERT INTO owner_tasks (id, tenant_id, order_id, kind, detail)
    SELECT uuidv7(), orders.tenant_id, orders.id, 'unattended',
           'the workflow of this order has ended while the post is ' || orders.state || '; retry job ' || jobs.id
    FROM orders JOIN jobs ON jobs.id = orders.job_id
    WHERE {_ENDED}
      AND (orders.state IN ('sending', 'needs_person', 'live', 'pinned')
           OR jobs.status = 'failed' AND orders.state IN ('booked', 'approval', 'armed'))
    ON CONFLICT (tenant_id, order_id, kind) DO UPDATE
    SET id = excluded.id, detail = excluded.detail, created_at = now(), closed_at = NULL, resolution = NULL
    WHERE owner_tasks.closed_at IS NOT NULL AND owner_tasks.resolution = 'retried'
    RETURNING order_id
    """  # noqa: S608 - made of constants
)
_settle = text(
    """
    UPDATE owner_tasks SET closed_at = now(), resolution = 'retried'
    FROM orders JOIN jobs ON jobs.id = orders.job_id
    WHERE orders.id = owner_tasks.order_id AND owner_tasks.kind = 'unattended' AND owner_tasks.closed_at IS NULL
      AND jobs.finished_at IS NULL
    """
)
# Over: those of jobs that were canceled, and those whose time has passed.
_lost = text(
    f"""
    SELECT orders.id, orders.tenant_id, orders.channel_id, orders.job_id, jobs.status
    FROM orders JOIN jobs ON jobs.id = orders.job_id
    WHERE {_ENDED} AND orders.state IN ('booked', 'approval', 'armed')
      AND (jobs.status = 'canceled' OR orders.latest_at < now())
    """  # noqa: S608 - made of constants
)


class OrderGuardian:
    """Runs in every worker process; what one has done the others find done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Sweep until canceled."""
        while True:
            try:
                await self.sweep()
            except DatabaseUnavailable as fault:
                _log.warning("guardian.postponed", fault=fault.detail)
            await asyncio.sleep(_EVERY.total_seconds())

    async def sweep(self) -> None:
        """One look at all orders of ended jobs."""
        async with self._database.system() as connection:
            await connection.execute(_settle)
            reported = (await connection.execute(_report)).all()
            lost = (await connection.execute(_lost)).all()
        for row in reported:
            _log.warning("guardian.unattended", order_id=str(row.order_id))
        for row in lost:
            async with self._database.tenant(row.tenant_id) as connection:
                await self._release(connection, row)

    async def _release(self, connection: AsyncConnection, row: AnyRow) -> None:
        """An order is over without its workflow: its slot is free, and the ledger and the timeline say why."""
        repository = OrderRepository(connection)
        order = await repository.get_one(row.id, lock=True)
        if order.state not in BEFORE_SENDING or order.job_status != row.status:
            return  # another guardian was first, or the job was retried meanwhile
        state = OrderState.CANCELED if row.status == JobStatus.CANCELED else OrderState.MISSED
        _log.warning("guardian.released", order_id=str(row.id), state=state.value)
        await repository.change(row.id, state=state.value, ended_at=func.now())
        await repository.close_tasks(row.id, kinds=ASKED, resolution=state.value)
        code = "E.ORDER.CANCELED" if state is OrderState.CANCELED else "E.ORDER.MISSED"
        if state is OrderState.MISSED:
            await LedgerRepository(connection).put(
                tenant_id=row.tenant_id, order_id=row.id, effect=POST, channel_id=row.channel_id,
                state=EffectState.MISSED, error_code=code, detail="its workflow had ended", settled_at=func.now(),
            )  # fmt: skip
        await JobRepository(connection).record(
            job_id=row.job_id,
            event=f"order.{state.value}",
            data={"order_id": str(row.id), "code": code, "by": "guardian"},
            allowed=TERMINAL,
        )
