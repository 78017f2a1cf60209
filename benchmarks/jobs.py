"""No-op jobs from POST to ``succeeded``, against a workflow of the same shape on the SDK alone, on the same server."""

import asyncio
import statistics
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.support import (
    ROOT,
    Bench,
    Finding,
    Load,
    cpu_seconds,
    load_process,
    median_ratio,
    percentile,
    running,
    tree_cpu_seconds,
)
from services.stack.temporal import find_binary

_IN_FLIGHT: Final = 50
_QUEUE: Final = "benchmark-bare"
_PACE_MS: Final = 5.9
"""What ``benchmarks.pace`` measures took this long on the machine that targets in milliseconds were set on."""


@dataclass
class _Side:
    """What was measured on one side, round by round."""

    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Per job, in the Python processes that the side needs."""
    client_ms: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    """The median latency in seconds of one at a time."""


async def run(bench: Bench) -> list[Finding]:
    """Both sides by turns."""
    rounds, count, single = (2, 100, 15) if bench.quick else (7, 300, 40)
    worker = bench.child("bare-worker", "-m", "benchmarks.bare_worker", bench.stack.temporal.address, _QUEUE)
    async with running(worker), load_process() as load:
        comparison = _Comparison(bench, load, worker)
        await comparison.warm_up()
        for number in range(rounds):
            for side in ("ours", "bare") if number % 2 == 0 else ("bare", "ours"):
                await comparison.measure(side, count=count, single=single)
            comparison.report(number)
    return [*comparison.findings(), *await _pace(comparison.cpu_ms, count)]


async def _pace(cpu_ms: float, count: int) -> list[Finding]:
    """The processor time of a job as it would be on the machine that its target was set on."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.pace", str(find_binary()), str(count), stdout=PIPE, cwd=ROOT
    )
    printed, _ = await program.communicate()
    here = float(printed.split()[-1])  # behind what the server said
    return [
        Finding(
            "CPU of a workflow with one activity, SDK alone", here, "ms", note=f"{_PACE_MS} where targets were set"
        ),
        Finding("CPU a job at the pace of that machine", cpu_ms * _PACE_MS / here, "ms", at_most=15),
    ]


class _Comparison:
    """Longhaul and the bare SDK, each under the same load."""

    def __init__(self, bench: Bench, load: Load, worker: Any) -> None:
        self._bench = bench
        self._load = load
        self._bare_worker = worker
        self._sides = {"ours": _Side(), "bare": _Side()}
        self._shares: dict[str, list[float]] = {"API": [], "worker": [], "Temporal": [], "PostgreSQL": []}
        self._polls: list[float] = []

    async def warm_up(self) -> None:
        """Fill every cache and pool once."""
        for side in self._sides:
            await self._perform(side, count=100, in_flight=_IN_FLIGHT)

    async def measure(self, name: str, *, count: int, single: int) -> None:
        """One round of one side."""
        side = self._sides[name]
        before, shares = self._cpu(name), self._cpu_shares()
        done = await self._perform(name, count=count, in_flight=_IN_FLIGHT)
        side.rates.append(count / done["seconds"])
        side.medians.append(percentile(done["latencies"], 0.5))
        # The bare side's client does the work of our API, so it belongs to the price there.
        client = done["cpu"] if name == "bare" else 0.0
        side.cpu_ms.append(1_000 * (self._cpu(name) - before + client) / count)
        side.client_ms.append(1_000 * done["cpu"] / count)
        if name == "ours":
            for part, seconds in self._cpu_shares().items():
                self._shares[part].append(1_000 * (seconds - shares[part]) / count)
            self._polls.append(statistics.mean(done["polls"]))
        alone = await self._perform(name, count=single, in_flight=1)
        side.alone.append(percentile(alone["latencies"], 0.5))

    async def _perform(self, name: str, *, count: int, in_flight: int) -> dict[str, Any]:
        bench = self._bench
        if name == "ours":
            return await self._load.perform("jobs", port=bench.port, key=bench.key, count=count, in_flight=in_flight)
        address = bench.stack.temporal.address
        return await self._load.perform("workflows", address=address, queue=_QUEUE, count=count, in_flight=in_flight)

    def _cpu(self, name: str) -> float:
        stack = self._bench.stack
        return cpu_seconds(stack.api, stack.worker) if name == "ours" else cpu_seconds(self._bare_worker)

    def _cpu_shares(self) -> dict[str, float]:
        stack = self._bench.stack
        assert stack.postgres.pid is not None
        return {
            "API": cpu_seconds(stack.api),
            "worker": cpu_seconds(stack.worker),
            "Temporal": cpu_seconds(stack.temporal),
            "PostgreSQL": tree_cpu_seconds(stack.postgres.pid),
        }

    @property
    def cpu_ms(self) -> float:
        """Processor time of one of our jobs."""
        return statistics.median(self._sides["ours"].cpu_ms)

    def report(self, number: int) -> None:
        """A line of progress."""
        said = (
            f"{name} {side.rates[-1]:.0f}/s, p50 {side.medians[-1] * 1e3:.0f} ms, alone {side.alone[-1] * 1e3:.1f} ms, "
            f"{side.cpu_ms[-1]:.1f} ms of CPU"
            for name, side in self._sides.items()
        )
        self._bench.say(f"round {number + 1}: {'; '.join(said)}")

    def findings(self) -> list[Finding]:
        """The numbers."""
        ours, bare = self._sides["ours"], self._sides["bare"]
        middle = statistics.median
        return [
            Finding(
                f"throughput of the bare SDK's, {_IN_FLIGHT} in flight", median_ratio(ours.rates, bare.rates), "x",
                at_least=0.6, note=f"{middle(ours.rates):.0f}/s against {middle(bare.rates):.0f}/s",
            ),
            Finding(
                f"p50 latency of the bare SDK's, {_IN_FLIGHT} in flight", median_ratio(ours.medians, bare.medians), "x",
                at_most=2, note=f"{middle(ours.medians) * 1e3:.0f} ms against {middle(bare.medians) * 1e3:.0f} ms",
            ),
            Finding(
                "p50 latency of the bare SDK's, one at a time", median_ratio(ours.alone, bare.alone), "x",
                at_most=2, note=f"{middle(ours.alone) * 1e3:.1f} ms against {middle(bare.alone) * 1e3:.1f} ms",
            ),
            Finding(
                "CPU a job, API + worker", self.cpu_ms, "ms", at_most=15,
                note=", ".join(f"{part} {middle(values):.1f}" for part, values in self._shares.items()),
            ),
            Finding("CPU a workflow, bare worker + its client", middle(bare.cpu_ms), "ms"),
            Finding(
                "CPU a job of the load generator itself", middle(ours.client_ms), "ms",
                note=f"{middle(self._polls):.1f} long polls a job",
            ),
        ]  # fmt: skip
