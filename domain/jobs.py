"""What every job is, whatever its family: states, who may change them, steps, and why a job waits."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from domain.errors import StateError
from domain.model import Frozen
from domain.text import storable


class JobStatus(StrEnum):
    """The five states of a job. The last three are final, except for an explicit retry."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class StepStatus(StrEnum):
    """The states of one named step of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class WaitingKind(StrEnum):
    """The answers to "why is nothing happening"."""

    CAPACITY = "capacity"
    RETRY = "retry"
    APPROVAL = "approval"
    TIMER = "timer"
    WEBHOOK = "webhook"
    WORKER = "worker"
    PROVIDER = "provider"
    PAUSED = "paused"
    TEMPORAL = "temporal"


class WaitingOn(Frozen):
    """What a job waits for, in a sentence, since when, and until when if that is known."""

    kind: WaitingKind
    detail: str
    since: datetime
    until: datetime | None = None


class JobAction(StrEnum):
    """What a caller may ask of an existing job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    APPROVE = "approve"
    REJECT = "reject"


class JobRef(Frozen):
    """All that a workflow is told about its job. Everything else is read where it is needed.

    ``attempt`` fences: writes of an older attempt are dropped once a newer one has begun.
    """

    job_id: UUID
    tenant_id: UUID
    kind: str
    attempt: int = 1
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def workflow_id(self) -> str:
        """The workflow id, derived from the job, so that starting twice is harmless."""
        return workflow_id(self.kind, self.job_id)


def workflow_id(kind: str, job_id: UUID) -> str:
    """``<kind>/<job id>``: readable in the Temporal UI, unique for ever."""
    return f"{kind}/{job_id}"


def job_id_of(workflow: str) -> UUID | None:
    """The job behind a workflow id, or None where the id is not of a job's main workflow."""
    _, _, rest = workflow.partition("/")
    try:
        return UUID(rest)
    except ValueError:
        return None


class StepPlan(Frozen):
    """A step that a job is going to take, in ``total`` parts.

    ``weight`` is its share of the job's progress; the shares of all steps of a job add up to one.
    """

    name: str
    title: str
    weight: float = 1.0
    total: int = 1


class CommandAction(StrEnum):
    """What Temporal is still to be told about a job."""

    START = "start"
    CANCEL = "cancel"
    SIGNAL = "signal"


Labels = dict[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")],
    Annotated[str, StringConstraints(max_length=255)],
]

RESERVED_LABELS: Final = "longhaul."
"""What the names of our own labels begin with: by them we find jobs again, so nobody else may give them."""


def _no_reserved(labels: dict[str, str]) -> dict[str, str]:
    if any(name.startswith(RESERVED_LABELS) for name in labels):
        raise ValueError(f"labels that begin with {RESERVED_LABELS} are ours")
    return labels


GivenLabels = Annotated[Labels, AfterValidator(_no_reserved)]
"""Labels as a client may give them."""


class NewJob(Frozen):
    """A validated wish for a job, ready to be written down."""

    kind: str
    input: dict[str, Any]
    task_queue: str
    start_at: datetime | None = None
    priority: Annotated[int, Field(ge=1, le=5)] = 3
    labels: Labels = Field(default_factory=dict)
    callback_url: str | None = None
    budget_usd: Decimal | None = None
    request_id: str | None = None
    traceparent: str | None = None

    @field_validator("labels")
    @classmethod
    def _storable_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        return {name: storable(value) for name, value in labels.items()}


def check_action(action: JobAction, *, status: JobStatus, paused: bool, awaiting_approval: bool) -> None:
    """Raise StateError unless the state of a job permits the action; repeating a fulfilled wish is permitted."""
    if action is JobAction.RETRY:
        allowed = status in {JobStatus.FAILED, JobStatus.CANCELED}
    elif action in {JobAction.APPROVE, JobAction.REJECT}:
        allowed = status is JobStatus.RUNNING and awaiting_approval
    elif action is JobAction.RESUME:
        allowed = status not in TERMINAL and paused
    else:
        allowed = status not in TERMINAL
    if not allowed:
        raise StateError(_refusal(action, status, paused=paused))


def _refusal(action: JobAction, status: JobStatus, *, paused: bool) -> str:
    if action in {JobAction.APPROVE, JobAction.REJECT} and status is JobStatus.RUNNING:
        return "nothing waits for approval"
    if action is JobAction.RESUME and status not in TERMINAL and not paused:
        return "the job is not paused"
    return f"a job that is {status.value} cannot be asked to {action.value}"
