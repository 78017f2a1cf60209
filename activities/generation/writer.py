"""A validated piece of content from a model: cached, repaired once, and otherwise kept as the draft that it is."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from activities.generation.calls import PaidCalls
from activities.steps import input_hash
from core.database import Database
from domain.generation import (
    Completion,
    CompletionRequest,
    ContentStatus,
    DraftNote,
    Finish,
    LanguageModel,
    Message,
    Provenance,
    Task,
)
from domain.jobs import JobRef
from domain.model import Frozen
from domain.structured import AnswerFault, strict_schema, validate_answer
from prompts import repair
from prompts.prompt import Prompt
from repositories.generation import ResponseCache

AnswerT = TypeVar("AnswerT", bound=Frozen)
Rule = Callable[[Any], Sequence[tuple[str, str]]]

_UNUSABLE: Final = {
    Finish.REFUSAL: ContentStatus.REFUSED,
    Finish.CONTENT_FILTER: ContentStatus.FILTERED,
    Finish.LENGTH: ContentStatus.TRUNCATED,
}


@dataclass(frozen=True, slots=True)
class Wish(Generic[AnswerT]):
    """What is wanted of a model: the task, its prompt and rendered messages, and what a good answer is.

    ``rule`` finds faults that a schema cannot express, as (JSON pointer, message) pairs.
    """

    task: Task
    prompt: Prompt
    messages: tuple[Message, ...]
    answer: type[AnswerT]
    max_output_tokens: int
    rule: Rule = lambda _answer: ()
    spoiled: int = 0
    """How many answers to the same wish were no good and ended an attempt of the job; the next one is another call."""
    fresh: bool = False
    """Whether an answer that is on record already is not good enough: the same is wanted anew."""


@dataclass(frozen=True, slots=True)
class Written(Generic[AnswerT]):
    """What came of a wish. ``content`` is None unless the status is READY; then ``draft`` says what is wrong."""

    status: ContentStatus
    content: AnswerT | None
    draft: DraftNote | None
    provenance: Provenance


class StructuredWriter:
    """Turns wishes into validated content."""

    def __init__(self, database: Database, calls: PaidCalls, *, cache_for: timedelta) -> None:
        self._cache = ResponseCache(database)
        self._calls = calls
        self._cache_for = cache_for

    async def write(
        self, job: JobRef, step: str, model: LanguageModel, model_name: str, wish: Wish[AnswerT]
    ) -> Written[AnswerT]:
        """Ask, validate, repair at most once. Raises what PaidCalls raises."""
        request = _request(job, step, model_name, wish)
        key = _cache_key(model.name, request, wish)
        cached = None if wish.fresh else await self._from_cache(job, key, model.name, request, wish)
        if cached is not None:
            return cached
        first = await self._calls.complete(job, step, model, request)
        judged = _judge(first, wish)
        answers = [first]
        if isinstance(judged, AnswerFault):
            second = _repair_request(request, first, judged)
            answers.append(await self._calls.complete(job, step, model, second))
            judged = _judge(answers[-1], wish)
        written = _written(judged, answers, model, request.model, wish)
        if written.content is not None:
            await self._keep(job, key, written.content)
        return written

    async def _from_cache(
        self, job: JobRef, key: str, provider: str, request: CompletionRequest, wish: Wish[AnswerT]
    ) -> Written[AnswerT] | None:
        kept = await self._cache.get_or_none(job, key)
        content = None if kept is None else _still_good(kept, wish)
        if content is None:
            return None
        nothing = _provenance(provider, request.model, wish.prompt, answers=[], cost=Decimal(0))
        return Written(ContentStatus.READY, content, None, nothing)

    async def _keep(self, job: JobRef, key: str, content: Frozen) -> None:
        await self._cache.put(job, key, content.model_dump(mode="json"), keep=self._cache_for)


@functools.cache
def _wire_schema(answer: type[Frozen]) -> dict[str, Any]:
    return strict_schema(answer)


def _request(job: JobRef, step: str, model_name: str, wish: Wish[Any]) -> CompletionRequest:
    parameters = {"model": model_name, "max_output_tokens": wish.max_output_tokens}
    task = wish.task.model_dump(mode="json")
    op = input_hash(str(job.job_id), wish.spoiled, step, wish.prompt.sha256, task, parameters)
    return CompletionRequest(
        op=op,
        messages=wish.messages,
        task=wish.task,
        schema_name=wish.answer.__name__,
        json_schema=_wire_schema(wish.answer),  # type: ignore[arg-type] # mypy 2.4: type[Any] is hashable
        **parameters,
    )


def _repair_request(request: CompletionRequest, answer: Completion, fault: AnswerFault) -> CompletionRequest:
    return request.model_copy(
        update={
            "op": input_hash(request.op, "repair"),
            "messages": repair.render(request.messages, answer.text, fault.errors),
        }
    )


def _cache_key(provider: str, request: CompletionRequest, wish: Wish[Any]) -> str:
    return input_hash(
        provider,
        request.model_dump(mode="json", include={"model", "max_output_tokens", "temperature", "seed", "json_schema"}),
        [wish.prompt.id, wish.prompt.version, wish.prompt.sha256, repair.PROMPT.sha256],
        [message.model_dump() for message in request.messages],
        wish.task.model_dump(mode="json"),
    )


def _still_good(kept: dict[str, Any], wish: Wish[AnswerT]) -> AnswerT | None:
    """The cached answer, unless a rule has become stricter since: the key knows no more than the wire schema."""
    try:
        content = wish.answer.model_validate(kept)
    except ValidationError:
        return None
    return None if wish.rule(content) else content


def _judge(completion: Completion, wish: Wish[AnswerT]) -> AnswerT | AnswerFault | ContentStatus:
    if completion.finish in _UNUSABLE:
        return _UNUSABLE[completion.finish]
    answer = validate_answer(wish.answer, completion.text)
    if isinstance(answer, AnswerFault):
        return answer
    faults = tuple(wish.rule(answer))
    return AnswerFault(errors=faults) if faults else answer


def _written(
    judged: AnswerT | AnswerFault | ContentStatus,
    answers: Sequence[Completion],
    model: LanguageModel,
    model_name: str,
    wish: Wish[AnswerT],
) -> Written[AnswerT]:
    last = answers[-1]
    # By the name that was asked for, as in the ledger: the name that answered may have no price of its own.
    price = model.price(model_name)
    cost = sum((price.of(answer.usage) for answer in answers), Decimal(0))
    provenance = _provenance(model.name, last.model, wish.prompt, answers=answers, cost=cost)
    raw = last.refusal or last.text
    if isinstance(judged, ContentStatus):
        return Written(judged, None, DraftNote(raw=raw), provenance)
    if isinstance(judged, AnswerFault):
        return Written(ContentStatus.DRAFT, None, DraftNote(raw=raw, errors=judged.errors), provenance)
    return Written(ContentStatus.READY, judged, None, provenance)


def _provenance(
    provider: str, model: str, prompt: Prompt, *, answers: Sequence[Completion], cost: Decimal
) -> Provenance:
    return Provenance(
        provider=provider,
        model=model,
        prompt_id=prompt.id,
        prompt_version=prompt.version,
        prompt_sha256=prompt.sha256,
        input_tokens=sum(answer.usage.input_tokens for answer in answers),
        output_tokens=sum(answer.usage.output_tokens for answer in answers),
        cost_usd=cost,
        calls=len(answers),
        cached=not answers,
        generated_at=datetime.now(UTC),
    )
