"""Real processes, real signals, in every phase of a round: the model is the same to the last bit."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

import httpx
import pytest

from learning.weights import encode
from tests.chaos.test_kills import assert_no_gaps
from tests.support.federation import update, weights
from tests.support.snare import strike
from tests.support.stack import RunningStack, running_stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

DEVICES = 4
PHASES = [
    ("worker", "fl_rounds", "open"),
    ("api", "fl_leases", "leased"),
    ("api", "fl_leases", "accepted"),
    ("postgres", "fl_leases", "accepted"),
    ("worker", "fl_rounds", "closed"),
    ("worker", "fl_rounds", "aggregated"),
    ("postgres", "fl_rounds", "aggregated"),
    ("worker", "fl_rounds", "evaluated"),
    ("worker", "fl_rounds", "published"),
    ("postgres", "fl_rounds", "published"),
]
"""Who is killed in which transaction, one a round."""


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack() as running:
        yield running


class Fleet:
    """Four devices that try again until they are told something final, as a good client does."""

    def __init__(self, stack: RunningStack, model: str) -> None:
        self.stack = stack
        self.model = model
        self.ids: list[str] = []

    async def make(self) -> None:
        """The model, and who takes part."""
        uploaded = await self.stack.http.post("/artifacts", content=encode(weights(0)))
        body = {"name": self.model, "weights_artifact_id": uploaded.json()["id"]}
        made = await self.stack.http.post("/federated/models", json=body)
        assert made.status_code == 201, made.text
        for _ in range(DEVICES):
            answer = await self.stack.http.post("/federated/participants", json={"model": self.model})
            self.ids.append(answer.json()["id"])

    async def until_answered(self, method: str, path: str, good: set[int], **more: Any) -> httpx.Response:
        """Ask until the answer is one of these, whatever is down meanwhile."""

        async def ask() -> httpx.Response | None:
            try:
                answer = await self.stack.http.request(method, path, **more)
            except httpx.TransportError:
                return None
            assert answer.status_code in good | {204, 500, 503}, answer.text
            return answer if answer.status_code in good else None

        found: httpx.Response = await self.stack.eventually(ask, timeout=180)
        return found

    async def lease(self, device: int, round_: int) -> dict[str, Any]:
        """A place in that round."""

        async def look() -> dict[str, Any] | None:
            body = {"participant_id": self.ids[device], "model": self.model}
            lease: dict[str, Any] = (await self.until_answered("POST", "/federated/leases", {200}, json=body)).json()
            return lease if lease["round"] == round_ else None

        found: dict[str, Any] = await self.stack.eventually(look, timeout=180)
        return found

    async def send(self, device: int, round_: int, lease: dict[str, Any]) -> int:
        """The update that depends on device and round alone; sent until it is accepted."""
        body = update(100 * round_ + device)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        answer = await self.until_answered(
            "PUT",
            f"/federated/updates/{lease['id']}",
            {200, 201},
            content=body,
            headers={"Content-Digest": f"sha-256=:{digest}:"},
        )
        return answer.status_code

    async def round(self, number: int) -> None:
        """One round, from the leases to the last update."""
        order = [(number + 3 * place) % DEVICES for place in range(DEVICES)]
        leases = {device: await self.lease(device, number) for device in order}
        for device in order:
            await self.send(device, number, leases[device])
        # Late and in another order, everything once more: nothing changes.
        assert [await self.send(device, number, leases[device]) for device in reversed(order)] == [200] * DEVICES

    async def head(self) -> dict[str, Any]:
        """The published version."""
        head: dict[str, Any] = (await self.stack.http.get(f"/federated/models/{self.model}")).json()["head"]
        return head


class TestKill:
    async def test_in_every_phase(self, stack: RunningStack) -> None:
        """Each round one process is killed in a transaction of another phase, right before its commit."""
        calm, storm = Fleet(stack, "calm"), Fleet(stack, "storm")
        wish = {"rounds": len(PHASES), "goal": DEVICES, "deadline_seconds": 300, "adaptive": False}
        await calm.make()
        undisturbed = await stack.post("federated.cycle", {"model": "calm", **wish})
        for number in range(1, len(PHASES) + 1):
            await calm.round(number)
        assert (await stack.until_done(undisturbed["id"]))["status"] == "succeeded"

        await storm.make()
        running: list[asyncio.Task[Any]] = []
        for number, (victim, table, state) in enumerate(PHASES, start=1):
            condition = f"NEW.state = '{state}'"
            if number == 1:
                begin = partial(self._begin, running, stack.post("federated.cycle", {"model": "storm", **wish}))
                await strike(stack, victim, table, condition, begin)
                job = await running.pop()
                await storm.round(number)
            else:
                await strike(stack, victim, table, condition, partial(self._begin, running, storm.round(number)))
                await running.pop()

        done = await stack.until_done(job["id"], timeout=300)
        assert done["status"] == "succeeded", done
        await assert_no_gaps(stack, job["id"])
        rounds = (await stack.http.get(f"/federated/cycles/{job['id']}/rounds")).json()["items"]
        assert [(one["state"], one["accepted"]) for one in rounds] == [("published", DEVICES)] * len(PHASES)
        heads = [await fleet.head() for fleet in (calm, storm)]
        assert heads[0]["sha256"] == heads[1]["sha256"]
        assert {head["version"] for head in heads} == {len(PHASES) + 1}

    def _begin(self, running: list[asyncio.Task[Any]], what: Coroutine[Any, Any, Any]) -> None:
        running.append(asyncio.create_task(what))

    async def test_temporal_dies_while_a_round_waits(self, stack: RunningStack) -> None:
        """The goal is reached while nobody can be told: the command waits, and so does the round."""
        fleet = Fleet(stack, "untold")
        await fleet.make()
        wish = {"model": "untold", "goal": DEVICES, "deadline_seconds": 300}
        job = await stack.post("federated.cycle", wish)
        leases = [await fleet.lease(device, 1) for device in range(DEVICES)]
        await asyncio.to_thread(stack.temporal.stop)
        for device, lease in enumerate(leases):
            assert await fleet.send(device, 1, lease) == 201
        await asyncio.to_thread(stack.temporal.start)
        assert (await stack.until_done(job["id"], timeout=120))["status"] == "succeeded"


class TestSchedules:
    async def test_made_while_temporal_is_away(self, stack: RunningStack) -> None:
        """The schedule is kept, and fires once Temporal is back; a killed worker costs no run and doubles none."""
        await asyncio.to_thread(stack.temporal.stop)
        wish = {"kind": "diagnostics.noop", "spec": {"interval": 2}, "overlap": "allow_all"}
        made = await stack.http.post("/schedules", json=wish)
        assert made.status_code == 201, made.text
        assert made.json()["waiting_on"]["kind"] == "temporal"
        await asyncio.to_thread(stack.temporal.start)
        where = f"/schedules/{made.json()['id']}"

        before: set[str] = set()

        async def two_more() -> list[dict[str, Any]] | None:
            jobs: list[dict[str, Any]] = (await stack.http.get(where)).json()["last_runs"]
            return jobs if len({job["id"] for job in jobs} - before) >= 2 else None

        before |= {job["id"] for job in await stack.eventually(two_more, timeout=60)}
        stack.worker.kill()
        await asyncio.to_thread(stack.worker.start)
        jobs = await stack.eventually(two_more, timeout=60)
        assert (await stack.http.delete(where)).status_code == 204
        for job in jobs:
            assert (await stack.until_done(job["id"]))["status"] == "succeeded"
        assert len({job["labels"]["longhaul.run"] for job in jobs}) == len(jobs)
