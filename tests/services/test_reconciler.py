import asyncio
import subprocess
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus

from core.ids import new_id
from core.metrics import WorkerMetrics
from domain.generation import TokenUsage
from domain.jobs import JobAction, JobRef, StepStatus
from repositories.generation import CallDesk, NewCall, keep_answer_statement
from repositories.steps import StepWriter
from repositories.workers import WorkerRepository
from services.jobs import JobRequest
from services.reconciler import Reconciler
from services.stack.temporal import EmbeddedTemporal, find_binary
from tests.support.life import Life, add_job, clear_commands, serving, superuser
from tests.support.waiting import eventually


def reconciler(life: Life, registry: CollectorRegistry | None = None) -> Reconciler:
    """One more reconciler."""
    metrics = WorkerMetrics(registry or CollectorRegistry())
    return Reconciler(life.database, life.client, metrics, interval=timedelta(seconds=10))


async def temporal(server: EmbeddedTemporal, *words: str) -> None:
    """What an operator types."""
    argv = [str(find_binary()), *words, "--address", server.address]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def status_of(life: Life, job_id: UUID, kind: str = "test.hold") -> WorkflowExecutionStatus | None:
    """What visibility says about the latest run of a job's workflow; it says it a moment later."""
    query = f"WorkflowId = '{kind}/{job_id}'"
    runs = [run async for run in life.client.list_workflows(query)]
    return max(runs, key=lambda run: run.start_time).status if runs else None


async def shown_as(life: Life, job_id: UUID, status: WorkflowExecutionStatus, kind: str = "test.hold") -> None:
    """Wait for visibility."""
    await eventually(lambda: status_of(life, job_id, kind), lambda seen: seen is status)


async def run_shown(life: Life, job_id: UUID, run_id: str) -> None:
    """Wait until visibility knows a run."""

    async def runs() -> set[str | None]:
        return {run.run_id async for run in life.client.list_workflows(f"WorkflowId = 'test.hold/{job_id}'")}

    await eventually(runs, lambda seen: run_id in seen)


async def completed_tasks(life: Life, job_id: UUID) -> list[int]:
    """The events with which workflow tasks were completed."""
    history = await life.handle(job_id).fetch_history()
    return [event.event_id for event in history.events if event.HasField("workflow_task_completed_event_attributes")]


async def reset(life: Life, job_id: UUID) -> str:
    """Reset the workflow to the first task after its beginning; the new run."""
    # The row says that the job runs while the first workflow task is still being completed.
    completed = await eventually(lambda: completed_tasks(life, job_id), bool)
    request = ResetWorkflowExecutionRequest(
        namespace="default",
        reason="by an operator",
        request_id=str(new_id()),
        workflow_task_finish_event_id=completed[-1],
    )
    request.workflow_execution.workflow_id = f"test.hold/{job_id}"
    answer = await life.client.workflow_service.reset_workflow_execution(request)
    run_id: str = answer.run_id
    return run_id


async def held(unserved: Life) -> UUID:
    """A running job whose worker has gone away."""
    job_id = await unserved.start()
    async with serving(unserved.client, unserved.database, unserved.task_queue):
        await unserved.until(job_id, "running")
    return job_id


