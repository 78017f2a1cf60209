"""Real processes, real signals: what was acknowledged arrives, once, and its events tell no gaps."""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from services.stack.temporal import find_binary
from tests.support.stack import RunningStack, running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

SOURCE = {"name": "tides.md", "text": "# Tides\n\nThe moon pulls the sea. The sea answers twice a day.\n" * 20}


def course(topic: str, *, modules: int = 2, lessons: int = 6) -> dict[str, object]:
    """A course from the stand-in; topics differ so that no answer comes from the cache."""
    return {
        "topic": topic, "provider": "openai", "modules": modules, "lessons_per_module": lessons, "sources": [SOURCE],
    }  # fmt: skip


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """One stack for all tests of this module; each leaves it running."""
    async with running_stack() as running:
        yield running


async def assert_no_gaps(stack: RunningStack, job_id: str) -> list[str]:
    """Events are numbered from one without a gap; their types."""
    events = await stack.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return [event["type"] for event in events]


class TestKill:
    async def test_worker_then_api_then_temporal(self, stack: RunningStack) -> None:
        """SIGKILL of each in the middle of lessons: the course is finished and no lesson is paid for twice."""
        before = len(stack.calls()) if (stack.folder / "calls.jsonl").exists() else 0
        job = await stack.post("generation.course", course("kills", modules=3, lessons=8))
        await stack.until(job["id"], lambda now: 0.2 < now["progress"] < 0.9)
        stack.worker.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.worker.start)
        stack.api.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.api.start)
        await stack.until_ready()
        stack.temporal.kill(signal.SIGKILL)
        await asyncio.to_thread(stack.temporal.start)
        done = await stack.until_done(job["id"], timeout=120)
        assert done["status"] == "succeeded", done
        types = Counter(await assert_no_gaps(stack, job["id"]))
        assert types["lesson.written"] == 24
        assert types["job.succeeded"] == 1
        paid = Counter(call["op"] for call in stack.calls()[before:] if call["billed"])
        assert len(paid) == 25
        assert max(paid.values()) == 1

    async def test_database(self, stack: RunningStack) -> None:
        """SIGKILL of PostgreSQL under a running course: everything reconnects and the course is finished."""
        job = await stack.post("generation.course", course("database"))
        await stack.until(job["id"], lambda now: now["progress"] > 0.2)
        stack.postgres.kill(signal.SIGKILL)
        down = await stack.http.get(f"/jobs/{job['id']}")
        assert down.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert down.json()["code"] == "E.DB.UNAVAILABLE"
        await asyncio.to_thread(stack.postgres.start)
        done = await stack.until_done(job["id"], timeout=120)
        assert done["status"] == "succeeded", done
        await assert_no_gaps(stack, job["id"])

    async def test_worker_on_sigterm(self, stack: RunningStack) -> None:
        """SIGTERM drains: the process ends by itself within its grace and the course goes on elsewhere."""
        job = await stack.post("generation.course", course("drain"))
        await stack.until(job["id"], lambda now: now["progress"] > 0.2)
        await asyncio.to_thread(stack.worker.stop)
        assert "worker.stopped" in stack.worker.log_path.read_text()
        waiting = await stack.until(job["id"], lambda now: (now["waiting_on"] or {}).get("kind") == "worker")
        assert waiting["status"] == "running"
        await asyncio.to_thread(stack.worker.start)
        assert (await stack.until_done(job["id"]))["status"] == "succeeded"


class TestTemporalAway:
    async def test_jobs_are_taken_and_run_later(self, stack: RunningStack) -> None:
        """With Temporal stopped every post gets its 202, says what it waits for, and is finished afterwards."""
        await asyncio.to_thread(stack.temporal.stop)
        jobs = [await stack.post("diagnostics.noop", {}) for _ in range(20)]
        await stack.until(jobs[0]["id"], lambda now: (now["waiting_on"] or {}).get("kind") == "temporal")
        await asyncio.to_thread(stack.temporal.start)
        done = [await stack.until_done(job["id"], timeout=120) for job in jobs]
        assert {job["status"] for job in done} == {"succeeded"}
        for job in jobs:
            types = await assert_no_gaps(stack, job["id"])
            assert types.count("job.running") == 1


class TestOperator:
    async def test_terminate_from_the_command_line(self, stack: RunningStack) -> None:
        """After `temporal workflow terminate` the job says within a minute that it was terminated."""
        job = await stack.post("generation.course", course("terminate", modules=4, lessons=10))
        await stack.until(job["id"], lambda now: now["progress"] > 0.1)
        command = [str(find_binary()), "workflow", "terminate", "--address", stack.temporal.address]
        command += ["--workflow-id", f"generation.course/{job['id']}", "--reason", "a test"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        done = await stack.until_done(job["id"], timeout=60)
        assert (done["status"], done["error_code"]) == ("failed", "E.JOB.TERMINATED")
        retried = await stack.http.post(f"/jobs/{job['id']}/retry")
        assert retried.status_code == httpx.codes.ACCEPTED
        done = await stack.until_done(job["id"], timeout=120)
        assert (done["status"], done["attempt"]) == ("succeeded", 2)


class TestFairness:
    async def test_five_hundred_do_not_hold_up_one(self, stack: RunningStack) -> None:
        """Posted behind another tenant's five hundred, a tenant's one job is among the first to be finished."""
        await asyncio.to_thread(stack.worker.stop)
        other = await stack.client_of("other")
        async with other:
            batch = {"jobs": [{"kind": "diagnostics.noop", "input": {}}] * 100}
            answers = [await stack.http.post("/jobs:batch", json=batch) for _ in range(5)]
            many = [item["job"]["id"] for answer in answers for item in answer.json()["items"]]
            one = (await other.post("/jobs", json={"kind": "diagnostics.noop", "input": {}})).json()
            await asyncio.to_thread(stack.worker.start)
            for job_id in many:
                assert (await stack.until_done(job_id, timeout=180))["status"] == "succeeded"
            done = (await other.get(f"/jobs/{one['id']}")).json()
        finished = [(await stack.get(job_id))["finished_at"] for job_id in many]
        assert len(finished) == 500
        assert sum(moment < done["finished_at"] for moment in finished) < 50
