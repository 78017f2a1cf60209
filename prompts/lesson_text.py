"""A written lesson as material for further prompts."""

from collections.abc import Iterator
from typing import Final

from domain.generation import LessonContent
from prompts.prompt import as_material

_LESSON_CHARS: Final = 48_000


def lesson_material(lesson: LessonContent) -> str:
    """The lesson as plain text that stays within its block, cut off where it would be too long."""
    return as_material("\n".join(_lines(lesson)))[:_LESSON_CHARS]


def as_wish(comment: str) -> str:
    """What a person wants of the next attempt, as a line of its own; nothing where nobody wants anything."""
    return f"A person asks for this: {as_material(comment)}\n" if comment else ""


def _lines(lesson: LessonContent) -> Iterator[str]:
    yield lesson.title
    yield lesson.summary
    for block in lesson.blocks:
        yield f"\n## {block.heading}"
        yield from block.paragraphs
        yield from (f"- {bullet}" for bullet in block.bullets)
    yield "\n## Key points"
    yield from (f"- {point}" for point in lesson.key_points)
    if lesson.terms:
        yield "\n## Terms"
        yield from (f"- {term.term}: {term.definition}" for term in lesson.terms)
