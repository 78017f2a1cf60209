"""What is wanted of a model for each step, what makes its answer good, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from activities.generation.writer import Wish, Written
from domain.artifacts import Artifact
from domain.generation import (
    ContentStatus,
    Corpus,
    Course,
    CourseInput,
    CourseOutline,
    Lesson,
    LessonContent,
    LessonOutline,
    LessonTask,
    Message,
    OutlineTask,
    Section,
)
from domain.generation_plan import LESSON_TOKENS, outline_tokens
from prompts import course_lesson, course_outline, revision
from rendering.exports import RenderedFile, render

_MOST_SECTIONS_WITHOUT_PLAN: Final = 12


@dataclass(frozen=True, slots=True)
class Rejected:
    """The latest outline that a person did not agree to, and what was said about it and those before, oldest first."""

    outline: CourseOutline
    comments: tuple[str, ...]


def outline_wish(
    wanted: CourseInput, corpus: Corpus, *, spoiled: int = 0, rejected: Rejected | None = None
) -> Wish[CourseOutline]:
    """The structure of the course, in exactly the size asked for, over sections that exist."""
    task = OutlineTask(
        topic=wanted.topic,
        audience=wanted.audience,
        language=wanted.language,
        level=wanted.level,
        modules=wanted.modules,
        lessons_per_module=wanted.lessons_per_module,
        sections=corpus.sections,
        comments=() if rejected is None else rejected.comments,
        previous=None if rejected is None else rejected.outline,
    )
    asked = course_outline.render(task)
    return Wish(
        task=task,
        prompt=course_outline.PROMPT if rejected is None else revision.PROMPT,
        messages=asked if rejected is None else _anew(asked, rejected),
        answer=CourseOutline,
        max_output_tokens=outline_tokens(wanted.modules * wanted.lessons_per_module),
        rule=lambda outline: outline_faults(outline, wanted, section_ids(corpus)),
        spoiled=spoiled,
        # Nobody asks again in order to get the same.
        fresh=rejected is not None,
    )


def _anew(asked: Sequence[Message], rejected: Rejected) -> tuple[Message, ...]:
    said = "\n".join(comment for comment in rejected.comments if comment)
    return revision.render(asked, before=rejected.outline.model_dump_json(), comment=said or None, part=None)


def section_ids(corpus: Corpus) -> set[str]:
    """The sections that an outline may name."""
    return {section.id for section in corpus.sections}


def outline_faults(outline: CourseOutline, wanted: CourseInput, known: set[str]) -> list[tuple[str, str]]:
    """What a schema cannot say: the numbers asked for, and that sections exist."""
    faults = []
    if len(outline.modules) != wanted.modules:
        faults.append(("/modules", f"has {len(outline.modules)} modules instead of {wanted.modules}"))
    for index, module in enumerate(outline.modules):
        if len(module.lessons) != wanted.lessons_per_module:
            count = f"has {len(module.lessons)} lessons instead of {wanted.lessons_per_module}"
            faults.append((f"/modules/{index}/lessons", count))
        for place, lesson in enumerate(module.lessons):
            unknown = sorted(set(lesson.section_ids) - known)
            if unknown:
                pointer = f"/modules/{index}/lessons/{place}/section_ids"
                faults.append((pointer, f"names sections that do not exist: {', '.join(unknown[:5])}"))
    return faults


def lesson_wish(
    wanted: CourseInput, corpus: Corpus, outline: CourseOutline, *, module: int, lesson: int
) -> Wish[LessonContent]:
    """One lesson from the sections that the outline gave to it."""
    planned = outline.modules[module].lessons[lesson]
    task = LessonTask(
        topic=wanted.topic,
        audience=wanted.audience,
        language=wanted.language,
        level=wanted.level,
        course_title=outline.title,
        module_title=outline.modules[module].title,
        lesson=planned,
        sections=_sections_of(planned, corpus),
    )
    return Wish(
        task=task,
        prompt=course_lesson.PROMPT,
        messages=course_lesson.render(task),
        answer=LessonContent,
        max_output_tokens=LESSON_TOKENS,
    )


def _sections_of(planned: LessonOutline, corpus: Corpus) -> tuple[Section, ...]:
    chosen = frozenset(planned.section_ids)
    found = tuple(section for section in corpus.sections if section.id in chosen)
    # A plan may name no sections; then the beginning of the material is better than none.
    return found or corpus.sections[:_MOST_SECTIONS_WITHOUT_PLAN]


def lesson_of(index: int, planned: LessonOutline, written: Written[LessonContent]) -> Lesson:
    """The lesson as it goes into the course, whatever came of it."""
    return Lesson(
        index=index,
        title=planned.title,
        objectives=planned.objectives,
        status=written.status,
        content=written.content,
        draft=written.draft,
        findings=written.findings,
        section_ids=planned.section_ids,
        provenance=written.provenance,
    )


def render_all(course: Course, wanted: CourseInput) -> list[RenderedFile]:
    """The course in every form asked for, each once."""
    return [render(course, export=export, profile=wanted.profile) for export in dict.fromkeys(wanted.exports)]


def course_result(course: Course, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """The result of the job: what was made, how much of it is good, and where it lies."""
    lessons = [lesson for module in course.modules for lesson in module.lessons]
    by_status = {status.value: sum(lesson.status is status for lesson in lessons) for status in ContentStatus}
    origins = [origin for lesson in lessons for origin in lesson.origins]
    costs = [origin.cost_usd for origin in origins]
    costs += [media.cost_usd for lesson in lessons for media in lesson.recordings]
    cost = sum(costs, course.outline_provenance.cost_usd)
    return {
        "title": course.title,
        "complete": course.complete,
        "modules": len(course.modules),
        "lessons": {"total": len(lessons), **{status: count for status, count in by_status.items() if count}},
        **_parts_result(lessons),
        "cost_usd": f"{Decimal(cost):f}",
        "artifacts": [
            {"id": str(artifact.id), "name": artifact.name, "media_type": artifact.media_type,
             "bytes": artifact.bytes, "sha256": artifact.sha256, "url": f"/api/v1/artifacts/{artifact.id}"}
            for artifact in artifacts
        ],
    }  # fmt: skip


def _parts_result(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """How many slides and questions there are, where they were asked for, and how many lessons have none."""
    result: dict[str, Any] = {}
    decks = [lesson.slides for lesson in lessons if lesson.slides_provenance is not None]
    quizzes = [lesson.quiz for lesson in lessons if lesson.quiz_provenance is not None]
    if decks:
        slides = [slide for deck in decks if deck is not None for slide in deck.slides]
        figures = sum(slide.figure is not None for slide in slides)
        result["slides"] = {"total": len(slides), "figures": figures, "lessons_without": decks.count(None)}
    if quizzes:
        questions = sum(len(quiz.questions) for quiz in quizzes if quiz is not None)
        result["quiz"] = {"questions": questions, "lessons_without": quizzes.count(None)}
    spoken = [lesson.audio.seconds for lesson in lessons if lesson.audio is not None]
    if spoken:
        result["audio"] = {"lessons": len(spoken), "seconds": round(sum(spoken), 1)}
    filmed = [lesson.video.seconds for lesson in lessons if lesson.video is not None]
    if filmed:
        result["video"] = {"lessons": len(filmed), "seconds": round(sum(filmed), 1)}
    return result
