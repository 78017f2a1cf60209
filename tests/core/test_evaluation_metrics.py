from prometheus_client import CollectorRegistry

from core.evaluation_metrics import EvaluationMetrics


def test_counters_begin_at_zero_so_that_an_increase_can_be_seen() -> None:
    registry = CollectorRegistry()
    metrics = EvaluationMetrics(registry, [("openai", "gpt-x")])
    labels = {"provider": "openai", "model": "gpt-x"}
    assert registry.get_sample_value("longhaul_evaluation_regressions_total", labels) == 0
    assert registry.get_sample_value("longhaul_evaluation_below_floor_total", labels) == 0
    metrics.judged(provider="openai", model="gpt-x", scores={"coverage": 0.5}, regressed=True, below_floor=False)
    assert registry.get_sample_value("longhaul_evaluation_regressions_total", labels) == 1
    assert registry.get_sample_value("longhaul_evaluation_below_floor_total", labels) == 0
    assert registry.get_sample_value("longhaul_evaluation_score", {**labels, "metric": "coverage"}) == 0.5
    assert (registry.get_sample_value("longhaul_evaluation_judged_timestamp_seconds", labels) or 0.0) > 0
