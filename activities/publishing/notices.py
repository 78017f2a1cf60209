"""Telling people what became of a post: the channel's owner and the advertiser, each of them once."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import func

from activities.publishing.desk import Counter, PublishingDesk
from domain.errors import Outcome, ProviderError
from domain.publishing.effects import EffectState
from domain.publishing.orders import Notify, OrderState
from repositories.publishing.channels import ChannelRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import ASKED, OrderRepository
from repositories.rows import AnyRow
from repositories.webhooks import WebhookRepository

NEEDS_PERSON: Final = OrderState.NEEDS_PERSON.value

_TOLD: Final = {
    "live": "Your post is live in {title}. Order {order}.",
    "ended": "Your post in {title} has ended. Order {order}.",
    "gone": "The post in {title} was removed before its time. Order {order}.",
    "missed": "The post in {title} was not published in time and will not be. Order {order}.",
    "needs_person": "It is not certain whether a post in {title} is out; please decide. Order {order}.",
    "rejected": "The post in {title} was refused. Order {order}.",
}


class Notices:
    """Webhooks and messages: a message in doubt is not sent again, a webhook carries an id."""

    def __init__(self, desk: PublishingDesk) -> None:
        self._desk = desk

    async def tell(self, tenant_id: UUID, order_id: UUID, event: str) -> None:
        """Tell everybody who wants to be told of the event, once.

        Webhooks first: they get out also where the credential, without which there are no messages, does not open.
        Raises ProviderError where a message has to be tried again, or cannot be sent at all.
        """
        async with self._desk.database.tenant(tenant_id) as connection:
            order = await OrderRepository(connection).get_one(order_id)
            channel = await ChannelRepository(connection).get_one(order.channel_id)
        matter = await self._matter(order, event)
        if matter is None:
            return
        advertiser = order.wish.get("advertiser") or {}
        wishes = {"owner": channel.notify, "advertiser": advertiser.get("notify") or {}}
        people = {who: Notify.model_validate(wish) for who, wish in wishes.items()}
        for who, wanted in people.items():
            if wanted.webhook_url is not None:
                await self._tell_by_webhook(order, f"notify.{who}.{matter}", wanted.webhook_url, event)
        chats = {who: wanted.telegram_chat_id for who, wanted in people.items() if wanted.telegram_chat_id is not None}
        counter = await self._desk.counter_of(tenant_id, channel.id) if chats else None
        for who, chat_id in chats.items():
            assert counter is not None
            await self._tell_by_message(order, counter, f"notify.{who}.{matter}", chat_id, event)

    async def _matter(self, order: AnyRow, event: str) -> str | None:
        """What people are told of once. A post that is in doubt again is another matter; a settled one is none."""
        if event != NEEDS_PERSON:
            return event
        async with self._desk.database.tenant(order.tenant_id) as connection:
            tasks = await OrderRepository(connection).get_tasks(order.id)
        return next((f"{event}.{one.id}" for one in tasks if one.kind in ASKED and one.closed_at is None), None)

    async def _tell_by_webhook(self, order: AnyRow, matter: str, url: str, event: str) -> None:
        effect = f"{matter}.webhook"
        async with self._desk.database.tenant(order.tenant_id) as connection:
            ledger = LedgerRepository(connection)
            if await ledger.get_or_none(order.id, effect) is not None:
                return
            await WebhookRepository(connection).add_delivery(
                tenant_id=order.tenant_id, job_id=order.job_id, url=url, kind=f"order.{event}",
                data={"order_id": str(order.id), "channel_id": str(order.channel_id), "state": order.state},
                box=self._desk.box,
            )  # fmt: skip
            await ledger.put(
                tenant_id=order.tenant_id, order_id=order.id, effect=effect, channel_id=order.channel_id,
                state=EffectState.DONE, detail="handed to the outbox of webhooks",
            )  # fmt: skip

    async def _tell_by_message(self, order: AnyRow, counter: Counter, matter: str, chat_id: int, event: str) -> None:
        effect = f"{matter}.telegram"
        keys = {"tenant_id": order.tenant_id, "order_id": order.id, "channel_id": order.channel_id}
        await self._await_turn(order, counter, effect, str(chat_id))
        async with self._desk.database.tenant(order.tenant_id) as connection:
            ledger = LedgerRepository(connection)
            row = await ledger.get_or_none(order.id, effect, lock=True)
            if row is not None and row.state != EffectState.NOT_SENT:
                if row.state == EffectState.SENDING:
                    await ledger.close(order.id, effect, state=EffectState.UNKNOWN)
                return
            await ledger.put(**keys, effect=effect, state=EffectState.SENDING)
        text = _TOLD[event].format(title=counter.channel.title, order=order.id)
        report = await counter.gateway.tell(counter.secret, counter.target.at(str(chat_id)), text)
        async with self._desk.database.tenant(order.tenant_id) as connection:
            await LedgerRepository(connection).close(
                order.id, effect, state=EffectState(report.outcome.value), error_code=report.code,
                message_ids=list(report.message_ids), settled_at=func.now(),
            )  # fmt: skip
        if report.retry_after is not None:
            await self._desk.freeze(counter, report.frozen, report.retry_after, chat_id=str(chat_id))
        if report.outcome is Outcome.NOT_SENT:
            raise ProviderError(
                "the message did not go out", code=report.code or "E.TELEGRAM.CONNECTION", outcome=report.outcome,
                retryable=True, retry_after=report.retry_after,
            )  # fmt: skip

    async def _await_turn(self, order: AnyRow, counter: Counter, effect: str, chat_id: str) -> None:
        """Take a turn for a message that is still to be sent. Raises ProviderError where it has to wait."""
        async with self._desk.database.tenant(order.tenant_id) as connection:
            row = await LedgerRepository(connection).get_or_none(order.id, effect)
        if row is not None and row.state != EffectState.NOT_SENT:
            return
        wait = await self._desk.take_turn(order.tenant_id, counter, chat_id=chat_id)
        if wait > timedelta(0):
            raise ProviderError(
                "it is not this message's turn", code="E.ORDER.LIMIT", outcome=Outcome.NOT_SENT, retryable=True,
                retry_after=wait,
            )  # fmt: skip
