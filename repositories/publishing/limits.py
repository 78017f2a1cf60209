"""Limits that all workers share: GCRA in rows, frozen by the other side, fair between tenants.

A courtesy, and no more: what the other side says in ``retry_after`` is the law. The clock is the database's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from repositories.rows import AnyRow
from repositories.tables import rate_scopes


@dataclass(frozen=True, slots=True)
class Scope:
    """One thing that is limited: on average one every ``interval``, up to ``burst`` at once."""

    name: str
    interval: timedelta
    burst: int


_make = text("INSERT INTO rate_scopes (scope) SELECT unnest(CAST(:names AS text[])) ON CONFLICT DO NOTHING")
_lock = text(
    """
    SELECT scope, next_at, frozen_until, interval_seconds, clock_timestamp() AS now
    FROM rate_scopes WHERE scope = ANY(CAST(:names AS text[])) ORDER BY scope FOR UPDATE
    """
)
_first_in_line = text(
    """
    SELECT NOT EXISTS (
        SELECT FROM rate_parties other
        LEFT JOIN rate_parties mine ON mine.scope = other.scope AND mine.tenant_id = :tenant
        WHERE other.scope = :scope AND other.tenant_id <> :tenant AND other.waits_until > clock_timestamp()
          AND coalesce(other.granted_at, '-infinity') < coalesce(mine.granted_at, '-infinity'))
    """
)
_take = text(
    """
    UPDATE rate_scopes
    SET next_at = greatest(next_at, clock_timestamp()) + make_interval(secs => :interval), updated_at = now(),
        interval_seconds = CASE
            WHEN interval_seconds IS NULL OR frozen_until > now() - interval '10 minutes' THEN interval_seconds
            WHEN interval_seconds * 0.98 > :usual THEN interval_seconds * 0.98 END
    WHERE scope = :scope
    """
)
_served = text(
    """
    INSERT INTO rate_parties (scope, tenant_id, granted_at)
    SELECT unnest(CAST(:names AS text[])), :tenant, clock_timestamp()
    ON CONFLICT (tenant_id, scope) DO UPDATE SET granted_at = clock_timestamp(), waits_until = NULL
    """
)
_wait_in_line = text(
    """
    INSERT INTO rate_parties (scope, tenant_id, waits_until)
    SELECT unnest(CAST(:names AS text[])), :tenant, clock_timestamp() + make_interval(secs => :seconds)
    ON CONFLICT (tenant_id, scope) DO UPDATE SET waits_until = excluded.waits_until
    """
)
_freeze = text(
    """
    INSERT INTO rate_scopes (scope, frozen_until, interval_seconds, freezes)
    VALUES (:scope, clock_timestamp() + make_interval(secs => :seconds), :usual * 1.5, 1)
    ON CONFLICT (scope) DO UPDATE
    SET frozen_until = greatest(rate_scopes.frozen_until, excluded.frozen_until), freezes = rate_scopes.freezes + 1,
        interval_seconds = least(coalesce(rate_scopes.interval_seconds, :usual) * 1.5, :usual * 10), updated_at = now()
    """
)
_MARGIN_SECONDS: Final = 2.0


class LimitRepository:
    """Limits, in a system transaction: tenants who share a token share its limits."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take(self, tenant_id: UUID, scopes: Sequence[Scope], *, messages: int = 1) -> timedelta:
        """Take from every scope, or from none: how long to wait before asking again, zero where it was given.

        More ``messages`` at once than the burst of a scope are given as soon as it is full, and waited for afterwards.
        """
        if not scopes:
            return timedelta(0)
        names = sorted(scope.name for scope in scopes)
        await self._connection.execute(_make, {"names": names})
        rows = {row.scope: row for row in (await self._connection.execute(_lock, {"names": names})).all()}
        waits = [await self._wait(tenant_id, scope, rows[scope.name], messages) for scope in scopes]
        wait = max(waits)
        if wait > timedelta(0):
            seconds = wait.total_seconds() + _MARGIN_SECONDS
            await self._connection.execute(_wait_in_line, {"names": names, "tenant": tenant_id, "seconds": seconds})
            return wait
        for scope in scopes:
            interval = _interval(scope, rows[scope.name]) * messages
            usual = scope.interval.total_seconds()
            await self._connection.execute(
                _take, {"scope": scope.name, "interval": interval.total_seconds(), "usual": usual}
            )
        await self._connection.execute(_served, {"names": names, "tenant": tenant_id})
        return timedelta(0)

    async def _wait(self, tenant_id: UUID, scope: Scope, row: AnyRow, messages: int) -> timedelta:
        if row.frozen_until is not None and row.frozen_until > row.now:
            frozen: timedelta = row.frozen_until - row.now
            return frozen
        interval = _interval(scope, row)
        ahead: timedelta = max(row.next_at - row.now, timedelta(0))
        leeway = interval * (scope.burst - min(messages, scope.burst))
        if ahead > leeway:
            return ahead - leeway
        is_last = ahead + interval > leeway
        if is_last and not await self._is_first_in_line(tenant_id, scope.name):
            return interval
        return timedelta(0)

    async def _is_first_in_line(self, tenant_id: UUID, scope: str) -> bool:
        return bool(
            (await self._connection.execute(_first_in_line, {"scope": scope, "tenant": tenant_id})).scalar_one()
        )

    async def is_any_frozen(self, prefix: str, *, besides: str) -> bool:
        """Whether another scope whose name begins so is frozen now."""
        frozen = select(rate_scopes.c.scope).where(
            rate_scopes.c.scope.startswith(prefix, autoescape=True),
            rate_scopes.c.scope != besides,
            rate_scopes.c.frozen_until > func.clock_timestamp(),
        )
        return bool((await self._connection.execute(select(frozen.exists()))).scalar_one())

    async def freeze(self, scope: Scope, *, seconds: float) -> None:
        """The other side asks for silence: nobody takes from this scope until then, and afterwards more slowly."""
        usual = scope.interval.total_seconds()
        await self._connection.execute(_freeze, {"scope": scope.name, "seconds": seconds, "usual": usual})


def _interval(scope: Scope, row: AnyRow) -> timedelta:
    learned = timedelta(0) if row.interval_seconds is None else timedelta(seconds=row.interval_seconds)
    return max(scope.interval, learned)


async def get_scopes(connection: AsyncConnection, names: Sequence[str]) -> Mapping[str, Any]:
    """What is known of some scopes, by name."""
    rows = (await connection.execute(select(rate_scopes).where(rate_scopes.c.scope.in_(names)))).all()
    return {
        row.scope: {
            "frozen_until": row.frozen_until,
            "freezes": row.freezes,
            "learned_interval_seconds": row.interval_seconds,
            "next_at": row.next_at,
        }
        for row in rows
    }
