"""All prompts there are."""

from typing import Final

from prompts import course_lesson, course_outline, course_outline_revision, repair

PROMPTS: Final = (course_outline.PROMPT, course_outline_revision.PROMPT, course_lesson.PROMPT, repair.PROMPT)
