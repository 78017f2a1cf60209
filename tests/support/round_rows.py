"""Rounds on a real database, without the workflow that opens them."""

from typing import Any
from uuid import UUID

from sqlalchemy import insert

from core.database import Database
from core.ids import new_id
from domain.jobs import JobStatus
from repositories.federated.registry import RegistryRepository
from repositories.federated.rounds import RoundRepository
from repositories.jobs import JobRepository
from repositories.tables import jobs


async def add_open_round(
    database: Database, tenant_id: UUID, *, model: str, goal: int, selected: int | None = None, **more: Any
) -> UUID:
    """The first round of a new cycle, open for a minute; the job's id."""
    job_id = new_id()
    row = {
        "id": job_id, "tenant_id": tenant_id, "kind": "federated.cycle", "task_queue": "none", "input": {},
        "status": JobStatus.RUNNING, "version": 0, "run_id": "run",
    }  # fmt: skip
    async with database.tenant(tenant_id) as connection:
        await connection.execute(insert(jobs).values(row))
        await JobRepository(connection).record(job_id=job_id, event="job.running")
        head = (await RegistryRepository(connection).get_model(model)).head_id
        values = {
            "id": new_id(),
            "tenant_id": tenant_id,
            "job_id": job_id,
            "number": 1,
            "model": model,
            "base_id": head,
            "goal": goal,
            "quorum": goal,
            "selected": selected or 2 * goal,
            "plan": {},
            "limits": {"max_norm": None, "max_examples": 10_000, "lease_seconds": None},
            "noise_secret": b"secret",
            **more,
        }
        await RoundRepository(connection).add_round(values, seconds=60)
    return job_id
