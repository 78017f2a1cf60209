"""What the platform knows about ``publishing``: its kinds of job, and what is feasible before anything is booked."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.ids import new_id
from domain.approvals import Answer
from domain.errors import FieldFault, InvalidInput, NotFound, StateError
from domain.jobs import WaitingKind, WaitingOn
from domain.publishing.content import PostContent, content_faults, render
from domain.publishing.orders import (
    CHECK_KIND,
    MESSAGES_PER_MINUTE,
    ORDER_KIND,
    SEQUENCE_KIND,
    CheckInput,
    OrderInput,
    OrderState,
    SequenceInput,
    SequenceItem,
    moment_of,
    removal_fault,
    takes_deleting,
)
from domain.webhooks import AddressRefused, check_url
from repositories.publishing.channels import ChannelRepository, SlotRepository
from repositories.publishing.orders import OrderRepository
from repositories.rows import AnyRow
from services.kinds import JobKind
from workflows.publishing import CHECK_WORKFLOW, ORDER_WORKFLOW, TASK_QUEUE
from workflows.sequences import SEQUENCE_WORKFLOW

_FURTHEST: Final = timedelta(days=366)
_PAST_TOLERANCE: Final = timedelta(minutes=5)
_HALF_A_MINUTE: Final = timedelta(seconds=30)


def publishing_kinds(database: Database, *, max_orders: int, exempt_hosts: Sequence[str]) -> list[JobKind]:
    """``publishing.order``, ``publishing.sequence`` and ``publishing.check``."""
    desk = BookingDesk(database, exempt_hosts=exempt_hosts)
    return [
        JobKind(
            name=ORDER_KIND, input_model=OrderInput, workflow=ORDER_WORKFLOW, task_queue=TASK_QUEUE,
            summary=lambda wanted: f"Post, then {wanted.finish}", check=desk.check_order, accompany=desk.book_order,
            consent=approve_content, waits=order_wait, max_running=max_orders,
        ),
        JobKind(
            name=SEQUENCE_KIND, input_model=SequenceInput, workflow=SEQUENCE_WORKFLOW, task_queue=TASK_QUEUE,
            summary=lambda wanted: f"{len(wanted.items)} deliveries", check=desk.check_sequence,
            accompany=desk.book_sequence, max_running=max_orders,
        ),
        JobKind(
            name=CHECK_KIND, input_model=CheckInput, workflow=CHECK_WORKFLOW, task_queue=TASK_QUEUE,
            summary=lambda _wanted: "Check of a channel", check=desk.check_channel,
        ),
    ]  # fmt: skip


class BookingDesk:
    """Says what cannot be done before it is promised, and books in the transaction of the job."""

    def __init__(self, database: Database, *, exempt_hosts: Sequence[str]) -> None:
        self._database = database
        self._exempt_hosts = tuple(exempt_hosts)

    async def check_channel(self, tenant_id: UUID, wanted: CheckInput) -> None:
        """Raise InvalidInput where there is no such channel."""
        async with self._database.tenant(tenant_id) as connection:
            try:
                await ChannelRepository(connection).get_one(wanted.channel_id)
            except NotFound as fault:
                raise _invalid(FieldFault("/input/channel_id", fault.detail)) from None

    # --- orders -------------------------------------------------------------------------------------

    async def check_order(self, tenant_id: UUID, wanted: OrderInput) -> None:
        """Raise InvalidInput naming everything that makes this order impossible."""
        faults = post_faults(wanted.content, "/input/content")
        faults += self._notify_faults(wanted)
        async with self._database.tenant(tenant_id) as connection:
            faults += [fault async for fault in self._booking_faults(connection, wanted)]
        if faults:
            raise _invalid(*faults)

    def _notify_faults(self, wanted: OrderInput) -> list[FieldFault]:
        url = wanted.advertiser.notify.webhook_url if wanted.advertiser else None
        fault = None if url is None else url_fault(url, self._exempt_hosts)
        return [] if fault is None else [FieldFault("/input/advertiser/notify/webhook_url", fault)]

    async def _booking_faults(self, connection: AsyncConnection, wanted: OrderInput) -> Any:
        slot = await SlotRepository(connection).get_or_none(wanted.slot_id)
        if slot is None or slot.state != "offered":
            yield FieldFault("/input/slot_id", "is not a slot on offer")
            return
        channel = await ChannelRepository(connection).get_one(slot.channel_id)
        for fault in channel_faults(channel, wanted):
            yield FieldFault("/input/slot_id", fault)
        publish_at = publish_moment(wanted, slot)
        if isinstance(publish_at, FieldFault):
            yield publish_at
            return
        for time_fault in time_faults(publish_at, slot, channel, wanted):
            yield time_fault
        crowded = await crowd_fault(connection, channel, publish_at, wanted)
        if crowded is not None:
            yield crowded

    async def book_order(self, connection: AsyncConnection, tenant_id: UUID, job_id: UUID, wanted: OrderInput) -> None:
        """Write the order of a job down. Raises InvalidInput where the slot was taken or withdrawn meanwhile."""
        slot = await SlotRepository(connection).get_offered_or_none(wanted.slot_id)
        publish_at = None if slot is None else publish_moment(wanted, slot)
        if slot is None or not isinstance(publish_at, datetime):
            raise _invalid(FieldFault("/input/slot_id", "is not a slot on offer"))
        try:
            await OrderRepository(connection).add({
                **_order_row(tenant_id, job_id, job_id, slot.channel_id, wanted),
                "slot_id": slot.id,
                **times_of(wanted, publish_at, slot),
            })  # fmt: skip
        except InvalidInput:
            raise _invalid(FieldFault("/input/slot_id", "is taken by another order")) from None

    # --- sequences ----------------------------------------------------------------------------------

    async def check_sequence(self, tenant_id: UUID, wanted: SequenceInput) -> None:
        """Raise InvalidInput naming everything that makes this sequence impossible."""
        faults = [
            fault
            for place, item in enumerate(wanted.items)
            for fault in post_faults(item.content, f"/input/items/{place}/content")
        ]
        starts = moment_of(wanted.starts_at, "/input/starts_at")
        wrong_start = starts if isinstance(starts, FieldFault) else start_fault(starts)
        faults += [] if wrong_start is None else [wrong_start]
        async with self._database.tenant(tenant_id) as connection:
            try:
                channel = await ChannelRepository(connection).get_one(wanted.channel_id)
                faults += [FieldFault("/input/channel_id", fault) for fault in sequence_channel_faults(channel)]
                if wrong_start is None and isinstance(starts, datetime):
                    faults += await crowd_faults(connection, channel, starts, wanted.items)
            except NotFound as fault:
                faults.append(FieldFault("/input/channel_id", fault.detail))
        if faults:
            raise _invalid(*faults)

    async def book_sequence(
        self, connection: AsyncConnection, tenant_id: UUID, job_id: UUID, wanted: SequenceInput
    ) -> None:
        """Write the deliveries of a sequence down."""
        starts = moment_of(wanted.starts_at, "/input/starts_at")
        assert isinstance(starts, datetime)
        for place, item in enumerate(sorted(wanted.items, key=lambda one: one.offset_seconds)):
            publish_at = starts + timedelta(seconds=item.offset_seconds)
            order = OrderInput(slot_id=job_id, content=item.content, finish="keep", late=wanted.late)
            await OrderRepository(connection).add({
                **_order_row(tenant_id, new_id(), job_id, wanted.channel_id, order),
                "position": place,
                "publish_at": publish_at,
                "latest_at": publish_at + wanted.late.window,
            })  # fmt: skip


async def approve_content(connection: AsyncConnection, order_id: UUID, answer: Answer) -> dict[str, Any]:
    """Write down which content the channel's owner agrees to; from then on it cannot be changed.

    Raises StateError where the owner has ``seen`` another one.
    """
    repository = OrderRepository(connection)
    order = await repository.get_one(order_id, lock=True)
    if answer.seen is not None and answer.seen != order.content_sha256:
        raise StateError("the content is not the one that was seen; look at it again")
    if answer.approved and order.state == OrderState.APPROVAL:
        await repository.change(order.id, approved_sha256=order.content_sha256, pending=None)
    return {"content_sha256": order.content_sha256}


async def order_wait(connection: AsyncConnection, order_id: UUID) -> WaitingOn | None:
    """The channel's owner, where they have not answered yet."""
    order = await OrderRepository(connection).get_one(order_id, lock=True)
    if order.state != OrderState.APPROVAL or order.approved_sha256 == order.content_sha256:
        return None
    return WaitingOn(
        kind=WaitingKind.APPROVAL,
        detail="the channel's owner has to agree",
        since=order.updated_at,
        until=order.latest_at,
    )


