"""Who takes a slot first, and how long an answer waits for the calls that follow it."""

import asyncio
from types import SimpleNamespace

import pytest

from activities.generation import slots
from activities.generation.slots import CallSlots, JobSlots
from core.ids import new_id
from domain.jobs import JobRef


class Clock:
    """Time that passes by sleeping, and by nothing else."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept = 0.0

    def monotonic(self) -> float:
        """In place of ``time.monotonic``."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """In place of ``asyncio.sleep``."""
        self.now += seconds
        self.slept += seconds
        for _ in range(10):  # whatever can happen meanwhile does
            await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the slots."""
    clock = Clock()
    monkeypatch.setattr(slots, "time", clock)
    monkeypatch.setattr(slots, "asyncio", SimpleNamespace(sleep=clock.sleep, Semaphore=asyncio.Semaphore))
    return clock


class TestLetCallsLeave:
    async def test_the_call_that_gets_the_slot_leaves_first(self, clock: Clock) -> None:
        """And has time to get on its way, before anything else is made of the answer."""
        one, seen = JobSlots(1), []

        async def follow() -> None:
            async with one.one():
                seen.append("the next call")

        async with one.one():
            following = asyncio.create_task(follow())
            await asyncio.sleep(0)
        clock.now += 10
        await one.let_calls_leave()
        seen.append("what is made of the answer")
        await following
        assert seen == ["the next call", "what is made of the answer"]
        assert clock.slept == pytest.approx(0.05)

    async def test_nobody_waits_where_no_call_waited(self, clock: Clock) -> None:
        """However quick the model is, and however many calls leave."""
        two = JobSlots(2)
        async with two.one():
            async with two.one():
                pass
            await two.let_calls_leave()
        await two.let_calls_leave()
        assert clock.slept == 0

    async def test_it_ends_where_calls_leave_all_the_time(self, clock: Clock) -> None:
        one = JobSlots(1)

        async def leave() -> None:
            while True:
                async with one.one():
                    await asyncio.sleep(0)

        leaving = [asyncio.create_task(leave()) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        await one.let_calls_leave()
        for task in leaving:
            task.cancel()
        assert clock.slept == pytest.approx(0.3)


async def test_each_job_has_slots_of_its_own() -> None:
    """For as long as anybody uses them."""
    known = CallSlots(1)
    job, other = (JobRef(job_id=new_id(), tenant_id=new_id(), kind="generation.course") for _ in range(2))
    async with known.of(job).one(), known.of(other).one():
        assert known.of(job) is known.of(job)
        assert known.of(job) is not known.of(other)
