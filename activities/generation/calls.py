"""Paid calls: reserved in the ledger before the wire is touched, looked up before they are paid for again."""

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

import structlog

from activities.generation.costs import CostWatch
from activities.generation.guard import ContentGuard
from activities.generation.slots import CallSlots
from activities.heartbeat import leave_if_canceled
from activities.steps import StepKeeper
from core.database import Database
from core.metrics import WorkerMetrics
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.generation import Completion, CompletionRequest, LanguageModel, TokenUsage
from domain.jobs import JobRef
from gateways.detection import PersonalDataDetector
from repositories.generation import SENDING, CallDesk, NewCall
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)

_LOOK_PAUSES_SECONDS: Final = (0.0, 3.0, 10.0, 20.0)
"""A provider may still be at work when we come back: it is asked at these intervals, then at the last of them, until
the call must have ended. Only then it is paid for again."""

SETTLING_MARGIN_SECONDS: Final = 20.0
"""How much longer than we would have waited for its answer a call is looked for."""

_SETTLED_SECONDS: Final = 180.0 + SETTLING_MARGIN_SECONDS
_OPEN: Final = (SENDING, Outcome.UNKNOWN)


class PaidCalls:
    """One completion for one op, however often the activity around it is tried.

    ``settled_seconds`` is how long after the last that was heard of a call its provider cannot be at work on it any
    more: longer than an answer is waited for.
    """

    def __init__(
        self,
        database: Database,
        keeper: StepKeeper,
        metrics: WorkerMetrics,
        slots: CallSlots,
        *,
        guard: ContentGuard | None = None,
        look_pauses_seconds: Sequence[float] = _LOOK_PAUSES_SECONDS,
        settled_seconds: float = _SETTLED_SECONDS,
        watch: CostWatch | None = None,
    ) -> None:
        self._keeper = keeper
        self._desk = CallDesk(database)
        self._metrics = metrics
        self._slots = slots
        self._look_pauses_seconds = look_pauses_seconds
        self._settled_seconds = settled_seconds
        self.guard = guard or ContentGuard(database, keeper, PersonalDataDetector())
        """What every answer goes through before it is kept; without another one with local detectors alone."""
        self._watch = watch

    async def complete(self, job: JobRef, step: str, model: LanguageModel, request: CompletionRequest) -> Completion:
        """The answer to the request, paid for once. Raises ProviderError, BudgetExceeded and PriceUnknown."""
        found = await self._first_send(job, step, model, request)
        if found is None:
            before = await self._desk.get_before(job, request.op)
            if before.state == Outcome.DONE:
                kept = await self._keeper.recall(job, _part(request), request.op)
                if kept is not None:
                    return Completion.model_validate(kept)
            found = await self._look(model, request, before)
        if found is None:
            async with self._slots.of(job).one():
                leave_if_canceled()
                if await self._reserve(job, step, model, request, budgeted=before.budget_usd is not None):
                    found = await self._send(job, model, request)
        if found is None:
            # Another attempt, on its way out, has just brought the answer home.
            return await self.complete(job, step, model, request)
        # Before it is written down anywhere, the memory of this job included.
        found = await self.guard.screen(job, found, language=request.task.language)
        await self._settle(job, model, request, found)
        await self._slots.of(job).let_calls_leave()
        return found

    async def _first_send(
        self, job: JobRef, step: str, model: LanguageModel, request: CompletionRequest
    ) -> Completion | None:
        """The answer to a call of which nothing is on record, as is the case with nearly all; else None."""
        try:
            call = _new_call(step, model, request)
        except PriceUnknown:
            return None  # it had a price when it was paid for, if it was
        async with self._slots.of(job).one():
            leave_if_canceled()
            if await self._desk.open(job, call):
                return await self._send(job, model, request)
        return None

    async def _look(self, model: LanguageModel, request: CompletionRequest, before: AnyRow) -> Completion | None:
        """The answer of an earlier send whose outcome nobody knows."""
        if not model.can_look_up:
            return None
        for pause in self._pauses(before):
            await asyncio.sleep(pause)
            found = await model.find_completion(op=request.op, model=request.model)
            if found is not None:
                _log.info("call.found_again", op=request.op, provider=model.name)
                return found
        return None

    def _pauses(self, before: AnyRow) -> Iterator[float]:
        """How long to wait before each look, by what the ledger says of the call; nothing where there is no doubt."""
        if before.state in _OPEN:
            yield from look_pauses(
                self._look_pauses_seconds,
                quiet_seconds=before.quiet_for.total_seconds(),
                settled_seconds=0.0 if before.ended else self._settled_seconds,
            )
        elif before.lost_usd:
            # What was said to a later send is no answer about an earlier one. That must have ended: one look tells.
            yield 0.0

    async def _send(self, job: JobRef, model: LanguageModel, request: CompletionRequest) -> Completion:
        try:
            return await model.complete(request=request)
        except ProviderError as error:
            await self._desk.close(job, op=request.op, outcome=error.outcome, ended=error.ended)
            self._metrics.count_model_call(provider=model.name, model=request.model, outcome=error.outcome.value)
            raise

    async def _reserve(
        self, job: JobRef, step: str, model: LanguageModel, request: CompletionRequest, *, budgeted: bool
    ) -> bool:
        return await self._desk.reserve(job, _new_call(step, model, request), budgeted=budgeted)

    async def _settle(
        self, job: JobRef, model: LanguageModel, request: CompletionRequest, completion: Completion
    ) -> None:
        cost = model.price(request.model).of(completion.usage)
        answer = completion.model_dump(mode="json")
        watched = self._watch.question(job) if cost and self._watch is not None else ()
        rows = await self._desk.settle(
            job, *watched, op=request.op, part=_part(request), answer=answer, usage=completion.usage, cost_usd=cost
        )
        self._count(job.kind, model.name, request.model, completion.usage, cost)
        if self._watch is not None:
            self._watch.hear(job, rows)

    def _count(self, kind: str, provider: str, model: str, usage: TokenUsage, cost: Decimal) -> None:
        self._metrics.count_model_call(provider=provider, model=model, outcome=Outcome.DONE.value)
        self._metrics.count_usage(
            provider=provider,
            model=model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usd=float(cost),
            kind=kind,
        )


def look_pauses(pauses: Sequence[float], *, quiet_seconds: float, settled_seconds: float) -> Iterator[float]:
    """How long to wait before each look at a call of which nothing was heard for so long: ``pauses`` in any case.

    The last of them again and again until the call is ``settled_seconds`` old.
    """
    yield from pauses
    rest = settled_seconds - quiet_seconds - sum(pauses)
    while rest > 0:
        pause = min(rest, pauses[-1] or rest)
        rest -= pause
        yield pause


def worst_case_usd(model: LanguageModel, request: CompletionRequest) -> Decimal:
    """The most the request can cost: no cached input, all output tokens used. Raises PriceUnknown.

    A token is a byte at least, for every tokenizer that works on bytes, so that an estimate is never too low.
    """
    size = sum(len(message.content.encode()) for message in request.messages) + len(str(request.json_schema))
    usage = TokenUsage(input_tokens=size, output_tokens=request.max_output_tokens)
    return model.price(request.model).of(usage)


def _new_call(step: str, model: LanguageModel, request: CompletionRequest) -> NewCall:
    worst = worst_case_usd(model, request)
    return NewCall(op=request.op, step=step, provider=model.name, model=request.model, reserved_usd=worst)


def _part(request: CompletionRequest) -> str:
    return f"call/{request.op[:16]}"
