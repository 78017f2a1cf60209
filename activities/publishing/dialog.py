"""One turn of a conversation: read what was said, decide, book where it is asked for, answer."""

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import to_failure
from activities.publishing.desk import Counter, PublishingDesk
from domain.errors import InvalidInput, Outcome, ProviderError
from domain.model import Frozen
from domain.publishing.dialog import DialogState, Offer, Turn, advance
from repositories.publishing.bots import BotRepository
from repositories.publishing.channels import ChannelRepository, SlotRepository

_NOT_BEFORE = timedelta(minutes=1)
_LOOKED_AT = 200
_SHORT = timedelta(seconds=5)


class Booker(Protocol):
    """Whoever books orders; the same key books once."""

    async def book(self, tenant_id: UUID, wish: dict[str, Any], *, key: str) -> UUID:
        """The id of the order. Raises InvalidInput."""
        ...


class TurnInput(Frozen):
    """An update of a conversation, by its number; what was said stays in our tables."""

    tenant_id: UUID
    bot_id: UUID
    chat_id: int
    update_id: int
    state: DialogState


class DialogActivities:
    """Turns of conversations."""

    def __init__(self, desk: PublishingDesk, booker: Booker) -> None:
        self._desk = desk
        self._booker = booker

    @activity.defn(name="take_turn")
    async def take_turn(self, step: TurnInput) -> DialogState:
        """Decide and book. May be repeated: the same update decides the same, and books once.

        The answer is sent last, once; one that may be lost is answered by the next message of the person. One that
        certainly did not go out makes this fail, to be tried again when it may.
        """
        async with self._desk.database.tenant(step.tenant_id) as connection:
            bots = BotRepository(connection)
            bot = await bots.get_one(step.bot_id)
            said = (await bots.get_update(step.bot_id, step.update_id)).text or ""
            channel = await ChannelRepository(connection).get_one(bot.channel_id)
            soon = datetime.now(UTC) + _NOT_BEFORE
            rows = await SlotRepository(connection).get_page(
                bot.channel_id, limit=_LOOKED_AT, before=None, starts_after=soon
            )
            counter = await self._desk.counter(connection, channel)
        offers = sorted(
            (Offer(slot_id=row.id, starts_at=row.starts_at, ends_at=row.ends_at) for row in rows if not row.order_id),
            key=lambda one: one.starts_at,
        )
        turn = advance(step.state, said, update_id=step.update_id, offers=offers)
        if turn.book:
            turn = await self._book(step, turn)
        await self._answer(step, counter, turn.reply)
        return turn.state

    async def _book(self, step: TurnInput, turn: Turn) -> Turn:
        assert turn.state.text_update is not None
        async with self._desk.database.tenant(step.tenant_id) as connection:
            text = (await BotRepository(connection).get_update(step.bot_id, turn.state.text_update)).text
        wish = {
            "slot_id": str(turn.state.slot_id),
            "content": {"text": text},
            "advertiser": {"name": f"chat {step.chat_id}", "notify": {"telegram_chat_id": step.chat_id}},
        }
        key = f"dialog/{step.bot_id}/{step.update_id}"
        try:
            order_id = await self._booker.book(step.tenant_id, wish, key=key)
        except InvalidInput as fault:
            said = "; ".join(f"{one.pointer.rpartition('/')[2]} {one.message}" for one in fault.faults)
            return Turn(state=DialogState(), reply=f"It cannot be booked: {said}. Send /book to begin again.")
        return Turn(state=DialogState(), reply=f"Booked. Your order is {order_id}.")

    async def _answer(self, step: TurnInput, counter: Counter, text: str) -> None:
        """Say something in its turn. Raises a failure to be tried again where it is known not to have been said."""
        chat_id = str(step.chat_id)
        wait = await self._desk.take_turn(step.tenant_id, counter, chat_id=chat_id)
        if wait > timedelta(0):
            # A short wait is left to the pauses between tries, which grow: a crowd is not to use up the tries.
            raise _not_said("E.ORDER.LIMIT", wait if wait > _SHORT else None)
        report = await counter.gateway.tell(counter.secret, counter.target.at(chat_id), text)
        if report.retry_after is not None:
            await self._desk.freeze(counter, report.frozen, report.retry_after, chat_id=chat_id)
        if report.outcome is Outcome.NOT_SENT:
            raise _not_said(report.code or "E.TELEGRAM.CONNECTION", report.retry_after)


def _not_said(code: str, wait: timedelta | None) -> ApplicationError:
    return to_failure(
        ProviderError(
            "the answer did not go out", code=code, outcome=Outcome.NOT_SENT, retryable=True, retry_after=wait
        )
    )
