"""How a course job is cut into steps and parts. Pure arithmetic, shared by workflows and activities."""

from enum import StrEnum

from domain.generation import CourseInput
from domain.jobs import StepPlan

SOURCES_STEP = "sources"
OUTLINE_STEP = "outline"
EXPORT_STEP = "export"
VIDEO_STEP = "video"
LESSON_PREFIX = "lesson-"
SPOILED_PREFIX = "spoiled-outline-"

LESSON_TOKENS = 4_000
OUTLINE_TOKENS_PER_LESSON = 160
OUTLINE_TOKENS_BASE = 1_000
MOST_OUTPUT_TOKENS = 32_768
"""How long an answer of a model may be of which nothing else is known."""


SLIDES_TOKENS = 4_000
QUIZ_TOKENS = 3_000


class LessonPart(StrEnum):
    """What is made of a written lesson, by the name of its node below the lesson."""

    SLIDES = "slides"
    QUIZ = "quiz"
    AUDIO = "audio"


def lesson_parts(wanted: CourseInput) -> tuple[LessonPart, ...]:
    """What is to be made of every lesson, in order. A lesson counts as done once the last of it is."""
    asked = {
        LessonPart.SLIDES: wanted.slides,
        LessonPart.QUIZ: wanted.quiz,
        LessonPart.AUDIO: wanted.speech is not None,
    }
    return tuple(part for part in LessonPart if asked[part])


def first_steps() -> tuple[StepPlan, ...]:
    """The steps that every course has, before its modules are known."""
    return (
        StepPlan(name=SOURCES_STEP, title="Sources", weight=0.02),
        StepPlan(name=OUTLINE_STEP, title="Course structure", weight=0.08),
    )


def module_steps(lessons: tuple[int, ...], *, video: bool = False) -> tuple[StepPlan, ...]:
    """One step a module, with as many parts as it has lessons, the videos if there are any, the export at the end."""
    films = 0.25 if video else 0.0
    share = (0.85 - films) / sum(lessons)
    modules = tuple(
        StepPlan(name=module_step(index), title=f"Module {index + 1}", weight=share * count, total=count)
        for index, count in enumerate(lessons)
    )
    videos = (StepPlan(name=VIDEO_STEP, title="Videos", weight=films, total=sum(lessons)),) if video else ()
    return (*modules, *videos, StepPlan(name=EXPORT_STEP, title="Export", weight=0.05))


def module_step(module: int) -> str:
    """The name of a module's step; counted from one, as people do."""
    return f"module-{module + 1}"


def outline_part(number: int) -> str:
    """The name of an outline within the memory of the job, by the round in which it is made; counted from one."""
    return OUTLINE_STEP if number == 1 else f"{OUTLINE_STEP}-{number}"


def lesson_part(module: int, lesson: int) -> str:
    """The name of a lesson within the memory of the job; counted from one."""
    return f"{LESSON_PREFIX}{module + 1}.{lesson + 1}"


def outline_tokens(lessons: int) -> int:
    """How many tokens the outline of so many lessons may take."""
    return OUTLINE_TOKENS_BASE + OUTLINE_TOKENS_PER_LESSON * lessons


def most_lessons(output_tokens: int) -> int:
    """Of how many lessons an outline fits into an answer of so many tokens."""
    return max(0, (output_tokens - OUTLINE_TOKENS_BASE) // OUTLINE_TOKENS_PER_LESSON)
