"""Schedules: the wishes of tenants, and which of them Temporal does not know yet."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound
from repositories.rows import AnyRow
from repositories.tables import schedules

CHANNEL: Final = "longhaul_schedules"
"""NOTIFY channel that wakes the keepers of schedules."""


class ScheduleRepository:
    """The schedules of one tenant or, in a system transaction, of all."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_one(self, schedule_id: UUID) -> AnyRow:
        """The schedule. Raises NotFound, also where it was deleted."""
        query = select(schedules).where(schedules.c.id == schedule_id, schedules.c.deleted_at.is_(None))
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such schedule")
        return found

    async def get_page(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Up to ``limit`` schedules, newest first, older than ``before``."""
        query = select(schedules).where(schedules.c.deleted_at.is_(None))
        if before is not None:
            query = query.where(schedules.c.id < before)
        found: Sequence[AnyRow] = (
            await self._connection.execute(query.order_by(schedules.c.id.desc()).limit(limit))
        ).all()
        return found

    async def lock_untold(self, schedule_id: UUID) -> AnyRow | None:
        """The schedule, locked, if Temporal does not know its present version; deleted ones too."""
        query = select(schedules).where(schedules.c.id == schedule_id, schedules.c.told_version < schedules.c.version)
        return (await self._connection.execute(query.with_for_update(key_share=True))).one_or_none()

    async def get_untold(self, *, limit: int) -> Sequence[UUID]:
        """Schedules that Temporal is to be told about now, longest waiting first."""
        query = (
            select(schedules.c.id)
            .where(schedules.c.told_version < schedules.c.version, schedules.c.not_before <= func.now())
            .order_by(schedules.c.not_before)
            .limit(limit)
        )
        return (await self._connection.execute(query)).scalars().all()

    # --- changes ------------------------------------------------------------------------------------

    async def add(self, values: Mapping[str, Any], *, lease: timedelta) -> AnyRow:
        """Write a schedule down; keepers leave it to the caller for the length of ``lease``."""
        row = {**values, "not_before": func.now() + lease}
        made: AnyRow = (await self._connection.execute(insert(schedules).values(row).returning(schedules))).one()
        await self._wake()
        return made

    async def change(self, schedule_id: UUID, values: Mapping[str, Any], *, lease: timedelta) -> AnyRow:
        """Change a schedule, one version further. Raises NotFound.

        Where ``paused`` is among the values, Temporal counts as told nothing: it is to be told the pause as well.
        """
        if "paused" in values:
            values = {**values, "told_version": 0}
        statement = (
            update(schedules)
            .where(schedules.c.id == schedule_id, schedules.c.deleted_at.is_(None))
            .values(**values, version=schedules.c.version + 1, updated_at=func.now(), not_before=func.now() + lease)
            .returning(schedules)
        )
        found: AnyRow | None = (await self._connection.execute(statement)).one_or_none()
        if found is None:
            raise NotFound("there is no such schedule")
        await self._wake()
        return found

    async def adopt_pause(self, schedule_id: UUID, *, version: int, paused: bool, note: str | None) -> bool:
        """Temporal, or an operator in its UI, has paused or resumed; not a change of ours, so no newer version.

        False where the schedule has changed since.
        """
        statement = (
            update(schedules)
            .where(schedules.c.id == schedule_id, schedules.c.version == version)
            .values(paused=paused, note=note, updated_at=func.now())
            .returning(schedules.c.id)
        )
        return (await self._connection.execute(statement)).one_or_none() is not None

    async def set_trouble(self, schedule_id: UUID, trouble: dict[str, Any] | None) -> None:
        """Why the latest run has made no job; None once one has."""
        unlike = schedules.c.trouble.is_distinct_from(None) if trouble is None else schedules.c.id == schedule_id
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id, unlike).values(trouble=trouble)
        )

    async def told(self, schedule_id: UUID, version: int) -> None:
        """Temporal knows this version."""
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id).values(told_version=version)
        )

    async def postpone(self, schedule_id: UUID, *, by: timedelta) -> None:
        """Tell Temporal later."""
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id).values(not_before=func.now() + by)
        )

    async def forget(self, schedule_id: UUID) -> None:
        """Temporal has no trace of the schedule any more, and neither have we."""
        await self._connection.execute(
            delete(schedules).where(schedules.c.id == schedule_id, schedules.c.deleted_at.is_not(None))
        )

    async def _wake(self) -> None:
        await self._connection.execute(select(func.pg_notify(CHANNEL, "")))
