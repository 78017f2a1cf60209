"""Schedules: jobs that start by themselves."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Path, Response
from pydantic import BaseModel, Field

from api.documents import encode, job_document
from api.idempotency import parse_key
from api.pages import cursor_of, id_of
from api.routes.jobs import Cursor, IdempotencyKey, Limit
from api.routing import Call, Family, Needs, problems
from api.schemas import JobDocument, WaitingOnDocument
from domain.jobs import WaitingKind
from domain.model import Frozen
from domain.schedules import (
    Backfill,
    Duration,
    Overlap,
    ScheduleChange,
    ScheduleSpec,
    ScheduleWish,
    format_duration,
)
from domain.text import Prose
from repositories.rows import AnyRow
from services.schedules.clock import temporal_id
from services.schedules.service import Shown
from services.tenants import Scope

router: Final = Family("schedules")

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.JOBS_WRITE))]
ScheduleID = Annotated[UUID, Path(description="The id of the schedule.")]

_JSON: Final = "application/json"


# --- in and out -------------------------------------------------------------------------------------


class Note(Frozen):
    """Why a schedule is paused or resumed."""

    note: Annotated[Prose, Field(max_length=500)] | None = None


class Trigger(Frozen):
    """How the run that is asked for now gets along with one in progress; as the schedule has it by default."""

    overlap: Overlap | None = None


class ScheduleLinks(BaseModel):
    """Where more is found about a schedule."""

    self: str
    temporal_ui: str


class ScheduleSummary(BaseModel):
    """A schedule as it was wished for."""

    id: UUID
    name: str | None
    kind: str
    input: dict[str, Any]
    spec: ScheduleSpec
    overlap: Overlap
    catchup_window: Duration
    pause_on_failure: bool
    paused: bool
    note: str | None
    priority: int
    labels: dict[str, str]
    waiting_on: WaitingOnDocument | None
    last_error: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    links: ScheduleLinks


class ScheduleDocument(ScheduleSummary):
    """A schedule as it stands. Times and counts are null while Temporal cannot be asked."""

    next_times: list[datetime] | None
    runs: int | None
    missed: int | None
    skipped: int | None
    last_runs: list[JobDocument]


class SchedulePage(BaseModel):
    """Schedules, newest first."""

    items: list[ScheduleSummary]
    next_cursor: str | None


# --- routes -----------------------------------------------------------------------------------------


@router.post("/schedules", status_code=201, response_model=ScheduleDocument, responses=problems(400, 408, 413, 415))
async def create_schedule(call: Writer, body: ScheduleWish, idempotency_key: IdempotencyKey = None) -> Response:
    """Start jobs of a kind by themselves. The input is judged now, as if the job were started now."""
    created = await call.services.schedules.create(call.tenant_id, body, key=parse_key(idempotency_key))
    replayed = {"idempotent-replayed": "true"} if created.replayed else {}
    return _shown(
        call, created.shown, status=201, headers={"location": _address(call, created.shown.row.id)} | replayed
    )


@router.get("/schedules", response_model=SchedulePage, responses=problems())
async def list_schedules(call: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Schedules, newest first, without what only Temporal knows."""
    rows = await call.services.schedules.list_page(call.tenant_id, limit=limit + 1, before=id_of(cursor))
    items = [_summary(call, row) for row in rows[:limit]]
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


@router.get("/schedules/{schedule_id}", response_model=ScheduleDocument, responses=problems(404))
async def get_schedule(call: Reader, schedule_id: ScheduleID) -> Response:
    """The schedule with its next ten times, its last jobs, and what was missed or skipped."""
    return _shown(call, await call.services.schedules.get(call.tenant_id, schedule_id))


@router.patch("/schedules/{schedule_id}", response_model=ScheduleDocument, responses=problems(400, 404, 408, 413, 415))
async def change_schedule(call: Writer, schedule_id: ScheduleID, body: ScheduleChange) -> Response:
    """Change what is named; the rest stays."""
    return _shown(call, await call.services.schedules.change(call.tenant_id, schedule_id, body))


