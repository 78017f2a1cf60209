"""A lesson of a large course made again while its worker is killed, counted where the money is taken."""

import asyncio
import signal
from collections import Counter
from decimal import Decimal

import pytest

from tests.chaos.test_kills import SOURCE
from tests.support.stack import running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

LESSONS = 100


async def test_one_lesson_of_a_hundred_under_a_kill() -> None:
    """Three calls - the lesson, its slides, its questions - each paid once, for less than 2 % of the first run."""
    async with running_stack() as stack:
        wish = {
            "topic": "sections", "provider": "openai", "modules": 10, "lessons_per_module": 10, "sources": [SOURCE],
            "slides": True, "quiz": True, "exports": ["json"],
        }  # fmt: skip
        course = await stack.post("generation.course", wish)
        first = await stack.until_done(course["id"], timeout=200)
        assert first["status"] == "succeeded", first
        before = len(stack.calls())
        assert sum(call["billed"] for call in stack.calls()) == 1 + 3 * LESSONS
        again = {"course_id": course["id"], "node": "lesson-5.5", "comment": "Say more about the moon."}
        job = await stack.post("generation.section", again)
        await stack.until(job["id"], lambda now: any(step["name"] == "module-5" for step in now["steps"]))
        stack.worker.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.worker.start)
        done = await stack.until_done(job["id"], timeout=120)
        assert done["status"] == "succeeded", done
        paid = Counter(call["op"] for call in stack.calls()[before:] if call["billed"])
        assert sorted(paid.values()) == [1, 1, 1]
        result = (await stack.http.get(f"/jobs/{job['id']}/result")).json()
        result = result.get("result", result)
        assert [made["node"] for made in result["recomputed"]] == [
            "lesson-5.5", "lesson-5.5/slides", "lesson-5.5/quiz",
        ]  # fmt: skip
        assert result["reused"]["nodes"] == 1 + 3 * (LESSONS - 1)
        cost, whole = Decimal(str(done["cost"]["usd"])), Decimal(str(first["cost"]["usd"]))
        print(f"\none lesson of {LESSONS}: 3 calls, {cost} USD, {cost / whole:.2%} of the first run's {whole} USD")  # noqa: T201
        assert 0 < cost < whole * Decimal("0.02")
