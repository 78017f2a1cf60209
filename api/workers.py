"""Which task queues some live worker serves, looked up beside the requests and not in them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from core.database import Database
from domain.errors import DatabaseUnavailable
from repositories.workers import WorkerRepository

_log = structlog.get_logger(__name__)

_ALIVE_WITHIN: Final = timedelta(seconds=15)
_LOOK_EVERY_SECONDS: Final = 2.0


class ServedQueues:
    """A memory of the queues that are served. While the database does not answer, nothing is said about them."""

    def __init__(self, database: Database, *, on_change: Callable[[], None]) -> None:
        self._database = database
        self._on_change = on_change
        self._served: frozenset[str] | None = None

    def is_abandoned(self, task_queue: str) -> bool:
        """Whether it is known that no live worker serves this queue."""
        return self._served is not None and task_queue not in self._served

    async def refresh(self) -> None:
        """Look once."""
        before = self._served
        try:
            async with self._database.system() as connection:
                self._served = await WorkerRepository(connection).get_served_queues(within=_ALIVE_WITHIN)
        except DatabaseUnavailable as fault:
            _log.warning("served_queues.unknown", fault=fault.detail)
            self._served = None
        if before != self._served:
            self._on_change()

    async def run(self) -> None:
        """Look every other second until canceled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
