"""Keeps Temporal's schedules what our rows say, and our rows what operators and failures made of them."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import select, update

from core.database import Database
from domain.errors import DatabaseUnavailable, NotFound, TemporalUnavailable
from repositories.rows import AnyRow
from repositories.schedules import ScheduleRepository
from repositories.tables import schedules
from services.schedules.clock import Clock

_log = structlog.get_logger(__name__)

LEASE: Final = timedelta(seconds=5)
"""How long keepers leave a fresh change to the request that made it."""

_BATCH: Final = 50
_POLL_SECONDS: Final = 5.0
_PAUSE: Final = timedelta(seconds=5)


class Teller:
    """Tells Temporal one schedule at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def tell(self, schedule_id: UUID) -> bool:
        """Tell Temporal the schedule as it stands; False where it cannot be told, so that a keeper has to.

        The row stays locked meanwhile: an older version can never be told after a newer one.
        """
        async with self._database.system() as connection:
            repository = ScheduleRepository(connection)
            row = await repository.lock_untold(schedule_id)
            if row is None:
                return True
            try:
                await self._clock.tell(row)
            except (NotFound, TemporalUnavailable) as fault:
                # Not found: it was there when it was to be made, and gone when it was to be changed.
                _log.warning("schedule.put_off", schedule_id=str(schedule_id), fault=fault.detail)
                await repository.postpone(schedule_id, by=_PAUSE)
                return False
            if row.deleted_at is None:
                await repository.told(schedule_id, row.version)
            else:
                await repository.forget(schedule_id)
            return True


class ScheduleKeeper:
    """The loop of a worker process. Any number may run side by side."""

    def __init__(self, database: Database, clock: Clock, *, interval: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._teller = Teller(database, clock)
        self._interval = interval
        self._wake = asyncio.Event()

    def wake(self, _payload: str = "") -> None:
        """Look for changes now."""
        self._wake.set()

    async def run(self) -> None:
        """Tell and compare until canceled."""
        now = asyncio.get_running_loop().time
        compared = now()
        while True:
            self._wake.clear()
            try:
                await self.tell_all()
                if now() - compared >= self._interval.total_seconds():
                    compared = now()
                    await self.compare()
            except (DatabaseUnavailable, NotFound, TemporalUnavailable) as fault:
                _log.warning("schedules.postponed", fault=fault.detail)
            await self._sleep()

    async def tell_all(self) -> None:
        """Tell Temporal everything that is due."""
        async with self._database.system() as connection:
            due = await ScheduleRepository(connection).get_untold(limit=_BATCH)
        for schedule_id in due:
            await self._teller.tell(schedule_id)

    async def compare(self) -> None:
        """Adopt what was paused or resumed in Temporal; tell it again what it has lost. Raises TemporalUnavailable."""
        rows = await self._settled()
        listed = await self._clock.paused_by_id() if rows else {}
        for row in rows:
            if listed.get(row.id) != row.paused:
                await self._compare_one(row)

    async def _settled(self) -> Sequence[AnyRow]:
        async with self._database.system() as connection:
            query = select(schedules.c.id, schedules.c.version, schedules.c.paused).where(
                schedules.c.told_version == schedules.c.version, schedules.c.deleted_at.is_(None)
            )
            return (await connection.execute(query)).all()

    async def _compare_one(self, row: AnyRow) -> None:
        """The list may lag, so the schedule itself is asked."""
        try:
            standing = await self._clock.describe(row.id)
        except NotFound:
            async with self._database.system() as connection:
                await connection.execute(
                    update(schedules)
                    .where(schedules.c.id == row.id, schedules.c.version == row.version)
                    .values(told_version=0)
                )
            _log.warning("schedule.lost", schedule_id=str(row.id))
            return
        if standing.paused == row.paused:
            return
        async with self._database.system() as connection:
            await ScheduleRepository(connection).adopt_pause(
                row.id, version=row.version, paused=standing.paused, note=standing.note
            )
        _log.info("schedule.adopted", schedule_id=str(row.id), paused=standing.paused)

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass
