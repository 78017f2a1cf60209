"""Starting, watching and steering jobs."""

from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Response

from api.documents import encode, job_document, job_etag
from api.errors import problem_of
from api.idempotency import key_of_item, parse_key
from api.pages import cursor_of, id_of, label_filters
from api.polling import Polled, poll_job
from api.routing import TAKES_LABELS, Call, Family, Needs, problems
from api.schemas import Decision, JobBatchCreate, JobBatchDocument, JobCreate, JobDocument, JobPage, Moment
from api.wishes import read_wish, wish_of
from domain.errors import LonghaulError, NotFinished, StateError
from domain.jobs import TERMINAL, JobAction, JobStatus
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from services.tenants import Scope

router: Final = Family("jobs")

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.JOBS_WRITE))]
JobID = Annotated[UUID, Path(description="The id of the job.")]
IdempotencyKey = Annotated[
    str | None,
    Header(description='A structured-field string ("..."); a bare one is taken as well. 1 to 255 characters.'),
]
IfNoneMatch = Annotated[str | None, Header()]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a change, at most.")]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200)]

_JSON: Final = "application/json"


# The route that is called most comes first: routes are tried in this order.
@router.get(
    "/jobs/{job_id}",
    response_model=JobDocument,
    responses={**problems(404), 304: {"description": "The job is still the one of the ETag."}},
)
async def get_job(call: Reader, job_id: JobID, if_none_match: IfNoneMatch = None, wait: Wait = 0) -> Response:
    """The job as it stands, or as soon as it differs from the ETag or is finished."""
    polled = await poll_job(call.services, call.caller, job_id, if_none_match=if_none_match, wait=wait)
    return _polled(polled)


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobDocument,
    responses=problems(400, 408, 409, 413, 415),
)
async def start_job(call: Writer, body: JobCreate, idempotency_key: IdempotencyKey = None) -> Response:
    """Write a job down and start it; the answer is given once the job cannot be lost any more."""
    started = await call.services.jobs.start(call.tenant_id, await wish_of(body, call), key=parse_key(idempotency_key))
    return _accepted(call, started.document, replayed=started.replayed)


@router.post("/jobs:batch", status_code=207, response_model=JobBatchDocument, responses=problems(400, 408, 413, 415))
async def start_jobs(call: Writer, body: JobBatchCreate, idempotency_key: IdempotencyKey = None) -> Response:
    """Start up to a hundred jobs; each has an outcome of its own, in the order of the items."""
    key = parse_key(idempotency_key)
    outcomes = [await _start_item(call, raw, key=key_of_item(key, index)) for index, raw in enumerate(body.jobs)]
    return Response(encode({"items": outcomes}), status_code=207, media_type=_JSON)


@router.get("/jobs", response_model=JobPage, responses=problems(), openapi_extra={TAKES_LABELS: True})
async def list_jobs(
    call: Reader,
    *,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    status: JobStatus | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Jobs, newest first; ``label.NAME=VALUE`` keeps those that have the label."""
    wanted = JobFilter(
        kind=kind,
        status=status,
        labels=label_filters(call.request),
        created_after=created_after,
        created_before=created_before,
    )
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await JobRepository(connection).get_page(wanted, limit=limit + 1, before=id_of(cursor))
    items = [_document(call, row) for row in rows[:limit]]
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


@router.get("/jobs/{job_id}/result", responses=problems(404, 409))
async def get_result(call: Reader, job_id: JobID) -> Response:
    """What the job has made."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await JobRepository(connection).get_result(job_id)
        failed = await JobRepository(connection).get_document(job_id) if found.status in _WITHOUT_RESULT else None
    if failed is not None:
        raise StateError(_why_no_result(failed))
    if found.status not in TERMINAL:
        raise NotFinished(f"the job is {found.status}; it has no result yet", retry_after=timedelta(seconds=1))
    return Response(encode(found.result), media_type=_JSON)


@router.post("/jobs/{job_id}/cancel", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def cancel_job(call: Writer, job_id: JobID) -> Response:
    """Stop the job; what it has begun is cleaned up."""
    return await _act(call, job_id, JobAction.CANCEL)


@router.post("/jobs/{job_id}/pause", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def pause_job(call: Writer, job_id: JobID) -> Response:
    """Hold the job before its next step."""
    return await _act(call, job_id, JobAction.PAUSE)


@router.post("/jobs/{job_id}/resume", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def resume_job(call: Writer, job_id: JobID) -> Response:
    """Let a paused job go on."""
    return await _act(call, job_id, JobAction.RESUME)


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def retry_job(call: Writer, job_id: JobID) -> Response:
    """Run a failed or canceled job again from the step that did not succeed."""
    return await _act(call, job_id, JobAction.RETRY)


@router.post("/jobs/{job_id}/approve", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def approve_job(call: Writer, job_id: JobID, body: Decision | None = None) -> Response:
    """Say yes to what waits for approval: to what it is now or, where its digest is given, to that and nothing else."""
    return await _decide(call, job_id, JobAction.APPROVE, body)


@router.post("/jobs/{job_id}/reject", status_code=202, response_model=JobDocument, responses=problems(404, 409))
async def reject_job(call: Writer, job_id: JobID, body: Decision | None = None) -> Response:
    """Say no to what waits for approval; the comment goes into the next attempt, where the kind makes one."""
    return await _decide(call, job_id, JobAction.REJECT, body)


# --- answers ----------------------------------------------------------------------------------------

_WITHOUT_RESULT: Final = frozenset({JobStatus.FAILED, JobStatus.CANCELED})


def _document(call: Call, row: AnyRow) -> dict[str, Any]:
    return job_document(row, call.services.links, call.services.served)


def _accepted(call: Call, row: AnyRow, *, replayed: bool = False) -> Response:
    headers = {
        "location": call.services.links.job(row.id),
        "retry-after": "1",
        "etag": job_etag(row, call.services.served),
    }
    if replayed:
        headers["idempotent-replayed"] = "true"
    return Response(encode(_document(call, row)), status_code=202, headers=headers, media_type=_JSON)


def _polled(polled: Polled) -> Response:
    headers = {"etag": polled.etag, "cache-control": "private, no-cache"}
    if polled.body is None:
        return Response(status_code=304, headers=headers)
    return Response(polled.body, headers=headers, media_type=_JSON)


async def _act(
    call: Call, job_id: UUID, action: JobAction, *, comment: str | None = None, seen: str | None = None
) -> Response:
    return _accepted(call, await call.services.jobs.act(call.tenant_id, job_id, action, comment=comment, seen=seen))


async def _decide(call: Call, job_id: UUID, action: JobAction, said: Decision | None) -> Response:
    said = said or Decision()
    return await _act(call, job_id, action, comment=said.comment, seen=said.content_sha256)


async def _start_item(call: Call, raw: Any, *, key: str | None) -> dict[str, Any]:
    try:
        started = await call.services.jobs.start(call.tenant_id, await wish_of(read_wish(raw), call), key=key)
    except LonghaulError as fault:
        problem = problem_of(fault)
        document = problem.document(instance=call.request.url.path, request_id=call.request_id)
        return {"status": problem.status, "problem": document}
    replayed = {"replayed": True} if started.replayed else {}
    return {"status": 202, "job": _document(call, started.document), **replayed}


def _why_no_result(row: AnyRow) -> str:
    said = (row.error or {}).get("detail")
    return f"the job is {row.status} and has no result" + (f": {row.error_code}, {said}" if said else "")
