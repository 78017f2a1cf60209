"""A sample of an evaluation: one course of one golden case, made like every course, and its scores."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from activities.generation.wishes import lesson_of, lesson_wish, outline_wish
from activities.generation.writer import StructuredWriter
from domain.evaluation import GoldenCase, SampleResult
from domain.evaluation_measures import places_of, score
from domain.generation import Corpus, CourseInput, CourseOutline, DraftNote, LanguageModel, Lesson, Provenance
from domain.jobs import JobRef
from domain.model import Frozen
from rendering.sources import SourceText, build_corpus

EXTRACTIVE: Final = frozenset({"offline"})
"""Providers that only ever say what the source says."""


class SampleCourse(Frozen):
    """What was made of a case, kept for whoever wonders about its scores."""

    result: SampleResult
    outline: CourseOutline | None
    outline_draft: DraftNote | None
    lessons: tuple[tuple[Lesson, ...], ...]


@dataclass(frozen=True, slots=True)
class SampleMaker:
    """Makes one sample for a job. ``part`` goes into the op of every call: each sample is an effect of its own."""

    writer: StructuredWriter
    job: JobRef
    model: LanguageModel
    model_name: str
    case: GoldenCase
    wanted: CourseInput
    sample: int
    part: str

    async def make(self) -> SampleCourse:
        """The course and its scores. Calls that were paid for before are read back. Raises what the writer raises."""
        begun = time.monotonic()
        source = SourceText(name=self.case.source_name, text=self.case.source)
        corpus = await asyncio.to_thread(build_corpus, [source])
        wish = dataclasses.replace(outline_wish(self.wanted, corpus), sample=self.sample)
        written = await self.writer.write(self.job, f"{self.part}/outline", self.model, self.model_name, wish)
        outline = written.content
        lessons: tuple[tuple[Lesson, ...], ...] = ()
        if outline is not None:
            lessons = tuple([await self._module(corpus, outline, module) for module in range(len(outline.modules))])
        extractive = self.model.name in EXTRACTIVE
        scores, faults = await asyncio.to_thread(score, self.case, corpus, outline, lessons, extractive=extractive)
        result = SampleResult(
            case=self.case.name,
            case_sha256=self.case.sha256,
            sample=self.sample,
            status=written.status,
            scores=scores,
            faults=faults,
            places=() if outline is None else places_of(outline),
            seconds=time.monotonic() - begun,
            **_spent([written.provenance, *(lesson.provenance for module in lessons for lesson in module)]),
        )
        return SampleCourse(result=result, outline=outline, outline_draft=written.draft, lessons=lessons)

    async def _module(self, corpus: Corpus, outline: CourseOutline, module: int) -> tuple[Lesson, ...]:
        # One after the other: it is the samples that run side by side, and each is to be told apart in the ledger.
        planned = outline.modules[module].lessons
        return tuple([await self._lesson(corpus, outline, module, lesson) for lesson in range(len(planned))])

    async def _lesson(self, corpus: Corpus, outline: CourseOutline, module: int, lesson: int) -> Lesson:
        wish = dataclasses.replace(
            lesson_wish(self.wanted, corpus, outline, module=module, lesson=lesson), sample=self.sample
        )
        step = f"{self.part}/lesson-{module + 1}.{lesson + 1}"
        written = await self.writer.write(self.job, step, self.model, self.model_name, wish)
        return lesson_of(lesson, outline.modules[module].lessons[lesson], written)


def _spent(origins: Sequence[Provenance]) -> dict[str, Any]:
    return {
        "calls": sum(origin.calls for origin in origins),
        "input_tokens": sum(origin.input_tokens for origin in origins),
        "output_tokens": sum(origin.output_tokens for origin in origins),
        "cost_usd": sum((origin.cost_usd for origin in origins), Decimal(0)),
    }
