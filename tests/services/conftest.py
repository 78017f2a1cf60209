"""A tenant's jobs on a queue that a worker serves, and on one that nobody does."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from temporalio.client import Client

from core.database import Database
from core.ids import new_id
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import Life, clear_commands, serving


@pytest.fixture(scope="session")
async def served_queue(temporal: Client, database: Database) -> AsyncIterator[str]:
    """A task queue with a worker."""
    name = f"served-{new_id()}"
    async with serving(temporal, database, name):
        yield name


@pytest.fixture
async def life(
    postgres: EmbeddedPostgres, database: Database, temporal: Client, tenant_id: UUID, served_queue: str
) -> Life:
    """A tenant whose jobs find a worker; nothing of other tests is left to be delivered."""
    await clear_commands(database)
    return Life(postgres, database, temporal, tenant_id, served_queue)


@pytest.fixture
async def unserved(postgres: EmbeddedPostgres, database: Database, temporal: Client, tenant_id: UUID) -> Life:
    """A tenant whose jobs find no worker, until the test serves the queue; nothing of other tests is left."""
    await clear_commands(database)
    return Life(postgres, database, temporal, tenant_id, f"unserved-{new_id()}")
