"""The report of a run: everything that was found, its verdict, and the sentence that explains it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from domain.evaluation import Change, EvaluationReport, FloorFault, SampleResult
from domain.evaluation_statistics import (
    by_case,
    compare,
    floor_faults,
    judge,
    overall,
    report_case,
    values_of,
    wilson,
)

_MOST_NAMED: Final = 8
_MOST_CASES: Final = 3


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run apart from its samples; see EvaluationReport."""

    job_id: UUID
    golden_set: str
    checksum: str
    provider: str
    model: str
    samples: int
    extractive: bool
    prompts: dict[str, str]
    baseline_job_id: UUID | None
    judged_at: datetime


def make_report(facts: RunFacts, samples: Sequence[SampleResult], before: Sequence[SampleResult]) -> EvaluationReport:
    """Judge the samples of a run, against those of its baseline where there are any. The same ones, the same report.

    Raises ValueError where there is no sample at all.
    """
    if not samples:
        raise ValueError("no samples, no report")
    found, earlier = by_case(samples), by_case(before)
    cases = tuple(report_case(name, ours) for name, ours in found.items())
    scores = overall(cases)
    changes = compare(
        {name: values_of(ours) for name, ours in found.items()},
        {name: values_of(theirs) for name, theirs in earlier.items()},
    )
    floors = floor_faults(scores, cases, extractive=facts.extractive)
    return EvaluationReport(
        **asdict(facts),
        verdict=judge(changes, floors),
        scores=scores,
        passed=wilson(sum(not sample.faults for sample in samples), len(samples)),
        cases=cases,
        changes=changes,
        floors=floors,
        calls=sum(case.calls for case in cases),
        input_tokens=sum(case.input_tokens for case in cases),
        output_tokens=sum(case.output_tokens for case in cases),
        cost_usd=sum((case.cost_usd for case in cases), Decimal(0)),
    )


def explain(changes: Sequence[Change], floors: Sequence[FloorFault]) -> str:
    """Which cases and metrics a verdict is about, in a sentence; '' where all is well."""
    fallen = [
        f"{change.metric} of {change.case or 'all cases'} fell from {change.before:.3f} to {change.now:.3f}"
        + (f" (most in {', '.join(change.worst)})" if change.worst else "")
        for change in changes
        if change.worse
    ]
    low = [
        f"{fault.metric} is {fault.mean:.3f}, below its floor of {fault.floor:.2f}"
        f" (in {', '.join(fault.cases[:_MOST_CASES])})"
        for fault in floors
    ]
    named = [*fallen, *low]
    more = len(named) - _MOST_NAMED
    return "; ".join(named[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
