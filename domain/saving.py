"""What ``saving`` is: batches of records, the streams that bring them home, and whole files as jobs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from domain.jobs import JobRef
from domain.model import Frozen

IMPORT_KIND: Final = "saving.import"
STREAM_KIND: Final = "saving.stream"


class OnError(StrEnum):
    """What happens to a batch in which a record is not acceptable."""

    REJECT = "reject"  # nothing is taken
    CONTINUE = "continue"  # the others are taken, and the bad ones are kept as dead letters


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one record was not taken; no model, as there may be a million of them.

    ``index`` counts the records of the batch from zero.
    """

    index: int
    code: str
    message: str
    pointer: str = ""
    """Where in the record, as a JSON pointer (RFC 6901)."""


class StreamInput(Frozen):
    """One stream: the records of a collection in one shard of all tenants, and how patiently they are collected."""

    collection: str
    shard: int
    flush_seconds: float = 0.5
    idle_seconds: float = 30.0

    @property
    def workflow_id(self) -> str:
        """``saving.stream/<collection>-<shard>``: not a job, so not the id of one either."""
        return f"{STREAM_KIND}/{self.collection}-{self.shard}"


class FlushStreamResult(Frozen):
    """What one look at a stream brought home. ``drained`` is False where it only ran out of its time."""

    records: int
    drained: bool


ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
]
"""A path below the tenant's ``imports/`` in the object store: no empty part, and none that begins with a dot."""


class ImportInput(Frozen):
    """Input of ``saving.import``: a whole file, uploaded as an artifact or laid into the object store."""

    collection: Annotated[str, StringConstraints(max_length=63)]
    artifact_id: UUID | None = None
    object_name: Annotated[ObjectName, StringConstraints(max_length=512)] | None = None
    format: Literal["ndjson", "csv"] = "ndjson"

    @model_validator(mode="after")
    def _one_source(self) -> "ImportInput":
        if (self.artifact_id is None) == (self.object_name is None):
            raise ValueError("exactly one of artifact_id and object_name is needed")
        return self


def import_key(tenant_id: UUID, wanted: ImportInput) -> str:
    """Where a file that was not uploaded lies in the object store: below the tenant's own folder."""
    return f"{tenant_id}/imports/{wanted.object_name}"


class ImportStepInput(Frozen):
    """One step of an import: which job it belongs to; everything else is in our tables."""

    job: JobRef


class ImportProgress(Frozen):
    """How far an import has come. ``done`` says that the step has nothing left to do."""

    done: bool


class BatchCounts(Frozen):
    """The counters of a batch; ``received = saved + deduplicated + dead + pending`` at every instant."""

    received: Annotated[int, Field(ge=0)]
    saved: Annotated[int, Field(ge=0)]
    deduplicated: Annotated[int, Field(ge=0)]
    dead: Annotated[int, Field(ge=0)]

    @property
    def pending(self) -> int:
        """Records that are safe and have not been looked at yet."""
        return self.received - self.saved - self.deduplicated - self.dead


class Verdict(StrEnum):
    """What PostgreSQL's refusal of a statement means for the records in it."""

    RETRY = "retry"  # the moment was bad
    POISON = "poison"  # a record is bad
    STOP = "stop"  # the installation is bad: a person has to look


_POISON: Final = ("22", "23", "54")
_STOP: Final = ("42", "28", "3F", "3D", "0A")


def verdict_of(sqlstate: str | None) -> Verdict:
    """Judge a refusal by the class of its SQLSTATE; what is not known may pass by itself."""
    code = sqlstate or ""
    if code.startswith(_POISON):
        return Verdict.POISON
    return Verdict.STOP if code.startswith(_STOP) else Verdict.RETRY
