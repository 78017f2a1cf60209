import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update
from temporalio.api.enums.v1 import EventType
from temporalio.client import ScheduleActionStartWorkflow, WorkflowExecutionStatus

from core.database import Database
from core.temporal import connect, create_data_converter
from domain.errors import IdempotencyMismatch, InvalidInput, NotFound, TemporalUnavailable
from domain.schedules import (
    Backfill,
    Overlap,
    ScheduleChange,
    ScheduledRun,
    ScheduleRef,
    ScheduleWish,
    StartedRun,
)
from repositories.tables import schedules
from services.commands import SEARCH_ATTRIBUTES
from services.schedules.clock import Clock
from services.schedules.runs import ScheduledJobService
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.stack.temporal import EmbeddedTemporal
from tests.support.life import Life, new_tenant, serving
from tests.support.timetable import NEVER, Timetable, serving_schedules
from tests.support.waiting import eventually


@pytest.fixture
async def timetable(life: Life) -> AsyncIterator[Timetable]:
    async with serving_schedules(life) as serving:
        yield serving


@pytest.fixture
async def away(timetable: Timetable) -> Clock:
    """A way to a Temporal that is not there."""
    client = await connect(
        f"127.0.0.1:{free_port()}", namespace="default", converter=create_data_converter(None), lazy=True
    )
    return Clock(client, timeout=timedelta(seconds=0.2))


def berlin(cron: str, start: datetime) -> dict[str, Any]:
    return {"cron": cron, "time_zone": "Europe/Berlin", "start_at": start.isoformat()}


class TestTimes:
    async def test_the_wall_clock_holds_across_daylight_saving(self, timetable: Timetable) -> None:
        """Half past two is left out where the clocks skip it, happens once where they repeat it, and stays put."""
        spring = await timetable.create(spec=berlin("30 2 * * *", datetime(2027, 3, 26, tzinfo=UTC)))
        assert spring.standing is not None
        shown = [moment.isoformat()[5:16] for moment in spring.standing.next_times]
        assert shown[:4] == ["03-26T01:30", "03-27T01:30", "03-29T00:30", "03-30T00:30"]
        assert len(shown) == 10
        autumn = await timetable.create(spec=berlin("30 2 * * *", datetime(2027, 10, 30, tzinfo=UTC)))
        assert autumn.standing is not None
        shown = [moment.isoformat()[5:16] for moment in autumn.standing.next_times]
        assert shown[:3] == ["10-30T00:30", "10-31T01:30", "11-01T01:30"]

    async def test_calendar_interval_and_what_is_skipped(self, timetable: Timetable) -> None:
        calendar = {"hour": "9", "day_of_week": "1-5"}
        made = await timetable.create(
            spec={
                "calendar": calendar,
                "skip": {"month": 12, "day_of_month": "24-26", "hour": "*"},
                "start_at": "2026-12-21T00:00:00Z",
            }
        )
        assert made.standing is not None
        days = [moment.strftime("%m-%d %H:%M") for moment in made.standing.next_times][:5]
        assert days == ["12-21 09:00", "12-22 09:00", "12-23 09:00", "12-28 09:00", "12-29 09:00"]
        spec = {"interval": {"every": "1h", "offset": "10m"}}
        made = await timetable.create(spec=spec)
        assert made.standing is not None
        assert {moment.minute for moment in made.standing.next_times} == {10}


