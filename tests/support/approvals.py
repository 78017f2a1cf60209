"""Rounds of approval as tests look at them."""

from typing import Final

from sqlalchemy import select

from core.database import Database
from domain.jobs import JobRef
from repositories.rows import AnyRow
from repositories.tables import approvals
from tests.support.course_service import Courses
from tests.support.job_rows import job_row
from tests.support.waiting import eventually

PATIENCE: Final = 90.0
"""Seconds that anything may take on a busy machine."""


async def rounds(database: Database, job: JobRef) -> list[AnyRow]:
    """Everything that was asked, in order."""
    async with database.tenant(job.tenant_id) as connection:
        query = select(approvals).where(approvals.c.job_id == job.job_id)
        return list(await connection.execute(query.order_by(approvals.c.asked_at)))


async def until_asked(courses: Courses, job: JobRef, subject: str, number: int = 1) -> AnyRow:
    """Wait until a person is asked this; the row of the round."""

    async def look() -> list[AnyRow]:
        found = [row for row in await rounds(courses.database, job) if (row.subject, row.round) == (subject, number)]
        shown = ((await job_row(courses.database, job)).waiting_on or {}).get("kind")
        waits = found and found[0].state == "waiting" and found[0].attempt == job.attempt and shown == "approval"
        return found if waits else []

    (row,) = await eventually(look, bool, within=PATIENCE)
    return row
