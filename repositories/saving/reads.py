"""What a front end asks about messages and users. Each query has an index of its own; a test looks at the plans."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Date, Select, bindparam, cast, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection

from repositories.rows import AnyRow
from repositories.tables import messages, users

# One step down the index for each dialog of the user, however many messages there are between.
_LATEST_DIALOGS: Final = text(
    """
    WITH RECURSIVE dialog AS (
        (SELECT dialog_id, created_at FROM messages
         WHERE tenant_id = :tenant AND user_id = :user ORDER BY dialog_id, created_at DESC LIMIT 1)
        UNION ALL
        SELECT following.dialog_id, following.created_at
        FROM dialog CROSS JOIN LATERAL (
            SELECT dialog_id, created_at FROM messages
            WHERE tenant_id = :tenant AND user_id = :user AND dialog_id > dialog.dialog_id
            ORDER BY dialog_id, created_at DESC LIMIT 1
        ) AS following
    )
    SELECT dialog_id, created_at AS last_message_at FROM dialog
    ORDER BY last_message_at DESC, dialog_id LIMIT :limit
    """
)
_DAY: Final = cast(func.timezone("UTC", messages.c.created_at), Date)


def _between(since: datetime, until: datetime) -> Any:
    stamp = TIMESTAMP(timezone=True)
    created = messages.c.created_at
    return (created >= bindparam("since", since, stamp)) & (created < bindparam("until", until, stamp))


class RecordReader:
    """Records of one tenant, for reading."""

    def __init__(self, connection: AsyncConnection, tenant_id: UUID) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def get_latest_dialogs(self, user_id: str, *, limit: int) -> Sequence[AnyRow]:
        """A user's dialogs, the one with the newest message first."""
        values = {"tenant": self._tenant_id, "user": user_id, "limit": limit}
        return (await self._connection.execute(_LATEST_DIALOGS, values)).all()

    async def get_messages(
        self, dialog_id: str, *, limit: int, before: tuple[datetime, UUID] | None
    ) -> Sequence[AnyRow]:
        """Messages of a dialog, newest first, older than the one ``before``."""
        there = messages.c
        query = select(messages).where(there.dialog_id == dialog_id)
        if before is not None:
            query = query.where(tuple_(there.created_at, there.id) < tuple_(*before))
        return await self._all(query.order_by(there.created_at.desc(), there.id.desc()).limit(limit))

    async def get_daily_statistics(self, since: date, until: date) -> Sequence[AnyRow]:
        """For each day (UTC): messages, how many of them users wrote, users, and tokens."""
        there = messages.c
        query = select(
            _DAY.label("day"),
            func.count().label("messages"),
            func.count().filter(there.role == "user").label("user_messages"),
            func.count(there.user_id.distinct()).label("users"),
            func.coalesce(func.sum(there.tokens), 0).label("tokens"),
        )
        return await self._all(query.where(_days(since, until)).group_by(_DAY).order_by(_DAY.desc()))

    async def get_tokens_of_user(self, user_id: str, since: date, until: date) -> AnyRow:
        """What one user has used."""
        there = messages.c
        query = select(func.count().label("messages"), func.coalesce(func.sum(there.tokens), 0).label("tokens"))
        query = query.where(there.user_id == user_id, there.tokens.is_not(None), _days(since, until))
        return (await self._all(query))[0]

    async def get_tokens_by_user(self, since: date, until: date, *, limit: int) -> Sequence[AnyRow]:
        """Who has used most."""
        there = messages.c
        used = func.coalesce(func.sum(there.tokens), 0).label("tokens")
        query = select(there.user_id, func.count().label("messages"), used).where(_days(since, until))
        return await self._all(query.group_by(there.user_id).order_by(used.desc(), there.user_id).limit(limit))

    async def get_tokens_by_model(self, model: str | None, since: date, until: date) -> Sequence[AnyRow]:
        """What each model, or one of them, was used for."""
        there = messages.c
        used = func.coalesce(func.sum(there.tokens), 0).label("tokens")
        query = select(there.model, func.count().label("messages"), used).where(
            there.model.is_not(None), _days(since, until)
        )
        if model is not None:
            query = query.where(there.model == model)
        return await self._all(query.group_by(there.model).order_by(used.desc(), there.model))

    async def get_slowest(self, status: str, *, limit: int) -> Sequence[AnyRow]:
        """Messages of a status, those that took longest first."""
        there = messages.c
        query = select(messages).where(there.status == status, there.processing_ms.is_not(None))
        return await self._all(query.order_by(there.processing_ms.desc()).limit(limit))

    async def get_active_users(self, *, limit: int, premium: bool) -> Sequence[AnyRow]:
        """Users by when they were last active; with ``premium`` those who pay and are not blocked."""
        there = users.c
        query = select(users).where(there.last_active_at.is_not(None))
        if premium:
            query = query.where(text("premium and not blocked"))
        return await self._all(query.order_by(there.last_active_at.desc(), there.id).limit(limit))

    async def get_blocked_users(self, *, limit: int, after: str | None) -> Sequence[AnyRow]:
        """Blocked users by id, after ``after``."""
        query = select(users).where(text("blocked"))
        if after is not None:
            query = query.where(users.c.id > after)
        return await self._all(query.order_by(users.c.id).limit(limit))

    async def _all(self, query: Select[Any]) -> Sequence[AnyRow]:
        # Row-level security says so already; said again, the planner knows it before it chooses an index.
        [table] = query.get_final_froms()
        mine = table.c.tenant_id == self._tenant_id
        rows: Sequence[AnyRow] = (await self._connection.execute(query.where(mine))).all()
        return rows


def _days(since: date, until: date) -> Any:
    """From the beginning of one day to the end of another, in UTC."""
    begin = datetime.combine(since, time.min, UTC)
    return _between(begin, datetime.combine(until + timedelta(days=1), time.min, UTC))
