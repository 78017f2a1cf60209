"""What operators measure about federated learning. Labels are phases, outcomes and reasons: never a model or a name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PHASE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400)
_BYTE_BUCKETS = tuple(float(4**power) for power in range(5, 15))


class IngestMetrics:
    """The series of a process that takes updates: the API."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leases = Counter("fl_assignments", "Leases, by what became of them.", ("state",), registry=registry)
        self.refused = Counter(
            "fl_updates_rejected", "Updates that were not accepted, by reason.", ("reason",), registry=registry
        )
        self.bytes = Histogram(
            "fl_update_bytes", "Length of accepted updates.", buckets=_BYTE_BUCKETS, registry=registry
        )
        self.predictions = Counter("predictions", "Samples that were answered for.", ("family",), registry=registry)


class CycleMetrics:
    """The series of a process that carries cycles: the worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.phases = Histogram(
            "fl_round_seconds", "How long each phase of a round took.", ("phase",), buckets=_PHASE_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.rounds = Counter("fl_rounds", "Rounds, by how they ended.", ("outcome",), registry=registry)
        self.aggregation = Histogram(
            "fl_aggregation_seconds", "How long the arithmetic took.", buckets=_PHASE_BUCKETS, registry=registry
        )
        self.aggregation_peak = Gauge(
            "fl_aggregation_peak_bytes", "Resident memory of the process after the latest aggregation, at its peak.",
            registry=registry,
        )  # fmt: skip
        self.head = Gauge("fl_head_version", "Number of the version published latest.", registry=registry)
        self.evaluation = Gauge("fl_eval", "Latest held-out metric, by its name.", ("metric",), registry=registry)
        self.epsilon = Gauge("fl_epsilon", "Privacy spent by the latest private round.", registry=registry)
