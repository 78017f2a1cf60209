"""What is made of a written lesson by a language model: its slides and its questions."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from temporalio import activity

from activities.generation.documents import DocumentStore
from activities.generation.models import Models
from activities.generation.revisions import SpoiledAnswers, put_back, revised
from activities.generation.writer import StructuredWriter, Wish, Written
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from core.database import Statement
from domain.artifacts import ArtifactRole
from domain.course_graph import NodeMade, below, lesson_key
from domain.generation import (
    ContentStatus,
    Corpus,
    CourseInput,
    Lesson,
    LessonContent,
    Quiz,
    QuizTask,
    Section,
    SlideDeck,
    SlidesTask,
)
from domain.generation_plan import QUIZ_TOKENS, SLIDES_TOKENS, LessonPart, module_step
from domain.jobs import JobRef
from domain.lesson_parts import (
    QUESTIONS_OF_A_LESSON,
    WrittenQuiz,
    WrittenSlides,
    deck_faults,
    quiz_faults,
    quiz_node,
    slides_nodes,
)
from domain.model import Frozen
from prompts import course_quiz, course_slides
from repositories.courses import revisions_statement
from repositories.steps import FinishedPart

_MATERIAL_CHARS: Final = 30_000
"""How much of the course's sources wrong options are looked for in."""


class WriteLessonPartInput(Frozen):
    """Something to be made of a written lesson, by the place of the lesson, counted from zero.

    ``is_last`` says that nothing more is made of the lesson: with this the lesson counts as done. ``before_id`` is the
    same as it stands, where a job makes it anew.
    """

    job: JobRef
    corpus_id: UUID
    lesson_id: UUID
    module: int
    lesson: int
    is_last: bool
    before_id: UUID | None = None


class WriteLessonPartResult(Frozen):
    """Where it is and how good it is."""

    artifact_id: UUID
    status: ContentStatus


