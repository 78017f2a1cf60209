"""Channels, slots, orders and sequences: what people book, and the states an order goes through."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from domain.errors import FieldFault, StateError
from domain.model import Frozen
from domain.publishing.content import PostContent, Url
from domain.publishing.times import REMOVE_BY, resolve_local
from domain.text import Line

ORDER_KIND: Final = "publishing.order"
SEQUENCE_KIND: Final = "publishing.sequence"
CHECK_KIND: Final = "publishing.check"

FEWEST_TOLERANCE_SECONDS: Final = 1
MESSAGES_PER_MINUTE: Final = 20


class OrderState(StrEnum):
    """Where an order stands. Those of ``OVER`` are final."""

    BOOKED = "booked"
    APPROVAL = "approval"
    ARMED = "armed"
    SENDING = "sending"
    NEEDS_PERSON = "needs_person"
    LIVE = "live"
    PINNED = "pinned"
    REMOVED = "removed"
    STUBBED = "stubbed"
    FINISHED = "finished"
    GONE = "gone"  # somebody else removed it before its time
    MISSED = "missed"
    REJECTED = "rejected"
    CANCELED = "canceled"


OVER: Final = frozenset({
    OrderState.REMOVED, OrderState.STUBBED, OrderState.FINISHED, OrderState.GONE, OrderState.MISSED,
    OrderState.REJECTED, OrderState.CANCELED,
})  # fmt: skip
BEFORE_SENDING: Final = frozenset({OrderState.BOOKED, OrderState.APPROVAL, OrderState.ARMED})
PUBLISHED: Final = frozenset({OrderState.LIVE, OrderState.PINNED})

_NEXT: Final[Mapping[OrderState, frozenset[OrderState]]] = {
    OrderState.BOOKED: frozenset({OrderState.APPROVAL, OrderState.ARMED, OrderState.REJECTED, OrderState.CANCELED}),
    OrderState.APPROVAL: frozenset({OrderState.ARMED, OrderState.REJECTED, OrderState.CANCELED, OrderState.MISSED}),
    # From here and from NEEDS_PERSON the sender may refuse before it begins: a credential that does not open.
    OrderState.ARMED: frozenset({
        OrderState.ARMED, OrderState.SENDING, OrderState.REJECTED, OrderState.CANCELED, OrderState.MISSED,
    }),
    OrderState.SENDING: frozenset({
        OrderState.LIVE, OrderState.NEEDS_PERSON, OrderState.MISSED, OrderState.REJECTED, OrderState.CANCELED,
    }),
    OrderState.NEEDS_PERSON: frozenset({
        OrderState.LIVE, OrderState.SENDING, OrderState.MISSED, OrderState.REJECTED, OrderState.CANCELED,
    }),
    OrderState.LIVE: frozenset({
        OrderState.PINNED, OrderState.REMOVED, OrderState.STUBBED, OrderState.FINISHED, OrderState.GONE,
    }),
    OrderState.PINNED: frozenset({OrderState.REMOVED, OrderState.STUBBED, OrderState.FINISHED, OrderState.GONE}),
}  # fmt: skip


def may_become(now: OrderState, then: OrderState) -> bool:
    """Whether an order in one state may go over to another; staying is always permitted."""
    return now is then or then in _NEXT.get(now, frozenset())


def check_changeable(state: OrderState, *, what: str) -> None:
    """Raise StateError where sending has begun, so that nothing can be changed any more."""
    if state not in BEFORE_SENDING:
        raise StateError(f"the order is {state.value}; {what} is possible until sending begins")


# --- times ------------------------------------------------------------------------------------------


class LocalTime(Frozen):
    """What the clocks in a zone show; ``fold`` decides where they show it twice."""

    local: datetime
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    fold: Literal[0, 1] | None = None

    @model_validator(mode="after")
    def _is_local(self) -> "LocalTime":
        if self.local.tzinfo is not None:
            raise ValueError("local has no offset; the zone says it")
        return self

    def moment(self) -> datetime:
        """The moment in UTC. Raises ValueError: UnknownZone, ImpossibleTime, AmbiguousTime."""
        return resolve_local(self.local, self.time_zone, fold=self.fold)


When = AwareDatetime | LocalTime
"""A moment with its offset, or a local time with its zone."""


def moment_of(when: When, pointer: str) -> datetime | FieldFault:
    """The moment, in UTC, or what is wrong with it."""
    try:
        return when.astimezone(UTC) if isinstance(when, datetime) else when.moment()
    except OverflowError:
        field = pointer if isinstance(when, datetime) else f"{pointer}/local"
        return FieldFault(field, "is beyond what the calendar has")
    except ValueError as fault:
        field = "time_zone" if "IANA" in str(fault) else "local"
        return FieldFault(f"{pointer}/{field}", str(fault))


# --- orders -----------------------------------------------------------------------------------------


class LatePolicy(Frozen):
    """What happens to a post whose time has passed by more than ``tolerance_seconds``.

    ``skip``: it is missed. ``post``: it still goes out, until ``latest_seconds`` have passed. ``ask``: a person
    decides through the API, and where nobody does until then it is missed.
    """

    on_late: Literal["skip", "post", "ask"] = "skip"
    tolerance_seconds: Annotated[int, Field(ge=FEWEST_TOLERANCE_SECONDS, le=86_400)] = 300
    latest_seconds: Annotated[int, Field(ge=FEWEST_TOLERANCE_SECONDS, le=172_800)] = 3_600

    @property
    def window(self) -> timedelta:
        """How long after its time a post may begin to be sent without asking anybody."""
        seconds = self.tolerance_seconds
        if self.on_late == "post":
            seconds = max(seconds, self.latest_seconds)
        return timedelta(seconds=seconds)

    @property
    def patience(self) -> timedelta:
        """How long after its time a person may still decide."""
        return timedelta(seconds=max(self.tolerance_seconds, self.latest_seconds))


class Notify(Frozen):
    """Where somebody wants to be told: a chat of the channel's bot, or a signed webhook."""

    telegram_chat_id: int | None = None
    webhook_url: Url | None = None