class TestEnds:
    async def test_terminated_from_the_command_line(self, life: Life, temporal_server: EmbeddedTemporal) -> None:
        job_id = await life.start_running()
        await temporal(temporal_server, "workflow", "terminate", "-w", f"test.hold/{job_id}", "--reason", "a test")
        await shown_as(life, job_id, WorkflowExecutionStatus.TERMINATED)
        await reconciler(life).sweep()
        row = await life.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.TERMINATED")
        assert row.error["title"] == "The workflow was terminated by an operator"
        assert row.finished_at is not None
        assert await life.events(job_id) == ["job.queued", "job.running", "job.failed"]

    async def test_what_it_has_cost_is_summed_up(self, life: Life) -> None:
        """Nobody else does once the workflow is gone."""
        job_id = await life.start_running()
        job = JobRef(job_id=job_id, tenant_id=life.tenant_id, kind="test.hold")
        desk = CallDesk(life.database)
        await desk.reserve(job, NewCall("op", "step", "scripted", "m", Decimal(1)), budgeted=False)
        usage = TokenUsage(input_tokens=7, output_tokens=5)
        await desk.settle(job, op="op", part="call/op", answer={}, usage=usage, cost_usd=Decimal("0.25"))
        assert (await life.row(job_id)).cost_usd == 0
        await life.handle(job_id).terminate()
        await shown_as(life, job_id, WorkflowExecutionStatus.TERMINATED)
        await reconciler(life).sweep()
        row = await life.row(job_id)
        assert (row.status, row.cost_usd, row.input_tokens, row.output_tokens) == ("failed", Decimal("0.25"), 7, 5)

    async def test_canceled_from_the_command_line(self, life: Life, temporal_server: EmbeddedTemporal) -> None:
        """The workflow hears it and writes its end down itself; the sweep finds nothing to correct."""
        job_id = await life.start_running()
        await temporal(temporal_server, "workflow", "cancel", "-w", f"test.hold/{job_id}")
        row = await life.until(job_id, "canceled")
        await reconciler(life).sweep()
        assert (await life.row(job_id)).version == row.version

    async def test_canceled_from_the_command_line_before_it_began(
        self, unserved: Life, temporal_server: EmbeddedTemporal
    ) -> None:
        job_id = await unserved.start(service=unserved.without_fast_path())
        unserved.pass_time(job_id)
        await unserved.dispatcher().dispatch_once()
        await temporal(temporal_server, "workflow", "cancel", "-w", f"test.hold/{job_id}")
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(job_id, "canceled")

    async def test_terminated_before_it_began(self, unserved: Life) -> None:
        """A workflow that no worker has seen yet; the slot must not stay taken."""
        job_id = await unserved.start(service=unserved.without_fast_path())
        unserved.pass_time(job_id)
        await unserved.dispatcher().dispatch_once()
        await unserved.handle(job_id).terminate()
        await shown_as(unserved, job_id, WorkflowExecutionStatus.TERMINATED)
        await reconciler(unserved).sweep()
        row = await unserved.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.TERMINATED")

    async def test_terminated_before_it_began_stays_so_though_its_start_is_still_on_the_list(
        self, unserved: Life
    ) -> None:
        job_id = await unserved.start()
        await unserved.handle(job_id).terminate()
        await shown_as(unserved, job_id, WorkflowExecutionStatus.TERMINATED)
        unserved.pass_time(job_id)
        await unserved.dispatcher().dispatch_once()
        await reconciler(unserved).sweep()
        row = await unserved.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.TERMINATED")

    async def test_deleted(self, life: Life, temporal_server: EmbeddedTemporal) -> None:
        job_id = await life.start_running()
        await temporal(temporal_server, "workflow", "delete", "-w", f"test.hold/{job_id}", "--yes")
        await eventually(lambda: status_of(life, job_id), lambda seen: seen is None)
        life.pass_time(job_id, seconds=86_400)
        await reconciler(life).sweep()
        row = await life.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.VANISHED")

    async def test_deleted_before_it_began(self, unserved: Life, temporal_server: EmbeddedTemporal) -> None:
        job_id = await unserved.start(service=unserved.without_fast_path())
        unserved.pass_time(job_id)
        await unserved.dispatcher().dispatch_once()
        await eventually(lambda: status_of(unserved, job_id))
        await temporal(temporal_server, "workflow", "delete", "-w", f"test.hold/{job_id}", "--yes")
        await eventually(lambda: status_of(unserved, job_id), lambda seen: seen is None)
        unserved.pass_time(job_id, seconds=86_400)
        await reconciler(unserved).sweep()
        row = await unserved.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.VANISHED")

    async def test_out_of_time(self, life: Life) -> None:
        job = await add_job(life.database, life.tenant_id, task_queue=life.task_queue)
        await life.client.start_workflow(
            "Hold",
            job,
            id=job.workflow_id,
            task_queue=life.task_queue,
            memo={"attempt": 1},
            run_timeout=timedelta(seconds=1),
        )
        await life.until(job.job_id, "running")
        await shown_as(life, job.job_id, WorkflowExecutionStatus.TIMED_OUT)
        await reconciler(life).sweep()
        row = await life.row(job.job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.TIMED_OUT")

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("test.careless", WorkflowExecutionStatus.COMPLETED), ("test.crash", WorkflowExecutionStatus.FAILED)],
    )
    async def test_ended_without_a_record(self, life: Life, kind: str, status: WorkflowExecutionStatus) -> None:
        job_id = await life.start(kind)
        await life.until(job_id, "running")
        await shown_as(life, job_id, status, kind)
        await reconciler(life).sweep()
        row = await life.row(job_id)
        assert (row.status, row.error_code) == ("failed", "E.JOB.CRASHED")

    async def test_open_steps_end_with_their_job_and_the_slot_is_free(self, life: Life) -> None:
        service = life.service_with(life.sender, max_running=1)
        job_id = await life.start(service=service)
        await life.until(job_id, "running")
        waiting = await life.start(service=service)
        dispatcher = life.dispatcher(max_running=1)
        await dispatcher.dispatch_once()
        job = JobRef(job_id=job_id, tenant_id=life.tenant_id, kind="test.hold")
        await StepWriter(life.database).begin(job, "hold", attempt=1)
        await life.handle(job_id).terminate()
        await shown_as(life, job_id, WorkflowExecutionStatus.TERMINATED)
        await reconciler(life).sweep()
        async with life.database.tenant(life.tenant_id) as connection:
            steps = (
                await connection.exec_driver_sql("SELECT status FROM job_steps WHERE job_id = %s", (job_id,))
            ).all()
        assert [step.status for step in steps] == [StepStatus.FAILED]
        await dispatcher.dispatch_once()
        await life.until(waiting, "running")

    async def test_what_is_well_is_left_alone(self, life: Life) -> None:
        running, done = await life.start_running(), await life.start("diagnostics.noop")
        await life.until(done, "succeeded")
        await shown_as(life, done, WorkflowExecutionStatus.COMPLETED, "diagnostics.noop")
        waiting = await life.start(start_at=None, service=life.without_fast_path())
        before = [row.version for row in await life.rows([running, done, waiting])]
        life.pass_time(running, done, waiting, seconds=86_400)
        await reconciler(life).sweep()
        assert [row.version for row in await life.rows([running, done, waiting])] == before

    async def test_the_end_of_an_older_attempt_says_nothing_about_the_newer(self, life: Life) -> None:
        job_id = await life.start_running()
        await life.go(job_id, "fail")
        await life.until(job_id, "failed")
        await shown_as(life, job_id, WorkflowExecutionStatus.COMPLETED)
        await life.without_fast_path().act(life.tenant_id, job_id, JobAction.RETRY)
        await reconciler(life).sweep()
        await clear_commands(life.database)  # as at the moment at which the next run is only just being started
        life.pass_time(job_id, seconds=86_400)
        await reconciler(life).sweep()
        assert (await life.row(job_id)).status == "queued"


