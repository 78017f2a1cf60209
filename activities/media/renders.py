"""Renders that are paid for: planned and priced, ordered once, looked at, brought home. Without Temporal around it.

Whatever is done here may be done again after a crash at any point: the ledger row stands before the wire is touched,
with the very body that goes over it, and the same body under the same key is one render at the provider.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import structlog
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.generation.costs import CostWatch
from activities.media.films import Film
from activities.media.finished_videos import Body, FinishedVideos, Incoming
from activities.steps import StepKeeper, input_hash
from core.database import Database
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.errors import BodyTooLarge, BudgetExceeded, LonghaulError, Outcome, ProviderError, StoreUnavailable
from domain.jobs import JobRef, WaitingKind, WaitingOn
from domain.video import (
    OVER,
    Close,
    FilmWish,
    Kept,
    MadeVideo,
    Planned,
    RenderOrder,
    RenderPolicy,
    RenderSight,
    RenderState,
    RenderStatus,
    Said,
    Submitted,
    VideoPrice,
    VideoRenderer,
    Way,
    deadline_after,
    most_seconds,
    render_deadline,
    spoken_seconds,
)
from repositories.generation import NewCall
from repositories.jobs import JobRepository
from repositories.leases import Lease, LeaseDesk
from repositories.renders import RenderRepository
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository
from repositories.waits import shown_wait, standing_wait

_log = structlog.get_logger(__name__)

MAX_VIDEO_BYTES: Final = 1_073_741_824
_LEASE: Final = timedelta(minutes=10)
"""Longer than any pause between two looks, shorter than what a dead worker may keep others waiting."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A try that stands in the ledger. ``doubted``: an earlier one may have been carried out."""

    row: AnyRow
    doubted: bool
    may_send: bool


