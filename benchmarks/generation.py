"""Courses: how close they come to their critical path, and how long the histories of a large one grow."""

import random
import statistics
import time
from dataclasses import dataclass
from math import ceil
from typing import Any, Final
from uuid import UUID, uuid4

from benchmarks.support import Bench, Finding, cpu_seconds, tree_cpu_seconds
from core.settings import Settings
from core.temporal import connect, create_data_converter
from domain.jobs import workflow_id

_FAN_OUT: Final = int(Settings.model_fields["generation_fan_out"].default)
_SOURCE_CHARS: Final = 200_000
_TENTH_OF_EVENTS: Final = 5_120
_TENTH_OF_BYTES: Final = 5_000_000
_KIND: Final = "generation.course"

_SUBJECTS: Final = (
    "the queue",
    "a worker",
    "the history",
    "a timer",
    "the ledger",
    "each lesson",
    "a signal",
    "the store",
)
_VERBS: Final = ("keeps", "orders", "records", "follows", "returns", "completes", "observes", "releases", "compares")
_OBJECTS: Final = (
    "every promise",
    "the next attempt",
    "a small result",
    "its own number",
    "the oldest claim",
    "open work",
)
_TAILS: Final = ("before anybody asks", "while others wait", "after a restart", "in order of arrival", "without a gap")


async def run(bench: Bench) -> list[Finding]:
    """100 lessons in even modules, then in modules that do not divide by the fan-out."""
    findings = []
    for modules, lessons in ((10, 10), (7, 14)):
        walls = []
        for _ in range(1 if bench.quick else 3):
            _, wall = await make_course(bench, modules, lessons, provider="openai", text=text_of(4_000))
            walls.append(wall)
            bench.say(f"{modules} x {lessons}: {wall:.2f} s")
        critical = bench.delay * (1 + ceil(modules * lessons / _FAN_OUT))
        findings.append(
            Finding(
                f"wall time of the critical path's, {modules} x {lessons} lessons, fan-out {_FAN_OUT}",
                statistics.median(walls) / critical, "x", at_most=1.15,
                note=f"{statistics.median(walls):.2f} s against {critical:g} s",
            )
        )  # fmt: skip
    return findings


async def run_histories(bench: Bench) -> list[Finding]:
    """A thousand lessons from a real amount of text, and every history that this leaves in Temporal."""
    modules, lessons = (10, 20) if bench.quick else (50, 20)
    stack = bench.stack
    assert stack.postgres.pid is not None
    before, server = cpu_seconds(stack.api, stack.worker), cpu_seconds(stack.temporal)
    database = tree_cpu_seconds(stack.postgres.pid)
    job, wall = await make_course(bench, modules, lessons, provider="offline", text=text_of(_SOURCE_CHARS))
    cpu, server = cpu_seconds(stack.api, stack.worker) - before, cpu_seconds(stack.temporal) - server
    database = tree_cpu_seconds(stack.postgres.pid) - database
    made = modules * lessons
    bench.say(f"{modules} x {lessons}: {wall:.1f} s")
    findings = []
    for history in await _histories(bench, job["id"]):
        whose = f"{history.workflow}, the longest of {history.runs}"
        findings += [
            Finding(f"events of {whose}", history.events, at_most=_TENTH_OF_EVENTS),
            Finding(f"bytes of {whose}", history.bytes, at_most=_TENTH_OF_BYTES),
        ]
    shares = f"Temporal {1e3 * server / made:.1f}, PostgreSQL {1e3 * database / made:.1f}"
    return [
        *findings,
        Finding(f"wall time of {made} lessons", wall, "s", note=f"{made / wall:.0f} lessons/s"),
        Finding("CPU a lesson, API + worker", 1e3 * cpu / made, "ms", note=shares),
    ]


async def make_course(
    bench: Bench, modules: int, lessons: int, *, provider: str, text: str
) -> tuple[dict[str, Any], float]:
    """A course; the seconds from before the POST until it is seen to have succeeded."""
    wish = {
        "topic": f"A benchmark {uuid4().hex}",  # otherwise the answers would come from the cache
        "provider": provider,
        "modules": modules,
        "lessons_per_module": lessons,
        "sources": [{"name": "source.md", "text": text}],
    }
    began = time.perf_counter()
    job = await bench.stack.post(_KIND, wish)
    done = await _wait(bench, job["id"])
    wall = time.perf_counter() - began
    if done["status"] != "succeeded":
        raise RuntimeError(f"the course ended as {done['status']}: {done['error']}")
    return done, wall


async def _wait(bench: Bench, job_id: str) -> dict[str, Any]:
    """Wait on the event stream, which ends with the job."""
    url = f"/jobs/{job_id}/events"
    async with bench.stack.http.stream("GET", url, headers={"Accept": "text/event-stream"}, timeout=600) as answer:
        async for _ in answer.aiter_lines():
            pass
    return await bench.stack.get(job_id)


@dataclass(frozen=True, slots=True)
class _History:
    """The longest history of all runs of one workflow type."""

    workflow: str
    runs: int
    events: int
    bytes: int


async def _histories(bench: Bench, job_id: str) -> list[_History]:
    client = await connect(bench.stack.temporal.address, namespace="default", converter=create_data_converter(None))
    query = f'WorkflowId STARTS_WITH "{workflow_id(_KIND, UUID(job_id))}"'
    found: dict[str, list[tuple[int, int]]] = {}
    async for run in client.list_workflows(query):
        description = await client.get_workflow_handle(run.id, run_id=run.run_id).describe()
        sizes = (description.history_length, description.raw_info.history_size_bytes)
        found.setdefault(run.workflow_type, []).append(sizes)
    return [
        _History(name, len(sizes), max(events for events, _ in sizes), max(size for _, size in sizes))
        for name, sizes in sorted(found.items())
    ]


def text_of(chars: int) -> str:
    """A text of about that length: chapters, sections and paragraphs of sentences that all differ."""
    dice = random.Random(7)
    parts: list[str] = []
    length, number = 0, 0
    while length < chars:
        number += 1
        heading = (
            f"{'#' if number % 10 == 1 else '##'} Part {number}: how {dice.choice(_SUBJECTS)} {dice.choice(_VERBS)}"
        )
        part = "\n\n".join([heading, *(_paragraph(dice) for _ in range(3))])
        parts.append(part)
        length += len(part) + 2
    return "\n\n".join(parts)


def _paragraph(dice: random.Random) -> str:
    sentences = (
        f"{dice.choice(_SUBJECTS)} {dice.choice(_VERBS)} {dice.choice(_OBJECTS)} {dice.choice(_TAILS)}, and number "
        f"{dice.randrange(10_000)} {dice.choice(_VERBS)} {dice.choice(_OBJECTS)}.".capitalize()
        for _ in range(5)
    )
    return " ".join(sentences)
