"""The book-keeping of steps on a real database: fenced, told in events, remembered once, and honest about trouble."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import pytest
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.steps import StepKeeper, input_hash
from core.database import Database
from core.ids import new_id
from domain.artifacts import Artifact, ArtifactRole
from domain.errors import BudgetExceeded, CycleBusy, DatabaseUnavailable, Outcome, ProviderError, Superseded
from domain.jobs import JobRef, StepPlan
from repositories.steps import FinishedPart
from tests.support.job_rows import (
    add_running_job,
    event_rows,
    finish_job,
    job_row,
    next_attempt,
    result_parts,
    step_rows,
)
from workflows.options import MODEL_CALL, TURN

STEPS: Final = (StepPlan(name="sources", title="Sources", weight=0.25), StepPlan(name="module-1", title="M", total=3))
DIGEST: Final = input_hash("anything")


@pytest.fixture
def keeper(database: Database) -> StepKeeper:
    """The keeper."""
    return StepKeeper(database)


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running job with two steps: one of one part, one of three."""
    return await add_running_job(database, tenant_id, steps=STEPS)


async def run(
    keeper: StepKeeper,
    job: JobRef,
    body: Callable[[], Awaitable[None]],
    *,
    step: str = "sources",
    attempt: int = 1,
    policy: RetryPolicy | None = MODEL_CALL["retry_policy"],
    workflow_id: str | None = None,
    run_id: str = "run",
) -> None:
    """One attempt at a step, as an activity of the run that the job's row knows, unless others are named."""
    environment = ActivityEnvironment()
    environment.info = replace(
        ActivityEnvironment.default_info(), attempt=attempt, retry_policy=policy,
        workflow_id=workflow_id or job.workflow_id, workflow_run_id=run_id,
    )  # fmt: skip

    async def act() -> None:
        async with keeper.attempt(job, step):
            await body()

    await environment.run(act)


async def nothing() -> None:
    """A step without trouble."""


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    """A step with trouble."""

    async def fail() -> None:
        raise error

    return fail


def slow_down(seconds: float | None = None) -> ProviderError:
    """A provider asks for patience."""
    wait = None if seconds is None else timedelta(seconds=seconds)
    return ProviderError(
        "not now", code="E.OPENAI.RATE_LIMITED", outcome=Outcome.REJECTED, retryable=True, retry_after=wait
    )


class Finish(Protocol):
    """A way in which a part is done."""

    async def __call__(self, keeper: StepKeeper, job: JobRef, *, step: str, part: str, result: dict[str, Any]) -> bool:
        """Whether this run of the part was the first."""
        ...


async def finish_with_effect(keeper: StepKeeper, job: JobRef, *, step: str, part: str, result: dict[str, Any]) -> bool:
    """A transaction of several statements."""
    async with keeper.effect(job) as connection:
        return await keeper.finish_part(
            connection, job, step=step, part=part, digest=DIGEST, result=result, event="part.done", data={"part": part}
        )


async def finish_with_artifact(
    keeper: StepKeeper, job: JobRef, *, step: str, part: str, result: dict[str, Any]
) -> bool:
    """A single round trip, for a part that makes one artifact."""
    artifact = Artifact(
        id=new_id(), tenant_id=job.tenant_id, job_id=job.job_id, name=f"{part}.json", media_type="application/json",
        bytes=2, sha256="0" * 64, role=ArtifactRole.PARTIAL,
    )  # fmt: skip
    finished = FinishedPart(
        step=step, part=part, digest=DIGEST, result=result, event="part.done", data={"part": part}, artifact=artifact
    )
    return await keeper.finish_artifact(job, finished)


@pytest.fixture(params=[finish_with_effect, finish_with_artifact])
def finish(request: pytest.FixtureRequest) -> Finish:
    """Both ways to finish a part: what holds for the one holds for the other."""
    chosen: Finish = request.param
    return chosen


