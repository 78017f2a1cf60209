"""What goes wrong on command: faults of calls, and how a render plays out."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from domain.model import Frozen


class FaultKind(StrEnum):
    """Ways to fail; ``before`` and ``after`` tell on which side of the deed."""

    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    STATUS_BEFORE = "status_before"
    STATUS_AFTER = "status_after"  # what was answered is what the key gets again
    ERROR_IN_200 = "error_in_200"  # nothing was done
    ERROR_IN_200_AFTER = "error_in_200_after"  # it was done all the same
    DELAY_BEFORE = "delay_before"
    DELAY_AFTER = "delay_after"
    CUT_SHORT = "cut_short"  # of a file: the connection breaks in its middle
    EXPIRED = "expired"  # of a file: 403, whatever the address says


Call = Literal["submit", "list", "look", "file", "events"]


class Fault(Frozen):
    """A rule: the calls of this sort behind the first ``skip`` fail, ``times`` times.

    ``about`` keeps a rule to one render: a part of its title, or of the title that is asked for.
    """

    kind: FaultKind
    call: Call = "submit"
    about: str | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int, Field(ge=400, le=599)] = 502
    code: str | None = None
    retry_after: int | None = None
    seconds: Annotated[float, Field(ge=0)] = 1.0


FAULTS = TypeAdapter(list[Fault])


class Play(Frozen):
    """How a render plays out, and what is posted about it.

    ``stuck``: it stays at 97 percent for ever. ``early`` posts of success before the order is answered and before
    there is a video, ``forged`` before it is done, with a signature that is none. ``late_seconds`` after the end.
    """

    seconds: Annotated[float, Field(ge=0)] = 0.05
    end: Literal["completed", "failed", "stuck"] = "completed"
    posts: Annotated[int, Field(ge=0, le=10)] = 1
    """How often the same bytes are posted; 0: the webhook gets lost."""
    early: bool = False
    forged: bool = False
    stale: bool = False
    """The time in the header is long past."""
    late_seconds: Annotated[float, Field(ge=0)] = 0.0
    old_header: bool = False
    """The signature stands in ``Signature``, as the older version of the API has it."""


class FaultScript:
    """Faults in the order in which they were asked for; each is used up."""

    def __init__(self) -> None:
        self._rules: list[tuple[Fault, list[int]]] = []

    def add(self, *faults: Fault) -> None:
        """More faults."""
        self._rules += [(fault, [fault.skip, fault.times]) for fault in faults]

    def clear(self) -> None:
        """No faults."""
        self._rules.clear()

    def next(self, call: Call, about: str) -> Fault | None:
        """The fault that this call meets, if any."""
        for fault, left in self._rules:
            if fault.call != call or (fault.about is not None and fault.about not in about):
                continue
            if left[0] > 0:
                left[0] -= 1
            elif left[1] > 0:
                left[1] -= 1
                return fault
        return None
