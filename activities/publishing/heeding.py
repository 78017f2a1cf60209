"""A channel's gateway that hears the other side ask for silence, whichever change it asked for it."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from domain.errors import ProviderError
from domain.publishing.channels import Change, ChannelFacts, ChannelGateway, Probe, SendReport, Target
from domain.publishing.content import Rendered

T = TypeVar("T")


class HeedingGateway:
    """Hands every call on; where one that may be repeated is refused for now, ``freeze`` is told for how long.

    ``post`` and ``tell`` say so in their reports, and whoever called them freezes the chat that they wrote to. A look
    waits by itself, and writes to the audit chat only.
    """

    def __init__(self, gateway: ChannelGateway, freeze: Callable[[timedelta], Awaitable[None]]) -> None:
        self.name = gateway.name
        self.deletes_within_48_hours = gateway.deletes_within_48_hours
        self._gateway = gateway
        self._freeze = freeze

    async def look_at(self, secret: str, target: Target) -> ChannelFacts:
        """As the gateway does."""
        return await self._heed(self._gateway.look_at(secret, target))

    async def post(self, secret: str, target: Target, content: Rendered) -> SendReport:
        """As the gateway does."""
        return await self._gateway.post(secret, target, content)

    async def tell(self, secret: str, target: Target, text: str) -> SendReport:
        """As the gateway does."""
        return await self._gateway.tell(secret, target, text)

    async def find(
        self, secret: str, target: Target, content: Rendered, *, after: int, known: frozenset[int],
        since: datetime | None = None,
    ) -> Probe:  # fmt: skip
        """As the gateway does."""
        return await self._gateway.find(secret, target, content, after=after, known=known, since=since)

    async def pin(self, secret: str, target: Target, message_id: int) -> Change:
        """As the gateway does."""
        return await self._heed(self._gateway.pin(secret, target, message_id))

    async def unpin(self, secret: str, target: Target, message_id: int) -> Change:
        """As the gateway does."""
        return await self._heed(self._gateway.unpin(secret, target, message_id))

    async def remove(self, secret: str, target: Target, message_id: int) -> Change:
        """As the gateway does."""
        return await self._heed(self._gateway.remove(secret, target, message_id))

    async def replace(self, secret: str, target: Target, message_id: int, text: str, *, caption: bool) -> Change:
        """As the gateway does."""
        return await self._heed(self._gateway.replace(secret, target, message_id, text, caption=caption))

    async def is_there(self, secret: str, target: Target, message_id: int) -> bool | None:
        """As the gateway does."""
        return await self._gateway.is_there(secret, target, message_id)

    async def _heed(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except ProviderError as fault:
            if fault.retry_after is not None:
                await self._freeze(fault.retry_after)
            raise
