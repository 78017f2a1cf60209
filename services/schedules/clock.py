"""Telling Temporal about schedules, and asking it how they stand. Telling twice is harmless."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from temporalio.api.schedule.v1 import BackfillRequest, SchedulePatch, TriggerImmediatelyRequest
from temporalio.api.workflowservice.v1 import PatchScheduleRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.client import ScheduleSpec as TemporalSpec
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from domain.errors import NotFound, TemporalUnavailable
from domain.schedules import Backfill, Calendar, Overlap, ScheduleRef, ScheduleSpec, Span
from repositories.rows import AnyRow
from services.commands import JOB_KIND, TENANT
from workflows.schedules import RUN_WORKFLOW, TASK_QUEUE, RunInput

_OVERLAP: Final = {
    Overlap.SKIP: ScheduleOverlapPolicy.SKIP,
    Overlap.BUFFER_ONE: ScheduleOverlapPolicy.BUFFER_ONE,
    Overlap.BUFFER_ALL: ScheduleOverlapPolicy.BUFFER_ALL,
    Overlap.CANCEL_OTHER: ScheduleOverlapPolicy.CANCEL_OTHER,
    Overlap.ALLOW_ALL: ScheduleOverlapPolicy.ALLOW_ALL,
}
_PREFIX: Final = "schedule/"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a schedule stands with Temporal."""

    next_times: tuple[datetime, ...]
    missed: int
    skipped: int
    runs: int
    paused: bool
    note: str | None


def temporal_id(schedule_id: UUID) -> str:
    """The id of a schedule in Temporal; its runs have it with their time appended."""
    return f"{_PREFIX}{schedule_id}"


def schedule_id_of(name: str) -> UUID | None:
    """The schedule behind an id of Temporal's, or None where it is not one of ours."""
    if not name.startswith(_PREFIX):
        return None
    try:
        return UUID(name.removeprefix(_PREFIX))
    except ValueError:
        return None


class Clock:
    """Temporal's schedules. Every method raises TemporalUnavailable where it does not answer in time."""

    def __init__(self, client: Client, *, timeout: timedelta) -> None:
        self._client = client
        self._timeout = timeout

    async def tell(self, row: AnyRow) -> None:
        """Make the schedule in Temporal what the row says.

        Whether it is paused is said only where Temporal counts as told nothing (``told_version`` is zero): otherwise
        nothing of ours is about the pause, and what an operator did in Temporal's UI a moment ago stays.
        """
        async with self._bounded():
            if row.deleted_at is not None:
                await self._delete(row.id)
                return
            wanted = _schedule(row)
            try:
                await self._client.create_schedule(
                    temporal_id(row.id),
                    wanted,
                    search_attributes=_attributes(row),
                    rpc_timeout=self._timeout,
                )
            except ScheduleAlreadyRunningError:
                await self._update(row, wanted)

    async def describe(self, schedule_id: UUID) -> Standing:
        """How the schedule stands. Raises NotFound where Temporal has none."""
        async with self._bounded():
            handle = self._client.get_schedule_handle(temporal_id(schedule_id))
            return _standing(await handle.describe(rpc_timeout=self._timeout))

    async def trigger(self, schedule_id: UUID, overlap: Overlap | None, *, request_id: str) -> None:
        """Run now. The same ``request_id`` again does nothing. Raises NotFound."""
        request = TriggerImmediatelyRequest()
        if overlap is not None:
            request.overlap_policy = _OVERLAP[overlap].value  # type: ignore[assignment]
        await self._patch(schedule_id, SchedulePatch(trigger_immediately=request), request_id)

    async def backfill(self, schedule_id: UUID, wish: Backfill, *, request_id: str) -> None:
        """Run for times gone by. The same ``request_id`` again does nothing. Raises NotFound."""
        request = BackfillRequest()
        # Temporal leaves the first moment out; we take both ends in.
        request.start_time.FromDatetime(wish.start_at - timedelta(seconds=1))
        request.end_time.FromDatetime(wish.end_at)
        if wish.overlap is not None:
            request.overlap_policy = _OVERLAP[wish.overlap].value  # type: ignore[assignment]
        await self._patch(schedule_id, SchedulePatch(backfill_request=[request]), request_id)

    async def paused_by_id(self) -> dict[UUID, bool]:
        """Every schedule of ours that Temporal lists, and whether it is paused. The list may lag by a moment."""
        async with self._bounded(slack=timedelta(seconds=30)):
            found = await self._client.list_schedules(page_size=500)
            listed = {}
            async for entry in found:
                schedule_id = schedule_id_of(entry.id)
                if schedule_id is not None and entry.schedule is not None:
                    listed[schedule_id] = entry.schedule.state.paused
            return listed

    async def _update(self, row: AnyRow, wanted: Schedule) -> None:
        def replace(before: ScheduleUpdateInput) -> ScheduleUpdate:
            if row.told_version > 0:
                wanted.state = before.description.schedule.state
            return ScheduleUpdate(schedule=wanted)

        await self._client.get_schedule_handle(temporal_id(row.id)).update(replace, rpc_timeout=self._timeout)

    async def _delete(self, schedule_id: UUID) -> None:
        try:
            await self._client.get_schedule_handle(temporal_id(schedule_id)).delete(rpc_timeout=self._timeout)
        except RPCError as fault:
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def _patch(self, schedule_id: UUID, patch: SchedulePatch, request_id: str) -> None:
        request = PatchScheduleRequest(
            namespace=self._client.namespace,
            schedule_id=temporal_id(schedule_id),
            patch=patch,
            identity=self._client.identity,
            request_id=request_id,
        )
        async with self._bounded():
            await self._client.workflow_service.patch_schedule(request, timeout=self._timeout)

    @asynccontextmanager
    async def _bounded(self, slack: timedelta = timedelta(0)) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout((2 * self._timeout + slack).total_seconds()):
                yield
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                raise NotFound("Temporal has no such schedule") from fault
            raise TemporalUnavailable(f"Temporal did not answer: {fault.status.name}") from fault
        except (RuntimeError, TimeoutError) as fault:
            # RuntimeError is how a lazy client says that it cannot connect.
            raise TemporalUnavailable("Temporal cannot be reached") from fault


