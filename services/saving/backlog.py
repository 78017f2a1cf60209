"""How much waits in the inbox, and when that is too much. Looked at every second, so that no request has to ask."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from core.database import Database
from domain.errors import DatabaseUnavailable, InboxFull
from repositories.saving.batches import measure_inbox

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
_MOST_OF_THE_TIME: Final = 0.1  # how much of its time a process may spend on looking


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """How much may wait: records, their bytes, and how long the oldest may."""

    records: int
    bytes: int
    age_seconds: float


class Backlog:
    """What waits in the inbox of the installation, as of a second ago, with what this process has added since."""

    def __init__(self, database: Database, limits: InboxLimits) -> None:
        self._database = database
        self._limits = limits
        self.records = 0
        self.bytes = 0
        self.age_seconds = 0.0

    def add(self, records: int, length: int) -> None:
        """So much has come in just now."""
        self.records += records
        self.bytes += length

    def expect_room(self) -> None:
        """Raise InboxFull where one of the limits is passed."""
        limits = self._limits
        for what, there, most in (
            ("records wait", self.records, limits.records),
            ("bytes wait", self.bytes, limits.bytes),
            ("seconds is the age of the oldest record that waits", self.age_seconds, limits.age_seconds),
        ):
            if there >= most:
                raise InboxFull(f"{there:.0f} {what} to be saved; the limit is {most:.0f}", retry_after=_RETRY)

    async def run(self) -> None:
        """Look until canceled."""
        while True:
            started = time.monotonic()
            try:
                await self.refresh()
            except DatabaseUnavailable as fault:
                _log.warning("backlog.unknown", fault=fault.detail)
            took = time.monotonic() - started
            await asyncio.sleep(max(_LOOK_SECONDS, took / _MOST_OF_THE_TIME))

    async def refresh(self) -> None:
        """Look now."""
        async with self._database.system() as connection:
            self.records, self.bytes, self.age_seconds = await measure_inbox(connection)


_RETRY: Final = timedelta(seconds=5)
