"""Scenarios of evaluations, beside those of courses in ``record.py``."""

from collections.abc import Awaitable, Callable
from typing import Final

from temporalio.client import WorkflowHistory

from domain.errors import Outcome, ProviderError
from domain.jobs import JobAction, JobRef
from tests.support.course_service import Courses

Record = list[WorkflowHistory]
QUOTA: Final = ProviderError("quota used up", code="E.OPENAI.QUOTA", outcome=Outcome.REJECTED, retryable=False)
CASES: Final = ["en-candles", "ru-crossing", "en-stars"]


async def _start(courses: Courses) -> JobRef:
    return await courses.start_kind("generation.evaluation", {"cases": CASES, "samples": 2})


async def _history(courses: Courses, job: JobRef) -> Record:
    return [await courses.workflow(job).fetch_history()]


async def evaluated(courses: Courses) -> Record:
    """Six samples, two at once, with a pause among them, and a verdict."""
    courses.model.open.clear()
    job = await _start(courses)
    await courses.until_asked(2, within=90)
    await courses.act(job, JobAction.PAUSE)
    await courses.until_paused(job)
    courses.model.open.set()
    await courses.until(lambda: courses.model.in_progress == 0, within=90)
    await courses.act(job, JobAction.RESUME)
    await courses.until_status(job, "succeeded", within=90)
    return await _history(courses, job)


async def evaluation_failed(courses: Courses) -> Record:
    """A sample fails for good while another is in progress; no further one begins."""
    courses.model.failing_lesson, courses.model.fault = 2, QUOTA
    job = await _start(courses)
    await courses.until_status(job, "failed", within=90)
    return await _history(courses, job)


async def evaluation_canceled(courses: Courses) -> Record:
    """Canceled in the middle of samples."""
    courses.model.open.clear()
    job = await _start(courses)
    await courses.until_asked(2, within=90)
    await courses.act(job, JobAction.CANCEL)
    await courses.until_status(job, "canceled", within=90)
    courses.model.open.set()
    return await _history(courses, job)


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[Record]]]] = {
    scenario.__name__: scenario for scenario in (evaluated, evaluation_failed, evaluation_canceled)
}