class RenderDesk:
    """Built once for a worker. ``wire`` is how long one call may take, ``stale`` how long a worker may stand still."""

    def __init__(
        self,
        database: Database,
        keeper: StepKeeper,
        store: ArtifactStore,
        metrics: WorkerMetrics,
        renderers: Iterable[VideoRenderer],
        *,
        policy: RenderPolicy | None = None,
        max_bytes: int = MAX_VIDEO_BYTES,
        wire: timedelta = timedelta(seconds=40),
        stale: timedelta = timedelta(seconds=30),
        watch: CostWatch | None = None,
    ) -> None:
        self._watch = watch
        self._database = database
        self._keeper = keeper
        self._store = store
        self._finished = FinishedVideos(keeper, store)
        self._metrics = metrics
        self._renderers = {renderer.name: renderer for renderer in renderers}
        self._leases = LeaseDesk(database)
        self._max_bytes = max_bytes
        self._wire = wire
        self._stale = stale
        self.policy = policy or RenderPolicy()

    def renderer(self, name: str) -> VideoRenderer | None:
        """The renderer of that name, where this worker has credentials for it."""
        return self._renderers.get(name)

    # --- planned ------------------------------------------------------------------------------------

    async def plan(self, film: Film, wish: FilmWish, *, workflow_id: str, for_itself: bool = False) -> Planned:
        """Write down what is to be ordered and what it may cost, or take up what was ordered before.

        What the job has already, of its own or taken over, is not ordered; nor is what another job of the course has
        made, is having made, or has left unfetched. ``for_itself``: a person asks for this very video, and gets
        another one where there was one. Raises PriceUnknown before anything is written.
        """
        planned = Planned(way=Way.RENDER, digest=film.digest, deadline=render_deadline(wish.script), policy=self.policy)
        async with self._keeper.effect(film.job) as connection:
            renders = RenderRepository(connection)
            await renders.lock_part(film.course_id, film.key)
            row = await renders.get_latest(film.job, film.key, film.digest, lock=True)
            if row is None or _is_to_be_ordered_anew(row, film.job):
                if await StepResultRepository(connection).get_or_none(film.job, film.key, film.digest) is not None:
                    return Planned(way=Way.KEPT, digest=film.digest)
                generation = 1 if row is None else row.generation + 1
                # A person who wants another one is not given what there is.
                another = for_itself and await renders.stood_before(film.job, film.course_id, film.key)
                if not another and (row is None or row.state != RenderState.REPLACED):
                    spared = await self._spare(
                        connection, film, planned, generation=generation, workflow_id=workflow_id
                    )
                    if spared is not None:
                        return spared
                await self._enter(connection, film, wish, generation=generation, workflow_id=workflow_id)
                return planned
            if RenderState(row.state) not in OVER or _is_to_be_looked_at_again(row, film.job):
                await renders.change(row.id, attempt=film.job.attempt, workflow_id=workflow_id, **_taken_up(row))
                return planned
        # A worker that died right after the end has left its place taken.
        await self._leases.release(self._lease(film, row))
        way = Way.KEPT if row.state == RenderState.DONE else Way.SKIPPED
        return Planned(way=way, digest=film.digest, code=row.error_code)

    async def _spare(
        self, connection: AsyncConnection, film: Film, planned: Planned, *, generation: int, workflow_id: str
    ) -> Planned | None:
        """The plan where other jobs of the course have made an order needless; None where they have not."""
        if await self._finished.take_over(connection, film):
            return planned.model_copy(update={"way": Way.KEPT})
        renders = RenderRepository(connection)
        others = await renders.get_of_others(film.job, film.course_id, film.key, film.digest)
        if any(other.is_at_work and _is_going_on(other) for other in others):
            return planned.model_copy(update={"way": Way.WAIT})
        left = next((other for other in others if _is_left(other)), None)
        if left is None:
            return None
        await renders.hand_over(
            left, film.job, op=_op(film, generation), generation=generation, attempt=film.job.attempt,
            workflow_id=workflow_id, **_taken_up(left),
        )  # fmt: skip
        await JobRepository(connection).record(
            job_id=film.job.job_id, attempt=film.job.attempt, event="video.taken_over",
            data={"lesson": film.place, "render_id": str(left.id), "from_job_id": str(left.job_id)},
        )  # fmt: skip
        return planned

    async def _enter(
        self, connection: AsyncConnection, film: Film, wish: FilmWish, *, generation: int, workflow_id: str
    ) -> None:
        """Write down the order to the letter, and say what it costs."""
        renderer, render_id = self._renderers[film.provider], new_id()
        price, seconds = renderer.price(wish.engine), spoken_seconds(wish.script)
        order = renderer.order(wish, render_id=render_id, tenant_id=film.job.tenant_id, lesson=film.place)
        reserved = price.of(most_seconds(wish.script))
        await RenderRepository(connection).add({
            "id": render_id, "tenant_id": film.job.tenant_id, "job_id": film.job.job_id, "attempt": film.job.attempt,
            "part": film.key, "digest": film.digest, "generation": generation,
            "op": _op(film, generation),
            "provider": renderer.name, "engine": wish.engine, "workflow_id": workflow_id, "key": order.key,
            "title": order.title, "body": order.body, "script_seconds": seconds, "reserved_usd": reserved,
            "usd_per_minute": price.usd_per_minute,
        })  # fmt: skip
        await JobRepository(connection).record(
            job_id=film.job.job_id, attempt=film.job.attempt, event="video.priced",
            data={
                "lesson": film.place, "render_id": str(render_id), "provider": renderer.name, "engine": wish.engine,
                "usd_per_minute": f"{price.usd_per_minute:f}", "expected_usd": f"{price.of(seconds):f}",
                "most_usd": f"{reserved:f}", "characters": len(wish.script), "shortened": film.shortened,
            },
        )  # fmt: skip

    async def take_up(self, film: Film, *, workflow_id: str) -> Planned | None:
        """The plan for what was ordered before, where nothing new can be ordered here; None where nothing was."""
        async with self._keeper.effect(film.job) as connection:
            renders = RenderRepository(connection)
            row = await renders.get_open_or_none(film.job, film.key, film.provider)
            if row is None:
                return None
            await renders.change(row.id, attempt=film.job.attempt, workflow_id=workflow_id, **_taken_up(row))
        deadline = deadline_after(row.script_seconds)
        return Planned(way=Way.RENDER, digest=row.digest, deadline=deadline, policy=self.policy)

    # --- the line -----------------------------------------------------------------------------------

    async def take_place(self, film: Film) -> bool:
        """Whether one of the provider's places is ours now; asking again keeps it, or our place in the line."""
        row = await self._row(film)
        if self.renderer(row.provider) is None:
            return True  # nothing can be sent, which trying to order it says
        return await self._leases.take(self._lease(film, row), ask_again=self.policy.ask_for_place)

    def _lease(self, film: Film, row: AnyRow) -> Lease:
        renderer = self.renderer(row.provider)
        places = 0 if renderer is None else renderer.at_once
        return Lease(film.job, row.provider, str(row.id), places, _LEASE)

    def _price(self, row: AnyRow) -> VideoPrice:
        """What was agreed when it was ordered, whatever the settings say meanwhile."""
        if row.usd_per_minute is not None:
            return VideoPrice(usd_per_minute=row.usd_per_minute)
        return self._renderers[row.provider].price(row.engine)  # ordered before that was written down

    # --- ordered ------------------------------------------------------------------------------------

    async def submit(self, film: Film) -> Submitted:
        """One try to order the render. Tried again after any crash it is the same render, and paid for once."""
        try:
            opened = await self._open(film)
        except BudgetExceeded as over:
            return Submitted(said=Said.REFUSED, code=over.code)
        if isinstance(opened, Submitted):
            return opened
        renderer = self._renderers[opened.row.provider]
        at = time.monotonic()
        try:
            async with asyncio.timeout(self._wire.total_seconds()):
                video_id = await self._touch_wire(renderer, opened, at)
        except TimeoutError:
            fault = _doubt("no answer in time", "E.HEYGEN.TIMEOUT")
            return await self._close_submit(opened, fault)
        except ProviderError as fault:
            return await self._close_submit(opened, fault)
        await self._ordered(film, opened.row, video_id)
        self._metrics.count_model_call(provider=renderer.name, model=opened.row.engine, outcome=Outcome.DONE.value)
        return Submitted(said=Said.ORDERED)

    async def _open(self, film: Film) -> _Opened | Submitted:
        """Everything that speaks against sending; then row and reservation, committed. Raises BudgetExceeded."""
        async with self._keeper.effect(film.job) as connection:
            renders = RenderRepository(connection)
            row = await renders.get_latest(film.job, film.key, film.digest, lock=True)
            assert row is not None
            if row.state == RenderState.DONE:
                return Submitted(said=Said.ORDERED)
            if RenderState(row.state) in OVER:
                return Submitted(said=Said.REFUSED, code=row.error_code)
            if row.video_id is not None:
                return Submitted(said=Said.ORDERED)
            if self.renderer(row.provider) is None:
                # What was sent before is in doubt until somebody can ask again.
                said = Said.DOUBT if row.sends else Said.NOT_NOW
                return Submitted(said=said, wait=self.policy.back_off_longest, code=not_configured(row.provider))
            doubted = row.state in {RenderState.SUBMITTING, RenderState.UNKNOWN, RenderState.STUCK}
            first = row.first_sent_at if doubted and row.first_sent_at is not None else datetime.now(UTC)
            may_send = datetime.now(UTC) - first < self.policy.replay_within
            call = NewCall(
                op=row.op, step=film.key, provider=row.provider, model=row.engine, reserved_usd=row.reserved_usd
            )
            over = await renders.reserve(film.job, row, call)
            if over is not None:
                # Leaving by exception takes the reservation back: nothing is sent.
                raise BudgetExceeded(f"the video may cost {row.reserved_usd:f} USD, {over:f} USD over the budget")
            if may_send:
                await renders.change(
                    row.id, state=RenderState.SUBMITTING, sends=row.sends + 1, first_sent_at=first,
                    doubts=row.doubts + (row.state == RenderState.SUBMITTING),
                )  # fmt: skip
        return _Opened(row, doubted, may_send)

    async def _touch_wire(self, renderer: VideoRenderer, opened: _Opened, at: float) -> str:
        row = opened.row
        if opened.doubted or row.sends:
            # Also after a plain "not now": what the other side says it did not do is cheap to look for.
            found = await renderer.find(row.title)
            if found is not None:
                _log.info("render.found_again", render_id=str(row.id))
                return found
        if not opened.may_send:
            raise _doubt("too old to be sent again", _NO_MORE)
        if time.monotonic() - at > self._stale.total_seconds():
            # This process stood still; the key would still protect us, but somebody else may be at it by now.
            raise _doubt("the worker stood still", "E.HEYGEN.TIMEOUT")
        return await renderer.submit(RenderOrder(key=row.key, title=row.title, body=row.body))

    async def _close_submit(self, opened: _Opened, fault: ProviderError) -> Submitted:
        """Write down what came of a try that brought no render."""
        row, outcome = opened.row, fault.outcome
        self._metrics.count_model_call(provider=row.provider, model=row.engine, outcome=outcome.value)
        # What speaks of this try says nothing about an earlier one.
        doubt = opened.doubted or outcome is Outcome.UNKNOWN
        async with self._database.tenant(row.tenant_id) as connection:
            renders = RenderRepository(connection)
            now = await renders.get_one(row.id, lock=True)
            if now.video_id is not None:
                return Submitted(said=Said.ORDERED)
            if RenderState(now.state) not in OVER:
                state = RenderState.UNKNOWN if doubt else RenderState.PLANNED
                if row.state == RenderState.STUCK:
                    state = RenderState.STUCK  # a person is asked already
                doubts = now.doubts + (outcome is Outcome.UNKNOWN)
                await renders.change(row.id, state=state, doubts=doubts, error_code=_code(fault))
                await renders.settle(row, outcome=Outcome.UNKNOWN if doubt else outcome)
        _log.warning("render.not_ordered", render_id=str(row.id), code=fault.code, outcome=outcome.value)
        wait = fault.retry_after or timedelta(0)
        if fault.code == _NO_MORE:
            return Submitted(said=Said.NO_MORE, code="E.HEYGEN.IN_DOUBT")
        if doubt:
            return Submitted(said=Said.DOUBT, wait=wait, code=fault.code)
        said = Said.NOT_NOW if fault.may_retry else Said.REFUSED
        return Submitted(said=said, wait=wait, code=fault.code)

    async def _ordered(self, film: Film, row: AnyRow, video_id: str) -> None:
        async with self._database.tenant(row.tenant_id) as connection:
            renders = RenderRepository(connection)
            now = await renders.get_one(row.id, lock=True)
            if now.video_id is not None or RenderState(now.state) in OVER:
                return
            await renders.change(
                row.id, state=RenderState.RENDERING, video_id=video_id, submitted_at=func.now(), error_code=None
            )
            await JobRepository(connection).record(
                job_id=row.job_id, attempt=film.job.attempt, event="video.ordered",
                data={"lesson": film.place, "render_id": str(row.id), "doubts": now.doubts},
                values={"waiting_on": shown_wait(_rendering(film))},
            )  # fmt: skip

    # --- looked at ----------------------------------------------------------------------------------

    async def look(self, film: Film) -> RenderStatus | None:
        """The truth, fetched; None where it cannot be seen now. Keeps the place at the provider."""
        row = await self._row(film)
        sight = await self._sight(row)
        if RenderState(row.state) is RenderState.RENDERING and self.renderer(row.provider) is not None:
            await self._leases.take(self._lease(film, row), ask_again=self.policy.ask_for_place)
        return None if sight is None else sight.status

    async def _sight(self, row: AnyRow) -> RenderSight | None:
        renderer = self.renderer(row.provider)
        if row.video_id is None or renderer is None:
            return None
        try:
            async with asyncio.timeout(self._wire.total_seconds()):
                sight = await renderer.look(row.video_id)
        except (ProviderError, TimeoutError) as fault:
            _log.info("render.not_seen", render_id=str(row.id), code=getattr(fault, "code", "E.HEYGEN.TIMEOUT"))
            return None
        async with self._database.tenant(row.tenant_id) as connection:
            await RenderRepository(connection).count_look(row.id, seconds=sight.seconds)
        return sight

    # --- brought home -------------------------------------------------------------------------------

    async def keep(self, film: Film) -> Kept:
        """Copy the bytes into our store, and settle. The address is fetched right before, because it expires."""
        row = await self._row(film)
        if row.state == RenderState.DONE:
            await self._leases.release(self._lease(film, row))
            return Kept.DONE
        sight = await self._sight(row)
        if sight is None or sight.status is not RenderStatus.COMPLETED or sight.url is None:
            return Kept.AGAIN
        renderer = self._renderers[row.provider]
        incoming = Incoming(self._fetch(renderer, sight.url), most=self._max_bytes)
        try:
            sha256, size = await self._store.put_stream(
                film.job.tenant_id, incoming.chunks(), max_bytes=self._max_bytes
            )
        except (ProviderError, BodyTooLarge, StoreUnavailable) as fault:
            # The store passes on its own words only, so what went wrong on the way in is asked of the way in.
            cause = incoming.fault or fault
            _log.warning("render.not_fetched", render_id=str(row.id), code=cause.code)
            return Kept.UNUSABLE if _is_hopeless(cause) else Kept.AGAIN
        seconds = sight.seconds if sight.seconds is not None else row.script_seconds
        cost = self._price(row).of(seconds)
        body = Body(sha256=sha256, bytes=size, media_type="video/mp4", seconds=seconds, cost_usd=cost)
        await self.finish(film, body, row=row)
        self._metrics.count_usage(
            provider=row.provider,
            model=row.engine,
            input_tokens=0,
            output_tokens=0,
            usd=float(cost),
            kind=film.job.kind,
        )
        if cost and self._watch is not None:
            await self._watch.look(film.job)
        await self._leases.release(self._lease(film, row))
        return Kept.DONE

    def _fetch(self, renderer: VideoRenderer, url: str) -> AsyncIterator[bytes]:
        return renderer.fetch(url)

    async def finish(self, film: Film, body: Body, *, row: AnyRow | None = None) -> None:
        """As ``FinishedVideos.finish``."""
        await self._finished.finish(film, body, row=row)

    async def keep_made(self, film: Film, made: MadeVideo) -> None:
        """Bring home what a program of ours has made; it costs nothing."""
        sha256 = await self._store.put_file(film.job.tenant_id, made.file)
        size = (await asyncio.to_thread(made.file.stat)).st_size
        body = Body(sha256=sha256, bytes=size, media_type=made.media_type, seconds=made.seconds, cost_usd=Decimal(0))
        await self.finish(film, body)

    # --- ends and turns -----------------------------------------------------------------------------

    async def close(self, film: Film, how: Close, code: str | None) -> None:
        """Write down an end, or that a person has to decide, or that there is more time now."""
        async with self._keeper.effect(film.job) as connection:
            renders = RenderRepository(connection)
            row = await renders.get_latest(film.job, film.key, film.digest, lock=True)
            assert row is not None
            if RenderState(row.state) in OVER:
                return
            if how is Close.WAITING:
                state = RenderState.UNKNOWN if row.video_id is None else RenderState.RENDERING
                await renders.change(row.id, state=state, error_code=None)
                await self._say(connection, film, row, "video.waiting", {}, waiting_on=standing_wait)
                return
            if how is Close.STUCK:
                if row.state == RenderState.STUCK:
                    return
                await renders.change(row.id, state=RenderState.STUCK, error_code=code, asked_at=func.now())
                await self._say(connection, film, row, "video.stuck", {"code": code}, waiting_on=standing_wait)
                return
            await self._end(connection, film, row, how, code)
        await self._leases.release(self._lease(film, row))

    async def _end(self, connection: AsyncConnection, film: Film, row: AnyRow, how: Close, code: str | None) -> None:
        renders = RenderRepository(connection)
        outcome, cost = Outcome.UNKNOWN, None
        if how is Close.FAILED:
            # A failed render is refunded, and a refused order was never charged. Bytes that cannot be used were.
            paid = code == _UNUSABLE
            outcome = Outcome.DONE if paid else Outcome.REJECTED
            if paid:
                seconds = row.seconds if row.seconds is not None else row.script_seconds
                cost = self._price(row).of(seconds)
        elif row.sends == 0:
            outcome = Outcome.NOT_SENT
        await renders.change(
            row.id, state=RenderState(how.value), error_code=code, cost_usd=cost, settled_at=func.now()
        )
        await renders.settle(row, outcome=outcome, cost_usd=cost)
        if how is Close.REPLACED:
            await self._say(connection, film, row, "video.replaced", {}, waiting_on=standing_wait)
            return
        await self.skip_in(connection, film, code)

    async def skip(self, film: Film, code: str | None, detail: str = "") -> None:
        """The lesson stays without a video; the job goes on and says why."""
        async with self._keeper.effect(film.job) as connection:
            await self.skip_in(connection, film, code, detail)

    async def skip_in(self, connection: AsyncConnection, film: Film, code: str | None, detail: str = "") -> None:
        """The same, in a transaction that is open. Remembered apart from videos: a later attempt may have more luck."""
        data = {"lesson": film.place, "code": code, **({"detail": detail} if detail else {})}
        await self._keeper.finish_part(
            connection, film.job, step=film.step, part=f"{film.key}/skipped",
            digest=f"{film.digest}/{film.job.attempt}", result={"skipped": code}, event="lesson.not_filmed", data=data,
        )  # fmt: skip

    async def _say(
        self, connection: AsyncConnection, film: Film, row: AnyRow, event: str, data: dict[str, Any], **values: Any
    ) -> None:
        await JobRepository(connection).record(
            job_id=film.job.job_id, attempt=film.job.attempt, event=event,
            data={"lesson": film.place, "render_id": str(row.id), **data}, values=values,
        )  # fmt: skip

    async def _row(self, film: Film) -> AnyRow:
        async with self._database.tenant(film.job.tenant_id) as connection:
            row = await RenderRepository(connection).get_latest(film.job, film.key, film.digest)
        assert row is not None
        return row


