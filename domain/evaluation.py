"""Evaluation: what is asked for, the golden cases, and what a run of them found. The arithmetic lies next door."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, field_validator, model_validator

from domain.generation import ContentStatus, CourseInput, InlineSource
from domain.jobs import StepPlan
from domain.model import Frozen
from domain.text import Line, Prose, check_language

KIND: Final = "generation.evaluation"
MAX_SAMPLES_OF_A_RUN: Final = 400
"""Cases times samples; each is one activity, so this keeps the history of a run short."""

MAX_LESSONS_OF_A_CASE: Final = 10

PREPARE_STEP: Final = "prepare"
SAMPLES_STEP: Final = "samples"
JUDGE_STEP: Final = "judge"

CaseName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,59}$")]


class EvaluationInput(Frozen):
    """Input of ``generation.evaluation``.

    ``cases`` chooses some of the golden set; None takes all. ``baseline`` is what the run is compared with: the last
    good run over the same cases, provider and model, nothing at all (then only the floors count, and a good run is
    the new beginning), or the job id of a judged run over the same cases.
    """

    golden_set: CaseName = "core"
    cases: Annotated[tuple[CaseName, ...], Field(min_length=1, max_length=200)] | None = None
    provider: Literal["offline", "openai"] = "offline"
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")] | None = None
    samples: Annotated[int, Field(ge=1, le=20)] = 3
    budget_usd: Annotated[Decimal, Field(gt=0, le=10_000, max_digits=12, decimal_places=6)] | None = None
    baseline: UUID | Literal["last", "none"] = "last"

    @field_validator("cases")
    @classmethod
    def _each_once(cls, cases: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if cases is not None and len(set(cases)) != len(cases):
            raise ValueError("names a case twice")
        return cases


# --- the golden set ---------------------------------------------------------------------------------


class GoldenCase(Frozen):
    """A text of our own, the course to be made of it, and what a good course has to show."""

    name: CaseName
    topic: Annotated[Line, Field(max_length=200)]
    audience: Annotated[Line, Field(max_length=200)] = "general audience"
    language: Annotated[str, StringConstraints(max_length=35)]
    level: Literal["beginner", "intermediate", "advanced"] = "beginner"
    modules: Annotated[int, Field(ge=1, le=5)]
    lessons_per_module: Annotated[int, Field(ge=1, le=5)]
    lesson_words: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
    """The fewest and the most words that a lesson of this course may have."""
    key_points: Annotated[tuple[Prose, ...], Field(min_length=1, max_length=20)]
    """Each is a few words, in any form, that have to stand together in one paragraph or point of the course."""
    forbidden: tuple[Line, ...] = ()
    """What no title, objective or summary may say: it would show that the source was obeyed instead of read."""
    source_name: Line
    source: Prose

    _language = field_validator("language")(check_language)

    @model_validator(mode="after")
    def _consistent(self) -> "GoldenCase":
        if self.modules * self.lessons_per_module > MAX_LESSONS_OF_A_CASE:
            raise ValueError(f"a case has at most {MAX_LESSONS_OF_A_CASE} lessons, which are written in one go")
        if self.lesson_words[0] > self.lesson_words[1]:
            raise ValueError("a lesson cannot need more words than it may have")
        return self

    @property
    def sha256(self) -> str:
        """The checksum of everything about the case."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def course(self, *, provider: Literal["offline", "openai"], model: str | None) -> CourseInput:
        """The course to make, exactly as a job of ``generation.course`` would ask for it."""
        return CourseInput(
            topic=self.topic,
            audience=self.audience,
            language=self.language,
            level=self.level,
            modules=self.modules,
            lessons_per_module=self.lessons_per_module,
            sources=(InlineSource(name=self.source_name, text=self.source),),
            provider=provider,
            model=model,
        )


