"""What paid calls cost."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Query, Response
from pydantic import BaseModel

from api.documents import encode, usd
from api.pages import key_cursor_of, key_of
from api.routing import Call, Family, Needs, problems
from api.schemas import Moment
from repositories.costs import CostGroup
from repositories.rows import AnyRow
from services.tenants import Scope

router: Final = Family("costs")

Reader = Annotated[Call, Depends(Needs(Scope.JOBS_READ))]


class CostSums(BaseModel):
    """Sums over paid calls, in US dollars as decimal strings.

    ``estimated_usd`` is the worst case that was put aside before each call, ``settled_usd`` what the calls cost,
    ``reserved_usd`` what those may cost whose end is not known yet, and ``lost_usd`` the worst case of sends that were
    made again because nobody could say what became of them.
    """

    calls: int
    sends: int
    estimated_usd: str
    reserved_usd: str
    settled_usd: str
    lost_usd: str
    input_tokens: int
    output_tokens: int


class CostGroupDocument(CostSums):
    """One group; ``key`` is null for calls that belong to no course."""

    key: str | None


class CostsDocument(BaseModel):
    """Groups in the order of their keys, days and courses newest first; ``total`` is of the whole span."""

    group_by: CostGroup
    start: datetime
    end: datetime
    items: list[CostGroupDocument]
    total: CostSums
    next_cursor: str | None


@router.get("/costs", response_model=CostsDocument, responses=problems())
async def get_costs(
    call: Reader,
    *,
    group_by: CostGroup = CostGroup.DAY,
    from_: Annotated[Moment | None, Query(alias="from", description="By default thirty days before `to`.")] = None,
    to: Annotated[Moment | None, Query(description="By default now; at most 366 days after `from`.")] = None,
    course_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    cursor: Annotated[str | None, Query(max_length=1_000)] = None,
) -> Response:
    """What calls cost that were made from `from` on and before `to`; days are those of UTC."""
    found = await call.services.costs.get(
        call.tenant_id, group_by, start=from_, end=to, course_id=course_id, limit=limit + 1, after=key_of(cursor)
    )
    groups = found.groups[:limit]
    document = {
        "group_by": group_by,
        "start": found.wanted.start,
        "end": found.wanted.end,
        "items": [{"key": row.key or None, **_sums(row)} for row in groups],
        "total": _sums(found.total),
        "next_cursor": key_cursor_of(groups[-1].key) if len(found.groups) > limit else None,
    }
    return Response(encode(document), media_type="application/json")


def _sums(row: AnyRow) -> dict[str, Any]:
    return {
        "calls": row.calls,
        "sends": int(row.sends),
        "estimated_usd": usd(row.estimated_usd),
        "reserved_usd": usd(row.reserved_usd),
        "settled_usd": usd(row.settled_usd),
        "lost_usd": usd(row.lost_usd),
        "input_tokens": int(row.input_tokens),
        "output_tokens": int(row.output_tokens),
    }