def _is_hopeless(fault: LonghaulError) -> bool:
    return isinstance(fault, BodyTooLarge) or (isinstance(fault, ProviderError) and not fault.may_retry)


def not_configured(provider: str) -> str:
    """The code that says that this worker has no credentials for a renderer."""
    return f"E.{provider.upper()}.NOT_CONFIGURED"


_NO_MORE: Final = "no more"
_UNUSABLE: Final = "E.HEYGEN.UNUSABLE"


def _doubt(detail: str, code: str) -> ProviderError:
    return ProviderError(detail, code=code, outcome=Outcome.UNKNOWN, retryable=True)


def _code(fault: ProviderError) -> str:
    return "E.HEYGEN.IN_DOUBT" if fault.code == _NO_MORE else fault.code


def _op(film: Film, generation: int) -> str:
    return input_hash("render", str(film.job.job_id), film.key, film.digest, generation)


def _is_going_on(row: AnyRow) -> bool:
    """Something still comes of it where its job is at work: one that is replaced is about to be ordered anew."""
    state = RenderState(row.state)
    return state not in OVER or state is RenderState.REPLACED


def _is_left(row: AnyRow) -> bool:
    """It may be made and paid for, and nobody waits for it any more."""
    return bool(row.sends) and (RenderState(row.state) not in OVER or _may_be_paid(row))


