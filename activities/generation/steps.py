"""The steps of a course job: sources, outline, lessons, export."""

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from temporalio import activity

from activities.generation.documents import DocumentStore
from activities.generation.wishes import Rejected, course_result, lesson_of, lesson_wish, outline_wish, render_all
from activities.generation.writer import StructuredWriter, Written
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from domain.approvals import Subject, outline_sha256
from domain.artifacts import Artifact, ArtifactRole
from domain.errors import ContentError
from domain.generation import (
    ApprovalWish,
    ArtifactSource,
    ContentStatus,
    Corpus,
    Course,
    CourseInput,
    CourseOutline,
    LanguageModel,
    Lesson,
    Module,
    Provenance,
)
from domain.generation_plan import (
    EXPORT_STEP,
    LESSON_PREFIX,
    OUTLINE_STEP,
    SOURCES_STEP,
    SPOILED_PREFIX,
    lesson_part,
    module_step,
    outline_part,
)
from domain.jobs import JobRef
from domain.model import Frozen
from prompts import course_lesson, course_outline, course_outline_revision
from rendering.exports import RenderedFile
from rendering.sources import SourceText, build_corpus, decode_source
from repositories.approvals import ApprovalRepository
from repositories.jobs import JobRepository
from repositories.steps import FinishedPart, StepResultRepository

_READS_AT_ONCE: Final = 16

_WHY_UNUSABLE: Final = {
    ContentStatus.DRAFT: ("E.GENERATION.INVALID", "the outline does not fit its schema, also after one repair"),
    ContentStatus.REFUSED: ("E.GENERATION.REFUSED", "the model refused to design the course"),
    ContentStatus.FILTERED: ("E.GENERATION.FILTERED", "the provider's content filter stopped the outline"),
    ContentStatus.TRUNCATED: ("E.GENERATION.TRUNCATED", "the outline was cut off at the token limit"),
}


class CourseStepInput(Frozen):
    """A step that needs no more than its job."""

    job: JobRef


class WriteOutlineInput(Frozen):
    """The outline is made from this corpus; from ``round`` two on because a person did not agree to those before."""

    job: JobRef
    corpus_id: UUID
    round: int = 1


class WriteOutlineResult(Frozen):
    """Where the outline is, how many lessons each module has, and how many lessons to write at once.

    ``approval`` says what a person is to agree to, where that was asked for, and ``content_sha256`` to which outline.
    """

    outline_id: UUID
    lessons: tuple[int, ...]
    fan_out: int
    approval: ApprovalWish | None = None
    content_sha256: str = ""


class WriteLessonInput(Frozen):
    """One lesson, by its place in the outline; counted from zero."""

    job: JobRef
    corpus_id: UUID
    outline_id: UUID
    module: int
    lesson: int


class WriteLessonResult(Frozen):
    """Where the lesson is and how good it is."""

    lesson_id: UUID
    status: ContentStatus


class ExportCourseInput(Frozen):
    """Everything the course is put together from."""

    job: JobRef
    corpus_id: UUID
    outline_id: UUID


