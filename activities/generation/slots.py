"""How many calls of one job are out at once, and how many lessons it takes to keep them busy."""

import asyncio
from uuid import UUID
from weakref import WeakValueDictionary

from domain.jobs import JobRef


class CallSlots:
    """At most ``limit`` calls of one job at once in this process.

    A course has more lessons in progress than calls: the next lessons are ready to call, and finished ones are still
    being stored, while the model works. Otherwise nobody would use the model in the meantime.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: WeakValueDictionary[UUID, asyncio.Semaphore] = WeakValueDictionary()

    @property
    def parts_at_once(self) -> int:
        """How many parts of one job to have in progress, so that its slots are never idle."""
        return 2 * self._limit

    def of(self, job: JobRef) -> asyncio.Semaphore:
        """The slots of a job: one is held from before a call is reserved until its answer is there."""
        slots = self._slots.get(job.job_id)
        if slots is None:
            slots = self._slots[job.job_id] = asyncio.Semaphore(self._limit)
        return slots
