"""One round with very many participants: events, time, statements and memory, and how they grow.

Virtual participants lease and send through the functions that serve HTTP, each with an update of its own.
"""

import asyncio
import hashlib
import resource
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import numpy as np
from prometheus_client import CollectorRegistry
from sqlalchemy import insert
from temporalio.api.enums.v1 import EventType

from benchmarks.support import Bench, Finding
from core.database import Database, create_database, on_each_statement
from core.federated_metrics import IngestMetrics
from core.ids import new_id
from core.settings import DEVELOPMENT_PEPPER
from core.store import create_artifact_store
from core.temporal import connect, create_data_converter
from domain.federated_protocol import LeaseRequest
from learning.weights import encode
from repositories.tables import fl_participants
from services.commands import CommandSender
from services.federated.participants import Leased
from services.federated.runtime import create_runtime
from services.federated.services import FederatedServices, create_federated
from services.tenants import ALL_SCOPES, Caller, TenantService

_VALUES: Final = 10_000
_AT_ONCE: Final = 8
_EVENTS_A_ROUND: Final = 45
_GROWTH: Final = 1.5
_KIBIBYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """One round."""

    participants: int
    collect_seconds: float
    round_seconds: float
    statements: int
    events: int
    extra_bytes: int


class Counter:
    """Counts statements."""

    def __init__(self) -> None:
        self.count = 0

    def before(self, *_arguments: Any) -> None:
        """One more."""
        self.count += 1

    def after(self, *_arguments: Any) -> None:
        """Counted before."""


async def run(bench: Bench) -> list[Finding]:
    """A small round and one ten times as large."""
    sizes = (100, 1_000) if bench.quick else (1_000, 10_000)
    small, large = [await _round(bench, size) for size in sizes]
    growth = (large.round_seconds / large.participants) / (small.round_seconds / small.participants)
    note = f"{large.participants:,} participants of {_VALUES:,} values"
    return [
        Finding("events in the history of a round", large.events, at_most=_EVENTS_A_ROUND, note=note),
        Finding("events of the small round", small.events, at_most=_EVENTS_A_ROUND),
        Finding("from opening to publishing", large.round_seconds, "s"),
        Finding("updates accepted", large.participants / large.collect_seconds, "/s"),
        Finding("statements for each participant", large.statements / large.participants),
        Finding("statements, to the small round's for each", _ratio(large, small), at_most=_GROWTH),
        Finding("time for each, to the small round's", growth, at_most=_GROWTH),
        Finding("more memory of the taking process", large.extra_bytes / _KIBIBYTES**2, "MiB"),
    ]


def _ratio(large: Measured, small: Measured) -> float:
    return (large.statements / large.participants) / (small.statements / small.participants)


async def _round(bench: Bench, participants: int) -> Measured:
    stack = bench.stack
    database = create_database(
        stack.postgres.runtime_url, pool_size=_AT_ONCE + 2, statement_timeout_seconds=30, application_name="bench"
    )
    counter = Counter()
    on_each_statement(database.engine, counter.before, counter.after)
    client = await connect(
        stack.temporal.address, namespace="default", converter=create_data_converter(None), lazy=False
    )
    keys = TenantService(database, pepper=DEVELOPMENT_PEPPER)
    tenant_id = await keys.find_tenant("first")
    caller = Caller(tenant_id, new_id(), "bench", frozenset(ALL_SCOPES))
    services = create_federated(
        database,
        create_artifact_store((stack.folder / "artifacts").resolve().as_uri()),
        keys,
        sender=CommandSender(client, timeout=timedelta(seconds=5)),
        runtime=create_runtime(),
        metrics=IngestMetrics(CollectorRegistry()),
        folder=stack.folder / "federated",
    )
    model = f"bench-{participants}"
    ids = await _enrol(database, tenant_id, participants)
    await _make_model(stack.http, model)
    before = _peak_bytes()
    began = time.monotonic()
    wish = {"model": model, "goal": participants, "over_selection": 1.0, "deadline_seconds": 3_600}
    job = await stack.post("federated.cycle", wish)
    await _until_open(stack.http, job["id"])
    counter.count, collecting = 0, time.monotonic()
    await _take_part(services, caller, model, ids)
    collected, statements = time.monotonic() - collecting, counter.count
    done = await stack.until_done(job["id"], timeout=900)
    assert done["status"] == "succeeded", done
    took = time.monotonic() - began
    history = await client.get_workflow_handle(f"federated.cycle/{job['id']}").fetch_history()
    events = _events_of_round(history.events)
    bench.say(f"{participants:,} participants: {took:.1f} s, {events} events, {statements:,} statements")
    await database.close()
    return Measured(participants, collected, took, statements, events, _peak_bytes() - before)


def _events_of_round(events: Sequence[Any]) -> int:
    """From the scheduling of ``open_round`` up to that of the report: a cycle of one round."""
    scheduled = {
        event.activity_task_scheduled_event_attributes.activity_type.name: index
        for index, event in enumerate(events)
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    }
    return scheduled["report_cycle"] - scheduled["open_round"]


async def _enrol(database: Database, tenant_id: UUID, count: int) -> list[UUID]:
    """Participants without keys of their own: they are asked for with a key of the tenant."""
    ids = [new_id() for _ in range(count)]
    async with database.tenant(tenant_id) as connection:
        rows = [{"id": one, "tenant_id": tenant_id, "name": str(one)} for one in ids]
        for begin in range(0, count, 1_000):
            await connection.execute(insert(fl_participants).values(rows[begin : begin + 1_000]))
    return ids


async def _make_model(http: httpx.AsyncClient, name: str) -> None:
    first = encode({"w": np.zeros(_VALUES, np.float32)})
    uploaded = await http.post("/artifacts", content=first)
    made = await http.post("/federated/models", json={"name": name, "weights_artifact_id": uploaded.json()["id"]})
    made.raise_for_status()


async def _until_open(http: httpx.AsyncClient, job_id: str) -> None:
    while not (await http.get(f"/federated/cycles/{job_id}/rounds")).json()["items"]:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.05)


async def _take_part(services: FederatedServices, caller: Caller, model: str, ids: list[UUID]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, participant_id: UUID) -> None:
        async with gate:
            lease = await services.participants.lease(caller, LeaseRequest(model=model, participant_id=participant_id))
            assert isinstance(lease, Leased), lease
            body = _update(number)
            sha256 = hashlib.sha256(body).hexdigest()
            await services.updates.submit(caller, lease.lease_id, _chunks(body), sha256=sha256, token=lease.token)

    await asyncio.gather(*(one(number, participant) for number, participant in enumerate(ids)))


def _update(number: int) -> bytes:
    values = np.random.default_rng(number).standard_normal(_VALUES).astype(np.float32)
    return encode({"w": values}, {"examples": str(number % 50 + 1)})


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTES
