"""What people do with what waits for them: decide, and edit by hand. Decisions are bound to the content's digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import case, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.generation.steps import KeptOutline
from activities.generation.wishes import outline_faults, section_ids
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.approvals import Answer, ApprovalState, Subject, edited_by_hand, outline_sha256
from domain.artifacts import Artifact, ArtifactRole
from domain.errors import ContentChanged, FieldFault, InvalidInput, NotFound, StateError
from domain.generation import Corpus, CourseInput, CourseOutline
from domain.generation_plan import SOURCES_STEP, outline_part
from domain.jobs import JobRef, WaitingOn
from domain.model import Frozen
from repositories.approvals import ApprovalRepository, approval_wait
from repositories.artifacts import ArtifactRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository
from repositories.tables import jobs

DocumentT = TypeVar("DocumentT", bound=Frozen)

_NOT_SEEN: Final = "the content is not the one that was seen; look at it again"


async def decide_course(connection: AsyncConnection, job_id: UUID, answer: Answer) -> Mapping[str, Any]:
    """Write down what a person says about what a course waits with. Raises ContentChanged.

    In the transaction that also records it in the job, and before the job is locked.
    """
    rounds = ApprovalRepository(connection)
    row = await rounds.get_waiting(job_id, lock=True)
    if row is None:
        # Whether the job waits for anything is for the caller to say.
        return {}
    if answer.seen is not None and answer.seen != row.content_sha256:
        raise ContentChanged(_NOT_SEEN)
    if answer.approved and row.content_sha256 is None:
        raise ContentChanged("the course is being put together anew after an edit; look at it when it is there")
    state = ApprovalState.APPROVED if answer.approved else ApprovalState.REJECTED
    await rounds.change(row, state=state, comment=answer.comment, decided_at=datetime.now(UTC))
    return {"subject": row.subject, "round": row.round, "content_sha256": row.content_sha256}


async def course_wait(connection: AsyncConnection, job_id: UUID) -> WaitingOn | None:
    """The person a course waits for."""
    row = await ApprovalRepository(connection).get_waiting(job_id, lock=True)
    return None if row is None else approval_wait(row)


@dataclass(frozen=True, slots=True)
class ShownOutline:
    """An outline that a person was asked about, and how that stands: a row of ``approvals``."""

    row: AnyRow
    kept: KeptOutline


class ApprovalService:
    """Reading and editing what waits for approval, for one tenant at a time."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    async def get_outline(self, tenant_id: UUID, job_id: UUID) -> ShownOutline:
        """The outline a person is, or was last, asked about. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            row = await ApprovalRepository(connection).get_latest(job_id, Subject.OUTLINE)
        if row is None:
            raise NotFound("nobody was asked about an outline of such a job")
        return ShownOutline(row, await self._read(tenant_id, row.artifact_id, KeptOutline))

    async def put_outline(self, tenant_id: UUID, job_id: UUID, outline: CourseOutline, *, seen: str) -> ShownOutline:
        """Replace the outline that waits, if it still is the one that was ``seen``. The digest changes with it.

        Raises NotFound, StateError, ContentChanged, and InvalidInput for what a model would not be let through with.
        """
        async with self._database.tenant(tenant_id) as connection:
            wanted = CourseInput.model_validate(await _input_of_course(connection, job_id))
            waiting = _expect_outline(await ApprovalRepository(connection).get_waiting(job_id), seen)
            corpus_id = await _corpus_of(connection, tenant_id, job_id)
        corpus = await self._read(tenant_id, corpus_id, Corpus)
        _check(outline, wanted, corpus)
        before = await self._read(tenant_id, waiting.artifact_id, KeptOutline)
        digest = outline_sha256(outline)
        if digest == waiting.content_sha256:
            return ShownOutline(waiting, before)
        kept = KeptOutline(outline=outline, provenance=edited_by_hand(before.provenance, at=datetime.now(UTC)))
        artifact = await self._store_outline(tenant_id, job_id, kept, waiting.round)
        async with self._database.tenant(tenant_id) as connection:
            rounds = ApprovalRepository(connection)
            # Only now, with the row locked, is it certain that nobody else decides or edits.
            row = _expect_outline(await rounds.get_waiting(job_id, lock=True), seen)
            await ArtifactRepository(connection).add(artifact)
            row = await rounds.change(row, content_sha256=digest, artifact_id=artifact.id, edited=True)
            await _say_edited(connection, row)
        return ShownOutline(row, kept)

    async def _store_outline(self, tenant_id: UUID, job_id: UUID, kept: KeptOutline, number: int) -> Artifact:
        body = kept.model_dump_json(indent=1).encode()
        return Artifact(
            id=new_id(),
            tenant_id=tenant_id,
            job_id=job_id,
            name=f"{outline_part(number)}-edited.json",
            media_type="application/json",
            bytes=len(body),
            sha256=await self._store.put(tenant_id, body),
            role=ArtifactRole.PARTIAL,
        )

    async def _read(self, tenant_id: UUID, artifact_id: UUID, kind: type[DocumentT]) -> DocumentT:
        async with self._database.tenant(tenant_id) as connection:
            artifact = await ArtifactRepository(connection).get_one(artifact_id)
        return kind.model_validate_json(await self._store.get(artifact.store_key))


async def _input_of_course(connection: AsyncConnection, job_id: UUID) -> dict[str, Any]:
    repository = JobRepository(connection)
    if (await repository.get_document(job_id)).kind != "generation.course":
        raise StateError("only a job that makes a course has an outline")
    return await repository.get_input(job_id)


async def _corpus_of(connection: AsyncConnection, tenant_id: UUID, job_id: UUID) -> UUID:
    job = JobRef(job_id=job_id, tenant_id=tenant_id, kind="generation.course")
    kept = await StepResultRepository(connection).get_by_prefix(job, SOURCES_STEP)
    return UUID(kept[SOURCES_STEP]["artifact_id"])


def _expect_outline(row: AnyRow | None, seen: str) -> AnyRow:
    if row is None or row.subject != Subject.OUTLINE:
        raise StateError("no outline of this job waits for approval")
    if row.content_sha256 != seen:
        raise ContentChanged(_NOT_SEEN)
    return row


def _check(outline: CourseOutline, wanted: CourseInput, corpus: Corpus) -> None:
    faults = [FieldFault(*fault) for fault in outline_faults(outline, wanted, section_ids(corpus))]
    if faults:
        raise InvalidInput("the outline does not fit the job", faults=faults)


async def _say_edited(connection: AsyncConnection, row: AnyRow) -> None:
    """Say in the job what waits now. Raises StateError, which undoes the transaction, where the job is over."""
    waits = literal(approval_wait(row).model_dump(mode="json"), JSONB)
    version = await JobRepository(connection).record(
        job_id=row.job_id,
        attempt=row.attempt,
        event="approval.edited",
        data={
            "subject": row.subject,
            "round": row.round,
            "content_sha256": row.content_sha256,
            "artifact_id": str(row.artifact_id),
        },
        values={"waiting_on": case((jobs.c.paused, jobs.c.waiting_on), else_=waits)},
    )
    if version is None:
        raise StateError("the job is over, or does not wait any more")
