"""Forgetting what is old: messages after the days of a setting, batches with their dead letters after another."""

import asyncio
from typing import Final

import structlog

from core.database import Database
from domain.errors import DatabaseUnavailable
from repositories.saving.retention import RetentionRepository, get_tenants

_log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 600.0
_AT_ONCE: Final = 5_000


class Retention:
    """Deletes a few thousand rows at a time, so that nobody waits long for it."""

    def __init__(self, database: Database, *, message_days: int, batch_days: int) -> None:
        self._database = database
        self._message_days = message_days
        self._batch_days = batch_days

    async def run(self) -> None:
        """Sweep every ten minutes until canceled."""
        while True:
            try:
                await self.sweep()
            except DatabaseUnavailable as fault:
                _log.warning("retention.postponed", fault=fault.detail)
            await asyncio.sleep(_EVERY_SECONDS)

    async def sweep(self) -> int:
        """Delete what is due until nothing is left; how many rows that were. Raises DatabaseUnavailable."""
        async with self._database.system() as connection:
            tenants = await get_tenants(connection)
        deleted = 0
        for tenant_id in tenants:
            gone = _AT_ONCE
            while gone >= _AT_ONCE:
                async with self._database.tenant(tenant_id) as connection:
                    repository = RetentionRepository(connection, at_once=_AT_ONCE)
                    gone = await repository.delete_batches(older_than_days=self._batch_days)
                    if self._message_days:
                        gone += await repository.delete_messages(older_than_days=self._message_days)
                deleted += gone
        if deleted:
            _log.info("retention.deleted", rows=deleted)
        return deleted