class GoldenSet(Frozen):
    """Cases under one name, sorted by theirs."""

    name: CaseName
    cases: Annotated[tuple[GoldenCase, ...], Field(min_length=1)]

    def chosen(self, names: tuple[str, ...] | None) -> tuple[GoldenCase, ...]:
        """The cases of these names in the order of the set; None: all. Raises KeyError for a name that is unknown."""
        if names is None:
            return self.cases
        missing = set(names) - {case.name for case in self.cases}
        if missing:
            raise KeyError(", ".join(sorted(missing)))
        return tuple(case for case in self.cases if case.name in names)


def checksum(cases: tuple[GoldenCase, ...]) -> str:
    """The identity of what is measured: two runs can be compared where it is the same."""
    return hashlib.sha256("\n".join(f"{case.name} {case.sha256}" for case in cases).encode()).hexdigest()


# --- what is measured -------------------------------------------------------------------------------


class Metric(StrEnum):
    """What is measured of a course, each from 0 to 1 and better the higher it is."""

    COMPLETENESS = "completeness"
    CONSTRAINTS = "constraints"
    FAITHFULNESS = "faithfulness"
    COVERAGE = "coverage"
    STABILITY = "stability"


Scores = Mapping[Metric, float]
Place = tuple[str, int, int]
"""A section of the source, and the module and lesson it was given to, counted from zero."""


class SampleResult(Frozen):
    """One course made of one case. ``status`` is that of its outline; without one there is nothing else.

    ``faults`` names the checks that failed by id, such as ``lesson-1.2/words``. ``seconds`` is the time of the
    attempt that finished the sample, answers from an earlier attempt included at no time.
    """

    case: CaseName
    case_sha256: str
    sample: Annotated[int, Field(ge=1)]
    status: ContentStatus
    scores: dict[Metric, float]
    faults: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    seconds: float = 0.0


# --- what was found ---------------------------------------------------------------------------------


class Verdict(StrEnum):
    """How a run that finished within its budget was judged. Only GOOD ones are a baseline for others."""

    GOOD = "good"
    REGRESSED = "regressed"
    BELOW_FLOOR = "below_floor"


class Estimate(Frozen):
    """A mean of ``n`` values with the interval in which it lies, at 95 % unless said otherwise."""

    mean: float
    low: float
    high: float
    n: int


class CaseReport(Frozen):
    """What the samples of one case showed. ``passed`` is the share of samples without a single fault."""

    case: CaseName
    scores: dict[Metric, Estimate]
    passed: Estimate
    faults: tuple[str, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    seconds: Estimate


class Change(Frozen):
    """How a metric moved since the baseline: of one case, or paired over all cases where ``case`` is None.

    ``worst`` names, for all cases, those that fell furthest.
    """

    metric: Metric
    case: CaseName | None
    before: float
    now: float
    difference: Estimate
    worse: bool
    worst: tuple[CaseName, ...] = ()


class FloorFault(Frozen):
    """A metric whose mean over all cases lies below what is acceptable of any run, and the cases below it."""

    metric: Metric
    floor: float
    mean: float
    cases: tuple[CaseName, ...]


class EvaluationReport(Frozen):
    """Everything about a run, as it is handed out."""

    schema_version: Literal["1"] = "1"
    job_id: UUID
    golden_set: CaseName
    checksum: str
    provider: str
    model: str
    samples: int
    extractive: bool
    """Whether every sentence is to be found in the source; otherwise faithfulness is an overlap of word triples."""
    prompts: dict[str, str]
    """The version of each prompt by its id."""
    verdict: Verdict
    baseline_job_id: UUID | None
    scores: dict[Metric, Estimate]
    """Means over the cases."""
    passed: Estimate
    cases: tuple[CaseReport, ...]
    changes: tuple[Change, ...]
    floors: tuple[FloorFault, ...]
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    judged_at: datetime

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(change for change in self.changes if change.worse)


def evaluation_steps(cases: int, samples: int) -> tuple[StepPlan, ...]:
    """The steps of a run of so many cases, each made so many times."""
    return (
        StepPlan(name=SAMPLES_STEP, title="Samples", weight=0.96, total=cases * samples),
        StepPlan(name=JUDGE_STEP, title="Verdict", weight=0.02),
    )