def _invalid(*faults: FieldFault) -> InvalidInput:
    return InvalidInput("the order is not possible", faults=faults)


def _order_row(tenant_id: UUID, order_id: UUID, job_id: UUID, channel_id: UUID, wanted: OrderInput) -> dict[str, Any]:
    return {
        "id": order_id,
        "tenant_id": tenant_id,
        "job_id": job_id,
        "channel_id": channel_id,
        "content": wanted.content.model_dump(mode="json"),
        "content_sha256": render(wanted.content).sha256,
        "wish": wanted.model_dump(mode="json", exclude={"content"}),
    }


# --- what is feasible -------------------------------------------------------------------------------


def url_fault(url: str, exempt_hosts: Sequence[str]) -> str | None:
    """Why nothing may be sent to this address, as far as its spelling tells."""
    try:
        check_url(url, exempt=exempt_hosts)
    except AddressRefused as fault:
        return str(fault)
    return None


def readiness_faults(channel: AnyRow) -> Iterator[str]:
    """Why a channel cannot be published to."""
    if channel.state == "checking":
        yield "the channel is still being checked"
    elif channel.state == "refused":
        yield "the channel cannot be published to: " + "; ".join(channel.rights.get("faults", []))


def sequence_channel_faults(channel: AnyRow) -> Iterator[str]:
    """Why no sequence can be delivered into a channel."""
    yield from readiness_faults(channel)
    if channel.requires_approval:
        yield "the channel's owner agrees to each post, which a sequence cannot ask for; order its posts one by one"


