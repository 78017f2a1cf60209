"""What a participant and the server say to each other over HTTP.

Requests refuse what they do not know, as everywhere; answers are read leniently, because devices are updated later
than servers.
"""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.model import Frozen

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

LEASE_TOKEN_HEADER: Final = "Lease-Token"  # noqa: S105 - the name of a header
EXAMPLES: Final = "examples"
"""Metadata of an update's safetensors: on how many samples it was trained, as a decimal number."""
LOSS: Final = "loss"
"""Metadata of an update: mean loss over the last local epoch, as a decimal number."""
DURATION_SECONDS: Final = "duration_seconds"
"""Metadata of an update: how long training took, as a decimal number."""


class Answer(BaseModel):
    """An answer of the server; fields that this side does not know yet are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EnrolmentRequest(Frozen):
    """``POST /federated/participants``, with a key of the tenant."""

    model: ModelName | None = None
    """Takes part for this model only; for all of the tenant's where none is named."""
    labels: Annotated[dict[str, str], Field(max_length=20)] = Field(default_factory=dict)
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@-]{1,100}$")] | None = None
    """Enrolling again under the same name is the same participant with a new key."""


class Enrolment(Answer):
    """Who the participant is from now on; ``key`` is shown this once and is its bearer from then on."""

    id: UUID
    key: str


class LeaseRequest(Frozen):
    """``POST /federated/leases``, with the key of the participant.

    A key of the tenant that may manage models may also ask on behalf of a participant, which it then names.
    """

    model: ModelName | None = None
    participant_id: UUID | None = None


class Lease(Answer):
    """One participant's part in one round."""

    id: UUID
    """Names the update as well: ``PUT /federated/updates/{id}``."""
    token: str
    """Goes along as the header ``Lease-Token`` with the heartbeat and the update."""
    model: ModelName
    family: str
    """Which model family trains it (``learning/families.py``)."""
    round: int
    base_sha256: Sha256
    """The weights to start from: ``GET /federated/blobs/{base_sha256}``."""
    deadline: datetime
    """Until when the place is kept; a heartbeat moves it on, never past the end of the round.

    Afterwards another may get the place. An update is accepted as long as the round is open and wants more, and refused
    with 410 from then on.
    """
    plan: dict[str, Any] = Field(default_factory=dict)
    """Hyperparameters of the family, those that differ from its own."""
    max_update_bytes: int | None = None


class Heartbeat(Answer):
    """The answer to ``POST /federated/leases/{id}/heartbeat``."""

    deadline: datetime


class Receipt(Answer):
    """The answer to an update, and of ``GET /federated/updates/{id}``: on disk and committed."""

    id: UUID
    sha256: Sha256
    status: str = "accepted"
