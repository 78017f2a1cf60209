"""What a participant measures."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0)


class ParticipantMetrics:
    """The series of one process, however many virtual participants run in it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.training = Histogram(
            "training_duration_seconds", "Time of one local training.", ("family",), buckets=_BUCKETS, registry=registry
        )
        self.uploads = Counter(
            "upload_attempts", "Attempts to hand in an update, by how they ended.", ("result",), registry=registry
        )
        self.breaker = Gauge(
            "breaker_state", "Circuit breaker of uploads: 0 closed, 1 half open, 2 open.", registry=registry
        )
