"""What ``waiting_on`` of a job becomes, as SQL, when something about the job moves.

A person who paused the job sees that first. A question to a person stays shown until it is answered, whatever else
moves meanwhile: it is read from the rows of what is asked about, so that several questions do not hide one another.
"""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, case, func, literal, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.jobs import WaitingOn
from repositories.tables import jobs

ASKED: Final = """(
    SELECT jsonb_build_object(
        'kind', 'provider',
        'detail', 'the video of lesson ' || substring(part FROM '^lesson-([0-9.]+)')
                  || ' is late; a person decides: POST /renders/' || id || '/resolve',
        'since', asked_at, 'until', NULL)
    FROM video_renders
    WHERE video_renders.tenant_id = jobs.tenant_id AND video_renders.job_id = jobs.id AND state = 'stuck'
    ORDER BY id LIMIT 1
)"""
"""The oldest question about a render of the job in ``jobs``; NULL where there is none."""

_asked: Final[ColumnElement[Any]] = literal_column(ASKED, JSONB)

STANDING: Final = f"CASE WHEN jobs.paused THEN jobs.waiting_on ELSE {ASKED} END"
"""As ``standing_wait``, for statements that are text."""

standing_wait: Final[ColumnElement[Any]] = literal_column(STANDING, JSONB)
"""Nothing, unless the job is to pause or a person is asked."""


def shown_wait(wait: WaitingOn) -> ColumnElement[Any]:
    """The wait, unless the job is to pause or a person is asked."""
    return _behind_pause(func.coalesce(_asked, _document(wait)))


def asking_wait(wait: WaitingOn) -> ColumnElement[Any]:
    """The wait for the answer of a person, unless the job is to pause."""
    return _behind_pause(_document(wait))


def _document(wait: WaitingOn) -> ColumnElement[Any]:
    return literal(wait.model_dump(mode="json"), JSONB)


def _behind_pause(shown: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((jobs.c.paused, jobs.c.waiting_on), else_=shown)


async def get_asked_or_none(connection: AsyncConnection, job_id: UUID) -> WaitingOn | None:
    """What a person is asked about the renders of a job, whether the job is to pause or not."""
    found = (await connection.execute(select(_asked).select_from(jobs).where(jobs.c.id == job_id))).scalar_one_or_none()
    return None if found is None else WaitingOn.model_validate(found)
