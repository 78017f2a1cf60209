"""Updates of bots on their way into conversations: each kept once, then told to the conversation's workflow."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from core.database import Database
from core.ids import new_id
from core.sealing import SecretBox
from domain.errors import DependencyError, FieldFault, InvalidInput, LonghaulError, NotFound, TemporalUnavailable
from repositories.publishing.bots import BotRepository
from repositories.publishing.channels import ChannelRepository, CredentialRepository
from repositories.rows import AnyRow
from services.jobs import JobRequest, JobService
from workflows.dialog import DIALOG_WORKFLOW, DialogInput, dialog_id
from workflows.publishing import TASK_QUEUE

_log = structlog.get_logger(__name__)

_LONGEST_TEXT: Final = 4_096
_RPC: Final = timedelta(seconds=5)
_IDLE_SECONDS: Final = 2.0
_LONGEST_REST_SECONDS: Final = 300.0


class UpdateSource(Protocol):
    """Whoever can fetch updates of a bot."""

    async def get_updates(self, secret: str, *, offset: int, wait_seconds: int) -> list[Mapping[str, Any]]:
        """Updates from ``offset`` on. Raises ProviderError."""
        ...


class OrderBooker:
    """Books through the same door as the API."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    async def book(self, tenant_id: UUID, wish: dict[str, Any], *, key: str) -> UUID:
        """The id of the order; the same key books once. Raises InvalidInput."""
        started = await self._jobs.start(tenant_id, JobRequest(kind="publishing.order", input=wish), key=key)
        order_id: UUID = started.document.id
        return order_id


class DialogService:
    """Bots and what they hear."""

    def __init__(self, database: Database, client: Client, *, task_queue: str = TASK_QUEUE) -> None:
        self._database = database
        self._client = client
        self._task_queue = task_queue

    async def add_bot(self, tenant_id: UUID, *, channel_id: UUID, polls: bool) -> tuple[UUID, str]:
        """A bot that takes orders for a channel with the channel's own credential; its id and its webhook's secret.

        Raises NotFound and InvalidInput.
        """
        secret, bot_id = secrets.token_urlsafe(32), new_id()
        async with self._database.tenant(tenant_id) as connection:
            channel = await ChannelRepository(connection).get_one(channel_id)
            if channel.credential_id is None:
                fault = FieldFault("/channel_id", "has no bot")
                raise InvalidInput("the channel cannot take orders in conversations", faults=[fault])
            await BotRepository(connection).add(
                id=bot_id, tenant_id=tenant_id, credential_id=channel.credential_id, channel_id=channel_id,
                secret_sha256=hashlib.sha256(secret.encode()).digest(), polls=polls,
            )  # fmt: skip
        return bot_id, secret

    async def hear(self, bot_id: UUID, *, secret: str, update: Any) -> None:
        """Take an update in that came by webhook. Raises NotFound, InvalidInput and TemporalUnavailable."""
        async with self._database.system() as connection:
            try:
                bot = await BotRepository(connection).get_one(bot_id)
            except NotFound:
                bot = None
        expected = bytes(hashlib.sha256().digest_size) if bot is None else bytes(bot.secret_sha256)
        given = hashlib.sha256(secret.encode()).digest()
        if not hmac.compare_digest(given, expected) or bot is None:
            _log.warning("security.webhook_refused", bot_id=str(bot_id))
            raise NotFound("there is no such bot")
        await self.take_in(bot, update)

    async def take_in(self, bot: AnyRow, update: Any) -> None:
        """Keep an update and tell its conversation; one that was told before is left alone.

        What is not a message of a person in a text is kept by nobody. Raises InvalidInput and TemporalUnavailable.
        """
        heard = _read(update)
        if heard is None:
            return
        update_id, chat_id, text = heard
        async with self._database.tenant(bot.tenant_id) as connection:
            fresh = await BotRepository(connection).take_in(bot, update_id=update_id, chat_id=chat_id, text=text)
        if not fresh:
            return
        await self._tell(bot, chat_id, update_id)
        async with self._database.tenant(bot.tenant_id) as connection:
            await BotRepository(connection).mark_delivered(bot.id, update_id)

    async def _tell(self, bot: AnyRow, chat_id: int, update_id: int) -> None:
        who = DialogInput(tenant_id=bot.tenant_id, bot_id=bot.id, chat_id=chat_id)
        try:
            await self._client.start_workflow(
                DIALOG_WORKFLOW, who, id=dialog_id(bot.id, chat_id), task_queue=self._task_queue,
                start_signal="hear", start_signal_args=[update_id], rpc_timeout=_RPC,
                priority=Priority(fairness_key=str(bot.tenant_id)), static_summary="A conversation that books a slot",
            )  # fmt: skip
        except (RPCError, RuntimeError) as fault:
            raise TemporalUnavailable("the conversation cannot be reached now") from fault


