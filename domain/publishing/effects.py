"""An effect that must not happen twice and must not get lost: the one course of sending, doubting, looking, deciding.

The course is written once, against a port, and everything that waits or touches the world is behind the port. The
workflow carries it with durable timers and activities; the chaos tests carry it with kills in between.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from domain.errors import Outcome
from domain.model import Frozen
from domain.publishing.channels import Sight

POST: Final = "post"
PIN: Final = "pin"


class EffectState(StrEnum):
    """What the ledger says of an effect."""

    SENDING = "sending"
    DONE = "done"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    NEEDS_PERSON = "needs_person"
    MISSED = "missed"


SETTLED: Final = frozenset({EffectState.DONE, EffectState.REJECTED, EffectState.MISSED})


class Attempted(StrEnum):
    """How one attempt to send came back."""

    DONE = "done"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    HELD_BACK = "held_back"  # the wire was not touched: a limit, or an unsettled post in the same channel
    LATE = "late"


class Attempt(Frozen):
    """One attempt. ``wait`` is how long to stay away before the next one."""

    what: Attempted
    wait: timedelta = timedelta(0)
    code: str | None = None
    detail: str = ""


class Policy(Frozen):
    """How doubt is treated: pauses before each look, and how often absence allows to send again."""

    probe_pauses: tuple[timedelta, ...]
    resends: int = 1
    longest_back_off: timedelta = timedelta(seconds=30)


class End(StrEnum):
    """How the course of an effect ended."""

    DONE = "done"
    REJECTED = "rejected"
    MISSED = "missed"
    LATE = "late"
    NEEDS_PERSON = "needs_person"


class Ended(Frozen):
    """The end, with the code of what was refused."""

    end: End
    code: str | None = None
    detail: str = ""


class EffectWorld(Protocol):
    """Everything the course does to the world. ``number`` counts attempts and fences all that came before."""

    async def send(self, number: int) -> Attempt | None:
        """One attempt; None where nobody knows what became of it (the worker died, the time ran out)."""
        ...

    async def settle(self, number: int) -> Outcome:
        """Close attempt ``number`` for ever and say what the ledger knows of it."""
        ...

    async def probe(self, number: int) -> Sight:
        """Look for the effect where it would be seen, and keep what was seen as evidence."""
        ...

    async def ask_person(self) -> None:
        """Hand the matter to a person, with the evidence."""
        ...

    async def pause(self, length: timedelta) -> None:
        """Let time pass, durably."""
        ...

    def now(self) -> datetime:
        """The time."""
        ...


def back_off(tries: int, policy: Policy) -> timedelta:
    """How long to wait after the ``tries``-th attempt that did not reach the other side."""
    return min(timedelta(seconds=0.5 * 2 ** min(tries, 10)), policy.longest_back_off)


async def carry_effect(world: EffectWorld, policy: Policy, *, first: int = 1) -> Ended:
    """Carry an effect to its end: send, and where the outcome is in doubt look, and look again, before anything else.

    ``first`` is the number of the first attempt; all earlier ones are fenced off by it.
    """
    number, resent, held = first, 0, 0
    while True:
        attempt = await world.send(number) or await _settled(world, number)
        if attempt.what in _ENDS:
            return Ended(end=_ENDS[attempt.what], code=attempt.code, detail=attempt.detail)
        if attempt.what is Attempted.UNKNOWN:
            sight = await _look(world, policy, number)
            if sight is Sight.FOUND:
                return Ended(end=End.DONE)
            if sight is not Sight.ABSENT or resent >= policy.resends:
                await world.ask_person()
                return Ended(end=End.NEEDS_PERSON)
            resent += 1
        else:
            held += attempt.what is Attempted.NOT_SENT
            await world.pause(attempt.wait or back_off(held, policy))
        number += 1


_ENDS: Final = {Attempted.DONE: End.DONE, Attempted.REJECTED: End.REJECTED, Attempted.LATE: End.LATE}


async def _settled(world: EffectWorld, number: int) -> Attempt:
    return Attempt(what=Attempted((await world.settle(number)).value))


async def _look(world: EffectWorld, policy: Policy, number: int) -> Sight:
    """Look after each pause. Only a whole row of looks that all saw nothing counts as absence."""
    last = Sight.BLIND
    proofs = 0
    for pause in policy.probe_pauses:
        await world.pause(pause)
        last = await world.probe(number)
        if last in {Sight.FOUND, Sight.PARTLY}:
            return last
        proofs += last is Sight.ABSENT
    return Sight.ABSENT if policy.probe_pauses and proofs == len(policy.probe_pauses) else Sight.BLIND
