"""What people do with what waits for them: decide, and edit by hand. Decisions are bound to the content's digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.generation.assembly import KeptOutline
from activities.generation.guard import ContentGuard, Part
from activities.generation.wishes import outline_faults, section_ids
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.approvals import PERSON, Answer, ApprovalState, Subject, edited_by_hand, outline_sha256
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeKind, TreeNode, content_sha256, place_of
from domain.course_nodes import lesson_nodes, outline_nodes
from domain.errors import ContentChanged, FieldFault, InvalidInput, NotFound, StateError
from domain.generation import ContentStatus, Corpus, CourseInput, CourseOutline, Lesson, LessonContent
from domain.generation_plan import SOURCES_STEP, outline_part
from domain.guarding import Finding, GuardAction, count_findings
from domain.jobs import JobRef, WaitingOn
from domain.model import Frozen
from gateways.detection import PersonalDataDetector
from repositories.approvals import ApprovalRepository, approval_wait
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository
from repositories.waits import asking_wait, get_asked_or_none
from services.commands import Command, CommandSender
from services.jobs import add_signal

DocumentT = TypeVar("DocumentT", bound=Frozen)

COURSE_KIND: Final = "generation.course"
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
    return await get_asked_or_none(connection, job_id) if row is None else approval_wait(row)


@dataclass(frozen=True, slots=True)
class ShownOutline:
    """An outline that a person was asked about, and how that stands: a row of ``approvals``."""

    row: AnyRow
    kept: KeptOutline


@dataclass(frozen=True, slots=True)
class EditedNode:
    """A node that a person has changed. ``version`` is None while the course has none: it is still being made.

    ``findings`` tell what of the text was masked or flagged.
    """

    key: str
    content_sha256: str
    artifact_id: UUID
    version: int | None
    findings: tuple[Finding, ...] = ()


class ApprovalService:
    """Reading and editing what waits for approval, for one tenant at a time."""

    def __init__(self, database: Database, store: ArtifactStore, sender: CommandSender) -> None:
        self._database = database
        self._store = store
        self._sender = sender
        self._guard = ContentGuard(database, StepKeeper(database), PersonalDataDetector())

    async def get_outline(self, tenant_id: UUID, job_id: UUID) -> ShownOutline:
        """The outline a person is, or was last, asked about. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            row = await ApprovalRepository(connection).get_latest(job_id, Subject.OUTLINE)
        if row is None:
            raise NotFound("nobody was asked about an outline of such a job")
        return ShownOutline(row, await self._read(tenant_id, row.artifact_id, KeptOutline))

    async def put_outline(self, tenant_id: UUID, job_id: UUID, outline: CourseOutline, *, seen: str) -> ShownOutline:
        """Replace the outline that waits, if it still is the one that was ``seen``. The digest changes with it.

        Personal data is dealt with as in what a model writes. Raises NotFound, StateError, ContentChanged, and
        InvalidInput for what a model would not be let through with.
        """
        async with self._database.tenant(tenant_id) as connection:
            wanted = CourseInput.model_validate(await _input_of_course(connection, job_id))
            waiting = _expect_outline(await ApprovalRepository(connection).get_waiting(job_id), seen)
            corpus_id = await _corpus_of(connection, tenant_id, job_id)
        corpus = await self._read(tenant_id, corpus_id, Corpus)
        outline, findings = await self._guarded(_course_job(tenant_id, job_id), outline, language=wanted.language)
        _check(outline, wanted, corpus)
        before = await self._read(tenant_id, waiting.artifact_id, KeptOutline)
        digest = outline_sha256(outline)
        if digest == waiting.content_sha256:
            return ShownOutline(waiting, before)
        by_hand = edited_by_hand(before.provenance, at=datetime.now(UTC))
        kept = KeptOutline(outline=outline, provenance=by_hand, findings=findings)
        name = f"{outline_part(waiting.round)}-edited.json"
        artifact = await self._store_document(tenant_id, job_id, name, kept)
        async with self._database.tenant(tenant_id) as connection:
            rounds, courses = ApprovalRepository(connection), CourseRepository(connection)
            # This locks the course, which comes before its approvals.
            job = _course_job(tenant_id, job_id, attempt=waiting.attempt)
            await courses.open(job, job_id, title=outline.title, corpus_id=corpus_id)
            # Only now, with the row locked, is it certain that nobody else decides or edits.
            row = _expect_outline(await rounds.get_waiting(job_id, lock=True), seen)
            if row.attempt != waiting.attempt:
                raise ContentChanged(_NOT_SEEN)
            await ArtifactRepository(connection).add(artifact)
            row = await rounds.change(row, content_sha256=digest, artifact_id=artifact.id, edited=True)
            nodes = outline_nodes(outline, kept.provenance, input_hash=_by_hand(digest), artifact_id=artifact.id)
            await courses.point(tenant_id, job_id, await courses.add_revisions(job_id, nodes))
            command = await _say_edited(connection, row, findings)
        await self._sender.try_now(command)
        return ShownOutline(row, kept)

    async def put_lesson(
        self, tenant_id: UUID, course_id: UUID, key: str, content: LessonContent, *, seen: str
    ) -> EditedNode:
        """Replace what a lesson says, if it still is what was ``seen``; the course has another version then.

        A course that waits to be approved is put together anew, and no approval of what it was before counts. Personal
        data is dealt with as in what a model writes. Raises NotFound, ContentChanged, and InvalidInput for text that
        the content policy blocks.
        """
        async with self._database.tenant(tenant_id) as connection:
            node = await _lesson_of(connection, course_id, key, seen)
            wanted = CourseInput.model_validate(await _input_of_course(connection, course_id))
        content, findings = await self._guarded(_course_job(tenant_id, course_id), content, language=wanted.language)
        assert node.artifact_id is not None
        before = await self._read(tenant_id, node.artifact_id, Lesson)
        now = edited_by_hand(before.provenance, at=datetime.now(UTC))
        update = {"content": content, "findings": findings, "status": ContentStatus.READY, "draft": None}
        lesson = before.model_copy(update={**update, "provenance": now})
        module, number = place_of(key)
        name = f"lessons/{module + 1:02}-{number + 1:02}-edited.json"
        artifact = await self._store_document(tenant_id, course_id, name, lesson)
        digest = content_sha256(content.model_dump(mode="json"))
        command = None
        async with self._database.tenant(tenant_id) as connection:
            rounds, courses = ApprovalRepository(connection), CourseRepository(connection)
            # In this order: whoever asks about the course locks it first, so what was asked meanwhile is seen here.
            course = await courses.lock(course_id)
            row = await rounds.get_waiting(course_id, lock=True)
            await _lesson_of(connection, course_id, key, seen)
            await ArtifactRepository(connection).add(artifact)
            nodes = lesson_nodes(module, lesson, input_hash=_by_hand(digest), artifact_id=artifact.id)
            await courses.point(tenant_id, course_id, await courses.add_revisions(course_id, nodes))
            version = await courses.snapshot(course_id, None, reason="edit") if course.latest_version else None
            if row is not None and row.subject == Subject.COURSE:
                row = await rounds.change(row, content_sha256=None, edited=True)
                command = await _say_edited(connection, row, findings)
        if command is not None:
            await self._sender.try_now(command)
        return EditedNode(key, digest, artifact.id, version, findings)

    async def _guarded(
        self, job: JobRef, document: DocumentT, *, language: str
    ) -> tuple[DocumentT, tuple[Finding, ...]]:
        """What a person wrote as the tenant's policy lets it be kept, and what was found in it. Raises InvalidInput."""
        part = Part(job=job, name=PERSON, digest="", provider=PERSON, language=language)
        content, findings = await self._guard.recheck(part, document.model_dump(mode="json"))
        blocked = sorted({(one.pointer, one.kind.value) for one in findings if one.action is GuardAction.BLOCK})
        if blocked:
            faults = [FieldFault(pointer, f"the content policy blocks this: {kind}") for pointer, kind in blocked]
            raise InvalidInput("the text holds what the content policy blocks", faults=faults)
        return type(document).model_validate(content), findings

    async def _store_document(self, tenant_id: UUID, job_id: UUID, name: str, document: Frozen) -> Artifact:
        body = document.model_dump_json(indent=1).encode()
        return Artifact(
            id=new_id(),
            tenant_id=tenant_id,
            job_id=job_id,
            name=name,
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
    if (await repository.get_document(job_id)).kind != COURSE_KIND:
        raise StateError("only a job that makes a course has an outline")
    return await repository.get_input(job_id)


def _course_job(tenant_id: UUID, job_id: UUID, *, attempt: int = 1) -> JobRef:
    return JobRef(job_id=job_id, tenant_id=tenant_id, kind=COURSE_KIND, attempt=attempt)


def _by_hand(digest: str) -> str:
    """The input hash of a node that a person made: nothing went in but what came out."""
    return f"by-hand/{digest}"


async def _lesson_of(connection: AsyncConnection, course_id: UUID, key: str, seen: str) -> TreeNode:
    courses = CourseRepository(connection)
    await courses.get(course_id)
    nodes = {node.key: node for node in await courses.get_tree(course_id)}
    if key not in nodes or nodes[key].kind is not NodeKind.LESSON:
        raise NotFound("there is no such lesson yet")
    if nodes[key].content_sha256 != seen:
        raise ContentChanged(_NOT_SEEN)
    return nodes[key]


async def _corpus_of(connection: AsyncConnection, tenant_id: UUID, job_id: UUID) -> UUID:
    job = _course_job(tenant_id, job_id)
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


async def _say_edited(connection: AsyncConnection, row: AnyRow, findings: Sequence[Finding]) -> Command:
    """Say in the job what waits now, and have its workflow look.

    Raises StateError, which undoes the transaction, where the job is over.
    """
    repository = JobRepository(connection)
    version = await repository.record(
        job_id=row.job_id,
        attempt=row.attempt,
        event="approval.edited",
        data={
            "subject": row.subject,
            "round": row.round,
            "content_sha256": row.content_sha256,
            "artifact_id": row.artifact_id and str(row.artifact_id),
            "findings": count_findings(findings),
        },
        values={"waiting_on": asking_wait(approval_wait(row))},
    )
    if version is None:
        raise StateError("the job is over, or does not wait any more")
    return await add_signal(connection, await repository.get_for_update(row.job_id), "content_changed", version)
