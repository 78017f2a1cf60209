"""Making something anew: the wish for it, and putting a single block or slide back into its place."""

from dataclasses import replace
from typing import Any, TypeVar

from activities.generation.writer import Wish, Written
from domain.course_graph import number_of
from domain.generation import (
    LessonBlock,
    LessonContent,
    LessonTask,
    QuizTask,
    RevisionTask,
    Slide,
    SlideDeck,
    SlidesTask,
)
from domain.model import Frozen
from domain.sections import Revision
from prompts import revision as prompt

AnswerT = TypeVar("AnswerT", bound=Frozen)


def revised(wish: Wish[AnswerT], revision: Revision, before: AnswerT | None, *, spoiled: int = 0) -> Wish[Any]:
    """The same wish anew, with what came of it before and what a person says.

    Where only a part is to change, the answer is that part (``LessonBlock``, ``Slide``); see ``put_back``.
    """
    assert isinstance(wish.task, LessonTask | SlidesTask | QuizTask)
    place = None if revision.part is None else number_of(revision.part)
    task = RevisionTask(
        of=wish.task,
        before=None if before is None else before.model_dump(mode="json"),
        comment=revision.comment,
        part=place,
    )
    messages = prompt.render(
        wish.messages,
        before=None if before is None else before.model_dump_json(),
        comment=revision.comment,
        part=place,
    )
    anew = replace(wish, task=task, prompt=prompt.PROMPT, messages=messages, spoiled=spoiled, fresh=True)
    if place is None:
        return anew
    part = LessonBlock if isinstance(before, LessonContent) else Slide
    return replace(anew, answer=part, rule=lambda _answer: ())  # type: ignore[arg-type]


def put_back(written: Written[Any], revision: Revision, before: Frozen | None) -> Written[Any]:
    """What was written, with everything around it where only a part of ``before`` was to change."""
    part = written.content
    if part is None or revision.part is None:
        return written
    place = number_of(revision.part)
    if isinstance(before, LessonContent):
        blocks = (*before.blocks[:place], part, *before.blocks[place + 1 :])
        return replace(written, content=before.model_copy(update={"blocks": blocks}))
    assert isinstance(before, SlideDeck)
    slides = (*before.slides[:place], part, *before.slides[place + 1 :])
    return replace(written, content=before.model_copy(update={"slides": slides}))
