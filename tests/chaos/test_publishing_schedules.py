"""Thousands of seeded schedules of kills, drops and faults: no double post and no silent loss, by the channel itself.

A schedule kills the attempt inside this process - the code behind that point never runs - on the real database and a
real socket. ``LONGHAUL_CHAOS_SCHEDULES`` and ``LONGHAUL_CHAOS_SEED`` choose how many, and which.
"""

import asyncio
import os
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
import structlog
from sqlalchemy import select

from activities.publishing.effects import EffectActivities, EffectInput, _Opened
from core.database import Database
from domain.errors import Outcome, ProviderError
from domain.jobs import JobRef
from domain.publishing.channels import SendReport, Sight
from domain.publishing.content import Entity, PostContent
from domain.publishing.effects import Attempt, carry_effect
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from repositories.rows import AnyRow
from repositories.tables import orders, publications
from tests.support.publishing import QUICK, Shop, new_http

_log = structlog.get_logger(__name__)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SCHEDULES: Final = int(os.environ.get("LONGHAUL_CHAOS_SCHEDULES", "2000"))
SEED: Final = int(os.environ.get("LONGHAUL_CHAOS_SEED", "20261120"))
AT_ONCE: Final = 8
CHANNELS: Final = 8

# Pauses are to the delays of the stand-in what ninety seconds are to the thirty after which a call is given up.
PATIENT: Final = replace(QUICK, probe_pauses=(timedelta(milliseconds=15),) * 3)

KILLS: Final = ("before_ledger", "before_wire", "during_wire", "after_wire", "before_acknowledgement")
FAULTS: Final = (
    FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER, FaultKind.STATUS_BEFORE, FaultKind.STATUS_AFTER, FaultKind.DELAY_AFTER,
    FaultKind.DELAY_BEFORE,
)  # fmt: skip


class Killed(BaseException):
    """The process is gone; nothing catches this but whoever looks at the process from outside."""


class MortalEffects(EffectActivities):
    """The activities of publishing in a process that dies at a point of the schedule."""

    kill: str | None = None

    async def _open(self, step: EffectInput) -> _Opened | Attempt:
        if self.kill == "before_ledger":
            raise Killed
        return await super()._open(step)

    async def _touch_wire(self, opened: _Opened) -> SendReport:
        if self.kill == "before_wire":
            raise Killed
        if self.kill == "during_wire":
            call = asyncio.create_task(super()._touch_wire(opened))
            await asyncio.sleep(0.002)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise Killed
        report = await super()._touch_wire(opened)
        if self.kill == "after_wire":
            raise Killed
        return report

    async def _close(self, step: EffectInput, opened: _Opened, report: SendReport) -> Attempt:
        attempt = await super()._close(step, opened, report)
        if self.kill == "before_acknowledgement":
            raise Killed
        return attempt


class MortalWorld:
    """The course of one order, whose worker dies where the schedule says; pauses are short."""

    def __init__(
        self, shop: Shop, job: JobRef, order_id: UUID, kills: list[str | None], *, owner: int | None = None
    ) -> None:
        """Before each look the owner of the channel ``owner`` writes into it by hand."""
        self._shop, self._job, self._order_id, self._kills, self._owner = shop, job, order_id, kills, owner

    def _step(self, number: int) -> EffectInput:
        return EffectInput(job=self._job, order_id=self._order_id, number=number)

    async def send(self, number: int) -> Attempt | None:
        effects = MortalEffects(self._shop.desk)
        effects.kill = self._kills.pop(0) if self._kills else None
        try:
            return await effects.attempt(self._step(number))
        except Killed:
            return None

    async def settle(self, number: int) -> Outcome:
        return await EffectActivities(self._shop.desk).settle_post(self._step(number))

    async def probe(self, number: int) -> Sight:
        if self._owner is not None:
            self._shop.standin.world.write(self._owner, "of the owner, meanwhile")
        try:
            return await EffectActivities(self._shop.desk).probe_post(self._step(number))
        except ProviderError:
            return Sight.BLIND

    async def ask_person(self) -> None:
        await EffectActivities(self._shop.desk).ask_person(self._step(0))

    async def pause(self, length: timedelta) -> None:
        await asyncio.sleep(min(length.total_seconds(), 0.02))

    def now(self) -> datetime:
        return datetime.now(UTC)


