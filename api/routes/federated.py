"""Federated learning: models, participants and what they send, and the rounds of cycles."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from api.documents import encode
from api.federated import model_document, model_summary, round_document
from api.polling import matches
from api.ranges import Unsatisfiable, parse_range
from api.routes.artifacts import OutOfRange
from api.routes.jobs import JobID
from api.routing import Call, Family, Needs, problems
from domain.artifacts import store_key
from domain.errors import FieldFault, InvalidInput
from domain.federated_protocol import Enrolment, EnrolmentRequest, Heartbeat, Lease, LeaseRequest, ModelName, Receipt
from domain.federated_registry import NewModel, Rollback
from domain.model import Frozen
from repositories.federated.rounds import RoundRepository
from repositories.jobs import JobRepository
from services.federated.participants import NoPlace
from services.tenants import Scope

router: Final = Family("federated", prefix="/federated")

Reader = Annotated[Call, Depends(Needs(Scope.FEDERATED_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.FEDERATED_WRITE))]
Participant = Annotated[Call, Depends(Needs(Scope.FEDERATED_PARTICIPATE))]
ModelPath = Annotated[ModelName, Path(description="The name of the model.")]
LeaseID = Annotated[UUID, Path(description="The id of the lease; the update has the same.")]
LeaseToken = Annotated[str | None, Header(alias="Lease-Token", max_length=200)]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the weights, in hex.")]

_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_KEEP: Final = "private, max-age=31536000, immutable"
_CONTENT_DIGEST: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):", re.IGNORECASE)
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_MOST_SAMPLES: Final = 1_000


class Prediction(Frozen):
    """Samples to be answered for; what one is, the family of the model says."""

    samples: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MOST_SAMPLES)]


class PredictionDocument(BaseModel):
    """One answer for each sample, and the version that gave them."""

    version: int
    predictions: list[Any]


class VersionDocument(BaseModel):
    """A version of a model."""

    id: UUID
    version: int
    parent: UUID | None
    status: str
    reason: str | None
    sha256: str
    bytes: int
    url: str
    metrics: dict[str, float]
    job_id: UUID | None
    round: int | None
    created_at: datetime


class DecisionDocument(BaseModel):
    """What was decided about a version, by whom, and why."""

    action: str
    version_id: UUID
    head_before: UUID | None
    head_after: UUID | None
    actor: str
    reason: str
    data: dict[str, Any]
    at: datetime


class ModelSummary(BaseModel):
    """A model without its lineage."""

    name: str
    family: str
    judged_by: str | None
    head_id: UUID | None
    versions_made: int
    created_at: datetime
    updated_at: datetime


class ModelDocument(ModelSummary):
    """A model with its latest versions and decisions, newest first."""

    head: VersionDocument | None
    tensors: dict[str, Any]
    versions: list[VersionDocument]
    decisions: list[DecisionDocument]


class ModelPage(BaseModel):
    """Models by name."""

    items: list[ModelSummary]


class RoundDocument(BaseModel):
    """A round of a cycle."""

    number: int
    state: str
    reason: str | None
    goal: int
    quorum: int
    asked: int
    leased: int
    accepted: int
    refused: int
    deadline: datetime
    opened_at: datetime
    closed_at: datetime | None
    finished_at: datetime | None
    version: int | None
    sha256: str | None
    metrics: dict[str, float]
    detail: dict[str, Any]


class RoundPage(BaseModel):
    """The rounds of a cycle in order."""

    items: list[RoundDocument]
    next_cursor: str | None


# --- models -----------------------------------------------------------------------------------------


@router.post("/models", status_code=201, response_model=ModelDocument, responses=problems(400, 408, 409, 413, 415))
async def create_model(call: Writer, body: NewModel) -> Response:
    """A model, its first version the head: of a family, or with weights from an artifact."""
    made = await call.services.federated.registry.create(call.tenant_id, body, actor=_actor(call))
    headers = {"location": f"{call.services.links.api}/federated/models/{body.name}"}
    return Response(encode(model_document(made, call.services.links)), 201, headers, _JSON)


@router.get("/models", response_model=ModelPage, responses=problems())
async def list_models(call: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
    """Models by name."""
    rows = await call.services.federated.registry.list_all(call.tenant_id, limit=limit)
    return Response(encode({"items": [model_summary(row) for row in rows]}), media_type=_JSON)


@router.get("/models/{name}", response_model=ModelDocument, responses=problems(404))
async def get_model(call: Reader, name: ModelPath) -> Response:
    """The model: its head, its latest versions with their parents, and every decision about them."""
    shown = await call.services.federated.registry.get(call.tenant_id, name)
    return Response(encode(model_document(shown, call.services.links)), media_type=_JSON)


@router.post("/models/{name}/rollback", response_model=ModelDocument, responses=problems(404, 409))
async def roll_back_model(call: Writer, name: ModelPath, body: Rollback | None = None) -> Response:
    """Make an earlier version the head again: the parent, or the one that is named.

    Name the head that you mean in expected_head: repeated after a lost answer, the request then changes nothing more.
    """
    shown = await call.services.federated.registry.roll_back(
        call.tenant_id, name, body or Rollback(), actor=_actor(call)
    )
    return Response(encode(model_document(shown, call.services.links)), media_type=_JSON)


@router.post("/models/{name}/predict", response_model=PredictionDocument, responses=problems(400, 404, 408, 413, 415))
async def predict(call: Reader, name: ModelPath, body: Prediction) -> Response:
    """Answer for samples with the published head."""
    await call.services.prediction_limiter.hit(f"predict/{call.caller.prefix}")
    found = await call.services.federated.registry.predict(call.tenant_id, name, body.samples)
    return Response(encode({"version": found.version, "predictions": found.answers}), media_type=_JSON)


# --- participants -----------------------------------------------------------------------------------


@router.post("/participants", status_code=201, response_model=Enrolment, responses=problems(400, 404, 408, 413, 415))
async def enrol_participant(call: Writer, body: EnrolmentRequest) -> Response:
    """A participant and its key, which is shown this once and may do nothing but take part."""
    made = await call.services.federated.participants.enrol(call.tenant_id, body)
    return Response(encode({"id": made.participant_id, "key": made.key}), 201, {"cache-control": "no-store"}, _JSON)


@router.post(
    "/leases",
    response_model=Lease,
    responses={**problems(400, 404, 408, 413, 415), 204: {"description": "No work now; see Retry-After."}},
)
async def take_lease(call: Participant, body: LeaseRequest | None = None) -> Response:
    """A place in an open round, or 204 and when to ask again."""
    found = await call.services.federated.participants.lease(call.caller, body or LeaseRequest())
    if isinstance(found, NoPlace):
        return Response(status_code=204, headers={"retry-after": str(int(found.retry_after.total_seconds()))})
    document = {
        "id": found.lease_id,
        "token": found.token,
        "model": found.round.model,
        "family": found.round.family,
        "round": found.round.number,
        "base_sha256": found.round.base_sha256,
        "base_url": f"{call.services.links.api}/federated/blobs/{found.round.base_sha256}",
        "update_url": f"{call.services.links.api}/federated/updates/{found.lease_id}",
        "deadline": found.round.deadline,
        "expires_at": found.expires_at,
        "plan": found.round.plan,
        "limits": found.round.limits,
        "max_update_bytes": found.max_update_bytes,
    }
    return Response(encode(document), headers={"cache-control": "no-store"}, media_type=_JSON)


@router.post("/leases/{lease_id}/heartbeat", response_model=Heartbeat, responses=problems(404, 410))
async def keep_lease(call: Participant, lease_id: LeaseID, lease_token: LeaseToken = None) -> Response:
    """A sign of life, so that the place is not given to somebody else."""
    until = await call.services.federated.participants.heartbeat(call.caller, lease_id, lease_token)
    return Response(encode({"deadline": until}), media_type=_JSON)


@router.get("/blobs/{sha256}", response_class=Response, responses=problems(404, 416))
async def get_weights(
    call: Participant,
    sha256: Digest,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Weights of some version, or one range of them. They never change."""
    length = await call.services.federated.registry.find_blob(call.tenant_id, sha256)
    headers = {"etag": f'"{sha256}"', "cache-control": _KEEP, "accept-ranges": "bytes", "content-type": _BYTES}
    if if_none_match is not None and matches(if_none_match, headers["etag"]):
        return Response(status_code=304, headers=headers)
    try:
        part = parse_range(range_, length)
    except Unsatisfiable:
        raise OutOfRange(length) from None
    start, end = part or (0, length)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{length}"
    pieces = call.services.store.stream(store_key(call.tenant_id, sha256), start=start, end=end)
    # The first piece comes before the headers go out: bytes that are gone are a 404, not a broken answer.
    first = await anext(pieces)
    return StreamingResponse(_chained(first, pieces), status_code=200 if part is None else 206, headers=headers)


