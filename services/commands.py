"""Telling Temporal what is to be done: at once where that works, otherwise by dispatchers that never forget."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy import func
from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from core.database import Database
from core.metrics import WorkerMetrics
from domain.errors import TemporalUnavailable
from domain.jobs import CommandAction, JobRef, JobStatus, WaitingKind, WaitingOn
from repositories.commands import CommandRepository
from repositories.jobs import OPEN, JobRepository
from repositories.rows import AnyRow
from repositories.waits import standing_wait
from services.outbox import POLL_SECONDS, OutboxLoop

_log = structlog.get_logger(__name__)

FAST_PATH_LEASE: Final = timedelta(seconds=5)
"""How long dispatchers leave a fresh command to the request that wrote it."""

_LEASE: Final = timedelta(seconds=30)
_CAPACITY_PAUSE: Final = timedelta(seconds=60)
_LONGEST_PAUSE: Final = timedelta(seconds=30)
_BATCH: Final = 100
_CONCURRENCY: Final = 10
_BREAK_SECONDS: Final = 5.0

TENANT: Final = SearchAttributeKey.for_keyword("Tenant")
JOB_KIND: Final = SearchAttributeKey.for_keyword("JobKind")
SEARCH_ATTRIBUTES: Final = {TENANT.name: "Keyword", JOB_KIND.name: "Keyword"}

_DELIVERED: Final = "delivered"
_GONE: Final = frozenset({RPCStatusCode.NOT_FOUND})


@dataclass(frozen=True, slots=True)
class Command:
    """One thing Temporal is to be told about a job."""

    id: UUID
    job: JobRef
    action: CommandAction
    args: dict[str, Any]
    task_queue: str
    priority: int


class TraceAttacher(Protocol):
    """Continues the trace of the request that a command came from."""

    def __call__(self, traceparent: str | None) -> AbstractContextManager[None]:
        """Make the trace current for the length of a ``with`` block."""
        ...


class OlderRunOpen(Exception):
    """The workflow of the previous attempt has not closed yet, or only just."""


class CommandSender:
    """Delivers commands. Delivering twice is harmless: workflow ids derive from jobs, signals carry versions."""

    def __init__(self, client: Client, *, timeout: timedelta, attach: TraceAttacher | None = None) -> None:
        self._client = client
        self._timeout = timeout
        self._attach = attach or (lambda _traceparent: nullcontext())
        self._broken_until = 0.0

    async def try_now(self, command: Command) -> bool:
        """Deliver within the short time-out; False where that failed and a dispatcher has to do it.

        After a failure the next few seconds are not even tried, so that requests stay fast while Temporal is away.
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._broken_until:
            return False
        try:
            await self.deliver(command)
        except TemporalUnavailable:
            self._broken_until = clock() + _BREAK_SECONDS
            return False
        except OlderRunOpen:
            return False
        return True

    async def deliver(self, command: Command) -> None:
        """Tell Temporal. Raises TemporalUnavailable and OlderRunOpen."""
        try:
            # The time-out of a call does not bound the connecting that a lazy client does before its first one.
            async with asyncio.timeout(self._timeout.total_seconds()):
                with self._attach(command.job.traceparent):
                    await self._send(command)
        except RPCError as fault:
            # Whoever is told to stop or listen may be gone already; then there is nothing left to tell.
            if fault.status in _GONE and command.action is not CommandAction.START:
                return
            raise TemporalUnavailable(f"Temporal did not take the command: {fault.status.name}") from fault
        except (RuntimeError, TimeoutError) as fault:
            # RuntimeError is how a lazy client says that it cannot connect.
            raise TemporalUnavailable("Temporal cannot be reached") from fault

    async def _send(self, command: Command) -> None:
        if command.action is CommandAction.START:
            await self._start(command)
            return
        handle = self._client.get_workflow_handle(command.job.workflow_id)
        if command.action is CommandAction.CANCEL:
            await handle.cancel(rpc_timeout=self._timeout)
        else:
            await handle.signal(command.args["signal"], args=command.args["args"], rpc_timeout=self._timeout)

    async def _start(self, command: Command) -> None:
        job = command.job
        try:
            await self._client.start_workflow(
                command.args["workflow"],
                job,
                id=job.workflow_id,
                task_queue=command.task_queue,
                # Delivered again after an operator has ended the run, a first start must not undo that.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE
                if job.attempt == 1
                else WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                priority=Priority(priority_key=command.priority, fairness_key=str(job.tenant_id)),
                static_summary=command.args["summary"],
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(TENANT, str(job.tenant_id)), SearchAttributePair(JOB_KIND, job.kind)]
                ),
                memo={"attempt": job.attempt, "request_id": job.request_id},
                rpc_timeout=self._timeout,
            )
        except WorkflowAlreadyStartedError:
            await self._expect_same_attempt(job)

    async def _expect_same_attempt(self, job: JobRef) -> None:
        description = await self._client.get_workflow_handle(job.workflow_id).describe(rpc_timeout=self._timeout)
        # Also where that run has closed since: this attempt is not started yet, and now it can be.
        if await description.memo_value("attempt", default=1) != job.attempt:
            raise OlderRunOpen


