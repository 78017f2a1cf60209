"""Videos of lessons: what is to be filmed, what a renderer says of it, and the one course of a render that is paid for.

The course is written once, against a port, and everything that waits or touches the world is behind the port. The
workflow carries it with durable timers and activities; the chaos tests carry it with kills in between.
"""

import unicodedata
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Protocol
from uuid import UUID

from pydantic import Field

from domain.model import Frozen

_CHARACTERS_A_SECOND: Final = 14.0
_WIDE_CHARACTER: Final = 3.0
_SLOW_VOICE: Final = 2.0
_PAUSES_SECONDS: Final = 10.0
_DEADLINE_FACTOR: Final = 10.0
_DEADLINE_BASE: Final = timedelta(minutes=30)


# --- length and price -------------------------------------------------------------------------------


def spoken_seconds(script: str) -> float:
    """About how long a script takes to say. Characters of Chinese, Japanese and Korean take longer than letters."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in script)
    return (len(script) - wide + wide * _WIDE_CHARACTER) / _CHARACTERS_A_SECOND


def most_seconds(script: str) -> float:
    """As long as a video of the script can become: a slow voice, and pauses."""
    return spoken_seconds(script) * _SLOW_VOICE + _PAUSES_SECONDS


def render_deadline(script: str) -> timedelta:
    """How long a render may take before a person is asked: ten times the spoken length, and half an hour."""
    return deadline_after(spoken_seconds(script))


def deadline_after(seconds: float) -> timedelta:
    """The same, by the spoken length."""
    return timedelta(seconds=seconds * _DEADLINE_FACTOR) + _DEADLINE_BASE


class VideoPrice(Frozen):
    """What a minute of finished video costs in US dollars."""

    usd_per_minute: Annotated[Decimal, Field(ge=0)]

    def of(self, seconds: float) -> Decimal:
        """The cost of so many seconds, exact to a ten-thousandth of a cent and rounded up."""
        exact = Decimal(str(round(max(seconds, 0.0), 3))) * self.usd_per_minute / 60
        return exact.quantize(Decimal("0.000001"), rounding="ROUND_CEILING")


# --- a renderer: asked, waited for, fetched ---------------------------------------------------------


class FilmWish(Frozen):
    """What an avatar is to say, and how it is to look."""

    script: str
    avatar: str
    voice: str | None
    engine: str
    resolution: str


class RenderOrder(Frozen):
    """A render as it goes over the wire: the same ``body`` under the same ``key`` is one render, however often sent.

    ``title`` holds the id of the render and nothing of the lesson; by it a render of unknown fate is found again.
    """

    key: str
    title: str
    body: str


class RenderStatus(StrEnum):
    """What a renderer says of a render."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class RenderSight(Frozen):
    """A render as its renderer shows it. ``url`` is good for a short time only, and for nobody's eyes but ours."""

    video_id: str
    status: RenderStatus
    seconds: float | None = None
    url: str | None = None
    failure: str | None = None


class VideoRenderer(Protocol):
    """A provider that takes minutes for a video. Implementations never retry; the course of a render does."""

    name: str
    at_once: int
    """How many renders it does at once for us, all workers together."""
    longest_script: int
    """In characters."""
    default_avatar: str | None
    default_engine: str

    def order(self, wish: FilmWish, *, render_id: UUID, tenant_id: UUID, lesson: str) -> RenderOrder:
        """The order for a wish; the same arguments always give the same order."""
        ...

    def price(self, engine: str) -> VideoPrice:
        """What a minute costs. Raises PriceUnknown."""
        ...

    async def submit(self, order: RenderOrder) -> str:
        """Order a render once; its id at the provider. Raises ProviderError with the outcome of the call."""
        ...

    async def find(self, title: str) -> str | None:
        """The id of the render with exactly this title, or None where there is none. Raises ProviderError."""
        ...

    async def look(self, video_id: str) -> RenderSight:
        """What the provider says now. Raises ProviderError."""
        ...

    def fetch(self, url: str) -> AsyncIterator[bytes]:
        """The bytes of a video. Raises ProviderError: an expired address, a broken connection, a refused address."""
        ...


