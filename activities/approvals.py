"""Asking a person, looking what they said, and what their no to a finished course means for its next attempt.

Short transactions, run as local activities.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.errors import as_failures
from activities.steps import StepKeeper
from core.database import Database
from core.logging import bind_job
from domain.approvals import ApprovalState, Subject, files_sha256
from domain.course_graph import NodeKind, TreeNode, kind_of, lesson_key
from domain.errors import Superseded
from domain.generation import ContentStatus
from domain.jobs import JobRef
from domain.model import Frozen
from repositories.approvals import ApprovalRepository, approval_wait
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository
from repositories.waits import asking_wait, standing_wait

_log = structlog.get_logger(__name__)


class AskApprovalInput(Frozen):
    """What a person is to agree to, and for how long that is waited for.

    ``round`` counts what is asked about one subject. ``content_sha256`` is None for the finished course: then the files
    of the job's result are what is asked about.
    """

    job: JobRef
    subject: Subject
    round: int
    timeout_hours: int
    on_timeout: Literal["fail", "approve"]
    artifact_id: UUID | None = None
    content_sha256: str | None = None


class LookAtApprovalInput(Frozen):
    """Which round to look at; ``expired`` where the time for it has passed."""

    job: JobRef
    subject: Subject
    round: int
    expired: bool = False


class Approval(Frozen):
    """How a round stands. ``content_sha256`` is None while its content is being put together anew."""

    state: ApprovalState
    attempt: int
    until: datetime
    content_sha256: str | None
    artifact_id: UUID | None


class PlanRewritingInput(Frozen):
    """A course of which a person may have rejected an earlier attempt; how many lessons each of its modules has."""

    job: JobRef
    lessons: tuple[int, ...]


class Rewriting(Frozen):
    """What follows from the ``round`` in which a person rejected the finished course and said what is wrong.

    ``before`` has a place for every lesson of every module: the artifact of the lesson as it was rejected, where it is
    made anew with that comment, and None where it stays.
    """

    round: int
    before: tuple[tuple[UUID | None, ...], ...]


class FreezeRewrittenInput(Frozen):
    """The round whose rewriting is done."""

    job: JobRef
    round: int


class ApprovalActivities:
    """Rounds of approval. ``hour`` is how long an hour of waiting takes; tests are in a hurry."""

    def __init__(self, database: Database, *, hour: timedelta = timedelta(hours=1)) -> None:
        self._database = database
        self._keeper = StepKeeper(database)
        self._hour = hour

    @activity.defn(name="ask_approval")
    async def ask_approval(self, ask: AskApprovalInput) -> Approval:
        """Ask, unless that was asked or answered before; how it stands. A later attempt of the job asks again.

        Whatever else the job has asked is withdrawn.
        """
        with bind_job(ask.job), as_failures():
            async with self._database.tenant(ask.job.tenant_id) as connection:
                rounds = ApprovalRepository(connection)
                # The course is locked, if at all, before any approval.
                digest = ask.content_sha256 or await _digest_of_result(connection, ask.job)
                found = await rounds.get_round(ask.job.job_id, ask.subject, ask.round)
                if ask.subject is Subject.COURSE and digest is not None:
                    # Of an earlier attempt, too: the same bytes need no second agreement.
                    found = await rounds.get_approved(ask.job.job_id, ask.subject, digest) or found
                # Of an attempt that ended while it waited, or of what is approved by now.
                await rounds.withdraw(ask.job.job_id, besides=found)
                if found is None:
                    values = {**_who(ask), **self._asked(ask), **_content(ask, digest)}
                    return await self._announce(connection, ask.job, await rounds.add(values))
                if not _must_ask_again(ask, found, digest):
                    return _standing(found)
                # An outline may have been edited by hand since it was made; the course is what was put together last.
                content = {} if ask.subject is Subject.OUTLINE else _content(ask, digest)
                changed = await rounds.change(found, **self._asked(ask), **content)
                return await self._announce(connection, ask.job, changed)

    @activity.defn(name="look_at_approval")
    async def look_at_approval(self, look: LookAtApprovalInput) -> Approval:
        """How the round stands; where its time has passed and nobody has answered, that decides now."""
        job = look.job
        with bind_job(job), as_failures():
            async with self._database.tenant(job.tenant_id) as connection:
                rounds = ApprovalRepository(connection)
                row = await rounds.get_round(job.job_id, look.subject, look.round)
                assert row is not None, "a round is asked before it is looked at"
                if not look.expired or row.state != ApprovalState.WAITING or row.content_sha256 is None:
                    return _standing(row)
                state = ApprovalState.APPROVED if row.on_timeout == "approve" else ApprovalState.EXPIRED
                row = await rounds.change(row, state=state, timed_out=True, decided_at=datetime.now(UTC))
                await _record(connection, job, "approval.timed_out", _facts(row), {"waiting_on": standing_wait})
                _log.info("approval.timed_out", subject=row.subject, round=row.round, state=state.value)
                return _standing(row)

    @activity.defn(name="plan_rewriting")
    async def plan_rewriting(self, plan: PlanRewritingInput) -> Rewriting | None:
        """Which lessons are made anew because of a person's comment on the finished course; None where there is none.

        Planned once for each such comment: later attempts find again what was written for it. What a person or a
        section job has put into the course stays, and so do drafts, of which there is nothing to revise.
        """
        job = plan.job
        keys = [[lesson_key(module, lesson) for lesson in range(count)] for module, count in enumerate(plan.lessons)]
        with bind_job(job), as_failures():
            async with self._keeper.effect(job) as connection:
                objection = await ApprovalRepository(connection).get_objection_or_none(job)
                if objection is None:
                    return None
                memory, part = StepResultRepository(connection), _rewriting_part(objection.round)
                kept = await memory.get_or_none(job, part, "")
                if kept is None:
                    every = [key for module in keys for key in module]
                    standing = await CourseRepository(connection).get_standing(job.job_id, every)
                    ours = [node for node in standing.values() if node.job_id == job.job_id]
                    ready = [node for node in ours if node.status is ContentStatus.READY]
                    kept = {node.key: str(node.artifact_id) for node in ready}
                    await memory.add(job, part, "", kept)
        before = tuple(tuple(kept.get(key) for key in module) for module in keys)
        return Rewriting.model_validate({"round": objection.round, "before": before})

    @activity.defn(name="freeze_rewritten")
    async def freeze_rewritten(self, step: FreezeRewrittenInput) -> bool:
        """Make the next version of a course that was rewritten; False where nothing in it came out other than it was.

        A model may find nothing else to say, and the offline one never does: then the course stays as it is.
        """
        job = step.job
        with bind_job(job), as_failures():
            async with self._keeper.effect(job, course_id=job.job_id) as connection:
                memory, part = StepResultRepository(connection), f"{_rewriting_part(step.round)}-done"
                kept = await memory.get_or_none(job, part, "")
                if kept is None:
                    courses = CourseRepository(connection)
                    latest = (await courses.get(job.job_id)).latest_version
                    before = _contents(await courses.get_version_tree(job.job_id, latest))
                    now = _contents(await courses.get_tree(job.job_id))
                    version = None
                    if now != before:
                        note = f"rewritten after round {step.round} of approval"
                        version = await courses.snapshot(job.job_id, None, reason="made", note=note)
                    kept = {"version": version}
                    await memory.add(job, part, "", kept)
                    lessons = [key for key in now if kind_of(key) is NodeKind.LESSON and now[key] != before.get(key)]
                    told = {"round": step.round, "version": version, "lessons": len(lessons)}
                    await _record(connection, job, "course.rewritten", told, {})
                return kept["version"] is not None

    def _asked(self, ask: AskApprovalInput) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            "attempt": ask.job.attempt,
            "state": ApprovalState.WAITING,
            "asked_at": now,
            "until": now + ask.timeout_hours * self._hour,
            "on_timeout": ask.on_timeout,
            "decided_at": None,
            "timed_out": False,
            "comment": None,
        }

    async def _announce(self, connection: AsyncConnection, job: JobRef, row: AnyRow) -> Approval:
        waiting = asking_wait(approval_wait(row))
        await _record(connection, job, "approval.requested", _facts(row), {"waiting_on": waiting})
        return _standing(row)


def _rewriting_part(number: int) -> str:
    """The name of a rewriting within the memory of the job."""
    return f"rewriting-{number}"


def _contents(tree: Sequence[TreeNode]) -> dict[str, str]:
    return {node.key: node.content_sha256 for node in tree}


def _must_ask_again(ask: AskApprovalInput, found: AnyRow, digest: str | None) -> bool:
    later: bool = found.attempt < ask.job.attempt
    other: bool = ask.subject is Subject.COURSE and found.content_sha256 != digest
    match ApprovalState(found.state):
        case ApprovalState.WAITING:
            return later or other
        case ApprovalState.APPROVED:
            return other
        case ApprovalState.EXPIRED:
            return later
        case ApprovalState.WITHDRAWN:
            return True
        case ApprovalState.REJECTED:
            return False


def _who(ask: AskApprovalInput) -> dict[str, Any]:
    job = ask.job
    return {"tenant_id": job.tenant_id, "job_id": job.job_id, "subject": ask.subject, "round": ask.round}


def _content(ask: AskApprovalInput, digest: str | None) -> dict[str, Any]:
    return {"content_sha256": digest, "artifact_id": ask.artifact_id}


def _facts(row: AnyRow) -> dict[str, Any]:
    return {
        "subject": row.subject,
        "round": row.round,
        "state": row.state,
        "content_sha256": row.content_sha256,
        "artifact_id": row.artifact_id and str(row.artifact_id),
        "until": row.until.isoformat(),
    }


def _standing(row: AnyRow) -> Approval:
    return Approval(
        state=row.state,
        attempt=row.attempt,
        until=row.until,
        content_sha256=row.content_sha256,
        artifact_id=row.artifact_id,
    )


async def _digest_of_result(connection: AsyncConnection, job: JobRef) -> str | None:
    """The digest of the files that were put together last; None where the course has a newer version than they.

    Locks the course, so that it gets no version between this look and the question.
    """
    course = await CourseRepository(connection).lock(job.job_id)
    result = (await JobRepository(connection).get_result(job.job_id)).result
    if result["version"] < course.latest_version:
        return None
    return files_sha256({file["name"]: file["sha256"] for file in result["artifacts"]})


async def _record(
    connection: AsyncConnection, job: JobRef, event: str, data: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Say so in the job. Raises Superseded, which undoes the transaction, where the job has moved on without us."""
    version = await JobRepository(connection).record(
        job_id=job.job_id, attempt=job.attempt, event=event, data=data, values=values
    )
    if version is None:
        raise Superseded
