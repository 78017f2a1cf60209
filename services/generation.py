"""What the platform knows about ``generation``: its kinds of job, and the checks that need the world."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from core.database import Database
from core.store import ArtifactStore
from domain.errors import FieldFault, InvalidInput, NotFound, SourceEmpty
from domain.generation import ArtifactSource, CourseInput, InlineSource
from domain.generation_plan import MOST_OUTPUT_TOKENS, most_lessons
from rendering.sources import decode_source, parse_source
from repositories.artifacts import ArtifactRepository
from services.approvals import course_wait, decide_course
from services.kinds import JobKind
from workflows.generation import COURSE_WORKFLOW, TASK_QUEUE

_LARGEST_SOURCE_BYTES: Final = 16_777_216
_LONGEST_CHECKED_CHARS: Final = 100_000


def course_kind(
    database: Database,
    store: ArtifactStore,
    *,
    default_model: str = "",
    most_output_tokens: Mapping[str, int] | None = None,
) -> JobKind:
    """``generation.course``. ``most_output_tokens`` is how long an answer may be, by model, where that is known."""
    check_sources, longest = SourceCheck(database, store), most_output_tokens or {}

    async def check(tenant_id: UUID, wanted: CourseInput) -> None:
        model = wanted.model or default_model
        _expect_outline_to_fit(wanted, longest.get(model, MOST_OUTPUT_TOKENS))
        await check_sources(tenant_id, wanted)

    return JobKind(
        name="generation.course",
        input_model=CourseInput,
        workflow=COURSE_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=_summary,
        budget=lambda wanted: wanted.budget_usd,
        check=check,
        consent=decide_course,
        waits=course_wait,
    )


def _summary(wanted: CourseInput) -> str:
    # The topic is the client's text and stays out of workflow history.
    size = f"{wanted.modules} x {wanted.lessons_per_module} lessons"
    return f"Course: {size}, {wanted.language}, {wanted.provider}"


def _expect_outline_to_fit(wanted: CourseInput, most_output_tokens: int) -> None:
    """Raise InvalidInput where the outline would be longer than any answer, so that the model would refuse it."""
    most = most_lessons(most_output_tokens)
    if wanted.provider == "offline" or wanted.modules * wanted.lessons_per_module <= most:
        return
    message = f"makes more lessons than an answer of the model can list; it can list {most}"
    raise InvalidInput("the course is too large for the model", faults=[FieldFault("/input/modules", message)])


class SourceCheck:
    """Refuses sources that cannot become a course, before the job is acknowledged."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    async def __call__(self, tenant_id: UUID, wanted: CourseInput) -> None:
        """Raise InvalidInput naming each source that is missing, too large, empty or not text."""
        faults = [] if wanted.sources or wanted.provider != "offline" else [_NO_SOURCES]
        for index, source in enumerate(wanted.sources):
            pointer = f"/input/sources/{index}"
            if isinstance(source, ArtifactSource):
                fault = await self._fault_of_artifact(tenant_id, source, f"{pointer}/artifact_id")
            else:
                fault = await asyncio.to_thread(_fault_of_text, source, f"{pointer}/text")
            faults += [fault] if fault else []
        if faults:
            raise InvalidInput("the sources cannot be used", faults=faults)

    async def _fault_of_artifact(self, tenant_id: UUID, source: ArtifactSource, pointer: str) -> FieldFault | None:
        try:
            async with self._database.tenant(tenant_id) as connection:
                artifact = await ArtifactRepository(connection).get_one(source.artifact_id)
            if artifact.bytes > _LARGEST_SOURCE_BYTES:
                return FieldFault(pointer, f"is larger than {_LARGEST_SOURCE_BYTES} bytes")
            raw = await self._store.get(artifact.store_key)
            text = decode_source(raw, name=artifact.name)
            await asyncio.to_thread(_expect_prose, artifact.name, artifact.media_type, text)
        except (NotFound, InvalidInput) as fault:
            return FieldFault(pointer, fault.detail)
        return None


def _expect_prose(name: str, media_type: str | None, text: str) -> None:
    # A long text has prose somewhere; cutting it up is for the worker.
    if len(text) <= _LONGEST_CHECKED_CHARS and not parse_source(name=name, media_type=media_type, text=text):
        raise SourceEmpty("has no text that a lesson could be made from")


_NO_SOURCES: Final = FieldFault("/input/sources", "the offline provider needs at least one source")


def _fault_of_text(source: InlineSource, pointer: str) -> FieldFault | None:
    try:
        _expect_prose(source.name, None, decode_source(source.text.encode(), name=source.name))
    except InvalidInput as fault:
        return FieldFault(pointer, fault.detail)
    return None
