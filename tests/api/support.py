"""What the tests of the API share."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import orjson
from fastapi import FastAPI
from sqlalchemy import func, select

from api.serving import Server
from core.database import Database
from domain.jobs import TERMINAL, JobStatus
from repositories.jobs import JobRepository
from repositories.tables import artifacts, job_events, jobs

NOOP: Mapping[str, Any] = {"kind": "diagnostics.noop", "input": {}}


@dataclass(frozen=True)
class Front:
    """A front end: a tenant's key and a client that sends it."""

    tenant_id: UUID
    key: str
    prefix: str
    http: httpx.AsyncClient

    async def post(self, **more: Any) -> dict[str, Any]:
        """Start a job; its document."""
        answer = await self.http.post("/jobs", json={**NOOP, **more})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job


@dataclass(frozen=True)
class Serving:
    """An API on a socket."""

    url: str
    port: int
    app: FastAPI
    server: Server


def client_of(where: FastAPI | str, key: str | None) -> httpx.AsyncClient:
    """A client of an application in process, or of one at an address."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if isinstance(where, str):
        return httpx.AsyncClient(base_url=f"{where}/api/v1", headers=headers, timeout=20, trust_env=False)
    transport = httpx.ASGITransport(where, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://longhaul/api/v1", headers=headers, timeout=20)


def problem_of(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of an answer, checked for what every one of them has."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "request_id"} <= problem.keys()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert code is None or problem["code"] == code
    return problem


def pointers(answer: httpx.Response) -> list[str]:
    """Which values a 422 names."""
    return [fault["pointer"] for fault in problem_of(answer, 422)["errors"]]


async def record(database: Database, tenant_id: UUID, job_id: str, status: str, event: str = "", **data: Any) -> int:
    """Let something happen to a job, as a workflow would have it."""
    state = JobStatus(status)
    finished = {"finished_at": func.now() if state in TERMINAL else None}
    async with database.tenant(tenant_id) as connection:
        version = await JobRepository(connection).record(
            job_id=UUID(job_id),
            event=event or f"job.{status}",
            data=data,
            values={"status": state, **finished},
            allowed=frozenset(JobStatus),
        )
    assert version is not None
    return version


async def count_jobs(database: Database, tenant_id: UUID) -> int:
    """How many jobs a tenant has."""
    async with database.tenant(tenant_id) as connection:
        return (await connection.execute(select(func.count()).select_from(jobs))).scalar_one()


async def count_artifacts(database: Database, tenant_id: UUID) -> int:
    """How many artifacts a tenant has."""
    async with database.tenant(tenant_id) as connection:
        return (await connection.execute(select(func.count()).select_from(artifacts))).scalar_one()


async def sequence_of(database: Database, tenant_id: UUID, job_id: str) -> list[int]:
    """The numbers of a job's events as stored."""
    async with database.tenant(tenant_id) as connection:
        query = select(job_events.c.seq).where(job_events.c.job_id == UUID(job_id)).order_by(job_events.c.seq)
        return list((await connection.execute(query)).scalars())


@dataclass(frozen=True)
class SseEvent:
    """One event as read from a stream."""

    id: int
    event: str
    data: dict[str, Any]


async def read_events(answer: httpx.Response) -> AsyncIterator[SseEvent]:
    """The events of a stream, by the book: fields up to an empty line, comments left out."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield SseEvent(id=int(fields["id"]), event=fields["event"], data=orjson.loads(fields["data"]))
        fields = {}
