"""All prompts there are."""

from typing import Final

from prompts import course_lesson, course_outline, course_quiz, course_slides, repair, revision

PROMPTS: Final = (
    course_outline.PROMPT,
    course_lesson.PROMPT,
    course_slides.PROMPT,
    course_quiz.PROMPT,
    repair.PROMPT,
    revision.PROMPT,
)
