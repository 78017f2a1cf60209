"""Paid calls on a real ledger, against the stand-in over a socket: paid once, found again, never over the budget."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls, look_pauses, worst_case_usd
from activities.generation.slots import CallSlots
from activities.steps import StepKeeper
from core.database import Database
from core.metrics import WorkerMetrics
from domain.errors import BudgetExceeded, Outcome, PriceUnknown, ProviderError, Superseded
from domain.generation import (
    Completion,
    CompletionRequest,
    Finish,
    LanguageModel,
    LessonContent,
    LessonOutline,
    LessonTask,
    Message,
    Price,
    TokenUsage,
)
from domain.jobs import JobRef
from domain.structured import strict_schema
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import Match, Rule, StandInOpenAI
from gateways.standin_openai.script import Delay, Status429
from repositories.generation import CallDesk, CallLedger, NewCall
from repositories.jobs import JobRepository
from repositories.tables import provider_calls
from repositories.transitions import LOCK_JOB, JobTransitions
from tests.support.job_rows import (
    add_running_job,
    call_rows,
    event_rows,
    finish_job,
    job_row,
    next_attempt,
    result_parts,
)
from tests.support.waiting import eventually

PRICE = Price(input_usd=Decimal(2), cached_input_usd=Decimal(1), output_usd=Decimal(8))


def request(op: str = "op-1", *, model: str = "gpt-x", prompt: str = "Write a lesson.") -> CompletionRequest:
    """A wish for a lesson."""
    return CompletionRequest(
        op=op,
        model=model,
        messages=(Message(role="user", content=prompt),),
        task=LessonTask(
            topic="t", audience="a", language="en", level="beginner", course_title="c", module_title="m",
            lesson=LessonOutline(title="l", objectives=("o",), section_ids=()), sections=(),
        ),
        schema_name=LessonContent.__name__,
        json_schema=strict_schema(LessonContent),
        max_output_tokens=4_000,
    )  # fmt: skip


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running job without a budget."""
    return await add_running_job(database, tenant_id)


@dataclass
class ScriptedModel:
    """A model whose answers are given; it counts how often it is asked, and how often it is looked at."""

    answer: Callable[[], Completion]
    find: Callable[[], Completion | None] = lambda: None
    name: str = "scripted"
    default_model: str = "gpt-x"
    can_look_up: bool = True
    asked: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)

    async def complete(self, *, request: CompletionRequest) -> Completion:
        self.asked.append(request.op)
        await asyncio.sleep(0)
        return self.answer()

    async def find_completion(self, *, op: str, model: str) -> Completion | None:
        self.looked.append(op)
        return self.find()

    def price(self, model: str) -> Price:
        return PRICE


@dataclass
class EndingModel(ScriptedModel):
    """A model during whose work something happens."""

    before: Callable[[], Awaitable[None]] | None = None
    terms: Price = PRICE

    async def complete(self, *, request: CompletionRequest) -> Completion:
        assert self.before is not None
        await self.before()
        return await super().complete(request=request)

    def price(self, model: str) -> Price:
        return self.terms


def unknown(code: str = "E.OPENAI.TIMEOUT") -> ProviderError:
    """The failure after which nobody knows."""
    return ProviderError("no answer", code=code, outcome=Outcome.UNKNOWN, retryable=True)


def answer(text: str = "{}") -> Completion:
    """A short answer with a bill."""
    usage = TokenUsage(input_tokens=100, output_tokens=50)
    return Completion(text=text, finish=Finish.STOP, usage=usage, model="gpt-x")


def raises(fault: Exception) -> Callable[[], Any]:
    """A function that fails."""

    def fail() -> Any:
        raise fault

    return fail


