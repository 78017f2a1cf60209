"""The load generator, a process of its own: tasks come in as JSON lines and their measurements go out as JSON lines.

``benchmarks.support.Load`` talks to it. It is the only thing here that should be close to a processor's limit, so it
does nothing it need not do; how much processor time it took is part of every answer.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from uuid import uuid4

import orjson
import uvloop
from temporalio.client import Client

from benchmarks import wire
from benchmarks.bare_workflow import BareInput, BareWorkflow

Task = dict[str, Any]
_API: Final = "/api/v1"
_WAIT_SECONDS: Final = 30


class Generator:
    """Carries out one task after the other; clients and watchers stay between tasks."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._watchers: list[wire.EventReader] = []
        self._arrivals: dict[str, list[tuple[int, int]]] = {}

    async def perform(self, task: Task) -> dict[str, Any]:
        """Do a task; what was measured, with the processor seconds it took here."""
        tasks: dict[str, Callable[[Task], Awaitable[dict[str, Any]]]] = {
            "jobs": self._jobs,
            "workflows": self._workflows,
            "get": self._get,
            "post": self._post,
            "watch": self._watch,
            "collect": self._collect,
            "unwatch": self._unwatch,
        }
        cpu = time.process_time()
        measured = await tasks[task["do"]](task)
        return {"cpu": time.process_time() - cpu, **measured}

    # --- jobs and workflows -------------------------------------------------------------------------

    async def _jobs(self, task: Task) -> dict[str, Any]:
        polls: list[int] = []
        async with _connections(task["port"], task["in_flight"]) as connections:

            async def one(lane: int) -> None:
                polls.append(await _job(connections[lane], task["key"]))

            return {**await _in_lanes(one, task), "polls": polls}

    async def _workflows(self, task: Task) -> dict[str, Any]:
        client = await self._client(task["address"])

        async def one(_lane: int) -> None:
            given = BareInput(job_id=str(uuid4()), tenant_id=str(uuid4()), kind="diagnostics.noop")
            handle = await client.start_workflow(
                BareWorkflow.run, given, id=f"bare/{given.job_id}", task_queue=task["queue"]
            )
            await handle.result()

        return await _in_lanes(one, task)

    async def _client(self, address: str) -> Client:
        if address not in self._clients:
            self._clients[address] = await Client.connect(address)
        return self._clients[address]

    # --- one address, again and again ---------------------------------------------------------------

    async def _get(self, task: Task) -> dict[str, Any]:
        asked = wire.request("GET", task["path"], authorization=task["key"], if_none_match=task["etag"])
        async with _connections(task["port"], task["connections"]) as connections:
            started = time.perf_counter()
            until = started + task["seconds"]

            async def lane(connection: wire.Connection) -> int:
                count = 0
                while time.perf_counter() < until:
                    _expect(await connection.ask(asked), task["expect"])
                    count += 1
                return count

            counts = await asyncio.gather(*(lane(connection) for connection in connections))
            return {"count": sum(counts), "seconds": time.perf_counter() - started}

    # --- one body after another ---------------------------------------------------------------------

    async def _post(self, task: Task) -> dict[str, Any]:
        """Post ``count`` bodies, ``in_flight`` at once, at most ``rate`` a second where there is one."""
        async with _connections(task["port"], task["in_flight"]) as connections:
            bodies = iter(range(task["count"]))
            rate = task.get("rate")
            began = time.perf_counter()

            async def one(lane: int) -> None:
                number = next(bodies)
                if rate:
                    await asyncio.sleep(max(began + number / rate - time.perf_counter(), 0))
                record = orjson.dumps({**task["record"], "id": str(uuid4())})
                asked = wire.request("POST", task["path"], body=record, authorization=task["key"])
                started = time.perf_counter()
                _expect(await connections[lane].ask(asked), 202)
                served.append(time.perf_counter() - started)

            served: list[float] = []
            return {**await _in_lanes(one, task), "served": served}

    # --- watchers -----------------------------------------------------------------------------------

    async def _watch(self, task: Task) -> dict[str, Any]:
        """Open streams, evenly over the jobs, and return once each has its first event."""
        jobs = [job for job, _ in zip(itertools.cycle(task["jobs"]), range(task["watchers"]), strict=False)]
        waiting: list[asyncio.Event] = []
        for number, job in enumerate(jobs):
            begun = asyncio.Event()
            waiting.append(begun)
            reader = self._reader(job, task["key"], begun)
            await asyncio.get_running_loop().create_connection(partial(_same, reader), "127.0.0.1", task["port"])
            self._watchers.append(reader)
            if number % 20 == 19:
                await waiting[number - 10].wait()
        for begun in waiting:
            await begun.wait()
        return {"watchers": len(self._watchers)}

    def _reader(self, job: str, key: str, begun: asyncio.Event) -> wire.EventReader:
        arrivals = self._arrivals.setdefault(job, [])

        def on_event(number: int, at: int) -> None:
            begun.set()
            arrivals.append((number, at))

        asked = wire.request("GET", f"{_API}/jobs/{job}/events", authorization=key, accept="text/event-stream")
        return wire.EventReader(asked, on_event)

    async def _collect(self, task: Task) -> dict[str, Any]:
        """Compare arrivals with the moments of commit (``sent``: job -> number -> nanoseconds)."""
        delays = [
            (at - task["sent"][job][str(number)]) / 1e9
            for job, arrived in self._arrivals.items()
            for number, at in arrived
            if str(number) in task["sent"][job]
        ]
        return {"delays": delays, "lost": sum(reader.lost for reader in self._watchers)}

    async def _unwatch(self, _task: Task) -> dict[str, Any]:
        for reader in self._watchers:
            reader.close()
        self._watchers.clear()
        self._arrivals.clear()
        return {}


