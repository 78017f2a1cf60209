"""From samples to a verdict: means with their intervals, comparison with an earlier run, floors.

Everything is seeded by what it is about, so the same samples always lead to the same verdict.
"""

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from domain.evaluation import (
    CaseReport,
    Change,
    Estimate,
    FloorFault,
    Metric,
    SampleResult,
    Scores,
    Verdict,
)
from domain.evaluation_measures import stability

_ROUNDS: Final = 1_000
_LEVEL: Final = 0.95
_NORMAL_QUANTILE: Final = 1.959964
_MOST_WORST: Final = 3
_FEWEST_PAIRS: Final = 5
"""A mean over fewer cases is not judged: two that fall by chance are nothing rare."""

CASE_MARGIN: Final[Scores] = {
    Metric.COMPLETENESS: 0.05,
    Metric.CONSTRAINTS: 0.05,
    Metric.FAITHFULNESS: 0.05,
    Metric.COVERAGE: 0.10,
    Metric.STABILITY: 0.30,
}
"""How much worse one case may become, where the interval of the difference lies below zero."""

SET_MARGIN: Final[Scores] = {
    Metric.COMPLETENESS: 0.02,
    Metric.CONSTRAINTS: 0.02,
    Metric.FAITHFULNESS: 0.02,
    Metric.COVERAGE: 0.04,
    Metric.STABILITY: 0.10,
}
"""How much worse the mean over all cases may become, where its interval lies below zero."""

_FLOOR: Final[Scores] = {
    Metric.COMPLETENESS: 0.95,
    Metric.CONSTRAINTS: 0.90,
    Metric.FAITHFULNESS: 0.05,
    Metric.COVERAGE: 0.60,
    Metric.STABILITY: 0.30,
}
_EXTRACTIVE_FAITHFULNESS: Final = 0.99

Values = Mapping[Metric, Sequence[float]]
"""The values of one case: a score a sample, and an agreement a pair of samples."""


# --- intervals --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scatter:
    """A standard deviation, and how many values more than means it was taken from."""

    deviation: float
    freedom: int