@router.put(
    "/updates/{lease_id}",
    status_code=201,
    response_model=Receipt,
    responses=problems(404, 408, 409, 410, 413),
    openapi_extra={"requestBody": {"content": {_BYTES: _BINARY}, "required": True}},
)
async def put_update(
    call: Participant,
    lease_id: LeaseID,
    content_digest: Annotated[str | None, Header(max_length=1_000)] = None,
    lease_token: LeaseToken = None,
) -> Response:
    """An update as safetensors; 201 once it is on disk and committed, 200 for the same again."""
    receipt = await call.services.federated.updates.submit(
        call.caller, lease_id, _chunks(call.request), sha256=_digest_of(content_digest), token=lease_token
    )
    document = {"id": receipt.lease_id, "sha256": receipt.sha256, "status": receipt.status}
    headers = {"location": f"{call.services.links.api}/federated/updates/{lease_id}"}
    return Response(encode(document), 200 if receipt.replayed else 201, headers, _JSON)


@router.get("/updates/{lease_id}", responses=problems(404))
async def get_receipt(call: Participant, lease_id: LeaseID) -> Response:
    """What is known of the update: whether it was accepted, and why the last one that was not was refused."""
    receipt = await call.services.federated.updates.receipt(call.caller, lease_id)
    document = {
        "id": receipt.lease_id, "sha256": receipt.sha256, "status": receipt.status, "reason": receipt.reason,
    }  # fmt: skip
    return Response(encode(document), media_type=_JSON)