def channel_faults(channel: AnyRow, wanted: OrderInput) -> Iterator[str]:
    """What the channel does not permit of what is wanted."""
    yield from readiness_faults(channel)
    if channel.state == "ready":
        rights = channel.rights
        if takes_deleting(wanted.finish, wanted.content) and not rights.get("can_delete"):
            yield "the bot may not delete in this channel"
        if (wanted.pin or wanted.finish == "stub") and not rights.get("can_edit"):
            yield "the bot may neither pin nor edit in this channel"


def publish_moment(wanted: OrderInput, slot: AnyRow) -> datetime | FieldFault:
    """When the post goes out: at the start of its slot, or at a time inside."""
    if wanted.publish_at is None:
        starts: datetime = slot.starts_at
        return starts
    return moment_of(wanted.publish_at, "/input/publish_at")


def time_faults(publish_at: datetime, slot: AnyRow, channel: AnyRow, wanted: OrderInput) -> Iterator[FieldFault]:
    """What is wrong with the time of a post in a slot."""
    pointer = "/input/slot_id" if wanted.publish_at is None else "/input/publish_at"
    if publish_at < datetime.now(UTC):
        yield FieldFault(pointer, "lies in the past")
    if not slot.starts_at <= publish_at < slot.ends_at:
        yield FieldFault("/input/publish_at", "lies outside the slot")
    limited = channel.gateway == "telegram"
    fault = removal_fault(publish_at, slot.ends_at, finish=wanted.finish, content=wanted.content, limited=limited)
    if fault is not None:
        yield FieldFault("/input/finish", fault)


