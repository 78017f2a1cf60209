"""Credentials, channels and their slots."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.range import TimestamptzRange
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import FieldFault, InvalidInput, NotFound
from repositories.rows import AnyRow
from repositories.tables import channels, credentials, orders, slots

_STARTS = func.lower(slots.c.period).label("starts_at")
_ENDS = func.upper(slots.c.period).label("ends_at")
_SLOT = (slots.c.id, slots.c.channel_id, slots.c.state, slots.c.created_at, _STARTS, _ENDS)


class CredentialRepository:
    """Sealed secrets of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, *, credential_id: UUID, tenant_id: UUID, name: str, sealed: bytes, fingerprint: str) -> None:
        """Write a sealed secret down. Raises InvalidInput where the name is taken."""
        values = {"id": credential_id, "tenant_id": tenant_id, "name": name}
        try:
            await self._connection.execute(insert(credentials).values(**values, sealed=sealed, fingerprint=fingerprint))
        except IntegrityError:
            raise InvalidInput("the name is taken", faults=[FieldFault("/name", "is taken")]) from None

    async def replace(self, credential_id: UUID, *, sealed: bytes, fingerprint: str) -> bool:
        """Put another secret under the same id; False where there is none."""
        changed = await self._connection.execute(
            update(credentials).where(credentials.c.id == credential_id).values(sealed=sealed, fingerprint=fingerprint)
        )
        return bool(changed.rowcount)

    async def get_or_none(self, credential_id: UUID) -> AnyRow | None:
        """The sealed secret."""
        query = select(credentials).where(credentials.c.id == credential_id)
        found: AnyRow | None = (await self._connection.execute(query)).one_or_none()
        return found

    async def get_page(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Names and ids, newest first."""
        query = select(credentials.c.id, credentials.c.name, credentials.c.created_at)
        if before is not None:
            query = query.where(credentials.c.id < before)
        return (await self._connection.execute(query.order_by(credentials.c.id.desc()).limit(limit))).all()


class ChannelRepository:
    """Channels of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, values: Mapping[str, Any]) -> AnyRow:
        """Write a channel down. Raises InvalidInput where it is connected already."""
        try:
            added = await self._connection.execute(insert(channels).values(**values).returning(channels))
        except IntegrityError:
            raise _connected_already() from None
        row: AnyRow = added.one()
        return row

    async def get_one(self, channel_id: UUID, *, lock: bool = False) -> AnyRow:
        """The channel; with ``lock`` nobody else posts into it until the transaction ends. Raises NotFound."""
        query = select(channels).where(channels.c.id == channel_id)
        if lock:
            query = query.with_for_update(key_share=True)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such channel")
        return found

    async def get_page(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Channels, newest first."""
        query = select(channels)
        if before is not None:
            query = query.where(channels.c.id < before)
        return (await self._connection.execute(query.order_by(channels.c.id.desc()).limit(limit))).all()

    async def change(self, channel_id: UUID, **values: Any) -> None:
        """Write new facts about a channel. Raises InvalidInput where its chat turns out to be connected already."""
        try:
            await self._connection.execute(update(channels).where(channels.c.id == channel_id).values(**values))
        except IntegrityError:
            raise _connected_already() from None

    async def raise_last_id(self, channel_id: UUID, message_id: int) -> None:
        """The channel's ids have got at least so far."""
        await self._connection.execute(
            update(channels)
            .where(channels.c.id == channel_id)
            .values(last_message_id=func.greatest(channels.c.last_message_id, message_id))
        )


def _connected_already() -> InvalidInput:
    return InvalidInput("the channel is connected already", faults=[FieldFault("/chat_id", "is connected already")])


class SlotRepository:
    """Slots of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, *, slot_id: UUID, tenant_id: UUID, channel_id: UUID, starts: datetime, ends: datetime) -> None:
        """Offer a slot. Raises InvalidInput where it overlaps another one: the database says so."""
        period = TimestamptzRange(starts, ends, "[)")
        try:
            await self._connection.execute(
                insert(slots).values(id=slot_id, tenant_id=tenant_id, channel_id=channel_id, period=period)
            )
        except IntegrityError:
            fault = FieldFault("/starts_at", "overlaps another slot of this channel")
            raise InvalidInput("the slot overlaps another one", faults=[fault]) from None

    async def get_or_none(self, slot_id: UUID) -> AnyRow | None:
        """The slot."""
        return (await self._connection.execute(select(*_SLOT).where(slots.c.id == slot_id))).one_or_none()

    async def get_offered_or_none(self, slot_id: UUID) -> AnyRow | None:
        """The slot as long as it is on offer; nobody withdraws it until the transaction ends."""
        query = select(*_SLOT).where(slots.c.id == slot_id, slots.c.state == "offered").with_for_update(read=True)
        return (await self._connection.execute(query)).one_or_none()

    async def get_page(
        self, channel_id: UUID, *, limit: int, before: UUID | None, starts_after: datetime | None = None
    ) -> Sequence[AnyRow]:
        """Slots of a channel, newest first, each with the order that holds it."""
        holder = (
            select(orders.c.id)
            .where(orders.c.slot_id == slots.c.id, orders.c.state.not_in(["canceled", "rejected", "missed"]))
            .limit(1)
            .scalar_subquery()
            .label("order_id")
        )
        query = select(*_SLOT, holder).where(slots.c.channel_id == channel_id)
        if before is not None:
            query = query.where(slots.c.id < before)
        if starts_after is not None:
            query = query.where(func.lower(slots.c.period) > starts_after, slots.c.state == "offered")
        return (await self._connection.execute(query.order_by(slots.c.id.desc()).limit(limit))).all()

    async def withdraw(self, slot_id: UUID) -> bool:
        """Take a slot back; False where an order holds it, or there is none."""
        # Whoever books it right now holds it first, and is seen by the statement that follows: not by one that waited.
        await self._connection.execute(select(slots.c.id).where(slots.c.id == slot_id).with_for_update(key_share=True))
        held = select(orders.c.id).where(
            orders.c.slot_id == slot_id, orders.c.state.not_in(["canceled", "rejected", "missed"])
        )
        changed = await self._connection.execute(
            update(slots).where(slots.c.id == slot_id, ~held.exists()).values(state="withdrawn")
        )
        return bool(changed.rowcount)
