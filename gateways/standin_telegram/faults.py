"""What goes wrong on command."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, TypeAdapter

from domain.model import Frozen


class FaultKind(StrEnum):
    """Ways to fail; ``before`` and ``after`` tell on which side of the deed."""

    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    STATUS_BEFORE = "status_before"
    STATUS_AFTER = "status_after"
    PARTIAL_ALBUM = "partial_album"
    DELAY_BEFORE = "delay_before"
    DELAY_AFTER = "delay_after"


class Fault(Frozen):
    """A rule: the calls of ``method`` (to ``chat_id``, where given) behind the first ``skip`` fail, ``times`` times."""

    kind: FaultKind
    method: str = "sendMessage"
    chat_id: str | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int, Field(ge=400, le=599)] = 502
    retry_after: int | None = None
    seconds: Annotated[float, Field(ge=0)] = 1.0
    done: Annotated[int, Field(ge=0)] = 1
    """How many items of an album are out before it fails."""


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

    def next(self, method: str, chat_id: str) -> Fault | None:
        """The fault that this call meets, if any."""
        for fault, left in self._rules:
            if fault.method != method or (fault.chat_id is not None and fault.chat_id != chat_id):
                continue
            if left[0] > 0:
                left[0] -= 1
            elif left[1] > 0:
                left[1] -= 1
                return fault
        return None
