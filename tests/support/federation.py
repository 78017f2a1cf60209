"""Federated cycles as in production, from registry to worker, and devices that a test moves by hand."""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from temporalio.client import Client
from temporalio.worker import Worker

from activities.federated.report import Plotter, no_plot
from activities.federated.steps import FederatedActivities
from activities.jobs import JobActivities
from activities.steps import StepKeeper
from core.database import Database
from core.federated_metrics import CycleMetrics, IngestMetrics
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.settings import DEVELOPMENT_PEPPER
from core.store import ArtifactStore
from core.temporal import workflow_sandbox
from domain.federated_protocol import EnrolmentRequest, LeaseRequest
from domain.federated_registry import NewModel
from domain.jobs import JobAction, JobRef
from learning.weights import encode
from repositories.federated.rounds import ParticipantRepository, RoundRepository
from repositories.rows import AnyRow
from repositories.tables import fl_leases
from services.artifacts import ArtifactService
from services.commands import CommandSender
from services.federated.ingest import Receipt
from services.federated.kind import cycle_kind
from services.federated.participants import Leased, NoPlace
from services.federated.registry import ShownModel
from services.federated.runtime import create_runtime
from services.federated.services import FederatedServices, create_federated
from services.jobs import JobRequest, JobService
from services.kinds import KindRegistry
from services.tenants import ALL_SCOPES, Caller, Scope, TenantService
from tests.support.job_rows import job_row
from tests.support.waiting import eventually
from workflows.federated import FederatedCycleWorkflow

SHAPE = {"layer.weight": (4, 3), "layer.bias": (3,)}


