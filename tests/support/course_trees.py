"""Courses that are in the database with their documents, without anybody having written them."""

from dataclasses import dataclass, field
from uuid import UUID

from activities.generation.assembly import KeptOutline
from activities.generation.documents import DocumentStore
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import ArtifactRole
from domain.course_nodes import lesson_nodes, outline_nodes
from domain.generation import (
    ContentStatus,
    Corpus,
    CourseInput,
    CourseOutline,
    InlineSource,
    Lesson,
    LessonBlock,
    LessonOutline,
    ModuleOutline,
    Section,
    Slide,
    SlideDeck,
)
from domain.guarding import Finding
from domain.jobs import JobRef
from domain.lesson_parts import WrittenSlides, slides_nodes
from repositories.courses import CourseRepository, course_statement, revisions_statement
from tests.support.courses import make_content, make_lesson, make_provenance
from tests.support.job_rows import add_running_job

WANTED = CourseInput(
    topic="Tides", modules=1, lessons_per_module=2, slides=True, sources=(InlineSource(name="a.md", text="The moon."),)
)


@dataclass
class CourseTree:
    """A course of one module and two lessons, whose lessons and decks a test sets as it likes."""

    database: Database
    documents: DocumentStore
    job: JobRef
    written: int = field(default=0)

    @property
    def id(self) -> UUID:
        """The course's id."""
        return self.job.job_id

    async def write_lesson(
        self, number: int, *blocks: str, summary: str = "In short.", findings: tuple[Finding, ...] = ()
    ) -> None:
        """A lesson with these blocks: ``Heading: text``."""
        made = tuple(
            LessonBlock(heading=block.partition(": ")[0], paragraphs=(block.partition(": ")[2],), bullets=())
            for block in blocks
        )
        content = make_content(blocks=made, summary=summary)
        lesson = make_lesson(index=number - 1, title=f"Lesson {number}", content=content, findings=findings)
        await self._add(lesson, f"lessons/{number}.json")

    async def write_slides(self, number: int, *titles: str) -> None:
        """A deck with slides of these titles."""
        slides = tuple(
            Slide(title=title, bullets=(f"About {title}",), notes="Say so.", figure=None) for title in titles
        )
        kept = WrittenSlides(status=ContentStatus.READY, deck=SlideDeck(slides=slides), provenance=make_provenance())
        artifact = await self.documents.store(self.job, f"slides-{number}.json", kept, ArtifactRole.PARTIAL)
        self.written += 1
        nodes = slides_nodes(
            f"lesson-1.{number}", "Slides", kept, input_hash=str(self.written), artifact_id=artifact.id
        )
        async with self.database.tenant(self.job.tenant_id) as connection:
            await self.documents.add(connection, artifact)
            await connection.execute(*revisions_statement(self.job, self.id, nodes))

    async def freeze(self) -> int:
        """The next version."""
        async with self.database.tenant(self.job.tenant_id) as connection:
            return await CourseRepository(connection).snapshot(self.id, None, reason="edit")

    async def _add(self, lesson: Lesson, name: str) -> None:
        artifact = await self.documents.store(self.job, name, lesson, ArtifactRole.PARTIAL)
        self.written += 1
        nodes = lesson_nodes(0, lesson, input_hash=str(self.written), artifact_id=artifact.id)
        async with self.database.tenant(self.job.tenant_id) as connection:
            await self.documents.add(connection, artifact)
            await connection.execute(*revisions_statement(self.job, self.id, nodes))


async def add_course(database: Database, store: ArtifactStore, tenant_id: UUID) -> CourseTree:
    """A course with an outline and nothing else."""
    job = await add_running_job(database, tenant_id, raw_input=WANTED.model_dump(mode="json"))
    documents = DocumentStore(database, store)
    lessons = tuple(
        LessonOutline(title=f"Lesson {number}", objectives=("Know it",), section_ids=("s1",)) for number in (1, 2)
    )
    outline = CourseOutline(
        title="Tides <b>", description="All of it.",
        modules=(ModuleOutline(title="The moon", summary="It pulls.", lessons=lessons),),
    )  # fmt: skip
    kept = KeptOutline(outline=outline, provenance=make_provenance())
    corpus = Corpus(sections=(Section(id="s1", source="a.md", path=(), paragraphs=("The moon.",)),))
    outline_artifact = await documents.store(job, "outline.json", kept, ArtifactRole.PARTIAL)
    corpus_artifact = await documents.store(job, "corpus.json", corpus, ArtifactRole.INTERNAL)
    nodes = outline_nodes(outline, kept.provenance, input_hash="outline", artifact_id=outline_artifact.id)
    async with database.tenant(tenant_id) as connection:
        for artifact in (outline_artifact, corpus_artifact):
            await documents.add(connection, artifact)
        opening = course_statement(job, job.job_id, title=outline.title, corpus_id=corpus_artifact.id)
        await connection.execute(*opening)
        await connection.execute(*revisions_statement(job, job.job_id, nodes))
    return CourseTree(database, documents, job)


def stranger() -> UUID:
    """An id of nothing."""
    return new_id()
