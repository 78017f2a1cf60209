"""The ledger of effects. A row stands before the wire is touched; what is known of an effect only ever grows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import bindparam, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.publishing.effects import POST, EffectState
from repositories.rows import AnyRow
from repositories.tables import publications

_OPEN: Final = (EffectState.SENDING, EffectState.UNKNOWN)


class LedgerRepository:
    """The ledger of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_or_none(self, order_id: UUID, effect: str, *, lock: bool = False) -> AnyRow | None:
        """What the ledger knows of an effect."""
        query = select(publications).where(publications.c.order_id == order_id, publications.c.effect == effect)
        if lock:
            query = query.with_for_update()
        return (await self._connection.execute(query)).one_or_none()

    async def busy_for(self, channel_id: UUID, *, besides: UUID, at_most: timedelta) -> timedelta | None:
        """For how long another post into the channel has been under way or in doubt; None where there is none.

        One of which nothing was heard for ``at_most`` keeps nobody out any more: whoever looked after it is gone.
        """
        query = select(func.max(func.clock_timestamp() - publications.c.sending_at)).where(
            publications.c.channel_id == channel_id,
            publications.c.effect == POST,
            publications.c.state.in_(_OPEN),
            publications.c.order_id != besides,
            publications.c.updated_at > func.clock_timestamp() - at_most,
        )
        found: timedelta | None = (await self._connection.execute(query)).scalar_one()
        return found

    async def get_known_ids(self, channel_id: UUID) -> frozenset[int]:
        """The ids of all messages in a channel that are accounted for."""
        query = select(func.jsonb_array_elements(publications.c.message_ids)).where(
            publications.c.channel_id == channel_id,
            publications.c.effect == POST,
            publications.c.state == EffectState.DONE,
        )
        return frozenset(int(one) for one in (await self._connection.execute(query)).scalars())

    async def get_page(self, channel_id: UUID, *, limit: int, offset: int) -> Sequence[AnyRow]:
        """The ledger of a channel, latest first."""
        query = (
            select(publications)
            .where(publications.c.channel_id == channel_id)
            .order_by(publications.c.created_at.desc(), publications.c.order_id, publications.c.effect)
            .limit(limit)
            .offset(offset)
        )
        return (await self._connection.execute(query)).all()

    async def count_states(self, channel_id: UUID) -> dict[str, int]:
        """How many posts of a channel are in each state."""
        query = (
            select(publications.c.state, func.count().label("number"))
            .where(publications.c.channel_id == channel_id, publications.c.effect == POST)
            .group_by(publications.c.state)
        )
        return {row.state: row.number for row in (await self._connection.execute(query)).all()}

    async def count_doubts(self, channel_id: UUID) -> AnyRow:
        """How many posts were in doubt, how many were resolved and how."""
        doubtful = publications.c.doubts > 0
        query = select(
            func.count().filter(doubtful).label("ambiguous"),
            func.count().filter(doubtful, publications.c.resolved_by.like("probe%")).label("by_probe"),
            func.count().filter(doubtful, publications.c.resolved_by == "person").label("by_person"),
            func.count().filter(publications.c.sends > 1, publications.c.doubts > 0).label("sent_again"),
        ).where(publications.c.channel_id == channel_id, publications.c.effect == POST)
        return (await self._connection.execute(query)).one()

    async def get_of_order(self, order_id: UUID) -> Sequence[AnyRow]:
        """Every effect of an order."""
        query = select(publications).where(publications.c.order_id == order_id).order_by(publications.c.created_at)
        return (await self._connection.execute(query)).all()

    # --- changes ------------------------------------------------------------------------------------

    async def begin(
        self, *, tenant_id: UUID, order_id: UUID, effect: str, channel_id: UUID, number: int, sha256: str, after: int
    ) -> None:
        """Say that attempt ``number`` is about to touch the wire."""
        made = pg_insert(publications).values(
            tenant_id=tenant_id, order_id=order_id, effect=effect, channel_id=channel_id, state=EffectState.SENDING,
            attempt=number, sends=1, content_sha256=sha256, after_message_id=after, sending_at=func.clock_timestamp(),
        )  # fmt: skip
        await self._connection.execute(
            made.on_conflict_do_update(
                index_elements=["tenant_id", "order_id", "effect"],
                set_={
                    "state": EffectState.SENDING,
                    "attempt": number,
                    "sends": publications.c.sends + 1,
                    "content_sha256": sha256,
                    # After a doubt the look goes on from where it began: the first one may still turn up.
                    "after_message_id": func.coalesce(func.nullif(publications.c.after_message_id, 0), literal(after)),
                    "sending_at": func.clock_timestamp(),
                    "error_code": None,
                    "detail": None,
                    "updated_at": func.now(),
                },
            )
        )

    async def give_up_sending(self, channel_id: UUID, *, besides: UUID, older_than: timedelta) -> None:
        """Attempts of other orders that can be on the wire no longer, and never said how they ended, are in doubt."""
        # One that is being written to right now is about to say how it ended.
        silent = (
            select(publications.c.order_id)
            .where(
                publications.c.channel_id == channel_id,
                publications.c.effect == POST,
                publications.c.state == EffectState.SENDING,
                publications.c.order_id != besides,
                publications.c.sending_at < func.clock_timestamp() - older_than,
            )
            .with_for_update(skip_locked=True)
        )
        await self._connection.execute(
            update(publications)
            .where(publications.c.effect == POST, publications.c.order_id.in_(silent))
            .values(
                state=EffectState.UNKNOWN,
                fence=func.greatest(publications.c.fence, publications.c.attempt),
                doubts=publications.c.doubts + 1,
                error_code="E.ORDER.IN_DOUBT",
                detail="nobody said how it ended",
            )
        )

    async def close(self, order_id: UUID, effect: str, **values: Any) -> None:
        """Write down what is known now."""
        await self._connection.execute(
            update(publications)
            .where(publications.c.order_id == order_id, publications.c.effect == effect)
            .values(updated_at=func.now(), **values)
        )

    async def put(self, *, tenant_id: UUID, order_id: UUID, effect: str, channel_id: UUID, **values: Any) -> None:
        """Write down what is known of an effect that may have no row yet."""
        keys = {"tenant_id": tenant_id, "order_id": order_id, "effect": effect, "channel_id": channel_id}
        made = pg_insert(publications).values(**keys, attempt=values.pop("attempt", 1), **values)
        await self._connection.execute(
            made.on_conflict_do_update(
                index_elements=["tenant_id", "order_id", "effect"], set_={**values, "updated_at": func.now()}
            )
        )

    async def add_evidence(self, order_id: UUID, effect: str, evidence: Mapping[str, Any]) -> None:
        """Keep what was seen."""
        await self._connection.execute(
            update(publications)
            .where(publications.c.order_id == order_id, publications.c.effect == effect)
            .values(evidence=publications.c.evidence.op("||")(bindparam("more", type_=JSONB)), updated_at=func.now()),
            {"more": [dict(evidence)]},
        )
