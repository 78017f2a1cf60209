"""The one translation from domain errors to Temporal failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError

from domain.errors import TITLES, LonghaulError, ProviderError

_MOST_DOUBLINGS: Final = 20


def may_retry(error: LonghaulError) -> bool:
    """Whether the same activity may succeed when it is tried again."""
    return error.may_retry if isinstance(error, ProviderError) else error.retryable


def to_failure(error: LonghaulError) -> ApplicationError:
    """The Temporal failure for a domain error: its type is the code, its message the detail."""
    return ApplicationError(
        error.detail,
        type=error.code,
        non_retryable=not may_retry(error),
        next_retry_delay=error.retry_after,
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
    if error is not None and error.retry_after is not None:
        return datetime.now(UTC) + error.retry_after
    # No pause is that long: beyond it the power would only leave what a length of time can hold.
    delay = policy.initial_interval * policy.backoff_coefficient ** min(info.attempt - 1, _MOST_DOUBLINGS)
    longest = policy.maximum_interval or policy.initial_interval * 100
    return datetime.now(UTC) + min(delay, longest, key=timedelta.total_seconds)
