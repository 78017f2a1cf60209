"""Long polling of bots that belong to different tenants: what is wrong with one of them is nobody else's trouble."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from temporalio.client import Client

from core.database import Database
from core.ids import new_id
from core.sealing import SecretBox
from domain.errors import NotFound
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.publishing.bots import BotRepository
from repositories.publishing.channels import CredentialRepository
from repositories.tables import bots
from repositories.tenants import TenantRepository
from services.publishing.dialogs import BotPoller, DialogService
from tests.support.publishing import BOX, Shop, new_http

GOOD: Final = "5151:a-token-that-is-good"
REVOKED: Final = "revoked-canary-token"


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    """A tenant with a stand-in of its own; the bots of other tests are not polled any more."""
    async with database.system() as connection:
        others = await BotRepository(connection).get_polled()
    for bot in others:
        async with database.tenant(bot.tenant_id) as connection:
            await connection.execute(update(bots).where(bots.c.id == bot.id).values(polls=False))
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


@pytest.fixture
def dialogs(database: Database, temporal: Client) -> DialogService:
    """Conversations that are begun, and that nobody carries on."""
    return DialogService(database, temporal, task_queue=f"nobody-{new_id()}")


@pytest.fixture
def poller(shop: Shop, dialogs: DialogService) -> BotPoller:
    return BotPoller(shop.database, BOX, shop.gateway, dialogs)


async def add_bot(shop: Shop, dialogs: DialogService, token: str, *, chat_id: int) -> tuple[Shop, UUID]:
    """A bot of a tenant of its own, which is polled."""
    tenant_id = new_id()
    async with shop.database.system() as connection:
        await TenantRepository(connection).add(tenant_id=tenant_id, name=f"tenant-{tenant_id}")
    theirs = Shop(shop.database, tenant_id, shop.standin, shop.http)
    await theirs.add_credential(token)
    channel = await theirs.add_channel(chat_id)
    bot_id, _ = await dialogs.add_bot(tenant_id, channel_id=channel.id, polls=True)
    return theirs, bot_id


async def spoil(shop: Shop, how: str) -> None:
    """Put a secret in the place of the token that Telegram does not know, or that nobody can open."""
    assert shop.credential_id is not None
    box = BOX if how == "revoked" else SecretBox([b"x" * 32])
    sealed = box.seal(REVOKED, tenant_id=shop.tenant_id, owner=shop.credential_id)
    async with shop.database.tenant(shop.tenant_id) as connection:
        await CredentialRepository(connection).replace(shop.credential_id, sealed=sealed, fingerprint=how)


async def has_heard(shop: Shop, bot_id: UUID, update_id: int) -> bool:
    async with shop.database.tenant(shop.tenant_id) as connection:
        try:
            return (await BotRepository(connection).get_update(bot_id, update_id)).delivered_at is not None
        except NotFound:
            return False


@pytest.mark.parametrize("how", ["revoked", "sealed with another key"])
@pytest.mark.parametrize("broken", [0, 1])
async def test_a_broken_bot_starves_no_other(
    shop: Shop, dialogs: DialogService, poller: BotPoller, how: str, broken: int
) -> None:
    """Whichever of them comes first."""
    both = [await add_bot(shop, dialogs, GOOD, chat_id=-chat_id) for chat_id in (1, 2)]
    await spoil(both[broken][0], how)
    said = shop.standin.world.say(GOOD, chat_id=9, sender=9, text="/book")
    with capture_logs() as logs:
        await poller.poll_once()
    assert await has_heard(*both[1 - broken], said["update_id"])
    [rests] = [one for one in logs if one["event"] == "poller.bot_rests"]
    assert rests["bot_id"] == str(both[broken][1])
    assert REVOKED not in repr(logs)


async def test_a_broken_bot_rests_for_longer_each_time_until_it_answers(
    shop: Shop, dialogs: DialogService, poller: BotPoller
) -> None:
    theirs, bot_id = await add_bot(shop, dialogs, GOOD, chat_id=-1)
    shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="getUpdates", status=401, times=2))
    said = shop.standin.world.say(GOOD, chat_id=9, sender=9, text="/book")
    pauses = []
    for _ in range(2):
        await poller.poll_once()
        await poller.poll_once()  # it rests
        pauses.append(poller._resting[bot_id].pause)
        poller._resting[bot_id] = replace(poller._resting[bot_id], until=0.0)
    assert pauses[1] == 2 * pauses[0] > 0
    assert [method for method, _ in shop.standin.call_log] == ["getUpdates"] * 2
    await poller.poll_once()
    assert await has_heard(theirs, bot_id, said["update_id"])
    assert poller._resting == {}


async def test_a_bot_rests_for_as_long_as_it_was_asked_to(
    shop: Shop, dialogs: DialogService, poller: BotPoller
) -> None:
    _, bot_id = await add_bot(shop, dialogs, GOOD, chat_id=-1)
    shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="getUpdates", status=429, retry_after=900))
    await poller.poll_once()
    assert poller._resting[bot_id].pause == 900
