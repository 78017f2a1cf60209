"""What every test may ask for: a real PostgreSQL, a real Temporal, a tenant of one's own. Started once a session."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from temporalio.client import Client

from core.database import Database, create_database
from core.ids import new_id
from core.store import ArtifactStore, create_artifact_store
from core.temporal import connect, create_data_converter
from repositories.tenants import TenantRepository
from services.commands import SEARCH_ATTRIBUTES
from services.schema import migrate
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.stack.temporal import EmbeddedTemporal


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for the whole session; pytest's own is unreadable for the system user that PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="longhaul-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server with the schema in place."""
    server = EmbeddedPostgres(scratch / "postgres", settings={"fsync": "off", "synchronous_commit": "off"})
    server.start()
    migrate(server.superuser_url, profile="development")
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """The database as the application sees it."""
    made = create_database(
        postgres.runtime_url, pool_size=10, statement_timeout_seconds=15, application_name="longhaul-tests"
    )
    yield made
    await made.close()


@pytest.fixture
async def fresh_postgres(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The name of an empty database of one's own, dropped afterwards."""
    name = f"test_{new_id().hex}"
    engine = create_engine(postgres.superuser_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield name
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def tenant_id(database: Database) -> UUID:
    """A new tenant."""
    made = new_id()
    async with database.system() as connection:
        await TenantRepository(connection).add(tenant_id=made, name=f"tenant-{made}")
    return made


@pytest.fixture(scope="session")
def store(scratch: Path) -> ArtifactStore:
    """An object store on disk."""
    return create_artifact_store((scratch / "artifacts").as_uri())


@pytest.fixture(scope="session")
def temporal_server(scratch: Path) -> Iterator[EmbeddedTemporal]:
    """A Temporal development server."""
    server = EmbeddedTemporal(scratch / "temporal", port=free_port(), ui_port=None, search_attributes=SEARCH_ATTRIBUTES)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def temporal(temporal_server: EmbeddedTemporal) -> Client:
    """A client of the Temporal server."""
    return await connect(
        temporal_server.address, namespace="default", converter=create_data_converter(None), lazy=False
    )
