"""Time-outs and retries, by what a call does. No activity is called without one of these."""

from datetime import timedelta
from typing import Final, TypedDict

from temporalio.common import RetryPolicy


class ActivityOptions(TypedDict, total=False):
    """Keyword arguments of ``workflow.execute_activity`` and its kin."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


class LocalOptions(TypedDict, total=False):
    """Keyword arguments of ``workflow.execute_local_activity`` and its kin."""

    start_to_close_timeout: timedelta
    local_retry_threshold: timedelta
    retry_policy: RetryPolicy


RECORD: Final[LocalOptions] = {
    "start_to_close_timeout": timedelta(seconds=10),
    "local_retry_threshold": timedelta(seconds=5),
    "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)),
}
"""A short transaction in our database, which must not be given up: retried for as long as it takes."""

MODEL_CALL: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=20),
    "heartbeat_timeout": timedelta(seconds=15),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60), maximum_attempts=30
    ),
}
"""A call to a model provider, after a wait for a slot among the calls of its job.

About half an hour of outage is ridden out, then the job fails and can be retried.
"""

COMPUTE: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=10),
    "heartbeat_timeout": timedelta(seconds=15),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=20
    ),
}
"""Work on our own data: parsing, rendering, storing."""

ROUND: Final[ActivityOptions] = {
    **COMPUTE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=150
    ),
}
"""As COMPUTE, on what participants have sent and cannot be asked for again.

More than an hour of outage is ridden out. There is an end all the same, as what is broken would never stop: then the
job fails, and where it is retried it goes on in the middle of the round.
"""

FLUSH: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=5),
    "heartbeat_timeout": timedelta(seconds=10),
    "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=20)),
}
"""Bringing acknowledged records home, which must not be given up: retried for as long as it takes."""
TURN: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=1),
    "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)),
}
"""Waiting for one's turn: tried again for as long as it takes."""

SEND: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(seconds=90),
    "heartbeat_timeout": timedelta(seconds=10),
    "retry_policy": RetryPolicy(maximum_interval=timedelta(seconds=1), maximum_attempts=1),
}
"""A call that cannot be taken back: one attempt. What became of it, where nobody says, is found out by looking."""

LOOK: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=1),
    "retry_policy": RetryPolicy(maximum_interval=timedelta(seconds=1), maximum_attempts=1),
}
"""A look at an outside system. One that fails has seen nothing, and the next one follows by itself."""

REPEATABLE: Final[ActivityOptions] = {
    "start_to_close_timeout": timedelta(minutes=1),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=60
    ),
}
"""A change of an outside system that may be made again: pinning, deleting, editing. About an hour of outage."""


def within(preset: ActivityOptions, longest: timedelta | None) -> ActivityOptions:
    """The preset, given up after ``longest`` with all its tries; None: as it is. It bounds more and loosens nothing."""
    return preset if longest is None else {**preset, "schedule_to_close_timeout": longest}
