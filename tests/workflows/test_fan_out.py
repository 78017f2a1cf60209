"""How many lessons are written at once: never more than the fan-out, never less without need."""

import random

import pytest
from temporalio.client import Client

from tests.support.course_doubles import CourseDoubles, RecordDoubles, serving, start_course

SHAPES = {
    "7 x 14": (14,) * 7,
    "1 x 100": (100,),
    "100 x 1": (1,) * 100,
    "2 x 40": (40, 40),
    "ragged": (3, 25, 1, 1, 30, 2, 8),
}


class TestFanOut:
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
    async def test_all_slots_are_used_and_no_more(self, temporal: Client, shape: tuple[int, ...]) -> None:
        """Whichever lessons end first: freed slots go to lessons that wait, in whatever module.

        Modules give slots back in portions, so up to a quarter may be idle for a moment; never while nothing else
        happens and enough lessons wait.
        """
        doubles, fan_out = CourseDoubles(shape, fan_out=20), 20
        chance = random.Random(str(shape))  # noqa: S311
        total = sum(shape)
        async with serving(temporal, [*doubles.every, *RecordDoubles().every]) as task_queue:
            handle = await start_course(temporal, task_queue)
            while len(doubles.written) < total:
                left = total - len(doubles.written)
                await doubles.until_running(min(fan_out - fan_out // 4, left))
                in_progress = sorted(doubles.running)
                leave = chance.sample(in_progress, k=chance.randint(1, len(in_progress)))
                after = len(doubles.written) + len(leave)
                doubles.let_go(*leave)
                await doubles.until_written(after)
            await handle.result()
        assert doubles.most_at_once <= fan_out
        assert sorted(doubles.started) == [(m, n) for m, count in enumerate(shape) for n in range(count)]
        assert doubles.exported == 1
