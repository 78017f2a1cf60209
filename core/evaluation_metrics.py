"""What operators measure about evaluation. Labels are providers, models and metrics: never a tenant or a case."""

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

_SUBJECT = ("provider", "model")


class EvaluationMetrics:
    """The series of a worker that judges evaluations.

    The counters of ``subjects`` - pairs of provider and model - begin at zero when the process does: an alert on an
    increase would not see a series that begins at one.
    """

    def __init__(self, registry: CollectorRegistry, subjects: Iterable[tuple[str, str]] = ()) -> None:
        self.regressions = Counter(
            "longhaul_evaluation_regressions", "Evaluations that found courses worse than before.", _SUBJECT,
            registry=registry,
        )  # fmt: skip
        self.below_floor = Counter(
            "longhaul_evaluation_below_floor", "Evaluations that found courses which are not good enough.", _SUBJECT,
            registry=registry,
        )  # fmt: skip
        self.scores = Gauge(
            "longhaul_evaluation_score",
            "Means over the golden cases of the evaluation judged latest by this process, from 0 to 1.",
            (*_SUBJECT, "metric"),
            registry=registry,
        )
        self.judged_at = Gauge(
            "longhaul_evaluation_judged_timestamp_seconds",
            "When this process judged its latest evaluation, since 1970.",
            _SUBJECT,
            registry=registry,
        )
        for provider, model in subjects:
            self.expect(provider=provider, model=model)

    def expect(self, *, provider: str, model: str) -> None:
        """An evaluation of this model may be judged here; its counters begin."""
        self.regressions.labels(provider, model)
        self.below_floor.labels(provider, model)

    def judged(
        self, *, provider: str, model: str, scores: Mapping[str, float], regressed: bool, below_floor: bool
    ) -> None:
        """Record the verdict on an evaluation, once in this process."""
        self.expect(provider=provider, model=model)
        if regressed:
            self.regressions.labels(provider, model).inc()
        if below_floor:
            self.below_floor.labels(provider, model).inc()
        for metric, score in scores.items():
            self.scores.labels(provider, model, metric).set(score)
        self.judged_at.labels(provider, model).set(time.time())
