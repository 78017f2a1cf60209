"""Looking at, and editing, what waits for a person. Deciding is ``POST /jobs/{id}/approve`` and ``/reject``."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Response
from pydantic import BaseModel, StringConstraints

from api.documents import encode
from api.routing import Call, Family, Needs, problems
from domain.approvals import ApprovalState
from domain.generation import CourseOutline, LessonContent, Provenance
from domain.guarding import Finding
from services.approvals import ShownOutline
from services.tenants import Scope

router: Final = Family("approvals")

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.JOBS_WRITE))]
JobID = Annotated[UUID, Path(description="The id of the job.")]
CourseID = Annotated[UUID, Path(description="The id of the course, which is that of its job.")]
LessonKey = Annotated[
    str, Path(pattern=r"^lesson-[0-9]{1,4}\.[0-9]{1,4}$", description="A lesson, such as `lesson-1.2`.")
]
Seen = Annotated[
    str,
    Header(alias="If-Match", description='The digest of what was looked at, as the ETag has it: `"<sha256>"`.'),
    StringConstraints(pattern=r'^"?[0-9a-f]{64}"?$'),
]

_JSON: Final = "application/json"


class OutlineDocument(BaseModel):
    """An outline that a person is, or was, asked about. An answer is bound to ``content_sha256``.

    ``findings`` are of the tenant's content policy, with pointers into ``outline``.
    """

    outline: CourseOutline
    content_sha256: str
    artifact_id: UUID
    state: ApprovalState
    round: int
    edited: bool
    timed_out: bool
    comment: str | None
    asked_at: datetime
    until: datetime
    decided_at: datetime | None
    provenance: Provenance
    findings: list[Finding]


class EditedNodeDocument(BaseModel):
    """A lesson after an edit by hand. ``version`` is null while the course is still being made.

    ``findings`` tell what of the text the tenant's content policy masked or flagged.
    """

    course_id: UUID
    node: str
    content_sha256: str
    artifact_id: UUID
    version: int | None
    findings: list[Finding]


@router.get("/jobs/{job_id}/outline", response_model=OutlineDocument, responses=problems(404))
async def get_outline(call: Reader, job_id: JobID) -> Response:
    """The outline that waits for a person, or the last one that did; its digest is the ETag."""
    return _shown(await call.services.approvals.get_outline(call.tenant_id, job_id))


@router.put("/jobs/{job_id}/outline", response_model=OutlineDocument, responses=problems(400, 404, 408, 409, 413, 415))
async def put_outline(call: Writer, job_id: JobID, body: CourseOutline, if_match: Seen) -> Response:
    """Put another outline in the place of the one that waits. It has another digest, and waits in turn."""
    seen = if_match.strip('"')
    return _shown(await call.services.approvals.put_outline(call.tenant_id, job_id, body, seen=seen))


@router.put(
    "/courses/{course_id}/nodes/{node}",
    response_model=EditedNodeDocument,
    responses=problems(400, 404, 408, 409, 413, 415),
)
async def put_lesson(
    call: Writer, course_id: CourseID, node: LessonKey, body: LessonContent, if_match: Seen
) -> Response:
    """Put another text in the place of a lesson's.

    A course that has versions has one more then; one that waits to be approved is put together anew first.
    """
    seen = if_match.strip('"')
    edited = await call.services.approvals.put_lesson(call.tenant_id, course_id, node, body, seen=seen)
    document = {
        "course_id": course_id,
        "node": edited.key,
        "content_sha256": edited.content_sha256,
        "artifact_id": edited.artifact_id,
        "version": edited.version,
        "findings": [finding.model_dump(mode="json") for finding in edited.findings],
    }
    headers = {"etag": f'"{edited.content_sha256}"'}
    return Response(encode(document), headers=headers, media_type=_JSON)


def _shown(shown: ShownOutline) -> Response:
    row = shown.row
    document = {
        "outline": shown.kept.outline.model_dump(mode="json"),
        "content_sha256": row.content_sha256,
        "artifact_id": row.artifact_id,
        "state": row.state,
        "round": row.round,
        "edited": row.edited,
        "timed_out": row.timed_out,
        "comment": row.comment,
        "asked_at": row.asked_at,
        "until": row.until,
        "decided_at": row.decided_at,
        "provenance": shown.kept.provenance.model_dump(mode="json"),
        "findings": [finding.model_dump(mode="json") for finding in shown.kept.findings],
    }
    headers = {"etag": f'"{row.content_sha256}"', "cache-control": "private, no-cache"}
    return Response(encode(document), headers=headers, media_type=_JSON)
