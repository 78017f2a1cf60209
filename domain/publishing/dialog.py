"""The conversation that books a slot: a pure function from a state and a message to a state, an answer and a wish."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.model import Frozen

_YES: Final = frozenset({"yes", "y", "ok", "да"})
_MOST_OFFERS: Final = 9


class DialogStep(StrEnum):
    """What the conversation waits for."""

    IDLE = "idle"
    SLOT = "slot"
    TEXT = "text"
    CONFIRM = "confirm"


class DialogState(Frozen):
    """Where a conversation stands. ``text_update`` names the message that holds the text of the post."""

    step: DialogStep = DialogStep.IDLE
    offers: tuple[UUID, ...] = ()
    slot_id: UUID | None = None
    text_update: int | None = None


class Offer(Frozen):
    """A slot that can be booked."""

    slot_id: UUID
    starts_at: datetime
    ends_at: datetime


class Turn(Frozen):
    """What a message leads to: another state, an answer, and whether the order is to be booked now."""

    state: DialogState
    reply: str
    book: bool = False


def advance(state: DialogState, text: str, *, update_id: int, offers: Sequence[Offer]) -> Turn:
    """The next turn of a conversation; ``offers`` are the free slots now."""
    said = text.strip()
    if said.lower() in {"/start", "/book"}:
        return _offer(offers)
    if said.lower() == "/cancel":
        return Turn(state=DialogState(), reply="Nothing was booked. Send /book to begin again.")
    if state.step is DialogStep.SLOT:
        return _choose(state, said)
    if state.step is DialogStep.TEXT:
        chosen = state.model_copy(update={"step": DialogStep.CONFIRM, "text_update": update_id})
        return Turn(state=chosen, reply="Book it with this text? Answer yes, or send /cancel.")
    if state.step is DialogStep.CONFIRM:
        agreed = said.lower() in _YES
        return Turn(state=state, reply="" if agreed else "Answer yes to book, or send /cancel.", book=agreed)
    return Turn(state=state, reply="Send /book to see the free slots.")


def _offer(offers: Sequence[Offer]) -> Turn:
    shown = list(offers)[:_MOST_OFFERS]
    if not shown:
        return Turn(state=DialogState(), reply="There is no free slot now.")
    lines = [f"{n}. {one.starts_at:%Y-%m-%d %H:%M} to {one.ends_at:%H:%M} UTC" for n, one in enumerate(shown, start=1)]
    state = DialogState(step=DialogStep.SLOT, offers=tuple(one.slot_id for one in shown))
    return Turn(state=state, reply="Which slot? Answer with its number.\n" + "\n".join(lines))


def _choose(state: DialogState, said: str) -> Turn:
    if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= len(state.offers):
        return Turn(state=state, reply=f"Answer with a number from 1 to {len(state.offers)}, or send /cancel.")
    chosen = DialogState(step=DialogStep.TEXT, slot_id=state.offers[int(said) - 1])
    return Turn(state=chosen, reply="Send the text of the post.")
