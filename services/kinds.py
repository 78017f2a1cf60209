"""What the platform knows about a kind of job. Each family describes its kinds once, in its own module."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from domain.errors import FieldFault, InvalidInput
from domain.model import Frozen
from domain.structured import pointer

Check = Callable[[UUID, Any], Awaitable[None]]
"""A check that needs the world: called with the tenant and the validated input. Raises InvalidInput."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job: what it takes, which workflow carries it, and how operators see it.

    ``summary`` is shown in the Temporal UI; it must hold nothing personal. ``budget`` is the most a job may spend.
    """

    name: str
    input_model: type[Frozen]
    workflow: str
    task_queue: str
    summary: Callable[[Any], str]
    budget: Callable[[Any], Decimal | None] = lambda _input: None
    check: Check | None = None


class KindRegistry:
    """The kinds of job that this installation runs."""

    def __init__(self, kinds: Iterable[JobKind]) -> None:
        self._kinds: Mapping[str, JobKind] = {kind.name: kind for kind in kinds}

    def get(self, name: str) -> JobKind:
        """The kind of that name. Raises InvalidInput."""
        kind = self._kinds.get(name)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise InvalidInput("the kind of job is not known", faults=[FieldFault("/kind", f"is not one of: {known}")])
        return kind

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._kinds)

    def task_queues(self) -> list[str]:
        """All task queues, sorted."""
        return sorted({kind.task_queue for kind in self._kinds.values()})


def parse_input(kind: JobKind, raw: Any) -> Frozen:
    """Validate the input of a job. Raises InvalidInput naming each field below ``/input``."""
    try:
        return kind.input_model.model_validate(raw)
    except ValidationError as fault:
        raise InvalidInput("the input does not fit the kind", faults=field_faults(fault, raw, below="/input")) from None


def field_faults(fault: ValidationError, data: Any, *, below: str = "") -> list[FieldFault]:
    """The errors of a validation of ``data`` as pointers and messages, without the offending values."""
    return [
        FieldFault(below + pointer(error["loc"], data), error["msg"].removeprefix("Value error, "))
        for error in fault.errors(include_url=False, include_input=False, include_context=False)
    ]
