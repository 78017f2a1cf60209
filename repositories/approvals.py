"""Approvals of one tenant's jobs.

Whoever changes one locks its row before the job's, and after the course's where that is locked as well.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.approvals import ApprovalState, Subject
from domain.jobs import JobRef, WaitingKind, WaitingOn
from repositories.rows import AnyRow
from repositories.tables import approvals, jobs

_WHAT: Final = {Subject.OUTLINE: "the outline", Subject.COURSE: "the finished course"}


class ApprovalRepository:
    """Approvals behind one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_waiting(self, job_id: UUID, *, lock: bool = False) -> AnyRow | None:
        """What the job asks a person in its present attempt, locked where wanted until the end of the transaction.

        None where the job is over: nobody listens to an answer then.
        """
        query = select(approvals).where(
            approvals.c.job_id == job_id,
            approvals.c.state == ApprovalState.WAITING,
            approvals.c.attempt == _open_attempt(job_id),
        )
        return await self._one(query, lock=lock)

    async def get_round(self, job_id: UUID, subject: Subject, number: int) -> AnyRow | None:
        """One round, locked until the end of the transaction."""
        query = select(approvals).where(
            approvals.c.job_id == job_id, approvals.c.subject == subject, approvals.c.round == number
        )
        return await self._one(query, lock=True)

    async def get_latest(self, job_id: UUID, subject: Subject) -> AnyRow | None:
        """The newest round. One that its job does not wait for any more is shown as withdrawn."""
        left = and_(
            approvals.c.state == ApprovalState.WAITING, approvals.c.attempt.is_distinct_from(_open_attempt(job_id))
        )
        state = case((left, ApprovalState.WITHDRAWN.value), else_=approvals.c.state).label("state")
        shown = [state if column.name == "state" else column for column in approvals.c]
        query = select(*shown).where(approvals.c.job_id == job_id, approvals.c.subject == subject)
        return await self._one(query.order_by(approvals.c.round.desc()).limit(1), lock=False)

    async def get_rejected(self, job_id: UUID, subject: Subject, *, before: int) -> Sequence[AnyRow]:
        """The rounds before this one that a person has said no to, oldest first."""
        query = select(approvals).where(
            approvals.c.job_id == job_id,
            approvals.c.subject == subject,
            approvals.c.state == ApprovalState.REJECTED,
            approvals.c.round < before,
        )
        return (await self._connection.execute(query.order_by(approvals.c.round))).all()

    async def get_objection_or_none(self, job: JobRef) -> AnyRow | None:
        """The last time before this attempt that a person rejected the finished course and said what is wrong."""
        query = select(approvals).where(
            approvals.c.job_id == job.job_id,
            approvals.c.subject == Subject.COURSE,
            approvals.c.state == ApprovalState.REJECTED,
            approvals.c.attempt < job.attempt,
            func.btrim(approvals.c.comment) != "",
        )
        return await self._one(query.order_by(approvals.c.round.desc()).limit(1), lock=False)

    async def get_approved(self, job_id: UUID, subject: Subject, content_sha256: str) -> AnyRow | None:
        """A round in which just this content was approved."""
        query = select(approvals).where(
            approvals.c.job_id == job_id,
            approvals.c.subject == subject,
            approvals.c.state == ApprovalState.APPROVED,
            approvals.c.content_sha256 == content_sha256,
        )
        return await self._one(query.order_by(approvals.c.round.desc()).limit(1), lock=False)

    # --- changes ------------------------------------------------------------------------------------

    async def add(self, values: dict[str, Any]) -> AnyRow:
        """Ask something new."""
        row: AnyRow = (await self._connection.execute(insert(approvals).values(values).returning(approvals))).one()
        return row

    async def withdraw(self, job_id: UUID, *, besides: AnyRow | None) -> None:
        """Close every question that waits for an answer, but for one: a job asks one thing at a time."""
        waiting = [approvals.c.job_id == job_id, approvals.c.state == ApprovalState.WAITING]
        if besides is not None:
            waiting.append(not_(and_(approvals.c.subject == besides.subject, approvals.c.round == besides.round)))
        closed = {"state": ApprovalState.WITHDRAWN, "decided_at": datetime.now(UTC)}
        await self._connection.execute(update(approvals).where(*waiting).values(closed))

    async def change(self, row: AnyRow, **values: Any) -> AnyRow:
        """Change a round whose row is locked; the row as it is then."""
        statement = update(approvals).where(
            approvals.c.job_id == row.job_id, approvals.c.subject == row.subject, approvals.c.round == row.round
        )
        changed: AnyRow = (await self._connection.execute(statement.values(**values).returning(approvals))).one()
        return changed

    async def _one(self, query: Select[Any], *, lock: bool) -> AnyRow | None:
        statement = query.with_for_update() if lock else query
        found: AnyRow | None = (await self._connection.execute(statement)).one_or_none()
        return found


def _open_attempt(job_id: UUID) -> ColumnElement[int]:
    """The number of the attempt that is in progress; null where there is none."""
    return select(jobs.c.attempt).where(jobs.c.id == job_id, jobs.c.finished_at.is_(None)).scalar_subquery()


def approval_wait(row: AnyRow) -> WaitingOn:
    """What a job says while it waits for a person: for what, and the digest that an answer is bound to."""
    what = f"a person has to agree to {_WHAT[Subject(row.subject)]}"
    seen = f", content_sha256 {row.content_sha256}" if row.content_sha256 else "; it is being put together anew"
    return WaitingOn(kind=WaitingKind.APPROVAL, detail=what + seen, since=row.asked_at, until=row.until)
