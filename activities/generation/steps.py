"""The steps of a course job: sources, outline, lessons, export."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from temporalio import activity

from activities.generation.assembly import CourseAssembler, KeptOutline
from activities.generation.documents import DocumentStore
from activities.generation.models import Models
from activities.generation.revisions import SpoiledAnswers, put_back, revised
from activities.generation.wishes import Rejected, course_result, lesson_of, lesson_wish, outline_wish, render_all
from activities.generation.writer import StructuredWriter, Wish, Written
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from core.database import Statement
from domain.approvals import Subject, outline_sha256
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeMade, TreeNode, lesson_key, place_of
from domain.course_nodes import lesson_nodes, outline_nodes
from domain.errors import ContentError
from domain.generation import (
    ApprovalWish,
    ArtifactSource,
    ContentStatus,
    Corpus,
    CourseOutline,
    Lesson,
)
from domain.generation_plan import (
    EXPORT_STEP,
    LESSON_PREFIX,
    OUTLINE_STEP,
    SOURCES_STEP,
    SPOILED_PREFIX,
    LessonPart,
    lesson_part,
    lesson_parts,
    module_step,
    outline_part,
)
from domain.guarding import Finding, Verdict
from domain.jobs import JobRef
from domain.model import Frozen
from prompts import course_lesson, course_outline, revision
from rendering.exports import RenderedFile
from rendering.sources import SourceText, build_corpus, decode_source
from repositories.approvals import ApprovalRepository
from repositories.courses import CourseRepository, course_statement, revisions_statement
from repositories.jobs import JobRepository
from repositories.steps import FinishedPart, StepResultRepository

PartT = TypeVar("PartT", bound=Frozen)

_READS_AT_ONCE: Final = 16

_WHY_UNUSABLE: Final = {
    ContentStatus.DRAFT: ("E.GENERATION.INVALID", "the outline does not fit its schema, also after one repair"),
    ContentStatus.REFUSED: ("E.GENERATION.REFUSED", "the model refused to design the course"),
    ContentStatus.FILTERED: ("E.GENERATION.FILTERED", "the provider's content filter stopped the outline"),
    ContentStatus.TRUNCATED: ("E.GENERATION.TRUNCATED", "the outline was cut off at the token limit"),
}
_BLOCKED: Final = ("E.GENERATION.BLOCKED", "the tenant's content policy stopped the outline")


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

    ``parts`` is what to make of every lesson once it is written, in order; ``video`` says that it is filmed then.
    ``approval`` says what a person is to agree to, where that was asked for, and ``content_sha256`` to which outline.
    """

    outline_id: UUID
    lessons: tuple[int, ...]
    fan_out: int
    parts: tuple[LessonPart, ...] = ()
    video: bool = False
    approval: ApprovalWish | None = None
    content_sha256: str = ""


class WriteLessonInput(Frozen):
    """One lesson, by its place in the outline; counted from zero.

    ``is_last`` says that nothing more is made of the lesson: with this it counts as done. ``before_id`` is the lesson
    as it stands, where a job makes it anew.
    """

    job: JobRef
    corpus_id: UUID
    outline_id: UUID
    module: int
    lesson: int
    is_last: bool = True
    before_id: UUID | None = None


class WriteLessonResult(Frozen):
    """Where the lesson is and how good it is."""

    lesson_id: UUID
    status: ContentStatus


