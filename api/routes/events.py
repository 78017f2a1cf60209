"""The events of a job: as a stream that goes on, or as a list."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Query, Response
from starlette.exceptions import HTTPException

from api.documents import encode, event_document
from api.pointers import query_pointer
from api.routes.jobs import JobID, Reader
from api.routing import Call, Family, problems
from api.schemas import EventPage
from api.streams import EventStream
from domain.errors import FieldFault, InvalidInput
from domain.jobs import TERMINAL

router: Final = Family("jobs")

HEARTBEAT_SECONDS: Final = 15.0
STALL_SECONDS: Final = 30.0

LastEventID = Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)]
_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventPage,
    responses={
        **problems(404, 406),
        200: {"content": {_STREAM: {"schema": {"type": "string"}}}, "description": "A stream, or a page of a list."},
    },
)
async def get_events(
    call: Reader,
    job_id: JobID,
    *,
    accept: Annotated[str, Header()] = "*/*",
    last_event_id: LastEventID = None,
    after: Annotated[str | None, Query(alias="last_event_id", max_length=20)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
    cursor: Annotated[str | None, Query(max_length=20)] = None,
) -> Response:
    """Everything that happened to the job: a stream up to its end or, with ``Accept: application/json``, a list."""
    wanted = chosen_media_type(accept)
    seen = max(
        _number(last_event_id, "header", "last-event-id"),
        _number(after, "query", "last_event_id"),
        _number(cursor, "query", "cursor"),
    )
    if wanted == _JSON:
        return await _page(call, job_id, after=seen, limit=limit)
    return await _stream(call, job_id, after=seen)


def chosen_media_type(accept: str) -> str:
    """The stream or the list, whichever the header likes better. Raises HTTPException (406)."""
    ranked = sorted(_offers(accept), key=lambda offer: -offer[1])
    for media_range, quality in ranked:
        if quality > 0 and media_range in {_STREAM, "text/*", "*/*"}:
            return _STREAM
        if quality > 0 and media_range in {_JSON, "application/*"}:
            return _JSON
    raise HTTPException(406)


def _offers(accept: str) -> list[tuple[str, float]]:
    offers = []
    for offer in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in offer.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            offers.append((media_range, float(quality)))
        except ValueError:
            offers.append((media_range, 0.0))
    return offers


def _number(text: str | None, *where: str) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit()):
        fault = FieldFault(query_pointer(*where), "is not the id of an event")
        raise InvalidInput("the request is not valid", faults=[fault])
    return min(int(text), 2**63 - 1)


async def _page(call: Call, job_id: UUID, *, after: int, limit: int) -> Response:
    reader = call.services.reader
    await reader.get_version(call.tenant_id, job_id)
    rows = await reader.get_events(call.tenant_id, job_id, after=after, limit=limit + 1)
    items = [event_document(row) for row in rows[:limit]]
    following = str(items[-1]["seq"]) if len(rows) > limit else None
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


async def _stream(call: Call, job_id: UUID, *, after: int) -> Response:
    services = call.services
    job = await services.reader.get_version(call.tenant_id, job_id)
    # A number from the future (of a database since restored) must not make the stream deaf.
    watch = services.hub.watch(call.caller, min(after, job.version))
    await services.authenticator.confirm(call.caller.prefix)
    if job.status in TERMINAL and watch.position == job.version:
        watch.end()
    pieces = services.hub.follow(call.tenant_id, job_id, watch, heartbeat=HEARTBEAT_SECONDS)
    return EventStream(pieces, stop=watch.end, stall_seconds=STALL_SECONDS, counted=services.metrics.watching)
