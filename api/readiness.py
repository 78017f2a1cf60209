"""Whether this process can do its work now, and if not, what is missing."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final

from core.database import Database, check_schema
from domain.errors import DatabaseUnavailable, SchemaMismatch, TemporalUnavailable
from services.pollers import Pollers

_PATIENCE_SECONDS: Final = 2.0
_KEEP_SECONDS: Final = 1.0


class Readiness:
    """Asks database, schema, Temporal and every task queue, at most once a second."""

    def __init__(
        self, database: Database, pollers: Pollers, *, head: str, profile: str, task_queues: Sequence[str]
    ) -> None:
        self._database = database
        self._pollers = pollers
        self._head = head
        self._profile = profile
        self._task_queues = task_queues
        self._draining = False
        self._known: dict[str, str] = {}
        self._known_until = 0.0
        self._asking = asyncio.Lock()

    def drain(self) -> None:
        """From now on this process is not ready: it is about to end."""
        self._draining = True

    async def faults(self) -> dict[str, str]:
        """What is not ready, each with its fault in a sentence; empty means ready."""
        if self._draining:
            return {"process": "is shutting down"}
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() >= self._known_until:
                self._known = await self._ask()
                self._known_until = clock() + _KEEP_SECONDS
        return self._known

    async def _ask(self) -> dict[str, str]:
        checks: dict[str, Awaitable[str | None]] = {"database": self._database_fault()}
        checks |= {f"queue {name}": self._queue_fault(name) for name in self._task_queues}
        answers = await asyncio.gather(*checks.values())
        faults = {part: fault for part, fault in zip(checks, answers, strict=True) if fault is not None}
        queues = [part for part in faults if faults[part] == _TEMPORAL_AWAY]
        if queues:
            faults = {part: fault for part, fault in faults.items() if part not in queues}
            faults["temporal"] = _TEMPORAL_AWAY
        return faults

    async def _database_fault(self) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await check_schema(self._database, head=self._head, profile=self._profile)
        except TimeoutError:
            return "does not answer in time"
        except (DatabaseUnavailable, SchemaMismatch) as fault:
            return fault.detail
        return None

    async def _queue_fault(self, task_queue: str) -> str | None:
        try:
            return None if await self._pollers.exist_on(task_queue) else "no worker polls it"
        except TemporalUnavailable:
            return _TEMPORAL_AWAY


_TEMPORAL_AWAY: Final = "cannot be reached"