def _same(reader: wire.EventReader) -> wire.EventReader:
    return reader


@asynccontextmanager
async def _connections(port: int, count: int) -> AsyncIterator[list[wire.Connection]]:
    opened = [await wire.connect(port) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def _job(connection: wire.Connection, key: str) -> int:
    """One job from POST to ``succeeded``; how often it had to ask."""
    body = orjson.dumps({"kind": "diagnostics.noop", "input": {}})
    asked = wire.request("POST", f"{_API}/jobs", body=body, authorization=key, idempotency_key=f'"{uuid4()}"')
    answer = await connection.ask(asked)
    _expect(answer, 202)
    path = f"{_API}/jobs/{orjson.loads(answer.body)['id']}?wait={_WAIT_SECONDS}"
    for polls in itertools.count(1):
        answer = await connection.ask(wire.request("GET", path, authorization=key, if_none_match=answer.etag))
        _expect(answer, 200)
        status = orjson.loads(answer.body)["status"]
        if status == "succeeded":
            return polls
        if status not in {"queued", "running"}:
            raise RuntimeError(f"the job ended as {status}")
    raise AssertionError


def _expect(answer: wire.Answer, status: int) -> None:
    if answer.status != status:
        raise RuntimeError(f"{answer.status} instead of {status}: {answer.body[:300]!r}")


async def _in_lanes(one: Callable[[int], Awaitable[None]], task: Task) -> dict[str, Any]:
    """``count`` times ``one``, ``in_flight`` at once: the latency of each, and how long all took."""
    left = iter(range(task["count"]))
    latencies: list[float] = []

    async def lane(number: int) -> None:
        for _ in left:
            started = time.perf_counter()
            await one(number)
            latencies.append(time.perf_counter() - started)

    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(task["in_flight"])))
    return {"latencies": latencies, "seconds": time.perf_counter() - began}


async def serve() -> None:
    """Perform tasks until the input ends."""
    generator = Generator()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            answer = await generator.perform(json.loads(line))
        except Exception as fault:  # noqa: BLE001 - told to whoever gave the task
            answer = {"failed": f"{type(fault).__name__}: {fault}"}
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve())
