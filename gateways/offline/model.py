"""The offline model behind the port of language models."""

import asyncio
from decimal import Decimal
from typing import Final

from domain.errors import PriceUnknown
from domain.generation import Completion, CompletionRequest, Finish, OutlineTask, Price, Task, TokenUsage
from gateways.offline.lesson import write_lesson
from gateways.offline.outline import write_outline

_MODEL: Final = "extractive-1"
_FREE: Final = Price(input_usd=Decimal(0), cached_input_usd=Decimal(0), output_usd=Decimal(0))
_CHARS_PER_TOKEN: Final = 4


class OfflineLanguageModel:
    """Writes outlines and lessons from the sentences of the sources: no network, no cost, no chance.

    The same request always gets the same answer. ``messages`` and ``max_output_tokens`` are for models that
    read and are billed; the answer depends on ``task`` alone.
    """

    name: str = "offline"
    default_model: str = _MODEL
    can_look_up: bool = False

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Answer the request. Raises PriceUnknown for another model and SourceEmpty where there is no text."""
        self.price(request.model)
        text = await asyncio.to_thread(_answer, request.task)
        read = sum(len(message.content) for message in request.messages) or _task_chars(request.task)
        return Completion(
            text=text,
            finish=Finish.STOP,
            usage=TokenUsage(input_tokens=_tokens(read), output_tokens=_tokens(len(text))),
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


def _answer(task: Task) -> str:
    if isinstance(task, OutlineTask):
        return write_outline(task).model_dump_json()
    return write_lesson(task).model_dump_json()


def _tokens(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def _task_chars(task: Task) -> int:
    return sum(len(text) for section in task.sections for text in (*section.paragraphs, *section.bullets))
