"""The API on the session's database: in process for plain calls, and on a real socket where that matters."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from api.gate import Patience
from api.serving import Server, create_server
from core.database import Database
from core.ids import new_id
from core.settings import DEVELOPMENT_PEPPER, Settings
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.tenants import TenantService
from tests.api.support import Front, Serving, client_of

MakeSettings = Callable[..., Settings]
MakeFront = Callable[..., Awaitable[Front]]


@pytest.fixture(scope="session")
def make_settings(postgres: EmbeddedPostgres, scratch: Path) -> MakeSettings:
    """Settings of an API on the session's database, with no Temporal behind it."""

    def make(**overrides: Any) -> Settings:
        values: dict[str, Any] = {
            "DATABASE_URL": postgres.runtime_url,
            "TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}",
            "data_dir": scratch / "api",
            "rate_limit": "1000000/minute",
            "database_pool_size": 5,
            "max_body_bytes": 1_048_576,
            "max_artifact_bytes": 4_194_304,
            **overrides,
        }
        return Settings(_env_file=None, **values)

    return make


@contextlib.asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[FastAPI]:
    """The application between its start and its end."""
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
async def app(make_settings: MakeSettings) -> AsyncIterator[FastAPI]:
    """One application for the whole session."""
    async with running(create_app(make_settings())) as started:
        yield started


@pytest.fixture(scope="session")
def tenants(database: Database) -> TenantService:
    """The use cases of operators."""
    return TenantService(database, pepper=DEVELOPMENT_PEPPER)


@pytest.fixture
async def make_front(app: FastAPI, tenants: TenantService) -> AsyncIterator[MakeFront]:
    """Makes front ends, each of a new tenant unless told otherwise, on the session's application unless told so."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*, on: FastAPI | str | None = None, of: Front | None = None, **key: Any) -> Front:
            tenant_id = await tenants.create_tenant(f"tenant-{new_id()}") if of is None else of.tenant_id
            issued = await tenants.create_key(tenant_id, name="test", **key)
            http = await stack.enter_async_context(client_of(app if on is None else on, issued.text))
            return Front(tenant_id=tenant_id, key=issued.text, prefix=issued.prefix, http=http)

        yield make


@pytest.fixture
async def front(make_front: MakeFront) -> Front:
    """A front end of a new tenant."""
    return await make_front()


@pytest.fixture
async def other(make_front: MakeFront) -> Front:
    """A front end of another tenant."""
    return await make_front()


class _QuietServer(Server):
    """A server that leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(app: FastAPI) -> AsyncIterator[Serving]:
    """Serve on a real socket, with the protocol of production."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    made = create_server(app, host="127.0.0.1", port=port, grace_seconds=3)
    server = _QuietServer(app, made.config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0.01)
    try:
        yield Serving(url=f"http://127.0.0.1:{port}", port=port, app=app, server=server)
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
async def served(make_settings: MakeSettings) -> AsyncIterator[Serving]:
    """The API on a real socket, with little patience for slow bodies."""
    patience = Patience(document_seconds=1.0, piece_seconds=1.0, upload_seconds=5.0)
    async with serve(create_app(make_settings(), patience=patience)) as serving:
        yield serving