class KeptOutline(Frozen):
    """An outline as it is stored between steps."""

    outline: CourseOutline
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a document belongs: the step it advances, its place in the job's memory, and what it was made from."""

    step: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A document about to be stored as an artifact, and the event that tells of it."""

    name: str
    body: Frozen
    role: ArtifactRole
    event: str
    data: dict[str, Any]


class GenerationActivities:
    """Steps of ``generation.course``. Each leaves its result in the object store and hands out a reference."""

    def __init__(
        self,
        keeper: StepKeeper,
        documents: DocumentStore,
        writer: StructuredWriter,
        models: Iterable[LanguageModel],
        *,
        lessons_at_once: int,
    ) -> None:
        self._keeper = keeper
        self._documents = documents
        self._writer = writer
        self._models = {model.name: model for model in models}
        self._lessons_at_once = lessons_at_once

    @activity.defn(name="prepare_sources")
    async def prepare_sources(self, step: CourseStepInput) -> UUID:
        """Cut all sources into sections; the id of the corpus."""
        job = step.job
        async with self._keeper.attempt(job, SOURCES_STEP), heartbeating():
            wanted = await self._documents.read_input(job)
            digest = input_hash(SOURCES_STEP)
            kept = await self._keeper.recall(job, SOURCES_STEP, digest)
            if kept is not None:
                return UUID(kept["artifact_id"])
            texts = [await self._read_source(job, source) for source in wanted.sources]
            corpus = await asyncio.to_thread(build_corpus, texts)
            data = {"sections": len(corpus.sections)}
            made = _Made("corpus.json", corpus, ArtifactRole.INTERNAL, "sources.prepared", data)
            return await self._finish(job, _Part(SOURCES_STEP, SOURCES_STEP, digest), made)

    @activity.defn(name="write_outline")
    async def write_outline(self, step: WriteOutlineInput) -> WriteOutlineResult:
        """Design the course. An outline that is not good is kept as a draft, and fails the job."""
        job = step.job
        async with self._keeper.attempt(job, OUTLINE_STEP), heartbeating():
            wanted = await self._documents.read_input(job)
            rejected = await self._rejected(job, step.round)
            digest = input_hash(OUTLINE_STEP, str(step.corpus_id), *_what_an_outline_depends_on(rejected))
            part = _Part(OUTLINE_STEP, outline_part(step.round), digest)
            kept = await self._keeper.recall(job, part.name, digest)
            if kept is None:
                corpus = await self._documents.read(job, step.corpus_id, Corpus)
                model, model_name = self._model(wanted)
                wish = outline_wish(wanted, corpus, spoiled=await self._count_spoiled(job), rejected=rejected)
                written = await self._writer.write(job, part.name, model, model_name, wish)
                kept = {"artifact_id": str(await self._keep_outline(job, part, written))}
            outline_id = UUID(kept["artifact_id"])
            outline = (await self._documents.read(job, outline_id, KeptOutline)).outline
            return WriteOutlineResult(
                outline_id=outline_id,
                lessons=tuple(len(module.lessons) for module in outline.modules),
                fan_out=self._lessons_at_once,
                approval=wanted.approval,
                content_sha256=outline_sha256(outline),
            )

    @activity.defn(name="write_lesson")
    async def write_lesson(self, step: WriteLessonInput) -> WriteLessonResult:
        """Write one lesson; visible as a partial result at once, also where it is only a draft."""
        job, part = step.job, lesson_part(step.module, step.lesson)
        async with self._keeper.attempt(job, module_step(step.module)), heartbeating():
            digest = lesson_digest(step, step.module, step.lesson)
            kept = await self._keeper.recall(job, part, digest)
            if kept is not None:
                return WriteLessonResult(lesson_id=kept["artifact_id"], status=kept["status"])
            lesson = await self._make_lesson(step)
            name = f"lessons/{step.module + 1:02}-{step.lesson + 1:02}.json"
            data = {"lesson": f"{step.module + 1}.{step.lesson + 1}", "title": lesson.title, "content": lesson.status}
            made = _Made(name, lesson, ArtifactRole.PARTIAL, "lesson.written", data)
            lesson_id = await self._finish(job, _Part(module_step(step.module), part, digest), made)
            return WriteLessonResult(lesson_id=lesson_id, status=lesson.status)

    @activity.defn(name="export_course")
    async def export_course(self, step: ExportCourseInput) -> None:
        """Put the course together and render it in every form asked for.

        The job's result is written here and not handed to the workflow: titles have no place in its history.
        """
        job = step.job
        async with self._keeper.attempt(job, EXPORT_STEP), heartbeating():
            digest = input_hash(EXPORT_STEP, str(step.outline_id))
            kept = await self._keeper.recall(job, EXPORT_STEP, digest)
            if kept is not None:
                return
            wanted = await self._documents.read_input(job)
            course = await self._assemble(step, wanted)
            files = await asyncio.to_thread(render_all, course, wanted)
            artifacts = await asyncio.gather(*(self._store_file(job, file) for file in files))
            result = course_result(course, artifacts)
            async with self._keeper.effect(job) as connection:
                earlier = await StepResultRepository(connection).get_or_none(job, EXPORT_STEP, digest)
                if earlier is not None:
                    return
                for artifact in artifacts:
                    await self._documents.add(connection, artifact)
                await self._keeper.finish_part(
                    connection, job, step=EXPORT_STEP, part=EXPORT_STEP, digest=digest, result=result,
                    event="course.exported", data={"files": [file.name for file in files]},
                )  # fmt: skip
                await JobRepository(connection).set_result(job.job_id, result)

    # --- sources ------------------------------------------------------------------------------------

    async def _read_source(self, job: JobRef, source: Any) -> SourceText:
        if isinstance(source, ArtifactSource):
            artifact, raw = await self._documents.read_bytes(job, source.artifact_id)
            return SourceText(
                name=artifact.name, media_type=artifact.media_type, text=decode_source(raw, name=artifact.name)
            )
        return SourceText(name=source.name, media_type=None, text=source.text)

    # --- models -------------------------------------------------------------------------------------

    def _model(self, wanted: CourseInput) -> tuple[LanguageModel, str]:
        model = self._models.get(wanted.provider)
        if model is None:
            raise ContentError(
                f"this worker has no credentials for the provider {wanted.provider}", code="E.OPENAI.NOT_CONFIGURED"
            )
        name = wanted.model or model.default_model
        model.price(name)  # raises PriceUnknown before anything is spent
        return model, name

    async def _make_lesson(self, step: WriteLessonInput) -> Lesson:
        job = step.job
        wanted = await self._documents.read_input(job)
        corpus = await self._documents.read(job, step.corpus_id, Corpus)
        outline = (await self._documents.read(job, step.outline_id, KeptOutline)).outline
        planned = outline.modules[step.module].lessons[step.lesson]
        model, model_name = self._model(wanted)
        wish = lesson_wish(wanted, corpus, outline, module=step.module, lesson=step.lesson)
        # The part, not the module's step, makes the call's op: each lesson is an effect of its own.
        written = await self._writer.write(job, lesson_part(step.module, step.lesson), model, model_name, wish)
        return lesson_of(step.lesson, planned, written)

    async def _rejected(self, job: JobRef, number: int) -> Rejected | None:
        """What people said about the outlines of the rounds before; None where this is the first."""
        if number == 1:
            return None
        async with self._keeper.effect(job) as connection:
            rounds = await ApprovalRepository(connection).get_rejected(job.job_id, Subject.OUTLINE, before=number)
        latest = await self._documents.read(job, rounds[-1].artifact_id, KeptOutline)
        return Rejected(outline=latest.outline, comments=tuple(row.comment or "" for row in rounds))

    async def _keep_outline(self, job: JobRef, part: _Part, written: Written[CourseOutline]) -> UUID:
        if written.content is None:
            await self._keep_bad_outline(job, written)
            code, detail = _WHY_UNUSABLE[written.status]
            raise ContentError(detail, code=code)
        outline = KeptOutline(outline=written.content, provenance=written.provenance)
        data = {"title": written.content.title, "modules": [module.title for module in written.content.modules]}
        made = _Made(f"{part.name}.json", outline, ArtifactRole.PARTIAL, "outline.written", data)
        return await self._finish(job, part, made)

    async def _keep_bad_outline(self, job: JobRef, written: Written[CourseOutline]) -> None:
        assert written.draft is not None
        artifact = await self._documents.store(job, "outline-draft.json", written.draft, ArtifactRole.PARTIAL)
        async with self._keeper.effect(job) as connection:
            await self._documents.add(connection, artifact)
            part = f"{SPOILED_PREFIX}{job.attempt}"
            await StepResultRepository(connection).add(job, part, "", {"artifact_id": str(artifact.id)})

    async def _count_spoiled(self, job: JobRef) -> int:
        async with self._keeper.effect(job) as connection:
            return len(await StepResultRepository(connection).get_by_prefix(job, SPOILED_PREFIX))

    # --- results ------------------------------------------------------------------------------------

    async def _finish(self, job: JobRef, part: _Part, made: _Made) -> UUID:
        """Store a document, and in one transaction name it, remember it and say so; the id that stands."""
        artifact = await self._documents.store(job, made.name, made.body, made.role)
        result = {"artifact_id": str(artifact.id), "status": made.data.get("content", ContentStatus.READY)}
        shown = {"artifact_id": str(artifact.id)} if made.role is ArtifactRole.PARTIAL else {}
        finished = FinishedPart(
            step=part.step, part=part.name, digest=part.digest, result=result,
            event=made.event, data={**made.data, **shown}, artifact=artifact,
        )  # fmt: skip
        if await self._keeper.finish_artifact(job, finished):
            return artifact.id
        earlier = await self._keeper.recall(job, part.name, part.digest)
        assert earlier is not None
        return UUID(earlier["artifact_id"])

    async def _store_file(self, job: JobRef, file: RenderedFile) -> Artifact:
        return await self._documents.store_bytes(job, file.name, file.media_type, file.body, ArtifactRole.EXPORT)

    async def _assemble(self, step: ExportCourseInput, wanted: CourseInput) -> Course:
        job = step.job
        kept = await self._documents.read(job, step.outline_id, KeptOutline)
        corpus = await self._documents.read(job, step.corpus_id, Corpus)
        lessons = await self._read_lessons(step, kept.outline)
        modules = tuple(
            Module(index=index, title=module.title, summary=module.summary, lessons=lessons[index])
            for index, module in enumerate(kept.outline.modules)
        )
        origins = [kept.provenance, *(lesson.provenance for module in lessons for lesson in module)]
        return Course(
            id=job.job_id,
            title=kept.outline.title,
            description=kept.outline.description,
            topic=wanted.topic,
            audience=wanted.audience,
            language=wanted.language,
            level=wanted.level,
            modules=modules,
            sources=tuple(dict.fromkeys(section.source for section in corpus.sections)),
            outline_provenance=kept.provenance,
            # And not now: another attempt at the export makes the same bytes.
            generated_at=max(origin.generated_at for origin in origins),
        )

    async def _read_lessons(self, step: ExportCourseInput, outline: CourseOutline) -> list[tuple[Lesson, ...]]:
        async with self._keeper.effect(step.job) as connection:
            kept = await StepResultRepository(connection).get_by_prefix(step.job, LESSON_PREFIX)
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(module: int, lesson: int) -> Lesson:
            async with gate:
                found = kept[lesson_part(module, lesson)]
                return await self._documents.read(step.job, UUID(found["artifact_id"]), Lesson)

        lessons = [
            (index, lesson) for index, module in enumerate(outline.modules) for lesson in range(len(module.lessons))
        ]
        found = iter(await asyncio.gather(*(read(*place) for place in lessons)))
        return [tuple(itertools.islice(found, len(module.lessons))) for module in outline.modules]


def _what_an_outline_depends_on(rejected: Rejected | None) -> tuple[Any, ...]:
    if rejected is None:
        return (course_outline.PROMPT.sha256,)
    before = [outline_sha256(rejected.outline), *rejected.comments]
    return course_outline.PROMPT.sha256, course_outline_revision.PROMPT.sha256, before


def lesson_digest(step: WriteLessonInput, module: int, lesson: int) -> str:
    """Everything a lesson depends on, apart from its job: the plan, the material and the prompt."""
    place = lesson_part(module, lesson)
    return input_hash(place, str(step.outline_id), str(step.corpus_id), course_lesson.PROMPT.sha256)
