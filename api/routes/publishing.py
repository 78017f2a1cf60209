"""Channels and their slots, orders and what became of them, sequences of deliveries."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import AfterValidator, Field, StringConstraints

from api.container import Services
from api.documents import encode
from api.idempotency import parse_key
from api.pages import cursor_of, id_of
from api.routes.jobs import Cursor, IdempotencyKey, Limit
from api.routing import Call, Family, Needs, problems
from domain.errors import InvalidInput
from domain.model import Frozen
from domain.publishing.orders import (
    ORDER_KIND,
    OVER,
    SEQUENCE_KIND,
    Notify,
    OrderChange,
    OrderInput,
    OrderState,
    SequenceInput,
    When,
)
from domain.text import Line, storable
from repositories.jobs import JobRepository
from repositories.publishing.channels import ChannelRepository, CredentialRepository, SlotRepository
from repositories.publishing.ledger import LedgerRepository
from repositories.publishing.orders import OrderRepository
from repositories.publishing.reports import report_of
from repositories.rows import AnyRow
from services.jobs import JobRequest, Started
from services.publishing.limits import limits_of
from services.publishing.orders import below_root
from services.tenants import Scope

router: Final = Family("publishing")
incoming: Final = Family("publishing")
"""What outside systems call; they show a secret of their own in place of a key."""

Reader = Annotated[Call, Depends(Needs(Scope.PUBLISHING_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.PUBLISHING_WRITE))]
ChannelID = Annotated[UUID, Path(description="The id of the channel.")]
OrderID = Annotated[UUID, Path(description="The id of the order, which is the id of its job.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]

_JSON: Final = "application/json"
_MOST_EVENTS: Final = 1_000


# --- in ---------------------------------------------------------------------------------------------


class CredentialCreate(Frozen):
    """A secret of an outside system, such as the token of a bot. It is never shown again."""

    name: Annotated[Line, Field(max_length=100)]
    secret: Annotated[str, StringConstraints(min_length=1, max_length=4_096), AfterValidator(storable)]


class CredentialChange(Frozen):
    """A new secret under the same id."""

    secret: Annotated[str, StringConstraints(min_length=1, max_length=4_096), AfterValidator(storable)]


class ChannelConnect(Frozen):
    """A channel to publish to. ``audit_chat_id`` is a private chat of the bot in which doubtful posts are looked up."""

    gateway: Literal["telegram", "file"]
    chat_id: Annotated[str, StringConstraints(pattern=r"^(-?[0-9]{1,20}|@?[A-Za-z0-9_.-]{1,64})$")]
    audit_chat_id: Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,20}$")] | None = None
    credential_id: UUID | None = None
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "UTC"
    requires_approval: bool = False
    notify: Notify = Notify()


class SlotOffer(Frozen):
    """A time on offer, from its start to before its end."""

    starts_at: When
    ends_at: When


class Resolution(Frozen):
    """What a person says about a post in doubt, or late: it is ``sent``; ``send`` it; ``give_up``."""

    decision: Literal["sent", "send", "give_up"]
    message_ids: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=10)] = ()


# --- credentials and channels -----------------------------------------------------------------------


@router.post("/credentials", status_code=201, responses=problems(400, 408, 413, 415))
async def add_credential(call: Writer, body: CredentialCreate) -> Response:
    """Keep a secret, encrypted; everything else names it by its id."""
    made = await call.services.publishing.add_credential(call.tenant_id, name=body.name, secret=body.secret)
    return _json({"id": made, "name": body.name}, 201)


@router.patch("/credentials/{credential_id}", status_code=204, responses=problems(400, 404, 408, 413, 415))
async def replace_credential(call: Writer, credential_id: UUID, body: CredentialChange) -> Response:
    """Replace a secret, as after a token was revoked."""
    await call.services.publishing.replace_credential(call.tenant_id, credential_id, secret=body.secret)
    return Response(status_code=204)


@router.get("/credentials", responses=problems())
async def list_credentials(call: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Names and ids, newest first; never a secret."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await CredentialRepository(connection).get_page(limit=limit + 1, before=id_of(cursor))
    return _page(rows, limit, lambda row: {"id": row.id, "name": row.name, "created_at": row.created_at})


@router.post("/channels", status_code=201, responses=problems(400, 408, 413, 415))
async def connect_channel(call: Writer, body: ChannelConnect) -> Response:
    """Connect a channel. A job looks at its rights at once; until then its state is ``checking``."""
    wanted = body.model_dump(mode="json") | {"credential_id": body.credential_id}
    channel, check = await call.services.publishing.connect_channel(call.tenant_id, wanted)
    document = _channel(channel) | {"check": call.services.links.job(check.document.id)}
    headers = {"location": f"{call.services.links.api}/channels/{channel.id}"}
    return _json(document, 201, headers)


@router.get("/channels", responses=problems())
async def list_channels(call: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Channels, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await ChannelRepository(connection).get_page(limit=limit + 1, before=id_of(cursor))
    return _page(rows, limit, _channel)


@router.get("/channels/{channel_id}", responses=problems(404))
async def get_channel(call: Reader, channel_id: ChannelID) -> Response:
    """A channel, its rights, and the limits that were learned about it."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        channel = await ChannelRepository(connection).get_one(channel_id)
        limits = await limits_of(connection, channel)
    return _json(_channel(channel) | {"limits": limits})


