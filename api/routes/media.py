"""Renders of videos: what was ordered, what a person decides, and the webhooks of their provider."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Path, Request, Response

from api.container import Services
from api.documents import encode
from api.pages import cursor_of, id_of
from api.routes.jobs import Cursor, Limit
from api.routing import Call, Family, Needs, problems
from domain.model import Frozen
from repositories.renders import RenderRepository
from repositories.rows import AnyRow
from services.media import Hook
from services.tenants import Scope

router: Final = Family("media")
incoming: Final = Family("media")
"""What providers call; a signature stands in place of a key."""

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.JOBS_WRITE))]
RenderID = Annotated[UUID, Path(description="The id of the render.")]

_JSON: Final = "application/json"


class RenderResolve(Frozen):
    """What a person decides about a render that is stuck.

    ``wait``: give it more time. ``give_up``: the lesson stays without a video. ``order_again``: order and pay for it
    once more; what became of the first order is then no longer looked at.
    """

    decision: Literal["wait", "give_up", "order_again"]


@router.get("/renders", responses=problems())
async def list_renders(call: Reader, job_id: UUID | None = None, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Renders, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await RenderRepository(connection).get_page(job_id=job_id, limit=limit + 1, before=id_of(cursor))
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return _json({"items": [_render(row) for row in rows[:limit]], "next_cursor": following})


@router.get("/renders/{render_id}", responses=problems(404))
async def get_render(call: Reader, render_id: RenderID) -> Response:
    """One render."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        return _json(_render(await RenderRepository(connection).get_one(render_id)))


@router.post("/renders/{render_id}/resolve", status_code=202, responses=problems(400, 404, 408, 409, 413, 415))
async def resolve_render(call: Writer, render_id: RenderID, body: RenderResolve) -> Response:
    """Decide about a render that is stuck; it is never ordered anew by itself."""
    return _json(_render(await call.services.media.resolve(call.tenant_id, render_id, body.decision)), 202)


@incoming.post("/webhooks/heygen", responses=problems(400, 408, 413))
async def hear_heygen(request: Request) -> Response:
    """A webhook from HeyGen, by its raw body. It only wakes whoever waits: the truth is fetched from HeyGen."""
    services: Services = request.app.state.services
    woken = await services.media.hear(Hook(body=await request.body(), headers=dict(request.headers)))
    return _json({"woken": woken})


@incoming.options("/webhooks/heygen", include_in_schema=False)
async def allow_heygen() -> Response:
    """HeyGen asks like this whether there is anybody, when an endpoint is registered."""
    return Response(status_code=204, headers={"Allow": "POST, OPTIONS"})


def _json(document: Any, status: int = 200) -> Response:
    return Response(encode(document), status_code=status, media_type=_JSON)


def _render(row: AnyRow) -> dict[str, Any]:
    shown = (
        "id", "job_id", "part", "provider", "engine", "state", "video_id", "sends", "doubts", "looks", "wakes",
        "seconds", "artifact_id", "error_code", "submitted_at", "settled_at", "created_at", "updated_at",
    )  # fmt: skip
    money = {name: None if getattr(row, name) is None else f"{getattr(row, name):f}"
             for name in ("reserved_usd", "cost_usd")}  # fmt: skip
    return {name: getattr(row, name) for name in shown} | money
