"""When to try again, and when to stop trying for a while."""

import random
import time
from collections.abc import Callable
from enum import IntEnum


class BackOff:
    """Exponential back-off with full jitter: any time between none and a bound that doubles up to a cap."""

    def __init__(self, base_seconds: float = 1.0, cap_seconds: float = 300.0, rng: random.Random | None = None) -> None:
        self._base = base_seconds
        self._cap = cap_seconds
        self._rng = rng or random.SystemRandom()
        self._failures = 0

    def next_delay(self) -> float:
        """Seconds to wait after one more failure."""
        bound = min(self._cap, self._base * 2 ** min(self._failures, 62))
        self._failures += 1
        return self._rng.uniform(0, bound)

    def reset(self) -> None:
        """It worked: begin again at the base."""
        self._failures = 0


class BreakerState(IntEnum):
    """What a breaker lets through; the numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """A circuit breaker: after some failures in a row nothing passes for a while, then one probe decides."""

    def __init__(
        self,
        failures: int = 5,
        open_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._on_change = on_change
        self._failures = 0
        self._opened_at = 0.0
        self._state = BreakerState.CLOSED
        on_change(self._state)

    @property
    def state(self) -> BreakerState:
        """What is let through now."""
        return self._state

    def seconds_until_probe(self) -> float:
        """How long nothing passes yet; zero where something may be tried."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._clock())

    def allows(self) -> bool:
        """Whether to try now; where the time has come, what follows is the probe."""
        if self.seconds_until_probe() > 0:
            return False
        if self._state is BreakerState.OPEN:
            self._become(BreakerState.HALF_OPEN)
        return True

    def succeeded(self) -> None:
        """The other side answered."""
        self._failures = 0
        self._become(BreakerState.CLOSED)

    def failed(self) -> None:
        """The other side did not answer, or said that it cannot."""
        self._failures += 1
        if self._failures >= self._limit:  # a failed probe is one more on top
            self._opened_at = self._clock()
            self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        if state is not self._state:
            self._state = state
            self._on_change(state)
