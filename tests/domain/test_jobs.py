from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.errors import StateError
from domain.jobs import TERMINAL, JobAction, JobRef, JobStatus, NewJob, check_action, job_id_of, workflow_id

JOB_ID = UUID("01890000-0000-7000-8000-000000000001")
NEW = {"kind": "k", "input": {}, "task_queue": "q"}

PERMITTED = {
    (JobAction.CANCEL, JobStatus.QUEUED),
    (JobAction.CANCEL, JobStatus.RUNNING),
    (JobAction.PAUSE, JobStatus.QUEUED),
    (JobAction.PAUSE, JobStatus.RUNNING),
    (JobAction.RESUME, JobStatus.QUEUED),
    (JobAction.RESUME, JobStatus.RUNNING),
    (JobAction.RETRY, JobStatus.FAILED),
    (JobAction.RETRY, JobStatus.CANCELED),
    (JobAction.APPROVE, JobStatus.RUNNING),
    (JobAction.REJECT, JobStatus.RUNNING),
}


class TestCheckAction:
    @pytest.mark.parametrize("status", JobStatus)
    @pytest.mark.parametrize("action", JobAction)
    def test_the_whole_table(self, action: JobAction, status: JobStatus) -> None:
        """For a job that is paused and waits for approval, so that only the state decides."""
        if (action, status) in PERMITTED:
            check_action(action, status=status, paused=True, awaiting_approval=True)
        else:
            with pytest.raises(StateError, match=f"{status.value} cannot be asked to {action.value}"):
                check_action(action, status=status, paused=True, awaiting_approval=True)

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    def test_final_means_final_but_for_a_retry(self, status: JobStatus) -> None:
        for action in set(JobAction) - {JobAction.RETRY}:
            with pytest.raises(StateError):
                check_action(action, status=status, paused=True, awaiting_approval=True)

    def test_resume_needs_a_pause(self) -> None:
        with pytest.raises(StateError, match="the job is not paused"):
            check_action(JobAction.RESUME, status=JobStatus.RUNNING, paused=False, awaiting_approval=False)

    @pytest.mark.parametrize("action", [JobAction.APPROVE, JobAction.REJECT])
    def test_a_decision_needs_somebody_who_waits_for_it(self, action: JobAction) -> None:
        with pytest.raises(StateError, match="nothing waits for approval"):
            check_action(action, status=JobStatus.RUNNING, paused=False, awaiting_approval=False)

    def test_pausing_twice_is_permitted(self) -> None:
        check_action(JobAction.PAUSE, status=JobStatus.RUNNING, paused=True, awaiting_approval=False)


class TestWorkflowId:
    def test_is_the_kind_and_the_job(self) -> None:
        ref = JobRef(job_id=JOB_ID, tenant_id=JOB_ID, kind="generation.course", attempt=7)
        assert ref.workflow_id == f"generation.course/{JOB_ID}" == workflow_id("generation.course", JOB_ID)

    @given(kind=st.from_regex(r"[a-z]+\.[a-z]+", fullmatch=True), job_id=st.uuids())
    def test_leads_back_to_the_job(self, kind: str, job_id: UUID) -> None:
        assert job_id_of(workflow_id(kind, job_id)) == job_id

    @pytest.mark.parametrize("other", ["", "k", "k/", "k/x", f"k/{JOB_ID}/module-01", f"{JOB_ID}"])
    def test_other_workflows_are_nobodys_job(self, other: str) -> None:
        assert job_id_of(other) is None


class TestNewJob:
    @pytest.mark.parametrize("priority", [0, 6])
    def test_priority_is_one_to_five(self, priority: int) -> None:
        with pytest.raises(ValidationError):
            NewJob(**NEW, priority=priority)

    @pytest.mark.parametrize(
        "labels", [{"": "x"}, {"a b": "x"}, {"a" * 64: "x"}, {"a": "x" * 256}, {"a": "\x00"}, {"a": "\ud800"}]
    )
    def test_labels_that_cannot_be_kept_are_refused(self, labels: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            NewJob(**NEW, labels=labels)

    def test_labels_at_their_limits_are_kept(self) -> None:
        labels = {"a" * 63: "x" * 255, "A_b.c-9": "", "ключ".encode().hex(): "значение"}
        assert NewJob(**NEW, labels=labels).labels == labels