def times_of(wanted: OrderInput, publish_at: datetime, slot: AnyRow) -> dict[str, datetime | None]:
    """The times of an order: published, at the latest, taken away."""
    stays = wanted.finish == "keep" and not wanted.pin
    return {
        "publish_at": publish_at,
        "latest_at": min(publish_at + wanted.late.window, slot.ends_at),
        "remove_at": None if stays else slot.ends_at,
    }


async def crowd_fault(
    connection: AsyncConnection,
    channel: AnyRow,
    publish_at: datetime,
    wanted: OrderInput,
    *,
    besides: UUID | None = None,
) -> FieldFault | None:
    """Whether the channel has more messages in that minute, ``besides`` left out, than its system lets through."""
    if channel.gateway != "telegram":
        return None
    first, last = publish_at - _HALF_A_MINUTE, publish_at + _HALF_A_MINUTE
    booked = await OrderRepository(connection).get_booked(channel.id, first=first, last=last, besides=besides)
    around = sum(row.messages for row in booked)
    if around + wanted.content.messages > MESSAGES_PER_MINUTE:
        return FieldFault("/input/publish_at", f"the channel has {around} messages in that minute already")
    return None


def start_fault(starts: datetime) -> FieldFault | None:
    """What is wrong with the start of a sequence."""
    if starts < datetime.now(UTC) - _PAST_TOLERANCE:
        return FieldFault("/input/starts_at", "lies in the past")
    if starts > datetime.now(UTC) + _FURTHEST:
        return FieldFault("/input/starts_at", "lies more than a year ahead")
    return None


async def crowd_faults(
    connection: AsyncConnection, channel: AnyRow, starts: datetime, items: Sequence[SequenceItem]
) -> list[FieldFault]:
    """The same for the items of a sequence, which count among each other as well."""
    if channel.gateway != "telegram":
        return []
    moments = [starts + timedelta(seconds=item.offset_seconds) for item in items]
    first, last = min(moments) - _HALF_A_MINUTE, max(moments) + _HALF_A_MINUTE
    booked = await OrderRepository(connection).get_booked(channel.id, first=first, last=last)
    planned = [(moment, item.content.messages) for moment, item in zip(moments, items, strict=True)]
    posts = sorted([*planned, *((row.publish_at, row.messages) for row in booked)])
    times, sums = [at for at, _ in posts], [0, *accumulate(messages for _, messages in posts)]
    faults = []
    for place, moment in enumerate(moments):
        first, last = moment - _HALF_A_MINUTE, moment + _HALF_A_MINUTE
        around = sums[bisect_left(times, last)] - sums[bisect_right(times, first)]
        if around > MESSAGES_PER_MINUTE:
            fault = f"the channel would have {around} messages in that minute; it takes {MESSAGES_PER_MINUTE}"
            faults.append(FieldFault(f"/input/items/{place}/offset_seconds", fault))
    return faults


def post_faults(content: PostContent, below: str = "/content") -> list[FieldFault]:
    """Everything that makes a post impossible, addresses that cannot be read included; each by its JSON pointer."""
    addresses = [
        *((f"entities/{place}", entity.url) for place, entity in enumerate(content.entities) if entity.url),
        *((f"media/{place}", item.url) for place, item in enumerate(content.media)),
        *((f"buttons/{place}", button.url) for place, button in enumerate(content.buttons)),
    ]
    broken = [FieldFault(f"{below}/{where}/url", "is not an address") for where, url in addresses if not _has_host(url)]
    if broken:
        return broken
    try:
        faults = content_faults(content, below)
        readable = bool(faults) or all(_has_host(url) for url in render(content).links())
    except ValueError:
        faults, readable = [], False
    return faults if readable else [FieldFault(f"{below}/text", "contains a link whose address cannot be read")]


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False