class LessonPartActivities:
    """Slides and questions of single lessons. Each is a call of its own and a node of the course's graph.

    Content that is no good leaves the lesson without them: what came back is kept as the draft it is, and the course
    goes on. Only trouble with the provider fails an attempt.
    """

    def __init__(self, keeper: StepKeeper, documents: DocumentStore, writer: StructuredWriter, models: Models) -> None:
        self._keeper = keeper
        self._documents = documents
        self._writer = writer
        self._models = models
        self._spoiled = SpoiledAnswers(keeper, documents)

    @activity.defn(name="write_slides")
    async def write_slides(self, step: WriteLessonPartInput) -> WriteLessonPartResult:
        """Make the slides of a lesson."""
        async with heartbeating(), self._keeper.attempt(step.job, module_step(step.module)):
            wanted = await self._documents.read_input(step.job)
            return await self._make(
                step, LessonPart.SLIDES, wanted, lambda lesson: slides_wish(wanted, content_of(lesson))
            )

    @activity.defn(name="write_quiz")
    async def write_quiz(self, step: WriteLessonPartInput) -> WriteLessonPartResult:
        """Write questions on a lesson."""
        async with heartbeating(), self._keeper.attempt(step.job, module_step(step.module)):
            wanted = await self._documents.read_input(step.job)
            corpus = await self._documents.read(step.job, step.corpus_id, Corpus)
            return await self._make(
                step,
                LessonPart.QUIZ,
                wanted,
                lambda lesson: quiz_wish(wanted, content_of(lesson), corpus, lesson.section_ids),
            )

    async def _make(
        self, step: WriteLessonPartInput, part: LessonPart, wanted: CourseInput, wish_of: Callable[[Lesson], Wish[Any]]
    ) -> WriteLessonPartResult:
        """Make it of the lesson that the step names, or of what a person has made of that lesson by now.

        Where a person edits the lesson meanwhile it is made once more: nothing may stand beside a text it is not of.
        """
        kept = None
        while kept is None:
            lesson_id = await self._lesson_id(step, part)
            kept = await self._make_of(lesson_id, step, part, wanted, wish_of)
        return WriteLessonPartResult(artifact_id=kept["artifact_id"], status=kept["status"])

    async def _make_of(
        self,
        lesson_id: UUID,
        step: WriteLessonPartInput,
        part: LessonPart,
        wanted: CourseInput,
        wish_of: Callable[[Lesson], Wish[Any]],
    ) -> dict[str, Any] | None:
        """What there is of it, made now or before; None where the lesson has been edited while it was made."""
        key = below(lesson_key(step.module, step.lesson), part)
        lesson = await self._documents.read(step.job, lesson_id, Lesson)
        wish = wish_of(lesson)
        model, model_name = self._models.chosen(wanted)
        anew = await self._documents.revision_of(step.job, key)
        before = await self._read_before(step, part)
        if anew is not None:
            wish = revised(wish, anew, before, spoiled=await self._spoiled.count(step.job, key))
        digest = part_digest(key, model.name, model_name, wish)
        kept = await self._keeper.recall(step.job, key, digest)
        if kept is not None:
            return kept
        written = await self._writer.write(step.job, key, model, model_name, wish)
        if anew is not None:
            written = put_back(written, anew, before)
        body = slides_of(written) if part is LessonPart.SLIDES else quiz_of(written)
        if anew is not None and written.content is None:
            await self._spoiled.refuse(step.job, key, body, written.status, written.findings)
        if await self._lesson_id(step, part) != lesson_id:
            return None
        return await self._keep(step, part, digest, lesson, body, *written.keeping, made_from=lesson_id)

    async def _lesson_id(self, step: WriteLessonPartInput, part: LessonPart) -> UUID:
        lesson = lesson_key(step.module, step.lesson)
        edited = await self._documents.edited_or_none(step.job, lesson, without=below(lesson, part))
        return edited or step.lesson_id

    async def _read_before(self, step: WriteLessonPartInput, part: LessonPart) -> SlideDeck | Quiz | None:
        if step.before_id is None:
            return None
        if part is LessonPart.SLIDES:
            return (await self._documents.read(step.job, step.before_id, WrittenSlides)).deck
        return (await self._documents.read(step.job, step.before_id, WrittenQuiz)).quiz

    async def _keep(
        self,
        step: WriteLessonPartInput,
        part: LessonPart,
        digest: str,
        lesson: Lesson,
        body: WrittenSlides | WrittenQuiz,
        *more: Statement,
        made_from: UUID,
    ) -> dict[str, Any]:
        """Store it, and in one transaction name it, remember it, put it into the graph and say so."""
        job, key = step.job, lesson_key(step.module, step.lesson)
        name = f"lessons/{step.module + 1:02}-{step.lesson + 1:02}-{part}.json"
        artifact = await self._documents.store(job, name, body, ArtifactRole.PARTIAL)
        result = {"artifact_id": str(artifact.id), "status": body.status}
        data = {
            "lesson": f"{step.module + 1}.{step.lesson + 1}", "title": lesson.title, "content": body.status,
            **counts_of(body), "artifact_id": str(artifact.id),
        }  # fmt: skip
        finished = FinishedPart(
            step=module_step(step.module), part=below(key, part), digest=digest, result=result,
            event=f"{part}.written", data=data, artifact=artifact, advances=step.is_last,
        )  # fmt: skip
        course_id = await self._documents.course_of(job)
        nodes = nodes_of(key, lesson.title, body, input_hash=digest, artifact_id=artifact.id)
        standing = revisions_statement(job, course_id, nodes, made_from=made_from)
        if await self._keeper.finish_artifact(job, finished, standing, *more):
            return result
        earlier = await self._keeper.recall(job, below(key, part), digest)
        assert earlier is not None
        return earlier


# --- wishes -----------------------------------------------------------------------------------------


def content_of(lesson: Lesson) -> LessonContent:
    """The text of a lesson that is ready; nothing is made of any other."""
    if lesson.content is None:
        raise ValueError("nothing is made of a lesson that is not ready")
    return lesson.content


