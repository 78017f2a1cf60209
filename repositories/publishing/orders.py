"""Orders: what is booked, what became of it, and what only a person can do about it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.ids import new_id
from domain.errors import FieldFault, InvalidInput, NotFound, Superseded
from domain.publishing.orders import OrderState, may_become
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.tables import jobs, orders, owner_tasks, view_counts

ASKED: Final = ("decide", "late")
"""The kinds of task in which a person says what becomes of a post."""


class OrderRepository:
    """Orders of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_one(self, order_id: UUID, *, lock: bool = False) -> AnyRow:
        """The order, with the attempt and the state of its job. Raises NotFound."""
        query = (
            select(orders, jobs.c.kind, jobs.c.status.label("job_status"), jobs.c.attempt)
            .join(jobs, jobs.c.id == orders.c.job_id)
            .where(orders.c.id == order_id)
        )
        if lock:
            query = query.with_for_update(of=orders, key_share=True)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such order")
        return found

    async def get_page(
        self, *, limit: int, before: UUID | None, channel_id: UUID | None = None, state: str | None = None
    ) -> Sequence[AnyRow]:
        """Orders, newest first."""
        query = select(orders)
        if before is not None:
            query = query.where(orders.c.id < before)
        if channel_id is not None:
            query = query.where(orders.c.channel_id == channel_id)
        if state is not None:
            query = query.where(orders.c.state == state)
        return (await self._connection.execute(query.order_by(orders.c.id.desc()).limit(limit))).all()

    async def get_of_job(self, job_id: UUID) -> Sequence[AnyRow]:
        """The deliveries of a sequence, in order."""
        query = select(orders).where(orders.c.job_id == job_id).order_by(orders.c.position)
        return (await self._connection.execute(query)).all()

    async def get_booked(
        self, channel_id: UUID, *, first: datetime, last: datetime, besides: UUID | None = None
    ) -> Sequence[AnyRow]:
        """Posts of a channel, one left out, that are still to go out between two moments: when, and how many messages.

        An album is as many messages as it has items.
        """
        items = func.jsonb_array_length(orders.c.content["media"])
        query = select(orders.c.publish_at, func.greatest(items, 1).label("messages")).where(
            orders.c.channel_id == channel_id,
            orders.c.publish_at > first,
            orders.c.publish_at < last,
            orders.c.state.in_(["booked", "approval", "armed"]),
        )
        if besides is not None:
            query = query.where(orders.c.id != besides)
        return (await self._connection.execute(query)).all()

    # --- changes ------------------------------------------------------------------------------------

    async def add(self, values: Mapping[str, Any]) -> None:
        """Book. Raises InvalidInput where the slot is taken: the database says so."""
        try:
            await self._connection.execute(insert(orders).values(**values))
        except IntegrityError:
            fault = FieldFault("/slot_id", "is taken by another order")
            raise InvalidInput("the slot is taken", faults=[fault]) from None

    async def change(self, order_id: UUID, **values: Any) -> None:
        """Write new facts about an order. Raises InvalidInput where its new slot is taken."""
        try:
            await self._connection.execute(
                update(orders)
                .where(orders.c.id == order_id)
                .values(version=orders.c.version + 1, updated_at=func.now(), **values)
            )
        except IntegrityError:
            fault = FieldFault("/slot_id", "is taken by another order")
            raise InvalidInput("the slot is taken", faults=[fault]) from None

    async def move(
        self, order: AnyRow, state: OrderState, *, data: Mapping[str, Any] | None = None,
        waiting_on: Mapping[str, Any] | None = None, **values: Any,
    ) -> None:  # fmt: skip
        """Bring a locked order into a state, and say so in its job's events.

        Raises Superseded where its state does not lead there: somebody else has brought it further.
        """
        now = OrderState(order.state)
        if not may_become(now, state):
            raise Superseded(f"the order is {now.value} and cannot become {state.value}")
        await self.change(order.id, state=state.value, **values)
        await JobRepository(self._connection).record(
            job_id=order.job_id,
            event=f"order.{state.value}",
            data={"order_id": str(order.id), **(data or {})},
            values={"waiting_on": None if waiting_on is None else dict(waiting_on)},
        )

    # --- tasks and numbers --------------------------------------------------------------------------

    async def open_task(self, *, tenant_id: UUID, order_id: UUID, kind: str, detail: str) -> None:
        """Ask a person for something, once for each kind; what was settled and comes up again is asked anew."""
        asked = pg_insert(owner_tasks).values(
            id=new_id(), tenant_id=tenant_id, order_id=order_id, kind=kind, detail=detail
        )
        anew = {"id": asked.excluded.id, "detail": detail, "created_at": func.now()}
        await self._connection.execute(
            asked.on_conflict_do_update(
                index_elements=["tenant_id", "order_id", "kind"],
                set_={**anew, "closed_at": None, "resolution": None},
                where=owner_tasks.c.closed_at.is_not(None),
            )
        )

    async def close_tasks(self, order_id: UUID, *, kinds: Sequence[str], resolution: str) -> None:
        """These matters are settled."""
        await self._connection.execute(
            update(owner_tasks)
            .where(owner_tasks.c.order_id == order_id, owner_tasks.c.kind.in_(kinds), owner_tasks.c.closed_at.is_(None))
            .values(closed_at=func.now(), resolution=resolution)
        )

    async def get_tasks(self, order_id: UUID) -> Sequence[AnyRow]:
        """Everything a person was asked for about an order."""
        query = select(owner_tasks).where(owner_tasks.c.order_id == order_id).order_by(owner_tasks.c.id)
        return (await self._connection.execute(query)).all()

    async def get_open_tasks(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """What waits for a person, newest first."""
        query = select(owner_tasks).where(owner_tasks.c.closed_at.is_(None))
        if before is not None:
            query = query.where(owner_tasks.c.id < before)
        return (await self._connection.execute(query.order_by(owner_tasks.c.id.desc()).limit(limit))).all()

    async def add_views(self, *, tenant_id: UUID, order_id: UUID, source: str, views: int) -> None:
        """Write a number down with the name of whoever says it."""
        await self._connection.execute(
            insert(view_counts).values(tenant_id=tenant_id, order_id=order_id, source=source, views=views)
        )

    async def get_views(self, order_id: UUID) -> Sequence[AnyRow]:
        """All numbers, in order."""
        query = select(view_counts.c.source, view_counts.c.views, view_counts.c.at)
        query = query.where(view_counts.c.order_id == order_id).order_by(view_counts.c.at)
        return (await self._connection.execute(query)).all()
