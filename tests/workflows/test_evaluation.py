"""Evaluations from start to end: real activities, database, store and Temporal, and a model that a test makes worse."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

from activities.schedules import ScheduleActivities
from core.database import Database
from core.store import ArtifactStore
from core.temporal import workflow_sandbox
from domain.artifacts import ArtifactRole
from domain.errors import InvalidInput, Outcome, ProviderError
from domain.jobs import JobAction, JobRef
from domain.schedules import ScheduleWish
from repositories.artifacts import ArtifactRepository
from repositories.evaluation import EvaluationRepository
from repositories.jobs import JobFilter, JobRepository
from repositories.rows import AnyRow
from services.schedules.clock import Clock
from services.schedules.runs import ScheduledJobService
from services.schedules.service import ScheduleService
from tests.support.course_service import Courses, serving_courses
from tests.support.evaluation import SMALL, WorseModel
from tests.support.job_rows import artifact_names, event_rows, job_row, step_rows
from tests.support.timetable import NEVER
from tests.support.waiting import eventually
from workflows.schedules import TASK_QUEUE, ScheduledRunWorkflow

KIND = "generation.evaluation"
WITHIN = 120.0


@pytest.fixture
async def worse() -> WorseModel:
    """The model under evaluation."""
    return WorseModel()


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, worse: WorseModel
) -> AsyncIterator[Courses]:
    """The real thing; answers would be taken from the cache, if evaluation did that."""
    async with serving_courses(
        temporal, database, store, tenant_id, cache_for=timedelta(hours=1), more_models=[worse]
    ) as made:
        try:
            yield made
        finally:
            # A worker waits for its activities; none may be held for ever once the test is over.
            worse.open.set()


async def evaluate(courses: Courses, status: str = "succeeded", **changes: Any) -> tuple[JobRef, AnyRow]:
    """An evaluation of a few cases, carried to its end."""
    job = await courses.start_kind(KIND, {"cases": list(SMALL), "samples": 2, **changes})
    return job, await courses.until_status(job, status, within=WITHIN)


async def report_of(courses: Courses, job: JobRef) -> dict[str, Any]:
    """The report as a program reads it."""
    async with courses.database.tenant(job.tenant_id) as connection:
        shown = await ArtifactRepository(connection).get_shown(job.job_id, limit=100, before=None)
    (found,) = [artifact for artifact in shown if artifact.name == "evaluation.json"]
    assert found.role is ArtifactRole.EXPORT
    document: dict[str, Any] = json.loads(await courses.store.get(found.store_key))
    return document


async def run_row(courses: Courses, job: JobRef) -> AnyRow:
    """What is on record about a run."""
    async with courses.database.tenant(job.tenant_id) as connection:
        return await EvaluationRepository(connection).get_run(job.job_id)


def counted(courses: Courses, name: str, **labels: str) -> float | None:
    """The value of a series."""
    return courses.evaluation_registry.get_sample_value(
        name, {"provider": "offline", "model": "extractive-1", **labels}
    )


class TestRuns:
    async def test_a_first_run_becomes_the_baseline_of_the_next(
        self, courses: Courses, worse: WorseModel, database: Database
    ) -> None:
        """Nothing is perfect but the offline provider on texts it may quote; the report says so in three forms."""
        first, row = await evaluate(courses)
        assert (row.result["verdict"], row.result["baseline_job_id"], row.progress) == ("good", None, 1.0)
        assert row.result["scores"] == dict.fromkeys(
            ("completeness", "constraints", "faithfulness", "coverage", "stability"), 1.0
        )
        steps = await step_rows(database, first)
        assert {name: (step.status, step.done) for name, step in steps.items()} == {
            "prepare": ("succeeded", 1), "samples": ("succeeded", 6), "judge": ("succeeded", 1),
        }  # fmt: skip
        names = await artifact_names(database, first)
        assert {"evaluation.json", "evaluation.md", "evaluation.html", "samples/en-knots-02.json"} <= set(names)
        asked = len(worse.asked)
        assert asked == 2 * (2 + 5 + 2)
        second, row = await evaluate(courses)
        assert row.result["baseline_job_id"] == str(first.job_id)
        assert len(worse.asked) == 2 * asked, "a sample is never taken from the cache"
        report = await report_of(courses, second)
        assert report["changes"]
        assert not any(change["worse"] for change in report["changes"])
        assert report["prompts"].keys() == {"course-outline", "course-lesson", "repair"}
        assert counted(courses, "longhaul_evaluation_regressions_total") == 0
        assert counted(courses, "longhaul_evaluation_score", metric="coverage") == 1

    async def test_a_model_that_forgets_fails_the_job_and_is_named(self, courses: Courses, worse: WorseModel) -> None:
        """The job, the report, the table and the metric agree; and the run does not become the baseline."""
        good, _ = await evaluate(courses)
        worse.worse = "forgets"
        bad, row = await evaluate(courses, "failed")
        assert row.error_code == "E.EVALUATION.REGRESSED"
        for case in SMALL:
            assert f"coverage of {case} fell from 1.000 to " in row.error["detail"]
        assert "faithfulness" not in row.error["detail"]
        report = await report_of(courses, bad)
        assert report["verdict"] == "regressed"
        assert report["baseline_job_id"] == str(good.job_id)
        assert {change["case"] for change in report["changes"] if change["worse"]} == set(SMALL)
        assert counted(courses, "longhaul_evaluation_regressions_total") == 1
        assert (await run_row(courses, bad)).verdict == "regressed"
        worse.worse = ""
        _, row = await evaluate(courses)
        assert row.result["baseline_job_id"] == str(good.job_id)
        assert counted(courses, "longhaul_evaluation_regressions_total") == 1

    async def test_a_model_that_invents_is_unfaithful(self, courses: Courses, worse: WorseModel) -> None:
        await evaluate(courses, samples=1)
        worse.worse = "invents"
        _, row = await evaluate(courses, "failed", samples=1)
        assert row.error_code == "E.EVALUATION.REGRESSED"
        assert "faithfulness of en-knots fell" in row.error["detail"]
        assert "coverage" not in row.error["detail"]

    async def test_below_the_floor_without_anything_to_compare_with(
        self, courses: Courses, worse: WorseModel, database: Database
    ) -> None:
        """Such a run is no baseline either. A retry reads everything back, pays for nothing, and says the same."""
        worse.worse = "invents"
        job, row = await evaluate(courses, "failed", samples=1)
        assert row.error_code == "E.EVALUATION.BELOW_FLOOR"
        assert "faithfulness is 0." in row.error["detail"]
        asked, names = list(worse.asked), await artifact_names(database, job)
        await courses.act(job, JobAction.RETRY)
        again = await eventually(
            lambda: job_row(database, job), lambda row: (row.status, row.attempt) == ("failed", 2), within=WITHIN
        )
        assert again.error["detail"] == row.error["detail"]
        assert worse.asked == asked
        assert await artifact_names(database, job) == names
        assert counted(courses, "longhaul_evaluation_below_floor_total") == 1
        worse.worse = ""
        _, row = await evaluate(courses, samples=1)
        assert row.result["baseline_job_id"] is None

    async def test_a_decline_can_be_accepted_and_a_baseline_chosen(self, courses: Courses) -> None:
        first, _ = await evaluate(courses, samples=1)
        fresh, row = await evaluate(courses, samples=1, baseline="none")
        assert row.result["baseline_job_id"] is None
        _, row = await evaluate(courses, samples=1)
        assert row.result["baseline_job_id"] == str(fresh.job_id)
        _, row = await evaluate(courses, samples=1, baseline=str(first.job_id))
        assert row.result["baseline_job_id"] == str(first.job_id)

    async def test_the_whole_golden_set(self, courses: Courses) -> None:
        """Every case, once, by the provider that quotes: nothing is to be found fault with, and no score is missing."""
        job, row = await evaluate(courses, cases=None, samples=1)
        assert row.result["cases"] >= 12
        assert row.result["scores"] == dict.fromkeys(("completeness", "constraints", "faithfulness", "coverage"), 1.0)
        report = await report_of(courses, job)
        assert [case["faults"] for case in report["cases"]] == [[]] * row.result["cases"]
        assert report["passed"]["mean"] == 1
        assert report["passed"]["low"] < 0.9, "fourteen of fourteen are no certainty"

    async def test_other_cases_are_another_series(self, courses: Courses) -> None:
        await evaluate(courses, samples=1)
        _, row = await evaluate(courses, samples=1, cases=["en-candles"])
        assert row.result["baseline_job_id"] is None


class TestTrouble:
    async def test_a_failed_sample_stops_the_rest_and_a_retry_pays_for_the_rest_alone(
        self, courses: Courses, worse: WorseModel, database: Database
    ) -> None:
        """What was finished is read back; a run that did not finish is not good."""
        quota = ProviderError("quota used up", code="E.OPENAI.QUOTA", outcome=Outcome.REJECTED, retryable=False)
        worse.failing_lesson, worse.fault = 4, quota
        job, row = await evaluate(courses, "failed", samples=1)
        assert row.error_code == "E.OPENAI.QUOTA"
        assert (await run_row(courses, job)).verdict is None
        worse.fault = None
        await courses.act(job, JobAction.RETRY)
        row = await courses.until_status(job, "succeeded", within=WITHIN)
        assert row.result["verdict"] == "good"
        assert len(worse.asked) == 9 + 1, Counter(worse.asked)
        events = Counter(event.type for event in await event_rows(database, job))
        assert events["evaluation.sampled"] == 3

    async def test_canceled_in_the_middle(self, courses: Courses, worse: WorseModel, database: Database) -> None:
        worse.open.clear()
        job = await courses.start_kind(KIND, {"cases": list(SMALL), "samples": 2})
        await courses.until(lambda: worse.in_progress == 2, within=WITHIN)
        await courses.act(job, JobAction.CANCEL)
        await courses.until_status(job, "canceled", within=WITHIN)
        worse.open.set()
        await courses.until(lambda: worse.in_progress == 0, within=WITHIN)
        assert (await run_row(courses, job)).verdict is None

    async def test_paused_between_samples_and_never_more_at_once_than_allowed(
        self, courses: Courses, worse: WorseModel
    ) -> None:
        worse.open.clear()
        job = await courses.start_kind(KIND, {"cases": list(SMALL), "samples": 2})
        await courses.until(lambda: worse.in_progress == 2, within=WITHIN)
        await courses.act(job, JobAction.PAUSE)
        await courses.until_paused(job)
        worse.open.set()
        await courses.until(lambda: worse.in_progress == 0, within=WITHIN)
        assert worse.asked.count("outline") == 2
        await courses.act(job, JobAction.RESUME)
        await courses.until_status(job, "succeeded", within=WITHIN)
        assert worse.asked.count("outline") == 6

    async def test_histories_stay_short_and_hold_no_text(self, courses: Courses) -> None:
        job, _ = await evaluate(courses)
        history = await courses.workflow(job).fetch_history()
        scheduled = [
            event for event in history.events if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        ]
        assert len(scheduled) == 1 + 6 + 1
        assert len(history.events) < 12 * len(scheduled)
        assert "bowline" not in history.to_json()


class TestSchedule:
    async def test_a_night_is_a_job_of_a_schedule(self, courses: Courses) -> None:
        """As ``POST /schedules`` makes it; the trigger stands in for the night."""
        doing = ScheduleActivities(courses.database, ScheduledJobService(courses.database, courses.service))
        clock = Clock(courses.client, timeout=timedelta(seconds=10))
        service = ScheduleService(courses.database, courses.service._kinds, clock, keep_keys=timedelta(hours=1))
        wish = {
            "kind": KIND,
            "input": {"cases": ["en-candles"], "samples": 1},
            "spec": NEVER,
            "pause_on_failure": False,
        }
        async with Worker(
            courses.client,
            task_queue=TASK_QUEUE,
            workflows=[ScheduledRunWorkflow],
            activities=[
                doing.start_scheduled_job,
                doing.look_at_scheduled_job,
                doing.cancel_scheduled_job,
                doing.end_scheduled_run,
            ],
            workflow_runner=workflow_sandbox(),
        ):
            made = await service.create(courses.tenant_id, ScheduleWish.model_validate(wish), key=None)
            await service.trigger(courses.tenant_id, made.shown.row.id, None, key=None)
            wanted = JobFilter(labels={"longhaul.schedule": str(made.shown.row.id)})

            async def jobs() -> Any:
                async with courses.database.tenant(courses.tenant_id) as connection:
                    return await JobRepository(connection).get_page(wanted, limit=5, before=None)

            (row,) = await eventually(
                jobs, lambda rows: len(rows) == 1 and rows[0].status == "succeeded", within=WITHIN
            )
            assert row.kind == KIND
            await courses.client.get_workflow_handle(row.labels["longhaul.run"]).result()

    async def test_a_schedule_of_cases_that_are_not_there_is_refused_at_once(self, courses: Courses) -> None:
        clock = Clock(courses.client, timeout=timedelta(seconds=10))
        service = ScheduleService(courses.database, courses.service._kinds, clock, keep_keys=timedelta(hours=1))
        wish = ScheduleWish.model_validate({"kind": KIND, "input": {"cases": ["en-moon"]}, "spec": NEVER})
        with pytest.raises(InvalidInput) as refused:
            await service.create(courses.tenant_id, wish, key=None)
        assert [fault.pointer for fault in refused.value.faults] == ["/input/cases"]


class TestCheck:
    @pytest.mark.parametrize(
        ("wish", "pointer"),
        [
            ({"golden_set": "nothing"}, "/input/golden_set"),
            ({"cases": ["en-knots", "no-such"]}, "/input/cases"),
            ({"baseline": "01890000-0000-7000-8000-000000000000"}, "/input/baseline"),
        ],
    )
    async def test_what_cannot_be_carried_out_is_refused(
        self, courses: Courses, wish: dict[str, Any], pointer: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await courses.start_kind(KIND, wish)
        assert [fault.pointer for fault in refused.value.faults] == [pointer]

    async def test_a_baseline_has_to_measure_the_same(self, courses: Courses, database: Database) -> None:
        job, _ = await evaluate(courses, samples=1, cases=["en-candles"])
        with pytest.raises(InvalidInput, match="cannot be carried out"):
            await courses.start_kind(KIND, {"cases": ["en-knots"], "baseline": str(job.job_id)})

    async def test_every_run_has_a_budget(self, courses: Courses, database: Database) -> None:
        _, row = await evaluate(courses, samples=1, cases=["en-candles"])
        assert row.budget_usd == 5
        _, row = await evaluate(courses, samples=1, cases=["en-candles"], budget_usd="0.5")
        assert str(row.budget_usd) == "0.500000"
