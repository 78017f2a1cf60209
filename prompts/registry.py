"""All prompts there are."""

from typing import Final

from prompts import course_lesson, course_outline, repair

PROMPTS: Final = (course_outline.PROMPT, course_lesson.PROMPT, repair.PROMPT)
