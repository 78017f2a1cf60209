"""Uploading bytes, listing what a job has made, and handing bytes out."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Request, Response
from starlette.responses import StreamingResponse

from api.documents import Links, encode
from api.filenames import attachment, uploaded_name
from api.pages import cursor_of, id_of
from api.polling import matches
from api.ranges import Unsatisfiable, parse_range
from api.routes.jobs import Cursor, JobID, Limit
from api.routing import Call, Family, Needs, problems
from api.schemas import ArtifactDocument, ArtifactPage
from domain.artifacts import Artifact
from domain.errors import RangeNotSatisfiable, UnsupportedMediaType
from services.tenants import Scope

router: Final = Family("artifacts")

Reader = Annotated[Call, Depends(Needs(Scope.ARTIFACTS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.ARTIFACTS_WRITE))]
ArtifactID = Annotated[UUID, Path(description="The id of the artifact.")]

_JSON: Final = "application/json"
_ANY: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(\s*;\s*[A-Za-z0-9_.-]{1,40}=(\"[\x20!#-~]{0,80}\"|[A-Za-z0-9_.+-]{1,80}))*"
)
_BYTES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {_ANY: {"schema": {"type": "string", "format": "binary"}}}, "description": "All of it."},
    206: {"content": {_ANY: {"schema": {"type": "string", "format": "binary"}}}, "description": "The range."},
    304: {"description": "The bytes are those of the ETag."},
}


@router.post(
    "/artifacts",
    status_code=201,
    response_model=ArtifactDocument,
    responses=problems(408, 413, 415),
    openapi_extra={"requestBody": {"content": {_ANY: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def upload_artifact(
    call: Writer,
    content_type: Annotated[str | None, Header()] = None,
    content_disposition: Annotated[str | None, Header()] = None,
) -> Response:
    """Keep the bytes of the body, under the file name of Content-Disposition."""
    artifact = await call.services.artifacts.upload(
        call.tenant_id,
        _chunks(call.request),
        name=uploaded_name(content_disposition),
        media_type=_checked_media_type(content_type),
    )
    document = artifact_document(artifact, call.services.links)
    return Response(encode(document), status_code=201, headers={"location": document["url"]}, media_type=_JSON)


@router.get("/jobs/{job_id}/artifacts", response_model=ArtifactPage, responses=problems(404))
async def list_artifacts(call: Reader, job_id: JobID, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Partial and final results of the job, in the order in which they were made."""
    found = await call.services.artifacts.list_of_job(call.tenant_id, job_id, limit=limit + 1, before=id_of(cursor))
    items = [artifact_document(artifact, call.services.links) for artifact in found[:limit]]
    following = cursor_of(found[limit - 1].id) if len(found) > limit else None
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


@router.head("/artifacts/{artifact_id}", responses={**problems(404, 416), **_BYTES}, include_in_schema=False)
@router.get("/artifacts/{artifact_id}", response_class=Response, responses={**problems(404, 416), **_BYTES})
async def get_artifact(
    call: Reader,
    artifact_id: ArtifactID,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes, or one range of them."""
    artifact = await call.services.artifacts.get(call.tenant_id, artifact_id)
    etag = f'"{artifact.sha256}"'
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers={"etag": etag, "cache-control": _KEEP})
    asked = range_ if if_range is None or if_range.strip() == etag else None
    return await _bytes(call, artifact, etag, asked)


_KEEP: Final = "private, max-age=31536000, immutable"


async def _bytes(call: Call, artifact: Artifact, etag: str, asked: str | None) -> Response:
    try:
        part = parse_range(asked, artifact.bytes)
    except Unsatisfiable:
        raise OutOfRange(artifact.bytes) from None
    start, end = part or (0, artifact.bytes)
    headers = {
        "accept-ranges": "bytes",
        "cache-control": _KEEP,
        "content-disposition": attachment(artifact.name),
        "content-length": str(end - start),
        "content-type": artifact.media_type,
        "etag": etag,
    }
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{artifact.bytes}"
    status = 200 if part is None else 206
    if call.request.method == "HEAD" or start == end:
        return Response(status_code=status, headers=headers)
    pieces = call.services.artifacts.read(artifact, start=start, end=end)
    # The first piece comes before the headers go out: bytes that are gone are a 404, not a broken answer.
    first = await anext(pieces)
    return StreamingResponse(_chained(first, pieces), status_code=status, headers=headers)


class OutOfRange(RangeNotSatisfiable):
    """The range lies outside; says how long the artifact is."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the artifact has {length} bytes")
        self.headers = {"content-range": f"bytes */{length}"}


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _checked_media_type(given: str | None) -> str:
    if given is None or not given.strip():
        return _ANY
    if _MEDIA_TYPE.fullmatch(given.strip()) is None:
        raise UnsupportedMediaType("Content-Type is not a media type")
    return given.strip()


def artifact_document(artifact: Artifact, links: Links) -> dict[str, Any]:
    """The document of an artifact, ready to be encoded."""
    return {
        "id": artifact.id,
        "name": artifact.name,
        "media_type": artifact.media_type,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "url": links.artifact(artifact.id),
    }
