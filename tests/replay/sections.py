"""Histories of jobs on a course that is there already."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from temporalio.client import WorkflowHistory

from domain.jobs import JobRef
from tests.support.course_service import Courses

_COMMENT: Final = "The canary warden wants it shorter."


async def section(courses: Courses) -> list[WorkflowHistory]:
    """A lesson again with its slides and questions, and then the version."""
    course = await _course(courses)
    wish = {"course_id": str(course.job_id), "node": "lesson-1.1", "comment": _COMMENT}
    return await _history(courses, await courses.start_kind("generation.section", wish))


async def section_of_module(courses: Courses) -> list[WorkflowHistory]:
    """Two lessons of one module at once."""
    course = await _course(courses)
    wish = {"course_id": str(course.job_id), "node": "module-1", "comment": _COMMENT}
    return await _history(courses, await courses.start_kind("generation.section", wish))


async def version_exported(courses: Courses) -> list[WorkflowHistory]:
    """A version in another form."""
    course = await _course(courses)
    wish: dict[str, Any] = {"course_id": str(course.job_id), "version": 1, "exports": ["html"]}
    return await _history(courses, await courses.start_kind("generation.export", wish))


async def _course(courses: Courses) -> JobRef:
    job = await courses.start(modules=1, lessons=2, slides=True, quiz=True, exports=["json"])
    await courses.until_status(job, "succeeded", within=60)
    return job


async def _history(courses: Courses, job: JobRef) -> list[WorkflowHistory]:
    await courses.until_status(job, "succeeded", within=60)
    return [await courses.workflow(job).fetch_history()]


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[list[WorkflowHistory]]]]] = {
    scenario.__name__: scenario for scenario in (section, section_of_module, version_exported)
}