def slides_wish(wanted: CourseInput, lesson: LessonContent) -> Wish[SlideDeck]:
    """Slides of this lesson, none of them empty."""
    task = SlidesTask(
        topic=wanted.topic, audience=wanted.audience, language=wanted.language, level=wanted.level,
        lesson=lesson,
    )  # fmt: skip
    return Wish(
        task=task,
        prompt=course_slides.PROMPT,
        messages=course_slides.render(task),
        answer=SlideDeck,
        max_output_tokens=SLIDES_TOKENS,
        rule=deck_faults,
    )


def quiz_wish(wanted: CourseInput, lesson: LessonContent, corpus: Corpus, section_ids: Sequence[str]) -> Wish[Quiz]:
    """Questions on this lesson, each with evidence that the lesson really says."""
    task = QuizTask(
        topic=wanted.topic, audience=wanted.audience, language=wanted.language, level=wanted.level,
        lesson=lesson, questions=QUESTIONS_OF_A_LESSON, sections=_material(corpus, section_ids),
    )  # fmt: skip
    return Wish(
        task=task,
        prompt=course_quiz.PROMPT,
        messages=course_quiz.render(task),
        answer=Quiz,
        max_output_tokens=QUIZ_TOKENS,
        rule=lambda quiz: quiz_faults(quiz, lesson),
    )


def _material(corpus: Corpus, section_ids: Sequence[str]) -> tuple[Section, ...]:
    """The sections of the lesson, then those after it and before it in the sources, as far as there is room."""
    own = [at for at, section in enumerate(corpus.sections) if section.id in frozenset(section_ids)]
    first, last = (own[0], own[-1]) if own else (0, -1)
    others = sorted(
        set(range(len(corpus.sections))) - set(own), key=lambda at: (min(abs(at - first), abs(at - last)), at)
    )
    chosen, room = [], _MATERIAL_CHARS
    for at in (*own, *others):
        section = corpus.sections[at]
        room -= sum(map(len, (*section.paragraphs, *section.bullets)))
        if room < 0:
            break
        chosen.append(section)
    return tuple(chosen)


def part_digest(key: str, provider: str, model: str, wish: Wish[Any]) -> str:
    """Everything that a part of a lesson depends on: the lesson's text, the prompt, the model, a person's wish."""
    return input_hash(
        key, provider, model, wish.prompt.sha256, wish.max_output_tokens, wish.task.model_dump(mode="json")
    )


# --- what came of them ------------------------------------------------------------------------------


def slides_of(written: Written[SlideDeck]) -> WrittenSlides:
    """The slides as they are kept, whatever came of the wish."""
    return WrittenSlides(
        status=written.status, deck=written.content, draft=written.draft, provenance=written.provenance
    )


def quiz_of(written: Written[Quiz]) -> WrittenQuiz:
    """The questions as they are kept, whatever came of the wish."""
    return WrittenQuiz(status=written.status, quiz=written.content, draft=written.draft, provenance=written.provenance)


def nodes_of(
    lesson: str, title: str, body: WrittenSlides | WrittenQuiz, *, input_hash: str, artifact_id: UUID
) -> list[NodeMade]:
    """What it is in the graph of the course, below the lesson with this key."""
    if isinstance(body, WrittenSlides):
        return slides_nodes(lesson, title, body, input_hash=input_hash, artifact_id=artifact_id)
    return [quiz_node(lesson, title, body, input_hash=input_hash, artifact_id=artifact_id)]


def counts_of(body: WrittenSlides | WrittenQuiz) -> dict[str, int]:
    """How much there is of it."""
    if isinstance(body, WrittenSlides):
        slides = () if body.deck is None else body.deck.slides
        return {"slides": len(slides), "figures": sum(slide.figure is not None for slide in slides)}
    return {"questions": 0 if body.quiz is None else len(body.quiz.questions)}