# --- rounds -----------------------------------------------------------------------------------------


@router.get("/cycles/{job_id}/rounds", response_model=RoundPage, responses=problems(404))
async def list_rounds(
    call: Reader,
    job_id: JobID,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    cursor: Annotated[int | None, Query(ge=0, description="The number of the round before.")] = None,
) -> Response:
    """The rounds of a cycle, in the order in which they were opened."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        await JobRepository(connection).get_result(job_id)
        rows = await RoundRepository(connection).get_page(job_id, after=cursor or 0, limit=limit + 1)
    following = str(rows[limit - 1].number) if len(rows) > limit else None
    items = [round_document(row) for row in rows[:limit]]
    return Response(encode({"items": items, "next_cursor": following}), media_type=_JSON)


# ------------------------------------------------------------------------------------------------------


def _actor(call: Call) -> str:
    return f"key {call.caller.prefix}"


def _digest_of(header: str | None) -> str:
    """The SHA-256 of Content-Digest (RFC 9530) in hex. Raises InvalidInput where there is none."""
    found = None if header is None else _CONTENT_DIGEST.search(header)
    try:
        if found is not None:
            return base64.b64decode(found.group(1), validate=True).hex()
    except binascii.Error:
        pass
    fault = FieldFault("/header/content-digest", "must be the body's digest: sha-256=:BASE64:")
    raise InvalidInput("the digest of the update is missing", faults=[fault])


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
