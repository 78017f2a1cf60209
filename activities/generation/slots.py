"""How many calls of one job are out at once, and what is done so that none of them waits for anything of ours."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

from domain.jobs import JobRef

_QUIET_SECONDS: Final = 0.05
"""So long after a call got a slot that it waited for it is on its way, and others follow it or not."""
_PATIENCE_SECONDS: Final = 0.3
"""The longest that an answer waits for calls, where they leave all the time."""


class CallSlots:
    """At most ``limit`` calls of one job at once in this process.

    A course has more lessons in progress than calls: the next lessons are ready to call, and finished ones are still
    being stored, while the model works. Otherwise nobody would use the model in the meantime.
    """

    def __init__(self, limit: int, *, most_parts: int = 1_000) -> None:
        self._limit = limit
        self._most_parts = most_parts
        self._jobs: WeakValueDictionary[UUID, JobSlots] = WeakValueDictionary()

    @property
    def parts_at_once(self) -> int:
        """How many parts of one job to have in progress, so that its slots are never idle.

        Not more than ``most_parts``, because others have work for the same worker, unless there are more slots.
        """
        return max(self._limit, min(5 * self._limit // 2, self._most_parts))

    def of(self, job: JobRef) -> "JobSlots":
        """The slots of a job."""
        slots = self._jobs.get(job.job_id)
        if slots is None:
            slots = self._jobs[job.job_id] = JobSlots(self._limit)
        return slots


class JobSlots:
    """The slots of one job."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._last_followed = float("-inf")

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot; to be held from before a call is reserved until its answer is there."""
        waits = self._free.locked()
        async with self._free:
            if waits:
                self._last_followed = time.monotonic()
            yield

    async def let_calls_leave(self) -> None:
        """Wait a moment where calls get slots that they waited for, before anything is made of a settled answer.

        Calls that left together come back together, and each answer frees a slot. Were everything made of all these
        answers at once, the calls that follow would be late by that, wave by wave, while the model has nothing to do.
        """
        await asyncio.sleep(0)  # whoever waited for the slot that has just become free takes it first
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            pause = min(patience, self._last_followed + _QUIET_SECONDS) - time.monotonic()
            if pause <= 0:
                return
            await asyncio.sleep(pause)
