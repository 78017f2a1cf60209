"""What the activities of publishing share: the gateways, the opened credentials, the limits, and the policy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.publishing.heeding import HeedingGateway
from core.database import Database
from core.sealing import SecretBox, Unsealable
from domain.errors import Outcome, ProviderError
from domain.publishing.channels import ChannelGateway, Target, ViewSource, Witness
from domain.publishing.content import PostContent, Rendered, render
from domain.publishing.effects import Policy
from repositories.publishing.channels import ChannelRepository, CredentialRepository
from repositories.publishing.limits import LimitRepository, Scope
from repositories.rows import AnyRow


@dataclass(frozen=True, slots=True)
class PublishingPolicy:
    """How the installation publishes: pauses before looks, how long a call may take, how often posts are watched."""

    probe_pauses: Sequence[timedelta] = (timedelta(seconds=5), timedelta(seconds=25), timedelta(seconds=60))
    resends: int = 1
    wire: timedelta = timedelta(seconds=30)
    stale: timedelta = timedelta(seconds=5)
    watch_every: timedelta = timedelta(minutes=10)
    per_chat_second: float = 1.0
    per_chat_minute: int = 20
    per_token_second: float = 30.0

    @property
    def busy(self) -> timedelta:
        """How long a post keeps others out of its channel: while it is on the wire and between two looks for it."""
        return self.wire + max(self.probe_pauses, default=timedelta(0))

    def of_effects(self) -> Policy:
        """The part that the course of an effect needs."""
        return Policy(probe_pauses=tuple(self.probe_pauses), resends=self.resends)


@dataclass(frozen=True, slots=True)
class Counter:
    """A channel with everything that is needed in order to touch it; ``secret`` never leaves the activity."""

    channel: AnyRow
    gateway: ChannelGateway
    target: Target
    secret: str
    fingerprint: str


class PublishingDesk:
    """Built once for a worker, handed to every activity of publishing."""

    def __init__(
        self,
        database: Database,
        box: SecretBox,
        gateways: Iterable[ChannelGateway],
        policy: PublishingPolicy,
        *,
        view_sources: Mapping[str, ViewSource] | None = None,
        witnesses: Mapping[str, Witness] | None = None,
    ) -> None:
        self.database = database
        self.box = box
        self.policy = policy
        self.view_sources = view_sources or {}
        self.witnesses = witnesses or {}
        self._gateways = {gateway.name: gateway for gateway in gateways}

    async def counter(self, connection: AsyncConnection, channel: AnyRow) -> Counter:
        """Open the channel's credential. Raises ProviderError where that cannot be, for good."""
        gateway = self._gateways.get(channel.gateway)
        if gateway is None:
            raise _refused(f"this worker knows no channels of the kind {channel.gateway}", "E.CHANNEL.UNSERVED")
        secret, fingerprint = "", "none"
        if channel.credential_id is not None:
            row = await CredentialRepository(connection).get_or_none(channel.credential_id)
            if row is None:
                raise _refused("the credential of the channel is gone", "E.CHANNEL.CREDENTIAL")
            try:
                secret = self.box.open(row.sealed, tenant_id=row.tenant_id, owner=row.id)
            except Unsealable:
                raise _refused("the credential of the channel cannot be opened", "E.CHANNEL.CREDENTIAL") from None
            fingerprint = row.fingerprint
        target = Target(tenant_id=channel.tenant_id, chat_id=channel.chat_id, audit_chat_id=channel.audit_chat_id)
        counter = Counter(channel, gateway, target, secret, fingerprint)
        return replace(counter, gateway=HeedingGateway(gateway, partial(self.freeze, counter, "chat")))

    async def counter_of(self, tenant_id: UUID, channel_id: UUID) -> Counter:
        """The same in a transaction of its own."""
        async with self.database.tenant(tenant_id) as connection:
            return await self.counter(connection, await ChannelRepository(connection).get_one(channel_id))

    # --- limits -------------------------------------------------------------------------------------

    async def take_turn(
        self, tenant_id: UUID, counter: Counter, *, messages: int = 1, chat_id: str | None = None
    ) -> timedelta:
        """Take messages from the limits of a chat, the channel's own if none is named: how long to wait, zero for now.

        An album counts as many messages as it has items.
        """
        scopes = self._scopes(counter, chat_id)
        if not scopes:
            return timedelta(0)
        async with self.database.system() as connection:
            return await LimitRepository(connection).take(tenant_id, scopes, messages=messages)

    async def freeze(
        self, counter: Counter, frozen: str | None, wait: timedelta, *, chat_id: str | None = None
    ) -> None:
        """The other side asked for silence on a scope.

        It does not say whether it means a chat or the whole token. A chat is frozen for itself; a second chat of the
        same token that meets the same meanwhile shows that it is the token.
        """
        scopes = {scope.name.partition(":")[0]: scope for scope in self._scopes(counter, chat_id)}
        if frozen not in scopes:
            return
        async with self.database.system() as connection:
            limits = LimitRepository(connection)
            others = f"chat:{counter.fingerprint}:"
            if frozen == "chat" and await limits.is_any_frozen(others, besides=scopes["chat"].name):
                await limits.freeze(scopes["token"], seconds=wait.total_seconds())
            await limits.freeze(scopes[frozen], seconds=wait.total_seconds())

    def _scopes(self, counter: Counter, chat_id: str | None) -> list[Scope]:
        return limit_scopes(self.policy, counter.gateway.name, counter.fingerprint, chat_id or counter.target.chat_id)


def limit_scopes(policy: PublishingPolicy, gateway: str, fingerprint: str, chat_id: str) -> list[Scope]:
    """What limits a message into a chat; only Telegram has limits."""
    if gateway != "telegram" or policy.per_token_second <= 0:
        return []
    chat = f"{fingerprint}:{chat_id}"
    return [
        Scope(f"chat:{chat}", timedelta(seconds=1 / policy.per_chat_second), 1),
        Scope(f"minute:{chat}", timedelta(seconds=60 / policy.per_chat_minute), policy.per_chat_minute),
        Scope(f"token:{fingerprint}", timedelta(seconds=1 / policy.per_token_second), int(policy.per_token_second)),
    ]


def _refused(detail: str, code: str) -> ProviderError:
    return ProviderError(detail, code=code, outcome=Outcome.REJECTED, retryable=False)


def rendered(content: Mapping[str, Any]) -> Rendered:
    """The stored content of an order, as it is sent."""
    return render(PostContent.model_validate(content))