def bootstrap_mean(values: Sequence[float], *, seed: str, rounds: int = _ROUNDS, level: float = _LEVEL) -> Estimate:
    """The mean of ``values`` with its percentile interval. Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values, no mean")
    mean = statistics.fmean(values)
    if min(values) == max(values):
        return Estimate(mean=mean, low=mean, high=mean, n=len(values))
    dice = random.Random(seed)  # noqa: S311 - seeded on purpose
    means = [statistics.fmean(dice.choices(values, k=len(values))) for _ in range(rounds)]
    ordered = sorted(means)
    cut = int(len(ordered) * (1 - level) / 2)
    return Estimate(mean=mean, low=ordered[cut], high=ordered[-cut - 1], n=len(values))


def scatter_of(groups: Iterable[Sequence[float]]) -> Scatter:
    """How much values scatter inside their groups, taken over all groups: three samples alone would tell too little."""
    squares, freedom = 0.0, 0
    for values in groups:
        freedom += len(values) - 1
        if min(values) < max(values):  # the mean of equal values may differ from them in its last digit
            mean = statistics.fmean(values)
            squares += sum((value - mean) ** 2 for value in values)
    return Scatter(math.sqrt(squares / freedom) if freedom else 0.0, freedom)


def difference_of(now: Sequence[float], before: Sequence[float], *, usual: Scatter, comparisons: int = 1) -> Estimate:
    """The difference of two means, now less before, whose samples know nothing of each other.

    The interval holds for all of so many ``comparisons`` at once (Bonferroni). It takes the usual scatter, or that of
    these samples where it is more. Where nobody has a second sample, no scatter is known and it has no width.
    """
    if not now or not before:
        raise ValueError("no values, no difference")
    difference = statistics.fmean(now) - statistics.fmean(before)
    own = scatter_of((now, before))
    spread = max(usual.deviation, own.deviation) * math.sqrt(1 / len(now) + 1 / len(before))
    reach = student_quantile(1 - (1 - _LEVEL) / (2 * comparisons), usual.freedom) * spread if spread else 0.0
    n = min(len(now), len(before))
    return Estimate(mean=difference, low=difference - reach, high=difference + reach, n=n)


def student_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t, by the expansion around the normal one; within a few percent from four on."""
    z = statistics.NormalDist().inv_cdf(share)
    v = max(freedom, 1)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def wilson(successes: int, n: int) -> Estimate:
    """A share with its Wilson interval, which does not collapse where all or none of a few succeeded."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError("a share needs trials, and not more successes than trials")
    share, square = successes / n, _NORMAL_QUANTILE**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    reach = _NORMAL_QUANTILE / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return Estimate(mean=share, low=max(0.0, centre - reach), high=min(1.0, centre + reach), n=n)


# --- a run ------------------------------------------------------------------------------------------


def by_case(samples: Sequence[SampleResult]) -> dict[str, list[SampleResult]]:
    """The samples of each case, cases by name and samples by number."""
    found: dict[str, list[SampleResult]] = {}
    for sample in sorted(samples, key=lambda one: (one.case, one.sample)):
        found.setdefault(sample.case, []).append(sample)
    return found


def values_of(samples: Sequence[SampleResult]) -> dict[Metric, list[float]]:
    """Every value of one case by metric; without a second sample there is no stability."""
    values = {
        metric: [sample.scores[metric] for sample in samples] for metric in Metric if metric is not Metric.STABILITY
    }
    agreements = stability([sample.places for sample in samples])
    return values | ({Metric.STABILITY: agreements} if agreements else {})


def report_case(case: str, samples: Sequence[SampleResult]) -> CaseReport:
    """What the samples of a case showed."""
    return CaseReport(
        case=case,
        scores={
            metric: bootstrap_mean(values, seed=f"{case}/{metric}") for metric, values in values_of(samples).items()
        },
        passed=wilson(sum(not sample.faults for sample in samples), len(samples)),
        faults=tuple(sorted({fault for sample in samples for fault in sample.faults})),
        calls=sum(sample.calls for sample in samples),
        input_tokens=sum(sample.input_tokens for sample in samples),
        output_tokens=sum(sample.output_tokens for sample in samples),
        cost_usd=sum((sample.cost_usd for sample in samples), Decimal(0)),
        seconds=bootstrap_mean([sample.seconds for sample in samples], seed=f"{case}/seconds"),
    )


def overall(cases: Sequence[CaseReport]) -> dict[Metric, Estimate]:
    """Means over the cases: it is the cases that are drawn again, since they differ more than their samples do."""
    return {
        metric: bootstrap_mean([case.scores[metric].mean for case in cases], seed=f"all/{metric}")
        for metric in Metric
        if all(metric in case.scores for case in cases)
    }


# --- comparison -------------------------------------------------------------------------------------


def compare(now: Mapping[str, Values], before: Mapping[str, Values]) -> tuple[Change, ...]:
    """Every metric of every case that both runs have, and each metric paired over all of them; the whole set first."""
    both = sorted(now.keys() & before.keys())
    single: list[Change] = []
    whole: list[Change] = []
    pairs = {metric: [case for case in both if metric in now[case] and metric in before[case]] for metric in Metric}
    comparisons = sum(map(len, pairs.values()))
    for metric, cases in pairs.items():
        usual = scatter_of(run[case][metric] for case in cases for run in (now, before))
        changes = [
            _case_change(
                metric,
                case,
                difference_of(now[case][metric], before[case][metric], usual=usual, comparisons=comparisons),
                before=statistics.fmean(before[case][metric]),
                now=statistics.fmean(now[case][metric]),
            )
            for case in cases
        ]
        single += changes
        if len(changes) >= _FEWEST_PAIRS:
            whole.append(_set_change(metric, changes))
    return (*whole, *single)


def _case_change(metric: Metric, case: str, difference: Estimate, *, before: float, now: float) -> Change:
    return Change(
        metric=metric,
        case=case,
        before=before,
        now=now,
        difference=difference,
        worse=_below(difference.mean, -CASE_MARGIN[metric]) and _below(difference.high, 0),
    )


def _set_change(metric: Metric, changes: Sequence[Change]) -> Change:
    """Paired: each case is compared with itself, so what makes cases differ does not hide a change."""
    level = 1 - (1 - _LEVEL) / len(Metric)
    moves = [change.difference.mean for change in changes]
    difference = bootstrap_mean(moves, seed=f"all/{metric}/difference", level=level)
    worse = _below(difference.mean, -SET_MARGIN[metric]) and _below(difference.high, 0)
    fallen = sorted((change for change in changes if change.difference.mean < 0), key=lambda one: one.difference.mean)
    return Change(
        metric=metric,
        case=None,
        before=statistics.fmean(change.before for change in changes),
        now=statistics.fmean(change.now for change in changes),
        difference=difference,
        worse=worse,
        worst=tuple(change.case for change in fallen[:_MOST_WORST] if change.case is not None),
    )


def _below(value: float, bound: float) -> bool:
    """Whether a value is beyond a bound by more than arithmetic can do."""
    return value < bound and not math.isclose(value, bound, abs_tol=1e-9)


def floor_of(metric: Metric, *, extractive: bool) -> float:
    """The least that the mean over all cases has to be."""
    return _EXTRACTIVE_FAITHFULNESS if extractive and metric is Metric.FAITHFULNESS else _FLOOR[metric]


def floor_faults(
    scores: Mapping[Metric, Estimate], cases: Sequence[CaseReport], *, extractive: bool
) -> tuple[FloorFault, ...]:
    """The metrics that are not good enough whatever earlier runs were like."""
    faults = []
    for metric, estimate in scores.items():
        floor = floor_of(metric, extractive=extractive)
        if _below(estimate.mean, floor):
            low = tuple(case.case for case in cases if _below(case.scores[metric].mean, floor))
            faults.append(FloorFault(metric=metric, floor=floor, mean=estimate.mean, cases=low))
    return tuple(faults)


def judge(changes: Sequence[Change], floors: Sequence[FloorFault]) -> Verdict:
    """A regression is named as one, also where a floor is broken as well."""
    if any(change.worse for change in changes):
        return Verdict.REGRESSED
    return Verdict.BELOW_FLOOR if floors else Verdict.GOOD