def faults_of(chance: random.Random, chat_id: int) -> list[Fault]:
    """What the other side does wrong in this schedule."""
    made = []
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        kind = chance.choice(FAULTS)
        limited = kind is FaultKind.STATUS_BEFORE and chance.random() < 0.5
        made.append(Fault(
            kind=kind, chat_id=str(chat_id), status=429 if limited else chance.choice((500, 502, 504)),
            retry_after=1 if limited else None, seconds=0.004,
        ))  # fmt: skip
    if chance.random() < 0.1:
        made.append(Fault(kind=FaultKind.STATUS_BEFORE, method="forwardMessage", status=502))
    return made


def content_of(chance: random.Random, text: str) -> PostContent:
    """A plain text, or one that Telegram shows otherwise than it was sent."""
    if chance.random() < 0.5:
        return PostContent(text=text)
    link = Entity(type="text_link", offset=2, length=8, url="https://Example.com")
    return PostContent(text=f" \n{text} ", entities=(link, Entity(type="bold", offset=0, length=5)))


def write_by_hand(chance: random.Random, shop: Shop, chat_id: int) -> None:
    """The owner of the channel has posted something: long ago, just now, or more than a look can go through."""
    how_many, seconds_ago = chance.choice(((1, 3_600), (3, 3_600), (1, 0), (70, 3_600)))
    for _ in range(how_many):
        shop.standin.world.write(chat_id, "of the owner", seconds_ago=seconds_ago)


async def play(shop: Shop, seed: int, channel: AnyRow, chat_id: int) -> tuple[str, str]:
    """One schedule; the text of its post, and how its course ended."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    text = f"schedule {seed}"
    job, order_id = await shop.add_order(channel, text, late=600, content=content_of(chance, text))
    if chance.random() < 0.1:
        write_by_hand(chance, shop, chat_id)
    owner = chat_id if chance.random() < 0.05 else None
    shop.standin.faults.add(*faults_of(chance, chat_id))
    kills = [chance.choice((None, *KILLS)) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    ended = await carry_effect(MortalWorld(shop, job, order_id, kills, owner=owner), shop.policy.of_effects())
    return text, ended.end.value


async def stored(database: Database, tenant_id: UUID) -> dict[str, AnyRow]:
    """What our tables say of every order, by its text."""
    text = orders.c.content["text"].as_string().label("text")
    query = select(text, orders.c.state, publications.c.state.label("ledger"), orders.c.message_ids)
    async with database.tenant(tenant_id) as connection:
        rows = await connection.execute(query.join(publications, publications.c.order_id == orders.c.id))
        return {row.text.strip(): row for row in rows.all()}


async def test_no_double_post_and_no_silent_loss(database: Database, tenant_id: UUID) -> None:
    async with StandInTelegram(seed=SEED) as standin, new_http() as http:
        shop = Shop(database, tenant_id, standin, http, policy=PATIENT)
        chats = [-(100_000 + number) for number in range(CHANNELS)]
        channels = [await shop.add_channel(chat) for chat in chats]
        standin.world.chats[chats[-1]].protected = True
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(seed: int) -> tuple[str, str, int]:
            async with gate:
                place = seed % CHANNELS
                return (*await play(shop, seed, channels[place], chats[place]), chats[place])

        played = await asyncio.gather(*(one(SEED + number) for number in range(SCHEDULES)))
        shown = {chat: Counter(shop.posted(chat)) for chat in chats}
        states = await stored(database, tenant_id)

    doubled = [text for text, _, chat in played if shown[chat][text] > 1]
    assert doubled == []
    lost = [
        (text, end)
        for text, end, chat in played
        if (end == "done") != (shown[chat][text] == 1) and end != "needs_person"
    ]
    assert lost == []
    # The calendar, the course and the channel agree.
    for text, end, chat in played:
        row = states[text]
        assert row.state == {"done": "live", "needs_person": "needs_person"}[end], (text, end, row)
        assert row.ledger == end
        if end == "done":
            there = standin.world.chats[chat].messages[row.message_ids[0]]
            assert there.text == text
    ends = Counter(end for _, end, _ in played)
    _log.warning("chaos.schedules", schedules=SCHEDULES, seed=SEED, ends=dict(ends), doubled=0, lost=0)
    # The owner's own posts and the protected channel leave more to people than a quiet world would.
    assert ends["done"] > SCHEDULES * 0.65
