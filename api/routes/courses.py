"""Courses: their trees and versions, what is different between two, and new versions out of old ones."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Response
from pydantic import BaseModel, Field

from api.courses import course_document, course_summary, version_document, version_summary
from api.documents import encode
from api.pages import cursor_of, id_of
from api.routes.jobs import Cursor, Limit
from api.routing import Call, Family, Needs, problems
from domain.course_diff import CourseDiff
from domain.course_graph import NodeKey
from domain.model import Frozen
from domain.text import Prose
from services.courses import Made, Taken
from services.tenants import Scope

router: Final = Family("courses", prefix="/courses")

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.JOBS_WRITE))]
CourseID = Annotated[UUID, Path(description="The id of the course, which is that of the job that made it.")]
Number = Annotated[int, Path(ge=1, le=1_000_000_000, description="The number of a version.")]
VersionNumber = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True)]
Note = Annotated[Prose, Field(max_length=2_000)]

_JSON: Final = "application/json"
_HTML: Final = "text/html; charset=utf-8"
_PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class NodeDocument(BaseModel):
    """A node of a course, as one of its revisions stands."""

    node: str
    kind: str
    title: str
    revision_id: UUID
    input_hash: str
    content_sha256: str
    status: str
    calls: int
    cost_usd: str
    job_id: UUID | None
    made_at: datetime
    content_url: str | None


class CourseSummary(BaseModel):
    """A course without its tree; no ``latest_version`` while it is still being made."""

    id: UUID
    title: str
    latest_version: int | None
    created_at: datetime
    updated_at: datetime
    url: str
    job_url: str


class CourseDocument(CourseSummary):
    """A course with the tree that is worked on, in reading order. ``status`` is that of the job that makes it."""

    status: str
    tree: list[NodeDocument]


class CoursePage(BaseModel):
    """Courses, newest first."""

    items: list[CourseSummary]
    next_cursor: str | None


class VersionSummary(BaseModel):
    """A version without its nodes."""

    version: int
    reason: str
    note: str | None
    content_sha256: str
    job_id: UUID | None
    created_at: datetime
    url: str


class ExportDocument(BaseModel):
    """What was rendered of a version, and where it lies."""

    export: str
    profile: str
    url: str


class VersionDocument(VersionSummary):
    """A version with its nodes and exports."""

    tree: list[NodeDocument]
    exports: list[ExportDocument]


class VersionPage(BaseModel):
    """Versions, newest first; the next page is asked for with ``before``."""

    items: list[VersionSummary]
    next_before: int | None


class TakeWish(Frozen):
    """A node as it is in another version."""

    node: NodeKey
    from_: Annotated[VersionNumber, Field(alias="from")]


class MixWish(Frozen):
    """A version, and what to take from others instead."""

    base: VersionNumber
    take: Annotated[list[TakeWish], Field(min_length=1, max_length=200)]
    note: Note | None = None


class RollbackWish(Frozen):
    """The version to be as."""

    version: VersionNumber
    note: Note | None = None


_CHANGES: Final[dict[int | str, dict[str, Any]]] = {
    **problems(400, 404, 408, 413, 415),
    200: {"model": VersionDocument, "description": "The course is so already."},
}


@router.get("", response_model=CoursePage, responses=problems())
async def list_courses(call: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Courses whose outline is written, newest first."""
    rows = await call.services.courses.list_all(call.tenant_id, limit=limit + 1, before=id_of(cursor))
    items = [course_summary(row, call.services.links) for row in rows[:limit]]
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


@router.get("/{course_id}", response_model=CourseDocument, responses=problems(404))
async def get_course(call: Reader, course_id: CourseID) -> Response:
    """The course with its tree as it stands now, also while it is still being made."""
    view = await call.services.courses.get(call.tenant_id, course_id)
    return Response(encode(course_document(view, call.services.links)), media_type=_JSON)


@router.get("/{course_id}/versions", response_model=VersionPage, responses=problems(404))
async def list_versions(
    call: Reader,
    course_id: CourseID,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=1_000_000_000)] = None,
) -> Response:
    """Versions of the course, newest first, older than ``before``."""
    rows = await call.services.courses.list_versions(call.tenant_id, course_id, limit=limit + 1, before=before)
    items = [version_summary(row, call.services.links) for row in rows[:limit]]
    following = rows[limit - 1].number if len(rows) > limit else None
    return Response(encode({"items": items, "next_before": following}), media_type=_JSON)


@router.get("/{course_id}/versions/{number}", response_model=VersionDocument, responses=problems(404))
async def get_version(call: Reader, course_id: CourseID, number: Number) -> Response:
    """A version: its nodes, and what was rendered of it."""
    view = await call.services.courses.get_version(call.tenant_id, course_id, number)
    return Response(encode(version_document(view, call.services.links)), media_type=_JSON)


@router.get(
    "/{course_id}/diff",
    response_model=CourseDiff,
    responses={**problems(404), 200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def compare_versions(
    call: Reader,
    course_id: CourseID,
    *,
    from_: Annotated[int, Query(alias="from", ge=1, le=1_000_000_000)],
    to: Annotated[int, Query(ge=1, le=1_000_000_000)],
    format_: Annotated[Literal["json", "html"] | None, Query(alias="format")] = None,
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """What is different between two versions: added, removed, moved and changed pieces; as JSON, or as a page."""
    courses = call.services.courses
    if format_ == "html" or (format_ is None and _prefers_html(accept)):
        page = await courses.compare_page(call.tenant_id, course_id, before=from_, after=to)
        headers = {"content-security-policy": _PAGE_POLICY, "vary": "accept"}
        return Response(page, headers=headers, media_type=_HTML)
    diff = await courses.compare(call.tenant_id, course_id, before=from_, after=to)
    return Response(encode(diff.model_dump(mode="json")), headers={"vary": "accept"}, media_type=_JSON)


@router.post(
    "/{course_id}/mix",
    status_code=201,
    response_model=VersionDocument,
    responses={
        **problems(400, 404, 408, 413, 415),
        200: {"model": VersionDocument, "description": "It is so already."},
    },
)
async def mix_versions(call: Writer, course_id: CourseID, body: MixWish) -> Response:
    """A new version: one of the old ones, with some nodes as they are in others."""
    take = [Taken(wish.node, wish.from_) for wish in body.take]
    made = await call.services.courses.mix(call.tenant_id, course_id, base=body.base, take=take, note=body.note)
    return _made(call, made)


@router.post(
    "/{course_id}/rollback",
    status_code=201,
    response_model=VersionDocument,
    responses={
        **problems(400, 404, 408, 413, 415),
        200: {"model": VersionDocument, "description": "It is so already."},
    },
)
async def roll_back(call: Writer, course_id: CourseID, body: RollbackWish) -> Response:
    """A new version that is as an earlier one was."""
    made = await call.services.courses.roll_back(call.tenant_id, course_id, body.version, note=body.note)
    return _made(call, made)


def _made(call: Call, made: Made) -> Response:
    document: dict[str, Any] = version_document(made.view, call.services.links)
    return Response(encode(document), 201 if made.new else 200, {"location": document["url"]}, _JSON)


def _prefers_html(accept: str | None) -> bool:
    """Whether the header asks for a page; JSON where both or neither are named."""
    named = "" if accept is None else accept.lower()
    return "text/html" in named and "application/json" not in named
