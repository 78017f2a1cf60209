"""The API with another way of writing records down: ``python -m benchmarks.saving_variants PORT nothing|insert``.

Everything before and after is ours and the same: gate, rate limit, judging, answer. ``nothing`` acknowledges without
touching the database. ``insert`` commits one INSERT for each request, as an endpoint would that knows no batches.
Settings come from the environment, as for ``python -m api``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import text

from api.app import create_app
from api.serving import create_server
from core.database import Database
from core.logging import configure_logging
from core.settings import load_settings
from repositories.saving.intake import NewBatch
from services.saving.spool import Spool

_INSERT = text(
    "INSERT INTO benchmark_records (tenant_id, batch_id, body) VALUES (:tenant, :batch, CAST(:body AS jsonb))"
)


async def write_nothing(batches: Sequence[NewBatch], *, bulk: bool) -> tuple[set[UUID], set[UUID]]:
    """Pretend that all are new, and that nobody else has any in hand."""
    del bulk
    return {batch.id for batch in batches}, set()


class OneInsert:
    """Commits one INSERT a request, each on a connection of the pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, batch: NewBatch, spool: Spool) -> bool:
        """Write one request's record."""
        [row] = spool
        body = row.rstrip(b"\n").rpartition(b"\t")[2].decode()
        async with self._database.tenant(batch.tenant_id) as connection:
            await connection.execute(_INSERT, {"tenant": batch.tenant_id, "batch": batch.id, "body": body})
        return True


def change(app: FastAPI, variant: str) -> None:
    """Exchange the writing once the services are built."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def changed(started: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(started) as state:
            services = started.state.services
            if variant == "nothing":
                services.intake._commit = write_nothing  # noqa: SLF001 - what is measured is what is left
            else:
                services.intake._write = OneInsert(services.database)  # noqa: SLF001 - see above
            yield state

    app.router.lifespan_context = changed


def main(port: int, variant: str) -> None:
    """Serve until SIGTERM."""
    settings = load_settings()
    configure_logging(json_lines=True, level="WARNING", process="api", secrets=settings.secrets())
    app = create_app(settings)
    change(app, variant)
    asyncio.run(create_server(app, host="127.0.0.1", port=port, grace_seconds=5).serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
