"""Leases of concurrency: a provider does only so many things at once, whichever worker or tenant asks.

A lease is a row that counts until it expires, so what a dead worker held comes back by itself. The account at the
provider belongs to the platform, hence the platform counts, across tenants. Of those who wait, the tenant with the
fewest leases goes first, then whoever asked first. The clock is the database's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import Uuid, bindparam, text

from core.database import Database
from domain.errors import DatabaseUnavailable
from domain.jobs import JobRef

_log = structlog.get_logger(__name__)

ASK_AGAIN: Final = timedelta(seconds=1)
"""How long to wait before asking again; whoever does not ask for three times as long is no longer in line."""

_lock: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('provider_leases:' || CAST(:provider AS text), 0))")
_forget_expired: Final = text(
    "DELETE FROM provider_leases WHERE provider = :provider AND expires_at <= clock_timestamp()"
)
_ask: Final = text(
    """
    INSERT INTO provider_leases AS mine (tenant_id, job_id, provider, holder, asked_at, expires_at)
    VALUES (:tenant_id, :job_id, :provider, :holder, clock_timestamp(),
            clock_timestamp() + make_interval(secs => :patience))
    ON CONFLICT (tenant_id, provider, holder) DO UPDATE
    SET expires_at = greatest(mine.expires_at, excluded.expires_at), job_id = excluded.job_id
    """
).bindparams(bindparam("tenant_id", type_=Uuid), bindparam("job_id", type_=Uuid))
# Free leases go to the first in line; whoever holds one already keeps it, for longer.
_grant: Final = text(
    """
    WITH held AS (
        SELECT tenant_id, count(*) AS number FROM provider_leases
        WHERE provider = :provider AND granted_at IS NOT NULL GROUP BY tenant_id
    ), line AS (
        SELECT w.tenant_id, w.holder,
               row_number() OVER (ORDER BY coalesce(held.number, 0) + turn.number, w.asked_at, w.holder) AS place
        FROM provider_leases w
        LEFT JOIN held USING (tenant_id)
        CROSS JOIN LATERAL (
            SELECT count(*) AS number FROM provider_leases before
            WHERE before.provider = w.provider AND before.tenant_id = w.tenant_id AND before.granted_at IS NULL
              AND (before.asked_at, before.holder) < (w.asked_at, w.holder)
        ) AS turn
        WHERE w.provider = :provider AND w.granted_at IS NULL
    )
    UPDATE provider_leases AS mine
    SET granted_at = coalesce(mine.granted_at, clock_timestamp()),
        expires_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE mine.tenant_id = :tenant_id AND mine.provider = :provider AND mine.holder = :holder
      AND (mine.granted_at IS NOT NULL
           OR (SELECT place FROM line WHERE line.tenant_id = mine.tenant_id AND line.holder = mine.holder)
              <= :limit - (SELECT coalesce(sum(number), 0) FROM held))
    RETURNING mine.holder
    """
).bindparams(bindparam("tenant_id", type_=Uuid))
_renew: Final = text(
    """
    UPDATE provider_leases SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE tenant_id = :tenant_id AND provider = :provider AND holder = :holder AND granted_at IS NOT NULL
    RETURNING holder
    """
).bindparams(bindparam("tenant_id", type_=Uuid))
_release: Final = text(
    "DELETE FROM provider_leases WHERE tenant_id = :tenant_id AND provider = :provider AND holder = :holder"
).bindparams(bindparam("tenant_id", type_=Uuid))


@dataclass(frozen=True, slots=True)
class Lease:
    """One use of a provider. ``holder`` names the use, the same at every try, so that a retry finds its own lease.

    ``limit`` is how many the provider does at once for us, ``duration`` for how long a lease counts without a renewal.
    """

    job: JobRef
    provider: str
    holder: str
    limit: int
    duration: timedelta


class LeaseDesk:
    """Takes, renews and gives back leases, each a transaction of its own. Raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, lease: Lease, *, ask_again: timedelta = ASK_AGAIN) -> bool:
        """Whether the lease is ours now. Where it is not we are in line, as long as we ask again within that time.

        Taking what we hold already renews it.
        """
        async with self._database.system() as connection:
            who = {"tenant_id": lease.job.tenant_id, "provider": lease.provider, "holder": lease.holder}
            await connection.execute(_lock, {"provider": lease.provider})
            await connection.execute(_forget_expired, {"provider": lease.provider})
            patience = ask_again.total_seconds() * 3
            await connection.execute(_ask, {**who, "job_id": lease.job.job_id, "patience": patience})
            values = {**who, "limit": lease.limit, "seconds": lease.duration.total_seconds()}
            return (await connection.execute(_grant, values)).one_or_none() is not None

    async def renew(self, lease: Lease) -> bool:
        """Hold on to a lease; False where it has expired and was given away."""
        async with self._database.system() as connection:
            values = {
                "tenant_id": lease.job.tenant_id,
                "provider": lease.provider,
                "holder": lease.holder,
                "seconds": lease.duration.total_seconds(),
            }
            return (await connection.execute(_renew, values)).one_or_none() is not None

    async def release(self, lease: Lease) -> None:
        """Give a lease back, or leave the line; harmless where there is none."""
        async with self._database.system() as connection:
            values = {"tenant_id": lease.job.tenant_id, "provider": lease.provider, "holder": lease.holder}
            await connection.execute(_release, values)

    @asynccontextmanager
    async def hold(self, lease: Lease, *, ask_again: timedelta = ASK_AGAIN) -> AsyncIterator[None]:
        """Wait for the lease, keep it renewed inside the block, give it back at the end, also of a failure.

        Waits without end: whoever calls sets the limit (an activity has its time-out).
        """
        try:
            await self._await_turn(lease, ask_again)
            renewing = asyncio.create_task(self._keep(lease))
            try:
                yield
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
        finally:
            await self._give_back(lease)

    async def _await_turn(self, lease: Lease, ask_again: timedelta) -> None:
        while True:
            if await self.take(lease, ask_again=ask_again):
                return
            await asyncio.sleep(ask_again.total_seconds())

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self.release(lease)
        except DatabaseUnavailable as fault:
            # It comes back when it expires.
            _log.warning("lease.not_released", provider=lease.provider, fault=fault.detail)

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(lease.duration.total_seconds() / 3)
            try:
                if not await self.renew(lease):
                    _log.warning("lease.lost", provider=lease.provider)
                    return
            except DatabaseUnavailable as fault:
                _log.warning("lease.not_renewed", provider=lease.provider, fault=fault.detail)
