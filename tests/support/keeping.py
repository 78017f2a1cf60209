"""A writer for tests without the steps around it."""

from datetime import timedelta
from typing import Any

from activities.generation.calls import PaidCalls
from activities.generation.writer import StructuredWriter, Written
from core.database import Database
from domain.jobs import JobRef


class KeepingWriter(StructuredWriter):
    """Puts into the cache at once what a step would put there with its result."""

    def __init__(self, database: Database, calls: PaidCalls, *, cache_for: timedelta) -> None:
        super().__init__(database, calls, cache_for=cache_for)
        self._database = database

    async def write(self, job: JobRef, *wanted: Any) -> Written[Any]:
        """Write, and keep."""
        written = await super().write(job, *wanted)
        await self._database.run(job.tenant_id, *written.keeping)
        return written
