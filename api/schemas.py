"""What goes in, validated; and what comes out, described for the OpenAPI document.

Answers are written as bytes by hand; the models for them exist for readers and for tests, which hold the two together.
"""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from domain.jobs import GivenLabels, JobStatus, StepStatus, WaitingKind
from domain.model import Frozen
from domain.text import Prose

MOST_IN_BATCH = 100


def _moment_in_text(value: Any) -> Any:
    if not isinstance(value, str) or value.strip().replace(".", "", 1).lstrip("+-").isdigit():
        raise ValueError("is not a date and time (RFC 3339)")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment_in_text)]
"""A date and time with its offset from UTC."""


# --- in ---------------------------------------------------------------------------------------------


class JobCreate(Frozen):
    """A wish for a job. What ``input`` may hold is decided by the kind."""

    kind: Annotated[str, StringConstraints(max_length=100)]
    input: dict[str, Any] = Field(default_factory=dict)
    start_at: Moment | None = None
    priority: Annotated[int, Field(ge=1, le=5, strict=True)] = 3
    labels: Annotated[GivenLabels, Field(max_length=20)] = Field(default_factory=dict)
    callback_url: Annotated[str, StringConstraints(max_length=2_000)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "generation.course",
                    "input": {
                        "topic": "Durable jobs",
                        "sources": [{"name": "queues.md", "text": "# Queues\n\nA queue keeps work in order ..."}],
                    },
                    "labels": {"team": "docs"},
                }
            ]
        }
    )


class JobBatchCreate(Frozen):
    """Up to a hundred wishes for jobs; each has its own outcome."""

    jobs: Annotated[list[Any], Field(min_length=1, max_length=MOST_IN_BATCH, description="Items are like JobCreate.")]


class Decision(Frozen):
    """What a person says along with a decision; ``content_sha256`` says what was seen, and must be what is there."""

    comment: Annotated[Prose, Field(max_length=2_000)] | None = None
    content_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


# --- out --------------------------------------------------------------------------------------------


class Fault(BaseModel):
    """One value that is not acceptable, by its JSON pointer."""

    pointer: str
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[Fault] = []


class StepDocument(BaseModel):
    """One named step of a job."""

    name: str
    title: str
    status: StepStatus
    attempt: int
    progress: float
    started_at: datetime | None
    finished_at: datetime | None
    last_error: dict[str, Any] | None
    next_retry_at: datetime | None


class WaitingOnDocument(BaseModel):
    """Why nothing is happening."""

    kind: WaitingKind
    detail: str
    since: datetime
    until: datetime | None = None


class CostDocument(BaseModel):
    """What a job has cost so far."""

    usd: str
    input_tokens: int
    output_tokens: int


class JobLinks(BaseModel):
    """Where more is found about a job."""

    self: str
    events: str
    result: str | None
    temporal_ui: str


class JobDocument(BaseModel):
    """A job as it stands."""

    id: UUID
    kind: str
    status: JobStatus
    progress: Annotated[float, Field(ge=0, le=1)]
    steps: list[StepDocument]
    waiting_on: WaitingOnDocument | None
    result_url: str | None
    error_code: str | None
    error: dict[str, Any] | None
    cost: CostDocument
    attempt: int
    labels: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    request_id: str | None
    links: JobLinks


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobDocument]
    next_cursor: str | None


class BatchOutcome(BaseModel):
    """What became of one item: a job, or a problem."""

    status: int
    job: JobDocument | None = None
    problem: Problem | None = None
    replayed: Literal[True] | None = None


class JobBatchDocument(BaseModel):
    """The outcomes, in the order of the items."""

    items: list[BatchOutcome]


class EventDocument(BaseModel):
    """Something that happened to a job."""

    seq: int
    type: str
    at: datetime
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events in the order in which they happened."""

    items: list[EventDocument]
    next_cursor: str | None


class ArtifactDocument(BaseModel):
    """Bytes with a name."""

    id: UUID
    name: str
    media_type: str
    bytes: int
    sha256: str
    url: str


class ArtifactPage(BaseModel):
    """Artifacts of a job in the order in which they were made."""

    items: list[ArtifactDocument]
    next_cursor: str | None


class RefusalDocument(BaseModel):
    """Why one record of a batch was not taken; ``index`` counts from zero."""

    index: int
    code: str
    message: str
    pointer: str


class BatchAccepted(BaseModel):
    """What was acknowledged. The first thousand refusals are listed; all of them are dead letters."""

    batch_id: UUID
    received: int
    accepted: int
    rejected: list[RefusalDocument]
    batch_url: str


class BatchDocument(BaseModel):
    """The counters of a batch: received = saved + deduplicated + dead + pending."""

    batch_id: UUID
    collection: str
    received: int
    saved: int
    deduplicated: int
    dead: int
    pending: int
    rejected: int
    job_id: UUID | None
    created_at: datetime
    batch_url: str


class DeadLetterDocument(BaseModel):
    """A record that could not be saved. ``whole`` is false where only its beginning was kept."""

    id: UUID
    batch_id: UUID
    index: int
    code: str
    sqlstate: str | None
    message: str
    record: str
    whole: bool
    created_at: datetime


class DeadLetterPage(BaseModel):
    """Dead letters, newest first."""

    items: list[DeadLetterDocument]
    next_cursor: str | None


class DialogDocument(BaseModel):
    """A dialog, and when its newest message was created."""

    dialog_id: str
    last_message_at: datetime


class DialogPage(BaseModel):
    """Dialogs of a user, the latest first."""

    items: list[DialogDocument]
    next_cursor: str | None


class MessageDocument(BaseModel):
    """A saved message."""

    id: UUID
    dialog_id: str
    user_id: str
    role: str
    content: str
    created_at: datetime
    model: str | None
    tokens: int | None
    status: str | None
    processing_ms: int | None
    metadata: dict[str, Any] | None
    batch_id: UUID


class MessagePage(BaseModel):
    """Messages in the order of the list."""

    items: list[MessageDocument]
    next_cursor: str | None


class UserDocument(BaseModel):
    """The newest known state of a user."""

    id: str
    version: int
    premium: bool
    blocked: bool
    last_active_at: datetime | None
    attributes: dict[str, Any] | None
    batch_id: UUID


class UserPage(BaseModel):
    """Users in the order of the list."""

    items: list[UserDocument]
    next_cursor: str | None


class StatisticsDocument(BaseModel):
    """Sums over whole days, in UTC, both days included."""

    since: date
    until: date
    items: list[dict[str, Any]]
