"""A validated piece of content from a model: cached, repaired once, and otherwise kept as the draft that it is."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from activities.generation.calls import PaidCalls
from activities.generation.guard import Part
from activities.steps import input_hash
from core.database import Database, Statement
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
from domain.guarding import Finding, GuardAction, Verdict
from domain.jobs import JobRef
from domain.model import Frozen
from domain.structured import AnswerFault, strict_schema, validate_answer
from prompts import repair
from prompts.prompt import Prompt
from repositories.generation import ResponseCache, keep_answer_statement

AnswerT = TypeVar("AnswerT", bound=Frozen)
Rule = Callable[[Any], Sequence[tuple[str, str]]]

_SEED_OF_SAMPLES: Final = 6
"""The first sample has the seed of an ordinary call."""

_UNUSABLE: Final = {
    Finish.REFUSAL: ContentStatus.REFUSED,
    Finish.CONTENT_FILTER: ContentStatus.FILTERED,
    Finish.LENGTH: ContentStatus.TRUNCATED,
}
_CONTENT: Final = "$content"
_MASKED: Final = "$masked"


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
    sample: int = 0
    """0: an answer is wanted. From 1: a sample of what the model says today, which is neither taken from the cache nor
    put there; each number has a seed of its own, so that samples are no copies of each other."""


@dataclass(frozen=True, slots=True)
class Written(Generic[AnswerT]):
    """What came of a wish. ``content`` is None unless the status is READY; then ``draft`` says what is wrong."""

    status: ContentStatus
    content: AnswerT | None
    draft: DraftNote | None
    provenance: Provenance
    findings: tuple[Finding, ...] = ()
    """What the tenant's content policy masked, flagged or blocked; blocked content is FILTERED, and gone."""
    keeping: tuple[Statement, ...] = ()
    """For the transaction that stores what is made of it: they put the answer into the cache. Where nothing is made of
    it after all, another job asks the model again, and nothing else is lost."""


class StructuredWriter:
    """Turns wishes into validated content."""

    def __init__(self, database: Database, calls: PaidCalls, *, cache_for: timedelta) -> None:
        self._cache = ResponseCache(database)
        self._calls = calls
        self.guard = calls.guard
        self._cache_for = cache_for

    async def write(
        self, job: JobRef, step: str, model: LanguageModel, model_name: str, wish: Wish[AnswerT]
    ) -> Written[AnswerT]:
        """Ask, validate, repair at most once. Raises what PaidCalls raises."""
        request = await self.guard.seal(job, step, model, _request(job, step, model_name, wish))
        part = Part(job=job, name=step, digest=request.op, provider=model.name, language=wish.task.language)
        key = _cache_key(model.name, request, wish)
        fresh = wish.fresh or wish.sample > 0
        cached = None if fresh else await self._from_cache(part, key, request, wish)
        if cached is not None:
            return cached
        first = await self._calls.complete(job, step, model, request)
        judged = _judge(first, wish)
        answers = [first]
        if isinstance(judged, AnswerFault):
            second = _repair_request(request, first, judged)
            answers.append(await self._calls.complete(job, step, model, second))
            judged = _judge(answers[-1], wish)
        written = await self._reviewed(part, _written(judged, answers, model, request.model, wish))
        if written.content is None or wish.sample:
            return written
        return replace(written, keeping=(self._keeping(job, key, written.content, written.findings),))

    async def _reviewed(self, part: Part, written: Written[AnswerT]) -> Written[AnswerT]:
        """What was written, with everything the content policy has to say about it."""
        seen = written.draft.raw if written.content is None and written.draft else written.content
        document = seen.model_dump(mode="json") if isinstance(seen, Frozen) else seen
        verdict = await self.guard.review(part, document, written.findings)
        if verdict.blocked:
            return _withheld(written, verdict)
        return replace(written, findings=verdict.findings)

    async def _from_cache(
        self, part: Part, key: str, request: CompletionRequest, wish: Wish[AnswerT]
    ) -> Written[AnswerT] | None:
        """The cached answer, judged anew by the policy of today: the key knows nothing of policies."""
        kept = await self._cache.get_or_none(part.job, key)
        if kept is None:
            return None
        before = tuple(Finding.model_validate(one) for one in kept.get(_MASKED, ()))
        if not await self.guard.still_masks(part.job, before):
            return None
        document, findings = await self.guard.recheck(part, kept.get(_CONTENT, kept))
        content = _still_good(document, wish)
        if content is None:
            return None
        nothing = _provenance(part.provider, request.model, wish.prompt, answers=[], cost=Decimal(0))
        return await self._reviewed(part, Written(ContentStatus.READY, content, None, nothing, (*before, *findings)))

    def _keeping(self, job: JobRef, key: str, content: Frozen, findings: Sequence[Finding]) -> Statement:
        answer = content.model_dump(mode="json")
        masked = [one.model_dump(mode="json") for one in findings if one.action is GuardAction.MASK]
        if masked:  # what was under the masks is not here, so it matters whether it is still to be masked
            answer = {_CONTENT: answer, _MASKED: masked}
        return keep_answer_statement(job, key, answer, keep=self._cache_for)


@functools.cache
def _wire_schema(answer: type[Frozen]) -> dict[str, Any]:
    return strict_schema(answer)


def _request(job: JobRef, step: str, model_name: str, wish: Wish[Any]) -> CompletionRequest:
    parameters = {"model": model_name, "max_output_tokens": wish.max_output_tokens}
    task = wish.task.model_dump(mode="json")
    op = input_hash(str(job.job_id), wish.spoiled, step, wish.prompt.sha256, task, parameters)
    if wish.sample:
        op = input_hash(op, wish.sample)
        parameters = {**parameters, "seed": _SEED_OF_SAMPLES + wish.sample}
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
        return Written(judged, None, DraftNote(raw=raw), provenance, last.findings)
    if isinstance(judged, AnswerFault):
        note = DraftNote(raw=raw, errors=judged.errors)
        return Written(ContentStatus.DRAFT, None, note, provenance, last.findings)
    return Written(ContentStatus.READY, judged, None, provenance, last.findings)


def _withheld(written: Written[AnswerT], verdict: Verdict) -> Written[AnswerT]:
    """What is left of blocked content: where the policy stopped it, and why."""
    stops = dict.fromkeys(
        (one.pointer, f"blocked by the content policy: {one.kind.value}")
        for one in verdict.findings
        if one.action is GuardAction.BLOCK
    )
    note = DraftNote(raw="", errors=tuple(stops))
    return replace(written, status=ContentStatus.FILTERED, content=None, draft=note, findings=verdict.findings)


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
