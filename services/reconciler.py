"""Keeps the jobs table honest when workflows end, or begin again, behind our back.

An operator may terminate, reset or delete a workflow in the Temporal UI; a namespace may have been lost. Two sweeps
compare: recent ends and beginnings from Temporal's visibility, and slowly every admitted job that is not finished.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import func
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from core.database import Database
from core.metrics import WorkerMetrics
from domain.errors import TITLES, DatabaseUnavailable
from domain.jobs import TERMINAL, JobRef, JobStatus, StepStatus, job_id_of, workflow_id
from repositories.commands import CommandRepository
from repositories.generation import delete_expired_answers
from repositories.jobs import OPEN, JobRepository, settled_cost
from repositories.rows import AnyRow
from repositories.steps import StepRepository
from repositories.tenants import IdempotencyRepository
from repositories.workers import WorkerRepository

_log = structlog.get_logger(__name__)

_LOOK_BACK: Final = timedelta(minutes=5)
"""How far the first sweep of a process goes back; each further one goes to where the last good one began."""
_OVERLAP: Final = timedelta(seconds=30)
"""Visibility may lag behind by this much."""
_REST: Final = timedelta(seconds=30)
_BATCH: Final = 200
_RPC_TIMEOUT: Final = timedelta(seconds=5)
_CLOSED: Final = "ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed', 'Canceled', 'Completed')"
_LOST_WORKER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _End:
    status: JobStatus
    code: str | None


_ENDS: Final = {
    WorkflowExecutionStatus.TERMINATED: _End(JobStatus.FAILED, "E.JOB.TERMINATED"),
    WorkflowExecutionStatus.TIMED_OUT: _End(JobStatus.FAILED, "E.JOB.TIMED_OUT"),
    WorkflowExecutionStatus.FAILED: _End(JobStatus.FAILED, "E.JOB.CRASHED"),
    WorkflowExecutionStatus.CANCELED: _End(JobStatus.CANCELED, None),
    # A workflow that completed wrote its end down itself. Where it did not, something is wrong.
    WorkflowExecutionStatus.COMPLETED: _End(JobStatus.FAILED, "E.JOB.CRASHED"),
}


class Reconciler:
    """Compares jobs with their workflows. Any number may run side by side; every correction is made once."""

    def __init__(self, database: Database, client: Client, metrics: WorkerMetrics, *, interval: timedelta) -> None:
        self._database = database
        self._client = client
        self._metrics = metrics
        self._interval = interval
        self._swept = datetime.now(UTC) - _LOOK_BACK

    async def run(self) -> None:
        """Sweep until canceled."""
        while True:
            try:
                await self.sweep()
            except (RPCError, DatabaseUnavailable) as fault:
                _log.warning("reconciler.postponed", fault=str(fault))
            await asyncio.sleep(self._interval.total_seconds())

    async def sweep(self) -> None:
        """One comparison. Raises RPCError and DatabaseUnavailable where a side is away."""
        began = datetime.now(UTC)
        since = (self._swept - _OVERLAP).isoformat()
        async for ended in self._pages(f"{_CLOSED} AND CloseTime > '{since}'"):
            await self._compare_ended(ended)
        async for begun in self._pages(f"ExecutionStatus = 'Running' AND StartTime > '{since}'"):
            await self._compare_running(begun)
        self._swept = began
        await self._compare_quiet()
        await self._tidy()

    # --- what visibility tells ----------------------------------------------------------------------

    async def _pages(self, query: str) -> AsyncIterator[Sequence[WorkflowExecution]]:
        found = self._client.list_workflows(query, page_size=_BATCH)
        while True:
            await found.fetch_next_page()
            yield found.current_page or ()
            if not found.next_page_token:
                return

    async def _compare_ended(self, runs: Sequence[WorkflowExecution]) -> None:
        jobs = await self._jobs_of(runs)
        for run in runs:
            row = jobs.get(job_id_of(run.id))
            if row is not None and JobStatus(row.status) in OPEN and row.run_id in {None, run.run_id}:
                await self._check(row)

    async def _compare_running(self, runs: Sequence[WorkflowExecution]) -> None:
        jobs = await self._jobs_of(runs)
        for run in runs:
            row = jobs.get(job_id_of(run.id))
            if row is None or row.run_id is None or row.run_id == run.run_id:
                continue
            description = await self._client.get_workflow_handle(run.id).describe(rpc_timeout=_RPC_TIMEOUT)
            is_reset = await description.memo_value("attempt", default=1) == row.attempt
            if is_reset and description.status is WorkflowExecutionStatus.RUNNING:
                await self._follow_reset(row, description.run_id)

    async def _jobs_of(self, runs: Sequence[WorkflowExecution]) -> dict[UUID | None, AnyRow]:
        wanted = {job_id for run in runs if (job_id := job_id_of(run.id)) is not None}
        async with self._database.system() as connection:
            return {row.id: row for row in await JobRepository(connection).get_states(sorted(wanted))}

    # --- every job in turn --------------------------------------------------------------------------

    async def _compare_quiet(self) -> None:
        async with self._database.system() as connection:
            repository = JobRepository(connection)
            rows = await repository.get_unreconciled(older_than=datetime.now(UTC) - _REST, limit=_BATCH)
            await repository.mark_reconciled([row.id for row in rows])
        for row in rows:
            await self._check(row)

    async def _check(self, row: AnyRow) -> None:
        """Compare one unfinished job with its latest run."""
        async with self._database.system() as connection:
            if row.status == JobStatus.QUEUED and await CommandRepository(connection).is_to_be_started(row.id):
                return
        try:
            handle = self._client.get_workflow_handle(workflow_id(row.kind, row.id))
            found = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
        except RPCError as fault:
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise
            await self._correct(row, _End(JobStatus.FAILED, "E.JOB.VANISHED"))
            return
        if await found.memo_value("attempt", default=1) != row.attempt:
            return
        if found.status is WorkflowExecutionStatus.RUNNING:
            if row.run_id not in {None, found.run_id}:
                await self._follow_reset(row, found.run_id)
            return
        end = _ENDS.get(found.status) if found.status is not None else None
        if end is not None:
            await self._correct(row, end)

    # --- corrections --------------------------------------------------------------------------------

    async def _correct(self, row: AnyRow, end: _End) -> None:
        """The workflow is over and nobody wrote it down."""
        error = None
        if end.code is not None:
            title = TITLES[end.code]
            error = {"type": f"urn:longhaul:error:{end.code}", "title": title, "detail": title, "code": end.code}
        # On behalf of the tenant, because the platform does not see what calls cost.
        async with self._database.tenant(row.tenant_id) as connection:
            repository = JobRepository(connection)
            # Locked first, so that calls that are being settled at this moment are in the sum.
            if not await repository.lock_attempt(_ref(row)):
                return
            await repository.record(
                job_id=row.id,
                attempt=row.attempt,
                event=f"job.{end.status.value}",
                data={"found_by": "reconciler", **({"code": end.code} if end.code else {})},
                values={
                    "status": end.status,
                    "error": error,
                    "error_code": end.code,
                    "finished_at": func.now(),
                    "waiting_on": None,
                    **settled_cost,
                },
            )
            closed = StepStatus.CANCELED if end.status is JobStatus.CANCELED else StepStatus.FAILED
            await StepRepository(connection).close_open(_ref(row), closed)
            await CommandRepository(connection).release_waiting(row.tenant_id, row.kind)
        self._metrics.count_reconciled(end.code or end.status.value)
        _log.warning("reconciler.corrected", job_id=str(row.id), status=end.status.value, code=end.code)

    async def _follow_reset(self, row: AnyRow, run_id: str) -> None:
        """An operator has reset the workflow: a new run carries the same attempt of the job on."""
        values: dict[str, Any] = {"run_id": run_id}
        if JobStatus(row.status) in TERMINAL:
            values |= {
                "status": JobStatus.RUNNING, "finished_at": None, "error": None, "error_code": None, "result": None,
                "cancel_requested_at": None,
            }  # fmt: skip
        async with self._database.system() as connection:
            repository = JobRepository(connection)
            if (await repository.get_for_update(row.id)).run_id != row.run_id:
                return
            await repository.record(
                job_id=row.id,
                attempt=row.attempt,
                event="job.reset",
                data={"found_by": "reconciler"},
                values=values,
                allowed=frozenset(JobStatus),
            )
        self._metrics.count_reconciled("reset")
        _log.warning("reconciler.followed_reset", job_id=str(row.id))

    async def _tidy(self) -> None:
        async with self._database.system() as connection:
            await IdempotencyRepository(connection).delete_expired()
            await delete_expired_answers(connection)
            await WorkerRepository(connection).delete_lost(after=_LOST_WORKER)


def _ref(row: AnyRow) -> JobRef:
    return JobRef(job_id=row.id, tenant_id=row.tenant_id, kind=row.kind, attempt=row.attempt)