class ExportCourseInput(Frozen):
    """Everything the course is put together from; ``again`` where it was exported before and was edited since."""

    job: JobRef
    corpus_id: UUID
    outline_id: UUID
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a document belongs: the step it advances, its place in the job's memory, and what it was made from."""

    step: str
    name: str
    digest: str
    advances: bool = True


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
        models: Models,
        *,
        lessons_at_once: int,
    ) -> None:
        self._keeper = keeper
        self._documents = documents
        self._writer = writer
        self._models = models
        self._lessons_at_once = lessons_at_once
        self._assembler = CourseAssembler(documents)
        self._spoiled = SpoiledAnswers(keeper, documents)

    @activity.defn(name="prepare_sources")
    async def prepare_sources(self, step: CourseStepInput) -> UUID:
        """Cut all sources into sections; the id of the corpus."""
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, SOURCES_STEP):
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
        async with heartbeating(), self._keeper.attempt(job, OUTLINE_STEP):
            wanted = await self._documents.read_input(job)
            rejected = await self._rejected(job, step.round)
            digest = input_hash(OUTLINE_STEP, str(step.corpus_id), *_what_an_outline_depends_on(rejected))
            part = _Part(OUTLINE_STEP, outline_part(step.round), digest)
            kept = await self._keeper.recall(job, part.name, digest)
            if kept is None:
                corpus = await self._documents.read(job, step.corpus_id, Corpus)
                model, model_name = self._models.chosen(wanted)
                wish = outline_wish(wanted, corpus, spoiled=await self._count_spoiled(job), rejected=rejected)
                written = await self._writer.write(job, part.name, model, model_name, wish)
                kept = {"artifact_id": str(await self._keep_outline(job, part, step.corpus_id, written))}
            outline_id = UUID(kept["artifact_id"])
            outline = (await self._documents.read(job, outline_id, KeptOutline)).outline
            return WriteOutlineResult(
                outline_id=outline_id,
                lessons=tuple(len(module.lessons) for module in outline.modules),
                fan_out=self._lessons_at_once,
                parts=lesson_parts(wanted),
                video=wanted.video is not None,
                approval=wanted.approval,
                content_sha256=outline_sha256(outline),
            )

    @activity.defn(name="write_lesson")
    async def write_lesson(self, step: WriteLessonInput) -> WriteLessonResult:
        """Write one lesson; visible as a partial result at once, also where it is only a draft."""
        job, part = step.job, lesson_part(step.module, step.lesson)
        digest = lesson_digest(step, step.module, step.lesson)
        async with (
            self._keeper.attempt(job, module_step(step.module), part=part, digest=digest) as kept,
            heartbeating(),
        ):
            if kept is not None:
                return WriteLessonResult(lesson_id=kept["artifact_id"], status=kept["status"])
            lesson, made_of, keeping = await self._make_lesson(step)
            if step.before_id is not None and lesson.content is None:
                await self._spoiled.refuse(job, part, lesson, lesson.status, lesson.findings)
            name = f"lessons/{step.module + 1:02}-{step.lesson + 1:02}.json"
            data = {"lesson": f"{step.module + 1}.{step.lesson + 1}", "title": lesson.title, "content": lesson.status}
            made = _Made(name, lesson, ArtifactRole.PARTIAL, "lesson.written", data)

            def nodes(artifact_id: UUID) -> list[NodeMade]:
                return lesson_nodes(step.module, lesson, input_hash=made_of, artifact_id=artifact_id)

            # Nothing is made of a lesson that is not ready, so that it is done with this.
            done = step.is_last or lesson.status is not ContentStatus.READY
            place = _Part(module_step(step.module), part, digest, done)
            lesson_id = await self._finish(job, place, made, *keeping, nodes=nodes)
            return WriteLessonResult(lesson_id=lesson_id, status=lesson.status)

    @activity.defn(name="export_course")
    async def export_course(self, step: ExportCourseInput) -> None:
        """Put the course together and render it in every form asked for.

        The job's result is written here and not handed to the workflow: titles have no place in its history.
        """
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, EXPORT_STEP):
            number = await self._latest_version(job) if step.again else None
            part = EXPORT_STEP if number is None else f"{EXPORT_STEP}-{number}"
            digest = input_hash(part, str(step.outline_id))
            kept = await self._keeper.recall(job, part, digest)
            if kept is not None:
                # The end of an attempt that failed has taken the result away.
                async with self._keeper.effect(job) as connection:
                    await JobRepository(connection).set_result(job.job_id, kept)
                return
            wanted = await self._documents.read_input(job)
            version = await self._freeze(step) if number is None else await self._version(job, number)
            course = await self._assembler.assemble(job, corpus_id=step.corpus_id, tree=version.tree)
            files = await asyncio.to_thread(render_all, course, wanted)
            artifacts = await asyncio.gather(*(self._store_file(job, file) for file in files))
            result = {
                "course_id": str(job.job_id), "version": version.number, **course_result(course, artifacts)
            }  # fmt: skip
            result["guarding"] = await self._writer.guard.sum_up(job, wanted.provider)
            async with self._keeper.effect(job) as connection:
                earlier = await StepResultRepository(connection).get_or_none(job, part, digest)
                if earlier is not None:
                    return
                for artifact in artifacts:
                    await self._documents.add(connection, artifact)
                for export, artifact in zip(dict.fromkeys(wanted.exports), artifacts, strict=True):
                    await CourseRepository(connection).add_export(
                        job.tenant_id, job.job_id, version.number,
                        export=export, profile=wanted.profile, artifact_id=artifact.id,
                    )  # fmt: skip
                await self._keeper.finish_part(
                    connection, job, step=EXPORT_STEP, part=part, digest=digest, result=result,
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

    # --- lessons ------------------------------------------------------------------------------------

    async def _make_lesson(self, step: WriteLessonInput) -> tuple[Lesson, str, Sequence[Statement]]:
        """A lesson, the digest of everything that it was made from, and what else is to be kept with it."""
        job, part = step.job, lesson_part(step.module, step.lesson)
        wanted = await self._documents.read_input(job)
        corpus = await self._documents.read(job, step.corpus_id, Corpus)
        outline = (await self._documents.read(job, step.outline_id, KeptOutline)).outline
        planned = outline.modules[step.module].lessons[step.lesson]
        model, model_name = self._models.chosen(wanted)
        wish: Wish[Any] = lesson_wish(wanted, corpus, outline, module=step.module, lesson=step.lesson)
        anew = await self._documents.revision_of(job, lesson_key(step.module, step.lesson))
        before = None
        findings: tuple[Finding, ...] = ()
        if anew is not None and step.before_id is not None:
            earlier = await self._documents.read(job, step.before_id, Lesson)
            before, findings = earlier.content, earlier.findings
            wish = revised(wish, anew, before, spoiled=await self._spoiled.count(job, part))
        # The part, not the module's step, makes the call's op: each lesson is an effect of its own.
        written = await self._writer.write(job, part, model, model_name, wish)
        if anew is not None:
            written = put_back(written, anew, before, findings=findings)
        made_of = input_hash(part, model.name, model_name, wish.prompt.sha256, wish.task.model_dump(mode="json"))
        return lesson_of(step.lesson, planned, written), made_of, written.keeping

    async def _rejected(self, job: JobRef, number: int) -> Rejected | None:
        """What people said about the outlines of the rounds before; None where this is the first."""
        if number == 1:
            return None
        async with self._keeper.effect(job) as connection:
            rounds = await ApprovalRepository(connection).get_rejected(job.job_id, Subject.OUTLINE, before=number)
        latest = await self._documents.read(job, rounds[-1].artifact_id, KeptOutline)
        return Rejected(outline=latest.outline, comments=tuple(row.comment or "" for row in rounds))

    async def _keep_outline(self, job: JobRef, part: _Part, corpus_id: UUID, written: Written[CourseOutline]) -> UUID:
        if written.content is None:
            await self._keep_bad_outline(job, written)
            blocked = Verdict(findings=written.findings).blocked
            code, detail = _BLOCKED if blocked else _WHY_UNUSABLE[written.status]
            raise ContentError(detail, code=code)
        outline = KeptOutline(outline=written.content, provenance=written.provenance, findings=written.findings)
        data = {"title": written.content.title, "modules": [module.title for module in written.content.modules]}
        made = _Made(f"{part.name}.json", outline, ArtifactRole.PARTIAL, "outline.written", data)
        opening = course_statement(job, job.job_id, title=written.content.title, corpus_id=corpus_id)

        def nodes(artifact_id: UUID) -> list[NodeMade]:
            return outline_nodes(outline.outline, outline.provenance, input_hash=part.digest, artifact_id=artifact_id)

        return await self._finish(job, part, made, opening, *written.keeping, nodes=nodes)

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

    async def _finish(
        self,
        job: JobRef,
        part: _Part,
        made: _Made,
        *more: Statement,
        nodes: Callable[[UUID], list[NodeMade]] | None = None,
    ) -> UUID:
        """Store a document, and in one transaction name it, remember it and say so; the id that stands.

        ``nodes`` tells what it is in the graph of the course.
        """
        artifact = await self._documents.store(job, made.name, made.body, made.role)
        result = {"artifact_id": str(artifact.id), "status": made.data.get("content", ContentStatus.READY)}
        shown = {"artifact_id": str(artifact.id)} if made.role is ArtifactRole.PARTIAL else {}
        finished = FinishedPart(
            step=part.step, part=part.name, digest=part.digest, result=result,
            event=made.event, data={**made.data, **shown}, artifact=artifact, advances=part.advances,
        )  # fmt: skip
        if nodes is not None:
            course_id = await self._documents.course_of(job)
            more = (*more, revisions_statement(job, course_id, nodes(artifact.id)))
        if await self._keeper.finish_artifact(job, finished, *more):
            return artifact.id
        earlier = await self._keeper.recall(job, part.name, part.digest)
        assert earlier is not None
        return UUID(earlier["artifact_id"])

    async def _store_file(self, job: JobRef, file: RenderedFile) -> Artifact:
        return await self._documents.store_bytes(job, file.name, file.media_type, file.body, ArtifactRole.EXPORT)

    async def _freeze(self, step: ExportCourseInput) -> "_Version":
        """Version 1 of the course: its tree as it stands now, with whatever section jobs have changed meanwhile."""
        job = step.job
        await self._complete_tree(step)
        async with self._keeper.effect(job, course_id=job.job_id) as connection:
            courses = CourseRepository(connection)
            number = await courses.snapshot(job.job_id, job, reason="made")
            return _Version(number, await courses.get_version_tree(job.job_id, number, with_parts=False))

    async def _latest_version(self, job: JobRef) -> int:
        async with self._keeper.effect(job) as connection:
            number: int = (await CourseRepository(connection).get(job.job_id)).latest_version
            return number

    async def _version(self, job: JobRef, number: int) -> "_Version":
        async with self._keeper.effect(job) as connection:
            tree = await CourseRepository(connection).get_version_tree(job.job_id, number, with_parts=False)
            return _Version(number, tree)

    async def _complete_tree(self, step: ExportCourseInput) -> None:
        """Nodes for what was made by a release that knew of no graph, of courses that were in progress then."""
        job = step.job
        async with self._keeper.effect(job) as connection:
            known = await CourseRepository(connection).get_keys(job.job_id)
            kept = await StepResultRepository(connection).get_by_prefix(job, LESSON_PREFIX)
        lessons = {key: UUID(result["artifact_id"]) for key, result in kept.items() if "/" not in key}
        if "outline" in known and known >= set(lessons):
            return
        outline = await self._documents.read(job, step.outline_id, KeptOutline)
        nodes = [outline_nodes(outline.outline, outline.provenance, input_hash="", artifact_id=step.outline_id)]
        for key in sorted(set(lessons) - known):
            lesson = await self._documents.read(job, lessons[key], Lesson)
            nodes.append(lesson_nodes(place_of(key)[0], lesson, input_hash="", artifact_id=lessons[key]))
        async with self._keeper.effect(job) as connection:
            courses = CourseRepository(connection)
            await courses.open(job, job.job_id, title=outline.outline.title, corpus_id=step.corpus_id)
            for made in nodes:
                await connection.execute(*revisions_statement(job, job.job_id, made))


@dataclass(frozen=True, slots=True)
class _Version:
    """A version of the course, and its whole nodes."""

    number: int
    tree: tuple[TreeNode, ...]


def _what_an_outline_depends_on(rejected: Rejected | None) -> tuple[Any, ...]:
    if rejected is None:
        return (course_outline.PROMPT.sha256,)
    before = [outline_sha256(rejected.outline), *rejected.comments]
    return course_outline.PROMPT.sha256, revision.PROMPT.sha256, before


def lesson_digest(step: WriteLessonInput, module: int, lesson: int) -> str:
    """Everything a lesson depends on, apart from its job: the plan, the material and the prompt."""
    place = lesson_part(module, lesson)
    first = input_hash(place, str(step.outline_id), str(step.corpus_id), course_lesson.PROMPT.sha256)
    return first if step.before_id is None else input_hash(first, str(step.before_id), revision.PROMPT.sha256)
