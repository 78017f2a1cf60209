"""A whole Longhaul on ports of its own, made of real processes that a test may kill."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from core.database import create_database
from core.settings import DEVELOPMENT_PEPPER
from services.commands import SEARCH_ATTRIBUTES
from services.schema import migrate
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.stack.processes import ChildProcess
from services.stack.temporal import EmbeddedTemporal
from services.tenants import TenantService

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = {"succeeded", "failed", "canceled"}


@dataclass
class RunningStack:
    """The processes of one Longhaul, and a front end's view of it."""

    folder: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    standin_delay: float = 0.2
    postgres: EmbeddedPostgres = field(init=False)
    temporal: EmbeddedTemporal = field(init=False)
    api: ChildProcess = field(init=False)
    worker: ChildProcess = field(init=False)
    standin: ChildProcess = field(init=False)
    base_url: str = field(init=False)
    standin_url: str = field(init=False)
    http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        ports = {name: free_port() for name in ("api", "worker", "temporal", "standin")}
        self.base_url = f"http://127.0.0.1:{ports['api']}"
        self.standin_url = f"http://127.0.0.1:{ports['standin']}"
        self.postgres = EmbeddedPostgres(self.folder / "postgres")
        self.temporal = EmbeddedTemporal(
            self.folder / "temporal", port=ports["temporal"], ui_port=None, search_attributes=SEARCH_ATTRIBUTES
        )
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")},
            "LONGHAUL_DATA_DIR": str(self.folder),
            "LONGHAUL_API_PORT": str(ports["api"]),
            "LONGHAUL_WORKER_PORT": str(ports["worker"]),
            "LONGHAUL_TEMPORAL_PORT": str(ports["temporal"]),
            "LONGHAUL_OPENAI_BASE_URL": f"{self.standin_url}/v1",
            "LONGHAUL_OPENAI_API_KEY": "stand-in",
            "LONGHAUL_RECONCILE_INTERVAL_SECONDS": "2",
            "LONGHAUL_RATE_LIMIT": "1000000/minute",
            # A call that may have been lost with its worker is looked for a little longer than this.
            "LONGHAUL_HTTP_READ_TIMEOUT_SECONDS": "10",
            "DATABASE_URL": self.postgres.runtime_url,
            "DATABASE_MIGRATION_URL": self.postgres.superuser_url,
            **self.overrides,
        }
        standin = ["-m", "gateways.standin_openai", "--port", str(ports["standin"])]
        standin += ["--delay", str(self.standin_delay), "--log", str(self.folder / "calls.jsonl")]
        self.standin = self._child("standin", standin, environment)
        self.api = self._child("api", ["-m", "api"], environment)
        self.worker = self._child("worker", ["worker.py"], environment)

    def _child(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> ChildProcess:
        return ChildProcess(self.folder / name, argv=[sys.executable, *arguments], env=environment, cwd=ROOT, grace=25)

    async def start(self) -> None:
        """Bring everything up and wait until it serves."""
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(migrate, self.postgres.superuser_url, profile="development")
        for service in (self.temporal, self.standin, self.api, self.worker):
            await asyncio.to_thread(service.start)
        self.http = await self.client_of("first")
        await self.until_ready()

    async def client_of(self, tenant: str) -> httpx.AsyncClient:
        """A front end of a new tenant."""
        database = create_database(
            self.postgres.runtime_url, pool_size=1, statement_timeout_seconds=5, application_name="tests"
        )
        try:
            tenants = TenantService(database, pepper=DEVELOPMENT_PEPPER)
            key = await tenants.create_key(await tenants.create_tenant(tenant), name="test")
        finally:
            await database.close()
        return httpx.AsyncClient(
            base_url=f"{self.base_url}/api/v1", headers={"Authorization": f"Bearer {key.text}"}, timeout=30
        )

    async def stop(self) -> None:
        """Stop everything."""
        if hasattr(self, "http"):
            await self.http.aclose()
        for service in (self.worker, self.api, self.standin, self.temporal, self.postgres):
            await asyncio.to_thread(service.stop)

    async def until_ready(self, *, timeout: float = 60) -> None:
        """Wait until the API says that everything it leans on is there."""
        await self.eventually(self._is_ready, timeout=timeout)

    async def _is_ready(self) -> bool:
        try:
            return (await self.http.get(f"{self.base_url}/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def eventually(self, check: Any, *, timeout: float = 30) -> Any:
        """Poll until ``check`` is true, and return what it gave; fails with its last answer."""
        end = time.monotonic() + timeout
        while True:
            answer = await check()
            if answer:
                return answer
            if time.monotonic() > end:
                raise AssertionError(f"still {answer!r} after {timeout} s; logs are in {self.folder}")
            await asyncio.sleep(0.1)

    async def post(self, kind: str, wish: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Start a job."""
        answer = await self.http.post("/jobs", json={"kind": kind, "input": wish, **more})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def get(self, job_id: str) -> dict[str, Any]:
        """The job, waiting out an API that is down."""

        async def fetch() -> dict[str, Any] | None:
            try:
                answer = await self.http.get(f"/jobs/{job_id}")
            except httpx.TransportError:
                return None
            return answer.json() if answer.status_code == httpx.codes.OK else None

        job: dict[str, Any] = await self.eventually(fetch)
        return job

    async def until(self, job_id: str, check: Any, *, timeout: float = 60) -> dict[str, Any]:
        """The job as soon as ``check`` holds of it."""

        async def holds() -> dict[str, Any] | None:
            job = await self.get(job_id)
            return job if check(job) else None

        job: dict[str, Any] = await self.eventually(holds, timeout=timeout)
        return job

    async def until_done(self, job_id: str, *, timeout: float = 90) -> dict[str, Any]:
        """The job once it is terminal."""
        return await self.until(job_id, lambda job: job["status"] in TERMINAL, timeout=timeout)

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """All events of a job."""
        answer = await self.http.get(f"/jobs/{job_id}/events", headers={"Accept": "application/json"})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def standin_stats(self) -> dict[str, Any]:
        """What the stand-in has counted."""
        async with httpx.AsyncClient() as http:
            stats: dict[str, Any] = (await http.get(f"{self.standin_url}/control/stats")).json()
            return stats

    def calls(self) -> list[dict[str, Any]]:
        """Every call that the stand-in has logged."""
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]


@asynccontextmanager
async def running_stack(**overrides: str) -> AsyncIterator[RunningStack]:
    """A stack of one's own, stopped and removed at the end; its logs stay where the test failed."""
    folder = Path(tempfile.mkdtemp(prefix="longhaul-stack-"))
    stack = RunningStack(folder, overrides=overrides)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()
