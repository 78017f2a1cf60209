"""Use cases on schedules, for one tenant at a time. What returns from here is committed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.ids import new_id
from domain.errors import FieldFault, IdempotencyMismatch, InvalidInput, NotFound, TemporalUnavailable
from domain.schedules import (
    SCHEDULE_LABEL,
    Backfill,
    Overlap,
    ScheduleChange,
    ScheduleWish,
)
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from repositories.schedules import ScheduleRepository
from repositories.tenants import IdempotencyRepository
from services.kinds import KindRegistry, parse_input
from services.schedules.clock import Clock, Standing
from services.schedules.keeper import LEASE, Teller

LAST_RUNS: Final = 10
"""How many of its last jobs a schedule shows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A schedule, how it stands with Temporal where that is known, and its last jobs, newest first."""

    row: AnyRow
    standing: Standing | None
    runs: Sequence[AnyRow]


@dataclass(frozen=True, slots=True)
class Created:
    """A schedule that is written down; ``replayed`` where an earlier request with the same key had done so."""

    shown: Shown
    replayed: bool


class ScheduleService:
    """Use cases on schedules."""

    def __init__(self, database: Database, kinds: KindRegistry, clock: Clock, *, keep_keys: timedelta) -> None:
        self._database = database
        self._keep_keys = keep_keys
        self._kinds = kinds
        self._clock = clock
        self._teller = Teller(database, clock)

    async def create(self, tenant_id: UUID, wish: ScheduleWish, *, key: str | None) -> Created:
        """Write a schedule down, then tell Temporal; the same wish under the same key is the same schedule.

        Raises InvalidInput, also for what the kind refuses, IdempotencyMismatch, and NotFound where the schedule of
        this key was deleted meanwhile.
        """
        kind = self._kinds.get(wish.kind)
        checked, summary = await self._checked_input(tenant_id, wish.kind, wish.input)
        schedule_id = new_id()
        values = {
            "id": schedule_id,
            "tenant_id": tenant_id,
            "name": wish.name,
            "kind": kind.name,
            "input": checked,
            "spec": wish.spec.model_dump(mode="json"),
            "overlap": wish.overlap,
            "catchup_window_seconds": int(wish.catchup_window.total_seconds()),
            "pause_on_failure": wish.pause_on_failure,
            "paused": wish.paused,
            "priority": wish.priority,
            "labels": wish.labels,
            "summary": summary,
        }
        async with self._database.tenant(tenant_id) as connection:
            earlier = await self._earlier(connection, tenant_id, wish, key=key, schedule_id=schedule_id)
            if earlier is not None:
                row = await ScheduleRepository(connection).get_one(earlier)
            else:
                row = await ScheduleRepository(connection).add(values, lease=LEASE)
        return Created(await self._tell(tenant_id, row), replayed=earlier is not None)

    async def get(self, tenant_id: UUID, schedule_id: UUID) -> Shown:
        """The schedule as it stands. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            row = await ScheduleRepository(connection).get_one(schedule_id)
        return await self._shown(tenant_id, row)

    async def list_page(self, tenant_id: UUID, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Up to ``limit`` schedules, newest first, older than ``before``."""
        async with self._database.tenant(tenant_id) as connection:
            return await ScheduleRepository(connection).get_page(limit=limit, before=before)

    async def change(self, tenant_id: UUID, schedule_id: UUID, wish: ScheduleChange) -> Shown:
        """Change what is named. Raises NotFound and InvalidInput."""
        async with self._database.tenant(tenant_id) as connection:
            before = await ScheduleRepository(connection).get_one(schedule_id)
        dumped = wish.model_dump(mode="json", exclude={"catchup_window", "input"})
        values: dict[str, Any] = {name: value for name, value in dumped.items() if name in wish.model_fields_set}
        # Only a name may be taken away; for everything else null means: as it was.
        values = {name: value for name, value in values.items() if value is not None or name == "name"}
        if wish.catchup_window is not None:
            values["catchup_window_seconds"] = int(wish.catchup_window.total_seconds())
        if wish.input is not None:
            values["input"], values["summary"] = await self._checked_input(tenant_id, before.kind, wish.input)
        return await self._change(tenant_id, schedule_id, values)

    async def set_paused(self, tenant_id: UUID, schedule_id: UUID, *, paused: bool, note: str | None) -> Shown:
        """Pause or resume; doing it twice changes nothing but the note. Raises NotFound."""
        return await self._change(tenant_id, schedule_id, {"paused": paused, "note": note})

    async def delete(self, tenant_id: UUID, schedule_id: UUID) -> None:
        """No further run is started; jobs in progress go on. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            repository = ScheduleRepository(connection)
            row = await repository.get_one(schedule_id)
            await repository.change(schedule_id, {"deleted_at": func.now(), "paused": True}, lease=LEASE)
        await self._teller.tell(row.id)

    async def trigger(self, tenant_id: UUID, schedule_id: UUID, overlap: Overlap | None, *, key: str | None) -> Shown:
        """Run now; with the same key only once. Raises NotFound, and TemporalUnavailable where nothing was done."""
        await self._ready(tenant_id, schedule_id)
        await self._clock.trigger(schedule_id, overlap, request_id=_request_id("trigger", schedule_id, key))
        return await self.get(tenant_id, schedule_id)

    async def backfill(self, tenant_id: UUID, schedule_id: UUID, wish: Backfill, *, key: str | None) -> Shown:
        """Run for times gone by; with the same key only once.

        Raises NotFound, InvalidInput for times to come, and TemporalUnavailable where nothing was done.
        """
        if wish.end_at > datetime.now(UTC):
            raise InvalidInput("the time is not possible", faults=[FieldFault("/end_at", "lies in the future")])
        await self._ready(tenant_id, schedule_id)
        await self._clock.backfill(schedule_id, wish, request_id=_request_id("backfill", schedule_id, key))
        return await self.get(tenant_id, schedule_id)

    # ------------------------------------------------------------------------------------------------

    async def _checked_input(self, tenant_id: UUID, kind_name: str, raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
        kind = self._kinds.get(kind_name)
        parsed = parse_input(kind, raw)
        if kind.check is not None:
            await kind.check(tenant_id, parsed)
        return parsed.model_dump(mode="json"), kind.summary(parsed)

    async def _earlier(
        self, connection: AsyncConnection, tenant_id: UUID, wish: ScheduleWish, *, key: str | None, schedule_id: UUID
    ) -> UUID | None:
        if key is None:
            return None
        meant = hashlib.sha256(orjson.dumps(["schedule", wish.model_dump(mode="json")])).digest()
        bound = await IdempotencyRepository(connection).claim(
            tenant_id=tenant_id, key=key, request_hash=meant, job_id=schedule_id, keep=self._keep_keys
        )
        if bound is None:
            return None
        if bound.request_hash != meant:
            raise IdempotencyMismatch("this idempotency key was used with a different request")
        earlier: UUID = bound.job_id
        return earlier

    async def _change(self, tenant_id: UUID, schedule_id: UUID, values: dict[str, Any]) -> Shown:
        async with self._database.tenant(tenant_id) as connection:
            row = await ScheduleRepository(connection).change(schedule_id, values, lease=LEASE)
        return await self._tell(tenant_id, row)

    async def _tell(self, tenant_id: UUID, row: AnyRow) -> Shown:
        await self._teller.tell(row.id)
        return await self.get(tenant_id, row.id)

    async def _ready(self, tenant_id: UUID, schedule_id: UUID) -> None:
        """Make sure that Temporal knows the schedule as it is. Raises NotFound and TemporalUnavailable."""
        async with self._database.tenant(tenant_id) as connection:
            await ScheduleRepository(connection).get_one(schedule_id)
        if not await self._teller.tell(schedule_id):
            raise TemporalUnavailable("Temporal cannot be reached; nothing was started")

    async def _shown(self, tenant_id: UUID, row: AnyRow) -> Shown:
        standing = None
        if row.told_version == row.version:
            try:
                standing = await self._clock.describe(row.id)
            except (TemporalUnavailable, NotFound):
                standing = None
        async with self._database.tenant(tenant_id) as connection:
            wanted = JobFilter(labels={SCHEDULE_LABEL: str(row.id)})
            runs = await JobRepository(connection).get_page(wanted, limit=LAST_RUNS, before=None)
        return Shown(row, standing, runs)


def _request_id(what: str, schedule_id: UUID, key: str | None) -> str:
    if key is None:
        return str(new_id())
    return hashlib.sha256(f"{what}\x1f{schedule_id}\x1f{key}".encode()).hexdigest()[:32]
