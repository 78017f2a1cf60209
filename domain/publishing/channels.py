"""Channels as the outside shows them: where to post, what is permitted, and the port that every gateway fills."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from domain.errors import Outcome
from domain.model import Frozen
from domain.publishing.content import Rendered


class Target(Frozen):
    """Where a post of a tenant goes. It holds no secret: the credential is looked up where the wire is touched."""

    tenant_id: UUID
    chat_id: str
    audit_chat_id: str | None = None

    def at(self, chat_id: str) -> "Target":
        """Another chat of the same tenant."""
        return self.model_copy(update={"chat_id": chat_id})


class ChannelFacts(Frozen):
    """What a look at a channel showed. ``faults`` says in plain words what is missing."""

    chat_id: str
    title: str
    username: str | None = None
    can_post: bool
    can_edit: bool
    can_delete: bool
    can_pin: bool
    last_message_id: int
    faults: tuple[str, ...] = ()


class SendReport(Frozen):
    """What is known after a call that cannot be taken back.

    ``frozen`` names the scope that the other side froze, for ``retry_after``: ``chat``, or ``token``.
    """

    outcome: Outcome
    message_ids: tuple[int, ...] = ()
    code: str | None = None
    detail: str = ""
    retry_after: timedelta | None = None
    frozen: str | None = None
    migrated_to: str | None = None


class Sight(StrEnum):
    """What a look for a post showed."""

    FOUND = "found"
    PARTLY = "partly"
    ABSENT = "absent"
    BLIND = "blind"  # the look itself failed: it proves nothing


class Probe(Frozen):
    """One look for a post whose sending ended in doubt, kept as evidence."""

    sight: Sight
    source: str
    message_ids: tuple[int, ...] = ()
    looked_from: int = 0
    looked_to: int = 0
    detail: str = ""

    def evidence(self) -> dict[str, Any]:
        """As JSON, for the ledger."""
        return self.model_dump(mode="json")


class Change(StrEnum):
    """What became of pinning, unpinning, editing or deleting: all of them may be repeated."""

    DONE = "done"
    GONE = "gone"  # the message is not there
    DENIED = "denied"  # the other side refuses, mostly for lost rights; the owner has to act


class ChannelGateway(Protocol):
    """A system that shows posts. One method is one call; none retries; credentials come opened and leave no trace."""

    name: str
    deletes_within_48_hours: bool

    async def look_at(self, secret: str, target: Target) -> ChannelFacts:
        """Rights and identity of a channel; posts and deletes one silent message to learn where its ids stand.

        Raises ProviderError.
        """
        ...

    async def post(self, secret: str, target: Target, content: Rendered) -> SendReport:
        """Publish. Never raises for what the other side or the wire did: the report says it."""
        ...

    async def tell(self, secret: str, target: Target, text: str) -> SendReport:
        """Send a plain message to a person or a group."""
        ...

    async def find(
        self, secret: str, target: Target, content: Rendered, *, after: int, known: frozenset[int],
        since: datetime | None = None,
    ) -> Probe:  # fmt: skip
        """Look for a post with this content among the messages behind ``after``, those ``known`` left out.

        ABSENT is a proof: nothing that came after ``since``, when the sending began, is left unexplained.
        """
        ...

    async def pin(self, secret: str, target: Target, message_id: int) -> Change:
        """Pin. Raises ProviderError where it has to be tried again."""
        ...

    async def unpin(self, secret: str, target: Target, message_id: int) -> Change:
        """Unpin. Raises ProviderError where it has to be tried again."""
        ...

    async def remove(self, secret: str, target: Target, message_id: int) -> Change:
        """Delete. Raises ProviderError where it has to be tried again."""
        ...

    async def replace(self, secret: str, target: Target, message_id: int, text: str, *, caption: bool) -> Change:
        """Overwrite a post, or its caption, with a plain text. Raises ProviderError where it has to be tried again."""
        ...

    async def is_there(self, secret: str, target: Target, message_id: int) -> bool | None:
        """Whether the channel still shows the message; None where that cannot be seen."""
        ...


class ViewCount(Frozen):
    """How often a post was seen, and who says so."""

    views: int
    source: str


class ViewSource(Protocol):
    """Somebody who knows how often a post was seen."""

    name: str

    async def count(self, username: str, message_id: int) -> ViewCount | None:
        """The number, or None where this source does not know."""
        ...


class Witness(Protocol):
    """Somebody who sees what everybody sees, where the gateway itself cannot look."""

    name: str

    async def find(
        self, username: str, content: Rendered, *, after: int, known: frozenset[int], since: datetime | None
    ) -> Probe:
        """FOUND where the post is there for all to see; BLIND otherwise, for not being shown proves nothing."""
        ...