@router.post("/channels/{channel_id}/check", status_code=202, responses=problems(404))
async def check_channel(call: Writer, channel_id: ChannelID) -> Response:
    """Look at the rights again."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        await ChannelRepository(connection).get_one(channel_id)
    started = await call.services.publishing.check_channel(call.tenant_id, channel_id)
    return _json({"job": call.services.links.job(started.document.id)}, 202)


@router.get("/channels/{channel_id}/ledger", responses=problems(404))
async def get_ledger(call: Reader, channel_id: ChannelID, limit: Limit = 100, offset: Offset = 0) -> Response:
    """What was sent, what was in doubt, how that was resolved, and what was missed: the proof, row by row."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        await ChannelRepository(connection).get_one(channel_id)
        ledger = LedgerRepository(connection)
        states, doubts = await ledger.count_states(channel_id), await ledger.count_doubts(channel_id)
        rows = await ledger.get_page(channel_id, limit=limit, offset=offset)
    summary = {
        "posts": states, "ambiguous": doubts.ambiguous, "resolved_by_probe": doubts.by_probe,
        "resolved_by_person": doubts.by_person, "sent_again_after_proof_of_absence": doubts.sent_again,
    }  # fmt: skip
    return _json({"summary": summary, "items": [_effect(row) for row in rows]})


# --- slots ------------------------------------------------------------------------------------------


@router.post("/channels/{channel_id}/slots", status_code=201, responses=problems(400, 404, 408, 413, 415))
async def offer_slot(call: Writer, channel_id: ChannelID, body: SlotOffer) -> Response:
    """Offer a time; the database refuses one that overlaps another."""
    slot = await call.services.publishing.offer_slot(
        call.tenant_id, channel_id, starts_at=body.starts_at, ends_at=body.ends_at
    )
    return _json(_slot(slot), 201)


