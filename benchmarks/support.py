"""What all benchmarks share: a stack of their own, processes beside it, processor times, and the table at the end."""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.stack.processes import ChildProcess
from tests.support.stack import RunningStack

ROOT: Final = Path(__file__).resolve().parents[1]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_ANSWER_LIMIT: Final = 256 * 1024 * 1024

# Settings are those of development, but for logs as production writes them and limits that no benchmark may meet.
_OVERRIDES: Final = {
    "LONGHAUL_RECONCILE_INTERVAL_SECONDS": "10",
    "LONGHAUL_RATE_LIMIT": "100000000/minute",
    "LONGHAUL_LOG_FORMAT": "json",
    "LONGHAUL_TELEGRAM_PER_TOKEN_SECOND": "0",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A number, and what it should be; ``at_least`` or ``at_most`` where something is claimed."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The claim in a few characters."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def verdict(self) -> str:
        """``pass``, ``MISS``, or nothing where nothing is claimed."""
        if not self.target:
            return ""
        low = self.at_least is not None and self.value < self.at_least
        high = self.at_most is not None and self.value > self.at_most
        return "MISS" if low or high else "pass"


@dataclass
class Bench:
    """What a benchmark works with."""

    stack: RunningStack
    quick: bool
    delay: float = 1.0
    """Seconds that the stand-in for OpenAI takes for a call."""

    @property
    def key(self) -> str:
        """The Authorization header of the first tenant."""
        return str(self.stack.http.headers["Authorization"])

    @property
    def port(self) -> int:
        """The port of the API."""
        return int(self.stack.base_url.rpartition(":")[2])

    def say(self, line: str) -> None:
        """Print a line of progress."""
        print(f"  .. {line}", flush=True)

    def child(self, name: str, *arguments: str) -> ChildProcess:
        """A process beside the stack, not yet started; it ends with us whatever happens."""
        return ChildProcess(
            self.stack.folder / name, argv=[sys.executable, *arguments], env=dict(os.environ), cwd=ROOT, grace=5
        )


Benchmark = Callable[[Bench], Awaitable[list[Finding]]]


@asynccontextmanager
async def benchmark_stack(*, delay: float = 1.0) -> AsyncIterator[RunningStack]:
    """A stack on free ports in a folder of its own, which the caller may remove afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="longhaul-bench-"))
    # As in an image or under `make up`: the sandbox loads workflow modules from bytecode, on every side.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    stack = RunningStack(folder, overrides=_OVERRIDES, standin_delay=delay)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


class Load:
    """The process that makes the load."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def perform(self, what: str, **task: Any) -> dict[str, Any]:
        """Have a task done (see ``benchmarks.load``). Raises RuntimeError where it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **task}).encode() + b"\n")
        await self._process.stdin.drain()
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        if "failed" in answer:
            raise RuntimeError(f"{what}: {answer['failed']}")
        return answer


@asynccontextmanager
async def load_process() -> AsyncIterator[Load]:
    """A load generator, stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=_ANSWER_LIMIT,
    )  # fmt: skip
    try:
        yield Load(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


@asynccontextmanager
async def running(child: ChildProcess) -> AsyncIterator[ChildProcess]:
    """A child that runs inside the block."""
    await asyncio.to_thread(child.start)
    try:
        yield child
    finally:
        await asyncio.to_thread(child.stop)


# --- what processes use -----------------------------------------------------------------------------


def cpu_seconds(*children: Any) -> float:
    """User and system time of processes so far, all their threads included."""
    return sum(_cpu_seconds_of(child.pid) for child in children)


def _cpu_seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def tree_cpu_seconds(pid: int) -> float:
    """The same of a process with its children, those that have ended included: PostgreSQL."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(number) for number in fields[11:15]) / _TICKS
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(tree_cpu_seconds(int(child)) for child in children if Path(f"/proc/{child}").exists())


class Machine:
    """How busy the whole machine has been since this was made: shared ones are, and not with us alone."""

    def __init__(self) -> None:
        self._before = _machine_ticks()

    def __str__(self) -> str:
        used, stolen, total = (now - then for now, then in zip(_machine_ticks(), self._before, strict=True))
        return f"machine {used / max(total, 1):.0%} busy, {stolen / max(total, 1):.0%} stolen"


def _machine_ticks() -> tuple[int, int, int]:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, idle, waiting, irq, softirq, stolen = (int(field) for field in fields)
    used = user + nice + system + irq + softirq
    return used, stolen, used + idle + waiting + stolen


def resident_bytes(child: ChildProcess) -> int:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- numbers ----------------------------------------------------------------------------------------


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of ours to theirs; each round measured both in the same minute."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which so large a share lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def print_findings(results: Sequence[tuple[str, Sequence[Finding]]]) -> None:
    """Print the table."""
    rows = [("", "", "measured", "target", "")]
    for name, findings in results:
        rows += [
            (name, one.what + (f" ({one.note})" if one.note else ""), _shown(one), one.target, one.verdict)
            for one in findings
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = (
            cell.rjust(w) if column == 2 else cell.ljust(w)
            for column, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def _shown(finding: Finding) -> str:
    value = finding.value
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {finding.unit}".rstrip()
