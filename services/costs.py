"""What a tenant's paid calls cost, by day, kind, model, provider, course or step."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from core.database import Database
from domain.errors import FieldFault, InvalidInput
from repositories.costs import CostFilter, CostGroup, CostRepository
from repositories.rows import AnyRow

LONGEST_SPAN: Final = timedelta(days=366)
_USUAL_SPAN: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Costs:
    """Groups of calls with their sums, the sums over the whole span, and what span that is."""

    wanted: CostFilter
    groups: Sequence[AnyRow]
    total: AnyRow


class CostService:
    """Reading the ledger, for one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(
        self, tenant_id: UUID, group: CostGroup, *, start: datetime | None, end: datetime | None,
        course_id: UUID | None, limit: int, after: str | None,
    ) -> Costs:  # fmt: skip
        """The sums of calls reserved from ``start`` on and before ``end``; by default the last thirty days.

        Raises InvalidInput where the span is empty or longer than a year.
        """
        wanted = _span(start, end, course_id)
        async with self._database.tenant(tenant_id) as connection:
            costs = CostRepository(connection)
            groups = await costs.get_groups(wanted, group, limit=limit, after=after)
            return Costs(wanted, groups, await costs.get_total(wanted))


def _span(start: datetime | None, end: datetime | None, course_id: UUID | None) -> CostFilter:
    try:
        end = datetime.now(UTC) if end is None else end.astimezone(UTC)
        start = end - _USUAL_SPAN if start is None else start.astimezone(UTC)
    except OverflowError:
        raise _impossible("/query/from", "is not possible") from None
    if start >= end:
        raise _impossible("/query/to", "is not after from")
    if end - start > LONGEST_SPAN:
        raise _impossible("/query/from", f"is more than {LONGEST_SPAN.days} days before to")
    return CostFilter(start, end, course_id)


def _impossible(pointer: str, message: str) -> InvalidInput:
    return InvalidInput("the span of time is not possible", faults=[FieldFault(pointer, message)])
