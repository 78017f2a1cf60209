"""``python -m benchmarks [names...] [--quick]``: measure what is claimed, on a stack of its own."""

import argparse
import asyncio
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Final

from benchmarks import (
    exports,
    federated_compute,
    federated_rounds,
    footprint,
    generation,
    jobs,
    publishing,
    saving,
    status,
    watchers,
)
from benchmarks.support import Bench, Benchmark, Finding, Machine, benchmark_stack, print_findings

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "jobs": jobs.run,
    "status": status.run,
    "watchers": watchers.run,
    "generation": generation.run,
    "exports": exports.run,
    "histories": generation.run_histories,
    "saving": saving.run,
    "records": saving.run_singles,
    "federated_rounds": federated_rounds.run,
    "federated_compute": federated_compute.run,
    "drift": publishing.drift,
    "sleeping": publishing.sleeping,
    "footprint": footprint.run,
}


def main() -> int:
    """Run what was asked for; 1 where a benchmark crashed, whatever the numbers say."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure what is claimed about speed.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it works")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that a call of the model takes; 1 by default")
    parsed = parser.parse_args()
    unknown = sorted(set(parsed.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    return asyncio.run(_run(parsed.names or list(BENCHMARKS), quick=parsed.quick, delay=parsed.delay))


async def _run(names: Sequence[str], *, quick: bool, delay: float) -> int:
    results: list[tuple[str, Sequence[Finding]]] = []
    crashed: list[str] = []
    print("starting a stack ...", flush=True)
    async with benchmark_stack(delay=delay) as stack:
        bench = Bench(stack, quick, delay)
        for name in names:
            print(f"{name} (load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors)", flush=True)
            began, machine = time.monotonic(), Machine()
            try:
                results.append((name, await BENCHMARKS[name](bench)))
            except Exception:  # noqa: BLE001 - the other benchmarks are still worth their time
                traceback.print_exc()
                crashed.append(name)
            took = f"{time.monotonic() - began:.0f} s"
            print(f"  .. {took}, load average {os.getloadavg()[0]:.2f}, {machine}", flush=True)
    print()
    print_findings(results)
    for name in crashed:
        print(f"{name} crashed; logs are in {stack.folder}")
    if not crashed:
        shutil.rmtree(stack.folder, ignore_errors=True)
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
