"""What the platform knows about jobs on a course that is there already, and the checks that need the world."""

from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.course_graph import NodeKind, belongs_to, kind_of, place_of, whole_of
from domain.errors import FieldFault, InvalidInput, NotFound
from domain.generation import CourseInput
from domain.sections import EXPORT_KIND, SECTION_KIND, SectionInput, VersionExportInput, may_be_missing
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository
from repositories.waits import get_asked_or_none
from services.kinds import JobKind
from workflows.generation import TASK_QUEUE
from workflows.section import EXPORT_WORKFLOW, SECTION_WORKFLOW

_NO_COURSE: Final = FieldFault("/input/course_id", "there is no such course, or its outline is not written yet")


def section_kind(database: Database) -> JobKind:
    """``generation.section``."""
    return JobKind(
        name=SECTION_KIND,
        input_model=SectionInput,
        workflow=SECTION_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=lambda wish: f"Section: {wish.node}",
        budget=lambda wish: wish.budget_usd,
        check=SectionCheck(database),
        accompany=_limit_as_its_course,
        waits=get_asked_or_none,
    )


def export_kind(database: Database) -> JobKind:
    """``generation.export``."""
    return JobKind(
        name=EXPORT_KIND,
        input_model=VersionExportInput,
        workflow=EXPORT_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=lambda wish: f"Export: version {wish.version}",
        check=ExportCheck(database),
    )


async def _limit_as_its_course(connection: AsyncConnection, _tenant_id: UUID, job_id: UUID, wish: SectionInput) -> None:
    if wish.budget_usd is None:
        await JobRepository(connection).inherit_budget(job_id, of=wish.course_id)


class SectionCheck:
    """Refuses parts of a course that are not there, before the job is acknowledged."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, tenant_id: UUID, wish: SectionInput) -> None:
        """Raise InvalidInput naming the course or the node that cannot be made again."""
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            try:
                course = await courses.get(wish.course_id)
            except NotFound:
                raise InvalidInput("the course cannot be changed", faults=[_NO_COURSE]) from None
            known = {node.key for node in await courses.get_tree(wish.course_id)}
            wanted = CourseInput.model_validate(await JobRepository(connection).get_input(wish.course_id))
        fault = node_fault(wish.node, known, wanted, is_made=course.latest_version > 0)
        faults = [] if fault is None else [FieldFault("/input/node", fault)]
        if wish.over(wanted).provider == "offline" and wish.model is not None and wish.provider is None:
            faults.append(FieldFault("/input/model", "the offline provider has no choice of models"))
        if faults:
            raise InvalidInput("the part of the course cannot be made again", faults=faults)


def node_fault(node: str, known: set[str], wanted: CourseInput, *, is_made: bool) -> str | None:
    """Why a node cannot be made again; None where it can. ``is_made``: the course itself makes nothing more."""
    if kind_of(node) is NodeKind.MODULE:
        written = any(kind_of(key) is NodeKind.LESSON and belongs_to(key, node) for key in known)
        return None if node in known and written else "has no written lesson, or there is no such module"
    lesson_is_there = node.partition("/")[0] in known
    if node in known or (is_made and lesson_is_there and may_be_missing(node, wanted)):
        return None
    try:
        place_of(node)
    except ValueError:
        return "is not a node of this course"
    if not lesson_is_there:
        return "belongs to a lesson that is not written yet, or there is no such lesson"
    asked = {
        NodeKind.SLIDES: wanted.slides,
        NodeKind.QUIZ: wanted.quiz,
        NodeKind.AUDIO: wanted.speech is not None,
        NodeKind.VIDEO: wanted.video is not None,
    }
    if kind_of(node) is kind_of(whole_of(node)) and not asked[kind_of(node)]:
        return "was not asked for with the course"
    return "is not written yet, or there is no such part"


class ExportCheck:
    """Refuses versions that are not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, tenant_id: UUID, wish: VersionExportInput) -> None:
        """Raise InvalidInput naming the course or the version that cannot be handed out."""
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            try:
                await courses.get(wish.course_id)
                await courses.get_version(wish.course_id, wish.version)
            except NotFound as fault:
                pointer = "/input/version" if "version" in fault.detail else "/input/course_id"
                raise InvalidInput(
                    "the version cannot be exported", faults=[FieldFault(pointer, fault.detail)]
                ) from None
