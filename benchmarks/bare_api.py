"""What ``GET /jobs/{id}`` is compared with: ``python -m benchmarks.bare_api PORT DATABASE_URL``.

FastAPI and uvicorn as they come, one route, one SELECT by primary key through a pool like ours: no keys, no tenants, no
row-level security, no steps, no request ids, no metrics. The login is one that may read the table directly.
"""

import sys
from typing import Any
from uuid import UUID

import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from sqlalchemy import select

from core.database import create_database
from core.settings import Settings
from repositories.tables import jobs

COLUMNS = (
    "id", "kind", "task_queue", "status", "version", "attempt", "progress", "priority", "labels", "waiting_on",
    "error", "error_code", "cost_usd", "input_tokens", "output_tokens", "start_at", "admitted_at", "created_at",
    "started_at", "finished_at", "updated_at", "request_id",
)  # fmt: skip
_query = select(*(jobs.c[name] for name in COLUMNS))


def create_app(database_url: str) -> FastAPI:
    """The application."""
    pool_size = int(Settings.model_fields["database_pool_size"].default)
    database = create_database(
        database_url, pool_size=pool_size, statement_timeout_seconds=15, application_name="benchmark-bare-api"
    )
    app = FastAPI()

    @app.get("/jobs/{job_id}")
    async def get_job(job_id: UUID) -> Response:
        async with database.engine.connect() as connection:
            row = (await connection.execute(_query.where(jobs.c.id == job_id))).one_or_none()
        if row is None:
            raise HTTPException(404)
        return Response(orjson.dumps(_document(row)), media_type="application/json")

    return app


def _document(row: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, row, strict=True)) | {"cost_usd": str(row.cost_usd)}


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[2]), port=int(sys.argv[1]), loop="uvloop", access_log=False, log_level="warning")