# --- a maker: a program of ours ---------------------------------------------------------------------


class FilmSlide(Frozen):
    """One picture of a slide video, and what is said while it is shown."""

    title: str
    lines: tuple[str, ...]
    said: str


class MadeVideo(Frozen):
    """A video in a file that goes away with the block it was made for."""

    file: Path
    seconds: float
    media_type: str = "video/mp4"


class VideoMaker(Protocol):
    """Makes slide videos on this machine."""

    name: str

    def fault(self, slides: tuple[FilmSlide, ...]) -> str | None:
        """Why there can be no video here (a missing program or font), or None."""
        ...

    def make(
        self, slides: tuple[FilmSlide, ...], *, narration: bytes | None, resolution: str
    ) -> AbstractAsyncContextManager[MadeVideo]:
        """Film the slides, with the narration as sound where there is one. Raises ProviderError, VideoUnavailable."""
        ...


# --- the ledger -------------------------------------------------------------------------------------


class RenderState(StrEnum):
    """What our ledger says of a render."""

    PLANNED = "planned"  # priced; the wire was not touched, or the other side said "not now"
    SUBMITTING = "submitting"  # the wire is being touched
    UNKNOWN = "unknown"  # it may have been ordered
    RENDERING = "rendering"  # ordered, and we know its id
    STUCK = "stuck"  # a person has to decide
    DONE = "done"  # the bytes are ours
    FAILED = "failed"  # refused, or the provider could not render it
    ABANDONED = "abandoned"  # given up by a person
    REPLACED = "replaced"  # a person wants it ordered anew


OVER: Final = frozenset({RenderState.DONE, RenderState.FAILED, RenderState.ABANDONED, RenderState.REPLACED})
"""States in which nothing more comes of a render."""


# --- the course of a render -------------------------------------------------------------------------


class RenderPolicy(Frozen):
    """How long the course of a render waits for what."""

    poll_first: timedelta = timedelta(seconds=15)
    poll_longest: timedelta = timedelta(seconds=60)
    poll_stuck: timedelta = timedelta(hours=1)
    ask_for_place: timedelta = timedelta(seconds=20)
    back_off_longest: timedelta = timedelta(seconds=60)
    patience: timedelta = timedelta(hours=2)
    """How long an order is tried for before it is given up, or, where its fate is unknown, a person is asked."""
    replay_within: timedelta = timedelta(hours=23)
    """How long after its first try an order may be sent again: the provider remembers keys for a day."""


class Way(StrEnum):
    """What is to be done for the video of a lesson."""

    KEPT = "kept"  # it is there already
    SKIPPED = "skipped"
    MAKE = "make"  # by a program of ours
    RENDER = "render"
    WAIT = "wait"  # another job of the course is having it made


class Planned(Frozen):
    """The plan for a video. ``code`` says why there is to be none, ``digest`` is what it was made from."""

    way: Way
    code: str | None = None
    digest: str = ""
    deadline: timedelta = timedelta(0)
    policy: RenderPolicy = RenderPolicy()


class Said(StrEnum):
    """How one try to order a render came back."""

    ORDERED = "ordered"
    NOT_NOW = "not_now"  # nothing was ordered by this try, and none before is in doubt
    DOUBT = "doubt"  # it may have been ordered; trying again with the same key is safe
    NO_MORE = "no_more"  # in doubt, and too old to be tried again
    REFUSED = "refused"


class Submitted(Frozen):
    """One try. ``wait`` is how long the other side wants to be left alone."""

    said: Said
    wait: timedelta = timedelta(0)
    code: str | None = None


class Kept(StrEnum):
    """What came of copying the bytes."""

    DONE = "done"
    AGAIN = "again"
    UNUSABLE = "unusable"


