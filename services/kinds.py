"""What the platform knows about a kind of job. Each family describes its kinds once, in its own module."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.approvals import Answer
from domain.errors import FieldFault, InvalidInput
from domain.jobs import WaitingOn
from domain.model import Frozen
from domain.structured import pointer

Check = Callable[[UUID, Any], Awaitable[None]]
"""A check that needs the world: called with the tenant and the validated input. Raises InvalidInput."""

Companion = Callable[[AsyncConnection, UUID, UUID, Any], Awaitable[None]]
"""Writes what belongs to a job in the job's own transaction: tenant, job, validated input. Raises InvalidInput."""


Consent = Callable[[AsyncConnection, UUID, Answer], Awaitable[Mapping[str, Any]]]
"""Fixes what a person approves or rejects, in the transaction that records the decision and before the job is locked:
job, and what was said. Returns facts for the event. Raises StateError where what was seen is not what there is."""

Waits = Callable[[AsyncConnection, UUID], Awaitable[WaitingOn | None]]
"""What a job waits a person for, by the kind's own tables: so that pausing and resuming does not make it forgotten."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job: what it takes, which workflow carries it, and how operators see it.

    ``summary`` is shown in the Temporal UI; it must hold nothing personal. ``budget`` is the most a job may spend.
    ``max_running`` is how many may run at once for a tenant, where that differs from the setting: jobs that sleep.
    """

    name: str
    input_model: type[Frozen]
    workflow: str
    task_queue: str
    summary: Callable[[Any], str]
    budget: Callable[[Any], Decimal | None] = lambda _input: None
    check: Check | None = None
    accompany: Companion | None = None
    consent: Consent | None = None
    waits: Waits | None = None
    max_running: int | None = None


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

    def find(self, name: str) -> JobKind | None:
        """The kind of that name, or None where this installation does not run it."""
        return self._kinds.get(name)

    def limits(self) -> dict[str, int]:
        """How many jobs may run at once, for the kinds that say so themselves."""
        return {kind.name: kind.max_running for kind in self._kinds.values() if kind.max_running is not None}

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
