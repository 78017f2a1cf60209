"""Hundreds of seeded schedules of kills and faults around order, webhook and poll: nothing bought twice, nothing lost.

A schedule kills the worker inside this process - the code behind that point never runs - on the real database and real
sockets, in both directions: orders go to a stand-in, whose webhooks come back over another socket. Judged by what the
stand-in sold, not by our tables. ``LONGHAUL_CHAOS_RENDERS`` and ``LONGHAUL_CHAOS_SEED`` choose how many, and which.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from activities.media.films import Film
from activities.media.finished_videos import Body
from activities.media.renders import RenderDesk, _Opened
from core.database import Database
from core.store import ArtifactStore
from domain.errors import InvalidInput, ProviderError, Unauthenticated
from domain.video import (
    Close,
    FilmWish,
    Heard,
    Kept,
    Planned,
    RenderEnd,
    RenderStatus,
    Stand,
    Submitted,
    VideoRenderer,
    carry_render,
)
from gateways.standin_heygen import Fault, FaultKind, Play, StandInHeyGen
from gateways.unruly import Reset, UnrulyService
from repositories.rows import AnyRow
from services.media import Hook, MediaService
from tests.support.publishing import new_http
from tests.support.renders import QUICK, SECRET, Studio, film_of

_log = structlog.get_logger(__name__)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_500)]

SCHEDULES: Final = int(os.environ.get("LONGHAUL_CHAOS_RENDERS", "520"))
SEED: Final = int(os.environ.get("LONGHAUL_CHAOS_SEED", "20261121"))
AT_ONCE: Final = 7
PLACES: Final = 6
LONGEST_WAIT: Final = 0.2
UNHURRIED: Final = QUICK.model_copy(
    update={"poll_first": timedelta(milliseconds=60), "ask_for_place": timedelta(milliseconds=120)}
)

KILLS: Final = (
    "before_ledger", "before_wire", "during_wire", "after_wire", "before_acknowledgement",
    "during_look", "during_download", "before_finish", "after_finish",
)  # fmt: skip
SUBMIT_FAULTS: Final = (
    FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER, FaultKind.STATUS_BEFORE, FaultKind.STATUS_AFTER,
    FaultKind.ERROR_IN_200, FaultKind.ERROR_IN_200_AFTER, FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER,
)  # fmt: skip
READ_FAULTS: Final = (FaultKind.DROP_BEFORE, FaultKind.STATUS_BEFORE, FaultKind.ERROR_IN_200, FaultKind.DELAY_BEFORE)
FILE_FAULTS: Final = (FaultKind.DROP_BEFORE, FaultKind.EXPIRED, FaultKind.CUT_SHORT, FaultKind.STATUS_BEFORE)


class Killed(BaseException):
    """The process is gone; nothing catches this but whoever looks at the process from outside."""


class MortalDesk(RenderDesk):
    """The desk of a worker process that dies at a point of the schedule."""

    kill: str | None = None

    def _die(self, point: str) -> None:
        if self.kill == point:
            raise Killed

    async def _open(self, film: Film) -> _Opened | Submitted:
        self._die("before_ledger")
        return await super()._open(film)

    async def _touch_wire(self, renderer: VideoRenderer, opened: _Opened, at: float) -> str:
        self._die("before_wire")
        if self.kill == "during_wire":
            call = asyncio.create_task(super()._touch_wire(renderer, opened, at))
            await asyncio.sleep(0.003)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise Killed
        video_id = await super()._touch_wire(renderer, opened, at)
        self._die("after_wire")
        return video_id

    async def _ordered(self, film: Film, row: AnyRow, video_id: str) -> None:
        await super()._ordered(film, row, video_id)
        self._die("before_acknowledgement")

    async def look(self, film: Film) -> RenderStatus | None:
        self._die("during_look")
        return await super().look(film)

    async def finish(self, film: Film, body: Body, *, row: AnyRow | None = None) -> None:
        self._die("before_finish")
        await super().finish(film, body, row=row)
        self._die("after_finish")

    async def _fetch(self, renderer: VideoRenderer, url: str) -> AsyncIterator[bytes]:
        async for chunk in super()._fetch(renderer, url):
            yield chunk
            self._die("during_download")


@dataclass
class MortalWorld:
    """The course of one render. Each call is a worker process of its own, which may die; signals come over a socket."""

    studio: Studio
    film: Film
    wish: FilmWish
    play: Play
    kills: list[str | None]
    name: str
    spoken: asyncio.Event = field(default_factory=asyncio.Event)
    deaths: int = 0
    asked: bool = False
    restarts: int = 0

    def _desk(self) -> MortalDesk:
        desk = self.studio.new_desk(MortalDesk)
        assert isinstance(desk, MortalDesk)
        if self.kills:
            desk.kill = self.kills.pop(0)
        return desk

    async def plan(self) -> Planned:
        planned = await self.studio.desk.plan(self.film, self.wish, workflow_id=self.name)
        return planned.model_copy(update={"deadline": timedelta(seconds=1.5)})

    async def make(self) -> RenderEnd:
        raise AssertionError

    async def take_place(self) -> bool:
        return await self.studio.desk.take_place(self.film)

    async def submit(self) -> Submitted | None:
        try:
            return await self._desk().submit(self.film)
        except Killed:
            self._die()
            return None

    async def look(self) -> RenderStatus | None:
        try:
            return await self._desk().look(self.film)
        except Killed:
            self._die()
            return None

    async def keep(self) -> Kept:
        try:
            return await self._desk().keep(self.film)
        except Killed:
            self._die()
            return Kept.AGAIN

    def _die(self) -> None:
        """A worker has died. Now and then its job is run again from the start, as after a reset or a retry."""
        self.deaths += 1
        if self.deaths % 2 == 0:
            raise Restarted

    async def close(self, how: Close, code: str | None = None) -> None:
        self.asked = how is Close.STUCK
        await self.studio.desk.close(self.film, how, code)

    async def hear(self, length: timedelta, stand: Stand) -> Heard:
        if self.asked:
            # A person looks: one that hangs is given up, and taken away at the provider.
            self.asked = False
            if self.play.end != "stuck":
                return Heard.KEEP_WAITING
            for render in self.studio.bought(self.wish.script):
                render.play = Play(seconds=0, end="failed", posts=0)
            return Heard.GIVE_UP
        try:
            async with asyncio.timeout(min(length.total_seconds(), LONGEST_WAIT)):
                await self.spoken.wait()
        except TimeoutError:
            return Heard.NOTHING
        self.spoken.clear()
        return Heard.PROVIDER

    def now(self) -> datetime:
        return datetime.now(UTC)


class Restarted(Exception):
    """The course begins anew; what is known is in the ledger."""


class Receiver(UnrulyService):
    """Our end of webhooks, over a socket, with a connection that breaks now and then."""

    def __init__(self, service: MediaService, chance: random.Random) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self._service = service
        self._chance = chance
        self.answers: Counter[str] = Counter()

    def application(self) -> Starlette:
        return Starlette(routes=[Route("/webhooks/heygen", self._hear, methods=["POST"])])

    async def _hear(self, request: Request) -> Response:
        body = await request.body()
        if self._chance.random() < 0.05:
            return Reset()
        try:
            woken = await self._service.hear(Hook(body=body, headers=dict(request.headers)))
        except (Unauthenticated, InvalidInput) as fault:
            self.answers[fault.code] += 1
            return JSONResponse({}, status_code=401)
        self.answers["woken" if woken else "ignored"] += 1
        return JSONResponse({})


class Bells:
    """Signals to courses by their names."""

    def __init__(self) -> None:
        self.worlds: dict[str, MortalWorld] = {}

    async def signal(self, workflow_id: str, _name: str, *_arguments: Any) -> bool:
        world = self.worlds.get(workflow_id)
        if world is not None:
            world.spoken.set()
        return world is not None


def play_of(chance: random.Random) -> Play:
    """How a render plays out, and what is posted about it."""
    return Play(
        seconds=chance.choice((0.0, 0.02, 0.1)), end=chance.choice(("completed",) * 8 + ("failed", "stuck")),
        posts=chance.choice((0, 1, 1, 2, 3)), early=chance.random() < 0.2, forged=chance.random() < 0.2,
        stale=chance.random() < 0.1, late_seconds=chance.choice((0.0, 0.0, 0.05, 0.5)),
        old_header=chance.random() < 0.3,
    )  # fmt: skip


def faults_of(chance: random.Random, about: str) -> list[Fault]:
    """What the other side does wrong in this schedule."""
    made = []
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        status = chance.choice((409, 429, 429, 500, 502, 503))
        made.append(Fault(
            kind=chance.choice(SUBMIT_FAULTS), about=about, status=status,
            retry_after=0 if status == 429 else None, seconds=0.01,
        ))  # fmt: skip
    if chance.random() < 0.05:
        made.append(Fault(kind=FaultKind.STATUS_BEFORE, about=about, status=chance.choice((400, 402))))
    if chance.random() < 0.2:
        made.append(Fault(kind=chance.choice(READ_FAULTS), call="list", about=about, seconds=0.01))
    if chance.random() < 0.3:
        made.append(Fault(kind=chance.choice(READ_FAULTS), call="look", about=about, seconds=0.01, status=404))
    if chance.random() < 0.3:
        made.append(Fault(kind=chance.choice(FILE_FAULTS), call="file", about=about, status=503, times=2))
    return made


@dataclass
class Played:
    """One schedule: its script, how its course ended, and what it was up against."""

    script: str
    end: RenderEnd
    play: Play
    refused: bool
    world: MortalWorld


async def play_one(studio: Studio, bells: Bells, seed: int) -> Played:
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    script = f"schedule {seed}"
    film, wish = film_of(await studio.add_job(), script)
    play = play_of(chance)
    # The odds are for deaths where something is at stake: in the first calls.
    kills = [chance.choice((None, *KILLS)) for _ in range(chance.choice((0, 2, 4, 8)))]
    world = MortalWorld(studio, film, wish, play, kills, name=f"render/{seed}")
    bells.worlds[world.name] = world
    await world.plan()
    (row,) = await studio.rows(film.job)
    studio.standin.world.plays[row.title] = play
    faults = faults_of(chance, row.title)
    studio.standin.faults.add(*faults)
    refused = any(fault.status in {400, 402} for fault in faults)
    while True:
        try:
            end = await carry_render(world)
        except Restarted:
            world.restarts += 1
            continue
        if chance.random() < 0.5:
            del bells.worlds[world.name]
        return Played(script, end, play, refused, world)


@pytest.fixture
async def world(
    database: Database, store: ArtifactStore, tenant_id: UUID
) -> AsyncIterator[tuple[Studio, Bells, Receiver]]:
    bells = Bells()
    service = MediaService(database, bells, webhook_secret=SECRET)
    async with (
        Receiver(service, random.Random(SEED)) as receiver,  # noqa: S311 - which connections break, no secret
        StandInHeyGen(
            seed=SEED, at_once=PLACES - 1, webhook_url=f"{receiver.origin}/webhooks/heygen", webhook_secret=SECRET
        ) as standin,
        new_http() as http,
    ):
        studio = Studio(database, store, tenant_id, standin, http, policy=UNHURRIED, at_once=PLACES)
        yield studio, bells, receiver
        await standin.until_posted()


async def test_nothing_is_bought_twice_and_nothing_is_lost(world: tuple[Studio, Bells, Receiver]) -> None:
    studio, bells, receiver = world
    gate = asyncio.Semaphore(AT_ONCE)

    async def perform(seed: int) -> Played:
        async with gate:
            return await play_one(studio, bells, seed)

    played = await asyncio.gather(*(perform(SEED + number) for number in range(SCHEDULES)))
    await studio.standin.until_posted()

    twice = [one.script for one in played if len(studio.bought(one.script)) > 1]
    assert twice == []
    lost = [one.script for one in played if await is_lost(studio, one)]
    assert lost == []
    for one in played:
        await check_books(studio, one)
    ends = Counter(f"{one.end.value}/{one.play.end}" for one in played)
    _log.warning(
        "chaos.renders", schedules=SCHEDULES, seed=SEED, ends=dict(ends), webhooks=dict(receiver.answers),
        deaths=sum(one.world.deaths for one in played), restarts=sum(one.world.restarts for one in played),
        bought=len(studio.standin.world.renders), twice=0, lost=0,
    )  # fmt: skip
    assert ends["made/completed"] > SCHEDULES * 0.6
    assert receiver.answers["woken"] > 0
    assert receiver.answers["E.AUTH.INVALID"] > 0


async def is_lost(studio: Studio, one: Played) -> bool:
    """Bought and finished over there, and not the very bytes over here; or never bought without a reason."""
    bought = studio.bought(one.script)
    if one.play.end == "completed" and (bought or not one.refused):
        kept = await studio.video(one.world.film.job)
        return len(bought) != 1 or one.end is not RenderEnd.MADE or kept != bought[0].body()
    return one.end is not RenderEnd.SKIPPED


async def check_books(studio: Studio, one: Played) -> None:
    """Our ledgers say what the stand-in says."""
    (row,) = await studio.rows(one.world.film.job)
    calls = await studio.calls(one.world.film.job)
    if one.end is RenderEnd.MADE:
        (render,) = studio.bought(one.script)
        assert (row.state, row.video_id, row.seconds) == ("done", render.video_id, render.seconds)
        assert [(call.state, call.settled_usd) for call in calls] == [("done", row.cost_usd)]
        assert all(call.lost_usd == 0 for call in calls)
    else:
        assert row.state in {"failed", "abandoned"}, (one.script, row)
        assert all(call.settled_usd is None for call in calls)


async def test_the_schedules_are_no_rubber_stamp(world: tuple[Studio, Bells, Receiver]) -> None:
    """A desk that orders under another key after a doubt is found out."""
    studio, _, _ = world
    film, wish = film_of(await studio.add_job(), "a careless desk")
    studio.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
    await studio.desk.plan(film, wish, workflow_id="w")
    (row,) = await studio.rows(film.job)
    order = studio.renderer.order(wish, render_id=row.id, tenant_id=row.tenant_id, lesson="1.1")
    for key in (order.key, f"{order.key}-again"):
        try:
            await studio.renderer.submit(order.model_copy(update={"key": key}))
        except ProviderError:
            continue
    assert len(studio.bought("a careless desk")) == 2
