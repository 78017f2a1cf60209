"""The one translation from domain errors to Temporal failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from domain.errors import TITLES, LonghaulError, ProviderError

_MOST_DOUBLINGS: Final = 64
"""No pause grows for longer; some activities are tried for ever, and powers have an end."""


def may_retry(error: LonghaulError) -> bool:
    """Whether the same activity may succeed when it is tried again."""
    return error.may_retry if isinstance(error, ProviderError) else error.retryable


def to_failure(error: LonghaulError) -> ApplicationError:
    """The Temporal failure for a domain error: its type is the code, its message the detail."""
    return ApplicationError(
        error.detail,
        type=error.code,
        non_retryable=not may_retry(error),
        next_retry_delay=_named_pause(error),
    )


@contextmanager
def as_failures() -> Iterator[None]:
    """Domain errors leave as Temporal failures."""
    try:
        yield
    except LonghaulError as error:
        raise to_failure(error) from error


def problem(code: str, detail: str) -> dict[str, Any]:
    """A failure as it is kept with a job and shown to clients (RFC 9457, without the request's own members)."""
    return {"type": f"urn:longhaul:error:{code}", "title": TITLES.get(code, code), "detail": detail, "code": code}


def next_retry_at(error: LonghaulError | None) -> datetime | None:
    """When Temporal is going to try the running activity again after this error; None where it is not."""
    info = activity.info()
    policy = info.retry_policy
    if policy is None or (error is not None and not may_retry(error)):
        return None
    if policy.maximum_attempts and info.attempt >= policy.maximum_attempts:
        return None
    pause = None if error is None else _named_pause(error)
    return datetime.now(UTC) + (_own_pause(policy, info.attempt) if pause is None else pause)


def _named_pause(error: LonghaulError) -> timedelta | None:
    """How long to wait because the error says so; None: as long as the retry policy says.

    What an outside system names is the least: short pauses, named again and again, would use up all attempts within
    seconds. Our own errors know for what they wait, and how often to look.
    """
    named = error.retry_after
    if named is None or not isinstance(error, ProviderError) or not activity.in_activity():
        return named
    info = activity.info()
    return named if info.retry_policy is None else max(named, _own_pause(info.retry_policy, info.attempt))


def _own_pause(policy: RetryPolicy, attempt: int) -> timedelta:
    """How long Temporal waits after this attempt where nobody names a pause."""
    grown = policy.initial_interval.total_seconds() * policy.backoff_coefficient ** min(attempt - 1, _MOST_DOUBLINGS)
    longest = policy.maximum_interval or policy.initial_interval * 100
    return timedelta(seconds=min(grown, longest.total_seconds()))
