"""The life of a job as a test drives it: the service, a sender, dispatchers, and looks at what is stored."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from prometheus_client import CollectorRegistry
from sqlalchemy import delete, insert, select
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.jobs import JobActivities
from core.database import Database
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.notify import Listener
from core.temporal import workflow_sandbox
from domain.diagnostics import NoopInput
from domain.jobs import JobRef, NewJob, workflow_id
from repositories.commands import CHANNEL as COMMAND_CHANNEL
from repositories.rows import AnyRow
from repositories.tables import commands, job_events, jobs, tenants
from repositories.transitions import JobTransitions
from services.commands import Command, CommandSender, Dispatcher
from services.diagnostics import NOOP
from services.jobs import JobRequest, JobService
from services.kinds import JobKind, KindRegistry
from services.stack.postgres import EmbeddedPostgres
from tests.support.waiting import eventually
from tests.support.workflows import CarelessWorkflow, CrashWorkflow, HoldWorkflow
from workflows.diagnostics import NoopWorkflow

_OURS: Final = (NoopWorkflow, HoldWorkflow, CarelessWorkflow, CrashWorkflow)


def kinds_on(task_queue: str) -> list[JobKind]:
    """The kinds of the test workflows, all on one queue."""
    return [
        dataclasses.replace(NOOP, task_queue=task_queue),
        *(
            JobKind(
                name=f"test.{name.lower()}",
                input_model=NoopInput,
                workflow=name,
                task_queue=task_queue,
                summary=lambda _input: "A job of a test",
            )
            for name in ("Hold", "Careless", "Crash")
        ),
    ]


def new_metrics() -> WorkerMetrics:
    """Series that nobody reads."""
    return WorkerMetrics(CollectorRegistry())


@asynccontextmanager
async def serving(client: Client, database: Database, task_queue: str) -> AsyncIterator[None]:
    """A worker on one queue, wired as in ``worker.py``."""
    doing = JobActivities(database, new_metrics())
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=_OURS,
        activities=[doing.begin_job, doing.plan_steps, doing.finish_job],
        workflow_runner=workflow_sandbox("tests"),
    ):
        yield


@asynccontextmanager
async def dispatching(*dispatchers: Dispatcher, listen_at: str | None = None) -> AsyncIterator[None]:
    """Dispatchers at work in the background; with ``listen_at`` the database wakes them, as in a worker process."""

    def wake(_payload: str = "") -> None:
        for dispatcher in dispatchers:
            dispatcher.wake()

    tasks = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
    if listen_at is not None:
        listener = Listener(listen_at, on_notify={COMMAND_CHANNEL: wake}, on_gap=wake)
        tasks.append(asyncio.create_task(listener.run()))
        await listener.connected.wait()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SilentSender(CommandSender):
    """The fast path of an API process that dies between the commit and the start."""

    async def try_now(self, command: Command) -> bool:
        """Do nothing."""
        return False


class CountingSender(CommandSender):
    """Remembers which commands it was given to deliver."""

    def __init__(self, client: Client, *, timeout: timedelta = timedelta(seconds=5)) -> None:
        super().__init__(client, timeout=timeout)
        self.delivered: list[Command] = []

    async def deliver(self, command: Command) -> None:
        """Deliver and remember."""
        self.delivered.append(command)
        await super().deliver(command)


async def new_tenant(database: Database, *, max_running: dict[str, int] | None = None) -> UUID:
    """One more tenant, with limits of its own."""
    made = new_id()
    async with database.system() as connection:
        await connection.execute(insert(tenants).values(id=made, name=f"tenant-{made}", max_running=max_running or {}))
    return made


async def clear_commands(database: Database) -> None:
    """Forget what other tests left to be delivered: a dispatcher serves everybody."""
    async with database.system() as connection:
        await connection.execute(delete(commands))


def superuser(postgres: EmbeddedPostgres, database: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection that nothing binds, to look at, and arrange, what no role of ours may."""
    url = postgres.superuser_url.replace("postgresql+psycopg://", "postgresql://")
    if database is not None:
        url = url.replace(f"/{postgres.database}?", f"/{database}?")
    return psycopg.connect(url, autocommit=True)


def pass_time(postgres: EmbeddedPostgres, job_ids: Sequence[UUID], *, seconds: float = 60.0) -> None:
    """Move what is booked for these jobs into the past, instead of waiting."""
    with superuser(postgres) as connection:
        connection.execute(
            "UPDATE commands SET not_before = not_before - make_interval(secs => %s) WHERE job_id = ANY(%s)",
            (seconds, list(job_ids)),
        )
        connection.execute(
            "UPDATE jobs SET reconciled_at = reconciled_at - make_interval(secs => %s) WHERE id = ANY(%s)",
            (seconds, list(job_ids)),
        )