class Heard(StrEnum):
    """What a wait was ended by."""

    NOTHING = "nothing"
    PROVIDER = "provider"  # a webhook: somebody says that there is news
    LEAVE = "leave"  # nobody waits for the video any more; what was ordered stays on record
    KEEP_WAITING = "keep_waiting"  # a person gives a stuck render more time
    GIVE_UP = "give_up"
    ORDER_AGAIN = "order_again"


class Close(StrEnum):
    """Ends and turns that are written down."""

    STUCK = "stuck"
    WAITING = "waiting"
    FAILED = "failed"
    ABANDONED = "abandoned"
    REPLACED = "replaced"


class RenderEnd(StrEnum):
    """How the course of a video ended."""

    MADE = "made"
    SKIPPED = "skipped"
    LEFT = "left"


class Stand(Frozen):
    """How far the course of a render has come: enough for somebody else to carry it on from here.

    ``since`` is when the present patience began, ``pause`` how long the last wait for the video was.
    """

    planned: Planned
    ordered: bool = False
    stuck: bool = False
    since: datetime | None = None
    tries: int = 0
    pause: timedelta = timedelta(0)


class RenderWorld(Protocol):
    """Everything the course of a render does to the world."""

    async def plan(self) -> Planned:
        """Find out what is to be done, and write down what it will cost before anything is sent."""
        ...

    async def make(self) -> RenderEnd:
        """Have a program of ours make the video."""
        ...

    async def take_place(self) -> bool:
        """Whether one of the provider's places is ours now; taking it again renews it."""
        ...

    async def submit(self) -> Submitted | None:
        """One try to order the render; None where nobody knows what became of it."""
        ...

    async def look(self) -> RenderStatus | None:
        """Fetch the truth; None where it could not be seen."""
        ...

    async def keep(self) -> Kept:
        """Copy the bytes into our store, and settle the price."""
        ...

    async def close(self, how: Close, code: str | None = None) -> None:
        """Write down an end, or that a person has to decide."""
        ...

    async def hear(self, length: timedelta, stand: Stand) -> Heard:
        """Let time pass, durably, until it is over or something is heard.

        Whoever has to make room for a successor may do so at the end, where nothing but time or the provider was heard;
        the successor goes on with ``stand``.
        """
        ...

    def now(self) -> datetime:
        """The time."""
        ...


async def carry_render(world: RenderWorld, stand: Stand | None = None) -> RenderEnd:
    """Carry the video of a lesson to its end: order once, wait for webhook or timer, fetch the truth, keep the bytes.

    Nothing is ever ordered anew by itself: a render that takes too long waits for a person. What another job is having
    made is waited for, and planned again. With a ``stand`` it is carried on from there.
    """
    while True:
        if stand is None or stand.planned.way is Way.WAIT:
            stand = Stand(planned=await world.plan())
        planned = stand.planned
        if planned.way is Way.WAIT:
            if await world.hear(planned.policy.poll_longest, stand) is Heard.LEAVE:
                return RenderEnd.LEFT
            continue
        if planned.way is Way.MAKE:
            return await world.make()
        if planned.way is not Way.RENDER:
            return RenderEnd.MADE if planned.way is Way.KEPT else RenderEnd.SKIPPED
        end = await _Course(world, stand).run()
        if end is not None:
            return end
        stand = None


