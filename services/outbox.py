"""The loop around every outbox in our tables: take what is due, sleep until the next is, wake when something comes."""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

import structlog

from domain.errors import DatabaseUnavailable

_log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 5.0
"""The longest sleep of a loop that was not told of anything."""


class OutboxLoop(ABC):
    """Works through an outbox, batch by batch. ``name`` is what its log lines begin with."""

    name: str

    def __init__(self) -> None:
        self._wake = asyncio.Event()

    def wake(self, _payload: str = "") -> None:
        """Look for work now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until canceled; a database that is away is waited for."""
        while True:
            self._wake.clear()
            try:
                busy = await self.work_once()
                pause = 0.0 if busy else await self._time_to_next()
            except DatabaseUnavailable as fault:
                _log.warning(f"{self.name}.database_unavailable", fault=fault.detail)
                busy, pause = False, POLL_SECONDS
            if not busy:
                await self._sleep(pause)

    @abstractmethod
    async def work_once(self) -> bool:
        """Claim one batch and work it off; whether more may wait."""

    @abstractmethod
    async def _time_to_next(self) -> float:
        """The seconds until something is due, as far as is known."""

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
