"""How long, how much, and the course of a render against a world of made-up answers."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.video import (
    Close,
    Heard,
    Kept,
    Planned,
    RenderEnd,
    RenderStatus,
    Said,
    Stand,
    Submitted,
    VideoPrice,
    Way,
    carry_render,
    most_seconds,
    render_deadline,
    spoken_seconds,
)


class TestArithmetic:
    def test_the_deadline_follows_the_length_of_the_script(self) -> None:
        script = "x" * 1_400
        assert spoken_seconds(script) == pytest.approx(100)
        assert render_deadline(script) == timedelta(seconds=1_000) + timedelta(minutes=30)
        assert most_seconds(script) == pytest.approx(210)

    def test_wide_characters_take_longer(self) -> None:
        assert spoken_seconds("語" * 100) == pytest.approx(3 * spoken_seconds("x" * 100))

    @pytest.mark.parametrize(("seconds", "usd"), [(60, "4"), (0, "0"), (1.5, "0.1"), (0.001, "0.000067"), (-1, "0")])
    def test_prices_are_rounded_up(self, seconds: float, usd: str) -> None:
        assert VideoPrice(usd_per_minute=Decimal(4)).of(seconds) == Decimal(usd)


class MadeUpWorld:
    """Answers from lists; the last one of each stays. Time passes only by waiting."""

    def __init__(
        self, *, submits: Sequence[Submitted | None] = (Submitted(said=Said.ORDERED),),
        looks: Sequence[RenderStatus | None] = (RenderStatus.COMPLETED,), keeps: Sequence[Kept] = (Kept.DONE,),
        hears: Sequence[Heard] = (Heard.NOTHING,), places: Sequence[bool] = (True,),
        ways: Sequence[Way] = (Way.RENDER,),
    ) -> None:  # fmt: skip
        self.scripts: dict[str, list[Any]] = {
            "submit": list(submits), "look": list(looks), "keep": list(keeps), "hear": list(hears),
            "place": list(places), "plan": list(ways),
        }  # fmt: skip
        self.log: list[str] = []
        self.waited: list[timedelta] = []
        self._now = datetime(2026, 11, 21, tzinfo=UTC)

    def _next(self, what: str) -> object:
        self.log.append(what)
        script = self.scripts[what]
        return script.pop(0) if len(script) > 1 else script[0]

    async def plan(self) -> Planned:
        way = self._next("plan")
        assert isinstance(way, Way)
        return Planned(way=way, deadline=timedelta(minutes=40))

    async def make(self) -> RenderEnd:
        return RenderEnd.MADE

    async def take_place(self) -> bool:
        return bool(self._next("place"))

    async def submit(self) -> Submitted | None:
        said = self._next("submit")
        assert said is None or isinstance(said, Submitted)
        return said

    async def look(self) -> RenderStatus | None:
        seen = self._next("look")
        assert seen is None or isinstance(seen, RenderStatus)
        return seen

    async def keep(self) -> Kept:
        kept = self._next("keep")
        assert isinstance(kept, Kept)
        return kept

    async def close(self, how: Close, code: str | None = None) -> None:
        self.log.append(f"close:{how}" + (f":{code}" if code else ""))

    async def hear(self, length: timedelta, stand: Stand) -> Heard:
        heard = self._next("hear")
        assert isinstance(heard, Heard)
        self.waited.append(length)
        if heard is Heard.NOTHING:
            self._now += length
        return heard

    def now(self) -> datetime:
        return self._now


class Moved(Exception):
    """The course goes on elsewhere."""

    def __init__(self, stand: Stand) -> None:
        super().__init__(stand)
        self.stand = stand


class MovingWorld(MadeUpWorld):
    """Hands the course over after each wait in which nobody decided anything."""

    async def hear(self, length: timedelta, stand: Stand) -> Heard:
        heard = await super().hear(length, stand)
        if heard in {Heard.NOTHING, Heard.PROVIDER}:
            raise Moved(Stand.model_validate_json(stand.model_dump_json()))
        return heard


NOT_NOW = Submitted(said=Said.NOT_NOW, wait=timedelta(seconds=7), code="E.HEYGEN.RATE_LIMITED")
DOUBT = Submitted(said=Said.DOUBT, code="E.HEYGEN.TIMEOUT")
PROCESSING = RenderStatus.PROCESSING


class TestCourse:
    async def test_ordered_waited_for_and_kept(self) -> None:
        world = MadeUpWorld(looks=(PROCESSING, None, RenderStatus.COMPLETED))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log == ["plan", "place", "submit", "hear", "look", "hear", "look", "hear", "look", "keep"]
        assert world.waited == [timedelta(seconds=15), timedelta(seconds=22.5), timedelta(seconds=33.75)]

    @pytest.mark.parametrize(
        ("way", "end"),
        [(Way.KEPT, RenderEnd.MADE), (Way.SKIPPED, RenderEnd.SKIPPED), (Way.MAKE, RenderEnd.MADE)],
    )
    async def test_what_needs_no_renderer(self, way: Way, end: RenderEnd) -> None:
        world = MadeUpWorld(ways=(way,))
        assert await carry_render(world) is end
        assert world.log == ["plan"]

    async def test_what_another_job_is_having_made_is_waited_for(self) -> None:
        world = MadeUpWorld(ways=(Way.WAIT, Way.WAIT, Way.KEPT))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log == ["plan", "hear", "plan", "hear", "plan"]
        assert world.waited == [timedelta(minutes=1)] * 2

    async def test_what_comes_to_nothing_elsewhere_is_ordered(self) -> None:
        world = MadeUpWorld(ways=(Way.WAIT, Way.RENDER))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log == ["plan", "hear", "plan", "place", "submit", "hear", "look", "keep"]

    async def test_nobody_has_to_wait_for_another_job(self) -> None:
        world = MadeUpWorld(ways=(Way.WAIT,), hears=(Heard.NOTHING, Heard.LEAVE))
        assert await carry_render(world) is RenderEnd.LEFT

    async def test_a_place_is_waited_for(self) -> None:
        world = MadeUpWorld(places=(False, False, True))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log[:6] == ["plan", "place", "hear", "place", "hear", "place"]

    async def test_the_pause_of_the_other_side_is_kept(self) -> None:
        world = MadeUpWorld(submits=(NOT_NOW, Submitted(said=Said.ORDERED)))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.waited[0] == timedelta(seconds=7)

    async def test_after_a_doubt_the_same_order_goes_out_again(self) -> None:
        world = MadeUpWorld(submits=(None, DOUBT, Submitted(said=Said.ORDERED)))
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log.count("submit") == 3
        assert not [line for line in world.log if line.startswith("close")]

    async def test_a_refusal_ends_it(self) -> None:
        world = MadeUpWorld(submits=(Submitted(said=Said.REFUSED, code="E.HEYGEN.QUOTA"),))
        assert await carry_render(world) is RenderEnd.SKIPPED
        assert world.log[-1] == "close:failed:E.HEYGEN.QUOTA"

    async def test_patience_ends_where_nothing_was_ordered(self) -> None:
        world = MadeUpWorld(submits=(NOT_NOW,))
        assert await carry_render(world) is RenderEnd.SKIPPED
        assert world.log[-1] == "close:failed:E.HEYGEN.RATE_LIMITED"
        assert sum(world.waited, timedelta(0)) >= timedelta(hours=2)

    @pytest.mark.parametrize(
        ("decision", "end", "last"),
        [
            (Heard.GIVE_UP, RenderEnd.SKIPPED, "close:abandoned:E.VIDEO.GIVEN_UP"),
            (Heard.LEAVE, RenderEnd.LEFT, "hear"),
        ],
    )
    async def test_an_old_doubt_asks_a_person(self, decision: Heard, end: RenderEnd, last: str) -> None:
        world = MadeUpWorld(submits=(Submitted(said=Said.NO_MORE, code="E.HEYGEN.IN_DOUBT"),), hears=(decision,))
        assert await carry_render(world) is end
        assert "close:stuck:E.HEYGEN.IN_DOUBT" in world.log
        assert world.log[-1] == last

    async def test_a_late_render_asks_a_person_and_is_never_ordered_anew_by_itself(self) -> None:
        nothing = [Heard.NOTHING] * 60
        world = MadeUpWorld(looks=(PROCESSING,), hears=(*nothing, Heard.GIVE_UP))
        assert await carry_render(world) is RenderEnd.SKIPPED
        assert world.log.count("submit") == 1
        assert world.log.count("close:stuck:E.HEYGEN.STUCK") == 1
        assert world.waited[-2] == timedelta(hours=1)

    async def test_a_person_orders_again(self) -> None:
        nothing = [Heard.NOTHING] * 60
        world = MadeUpWorld(
            looks=(*[PROCESSING] * 60, RenderStatus.COMPLETED), hears=(*nothing, Heard.ORDER_AGAIN, Heard.NOTHING)
        )
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log.count("submit") == world.log.count("plan") == 2
        assert "close:replaced" in world.log

    async def test_a_late_render_that_comes_after_all_is_taken(self) -> None:
        world = MadeUpWorld(looks=(*[PROCESSING] * 60, RenderStatus.COMPLETED))
        assert await carry_render(world) is RenderEnd.MADE
        assert "close:stuck:E.HEYGEN.STUCK" in world.log

    async def test_more_time_is_more_time(self) -> None:
        nothing = [Heard.NOTHING] * 60
        world = MadeUpWorld(looks=(*[PROCESSING] * 70, RenderStatus.COMPLETED),
                            hears=(*nothing, Heard.KEEP_WAITING, Heard.NOTHING))  # fmt: skip
        assert await carry_render(world) is RenderEnd.MADE
        assert world.log.count("close:waiting") == 1

    @pytest.mark.parametrize(
        ("keeps", "end", "last"),
        [
            ((Kept.AGAIN, Kept.AGAIN, Kept.DONE), RenderEnd.MADE, "keep"),
            ((Kept.UNUSABLE,), RenderEnd.SKIPPED, "close:failed:E.HEYGEN.UNUSABLE"),
        ],
    )
    async def test_bytes(self, keeps: tuple[Kept, ...], end: RenderEnd, last: str) -> None:
        world = MadeUpWorld(keeps=keeps)
        assert await carry_render(world) is end
        assert world.log[-1] == last

    async def test_a_failed_render(self) -> None:
        world = MadeUpWorld(looks=(RenderStatus.FAILED,))
        assert await carry_render(world) is RenderEnd.SKIPPED
        assert world.log[-1] == "close:failed:E.HEYGEN.RENDER_FAILED"

    async def test_a_decision_about_one_that_is_not_stuck_is_not_followed(self) -> None:
        world = MadeUpWorld(looks=(PROCESSING, RenderStatus.COMPLETED), hears=(Heard.GIVE_UP, Heard.PROVIDER))
        assert await carry_render(world) is RenderEnd.MADE


NOTHING_LONG = (Heard.NOTHING,) * 60


class TestHandedOver:
    """A course that goes on elsewhere after each wait does and waits exactly as one that never moves."""

    @pytest.mark.parametrize(
        "answers",
        [
            {"looks": (PROCESSING, None, RenderStatus.COMPLETED), "keeps": (Kept.AGAIN, Kept.DONE)},
            {"places": (False,) * 5 + (True,)},
            {"ways": (Way.WAIT, Way.WAIT, Way.RENDER), "looks": (PROCESSING, RenderStatus.COMPLETED)},
            {"submits": (NOT_NOW, DOUBT, None, Submitted(said=Said.ORDERED))},
            {"submits": (NOT_NOW,)},
            {"submits": (DOUBT,), "hears": (*[Heard.NOTHING] * 300, Heard.GIVE_UP)},
            {"looks": (PROCESSING,), "hears": (*NOTHING_LONG, Heard.GIVE_UP)},
            {"looks": (PROCESSING,), "hears": (*NOTHING_LONG, Heard.KEEP_WAITING, *NOTHING_LONG, Heard.GIVE_UP)},
            {
                "looks": (*[PROCESSING] * 60, RenderStatus.COMPLETED),
                "hears": (*NOTHING_LONG, Heard.ORDER_AGAIN, Heard.NOTHING),
            },
            {"looks": (PROCESSING,), "hears": (Heard.PROVIDER,) * 9 + (Heard.LEAVE,)},
        ],
    )
    async def test_nothing_is_done_twice_or_forgotten(self, answers: dict[str, Any]) -> None:
        still, moving = MadeUpWorld(**answers), MovingWorld(**answers)
        expected = await carry_render(still)
        stand: Stand | None = None
        while True:
            try:
                end = await carry_render(moving, stand)
            except Moved as moved:
                stand = moved.stand
                continue
            break
        assert (end, moving.log, moving.waited) == (expected, still.log, still.waited)

    async def test_time_in_the_line_is_not_time_of_trying(self) -> None:
        """Three hours in the line, and then a "not now": patience begins with the first try."""
        world = MadeUpWorld(places=(*[False] * 540, True), submits=(NOT_NOW, Submitted(said=Said.ORDERED)))
        assert await carry_render(world) is RenderEnd.MADE