@router.delete("/schedules/{schedule_id}", status_code=204, response_class=Response, responses=problems(404))
async def delete_schedule(call: Writer, schedule_id: ScheduleID) -> Response:
    """Start no further job. Jobs in progress go on."""
    await call.services.schedules.delete(call.tenant_id, schedule_id)
    return Response(status_code=204)


@router.post("/schedules/{schedule_id}/pause", response_model=ScheduleDocument, responses=problems(404))
async def pause_schedule(call: Writer, schedule_id: ScheduleID, body: Note | None = None) -> Response:
    """Start nothing until it is resumed."""
    note = body.note if body else None
    return _shown(call, await call.services.schedules.set_paused(call.tenant_id, schedule_id, paused=True, note=note))


@router.post("/schedules/{schedule_id}/resume", response_model=ScheduleDocument, responses=problems(404))
async def resume_schedule(call: Writer, schedule_id: ScheduleID, body: Note | None = None) -> Response:
    """Go on from the next time."""
    note = body.note if body else None
    return _shown(call, await call.services.schedules.set_paused(call.tenant_id, schedule_id, paused=False, note=note))


@router.post(
    "/schedules/{schedule_id}/trigger", status_code=202, response_model=ScheduleDocument, responses=problems(404)
)
async def trigger_schedule(
    call: Writer, schedule_id: ScheduleID, body: Trigger | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Run now, also while paused."""
    overlap = body.overlap if body else None
    key = parse_key(idempotency_key)
    return _shown(
        call, await call.services.schedules.trigger(call.tenant_id, schedule_id, overlap, key=key), status=202
    )


@router.post(
    "/schedules/{schedule_id}/backfill", status_code=202, response_model=ScheduleDocument, responses=problems(404)
)
async def backfill_schedule(
    call: Writer, schedule_id: ScheduleID, body: Backfill, idempotency_key: IdempotencyKey = None
) -> Response:
    """Run for the times between two moments in the past, both ends included."""
    key = parse_key(idempotency_key)
    return _shown(call, await call.services.schedules.backfill(call.tenant_id, schedule_id, body, key=key), status=202)


# --- answers ----------------------------------------------------------------------------------------


def _shown(call: Call, shown: Shown, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    standing, services = shown.standing, call.services
    document = {
        **_summary(call, shown.row),
        "next_times": None if standing is None else list(standing.next_times),
        "runs": None if standing is None else standing.runs,
        "missed": None if standing is None else standing.missed,
        "skipped": None if standing is None else standing.skipped,
        "last_runs": [job_document(row, services.links, services.served) for row in shown.runs],
    }
    if standing is not None:
        # What an operator has just done in Temporal is in our row a moment later; here it is told at once.
        document |= {"paused": standing.paused, "note": standing.note}
    return Response(encode(document), status_code=status, headers=headers, media_type=_JSON)


def _summary(call: Call, row: AnyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "input": row.input,
        "spec": row.spec,
        "overlap": row.overlap,
        "catchup_window": format_duration(timedelta(seconds=row.catchup_window_seconds)),
        "pause_on_failure": row.pause_on_failure,
        "paused": row.paused,
        "note": row.note,
        "priority": row.priority,
        "labels": row.labels,
        "waiting_on": None if row.told_version == row.version else _untold(row),
        "last_error": row.trouble,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "links": {
            "self": _address(call, row.id),
            "temporal_ui": call.services.links.temporal_schedule(temporal_id(row.id)),
        },
    }


def _untold(row: AnyRow) -> dict[str, Any]:
    return {
        "kind": WaitingKind.TEMPORAL,
        "detail": "Temporal does not know the schedule as it is yet; it is told as soon as it answers",
        "since": row.updated_at,
        "until": None,
    }


def _address(call: Call, schedule_id: UUID) -> str:
    return f"{call.services.links.api}/schedules/{schedule_id}"
