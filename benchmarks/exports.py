"""Exports: a course of a hundred lessons in every form and both profiles, in a process of its own."""

import asyncio
import json
import resource
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from benchmarks.support import ROOT, Bench, Finding
from domain.generation import (
    ContentStatus,
    Course,
    Export,
    KeyTerm,
    Lesson,
    LessonBlock,
    LessonContent,
    Module,
    Provenance,
)
from rendering.course_parts import Profile
from rendering.exports import render

_MODULES: Final = 10
_LESSONS: Final = 10
_PROFILES: Final[tuple[Profile, ...]] = ("full", "minimal")
_MOMENT: Final = datetime(2026, 11, 1, tzinfo=UTC)
_SENTENCE: Final = "Whatever was written down before the process ended is still there when the next one begins. "


async def run(bench: Bench) -> list[Finding]:
    """Time and memory of everything, once a round; a fresh process each, for memory is not given back."""
    rounds = [await _round() for _ in range(1 if bench.quick else 3)]
    wall = min(one["wall"] for one in rounds)
    slowest = max(rounds[0]["seconds"], key=rounds[0]["seconds"].get)
    note = f"{rounds[0]['cpu']:.1f} s of CPU; the slowest is {slowest}"
    return [
        Finding(f"{_MODULES * _LESSONS} lessons, {len(Export)} exports, {len(_PROFILES)} profiles", wall, "s",
                at_most=10, note=note),
        Finding("memory of the process at its most", max(one["bytes"] for one in rounds) / 1e6, "MB", at_most=300),
    ]  # fmt: skip


async def _round() -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.exports", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the process that exports failed")
    found: dict[str, Any] = json.loads(said)
    return found


def _course() -> Course:
    modules = (
        Module(
            index=index,
            title=f"Module {index + 1}: what outlives a process",
            summary=_SENTENCE * 2,
            lessons=tuple(_lesson(place) for place in range(_LESSONS)),
        )
        for index in range(_MODULES)
    )
    return Course(
        id=UUID(int=1), title="Durable work", description=_SENTENCE * 3, topic="Durable work", audience="operators",
        language="en", level="beginner", modules=tuple(modules), sources=("source.md",),
        outline_provenance=_provenance(), generated_at=_MOMENT,
    )  # fmt: skip


def _lesson(index: int) -> Lesson:
    blocks = tuple(
        LessonBlock(
            heading=f"Part {part + 1} of lesson {index + 1}",
            paragraphs=(_SENTENCE * 4, _SENTENCE * 3),
            bullets=(_SENTENCE, _SENTENCE * 2) if part % 2 else (),
        )
        for part in range(5)
    )
    content = LessonContent(
        title=f"Lesson {index + 1}", summary=_SENTENCE, blocks=blocks, key_points=(_SENTENCE,) * 4,
        terms=(KeyTerm(term="History", definition=_SENTENCE),) * 3,
    )  # fmt: skip
    return Lesson(
        index=index, title=f"Lesson {index + 1}", objectives=("Name what a crash destroys",) * 3,
        status=ContentStatus.READY, content=content, section_ids=("s1",), provenance=_provenance(),
    )  # fmt: skip


def _provenance() -> Provenance:
    return Provenance(
        provider="offline", model="extractive-1", prompt_id="course-lesson", prompt_version="1",
        prompt_sha256="0" * 64, input_tokens=1_000, output_tokens=500, cost_usd=Decimal(0), calls=1, cached=False,
        generated_at=_MOMENT,
    )  # fmt: skip


def main() -> None:
    """Export everything and print what it took."""
    course = _course()
    seconds: dict[str, float] = {}
    began, cpu = time.perf_counter(), time.process_time()
    for export in Export:
        for profile in _PROFILES:
            start = time.perf_counter()
            render(course, export=export, profile=profile)
            seconds[f"{export.value} {profile}"] = time.perf_counter() - start
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "bytes": most, "seconds": seconds}))


if __name__ == "__main__":
    main()