class TestAttempt:
    async def test_a_step_is_running_and_says_so(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """One event, with the number of the attempt."""
        await run(keeper, job, nothing)
        step = (await step_rows(database, job))["sources"]
        assert (step.status, step.attempt) == ("running", 1)
        assert step.started_at is not None
        event = (await event_rows(database, job))[-1]
        assert (event.type, event.data["step"], event.data["attempt"]) == ("step.running", "sources", 1)

    async def test_the_parts_of_a_step_begin_it_once(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """Fifty lessons of a module are not fifty beginnings."""
        await asyncio.gather(*(run(keeper, job, nothing, step="module-1") for _ in range(5)))
        assert [event.type for event in await event_rows(database, job)].count("step.running") == 1

    async def test_another_attempt_is_news(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """And forgets the time at which it was to be."""
        with pytest.raises(ApplicationError):
            await run(keeper, job, failing(slow_down()))
        await run(keeper, job, nothing, attempt=2)
        step = (await step_rows(database, job))["sources"]
        assert (step.attempt, step.next_retry_at) == (2, None)
        assert (await job_row(database, job)).waiting_on is None

    async def test_a_run_repeated_after_the_end_does_not_reopen_the_step(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """A worker that dies between its commit and its report is run again, and finds that all is done."""
        await finish(keeper, job, step="sources", part="sources", result={})
        await run(keeper, job, nothing, attempt=2)
        assert (await step_rows(database, job))["sources"].status == "succeeded"


class TestFence:
    @pytest.mark.parametrize("moved_on", [finish_job, next_attempt])
    async def test_a_run_of_the_past_does_nothing(
        self,
        keeper: StepKeeper,
        job: JobRef,
        database: Database,
        moved_on: Callable[[Database, JobRef], Awaitable[object]],
    ) -> None:
        """Its body is not entered, nothing is written, and Temporal is not to try again."""
        await moved_on(database, job)
        before = await event_rows(database, job)
        entered = []

        async def body() -> None:
            entered.append(True)

        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, body)
        assert (caught.value.type, caught.value.non_retryable) == ("E.JOB.SUPERSEDED", True)
        assert entered == []
        assert await event_rows(database, job) == before
        assert (await step_rows(database, job))["sources"].status == "queued"

    @pytest.mark.parametrize("workflow_id", [None, "a module of the course"])
    async def test_a_run_that_an_operator_has_reset_waits_for_the_job(
        self, keeper: StepKeeper, job: JobRef, database: Database, workflow_id: str | None
    ) -> None:
        """The job is finished by an earlier run; for about a minute there is hope that it is opened again."""
        await finish_job(database, job)
        for attempt, code in ((1, "E.JOB.NOT_REOPENED"), (30, "E.JOB.NOT_REOPENED"), (31, "E.JOB.SUPERSEDED")):
            with pytest.raises(ApplicationError) as caught:
                await run(keeper, job, nothing, attempt=attempt, workflow_id=workflow_id, run_id="a later one")
            assert (caught.value.type, caught.value.non_retryable) == (code, code == "E.JOB.SUPERSEDED")
        assert (await step_rows(database, job))["sources"].last_error is None

    async def test_an_effect_is_dropped_when_the_job_moved_on_during_the_work(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """A zombie may compute, but not write; nor does it report its trouble."""

        async def body() -> None:
            await next_attempt(database, job)
            await finish(keeper, job, step="sources", part="sources", result={})

        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, body)
        assert caught.value.type == "E.JOB.SUPERSEDED"
        assert await result_parts(database, job) == []
        assert (await step_rows(database, job))["sources"].last_error is None
        assert [event.type for event in await event_rows(database, job)][-1] == "job.retried"

    async def test_a_failed_effect_leaves_nothing(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """Result, step and event come together or not at all."""
        before = await event_rows(database, job)

        async def break_off() -> None:
            async with keeper.effect(job) as connection:
                await keeper.finish_part(
                    connection, job, step="sources", part="sources", digest=DIGEST, result={}, event="part.done"
                )
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await break_off()
        assert await event_rows(database, job) == before
        assert await result_parts(database, job) == []
        assert (await step_rows(database, job))["sources"].done == 0

    async def test_a_superseded_effect_says_so(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """As an error of the domain, for whoever calls it outside of a step."""
        await next_attempt(database, job)
        with pytest.raises(Superseded):
            async with keeper.effect(job):
                pytest.fail("entered")


class TestResults:
    async def test_a_result_is_recalled_by_part_and_digest(
        self, keeper: StepKeeper, job: JobRef, finish: Finish
    ) -> None:
        """What was made from something else is another thing."""
        await finish(keeper, job, step="module-1", part="lesson-1.1", result={"artifact_id": "a"})
        assert await keeper.recall(job, "lesson-1.1", DIGEST) == {"artifact_id": "a"}
        assert await keeper.recall(job, "lesson-1.2", DIGEST) is None
        assert await keeper.recall(job, "lesson-1.1", input_hash("something else")) is None

    async def test_parts_advance_step_and_job(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """The last part completes the step; the job's progress is what was done by weight, and at most all of it."""
        progress = []
        for number in range(3):
            await finish(keeper, job, step="module-1", part=f"lesson-1.{number}", result={})
            step = (await step_rows(database, job))["module-1"]
            assert (step.done, step.status) == (number + 1, "succeeded" if number == 2 else "running")
            progress.append(round((await job_row(database, job)).progress, 3))
        assert progress == [0.333, 0.667, 1.0]
        assert (await step_rows(database, job))["module-1"].finished_at is not None

    async def test_two_runs_at_once_keep_one_result(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """The first stands; the second advances nothing and tells nobody."""
        await asyncio.gather(
            *(finish(keeper, job, step="module-1", part="lesson-1.1", result={"run": run}) for run in range(5))
        )
        assert await result_parts(database, job) == ["lesson-1.1"]
        assert (await step_rows(database, job))["module-1"].done == 1
        assert [event.type for event in await event_rows(database, job)].count("part.done") == 1

    async def test_events_are_numbered_without_a_gap(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """Also when many parts end at once; the last number is the job's version."""
        await asyncio.gather(
            *(finish(keeper, job, step="module-1", part=f"lesson-1.{number}", result={}) for number in range(20)),
            *(run(keeper, job, nothing, step="sources", attempt=number + 1) for number in range(5)),
        )
        numbers = [event.seq for event in await event_rows(database, job)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (await job_row(database, job)).version == len(numbers)


class TestTrouble:
    @pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (5, 16), (7, 60), (29, 60)])
    async def test_the_next_try_is_when_the_policy_says(
        self, keeper: StepKeeper, job: JobRef, database: Database, attempt: int, seconds: int
    ) -> None:
        """Doubling from a second, never above a minute."""
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(slow_down()), attempt=attempt)
        assert not caught.value.non_retryable
        await self.expect_retry(database, job, attempt=attempt, seconds=seconds)

    @pytest.mark.parametrize("attempt", [60, 2_000])
    async def test_a_long_outage_keeps_its_name(
        self, keeper: StepKeeper, job: JobRef, database: Database, attempt: int
    ) -> None:
        """However often it was tried, what fails is the step and not the sum of its pauses."""
        policy = TURN["retry_policy"]
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(slow_down()), attempt=attempt, policy=policy)
        assert caught.value.type == "E.OPENAI.RATE_LIMITED"
        await self.expect_retry(database, job, attempt=attempt, seconds=30)

    async def test_a_provider_that_names_a_time_is_heard(
        self, keeper: StepKeeper, job: JobRef, database: Database
    ) -> None:
        """By Temporal and by whoever looks at the job."""
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(slow_down(90)))
        assert caught.value.next_retry_delay == timedelta(seconds=90)
        await self.expect_retry(database, job, attempt=1, seconds=90)

    async def test_a_short_time_named_again_and_again_does_not_use_up_the_attempts(
        self, keeper: StepKeeper, job: JobRef
    ) -> None:
        """It is the least: with the pauses of the policy thirty tries last about half an hour."""
        pauses = []
        for attempt in range(1, 30):
            with pytest.raises(ApplicationError) as caught:
                await run(keeper, job, failing(slow_down(0.04)), attempt=attempt)
            assert caught.value.next_retry_delay is not None
            pauses.append(caught.value.next_retry_delay.total_seconds())
        assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
        assert 20 * 60 < sum(pauses) < 40 * 60

    async def test_a_pause_of_our_own_is_kept_as_it_is(self, keeper: StepKeeper, job: JobRef) -> None:
        """Whoever waits for a turn here knows how often to look."""
        busy = CycleBusy("another cycle is at work", retry_after=timedelta(seconds=2))
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(busy), attempt=9)
        assert caught.value.next_retry_delay == timedelta(seconds=2)

    async def test_pauses_have_an_end_where_tries_have_none(
        self, keeper: StepKeeper, job: JobRef, database: Database
    ) -> None:
        """After days of trying a power of two is larger than any number there is."""
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(slow_down()), attempt=5_000, policy=TURN["retry_policy"])
        assert caught.value.type == "E.OPENAI.RATE_LIMITED"
        await self.expect_retry(database, job, attempt=5_000, seconds=30)

    async def expect_retry(self, database: Database, job: JobRef, *, attempt: int, seconds: int) -> None:
        """Step, job and event agree on what went wrong and when it is tried again."""
        step = (await step_rows(database, job))["sources"]
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        assert abs(step.next_retry_at - due) < timedelta(seconds=0.9)
        assert (step.status, step.attempt, step.last_error["code"]) == ("running", attempt, "E.OPENAI.RATE_LIMITED")
        waiting = (await job_row(database, job)).waiting_on
        assert (waiting["kind"], datetime.fromisoformat(waiting["until"])) == ("retry", step.next_retry_at)
        event = (await event_rows(database, job))[-1]
        assert (event.type, event.data["code"], event.data["attempt"]) == (
            "step.retrying", "E.OPENAI.RATE_LIMITED", attempt,
        )  # fmt: skip
        assert datetime.fromisoformat(event.data["next_retry_at"]) == step.next_retry_at

    @pytest.mark.parametrize(
        ("error", "attempt"),
        [(BudgetExceeded("too much"), 1), (slow_down(), 30), (slow_down(90), 30)],
        ids=["not retryable", "last attempt", "last attempt with a wish"],
    )
    async def test_the_end_of_trying(
        self, keeper: StepKeeper, job: JobRef, database: Database, error: Any, attempt: int
    ) -> None:
        """The step has failed; the job waits for nothing."""
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(error), attempt=attempt)
        assert caught.value.type == error.code
        step = (await step_rows(database, job))["sources"]
        assert (step.status, step.next_retry_at) == ("failed", None)
        assert step.last_error == {
            "type": f"urn:longhaul:error:{error.code}",
            "title": error.title,
            "detail": error.detail,
            "code": error.code,
        }
        assert (await job_row(database, job)).waiting_on is None
        assert (await event_rows(database, job))[-1].type == "step.failed"

    async def test_the_unexpected_is_internal_and_does_not_talk(
        self, keeper: StepKeeper, job: JobRef, database: Database
    ) -> None:
        """Its words may quote a source: they are for our log, not for tables, clients or workflow history."""
        with pytest.raises(ApplicationError) as caught:
            await run(keeper, job, failing(ValueError("a line of the source")))
        assert (caught.value.type, caught.value.non_retryable) == ("E.INTERNAL", False)
        assert "source" not in str(caught.value)
        assert caught.value.__cause__ is None
        step = (await step_rows(database, job))["sources"]
        assert step.last_error["detail"] == "unexpected ValueError"
        assert step.next_retry_at is not None

    async def test_a_step_that_recovers_forgets_its_trouble(
        self, keeper: StepKeeper, job: JobRef, database: Database, finish: Finish
    ) -> None:
        """The next finished part clears error and waiting."""
        with pytest.raises(ApplicationError):
            await run(keeper, job, failing(slow_down()))
        await finish(keeper, job, step="sources", part="sources", result={})
        step = (await step_rows(database, job))["sources"]
        assert (step.status, step.last_error, step.next_retry_at) == ("succeeded", None, None)
        assert (await job_row(database, job)).waiting_on is None

    async def test_a_database_that_is_away_hides_no_failure(self, keeper: StepKeeper, job: JobRef) -> None:
        """Temporal hears of the first trouble though our tables cannot."""

        class Broken(StepKeeper):
            def effect(self, job: JobRef, *, course_id: UUID | None = None) -> Any:
                raise DatabaseUnavailable("the database cannot be reached")

        with pytest.raises(ApplicationError) as caught:
            await run(Broken(keeper._database), job, failing(slow_down()))
        assert (caught.value.type, caught.value.non_retryable) == ("E.OPENAI.RATE_LIMITED", False)

    async def test_cancellation_is_not_trouble(self, keeper: StepKeeper, job: JobRef, database: Database) -> None:
        """It passes through; the job's end is told by its workflow."""
        with pytest.raises(asyncio.CancelledError):
            await run(keeper, job, cancel)
        assert (await step_rows(database, job))["sources"].last_error is None


async def cancel() -> None:
    """What a worker does to an activity whose job is canceled."""
    raise asyncio.CancelledError


class TestInputHash:
    def test_it_is_of_values_not_of_spelling(self) -> None:
        """The order of members does not matter, that of parts does."""
        assert input_hash({"a": 1, "b": 2}) == input_hash({"b": 2, "a": 1})
        assert input_hash("a", "b") != input_hash("b", "a") != input_hash("ba")