class TestReset:
    async def test_a_running_workflow(self, unserved: Life) -> None:
        job_id = await held(unserved)
        run_id = await reset(unserved, job_id)
        await shown_as(unserved, job_id, WorkflowExecutionStatus.RUNNING)
        await run_shown(unserved, job_id, run_id)
        await reconciler(unserved).sweep()
        row = await unserved.row(job_id)
        assert (row.status, row.run_id) == ("running", run_id)
        assert await unserved.events(job_id) == ["job.queued", "job.running", "job.reset"]
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.go(job_id)
            await unserved.until(job_id, "succeeded")

    async def test_a_running_workflow_under_a_living_worker(self, life: Life) -> None:
        job_id = await life.start_running()
        run_id = await reset(life, job_id)
        await run_shown(life, job_id, run_id)
        await reconciler(life).sweep()
        assert (await life.row(job_id)).run_id == run_id
        await life.go(job_id)
        await life.until(job_id, "succeeded")

    async def test_a_finished_workflow(self, unserved: Life) -> None:
        """The job runs again, as the same attempt, and ends anew; it can be canceled, too."""
        job_id = await held(unserved)
        await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(job_id, "canceled")
        run_id = await reset(unserved, job_id)
        await run_shown(unserved, job_id, run_id)
        await reconciler(unserved).sweep()
        row = await unserved.row(job_id)
        assert (row.status, row.attempt, row.run_id, row.finished_at) == ("running", 1, run_id, None)
        document = await unserved.service.act(unserved.tenant_id, job_id, JobAction.CANCEL)
        assert document.version == row.version + 1
        async with serving(unserved.client, unserved.database, unserved.task_queue):
            await unserved.until(job_id, "canceled")

    async def test_a_finished_workflow_under_a_living_worker(self, life: Life) -> None:
        """The worker has begun to carry the new run on before the job is open again, and waits for that."""
        job_id = await life.start_running()
        await life.go(job_id, "fail")
        await life.until(job_id, "failed")
        run_id = await reset(life, job_id)
        await run_shown(life, job_id, run_id)
        await reconciler(life).sweep()
        row = await life.until(job_id, "failed")
        assert row.run_id == run_id
        events = await life.events(job_id)
        assert events[:4] == ["job.queued", "job.running", "job.failed", "job.reset"]
        # Whether the worker says once more that it runs depends on whether it was told to wait before that.
        assert events[4:] in (["job.failed"], ["job.running", "job.failed"])