@router.get("/channels/{channel_id}/slots", responses=problems(404))
async def list_slots(call: Reader, channel_id: ChannelID, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Slots of a channel, newest first, each with the order that holds it."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        await ChannelRepository(connection).get_one(channel_id)
        rows = await SlotRepository(connection).get_page(channel_id, limit=limit + 1, before=id_of(cursor))
    return _page(rows, limit, lambda row: _slot(row) | {"order_id": row.order_id})


@router.delete("/slots/{slot_id}", status_code=204, responses=problems(404, 409))
async def withdraw_slot(call: Writer, slot_id: UUID) -> Response:
    """Take a slot back that nobody has ordered."""
    await call.services.publishing.withdraw_slot(call.tenant_id, slot_id)
    return Response(status_code=204)


# --- orders -----------------------------------------------------------------------------------------


@router.post("/orders", status_code=202, responses=problems(400, 408, 409, 413, 415))
async def create_order(call: Writer, body: OrderInput, idempotency_key: IdempotencyKey = None) -> Response:
    """Book a slot with content; acknowledged once it cannot be lost any more."""
    started = await _start(call, ORDER_KIND, body.model_dump(mode="json"), idempotency_key)
    document = await _order_document(call, started.document.id)
    headers = {"location": f"{call.services.links.api}/orders/{started.document.id}"}
    return _json(document, 202, headers | ({"idempotent-replayed": "true"} if started.replayed else {}))


@router.get("/orders", responses=problems())
async def list_orders(
    call: Reader, channel_id: UUID | None = None, state: OrderState | None = None, limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:  # fmt: skip
    """Orders, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await OrderRepository(connection).get_page(
            limit=limit + 1, before=id_of(cursor), channel_id=channel_id, state=state
        )
    return _page(rows, limit, lambda row: _order(row, call))


@router.get("/orders/{order_id}", responses=problems(404))
async def get_order(call: Reader, order_id: OrderID) -> Response:
    """An order with everything that happened to it: states, effects, tasks, views."""
    return _json(await _order_document(call, order_id))


@router.patch("/orders/{order_id}", responses=problems(400, 404, 408, 409, 413, 415))
async def change_order(call: Writer, order_id: OrderID, body: OrderChange) -> Response:
    """Re-book or edit, until sending begins; answers the times that the sleeping workflow has armed."""
    armed = await call.services.publishing.change_order(call.tenant_id, order_id, body)
    return _json({"id": order_id, "armed": armed.document()})


@router.post("/orders/{order_id}/cancel", responses=problems(404, 409))
async def cancel_order(call: Writer, order_id: OrderID) -> Response:
    """Cancel; in the middle of sending this waits for the outcome, and then takes the post away."""
    armed = await call.services.publishing.cancel_order(call.tenant_id, order_id)
    return _json({"id": order_id, "armed": armed.document()})


@router.post("/orders/{order_id}/resolve", responses=problems(400, 404, 408, 409, 413, 415))
async def resolve_order(call: Writer, order_id: OrderID, body: Resolution) -> Response:
    """Decide about a post in doubt, with the evidence of the ledger, or about one that is late."""
    armed = await call.services.publishing.resolve_order(
        call.tenant_id, order_id, decision=body.decision, message_ids=body.message_ids
    )
    return _json({"id": order_id, "armed": armed.document()})


@router.get("/owner-tasks", responses=problems())
async def list_tasks(call: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """What waits for a person, newest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        rows = await OrderRepository(connection).get_open_tasks(limit=limit + 1, before=id_of(cursor))
    return _page(rows, limit, _task)


# --- conversations ----------------------------------------------------------------------------------


class BotCreate(Frozen):
    """A bot that takes orders for a channel; ``polls`` fetches its updates, where no webhook can reach us."""

    channel_id: UUID
    polls: bool = False


@router.post("/bots", status_code=201, responses=problems(400, 404, 408, 413, 415))
async def add_bot(call: Writer, body: BotCreate) -> Response:
    """Let a channel's bot take orders in conversations; the secret for its webhook is shown this once."""
    bot_id, secret = await call.services.dialogs.add_bot(call.tenant_id, channel_id=body.channel_id, polls=body.polls)
    address = f"{call.services.settings.base_url}/webhooks/telegram/{bot_id}"
    return _json({"id": bot_id, "webhook_url": address, "secret_token": secret}, 201)


@incoming.post("/webhooks/telegram/{bot_id}", responses=problems(400, 404, 408, 413, 415))
async def hear_telegram(
    request: Request,
    bot_id: UUID,
    body: dict[str, Any],
    secret: Annotated[str, Header(alias="X-Telegram-Bot-Api-Secret-Token", max_length=256)] = "",
) -> Response:
    """An update from Telegram; each is taken in once, however often it comes."""
    services: Services = request.app.state.services
    await services.dialogs.hear(bot_id, secret=secret, update=body)
    return _json({})


# --- sequences --------------------------------------------------------------------------------------


@router.post("/sequences", status_code=202, responses=problems(400, 408, 409, 413, 415))
async def create_sequence(call: Writer, body: SequenceInput, idempotency_key: IdempotencyKey = None) -> Response:
    """Deliver items at their offsets from a start."""
    started = await _start(call, SEQUENCE_KIND, body.model_dump(mode="json"), idempotency_key)
    return _json(await _sequence_document(call, started.document.id), 202)


@router.get("/sequences/{job_id}", responses=problems(404))
async def get_sequence(call: Reader, job_id: UUID) -> Response:
    """The deliveries of a sequence in order."""
    return _json(await _sequence_document(call, job_id))


# --- documents --------------------------------------------------------------------------------------


async def _start(call: Call, kind: str, wish: dict[str, Any], key: str | None) -> Started:
    request = JobRequest(
        kind=kind, input=wish, request_id=call.request_id,
        traceparent=call.services.tracing.current_traceparent(),
    )  # fmt: skip
    try:
        return await call.services.jobs.start(call.tenant_id, request, key=parse_key(key))
    except InvalidInput as fault:
        raise below_root(fault) from None


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(document), status_code=status, media_type=_JSON, headers=headers)


def _page(rows: Any, limit: int, document: Any) -> Response:
    following = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return _json({"items": [document(row) for row in rows[:limit]], "next_cursor": following})


def _channel(row: AnyRow) -> dict[str, Any]:
    shown = (
        "id", "gateway", "chat_id", "audit_chat_id", "credential_id", "title", "username", "time_zone",
        "requires_approval", "notify", "state", "rights", "checked_at", "created_at",
    )  # fmt: skip
    return {name: getattr(row, name) for name in shown}


def _slot(row: AnyRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("id", "channel_id", "starts_at", "ends_at", "state", "created_at")}


def _effect(row: AnyRow) -> dict[str, Any]:
    shown = (
        "order_id", "effect", "state", "attempt", "sends", "doubts", "resolved_by", "message_ids", "content_sha256",
        "after_message_id", "evidence", "error_code", "detail", "sending_at", "settled_at", "created_at",
    )  # fmt: skip
    return {name: getattr(row, name) for name in shown}


def _task(row: AnyRow) -> dict[str, Any]:
    return {
        name: getattr(row, name)
        for name in ("id", "order_id", "kind", "detail", "created_at", "closed_at", "resolution")
    }


def _order(row: AnyRow, call: Call) -> dict[str, Any]:
    shown = (
        "id", "channel_id", "slot_id", "state", "version", "content", "content_sha256", "publish_at", "remove_at",
        "latest_at", "armed_at", "sent_at", "drift_ms", "ended_at", "message_ids", "created_at", "updated_at",
    )  # fmt: skip
    return {name: getattr(row, name) for name in shown} | {"job": call.services.links.job(row.job_id)}


async def _order_document(call: Call, order_id: UUID) -> dict[str, Any]:
    async with call.services.database.tenant(call.tenant_id) as connection:
        repository = OrderRepository(connection)
        order = await repository.get_one(order_id)
        effects = await LedgerRepository(connection).get_of_order(order_id)
        tasks, views = await repository.get_tasks(order_id), await repository.get_views(order_id)
        events = await JobRepository(connection).get_events(order.job_id, after=0, limit=_MOST_EVENTS)
        # A job that failed or was canceled has no result: here every order has its report.
        report = await report_of(connection, order_id) if order.state in OVER else None
    timeline = [
        {"at": event.at, "type": event.type, "data": event.data}
        for event in events
        if event.data.get("order_id", str(order_id)) == str(order_id)
    ]
    return _order(order, call) | {
        "effects": [_effect(row) for row in effects],
        "tasks": [_task(row) for row in tasks],
        "views": [{"source": row.source, "views": row.views, "at": row.at} for row in views],
        "timeline": timeline,
        "report": report,
    }


async def _sequence_document(call: Call, job_id: UUID) -> dict[str, Any]:
    async with call.services.database.tenant(call.tenant_id) as connection:
        job = await JobRepository(connection).get_document(job_id)
        rows = await OrderRepository(connection).get_of_job(job_id)
    deliveries = [_order(row, call) for row in rows]
    return {"id": job_id, "status": job.status, "job": call.services.links.job(job_id), "deliveries": deliveries}