async def reserve(database: Database, job: JobRef, model: LanguageModel, wanted: CompletionRequest) -> Decimal:
    """What is on record when a worker dies between its reservation and the wire; the amount."""
    worst = worst_case_usd(model, wanted)
    async with database.tenant(job.tenant_id) as connection:
        call = NewCall(op=wanted.op, step="lesson", provider=model.name, model=wanted.model, reserved_usd=worst)
        await CallLedger(connection).reserve(job, call)
    return worst


async def has_to_wait(connection: AsyncConnection) -> bool:
    """Whether another transaction waits for this one."""
    waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))")
    return bool((await connection.execute(waiting)).scalar_one())


def looking(database: Database, pauses: Sequence[float], *, settled_seconds: float) -> PaidCalls:
    """Calls that look for what is in doubt after these pauses."""
    return PaidCalls(
        database, StepKeeper(database), WorkerMetrics(CollectorRegistry()), CallSlots(20),
        look_pauses_seconds=pauses, settled_seconds=settled_seconds,
    )  # fmt: skip


class TestOnce:
    async def test_an_answer_is_remembered_and_settled(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The second time the same op costs nothing and says the same."""
        first = await calls.complete(job, "lesson", model, request())
        again = await calls.complete(job, "lesson", model, request())
        assert again == first
        assert server.stats["billed"] == 1
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 1, 0)
        assert row.settled_usd == PRICE.of(first.usage)
        assert row.settled_usd < row.reserved_usd == worst_case_usd(model, request())
        assert (row.input_tokens, row.output_tokens) == (first.usage.input_tokens, first.usage.output_tokens)

    async def test_a_worker_killed_while_the_provider_works_finds_the_answer(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The reservation says that a call may be out; it is looked for, and not paid again."""
        dying = asyncio.create_task(calls.complete(job, "lesson", model, request()))
        await server.until(lambda stats: stats["in_flight"] == 1)
        dying.cancel()
        await asyncio.wait({dying})
        (row,) = await call_rows(database, job)
        assert row.state == "sending"
        await server.until(lambda stats: stats["stored"] == 1)
        found = await calls.complete(job, "lesson", model, request())
        (row,) = await call_rows(database, job)
        assert server.stats["billed"] == 1
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 1, 0)
        assert row.settled_usd == PRICE.of(found.usage)

    async def test_a_worker_killed_before_the_wire_sends_again_and_counts_the_loss(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Nobody can tell that nothing was sent, so its worst case counts as lost."""
        worst = await reserve(database, job, model, request())
        await calls.complete(job, "lesson", model, request())
        (row,) = await call_rows(database, job)
        assert server.stats["billed"] == 1
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 2, worst)

    async def test_an_answer_lost_on_the_way_is_found(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """A fault after the work was done is an unknown outcome, which the next attempt reconciles."""
        server.play(Rule(action="reset_after", times=1))
        with pytest.raises(ProviderError) as caught:
            await calls.complete(job, "lesson", model, request())
        assert caught.value.outcome is Outcome.UNKNOWN
        assert (await call_rows(database, job))[0].state == Outcome.UNKNOWN
        await calls.complete(job, "lesson", model, request())
        assert server.stats["paid_more_than_once"] == {}
        assert server.stats["billed"] == 1
        assert (await call_rows(database, job))[0].lost_usd == 0

    async def test_an_answer_still_being_written_is_waited_for(
        self, database: Database, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The provider is slower than our patience, not than our second look."""
        server.play(Rule(action=Delay(seconds=1.5), times=1))
        patient = looking(database, (0.0, 1.2), settled_seconds=0)
        with pytest.raises(ProviderError, match="ReadTimeout"):
            await patient.complete(job, "lesson", model, request())
        await patient.complete(job, "lesson", model, request())
        assert server.stats["billed"] == 1

    async def test_a_call_of_a_killed_worker_is_looked_for_as_long_as_it_may_take(
        self, database: Database, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Longer than the first looks: the provider is silent for as long as we would have listened."""
        server.play(Rule(action=Delay(seconds=0.9), times=1))
        patient = looking(database, (0.0, 0.1), settled_seconds=3)
        dying = asyncio.create_task(patient.complete(job, "lesson", model, request()))
        await server.until(lambda stats: stats["in_flight"] == 1)
        dying.cancel()
        await asyncio.wait({dying})
        await patient.complete(job, "lesson", model, request())
        assert (server.stats["billed"], server.stats["paid_more_than_once"]) == (1, {})
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 1, 0)

    async def test_a_call_that_its_provider_has_ended_is_not_waited_for(
        self, database: Database, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """It said itself that it failed, so whatever there is of an answer is there by now."""
        server.play(Rule(action="status_500_before", times=1))
        patient = looking(database, (0.0,), settled_seconds=3_600)
        with pytest.raises(ProviderError):
            await patient.complete(job, "lesson", model, request())
        async with asyncio.timeout(60):
            await patient.complete(job, "lesson", model, request())
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.ended) == (Outcome.DONE, 2, False)

    async def test_a_refusal_of_a_later_send_is_no_answer_about_the_first(
        self, database: Database, calls: PaidCalls, job: JobRef
    ) -> None:
        """Its answer shows up only after the second send was told to slow down: one more look, and no third send."""
        scripted = ScriptedModel(answer=raises(unknown()))
        with pytest.raises(ProviderError):
            await calls.complete(job, "lesson", scripted, request())
        busy = ProviderError("slow down", code="E.OPENAI.RATE_LIMITED", outcome=Outcome.REJECTED, retryable=True)
        scripted.answer = raises(busy)
        with pytest.raises(ProviderError):
            await calls.complete(job, "lesson", scripted, request())
        looks = len(scripted.looked)
        scripted.find = answer
        await calls.complete(job, "lesson", scripted, request())
        assert (len(scripted.asked), len(scripted.looked)) == (2, looks + 1)
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 2, worst_case_usd(scripted, request()))

    async def test_a_late_failure_does_not_undo_an_answer(
        self, database: Database, calls: PaidCalls, job: JobRef
    ) -> None:
        """Of two tries at once one brings the answer home; what becomes of the other is not the call's end."""
        scripted = ScriptedModel(answer=answer)
        await calls.complete(job, "lesson", scripted, request())
        async with database.tenant(job.tenant_id) as connection:
            await CallLedger(connection).close(job, op="op-1", outcome=Outcome.REJECTED)
        (row,) = await call_rows(database, job)
        assert (row.state, row.settled_usd) == (Outcome.DONE, PRICE.of(answer().usage))

    async def test_what_is_not_found_is_sent_again(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The fault came before the work: nothing is stored, the call is made again, and the doubt is counted."""
        server.play(Rule(action="status_500_before", times=1))
        with pytest.raises(ProviderError):
            await calls.complete(job, "lesson", model, request())
        await calls.complete(job, "lesson", model, request())
        (row,) = await call_rows(database, job)
        assert server.stats["billed"] == 1
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 2, worst_case_usd(model, request()))

    async def test_it_looks_as_often_as_it_is_told_before_it_pays_again(
        self, calls: PaidCalls, job: JobRef, database: Database
    ) -> None:
        """One look would be too few: a provider lists an answer only once it is complete."""
        scripted = ScriptedModel(answer=answer)
        await reserve(database, job, scripted, request())
        await calls.complete(job, "lesson", scripted, request())
        assert scripted.looked == ["op-1"] * 3
        assert scripted.asked == ["op-1"]

    async def test_a_fresh_call_is_not_looked_for(self, calls: PaidCalls, job: JobRef) -> None:
        """Looking costs a round trip; there is nothing to find before the first send."""
        scripted = ScriptedModel(answer=answer)
        await calls.complete(job, "lesson", scripted, request())
        assert scripted.looked == []

    async def test_a_look_that_fails_sends_nothing(self, calls: PaidCalls, job: JobRef, database: Database) -> None:
        """Not being able to look is no permission to pay."""
        scripted = ScriptedModel(answer=answer, find=raises(unknown()))
        await reserve(database, job, scripted, request())
        with pytest.raises(ProviderError):
            await calls.complete(job, "lesson", scripted, request())
        assert scripted.asked == []
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends) == ("sending", 1)

    async def test_a_provider_that_keeps_nothing_is_asked_again_at_a_loss(
        self, calls: PaidCalls, job: JobRef, database: Database
    ) -> None:
        """Servers without stored completions are never looked at; each doubtful send is counted."""
        scripted = ScriptedModel(answer=raises(unknown()), can_look_up=False)
        for _ in range(2):
            with pytest.raises(ProviderError):
                await calls.complete(job, "lesson", scripted, request())
        scripted.answer = answer
        await calls.complete(job, "lesson", scripted, request())
        (row,) = await call_rows(database, job)
        assert scripted.looked == []
        assert (row.sends, row.lost_usd) == (3, 2 * worst_case_usd(scripted, request()))

    async def test_two_runs_at_once_keep_one_answer(self, calls: PaidCalls, job: JobRef, database: Database) -> None:
        """A run believed dead comes back: both get through, one answer is kept, and it is settled once."""
        scripted = ScriptedModel(answer=answer)
        await asyncio.gather(*(calls.complete(job, "lesson", scripted, request()) for _ in range(2)))
        (row,) = await call_rows(database, job)
        assert row.settled_usd == PRICE.of(answer().usage)
        assert await result_parts(database, job) == ["call/op-1"]

    async def test_an_answer_is_kept_though_the_job_moved_on_meanwhile(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """It is paid for: the next attempt finds it."""
        running = asyncio.create_task(calls.complete(job, "lesson", model, request()))
        await server.until(lambda stats: stats["in_flight"] == 1)
        newer = await next_attempt(database, job)
        await running
        await calls.complete(newer, "lesson", model, request())
        assert server.stats["billed"] == 1

    async def test_an_older_attempt_may_not_spend(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Neither may one whose job is over."""
        newer = await next_attempt(database, job)
        with pytest.raises(Superseded):
            await calls.complete(job, "lesson", model, request())
        await finish_job(database, newer)
        with pytest.raises(Superseded):
            await calls.complete(newer, "lesson", model, request())
        assert server.stats["arrived"] == 0
        assert await call_rows(database, job) == []


class TestCanceled:
    async def test_an_activity_that_was_canceled_pays_for_nothing_more(
        self, database: Database, calls: PaidCalls, job: JobRef
    ) -> None:
        """Even where the cancellation was swallowed on its way."""
        scripted = ScriptedModel(answer=answer)
        environment = ActivityEnvironment()

        async def deaf() -> None:
            environment.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await calls.complete(job, "lesson", scripted, request())

        with pytest.raises(asyncio.CancelledError):
            await environment.run(deaf)
        assert scripted.asked == []
        assert await call_rows(database, job) == []


class TestAfterTheEnd:
    async def test_a_call_that_was_out_still_counts(self, database: Database, calls: PaidCalls, job: JobRef) -> None:
        """The job was over before its answer came: the cost is put right, and that is news of the job."""

        async def end_first() -> None:
            await finish_job(database, job)

        scripted = EndingModel(answer=answer, before=end_first)
        await calls.complete(job, "lesson", scripted, request())
        row = await job_row(database, job)
        usage = answer().usage
        cost = PRICE.of(usage)
        assert (row.status, row.cost_usd) == ("canceled", cost)
        assert (row.input_tokens, row.output_tokens) == (usage.input_tokens, usage.output_tokens)
        last = (await event_rows(database, job))[-1]
        assert (last.type, last.seq, last.data["status"]) == ("cost.settled", row.version, "canceled")
        assert Decimal(last.data["usd"]) == cost

    async def test_one_that_cost_nothing_is_no_news(self, database: Database, calls: PaidCalls, job: JobRef) -> None:
        async def end_first() -> None:
            await finish_job(database, job)

        nothing = Price(input_usd=Decimal(0), cached_input_usd=Decimal(0), output_usd=Decimal(0))
        await calls.complete(job, "lesson", EndingModel(answer=answer, before=end_first, terms=nothing), request())
        assert [event.type for event in await event_rows(database, job)] == ["job.running", "job.canceled"]

    async def test_the_end_waits_for_what_is_being_settled(
        self, database: Database, job: JobRef, model: OpenAILanguageModel
    ) -> None:
        """It would otherwise sum up what was there before it had to wait for the job."""
        await reserve(database, job, model, request())
        async with database.tenant(job.tenant_id) as connection:
            await connection.execute(LOCK_JOB, {"id": job.job_id})
            settled = update(provider_calls).values(state=Outcome.DONE, settled_usd=Decimal("0.5"))
            await connection.execute(settled.where(provider_calls.c.job_id == job.job_id))
            ending = asyncio.create_task(
                JobTransitions(database).finish(
                    job, status="canceled", step_status="canceled", result=None, error=None, error_code=None
                )
            )
            await eventually(lambda: has_to_wait(connection), within=10)
        await ending
        assert (await job_row(database, job)).cost_usd == Decimal("0.5")

    async def test_who_settles_waits_for_the_end(
        self, database: Database, job: JobRef, model: OpenAILanguageModel
    ) -> None:
        """He would otherwise take the job for one that goes on, and leave the sum to it."""
        await reserve(database, job, model, request())
        async with database.tenant(job.tenant_id) as connection:
            values = {"status": "canceled", "finished_at": func.now()}
            await JobRepository(connection).record(job_id=job.job_id, event="job.canceled", values=values)
            settling = asyncio.create_task(
                CallDesk(database).settle(
                    job, op="op-1", part="call/op-1", answer={}, usage=TokenUsage(), cost_usd=Decimal("0.5")
                )
            )
            await eventually(lambda: has_to_wait(connection), within=10)
        await settling
        assert (await job_row(database, job)).cost_usd == Decimal("0.5")


class TestPauses:
    """How long a call is looked for, by how long nothing was heard of it."""

    @pytest.mark.parametrize(("quiet", "in_all"), [(0.0, 200.0), (100.0, 100.0), (1_000.0, 33.0)])
    def test_until_it_must_have_ended(self, quiet: float, in_all: float) -> None:
        pauses = list(look_pauses((0.0, 3.0, 10.0, 20.0), quiet_seconds=quiet, settled_seconds=200.0))
        assert (pauses[0], sum(pauses), max(pauses)) == (0.0, in_all, 20.0)


class TestRefusedSends:
    async def test_slow_down_is_no_loss(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """429 may be tried again at the time it names; nothing was billed, nothing is looked for."""
        server.play(Rule(action=Status429(retry_after=7), times=1))
        with pytest.raises(ProviderError) as caught:
            await calls.complete(job, "lesson", model, request())
        assert (caught.value.code, caught.value.may_retry) == ("E.OPENAI.RATE_LIMITED", True)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after.total_seconds() == 7
        assert (await call_rows(database, job))[0].state == Outcome.REJECTED
        await calls.complete(job, "lesson", model, request())
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 2, 0)

    async def test_an_exhausted_quota_is_final(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The same status, another meaning: waiting does not help."""
        server.play(Rule(action="insufficient_quota"))
        with pytest.raises(ProviderError) as caught:
            await calls.complete(job, "lesson", model, request())
        assert (caught.value.code, caught.value.may_retry) == ("E.OPENAI.QUOTA", False)
        assert (await call_rows(database, job))[0].state == Outcome.REJECTED

    async def test_nobody_listens(
        self, database: Database, calls: PaidCalls, job: JobRef, http: httpx.AsyncClient
    ) -> None:
        """What was never sent is not lost, and is not looked for."""
        away = OpenAILanguageModel(
            client=http, base_url="http://127.0.0.1:9/v1", api_key="sk-test", default_model="gpt-x",
            prices={"gpt-x": PRICE}, can_look_up=True,
        )  # fmt: skip
        for sends in (1, 2):
            with pytest.raises(ProviderError) as caught:
                await calls.complete(job, "lesson", away, request())
            assert (caught.value.outcome, caught.value.may_retry) == (Outcome.NOT_SENT, True)
            (row,) = await call_rows(database, job)
            assert (row.state, row.sends, row.lost_usd) == (Outcome.NOT_SENT, sends, 0)


class TestBudget:
    async def test_the_call_that_could_exceed_it_is_not_made(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Not a byte leaves, and no reservation stays."""
        worst = worst_case_usd(model, request())
        job = await add_running_job(database, tenant_id, budget_usd=worst - Decimal("0.000001"))
        with pytest.raises(BudgetExceeded, match="over the budget"):
            await calls.complete(job, "lesson", model, request())
        assert server.stats["arrived"] == 0
        assert await call_rows(database, job) == []

    async def test_the_call_that_exactly_fits_is_made(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel
    ) -> None:
        """A budget may be used up."""
        job = await add_running_job(database, tenant_id, budget_usd=worst_case_usd(model, request()))
        assert await calls.complete(job, "lesson", model, request())

    async def test_settling_frees_what_was_reserved_too_much(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """One after the other, more calls fit than their worst cases would."""
        worst = worst_case_usd(model, request())
        job = await add_running_job(database, tenant_id, budget_usd=worst + worst / 2)
        for number in range(3):
            await calls.complete(job, "lesson", model, request(f"op-{number}"))
        assert server.stats["billed"] == 3

    async def test_twenty_calls_at_once_never_exceed_it(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Seven worst cases fit, so exactly seven calls are out at once; the others are refused before the wire."""
        server.play(Rule(action=Delay(seconds=0.8)))  # longer than twenty reservations take
        worst = worst_case_usd(model, request("op-00"))
        job = await add_running_job(database, tenant_id, budget_usd=worst * 7 + worst / 2)
        ends = await asyncio.gather(
            *(calls.complete(job, "lesson", model, request(f"op-{number:02}")) for number in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(end, BudgetExceeded) for end in ends) == 13
        assert sum(isinstance(end, Completion) for end in ends) == 7
        assert server.stats["arrived"] == server.stats["concurrency_high_water"] == 7
        assert len(await call_rows(database, job)) == 7

    async def test_open_and_lost_sends_count_at_their_worst(
        self, database: Database, tenant_id: UUID, calls: PaidCalls
    ) -> None:
        """A send of unknown outcome may still be billed; sending again needs room for both."""
        scripted = ScriptedModel(answer=raises(unknown()), can_look_up=False)
        worst = worst_case_usd(scripted, request())
        job = await add_running_job(database, tenant_id, budget_usd=worst * 2 + worst / 2)
        for _ in range(2):
            with pytest.raises(ProviderError):
                await calls.complete(job, "lesson", scripted, request())
        with pytest.raises(BudgetExceeded):
            await calls.complete(job, "lesson", scripted, request())
        with pytest.raises(BudgetExceeded):
            await calls.complete(job, "lesson", scripted, request("op-2"))
        assert len(scripted.asked) == 2

    async def test_a_refused_send_frees_its_reservation(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Being told to slow down does not eat the budget."""
        server.play(Rule(match=Match(op="op-1"), action=Status429(), times=3))
        job = await add_running_job(database, tenant_id, budget_usd=worst_case_usd(model, request()))
        for _ in range(3):
            with pytest.raises(ProviderError):
                await calls.complete(job, "lesson", model, request())
        assert await calls.complete(job, "lesson", model, request())

    async def test_jobs_have_budgets_of_their_own(
        self, database: Database, tenant_id: UUID, calls: PaidCalls, model: OpenAILanguageModel
    ) -> None:
        """What a neighbour spends is not ours."""
        worst = worst_case_usd(model, request())
        first, second = [await add_running_job(database, tenant_id, budget_usd=worst) for _ in range(2)]
        await calls.complete(first, "lesson", model, request())
        assert await calls.complete(second, "lesson", model, request())

    async def test_a_model_without_a_price_is_refused_before_anything_happens(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Its cost cannot be bounded, also where there is no budget."""
        with pytest.raises(PriceUnknown):
            await calls.complete(job, "lesson", model, request(model="gpt-new"))
        assert server.stats["arrived"] == 0
        assert await call_rows(database, job) == []


class TestWorstCase:
    async def test_it_covers_the_bill(
        self, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """What came back never costs more than was set aside."""
        for number, prompt in enumerate(("x", "Modules: 3\n" + "word " * 5_000, "слово " * 2_000)):
            wanted = request(f"op-{number}", prompt=prompt)
            completion = await calls.complete(job, "lesson", model, wanted)
            assert PRICE.of(completion.usage) <= worst_case_usd(model, wanted)

    @pytest.mark.parametrize("prompt", ["课" * 10_000, "ж" * 10_000, "🜁" * 10_000], ids=["han", "cyrillic", "rare"])
    def test_scripts_with_a_token_a_character_are_covered(self, prompt: str) -> None:
        """Tokenizers made for English give other scripts up to a token a character."""
        scripted = ScriptedModel(answer=answer)
        usage = TokenUsage(input_tokens=len(prompt), output_tokens=4_000)
        assert worst_case_usd(scripted, request(prompt=prompt)) >= PRICE.of(usage)


class TestSlots:
    async def test_no_more_calls_of_a_job_are_out_than_it_may(
        self, database: Database, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The others wait before they are reserved: whoever dies waiting has spent nothing."""
        server.play(Rule(action=Delay(seconds=0.3)))
        few = PaidCalls(database, StepKeeper(database), WorkerMetrics(CollectorRegistry()), CallSlots(3))
        ops = [f"op-{n}" for n in range(7)]
        asked = {op: asyncio.create_task(few.complete(job, "lesson", model, request(op))) for op in ops}
        await server.until(lambda stats: stats["in_flight"] == 3)
        out = {row.op for row in await call_rows(database, job)}
        assert len(out) == 3
        next(task for op, task in asked.items() if op not in out).cancel()
        ends = await asyncio.gather(*asked.values(), return_exceptions=True)
        assert sum(isinstance(end, Completion) for end in ends) == 6
        assert server.stats["concurrency_high_water"] == 3
        assert len(await call_rows(database, job)) == 6

    async def test_jobs_do_not_wait_for_each_other(
        self, database: Database, tenant_id: UUID, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        server.play(Rule(action=Delay(seconds=0.3)))
        few = PaidCalls(database, StepKeeper(database), WorkerMetrics(CollectorRegistry()), CallSlots(1))
        jobs = [await add_running_job(database, tenant_id) for _ in range(3)]
        await asyncio.gather(*(few.complete(job, "lesson", model, request()) for job in jobs))
        assert server.stats["concurrency_high_water"] == 3

    @pytest.mark.parametrize(("calls_at_once", "parts_at_once"), [(1, 2), (2, 5), (20, 50)])
    def test_more_parts_are_in_progress_than_calls(self, calls_at_once: int, parts_at_once: int) -> None:
        assert CallSlots(calls_at_once).parts_at_once == parts_at_once

    @pytest.mark.parametrize(
        ("calls_at_once", "most_parts", "parts_at_once"), [(20, 30, 30), (60, 50, 60), (20, 99, 50)]
    )
    def test_one_job_leaves_room_for_others(self, calls_at_once: int, most_parts: int, parts_at_once: int) -> None:
        assert CallSlots(calls_at_once, most_parts=most_parts).parts_at_once == parts_at_once
