"""Bots that take orders, and the updates that came in for them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound
from repositories.rows import AnyRow
from repositories.tables import bot_updates, bots


class BotRepository:
    """Bots of one tenant or, in a system transaction, of all."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, **values: Any) -> None:
        """Write a bot down."""
        await self._connection.execute(insert(bots).values(**values))

    async def get_one(self, bot_id: UUID) -> AnyRow:
        """The bot. Raises NotFound."""
        found = (await self._connection.execute(select(bots).where(bots.c.id == bot_id))).one_or_none()
        if found is None:
            raise NotFound("there is no such bot")
        return found

    async def get_polled(self) -> Sequence[AnyRow]:
        """Bots whose updates are fetched and not delivered."""
        return (await self._connection.execute(select(bots).where(bots.c.polls))).all()

    async def raise_offset(self, bot_id: UUID, next_update: int) -> None:
        """Updates below this one are kept here."""
        values = {"next_update": func.greatest(bots.c.next_update, next_update)}
        await self._connection.execute(update(bots).where(bots.c.id == bot_id).values(**values))

    async def take_in(self, bot: AnyRow, *, update_id: int, chat_id: int, text: str) -> bool:
        """Keep an update; False where it was delivered before."""
        keys = {"tenant_id": bot.tenant_id, "bot_id": bot.id, "update_id": update_id}
        made = pg_insert(bot_updates).values(**keys, chat_id=chat_id, text=text).on_conflict_do_nothing()
        await self._connection.execute(made)
        return (await self.get_update(bot.id, update_id)).delivered_at is None

    async def get_update(self, bot_id: UUID, update_id: int) -> AnyRow:
        """An update that was kept. Raises NotFound."""
        query = select(bot_updates).where(bot_updates.c.bot_id == bot_id, bot_updates.c.update_id == update_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such update")
        return found

    async def mark_delivered(self, bot_id: UUID, update_id: int) -> None:
        """The conversation has it."""
        await self._connection.execute(
            update(bot_updates)
            .where(bot_updates.c.bot_id == bot_id, bot_updates.c.update_id == update_id)
            .values(delivered_at=func.now())
        )
