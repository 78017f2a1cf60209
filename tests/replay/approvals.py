"""Courses that people agree to, for the histories to replay. What people say are canaries."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from temporalio.client import WorkflowHistory

from domain.jobs import JobAction, JobRef
from services.approvals import ApprovalService
from services.commands import CommandSender
from tests.support.approvals import until_asked
from tests.support.course_service import Courses


async def agreed(courses: Courses) -> list[WorkflowHistory]:
    """An outline that is rejected, one that is edited and approved, and a course that is approved."""
    editor = ApprovalService(
        courses.database, courses.store, CommandSender(courses.client, timeout=timedelta(seconds=9))
    )
    job = await courses.start(modules=1, lessons=1, approval={"outline": True, "final": True})
    await until_asked(courses, job, "outline")
    await courses.act(job, JobAction.REJECT, comment="More of the canary, please")
    await until_asked(courses, job, "outline", 2)
    shown = await editor.get_outline(job.tenant_id, job.job_id)
    mine = shown.kept.outline.model_copy(update={"title": "The warden and the canary"})
    await editor.put_outline(job.tenant_id, job.job_id, mine, seen=shown.row.content_sha256)
    await courses.act(job, JobAction.APPROVE, comment="The canary sings")
    await until_asked(courses, job, "course")
    await courses.act(job, JobAction.APPROVE)
    await courses.until_status(job, "succeeded", within=90.0)
    return [await courses.workflow(job).fetch_history()]


async def disagreed(courses: Courses) -> list[WorkflowHistory]:
    """A course that is rejected when it is done."""
    job = await courses.start(modules=1, lessons=1, approval={"final": True})
    await until_asked(courses, job, "course")
    await courses.act(job, JobAction.REJECT, comment="Too much of the canary")
    await courses.until_status(job, "failed", within=90.0)
    return [await courses.workflow(job).fetch_history()]


async def asked_again(courses: Courses) -> list[WorkflowHistory]:
    """The attempt after a no without a word. The committed one is from before a comment led to anything."""
    return [await courses.workflow(await _retried(courses, comment=None)).fetch_history()]


async def rewritten(courses: Courses) -> list[WorkflowHistory]:
    """The attempt after a no with a comment, in which the lesson is written anew and then approved."""
    job = await _retried(courses, comment="Too much of the canary")
    handles = [courses.workflow(job), courses.workflow(job, "/module-01.2")]
    return [await handle.fetch_history() for handle in handles]


async def _retried(courses: Courses, *, comment: str | None) -> JobRef:
    """A course that was rejected once, and approved in its second attempt."""
    job = await courses.start(modules=1, lessons=1, approval={"final": True})
    await until_asked(courses, job, "course")
    await courses.act(job, JobAction.REJECT, comment=comment)
    await courses.until_status(job, "failed", within=90.0)
    await courses.workflow(job).result()
    await courses.act(job, JobAction.RETRY)
    await until_asked(courses, job.model_copy(update={"attempt": 2}), "course", 2)
    await courses.act(job, JobAction.APPROVE)
    await courses.until_status(job, "succeeded", within=90.0)
    return job


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[list[WorkflowHistory]]]]] = {
    scenario.__name__: scenario for scenario in (agreed, disagreed, asked_again, rewritten)
}
