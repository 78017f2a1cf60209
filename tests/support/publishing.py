"""Publishing as a test drives it: channels on a stand-in Telegram, orders in tables, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx

from activities.publishing.checks import CheckActivities
from activities.publishing.desk import PublishingDesk, PublishingPolicy
from activities.publishing.dialog import Booker, DialogActivities
from activities.publishing.effects import EffectActivities
from activities.publishing.orders import OrderActivities
from activities.steps import StepKeeper
from core.database import Database
from core.http import HttpTimeouts, create_http_client
from core.ids import new_id
from core.sealing import SecretBox
from domain.errors import InvalidInput
from domain.jobs import JobRef
from domain.publishing.content import PostContent, render
from domain.publishing.orders import OrderInput
from gateways.standin_telegram import StandInTelegram
from gateways.telegram import TelegramGateway
from gateways.telegram_preview import TelegramPreview
from gateways.webhooks import GuardedClient
from repositories.publishing.channels import ChannelRepository, CredentialRepository, SlotRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import OrderRepository
from repositories.rows import AnyRow
from tests.support.life import add_job
from worker import Publishing

TOKEN: Final = "4242:canary-of-a-token-0123456789"
AUDIT_CHAT: Final = -1009999
BOX: Final = SecretBox([b"k" * 32])
QUICK: Final = PublishingPolicy(
    probe_pauses=(timedelta(milliseconds=1),) * 3, per_token_second=0, wire=timedelta(seconds=5)
)


def new_http() -> httpx.AsyncClient:
    """A client with a fresh connection for every call, as posts need it."""
    timeouts = HttpTimeouts(connect=5, read=2, write=5, pool=5)
    return create_http_client(timeout=timeouts, proxy=None, user_agent="longhaul-test", max_idle=0)


@dataclass
class Shop:
    """One tenant with channels on a stand-in."""

    database: Database
    tenant_id: UUID
    standin: StandInTelegram
    http: httpx.AsyncClient
    policy: PublishingPolicy = QUICK
    desk: PublishingDesk = field(init=False)
    gateway: TelegramGateway = field(init=False)
    credential_id: UUID | None = None

    def __post_init__(self) -> None:
        self.gateway = TelegramGateway(client=self.http, base_url=self.standin.origin)
        preview = TelegramPreview(client=self.http, base_url=self.standin.origin)
        self.desk = PublishingDesk(
            self.database, BOX, [self.gateway], self.policy,
            view_sources={"telegram": preview}, witnesses={"telegram": preview},
        )  # fmt: skip

    async def add_credential(self, token: str = TOKEN) -> UUID:
        """The bot's token, sealed."""
        if self.credential_id is None:
            self.credential_id = new_id()
            async with self.database.tenant(self.tenant_id) as connection:
                await CredentialRepository(connection).add(
                    credential_id=self.credential_id, tenant_id=self.tenant_id, name="bot",
                    sealed=BOX.seal(token, tenant_id=self.tenant_id, owner=self.credential_id),
                    fingerprint=BOX.fingerprint(token),
                )  # fmt: skip
        return self.credential_id

    async def add_channel(self, chat_id: int, *, audit: bool = True, **more: Any) -> AnyRow:
        """A channel that is ready, here and on the stand-in."""
        world = self.standin.world
        chat = world.add_chat(chat_id, admins=[TOKEN])
        if AUDIT_CHAT not in world.chats:
            world.add_chat(AUDIT_CHAT, kind="supergroup")
        values = {
            "id": new_id(), "tenant_id": self.tenant_id, "gateway": "telegram", "chat_id": str(chat_id),
            "audit_chat_id": str(AUDIT_CHAT) if audit else None, "credential_id": await self.add_credential(),
            "time_zone": "Europe/Berlin", "state": "ready", "last_message_id": chat.next_id - 1,
            "rights": {"can_post": True, "can_edit": True, "can_delete": True, "can_pin": True}, **more,
        }  # fmt: skip
        async with self.database.tenant(self.tenant_id) as connection:
            return await ChannelRepository(connection).add(values)

    async def add_slot(self, channel: AnyRow, starts: datetime, *, lasts: timedelta = timedelta(hours=1)) -> UUID:
        """A slot on offer."""
        slot_id = new_id()
        async with self.database.tenant(self.tenant_id) as connection:
            await SlotRepository(connection).add(
                slot_id=slot_id, tenant_id=self.tenant_id, channel_id=channel.id, starts=starts, ends=starts + lasts
            )
        return slot_id

    async def add_order(
        self, channel: AnyRow, text: str, *, state: str = "armed", late: float = 60.0, **more: Any
    ) -> tuple[JobRef, UUID]:
        """An order that is due now, with the job it belongs to."""
        job = await add_job(self.database, self.tenant_id, kind="publishing.order", task_queue="nobody")
        content = more.pop("content", None) or PostContent(text=text)
        wish = OrderInput(slot_id=new_id(), content=content).model_dump(mode="json")
        now = datetime.now(UTC)
        values = {
            "id": job.job_id, "tenant_id": self.tenant_id, "channel_id": channel.id, "job_id": job.job_id,
            "state": state, "content": content.model_dump(mode="json"), "content_sha256": render(content).sha256,
            "wish": wish, "publish_at": now, "latest_at": now + timedelta(seconds=late), **more,
        }  # fmt: skip
        async with self.database.tenant(self.tenant_id) as connection:
            await OrderRepository(connection).add(values)
        return job, job.job_id

    async def order(self, order_id: UUID) -> AnyRow:
        """The order as stored."""
        async with self.database.tenant(self.tenant_id) as connection:
            return await OrderRepository(connection).get_one(order_id)

    async def ledger(self, order_id: UUID, effect: str = "post") -> AnyRow | None:
        """What the ledger says of an effect."""
        async with self.database.tenant(self.tenant_id) as connection:
            return await LedgerRepository(connection).get_or_none(order_id, effect)

    def posted(self, chat_id: int) -> Sequence[str]:
        """Every text that ever stood in the channel, judged by the stand-in."""
        return [message.text for message in self.standin.world.chats[chat_id].posted]


def idle_publishing(database: Database) -> Publishing:
    """The activities of publishing with no channel to publish to, for workers that serve everything."""
    desk = PublishingDesk(database, BOX, [], QUICK)
    guarded = GuardedClient(new_http())
    return publishing_of(desk, guarded, NobodyBooks())


class NobodyBooks:
    """Takes no orders."""

    async def book(self, tenant_id: UUID, wish: dict[str, Any], *, key: str) -> UUID:
        """Refuse."""
        raise InvalidInput(f"nobody books {key}")


def publishing_of(desk: PublishingDesk, guarded: GuardedClient, booker: Booker) -> Publishing:
    """All activities over one desk."""
    checks = CheckActivities(desk, StepKeeper(desk.database), guarded)
    return Publishing(EffectActivities(desk), OrderActivities(desk), checks, DialogActivities(desk, booker), guarded)