def weights(seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Weights of the toy model."""
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.standard_normal(shape)).astype(np.float32) for name, shape in SHAPE.items()}


def update(seed: int, *, examples: int | str | None = None, loss: float = 0.5, **more: Any) -> bytes:
    """An update that depends on its seed alone."""
    said = {"examples": str(seed + 1 if examples is None else examples), "loss": str(loss)}
    return encode(more.pop("weights", None) or weights(seed, **more), said)


async def in_chunks(body: bytes, size: int = 100) -> AsyncIterator[bytes]:
    """A body as it comes in."""
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


@dataclass(frozen=True)
class Device:
    """A participant."""

    id: UUID
    caller: Caller


@dataclass
class Federation:
    """One tenant's models, cycles and devices."""

    database: Database
    client: Client
    store: ArtifactStore
    tenant_id: UUID
    jobs: JobService
    services: FederatedServices
    artifacts: ArtifactService

    @property
    def operator(self) -> Caller:
        """The tenant itself, with all scopes."""
        return Caller(self.tenant_id, new_id(), "operator", frozenset(ALL_SCOPES))

    async def upload(self, body: bytes, name: str = "file") -> UUID:
        """An artifact."""
        made = await self.artifacts.upload(self.tenant_id, in_chunks(body), name=name, media_type="x/y")
        return made.id

    async def model(self, name: str = "toy", **more: Any) -> ShownModel:
        """The toy model."""
        return await self.create(**{"name": name, "weights_artifact_id": await self.upload(encode(weights(0))), **more})

    async def create(self, **wish: Any) -> ShownModel:
        """Any model."""
        return await self.services.registry.create(self.tenant_id, NewModel.model_validate(wish), actor="test")

    async def head(self, name: str = "toy") -> AnyRow:
        """The published version."""
        shown = await self.services.registry.get(self.tenant_id, name)
        assert shown.head is not None
        return shown.head

    async def start(self, **wish: Any) -> JobRef:
        """A cycle."""
        wanted = {"model": "toy", "goal": 3, "deadline_seconds": 60, **wish}
        request = JobRequest(kind="federated.cycle", input=wanted)
        started = await self.jobs.start(self.tenant_id, request, key=None)
        return JobRef(job_id=started.document.id, tenant_id=self.tenant_id, kind="federated.cycle")

    async def act(self, job: JobRef, action: JobAction) -> None:
        """Ask something of a cycle."""
        await self.jobs.act(self.tenant_id, job.job_id, action)

    async def devices(self, count: int, **wish: Any) -> list[Device]:
        """Participants."""
        made = []
        for _ in range(count):
            one = await self.services.participants.enrol(self.tenant_id, EnrolmentRequest.model_validate(wish))
            async with self.database.tenant(self.tenant_id) as connection:
                row = await ParticipantRepository(connection).get_one(one.participant_id)
            caller = Caller(self.tenant_id, row.key_id, row.key_prefix, frozenset({Scope.FEDERATED_PARTICIPATE}))
            made.append(Device(one.participant_id, caller))
        return made

    async def ask(self, device: Device, **wish: Any) -> Leased | NoPlace:
        """Ask for work once."""
        return await self.services.participants.lease(device.caller, LeaseRequest.model_validate(wish))

    async def lease(self, device: Device, *, round_: int | None = None) -> Leased:
        """Ask for work until there is some, of that round if one is named."""

        async def look() -> Leased | NoPlace:
            return await self.ask(device)

        found = await eventually(
            look, lambda seen: isinstance(seen, Leased) and round_ in {None, seen.round.number}, within=30
        )
        assert isinstance(found, Leased)
        return found

    async def send(self, device: Device, lease: Leased, body: bytes, *, sha256: str | None = None) -> Receipt:
        """Send an update."""
        return await self.services.updates.submit(
            device.caller,
            lease.lease_id,
            in_chunks(body),
            sha256=sha256 or hashlib.sha256(body).hexdigest(),
            token=lease.token,
        )

    async def take_part(self, device: Device, seed: int, *, round_: int | None = None, **more: Any) -> Receipt:
        """Lease, and send an update that depends on the seed."""
        return await self.send(device, await self.lease(device, round_=round_), update(seed, **more))

    async def until(self, job: JobRef, *statuses: str, within: float = 40.0) -> AnyRow:
        """Wait until the job has one of these states."""
        return await eventually(lambda: job_row(self.database, job), lambda row: row.status in statuses, within=within)

    async def rounds(self, job: JobRef) -> Sequence[AnyRow]:
        """The rounds of a cycle."""
        async with self.database.tenant(self.tenant_id) as connection:
            return await RoundRepository(connection).get_page(job.job_id, after=0, limit=1_000)

    async def until_open(self, job: JobRef, number: int) -> AnyRow:
        """Wait until a round is open."""

        async def look() -> AnyRow | None:
            return next((row for row in await self.rounds(job) if row.number == number), None)

        found = await eventually(look, lambda row: row is not None, within=30)
        assert found is not None
        return found

    async def leases(self, round_id: UUID) -> Sequence[AnyRow]:
        """Every lease of a round."""
        async with self.database.tenant(self.tenant_id) as connection:
            query = select(fl_leases).where(fl_leases.c.round_id == round_id).order_by(fl_leases.c.id)
            return (await connection.execute(query)).all()

    async def history(self, job: JobRef) -> list[Any]:
        """The events of the cycle's workflow."""
        return list((await self.client.get_workflow_handle(job.workflow_id).fetch_history()).events)


@asynccontextmanager
async def serving_cycles(
    client: Client,
    database: Database,
    store: ArtifactStore,
    tenant_id: UUID,
    folder: Path,
    *,
    serve: bool = True,
    plot: Plotter = no_plot,
) -> AsyncIterator[Federation]:
    """Everything that cycles need, on a task queue of its own."""
    task_queue = f"cycles-{new_id()}"
    metrics = WorkerMetrics(CollectorRegistry())
    sender = CommandSender(client, timeout=timedelta(seconds=10))
    runtime = create_runtime()
    doing = FederatedActivities(
        StepKeeper(database),
        database,
        store,
        runtime=runtime,
        metrics=CycleMetrics(CollectorRegistry()),
        plot=plot,
        folder=folder,
    )
    begun = JobActivities(database, metrics)
    kind = dataclasses.replace(cycle_kind(database), task_queue=task_queue)
    jobs = JobService(database, KindRegistry([kind]), sender, max_running=100, keep_keys=timedelta(hours=1))
    services = create_federated(
        database,
        store,
        TenantService(database, pepper=DEVELOPMENT_PEPPER),
        sender=sender,
        runtime=runtime,
        metrics=IngestMetrics(CollectorRegistry()),
        folder=folder,
    )
    artifacts = ArtifactService(database, store, max_bytes=10_000_000)
    federation = Federation(database, client, store, tenant_id, jobs, services, artifacts)
    if not serve:
        yield federation
        return
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[FederatedCycleWorkflow],
        activities=[
            begun.begin_job,
            begun.plan_steps,
            begun.finish_job,
            doing.open_round,
            doing.close_round,
            doing.aggregate_round,
            doing.evaluate_round,
            doing.publish_round,
            doing.report_cycle,
        ],
        workflow_runner=workflow_sandbox(),
    ):
        yield federation


async def all_of(*waiting: Any) -> list[Any]:
    """Side by side."""
    return list(await asyncio.gather(*waiting))
