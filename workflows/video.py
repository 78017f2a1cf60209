"""The video of one lesson: ordered once, waited for by webhook and timer, brought home; a child of its module."""

from datetime import datetime, timedelta
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.media.video import CloseRenderInput, FilmLessonInput, VideoActivities
    from domain.model import Frozen
    from domain.video import (
        Close,
        Heard,
        Kept,
        Planned,
        RenderEnd,
        RenderStatus,
        Stand,
        Submitted,
        carry_render,
    )
    from workflows.options import COMPUTE, LOOK, RECORD

VIDEO_WORKFLOW: Final = "RenderVideo"


class RenderResult(Frozen):
    """How the filming of a lesson ended; what was made is on record, under the digest of its plan."""

    end: RenderEnd
    digest: str = ""


class FilmCarriedOn(Frozen):
    """A film whose course has come as far as ``stand`` in an earlier history."""

    film: FilmLessonInput
    stand: Stand


@workflow.defn(name=VIDEO_WORKFLOW)
class RenderVideoWorkflow:
    """The course of a render (``domain.video``) with durable timers, signals and activities behind it."""

    # One argument: Temporal decodes arguments by their types only where there are as many as types.
    @workflow.init
    def __init__(self, start: FilmLessonInput | FilmCarriedOn) -> None:
        self._film = start.film if isinstance(start, FilmCarriedOn) else start
        self._stand = start.stand if isinstance(start, FilmCarriedOn) else None
        self._spoken = False
        self._leaving = False
        self._decision: Heard | None = None
        self._asked = self._stand is not None and self._stand.stuck

    @workflow.run
    async def run(self, _start: FilmLessonInput | FilmCarriedOn) -> RenderResult:
        """Carry the video to its end, from where an earlier run of this workflow has come to, if there was one."""
        return RenderResult(end=await carry_render(self, self._stand), digest=self._film.digest)

    @workflow.signal(name="provider_spoke")
    def on_provider_spoke(self) -> None:
        """A webhook about this render, be it early, twice, or made up: it only wakes."""
        self._spoken = True

    @workflow.signal(name="leave")
    def on_leave(self) -> None:
        """The course does not wait for its videos any more; what was ordered stays on record for the next attempt."""
        self._leaving = True

    @workflow.signal(name="decide")
    def on_decide(self, decision: str) -> None:
        """A person decides about a render that is stuck."""
        if decision in _DECISIONS:
            self._decision = _DECISIONS[decision]

    # --- the world of the course --------------------------------------------------------------------

    async def plan(self) -> Planned:
        """What is to be done."""
        workflow.set_current_details("Planning the video")
        planned = await workflow.execute_activity_method(
            VideoActivities.plan_video, self._film.model_copy(update={"digest": ""}), summary="plan", **COMPUTE
        )
        self._film = self._film.model_copy(update={"digest": planned.digest})
        return planned

    async def make(self) -> RenderEnd:
        """By a program of ours."""
        workflow.set_current_details("Filming the slides")
        made = await workflow.execute_activity_method(
            VideoActivities.make_video, self._film, summary="film the slides", **COMPUTE
        )
        return RenderEnd.MADE if made else RenderEnd.SKIPPED

    async def take_place(self) -> bool:
        """A place at the provider, or one in the line for it."""
        workflow.set_current_details("Waiting for a place at the provider")
        return await workflow.execute_local_activity_method(VideoActivities.take_render_place, self._film, **RECORD)

    async def submit(self) -> Submitted | None:
        """One try; a worker that dies meanwhile leaves its fate open."""
        workflow.set_current_details("Ordering the video")
        try:
            return await workflow.execute_activity_method(
                VideoActivities.submit_render, self._film, summary="order", **LOOK
            )
        except ActivityError as error:
            raise_if_ours(error)
            return None

    async def look(self) -> RenderStatus | None:
        """The truth."""
        try:
            return await workflow.execute_activity_method(
                VideoActivities.look_at_render, self._film, summary="look", **LOOK
            )
        except ActivityError as error:
            raise_if_ours(error)
            return None

    async def keep(self) -> Kept:
        """The bytes."""
        workflow.set_current_details("Bringing the video home")
        try:
            return await workflow.execute_activity_method(
                VideoActivities.keep_video, self._film, summary="keep", **COMPUTE
            )
        except ActivityError as error:
            raise_if_ours(error)
            return Kept.AGAIN

    async def close(self, how: Close, code: str | None = None) -> None:
        """An end, or a question to a person."""
        if how is Close.STUCK and not self._asked:
            # Before the ledger says that a person is asked: from then on a decision is about this render as it is.
            self._decision = None
        self._asked = how is Close.STUCK
        closing = CloseRenderInput(film=self._film, how=how, code=code)
        await workflow.execute_local_activity_method(VideoActivities.close_render, closing, **RECORD)
        if how is Close.STUCK:
            workflow.set_current_details("**Late.** A person decides about the render through the API.")

    async def hear(self, length: timedelta, stand: Stand) -> Heard:
        """The first of a signal and the timer; before the history becomes too long it goes on in a new one."""
        heard = await self._first_of_signal_and_timer(length)
        unheard = self._leaving or self._decision is not None
        if heard in _UNDECIDED and not unheard and workflow.info().is_continue_as_new_suggested():
            workflow.continue_as_new(FilmCarriedOn(film=self._film, stand=stand))
        return heard

    async def _first_of_signal_and_timer(self, length: timedelta) -> Heard:
        try:
            await workflow.wait_condition(
                lambda: self._spoken or self._leaving or self._decision is not None, timeout=length
            )
        except TimeoutError:
            return Heard.NOTHING
        if self._leaving:
            return Heard.LEAVE
        if self._decision is not None:
            decision, self._decision = self._decision, None
            return decision
        self._spoken = False
        return Heard.PROVIDER

    def now(self) -> datetime:
        """The workflow's time."""
        return workflow.now()


def raise_if_ours(error: ActivityError) -> None:
    """A cancellation ends the course, and so does a failure that says that the job has moved on or we are broken."""
    if is_cancelled_exception(error) or (isinstance(error.cause, ApplicationError) and error.cause.non_retryable):
        raise error


_UNDECIDED: Final = frozenset({Heard.NOTHING, Heard.PROVIDER})
_DECISIONS: Final = {
    "wait": Heard.KEEP_WAITING,
    "give_up": Heard.GIVE_UP,
    "order_again": Heard.ORDER_AGAIN,
}
