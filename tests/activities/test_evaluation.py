"""Samples of a provider that is paid: what a crash leaves behind is not paid for again, and a budget holds."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.evaluation import EvaluateSampleInput, EvaluationActivities, EvaluationStepInput
from activities.generation.models import Models
from activities.generation.writer import StructuredWriter
from activities.steps import StepKeeper
from core.database import Database
from core.evaluation_metrics import EvaluationMetrics
from core.http import HttpTimeouts, create_http_client
from core.store import ArtifactStore
from domain.errors import Outcome, ProviderError
from domain.evaluation import PREPARE_STEP, evaluation_steps
from domain.generation import Completion, CompletionRequest, LanguageModel, Price
from domain.jobs import JobRef, StepPlan
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import StandInOpenAI
from gateways.standin_openai.script import Match, Plain, Rule
from repositories.evaluation import EvaluationRepository
from repositories.tables import jobs
from tests.support.job_rows import add_running_job, artifact_names, call_rows

CASE: Final = "en-sourdough"
CALLS_OF_A_SAMPLE: Final = 1 + 4
WANTED: Final = {"cases": [CASE], "samples": 2, "provider": "openai", "model": "gpt-x"}
PLAN: Final = (StepPlan(name=PREPARE_STEP, title="Golden cases", weight=0.02), *evaluation_steps(1, 2))


class Dying:
    """A model whose process dies before, or right behind, the call of a certain number."""

    def __init__(self, model: OpenAILanguageModel) -> None:
        self.name, self.default_model, self.can_look_up = model.name, model.default_model, model.can_look_up
        self._model = model
        self.before: int | None = None
        self.behind: int | None = None
        self.calls = 0
        self.seeds: list[int] = []

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Answer, or be gone."""
        self.calls += 1
        self.seeds.append(request.seed)
        if self.calls == self.before:
            raise ProviderError("gone", code="E.OPENAI.CONNECTION", outcome=Outcome.NOT_SENT, retryable=True)
        answer = await self._model.complete(request=request)
        if self.calls == self.behind:
            raise ProviderError("gone", code="E.OPENAI.TIMEOUT", outcome=Outcome.UNKNOWN, retryable=True)
        return answer

    async def find_completion(self, *, op: str, model: str) -> Completion | None:
        """As the model."""
        return await self._model.find_completion(op=op, model=model)

    def price(self, model: str) -> Price:
        """As the model."""
        return self._model.price(model)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client with patience: no call here is to fail but those that the test makes fail."""
    timeouts = HttpTimeouts(connect=60, read=60, write=60, pool=60)
    async with create_http_client(timeout=timeouts, proxy=None, user_agent="longhaul-test") as client:
        yield client


@pytest.fixture
def dying(model: OpenAILanguageModel) -> Dying:
    """The gateway to the stand-in, which dies when told to."""
    return Dying(model)


@pytest.fixture
def golden(database: Database, store: ArtifactStore, calls: PaidCalls, dying: Dying) -> EvaluationActivities:
    """The activities, with a cache that they are not to use."""
    return activities(database, store, calls, dying)


@pytest.fixture
def next_worker(database: Database, store: ArtifactStore, calls: PaidCalls, dying: Dying) -> EvaluationActivities:
    """The activities in another process, with counters of its own."""
    return activities(database, store, calls, dying)


def activities(
    database: Database, store: ArtifactStore, calls: PaidCalls, model: LanguageModel
) -> EvaluationActivities:
    """The steps of an evaluation in a process of their own."""
    return EvaluationActivities(
        database,
        StepKeeper(database),
        DocumentStore(database, store),
        StructuredWriter(database, calls, cache_for=timedelta(hours=1)),
        models=Models([model]),
        metrics=EvaluationMetrics(CollectorRegistry()),
        at_once=2,
    )


@pytest.fixture
async def job(database: Database, tenant_id: UUID, golden: EvaluationActivities) -> JobRef:
    """An evaluation that was opened."""
    made = await add_running_job(database, tenant_id, raw_input=WANTED, steps=PLAN)
    plan = await run(golden.open_evaluation, EvaluationStepInput(job=made))
    assert (plan.cases, plan.samples, plan.at_once) == ((CASE,), 2, 2)
    return made


async def run(act: Any, step: Any) -> Any:
    """Run an activity as a worker does."""
    return await ActivityEnvironment().run(act, step)


def sample(job: JobRef, number: int = 1) -> EvaluateSampleInput:
    """One sample of the case."""
    return EvaluateSampleInput(job=job, case=CASE, sample=number)


class TestMoney:
    @pytest.mark.parametrize("moment", [("before", 1), ("behind", 1), ("before", 3), ("behind", 4), ("behind", 5)])
    async def test_a_crash_at_any_call_pays_for_nothing_twice(
        self, golden: EvaluationActivities, job: JobRef, dying: Dying, server: StandInOpenAI, moment: tuple[str, int]
    ) -> None:
        setattr(dying, *moment)
        with pytest.raises(ApplicationError):
            await run(golden.evaluate_sample, sample(job))
        await run(golden.evaluate_sample, sample(job))
        await run(golden.evaluate_sample, sample(job))
        stats = server.stats
        assert (stats["billed"], stats["paid_more_than_once"]) == (CALLS_OF_A_SAMPLE, {})

    async def test_samples_are_effects_of_their_own(
        self, golden: EvaluationActivities, job: JobRef, dying: Dying, server: StandInOpenAI, database: Database
    ) -> None:
        """Neither copies of each other nor from the cache, and the second night pays again."""
        for number in (1, 2):
            await run(golden.evaluate_sample, sample(job, number))
        assert Counter(dying.seeds) == {7: CALLS_OF_A_SAMPLE, 8: CALLS_OF_A_SAMPLE}
        again = await add_running_job(database, job.tenant_id, raw_input=WANTED, steps=PLAN)
        await run(golden.open_evaluation, EvaluationStepInput(job=again))
        await run(golden.evaluate_sample, sample(again))
        assert server.stats["billed"] == 3 * CALLS_OF_A_SAMPLE
        async with database.tenant(job.tenant_id) as connection:
            kept = await EvaluationRepository(connection).get_samples(job.job_id)
        assert [(one.case, one.sample, one.calls) for one in kept] == [(CASE, 1, 5), (CASE, 2, 5)]
        rows = await call_rows(database, job)
        assert sum((row.settled_usd for row in rows), Decimal(0)) == sum((one.cost_usd for one in kept), Decimal(0)) > 0
        assert len({row.step for row in rows}) == len(rows) == 2 * CALLS_OF_A_SAMPLE

    async def test_a_budget_ends_the_sample_and_leaves_no_verdict(
        self, golden: EvaluationActivities, job: JobRef, database: Database, server: StandInOpenAI
    ) -> None:
        async with database.tenant(job.tenant_id) as connection:
            await connection.execute(update(jobs).where(jobs.c.id == job.job_id).values(budget_usd=Decimal("0.05")))
        with pytest.raises(ApplicationError) as stopped:
            await run(golden.evaluate_sample, sample(job))
        assert stopped.value.type == "E.BUDGET.EXCEEDED"
        assert stopped.value.non_retryable
        assert 0 < server.stats["billed"] < CALLS_OF_A_SAMPLE
        async with database.tenant(job.tenant_id) as connection:
            evaluations = EvaluationRepository(connection)
            assert (await evaluations.get_run(job.job_id)).verdict is None
            assert await evaluations.get_samples(job.job_id) == []


class TestVerdict:
    async def test_a_model_that_talks_of_other_things_is_below_the_floor(
        self, golden: EvaluationActivities, job: JobRef, database: Database, server: StandInOpenAI
    ) -> None:
        """The stand-in fits every schema and knows nothing of bread. Said again and again, and counted once."""
        for number in (1, 2):
            await run(golden.evaluate_sample, sample(job, number))
        for _ in range(2):
            with pytest.raises(ApplicationError) as failed:
                await run(golden.judge_evaluation, EvaluationStepInput(job=job))
            assert failed.value.type == "E.EVALUATION.BELOW_FLOOR"
            assert f"coverage is 0.000, below its floor of 0.60 (in {CASE})" in str(failed.value)
        assert golden._metrics.below_floor.labels("openai", "gpt-x")._value.get() == 1
        names = await artifact_names(database, job)
        assert names.count("evaluation.html") == 1

    async def test_a_verdict_whose_worker_died_before_it_was_counted_is_counted_by_the_next(
        self, golden: EvaluationActivities, next_worker: EvaluationActivities, job: JobRef
    ) -> None:
        """The first worker's counts are gone with it. The verdict is on record, and the next has only to read it."""
        for number in (1, 2):
            await run(golden.evaluate_sample, sample(job, number))
        for worker in (golden, next_worker, next_worker):
            with pytest.raises(ApplicationError) as failed:
                await run(worker.judge_evaluation, EvaluationStepInput(job=job))
            assert failed.value.type == "E.EVALUATION.BELOW_FLOOR"
        assert next_worker._metrics.below_floor.labels("openai", "gpt-x")._value.get() == 1
        assert next_worker._metrics.judged_at.labels("openai", "gpt-x")._value.get() > 0

    async def test_a_document_that_breaks_its_schema_scores_nothing(
        self, golden: EvaluationActivities, job: JobRef, database: Database, server: StandInOpenAI
    ) -> None:
        """An outline that stays a draft after its repair is a sample like any other: a bad one."""
        server.play(Rule(match=Match(schema_name="CourseOutline"), action=Plain(kind="schema_breaking")))
        await run(golden.evaluate_sample, sample(job))
        async with database.tenant(job.tenant_id) as connection:
            (kept,) = await EvaluationRepository(connection).get_samples(job.job_id)
        assert (kept.status, kept.faults, set(kept.scores.values()), kept.calls) == ("draft", ("outline",), {0.0}, 2)