class Advertiser(Frozen):
    """Who ordered; ``name`` is shown to people only."""

    name: Annotated[Line, Field(max_length=200)]
    notify: Notify = Notify()


Finish = Literal["remove", "stub", "keep"]


class OrderInput(Frozen):
    """Input of ``publishing.order``: one post in one slot."""

    slot_id: UUID
    content: PostContent
    publish_at: When | None = None
    pin: bool = False
    finish: Finish = "remove"
    stub_text: Annotated[Line, Field(max_length=200)] = "This post has ended."
    late: LatePolicy = LatePolicy()
    advertiser: Advertiser | None = None
    check_links: bool = True
    count_views_after_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class OrderChange(Frozen):
    """A wish to re-book or edit; what is None stays."""

    slot_id: UUID | None = None
    publish_at: When | None = None
    content: PostContent | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "OrderChange":
        if self.slot_id is None and self.publish_at is None and self.content is None:
            raise ValueError("changes nothing")
        return self


class SequenceItem(Frozen):
    """One delivery: ``offset_seconds`` after the start of its sequence."""

    offset_seconds: Annotated[int, Field(ge=0, le=31_536_000)]
    content: PostContent


class SequenceInput(Frozen):
    """Input of ``publishing.sequence``: deliveries into one channel, relative to a start."""

    channel_id: UUID
    starts_at: When
    items: Annotated[tuple[SequenceItem, ...], Field(min_length=1, max_length=500)]
    late: LatePolicy = LatePolicy(on_late="post", latest_seconds=172_800)


class CheckInput(Frozen):
    """Input of ``publishing.check``: look whether a channel can be published to."""

    channel_id: UUID


def takes_deleting(finish: Finish, content: PostContent) -> bool:
    """Whether a post ends by deleting messages: of an album that is overwritten all but the first item have to go."""
    return finish == "remove" or (finish == "stub" and content.messages > 1)


def removal_fault(
    starts: datetime, ends: datetime, *, finish: Finish, content: PostContent, limited: bool
) -> str | None:
    """Why a post cannot be removed at the end of its slot, where bots may only delete what is younger than 48 h."""
    if takes_deleting(finish, content) and limited and ends - starts > REMOVE_BY:
        instead = "keep, as also a stub deletes all but the first item" if content.messages > 1 else "stub or keep"
        return f"lasts longer than 47:30 hours, after which Telegram lets no bot delete a post; finish by {instead}"
    return None


class Armed(Frozen):
    """What a workflow has armed, as it answers people: it will publish then, and remove then."""

    state: OrderState
    publish_at: datetime
    remove_at: datetime | None = None
    version: int = 1

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")
