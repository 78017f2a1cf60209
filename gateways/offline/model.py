"""The offline model behind the port of language models."""

import asyncio
import json
from decimal import Decimal
from typing import Final

from domain.errors import PriceUnknown
from domain.generation import (
    Completion,
    CompletionRequest,
    Finish,
    LessonTask,
    OutlineTask,
    Price,
    QuizTask,
    RevisionTask,
    SlidesTask,
    Task,
    TokenUsage,
)
from domain.lesson_parts import texts_of
from gateways.offline.lesson import write_lesson
from gateways.offline.outline import write_outline
from gateways.offline.quiz import write_quiz
from gateways.offline.slides import write_slides

_MODEL: Final = "extractive-1"
_FREE: Final = Price(input_usd=Decimal(0), cached_input_usd=Decimal(0), output_usd=Decimal(0))
_CHARS_PER_TOKEN: Final = 4
_NO_QUESTION: Final = "There is no sentence in this lesson from which a fair question can be made without a model."


class OfflineLanguageModel:
    """Writes outlines, lessons, slides and questions from the sentences of the sources: no network, cost or chance.

    The same request always gets the same answer. ``messages`` and ``max_output_tokens`` are for models that
    read and are billed; the answer depends on ``task`` alone.
    """

    name: str = "offline"
    default_model: str = _MODEL
    can_look_up: bool = False

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Answer the request. Raises PriceUnknown for another model and SourceEmpty where there is no text.

        A lesson that no question can be made from is a refusal.
        """
        self.price(request.model)
        text = await asyncio.to_thread(_answer, request.task)
        read = sum(len(message.content) for message in request.messages) or _task_chars(request.task)
        return Completion(
            text=text or "",
            finish=Finish.REFUSAL if text is None else Finish.STOP,
            refusal=_NO_QUESTION if text is None else None,
            usage=TokenUsage(input_tokens=_tokens(read), output_tokens=_tokens(len(text or ""))),
            model=_MODEL,
        )

    async def find_completion(self, *, op: str, model: str) -> Completion | None:  # noqa: ARG002
        """None: nothing is kept, and asking again costs nothing."""
        return None

    def price(self, model: str) -> Price:
        """Nothing, for the one model there is. Raises PriceUnknown for any other."""
        if model != _MODEL:
            raise PriceUnknown(f"the offline provider has only the model {_MODEL}")
        return _FREE


def _answer(task: Task) -> str | None:
    """The document; None where there is no good one."""
    match task:
        case OutlineTask():
            return write_outline(task).model_dump_json()
        case LessonTask():
            return write_lesson(task).model_dump_json()
        case SlidesTask():
            return write_slides(task).model_dump_json()
        case QuizTask():
            quiz = write_quiz(task)
            return None if quiz is None else quiz.model_dump_json()
        case RevisionTask():
            return _again(task)


def _again(task: RevisionTask) -> str | None:
    """The same once more: sentences are chosen by what the sources say, and no comment changes that."""
    again = _answer(task.of)
    if task.part is None or again is None:
        return again
    place = "slides" if isinstance(task.of, SlidesTask) else "blocks"
    made, before = json.loads(again)[place], (task.before or {}).get(place, [])
    items = made if task.part < len(made) else before
    return json.dumps(items[task.part], ensure_ascii=False) if task.part < len(items) else None


def _tokens(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def _task_chars(task: Task) -> int:
    if isinstance(task, RevisionTask):
        return _task_chars(task.of)
    if isinstance(task, SlidesTask | QuizTask):
        return sum(map(len, texts_of(task.lesson)))
    return sum(len(text) for section in task.sections for text in (*section.paragraphs, *section.bullets))