def _schedule(row: AnyRow) -> Schedule:
    ref = ScheduleRef(tenant_id=row.tenant_id, schedule_id=row.id)
    action = ScheduleActionStartWorkflow(
        RUN_WORKFLOW,
        RunInput(schedule=ref),
        id=temporal_id(row.id),
        task_queue=TASK_QUEUE,
        static_summary=row.summary,
        typed_search_attributes=_attributes(row),
        priority=Priority(priority_key=row.priority, fairness_key=str(row.tenant_id)),
    )
    return Schedule(
        action=action,
        spec=_spec(ScheduleSpec.model_validate(row.spec)),
        policy=SchedulePolicy(
            overlap=_OVERLAP[Overlap(row.overlap)],
            catchup_window=timedelta(seconds=row.catchup_window_seconds),
            pause_on_failure=row.pause_on_failure,
        ),
        state=ScheduleState(paused=row.paused, note=row.note),
    )


def _attributes(row: AnyRow) -> TypedSearchAttributes:
    pairs = [SearchAttributePair(TENANT, str(row.tenant_id)), SearchAttributePair(JOB_KIND, str(row.kind))]
    return TypedSearchAttributes(pairs)


def _spec(spec: ScheduleSpec) -> TemporalSpec:
    return TemporalSpec(
        cron_expressions=list(spec.cron),
        intervals=[ScheduleIntervalSpec(every=one.every, offset=one.offset) for one in spec.interval],
        calendars=[_calendar(one) for one in spec.calendar],
        skip=[_calendar(one) for one in spec.skip],
        time_zone_name=spec.time_zone,
        jitter=spec.jitter or None,
        start_at=spec.start_at,
        end_at=spec.end_at,
    )


def _calendar(calendar: Calendar) -> ScheduleCalendarSpec:
    def ranges(spans: tuple[Span, ...]) -> list[ScheduleRange]:
        return [ScheduleRange(span.start, span.end, span.step) for span in spans]

    return ScheduleCalendarSpec(
        second=ranges(calendar.second),
        minute=ranges(calendar.minute),
        hour=ranges(calendar.hour),
        day_of_month=ranges(calendar.day_of_month),
        month=ranges(calendar.month),
        year=ranges(calendar.year),
        day_of_week=ranges(calendar.day_of_week),
    )


def _standing(found: ScheduleDescription) -> Standing:
    info, state = found.info, found.schedule.state
    return Standing(
        next_times=tuple(info.next_action_times),
        missed=info.num_actions_missed_catchup_window,
        skipped=info.num_actions_skipped_overlap,
        runs=info.num_actions,
        paused=state.paused,
        note=state.note or None,
    )