def _read(update: Any) -> tuple[int, int, str] | None:
    """Number, chat and text of an update; None where it holds no text of a person. Raises InvalidInput."""
    if not isinstance(update, Mapping) or not isinstance(update.get("update_id"), int):
        raise InvalidInput("this is no update", faults=[FieldFault("/update_id", "is missing")])
    message = update.get("message")
    chat = message.get("chat") if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(chat, Mapping) or not isinstance(chat.get("id"), int):
        return None
    text = message.get("text")
    return (update["update_id"], chat["id"], text[:_LONGEST_TEXT]) if isinstance(text, str) else None


@dataclass(frozen=True, slots=True)
class _Rest:
    """A bot is left alone until then, by this process's own clock, after it has failed."""

    pause: float
    until: float


class BotPoller:
    """Fetches updates by long polling, for development, where no webhook reaches us.

    A bot that fails, as one whose token was revoked does, rests for longer each time; the others go on.
    """

    def __init__(self, database: Database, box: SecretBox, source: UpdateSource, dialogs: DialogService) -> None:
        self._database = database
        self._box = box
        self._source = source
        self._dialogs = dialogs
        self._resting: dict[UUID, _Rest] = {}

    async def run(self) -> None:
        """Poll until canceled."""
        while True:
            try:
                await self.poll_once()
            except DependencyError as fault:
                _log.warning("poller.postponed", code=fault.code)
            await asyncio.sleep(_IDLE_SECONDS)

    async def poll_once(self) -> None:
        """One look for every bot that is polled and does not rest; what is wrong with one of them is logged.

        Raises DatabaseUnavailable and TemporalUnavailable: without these nobody can be heard.
        """
        async with self._database.system() as connection:
            polled = await BotRepository(connection).get_polled()
        self._resting = {bot.id: self._resting[bot.id] for bot in polled if bot.id in self._resting}
        for bot in polled:
            if bot.id in self._resting and time.monotonic() < self._resting[bot.id].until:
                continue
            try:
                await self._poll(bot)
            except DependencyError:
                raise
            except Exception as fault:  # noqa: BLE001 - one bot must not keep those of everybody else from being heard
                self._let_rest(bot.id, fault)
            else:
                self._resting.pop(bot.id, None)

    async def _poll(self, bot: AnyRow) -> None:
        """Fetch what one bot was told; an update counts as fetched once its conversation has it."""
        async with self._database.tenant(bot.tenant_id) as connection:
            row = await CredentialRepository(connection).get_or_none(bot.credential_id)
        if row is None:
            return
        secret = self._box.open(row.sealed, tenant_id=row.tenant_id, owner=row.id)
        for update in await self._source.get_updates(secret, offset=bot.next_update, wait_seconds=0):
            await self._dialogs.take_in(bot, update)
            async with self._database.tenant(bot.tenant_id) as connection:
                await BotRepository(connection).raise_offset(bot.id, int(update["update_id"]) + 1)

    def _let_rest(self, bot_id: UUID, fault: Exception) -> None:
        before = self._resting.get(bot_id)
        pause = _IDLE_SECONDS if before is None else before.pause * 2
        asked = fault.retry_after if isinstance(fault, LonghaulError) else None
        pause = max(min(pause, _LONGEST_REST_SECONDS), 0 if asked is None else asked.total_seconds())
        self._resting[bot_id] = _Rest(pause, time.monotonic() + pause)
        # The words of a fault that nobody foresaw may hold what was said to the bot, or its token.
        code = fault.code if isinstance(fault, LonghaulError) else type(fault).__name__
        _log.warning("poller.bot_rests", bot_id=str(bot_id), code=code, seconds=pause)
