"""Webhooks out: endpoints, secrets, deliveries."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Path, Response
from pydantic import StringConstraints

from api.documents import encode
from api.pages import cursor_of, id_of
from api.routes.jobs import Cursor, Limit
from api.routing import Call, Family, Needs, problems
from domain.model import Frozen
from repositories.rows import AnyRow
from repositories.webhooks import WebhookRepository
from services.tenants import Scope

router: Final = Family("webhooks")

Manager = Annotated[Call, Depends(Needs(Scope.WEBHOOKS_MANAGE))]
EndpointID = Annotated[UUID, Path(description="The id of the endpoint.")]
DeliveryID = Annotated[UUID, Path(description="The id of the delivery.")]

_JSON: Final = "application/json"


class EndpointCreate(Frozen):
    """An address that is told of every change of status of every job of the tenant."""

    url: Annotated[str, StringConstraints(max_length=2_000)]


@router.post("/webhooks/endpoints", status_code=201, responses=problems(400, 408, 413, 415))
async def add_endpoint(call: Manager, body: EndpointCreate) -> Response:
    """Add an endpoint; its secret is shown this once."""
    row, secret = await call.services.webhooks.add_endpoint(call.tenant_id, body.url)
    return _json(_endpoint(row) | {"secret": secret}, 201)


@router.get("/webhooks/endpoints", responses=problems())
async def list_endpoints(call: Manager, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Endpoints, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await WebhookRepository(connection).get_endpoints(limit=limit + 1, before=id_of(cursor))
    return _page(rows, limit, _endpoint)


@router.delete("/webhooks/endpoints/{endpoint_id}", status_code=204, responses=problems(404))
async def delete_endpoint(call: Manager, endpoint_id: EndpointID) -> Response:
    """Forget an endpoint and what was sent to it."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        await WebhookRepository(connection).delete_endpoint(endpoint_id)
    return Response(status_code=204)


@router.post("/webhooks/endpoints/{endpoint_id}/rotate", responses=problems(404))
async def rotate_endpoint(call: Manager, endpoint_id: EndpointID) -> Response:
    """A new secret; for a day the old one signs beside it."""
    return _json({"secret": await call.services.webhooks.rotate(call.tenant_id, endpoint_id)})


@router.post("/webhooks/endpoints/{endpoint_id}/enable", status_code=204, responses=problems(404))
async def enable_endpoint(call: Manager, endpoint_id: EndpointID) -> Response:
    """Send to an endpoint again that was disabled by its 410."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        repository = WebhookRepository(connection)
        await repository.get_endpoint(endpoint_id)
        await repository.enable(endpoint_id)
    return Response(status_code=204)


@router.get("/webhooks/secret", responses=problems())
async def get_callback_secrets(call: Manager) -> Response:
    """The secrets that sign what goes to the ``callback_url`` of jobs, newest first."""
    return _json({"secrets": await call.services.webhooks.callback_secrets(call.tenant_id)})


@router.post("/webhooks/secret/rotate", responses=problems())
async def rotate_callback_secret(call: Manager) -> Response:
    """A new secret for callbacks; for a day the old one signs beside it."""
    return _json({"secret": await call.services.webhooks.rotate(call.tenant_id, None)})


@router.get("/webhooks/deliveries", responses=problems())
async def list_deliveries(
    call: Manager, job_id: UUID | None = None,
    state: Literal["pending", "delivered", "failed", "disabled"] | None = None, limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:  # fmt: skip
    """What was sent, or is to be, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await WebhookRepository(connection).get_deliveries(
            limit=limit + 1, before=id_of(cursor), job_id=job_id, state=state
        )
    return _page(rows, limit, _delivery)


@router.post("/webhooks/deliveries/{delivery_id}/redeliver", status_code=202, responses=problems(404))
async def redeliver(call: Manager, delivery_id: DeliveryID) -> Response:
    """Send a delivery again under its id, which the receiver knows it by."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        row = await WebhookRepository(connection).redeliver(delivery_id)
    return _json(_delivery(row), 202)


def _json(document: Any, status: int = 200) -> Response:
    return Response(encode(document), status_code=status, media_type=_JSON)


def _page(rows: Any, limit: int, document: Any) -> Response:
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return _json({"items": [document(row) for row in rows[:limit]], "next_cursor": following})


def _endpoint(row: AnyRow) -> dict[str, Any]:
    shown = ("id", "url", "disabled_at", "disabled_reason", "previous_until", "created_at")
    return {name: getattr(row, name) for name in shown}


def _delivery(row: AnyRow) -> dict[str, Any]:
    shown = (
        "id", "endpoint_id", "job_id", "url", "type", "state", "tries", "due_at", "last_status", "last_error",
        "created_at", "delivered_at",
    )  # fmt: skip
    return {name: getattr(row, name) for name in shown} | {"webhook_id": f"msg_{row.id.hex}"}
