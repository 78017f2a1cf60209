"""What goes wrong on command."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from domain.model import Frozen


class FaultKind(StrEnum):
    """Ways to fail; ``before`` and ``after`` tell on which side of the deed, and of the bill."""

    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    STATUS_BEFORE = "status_before"
    STATUS_AFTER = "status_after"
    DELAY_BEFORE = "delay_before"
    SILENCE_AFTER = "silence_after"
    SLOW = "slow"
    BROKEN_OFF = "broken_off"
    """The recording breaks off in the middle: fewer bytes come than were announced."""
    CUT_SHORT = "cut_short"
    """The answer is in order, and the recording inside it ends in the middle of a frame."""


class Fault(Frozen):
    """A rule: calls of ``path`` behind the first ``skip`` fail, ``times`` times.

    ``code`` is the word of an error, in the ``shape`` of the vendor's documents: old, new, or that of validation.
    """

    kind: FaultKind
    path: Literal["speech", "history", "audio"] = "speech"
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int, Field(ge=400, le=599)] = 500
    code: str = "internal_server_error"
    shape: Literal["old", "new", "validation"] = "new"
    retry_after: int | None = None
    seconds: Annotated[float, Field(ge=0)] = 1.0


FAULTS = TypeAdapter(list[Fault])


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

    def next(self, path: str) -> Fault | None:
        """The fault that this call meets, if any."""
        for fault, left in self._rules:
            if fault.path != path:
                continue
            if left[0] > 0:
                left[0] -= 1
            elif left[1] > 0:
                left[1] -= 1
                return fault
        return None