class Dispatcher(OutboxLoop):
    """Carries commands to Temporal that no request could deliver itself, and admits jobs that wait for capacity.

    Any number may run side by side: claims skip each other, and expire when a dispatcher dies.
    """

    name = "dispatcher"

    def __init__(
        self, database: Database, sender: CommandSender, metrics: WorkerMetrics, *, max_running: int,
        limits: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self._limits = limits or {}
        self._database = database
        self._sender = sender
        self._metrics = metrics
        self._max_running = max_running
        super().__init__()

    async def work_once(self) -> bool:
        """As ``dispatch_once``."""
        return await self.dispatch_once()

    async def dispatch_once(self) -> bool:
        """Claim one batch of due commands and deliver it; whether there was a full batch, so that more may wait."""
        async with self._database.system() as connection:
            claimed = await CommandRepository(connection).claim_due(limit=_BATCH, lease=_LEASE)
        gate = asyncio.Semaphore(_CONCURRENCY)
        outcomes = await asyncio.gather(*(self._handle(row, gate) for row in claimed))
        await self._forget([row.id for row, finished in zip(claimed, outcomes, strict=True) if finished])
        return len(claimed) == _BATCH

    async def _forget(self, delivered: Sequence[UUID]) -> None:
        if delivered:
            async with self._database.system() as connection:
                await CommandRepository(connection).delete(delivered)

    async def _handle(self, row: AnyRow, gate: asyncio.Semaphore) -> bool:
        """Deliver one claimed command; whether it is finished with."""
        async with gate:
            if row.action == CommandAction.START:
                if row.status != JobStatus.QUEUED:
                    return True
                if row.admitted_at is None and not await self._admit(row):
                    return False
            outcome = await self._deliver(row)
            self._metrics.count_command(action=row.action, outcome=outcome)
            return outcome == _DELIVERED

    async def _deliver(self, row: AnyRow) -> str:
        try:
            await self._sender.deliver(command_of(row))
        except TemporalUnavailable as fault:
            await self._put_off(row, fault)
            return "temporal_unavailable"
        except OlderRunOpen:
            await self._postpone(row, timedelta(seconds=1), "the previous attempt has not closed yet")
            return "older_run_open"
        return _DELIVERED

    async def _admit(self, row: AnyRow) -> bool:
        async with self._database.system() as connection:
            repository = JobRepository(connection)
            limit = self._limits.get(row.kind, self._max_running)
            if await repository.try_admit(row.tenant_id, row.kind, default_limit=limit):
                # A slot that became free while this was claimed may have let another dispatcher claim it as well.
                if (await repository.get_for_update(row.job_id)).admitted_at is None:
                    values = {"admitted_at": func.now(), "waiting_on": standing_wait}
                    await repository.record(job_id=row.job_id, event="job.admitted", values=values)
                return True
            # Before others may admit: a slot that becomes free from here on makes the command due again.
            await CommandRepository(connection).postpone(row.id, by=_CAPACITY_PAUSE, error=None)
        await self._say_why(row, WaitingKind.CAPACITY, "as many jobs of this kind are running as the tenant may have")
        return False

    async def _put_off(self, row: AnyRow, fault: TemporalUnavailable) -> None:
        pause = min(timedelta(seconds=2 ** min(row.tries, 5)), _LONGEST_PAUSE)
        await self._postpone(row, pause, fault.detail)
        await self._say_why(row, WaitingKind.TEMPORAL, "Temporal cannot be reached; the job starts when it is back")
        _log.warning("dispatcher.put_off", job_id=str(row.job_id), action=row.action, pause=pause.total_seconds())

    async def _postpone(self, row: AnyRow, by: timedelta, error: str | None) -> None:
        async with self._database.system() as connection:
            await CommandRepository(connection).postpone(row.id, by=by, error=error)

    async def _say_why(self, row: AnyRow, kind: WaitingKind, detail: str) -> None:
        if row.action != CommandAction.START:
            return
        async with self._database.system() as connection:
            repository = JobRepository(connection)
            current = await repository.get_for_update(row.job_id)
            # A person who paused the job sees that first.
            if current.paused or (current.waiting_on or {}).get("kind") == kind:
                return
            waiting = WaitingOn(kind=kind, detail=detail, since=datetime.now(UTC)).model_dump(mode="json")
            await repository.record(
                job_id=row.job_id,
                event="job.waiting",
                data={"waiting_on": waiting},
                values={"waiting_on": waiting},
                attempt=row.attempt,
                allowed=frozenset({JobStatus.QUEUED}) & OPEN,
            )

    async def _time_to_next(self) -> float:
        async with self._database.system() as connection:
            waiting, due = await CommandRepository(connection).get_backlog()
        self._metrics.commands_waiting.set(waiting)
        if due is None:
            return POLL_SECONDS
        return min(max((due - datetime.now(UTC)).total_seconds(), 0.01), POLL_SECONDS)


def command_of(row: AnyRow) -> Command:
    """The command in a claimed row."""
    return Command(
        id=row.id,
        job=JobRef(
            job_id=row.job_id,
            tenant_id=row.tenant_id,
            kind=row.kind,
            attempt=row.attempt,
            request_id=row.request_id,
            traceparent=row.traceparent,
        ),
        action=CommandAction(row.action),
        args=row.args,
        task_queue=row.task_queue,
        priority=row.priority,
    )