class _Course:
    """One order, from its place in the line to its end. None as an end: a person wants it ordered anew."""

    def __init__(self, world: RenderWorld, stand: Stand) -> None:
        self._world = world
        self._planned = stand.planned
        self._policy = stand.planned.policy
        self._ordered, self._stuck = stand.ordered, stand.stuck
        self._since, self._tries, self._pause = stand.since, stand.tries, stand.pause

    async def run(self) -> RenderEnd | None:
        return await (self._wait_for_video() if self._ordered else self._order())

    async def _order(self) -> RenderEnd | None:
        while True:
            if not self._stuck and not await self._wait_for_place():
                return RenderEnd.LEFT
            self._since = self._since or self._world.now()
            tried = await self._world.submit() or Submitted(said=Said.DOUBT)
            if tried.said is Said.ORDERED:
                self._begin_to_wait()
                return await self._wait_for_video(just_ordered=True)
            over = tried.said is Said.NO_MORE or self._waited() > self._policy.patience
            if tried.said is Said.REFUSED or (over and tried.said is Said.NOT_NOW):
                await self._world.close(Close.FAILED, tried.code)
                return RenderEnd.SKIPPED
            if over:
                self._stuck = True
                await self._world.close(Close.STUCK, tried.code)
            self._tries += 1
            heard = await self._hear(self._policy.poll_stuck if self._stuck else tried.wait or self._back_off())
            if heard is Heard.LEAVE:
                return RenderEnd.LEFT
            if self._stuck and heard in _DECISIONS:
                if heard is not Heard.KEEP_WAITING:
                    return await self._decided(heard)
                self._stuck, self._since = False, self._world.now()
                await self._world.close(Close.WAITING)

    async def _wait_for_place(self) -> bool:
        while not await self._world.take_place():
            if await self._hear(self._policy.ask_for_place) is Heard.LEAVE:
                return False
        return True

    def _back_off(self) -> timedelta:
        return min(timedelta(seconds=0.5 * 2 ** min(self._tries, 10)), self._policy.back_off_longest)

    def _begin_to_wait(self) -> None:
        self._ordered, self._stuck = True, False
        self._since, self._pause = self._world.now(), self._policy.poll_first

    async def _wait_for_video(self, *, just_ordered: bool = False) -> RenderEnd | None:
        """The first of webhook and timer wakes; what it wakes to is always fetched."""
        heard = await self._hear(self._pause) if just_ordered else Heard.NOTHING
        while heard is not Heard.LEAVE:
            if self._stuck and heard in {Heard.GIVE_UP, Heard.ORDER_AGAIN}:
                return await self._decided(heard)
            if self._stuck and heard is Heard.KEEP_WAITING:
                self._begin_to_wait()
                await self._world.close(Close.WAITING)
            status = await self._world.look()
            if status is RenderStatus.FAILED:
                await self._world.close(Close.FAILED, "E.HEYGEN.RENDER_FAILED")
                return RenderEnd.SKIPPED
            if status is RenderStatus.COMPLETED:
                kept = await self._world.keep()
                if kept is Kept.DONE:
                    return RenderEnd.MADE
                if kept is Kept.UNUSABLE:
                    await self._world.close(Close.FAILED, "E.HEYGEN.UNUSABLE")
                    return RenderEnd.SKIPPED
            self._pause = min(self._pause * 1.5, self._policy.poll_longest)
            if not self._stuck and self._waited() > self._planned.deadline:
                self._stuck = True
                await self._world.close(Close.STUCK, "E.HEYGEN.STUCK")
            heard = await self._hear(self._policy.poll_stuck if self._stuck else self._pause)
        return RenderEnd.LEFT

    def _waited(self) -> timedelta:
        assert self._since is not None, "whoever waits has begun to"
        return self._world.now() - self._since

    async def _hear(self, length: timedelta) -> Heard:
        stand = Stand(
            planned=self._planned, ordered=self._ordered, stuck=self._stuck, since=self._since, tries=self._tries,
            pause=self._pause,
        )  # fmt: skip
        return await self._world.hear(length, stand)

    async def _decided(self, heard: Heard) -> RenderEnd | None:
        if heard is Heard.ORDER_AGAIN:
            await self._world.close(Close.REPLACED)
            return None
        await self._world.close(Close.ABANDONED, "E.VIDEO.GIVEN_UP")
        return RenderEnd.SKIPPED


_DECISIONS: Final = frozenset({Heard.KEEP_WAITING, Heard.GIVE_UP, Heard.ORDER_AGAIN})