class TestSideBySide:
    async def test_an_end_is_corrected_once(self, life: Life) -> None:
        job_ids = [await life.start_running() for _ in range(5)]
        for job_id in job_ids:
            await life.handle(job_id).terminate()
            await shown_as(life, job_id, WorkflowExecutionStatus.TERMINATED)
        registry = CollectorRegistry()
        one = reconciler(life, registry)
        others = [reconciler(life) for _ in range(3)]
        await asyncio.gather(*(each.sweep() for each in (one, *others)))
        for job_id in job_ids:
            assert await life.events(job_id) == ["job.queued", "job.running", "job.failed"]
        await one.sweep()
        assert (await life.row(job_ids[0])).version == 3

    async def test_a_reset_is_followed_once(self, unserved: Life) -> None:
        job_ids = [await held(unserved) for _ in range(3)]
        for job_id in job_ids:
            run_id = await reset(unserved, job_id)
            await run_shown(unserved, job_id, run_id)
        sweepers: list[Any] = [reconciler(unserved).sweep() for _ in range(4)]
        await asyncio.gather(*sweepers)
        for job_id in job_ids:
            assert await unserved.events(job_id) == ["job.queued", "job.running", "job.reset"]


class TestTidy:
    async def test_what_has_expired_is_forgotten(self, life: Life) -> None:
        job = await add_job(life.database, life.tenant_id)
        wish = JobRequest(kind="test.hold", input={})
        for name, keep in (("old", timedelta(seconds=-1)), ("new", timedelta(hours=1))):
            await life.service_with(life.sender, keep_keys=keep).start(life.tenant_id, wish, key=name)
            await life.database.run(job.tenant_id, keep_answer_statement(job, name, {}, keep=keep))
        worker_id = new_id()
        async with life.database.system() as connection:
            await WorkerRepository(connection).beat(worker_id, task_queues=["q"], code_version="1")
        with superuser(life.postgres) as direct:
            direct.execute("UPDATE workers SET seen_at = now() - interval '2 hours' WHERE id = %s", (worker_id,))
            await reconciler(life).sweep()
            for table in ("idempotency_keys", "response_cache"):
                query = f"SELECT key FROM {table} WHERE tenant_id = %s"  # noqa: S608
                assert direct.execute(query, (life.tenant_id,)).fetchall() == [("new",)]
            assert direct.execute("SELECT 1 FROM workers WHERE id = %s", (worker_id,)).fetchall() == []
