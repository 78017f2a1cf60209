"""The activities of saving."""

import asyncio
import time
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from temporalio import activity

from activities.errors import to_failure
from activities.heartbeat import heartbeating
from activities.saving.flush import Flusher, is_one_tenants, sqlstate_of
from activities.saving.importer import Importer
from activities.saving.names import READ_STEP, SAVE_STEP
from activities.steps import StepKeeper
from core.metrics import WorkerMetrics
from domain.errors import DatabaseUnavailable, LonghaulError
from domain.saving import FlushStreamResult, ImportProgress, ImportStepInput, StreamInput

_log = structlog.get_logger(__name__)

_FLUSH_SECONDS: Final = 20.0
_IMPORT_SECONDS: Final = 45.0
_LOOK_SECONDS: Final = 0.25
_REFUSES: Final = "PostgreSQL refuses to save for now (SQLSTATE {})"


class SavingActivities:
    """Bringing the records of a stream home, and the two steps of an import."""

    def __init__(self, flusher: Flusher, importer: Importer, keeper: StepKeeper, metrics: WorkerMetrics) -> None:
        self._flusher = flusher
        self._importer = importer
        self._keeper = keeper
        self._metrics = metrics

    @activity.defn(name="flush_stream")
    async def flush_stream(self, stream: StreamInput) -> FlushStreamResult:
        """Bring home what waits in a stream, tenant by tenant, for some seconds at most.

        Every transaction stands for itself, so that dying between or in them, or running twice, does no harm.
        """
        async with heartbeating():
            try:
                await self._flusher.take_over(stream)
                return await self._drain(stream)
            except (psycopg.Error, LonghaulError) as fault:
                error = self._count_fault(stream, fault)
                raise to_failure(error) from None

    async def _drain(self, stream: StreamInput) -> FlushStreamResult:
        """Tenant by tenant: where one has trouble of its own the others go on, and the trouble is raised last."""
        until, records = time.monotonic() + _FLUSH_SECONDS, 0
        faults: dict[UUID, LonghaulError] = {}
        while tenants := [one for one in await self._flusher.get_waiting_tenants(stream) if one not in faults]:
            before = records
            for tenant_id in tenants:
                try:
                    records += await self._flush(stream, tenant_id)
                except (psycopg.Error, DatabaseUnavailable) as fault:
                    if not is_one_tenants(fault):
                        raise
                    faults[tenant_id] = self._count_fault(stream, fault)
                if time.monotonic() > until:
                    return FlushStreamResult(records=records, drained=False)
            if records == before:  # somebody else has in hand what is left
                break
        for error in faults.values():
            raise to_failure(error) from None
        return FlushStreamResult(records=records, drained=True)

    def _count_fault(self, stream: StreamInput, fault: psycopg.Error | LonghaulError) -> LonghaulError:
        """Count it and tell of it; in our words, as those of the driver quote values."""
        sqlstate = sqlstate_of(fault)
        error = fault if isinstance(fault, LonghaulError) else DatabaseUnavailable(_REFUSES.format(sqlstate))
        _log.warning(
            "saving.flush_failed",
            collection=stream.collection, shard=stream.shard, code=error.code, sqlstate=sqlstate,
        )  # fmt: skip
        self._metrics.count_flush_fault(collection=stream.collection, code=error.code)
        return error

    async def _flush(self, stream: StreamInput, tenant_id: UUID) -> int:
        started = time.perf_counter()
        records = await self._flusher.flush(stream, tenant_id)
        if records:
            self._metrics.count_flush(
                collection=stream.collection, records=records, seconds=time.perf_counter() - started
            )
        return records

    @activity.defn(name="import_records")
    async def import_records(self, step: ImportStepInput) -> ImportProgress:
        """Read the file on from where the last committed transaction was, for some seconds at most."""
        async with heartbeating(), self._keeper.attempt(step.job, READ_STEP):
            until = time.monotonic() + _IMPORT_SECONDS
            while time.monotonic() < until:
                if await self._importer.read_on(step.job):
                    return ImportProgress(done=True)
            return ImportProgress(done=False)

    @activity.defn(name="await_saved")
    async def await_saved(self, step: ImportStepInput) -> ImportProgress:
        """Wait, for some seconds at most, until nothing of the import is pending any more."""
        async with heartbeating(), self._keeper.attempt(step.job, SAVE_STEP):
            until = time.monotonic() + _IMPORT_SECONDS
            while time.monotonic() < until:
                if await self._importer.is_saved(step.job):
                    return ImportProgress(done=True)
                await asyncio.sleep(_LOOK_SECONDS)
            return ImportProgress(done=False)

    @activity.defn(name="sum_up_import")
    async def sum_up_import(self, step: ImportStepInput) -> dict[str, Any]:
        """The result of an import: its counters."""
        return await self._importer.get_result(step.job)