async def add_job(
    database: Database,
    tenant_id: UUID,
    *,
    kind: str = "test.hold",
    task_queue: str = "nobody",
    admitted: bool = True,
    priority: int = 3,
    labels: dict[str, str] | None = None,
    start_at: datetime | None = None,
) -> JobRef:
    """A queued job, written by the repository alone; its start command is due at once, or at ``start_at``."""
    job_id = new_id()
    queued = await JobTransitions(database).queue(
        NewJob(kind=kind, input={}, task_queue=task_queue, priority=priority, labels=labels or {}, start_at=start_at),
        job_id=job_id,
        tenant_id=tenant_id,
        command_id=new_id(),
        args={"workflow": "Hold", "summary": "A job of a test"},
        max_running=1_000_000 if admitted else 0,
        waiting_on={},
        due=start_at,
        lease=timedelta(0),
    )
    assert queued is not None
    return JobRef(job_id=job_id, tenant_id=tenant_id, kind=kind)


@dataclass
class Life:
    """One tenant's jobs on one task queue."""

    postgres: EmbeddedPostgres
    database: Database
    client: Client
    tenant_id: UUID
    task_queue: str
    max_running: int = 100
    sender: CommandSender = field(init=False)
    service: JobService = field(init=False)

    def __post_init__(self) -> None:
        self.sender = CommandSender(self.client, timeout=timedelta(seconds=5))
        self.service = self.service_with(self.sender)

    def service_with(
        self, sender: CommandSender, *, max_running: int | None = None, keep_keys: timedelta = timedelta(hours=72)
    ) -> JobService:
        """The service behind another fast path."""
        return JobService(
            self.database,
            KindRegistry(kinds_on(self.task_queue)),
            sender,
            max_running=max_running or self.max_running,
            keep_keys=keep_keys,
        )

    def without_fast_path(self, *, max_running: int | None = None) -> JobService:
        """The service of an API process that dies after each commit."""
        return self.service_with(SilentSender(self.client, timeout=timedelta(seconds=1)), max_running=max_running)

    def dispatcher(self, sender: CommandSender | None = None, *, max_running: int | None = None) -> Dispatcher:
        """One more dispatcher."""
        return Dispatcher(
            self.database,
            sender or self.sender,
            new_metrics(),
            max_running=max_running or self.max_running,
        )

    async def start(self, kind: str = "test.hold", *, service: JobService | None = None, **request: Any) -> UUID:
        """Start a job; its id."""
        wanted = JobRequest(kind=kind, input={}, **request)
        return (await (service or self.service).start(self.tenant_id, wanted, key=None)).document.id  # type: ignore[no-any-return]

    async def start_running(self) -> UUID:
        """Start a job that stays running until it is told to go."""
        job_id = await self.start()
        await self.until(job_id, "running")
        return job_id

    async def row(self, job_id: UUID) -> AnyRow:
        """Everything stored about a job."""
        async with self.database.system() as connection:
            return (await connection.execute(select(jobs).where(jobs.c.id == job_id))).one()

    async def rows(self, job_ids: Iterable[UUID]) -> Sequence[AnyRow]:
        """Everything stored about some jobs."""
        async with self.database.system() as connection:
            query = select(jobs).where(jobs.c.id.in_(list(job_ids))).order_by(jobs.c.id)
            return (await connection.execute(query)).all()

    async def events(self, job_id: UUID) -> list[str]:
        """The types of a job's events in order; they are numbered without a gap, up to the job's version."""
        async with self.database.system() as connection:
            query = select(job_events.c.seq, job_events.c.type).where(job_events.c.job_id == job_id)
            found = (await connection.execute(query.order_by(job_events.c.seq))).all()
            version = (await connection.execute(select(jobs.c.version).where(jobs.c.id == job_id))).scalar_one()
        assert [row.seq for row in found] == list(range(1, version + 1))
        return [row.type for row in found]

    async def commands(self, job_id: UUID) -> Sequence[AnyRow]:
        """What Temporal is still to be told about a job."""
        async with self.database.system() as connection:
            query = select(commands).where(commands.c.job_id == job_id).order_by(commands.c.id)
            return (await connection.execute(query)).all()

    async def until(self, job_id: UUID, status: str, *, attempt: int | None = None) -> AnyRow:
        """Wait until the job has this status."""

        def reached(row: AnyRow) -> bool:
            return bool(row.status == status and attempt in {None, row.attempt})

        return await eventually(lambda: self.row(job_id), reached)

    def pass_time(self, *job_ids: UUID, seconds: float = 60.0) -> None:
        """Move what is booked for these jobs into the past, instead of waiting."""
        pass_time(self.postgres, job_ids, seconds=seconds)

    def handle(self, job_id: UUID, kind: str = "test.hold") -> WorkflowHandle[Any, Any]:
        """The job's workflow."""
        return self.client.get_workflow_handle(workflow_id(kind, job_id))

    async def go(self, job_id: UUID, how: str = "on") -> None:
        """Let a held job end."""
        await self.handle(job_id).signal("go", how)

    async def go_when_running(self, job_id: UUID) -> None:
        """Let a job end as soon as it is there to be told."""
        await self.until(job_id, "running")
        await self.go(job_id)

    async def is_known_to_temporal(self, job_id: UUID, kind: str = "test.hold") -> bool:
        """Whether a workflow was ever started for the job."""
        query = f"WorkflowId = '{workflow_id(kind, job_id)}'"
        return (await self.client.count_workflows(query)).count > 0


def soon(seconds: float) -> datetime:
    """A moment from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