def _is_to_be_ordered_anew(row: AnyRow, job: JobRef) -> bool:
    """A person wants it, or the job is tried again after an order that cost nothing."""
    return row.state == RenderState.REPLACED or (_has_ended_before(row, job) and not _may_be_paid(row))


def _is_to_be_looked_at_again(row: AnyRow, job: JobRef) -> bool:
    """The job is tried again after an order that came to nothing here, but may be made and paid for over there."""
    return _has_ended_before(row, job) and _may_be_paid(row)


def _has_ended_before(row: AnyRow, job: JobRef) -> bool:
    return row.state in {RenderState.FAILED, RenderState.ABANDONED} and row.attempt < job.attempt


def _may_be_paid(row: AnyRow) -> bool:
    if row.state == RenderState.ABANDONED:
        return bool(row.sends > 0)
    return bool(row.error_code == _UNUSABLE)


def _rendering(film: Film) -> WaitingOn:
    detail = f"the video of lesson {film.place} is rendered"
    return WaitingOn(kind=WaitingKind.WEBHOOK, detail=detail, since=datetime.now(UTC))


def _taken_up(row: AnyRow) -> dict[str, Any]:
    """What becomes of a render when another course begins with it: nobody has given it up, or is asked about it."""
    state = RenderState(row.state)
    if state in OVER or state is RenderState.STUCK:
        state = RenderState.UNKNOWN if row.video_id is None else RenderState.RENDERING
        return {"state": state, "error_code": None, "settled_at": None}
    return {}