class TestRuns:
    async def test_each_run_is_a_job_and_lasts_as_long(self, timetable: Timetable) -> None:
        """The job has events and labels like any other; the run ends with it and not before."""
        made = await timetable.create(labels={"team": "night"}, priority=2)
        await timetable.trigger(made.row.id)
        (job,) = await timetable.until_jobs(made.row.id, 1)
        assert job.labels["team"] == "night"
        assert job.priority == 2
        assert job.labels["longhaul.schedule"] == str(made.row.id)
        assert datetime.fromisoformat(job.labels["longhaul.scheduled_at"]) > datetime.now(UTC) - timedelta(minutes=1)
        await timetable.life.until(job.id, "running")
        run = timetable.life.client.get_workflow_handle(job.labels["longhaul.run"])
        assert (await run.describe()).status is WorkflowExecutionStatus.RUNNING
        await timetable.life.go(job.id)
        await run.result()
        assert (await timetable.life.events(job.id))[0] == "job.queued"
        shown = await timetable.service.get(timetable.tenant_id, made.row.id)
        assert [row.status for row in shown.runs] == ["succeeded"]
        assert shown.standing is not None
        assert shown.standing.runs == 1

    async def test_an_interval_fires_by_itself(self, timetable: Timetable) -> None:
        made = await timetable.create(kind="diagnostics.noop", spec={"interval": 1}, overlap="allow_all")
        jobs = await timetable.until_jobs(made.row.id, 2)
        assert len({job.labels["longhaul.run"] for job in jobs}) == len(jobs)
        await timetable.service.delete(timetable.tenant_id, made.row.id)

    async def test_two_schedules_at_once(self, timetable: Timetable) -> None:
        """At the same second each makes a job of its own."""
        made = [
            await timetable.create(kind="diagnostics.noop", spec={"interval": 2}, overlap="allow_all") for _ in range(2)
        ]
        for one in made:
            await timetable.until_jobs(one.row.id, 1)
        for one in made:
            await timetable.service.delete(timetable.tenant_id, one.row.id)

    async def test_starting_a_run_again_is_the_same_job(self, timetable: Timetable) -> None:
        """Whether the answer was lost, or the schedule has changed since, or days have passed."""
        made = await timetable.create()
        jobs = ScheduledJobService(timetable.life.database, timetable.life.service)
        ref = ScheduleRef(tenant_id=timetable.tenant_id, schedule_id=made.row.id)
        run = ScheduledRun(schedule=ref, run=f"schedule/{made.row.id}-x", execution="1", scheduled_at=datetime.now(UTC))
        first, second = await asyncio.gather(jobs.start(run), jobs.start(run))
        await timetable.service.change(timetable.tenant_id, made.row.id, ScheduleChange(priority=1))
        assert first == second == await jobs.start(run)
        assert len(await timetable.jobs(made.row.id)) == 1

    async def test_a_job_of_another_kind_is_not_taken_for_it(self, timetable: Timetable) -> None:
        """Labels from before they were refused do not make a job the job of a run."""
        made = await timetable.create()
        ref = ScheduleRef(tenant_id=timetable.tenant_id, schedule_id=made.row.id)
        run = ScheduledRun(schedule=ref, run="schedule/stolen", execution="1", scheduled_at=datetime.now(UTC))
        for kind, schedule in (("diagnostics.noop", made.row.id), ("test.hold", "another")):
            labels = {
                "longhaul.schedule": str(schedule),
                "longhaul.run": "schedule/stolen",
                "longhaul.execution": "1",
            }
            stolen = await timetable.life.start(kind, labels=labels)
            started = await ScheduledJobService(timetable.life.database, timetable.life.service).start(run)
            assert (started.job_id != stolen, started.kind) == (True, "test.hold")

    async def test_deleted_before_it_runs(self, timetable: Timetable) -> None:
        made = await timetable.create()
        await timetable.service.delete(timetable.tenant_id, made.row.id)
        ref = ScheduleRef(tenant_id=timetable.tenant_id, schedule_id=made.row.id)
        run = ScheduledRun(schedule=ref, run="schedule/gone", execution="1", scheduled_at=datetime.now(UTC))
        jobs = ScheduledJobService(timetable.life.database, timetable.life.service)
        assert (await jobs.start(run)).job_id is None


