"""A turn of a conversation whose answer is refused for now: it is given later, and nothing is booked twice."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest
from sqlalchemy import func
from temporalio.exceptions import ApplicationError

from activities.publishing.dialog import DialogActivities, TurnInput
from core.database import Database
from core.ids import new_id
from domain.publishing.dialog import DialogState, DialogStep
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.publishing.bots import BotRepository
from repositories.rows import AnyRow
from repositories.tables import rate_scopes
from tests.support.publishing import QUICK, Shop, new_http

PERSON = 55


class BooksOnce:
    """Gives the same order for the same key."""

    async def book(self, tenant_id: UUID, wish: dict[str, Any], *, key: str) -> UUID:
        return uuid5(NAMESPACE_OID, key)


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    async with StandInTelegram() as standin, new_http() as http:
        made = Shop(database, tenant_id, standin, http, policy=replace(QUICK, per_token_second=30.0))
        # Limits are shared by everybody with the same token, so each test has one of its own.
        await made.add_credential(f"4242:{new_id().hex}")
        standin.world.add_chat(PERSON, kind="private")
        yield made


@pytest.fixture
async def channel(shop: Shop) -> AnyRow:
    return await shop.add_channel(-1)


@pytest.fixture
async def turn(shop: Shop, channel: AnyRow) -> TurnInput:
    """The person has said yes."""
    async with shop.database.tenant(shop.tenant_id) as connection:
        repository = BotRepository(connection)
        bot_id = new_id()
        await repository.add(
            id=bot_id, tenant_id=shop.tenant_id, credential_id=channel.credential_id, channel_id=channel.id,
            secret_sha256=b"", polls=False,
        )  # fmt: skip
        bot = await repository.get_one(bot_id)
        for update_id, text in ((1, "my advert"), (2, "yes")):
            await repository.take_in(bot, update_id=update_id, chat_id=PERSON, text=text)
    state = DialogState(step=DialogStep.CONFIRM, slot_id=new_id(), text_update=1)
    return TurnInput(tenant_id=shop.tenant_id, bot_id=bot_id, chat_id=PERSON, update_id=2, state=state)


async def test_answer_that_is_refused_for_now_freezes_the_chat_and_is_given_later(
    shop: Shop, channel: AnyRow, turn: TurnInput
) -> None:
    activities = DialogActivities(shop.desk, BooksOnce())
    shop.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, chat_id=str(PERSON), status=429, retry_after=40))
    for _ in range(2):
        with pytest.raises(ApplicationError) as refused:
            await activities.take_turn(turn)
        assert not refused.value.non_retryable
        assert refused.value.next_retry_delay is not None
        assert refused.value.next_retry_delay > timedelta(seconds=30)
    # The second one did not even ask: the person's chat is frozen, and the channel is not.
    assert [method for method, _ in shop.standin.call_log] == ["sendMessage"]
    counter = await shop.desk.counter_of(shop.tenant_id, channel.id)
    assert await shop.desk.take_turn(shop.tenant_id, counter) == timedelta(0)
    async with shop.database.system() as connection:
        mine = rate_scopes.c.scope == f"chat:{counter.fingerprint}:{PERSON}"
        await connection.execute(rate_scopes.update().where(mine).values(frozen_until=None, next_at=func.now()))
    assert await activities.take_turn(turn) == DialogState()
    order_id = uuid5(NAMESPACE_OID, f"dialog/{turn.bot_id}/2")
    assert shop.posted(PERSON) == [f"Booked. Your order is {order_id}."]


async def test_answer_that_may_be_out_is_not_given_again(shop: Shop, turn: TurnInput) -> None:
    shop.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(PERSON)))
    assert await DialogActivities(shop.desk, BooksOnce()).take_turn(turn) == DialogState()
    assert len(shop.posted(PERSON)) == 1
