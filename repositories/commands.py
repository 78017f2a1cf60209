"""What Temporal is still to be told: starts, cancellations and signals that wait for delivery."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.jobs import CommandAction
from repositories.rows import AnyRow
from repositories.tables import commands, jobs

CHANNEL: Final = "longhaul_commands"
"""NOTIFY channel that wakes the dispatchers."""

# Each tenant's most urgent commands first, then the next of each: nobody waits behind a neighbour's five hundred.
# Claiming pushes not_before ahead, so that a dispatcher that dies gives its commands back by itself.
_claim = text(
    """
    WITH ranked AS (
        SELECT c.id, row_number() OVER (
                 PARTITION BY c.tenant_id ORDER BY c.action = 'start', j.priority, c.id) AS place
        FROM commands c JOIN jobs j ON j.id = c.job_id
        WHERE c.not_before <= now()
    ), chosen AS (
        SELECT c.id FROM commands c JOIN ranked r ON r.id = c.id
        WHERE c.not_before <= now()
        ORDER BY r.place
        LIMIT :limit
        FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE commands SET not_before = now() + make_interval(secs => :lease), tries = tries + 1
    FROM chosen, jobs
    WHERE commands.id = chosen.id AND jobs.id = commands.job_id
    RETURNING commands.id, commands.tenant_id, commands.job_id, commands.action, commands.args, commands.tries,
              commands.last_error, jobs.kind, jobs.status, jobs.attempt, jobs.task_queue, jobs.priority,
              jobs.request_id, jobs.traceparent, jobs.admitted_at
    """
)


class CommandRepository:
    """The commands of one tenant or, in a system transaction, of all."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        command_id: UUID,
        tenant_id: UUID,
        job_id: UUID,
        action: CommandAction,
        args: dict[str, Any],
        not_before: datetime | timedelta | None = None,
    ) -> None:
        """Write a command down; dispatchers leave it alone until ``not_before`` (a moment, or from now)."""
        due = func.now() + not_before if isinstance(not_before, timedelta) else not_before or func.now()
        await self._connection.execute(
            insert(commands).values(
                id=command_id, tenant_id=tenant_id, job_id=job_id, action=action, args=args, not_before=due
            )
        )

    async def wake_dispatchers(self) -> None:
        """Let the dispatchers look now, once this transaction commits."""
        await self._connection.execute(select(func.pg_notify(CHANNEL, "")))

    async def claim_due(self, *, limit: int, lease: timedelta) -> Sequence[AnyRow]:
        """Take up to ``limit`` due commands, fairly between tenants, for the length of ``lease``."""
        claimed = await self._connection.execute(_claim, {"limit": limit, "lease": lease.total_seconds()})
        return claimed.all()

    async def get_backlog(self) -> tuple[int, datetime | None]:
        """How many commands there are, and when the earliest becomes due."""
        found = (await self._connection.execute(select(func.count(), func.min(commands.c.not_before)))).one()
        return found[0], found[1]

    async def delete(self, command_ids: Sequence[UUID]) -> None:
        """These commands are delivered, or have become pointless."""
        await self._connection.execute(delete(commands).where(commands.c.id.in_(command_ids)))

    async def delete_of_job(self, job_id: UUID, action: CommandAction) -> None:
        """Commands of one sort for a job have become pointless."""
        await self._connection.execute(delete(commands).where(commands.c.job_id == job_id, commands.c.action == action))

    async def is_to_be_started(self, job_id: UUID) -> bool:
        """Whether a start is still on the list."""
        query = select(commands.c.id).where(commands.c.job_id == job_id, commands.c.action == CommandAction.START)
        return (await self._connection.execute(query.limit(1))).one_or_none() is not None

    async def postpone(self, command_id: UUID, *, by: timedelta, error: str | None) -> None:
        """Try this command again later, and remember what was wrong."""
        await self._connection.execute(
            update(commands).where(commands.c.id == command_id).values(not_before=func.now() + by, last_error=error)
        )

    async def release_waiting(self, tenant_id: UUID, kind: str) -> None:
        """A running slot has become free: starts that wait for one are due now."""
        waiting = (
            select(commands.c.id)
            .join(jobs, jobs.c.id == commands.c.job_id)
            .where(
                commands.c.tenant_id == tenant_id,
                jobs.c.kind == kind,
                commands.c.action == CommandAction.START,
                jobs.c.admitted_at.is_(None),
                func.coalesce(jobs.c.start_at, func.now()) <= func.now(),
                # One that is due already was released for another slot.
                commands.c.not_before > func.clock_timestamp(),
            )
            .order_by(jobs.c.priority, commands.c.id)
            .limit(1)
            .with_for_update(of=commands)
        )
        released = (
            update(commands)
            .where(commands.c.id == waiting.scalar_subquery())
            .values(not_before=func.now())
            .returning(commands.c.id)
        )
        if (await self._connection.execute(released)).one_or_none() is not None:
            await self.wake_dispatchers()
