"""A course put together from the nodes of its tree."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from activities.generation.documents import DocumentStore
from domain.course_graph import NodeKind, TreeNode, lesson_key
from domain.generation import Corpus, Course, CourseOutline, Lesson, Module, Provenance
from domain.guarding import Finding
from domain.jobs import JobRef
from domain.lesson_parts import WrittenQuiz, WrittenSlides, with_parts
from domain.media import MediaNote
from domain.model import Frozen

_READS_AT_ONCE: Final = 16


class KeptOutline(Frozen):
    """An outline as it is stored between steps. ``findings`` are of the content policy, with pointers into it."""

    outline: CourseOutline
    provenance: Provenance
    findings: tuple[Finding, ...] = ()


ATTACHMENTS: Final[Mapping[NodeKind, tuple[type[Frozen], Callable[[Lesson, Any], Lesson]]]] = {
    NodeKind.SLIDES: (WrittenSlides, lambda lesson, kept: with_parts(lesson, kept, None)),
    NodeKind.QUIZ: (WrittenQuiz, lambda lesson, kept: with_parts(lesson, None, kept)),
    NodeKind.VIDEO: (MediaNote, lambda lesson, kept: lesson.model_copy(update={"video": kept.media})),
    NodeKind.AUDIO: (MediaNote, lambda lesson, kept: lesson.model_copy(update={"audio": kept.media})),
}
"""What belongs to a lesson: the document behind its node, and how the lesson carries it. One line a kind."""


class CourseAssembler:
    """Reads the documents behind a tree and makes a course of them."""

    def __init__(self, documents: DocumentStore) -> None:
        self._documents = documents

    async def assemble(self, job: JobRef, *, corpus_id: UUID, tree: Iterable[TreeNode]) -> Course:
        """The course that the job works on, as this tree says."""
        wholes = {node.key: node for node in tree if node.whole_id is None}
        wanted = await self._documents.read_input(job)
        kept = await self._documents.read(job, _artifact(wholes["outline"]), KeptOutline)
        corpus = await self._documents.read(job, corpus_id, Corpus)
        lessons = await self._read_lessons(job, kept.outline, wholes)
        modules = tuple(
            Module(index=index, title=module.title, summary=module.summary, lessons=lessons[index])
            for index, module in enumerate(kept.outline.modules)
        )
        origins = [kept.provenance, *(origin for module in lessons for lesson in module for origin in lesson.origins)]
        return Course(
            id=await self._documents.course_of(job),
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

    async def _read_lessons(
        self, job: JobRef, outline: CourseOutline, wholes: Mapping[str, TreeNode]
    ) -> list[tuple[Lesson, ...]]:
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(module: int, number: int) -> Lesson:
            async with gate:
                key = lesson_key(module, number)
                lesson = await self._documents.read(job, _artifact(wholes[key]), Lesson)
                for kind, (document, attach) in ATTACHMENTS.items():
                    node = wholes.get(f"{key}/{kind}")
                    if node is not None:
                        lesson = attach(lesson, await self._documents.read(job, _artifact(node), document))
                return lesson

        async def read_module(module: int, count: int) -> tuple[Lesson, ...]:
            return tuple(await asyncio.gather(*(read(module, number) for number in range(count))))

        counts = enumerate(len(module.lessons) for module in outline.modules)
        return list(await asyncio.gather(*(read_module(module, count) for module, count in counts)))


def _artifact(node: TreeNode) -> UUID:
    assert node.artifact_id is not None
    return node.artifact_id