class TestOverlap:
    async def test_skip_leaves_out_and_counts(self, timetable: Timetable) -> None:
        made = await timetable.create()
        await timetable.trigger(made.row.id)
        (job,) = await timetable.until_jobs(made.row.id, 1)
        await asyncio.sleep(1.1)  # runs are named by the second
        await timetable.trigger(made.row.id)

        async def skipped() -> int:
            standing = await timetable.clock.describe(made.row.id)
            return standing.skipped

        assert await eventually(skipped) == 1
        assert len(await timetable.jobs(made.row.id)) == 1
        await timetable.life.go(job.id)

    async def test_buffer_one_waits_for_the_job(self, timetable: Timetable) -> None:
        made = await timetable.create(overlap="buffer_one")
        await timetable.trigger(made.row.id)
        (first,) = await timetable.until_jobs(made.row.id, 1)
        await asyncio.sleep(1.1)  # runs are named by the second
        await timetable.trigger(made.row.id)
        await timetable.life.until(first.id, "running")
        await timetable.life.go(first.id)
        _, second = await timetable.until_jobs(made.row.id, 2)
        done = await timetable.life.row(first.id)
        assert done.finished_at <= second.created_at
        await timetable.life.go_when_running(second.id)

    async def test_cancel_other_cancels_the_job_first(self, timetable: Timetable) -> None:
        made = await timetable.create(overlap="cancel_other")
        await timetable.trigger(made.row.id)
        (first,) = await timetable.until_jobs(made.row.id, 1)
        await timetable.life.until(first.id, "running")
        await asyncio.sleep(1.1)  # runs are named by the second
        await timetable.trigger(made.row.id)
        _, second = await timetable.until_jobs(made.row.id, 2)
        canceled = await timetable.life.row(first.id)
        assert canceled.status == "canceled"
        assert canceled.finished_at <= second.created_at
        await timetable.life.go_when_running(second.id)

    async def test_canceled_while_it_starts_its_job(
        self, timetable: Timetable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The start may have happened, so it is waited for, and its job is canceled before the run ends."""
        begun, go_on, start = asyncio.Event(), asyncio.Event(), ScheduledJobService.start

        async def slow(self: ScheduledJobService, run: ScheduledRun) -> StartedRun:
            started = await start(self, run)
            begun.set()
            await go_on.wait()
            return started

        monkeypatch.setattr(ScheduledJobService, "start", slow)
        made = await timetable.create(overlap="cancel_other")
        await timetable.trigger(made.row.id)
        await asyncio.wait_for(begun.wait(), 30)
        (job,) = await timetable.jobs(made.row.id)
        run = timetable.life.client.get_workflow_handle(job.labels["longhaul.run"])
        await run.cancel()

        async def told() -> bool:
            """The workflow hears of it with its next task, some seconds later."""
            kinds = [event.event_type async for event in run.fetch_history_events()]
            asked = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
            return asked in kinds and EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED in kinds[kinds.index(asked) :]

        await eventually(told)
        go_on.set()
        done = await eventually(run.describe, lambda seen: seen.status is not WorkflowExecutionStatus.RUNNING)
        assert done.status is WorkflowExecutionStatus.CANCELED
        assert (await timetable.life.row(job.id)).status == "canceled"


class TestFailure:
    async def test_pauses_where_it_was_told_to(self, timetable: Timetable) -> None:
        """In Temporal and in our row alike; resuming opens it again."""
        made = await timetable.create(pause_on_failure=True)
        await timetable.trigger(made.row.id)
        (job,) = await timetable.until_jobs(made.row.id, 1)
        await timetable.life.until(job.id, "running")
        await timetable.life.go(job.id, "fail")

        async def paused() -> bool:
            row = await timetable.row(made.row.id)
            return row is not None and row.paused and (await timetable.clock.describe(made.row.id)).paused

        await eventually(paused)
        row = await timetable.row(made.row.id)
        assert row is not None
        assert str(job.id) in row.note
        resumed = await timetable.service.set_paused(timetable.tenant_id, made.row.id, paused=False, note=None)
        assert resumed.standing is not None
        assert not resumed.standing.paused

    async def test_pauses_where_runs_may_overlap(self, timetable: Timetable) -> None:
        """Temporal watches no run of such a schedule: the row pauses, the keeper tells it, and nobody takes it back."""
        made = await timetable.create(pause_on_failure=True, overlap="allow_all")
        await timetable.trigger(made.row.id)
        (job,) = await timetable.until_jobs(made.row.id, 1)
        await timetable.life.until(job.id, "running")
        await timetable.life.go(job.id, "fail")

        async def paused() -> bool:
            row = await timetable.row(made.row.id)
            return row is not None and row.paused

        await eventually(paused)
        await timetable.keeper.tell_all()
        await timetable.keeper.compare()
        assert await paused()
        assert (await timetable.clock.describe(made.row.id)).paused

    async def test_input_that_the_kind_refuses_by_now(self, timetable: Timetable) -> None:
        """There is no job, and the schedule says why."""
        made = await timetable.create()
        async with timetable.life.database.tenant(timetable.tenant_id) as connection:
            await connection.execute(update(schedules).values(input={"from": "older times"}))
        await timetable.trigger(made.row.id)

        async def trouble() -> Any:
            row = await timetable.row(made.row.id)
            return None if row is None else row.trouble

        assert (await eventually(trouble))["code"] == "E.REQUEST.INVALID"
        assert await timetable.jobs(made.row.id) == []


class TestWishes:
    async def test_unknown_kind_and_bad_input_are_refused_at_once(self, timetable: Timetable) -> None:
        with pytest.raises(InvalidInput) as refused:
            await timetable.create(kind="test.nix")
        assert refused.value.faults[0].pointer == "/kind"
        with pytest.raises(InvalidInput) as refused:
            await timetable.create(input={"no": "such field"})
        assert refused.value.faults[0].pointer == "/input/no"

    async def test_same_key_same_schedule(self, timetable: Timetable) -> None:
        wish = ScheduleWish.model_validate({"kind": "test.hold", "spec": NEVER})
        made = [await timetable.service.create(timetable.tenant_id, wish, key="a") for _ in range(2)]
        assert made[0].shown.row.id == made[1].shown.row.id
        assert [one.replayed for one in made] == [False, True]
        other = ScheduleWish.model_validate({"kind": "test.hold", "spec": {"interval": 60}})
        with pytest.raises(IdempotencyMismatch):
            await timetable.service.create(timetable.tenant_id, other, key="a")

    async def test_change(self, timetable: Timetable) -> None:
        """Temporal follows; what is not named stays."""
        made = await timetable.create(name="before", overlap="buffer_all")
        change = ScheduleChange.model_validate({"spec": {"interval": "1h"}, "catchup_window": "2h"})
        changed = await timetable.service.change(timetable.tenant_id, made.row.id, change)
        assert (changed.row.name, changed.row.overlap) == ("before", "buffer_all")
        assert changed.row.catchup_window_seconds == 7_200
        described = await timetable.handle(made.row.id).describe()
        assert described.schedule.spec.intervals[0].every == timedelta(hours=1)
        assert described.schedule.policy.catchup_window == timedelta(hours=2)
        renamed = await timetable.service.change(
            timetable.tenant_id, made.row.id, ScheduleChange.model_validate({"name": None})
        )
        assert renamed.row.name is None

    async def test_catchup_is_an_hour_by_default(self, timetable: Timetable) -> None:
        made = await timetable.create()
        described = await timetable.handle(made.row.id).describe()
        assert described.schedule.policy.catchup_window == timedelta(hours=1)

    async def test_trigger_with_a_key_runs_once(self, timetable: Timetable) -> None:
        made = await timetable.create(kind="diagnostics.noop", overlap="allow_all")
        await timetable.trigger(made.row.id, key="click", overlap=Overlap.ALLOW_ALL)
        await timetable.until_jobs(made.row.id, 1)
        await asyncio.sleep(1.1)  # runs are named by the second
        await timetable.trigger(made.row.id, key="click", overlap=Overlap.ALLOW_ALL)
        standing = await timetable.clock.describe(made.row.id)
        assert standing.runs == 1

    async def test_backfill_runs_for_times_gone_by(self, timetable: Timetable) -> None:
        """Both ends included, each job labeled with its time; never for times to come."""
        made = await timetable.create(kind="diagnostics.noop", spec={"interval": "1h"})
        wish = Backfill(
            start_at=datetime(2026, 11, 1, 3, tzinfo=UTC),
            end_at=datetime(2026, 11, 1, 5, tzinfo=UTC),
            overlap=Overlap.ALLOW_ALL,
        )
        await timetable.service.backfill(timetable.tenant_id, made.row.id, wish, key="b")
        await timetable.service.backfill(timetable.tenant_id, made.row.id, wish, key="b")
        jobs = await timetable.until_jobs(made.row.id, 3)
        assert (await timetable.clock.describe(made.row.id)).runs == 3
        hours = sorted(datetime.fromisoformat(job.labels["longhaul.scheduled_at"]).hour for job in jobs)
        assert hours == [3, 4, 5]
        future = Backfill(start_at=datetime.now(UTC), end_at=datetime.now(UTC) + timedelta(hours=1))
        with pytest.raises(InvalidInput):
            await timetable.service.backfill(timetable.tenant_id, made.row.id, future, key=None)

    async def test_backfill_repeats_what_has_failed(self, timetable: Timetable) -> None:
        """The same time once more is a job of its own, and the failure of before says nothing about it."""
        made = await timetable.create(spec={"interval": "1h"}, pause_on_failure=True)
        moment = datetime(2026, 11, 1, 3, tzinfo=UTC)
        wish = Backfill(start_at=moment, end_at=moment + timedelta(minutes=1))
        await timetable.service.backfill(timetable.tenant_id, made.row.id, wish, key="first")
        (failed,) = await timetable.until_jobs(made.row.id, 1)
        await timetable.life.until(failed.id, "running")
        await timetable.life.go(failed.id, "fail")
        await timetable.life.until(failed.id, "failed")

        async def paused() -> bool:
            return (await timetable.clock.describe(made.row.id)).paused

        await eventually(paused)
        await timetable.service.set_paused(timetable.tenant_id, made.row.id, paused=False, note=None)
        await timetable.service.backfill(timetable.tenant_id, made.row.id, wish, key="second")
        _, again = await timetable.until_jobs(made.row.id, 2)
        assert again.labels["longhaul.scheduled_at"] == failed.labels["longhaul.scheduled_at"]
        await timetable.life.go_when_running(again.id)
        await timetable.life.until(again.id, "succeeded")
        assert not await paused()
        assert (await timetable.clock.describe(made.row.id)).runs == 2

    async def test_others_do_not_see_it(self, timetable: Timetable, database: Any) -> None:
        made = await timetable.create()
        other = await new_tenant(database)
        with pytest.raises(NotFound):
            await timetable.service.get(other, made.row.id)
        with pytest.raises(NotFound):
            await timetable.service.delete(other, made.row.id)
        assert await timetable.service.list_page(other, limit=5, before=None) == []


class TestTemporalAway:
    async def test_made_while_temporal_was_away(self, timetable: Timetable, away: Clock) -> None:
        """The row is there at once; the keeper tells Temporal when it is back."""
        wish = ScheduleWish.model_validate({"kind": "test.hold", "spec": NEVER})
        made = (await timetable.service_with(away).create(timetable.tenant_id, wish, key=None)).shown
        assert made.standing is None
        with pytest.raises(TemporalUnavailable):
            await timetable.service_with(away).trigger(timetable.tenant_id, made.row.id, None, key=None)
        await _due(timetable, made.row.id)
        await timetable.keeper.tell_all()
        assert (await timetable.service.get(timetable.tenant_id, made.row.id)).standing is not None

    async def test_deleted_while_temporal_was_away(self, timetable: Timetable, away: Clock) -> None:
        made = await timetable.create()
        await timetable.service_with(away).delete(timetable.tenant_id, made.row.id)
        with pytest.raises(NotFound):
            await timetable.service.get(timetable.tenant_id, made.row.id)
        await _due(timetable, made.row.id)
        await timetable.keeper.tell_all()
        with pytest.raises(NotFound):
            await timetable.clock.describe(made.row.id)
        assert await timetable.row(made.row.id) is None

    async def test_lost_by_temporal(self, timetable: Timetable) -> None:
        """A schedule that somebody has deleted in Temporal is told again: our rows are the source."""
        made = await timetable.create()
        await timetable.handle(made.row.id).delete()

        async def told_again() -> bool:
            await timetable.keeper.compare()
            await timetable.keeper.tell_all()
            return (await timetable.service.get(timetable.tenant_id, made.row.id)).standing is not None

        await eventually(told_again)

    async def test_gone_while_it_is_told(self, timetable: Timetable, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody deletes it in Temporal between two looks: the keeper goes on, and tells it again."""
        made = await timetable.create()
        real, faults = timetable.clock.tell, 1

        async def tell(row: Any) -> None:
            nonlocal faults
            if faults:
                faults -= 1
                raise NotFound("Temporal has no such schedule")
            await real(row)

        monkeypatch.setattr(timetable.clock, "tell", tell)
        await timetable.handle(made.row.id).delete()
        change = update(schedules).where(schedules.c.id == made.row.id).values(told_version=0, not_before=func.now())
        async with timetable.life.database.system() as connection:
            await connection.execute(change)
        await timetable.keeper.tell_all()
        assert faults == 0
        await _due(timetable, made.row.id)
        await timetable.keeper.tell_all()
        assert (await timetable.service.get(timetable.tenant_id, made.row.id)).standing is not None

    async def test_paused_by_an_operator(self, timetable: Timetable) -> None:
        """A pause in the Temporal UI becomes ours, and a later change does not undo it."""
        made = await timetable.create()
        await timetable.handle(made.row.id).pause(note="by hand")

        async def adopted() -> bool:
            await timetable.keeper.compare()
            row = await timetable.row(made.row.id)
            return row is not None and row.paused

        await eventually(adopted)
        changed = await timetable.service.change(timetable.tenant_id, made.row.id, ScheduleChange(priority=1))
        assert changed.standing is not None
        assert (changed.standing.paused, changed.standing.note) == (True, "by hand")

    async def test_paused_by_an_operator_a_moment_ago(self, timetable: Timetable) -> None:
        """Before any keeper has seen it: a change that is not about the pause leaves it, and resuming ends it."""
        made = await timetable.create()
        await timetable.handle(made.row.id).pause(note="by hand")
        changed = await timetable.service.change(timetable.tenant_id, made.row.id, ScheduleChange(priority=1))
        assert changed.standing is not None
        assert (changed.standing.paused, changed.standing.note) == (True, "by hand")
        described = await timetable.handle(made.row.id).describe()
        assert isinstance(described.schedule.action, ScheduleActionStartWorkflow)
        assert described.schedule.action.priority.priority_key == 1, "and the change has arrived"
        resumed = await timetable.service.set_paused(timetable.tenant_id, made.row.id, paused=False, note=None)
        assert resumed.standing is not None
        assert not resumed.standing.paused

    async def test_resumed_while_temporal_was_away(self, timetable: Timetable, away: Clock) -> None:
        """A change that follows before Temporal was told takes nothing away from it."""
        made = await timetable.create(paused=True)
        service = timetable.service_with(away)
        await service.set_paused(timetable.tenant_id, made.row.id, paused=False, note=None)
        await service.change(timetable.tenant_id, made.row.id, ScheduleChange(priority=1))
        await _due(timetable, made.row.id)
        await timetable.keeper.tell_all()
        assert not (await timetable.clock.describe(made.row.id)).paused


async def _due(timetable: Timetable, schedule_id: UUID) -> None:
    """What was put off is due now."""
    async with timetable.life.database.system() as connection:
        await connection.execute(update(schedules).where(schedules.c.id == schedule_id).values(not_before=func.now()))


class TestLongJobs:
    async def test_a_run_continues_as_new_and_its_job_does_not(
        self, scratch: Path, postgres: EmbeddedPostgres, database: Database, tenant_id: UUID
    ) -> None:
        """The schedule counts one run, in progress until the job ends."""
        server = EmbeddedTemporal(
            scratch / f"short-{tenant_id}",
            port=free_port(),
            ui_port=None,
            search_attributes=SEARCH_ATTRIBUTES,
            dynamic_config={"limit.historyCount.suggestContinueAsNew": 15},
        )
        await asyncio.to_thread(server.start)
        try:
            client = await connect(
                server.address, namespace="default", converter=create_data_converter(None), lazy=False
            )
            life = Life(postgres, database, client, tenant_id, "long-jobs")
            async with serving(client, database, "long-jobs"), serving_schedules(life) as timetable:
                made = await timetable.create()
                await timetable.trigger(made.row.id)
                (job,) = await timetable.until_jobs(made.row.id, 1)
                await life.until(job.id, "running")
                run = client.get_workflow_handle(job.labels["longhaul.run"])
                before = (await run.describe()).run_id
                await eventually(run.describe, lambda seen: seen.run_id != before, within=30)
                await life.go(job.id)
                assert (await run.result())["status"] == "succeeded"
                assert len(await timetable.jobs(made.row.id)) == 1
                assert (await timetable.clock.describe(made.row.id)).runs == 1
        finally:
            await asyncio.to_thread(server.stop)
