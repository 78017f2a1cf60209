"""The hub hands every event to every watch, also when one of them reads ahead of the announcements."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from api.hub import EventHub, Watch
from repositories.jobs import JobReader


class ScriptedReader:
    """Events of one job, as far as they are committed at the moment of a read."""

    def __init__(self) -> None:
        self.committed = 0

    async def get_events(self, _tenant: UUID, _job: UUID, *, after: int, limit: int) -> Sequence[Any]:
        """What lies above ``after``."""
        rows = range(after + 1, self.committed + 1)
        return [SimpleNamespace(seq=seq, type="job.x", data={"status": "running"}, at=None) for seq in rows][:limit]


def ids(pieces: Sequence[bytes]) -> list[int]:
    """The numbers of the events in a stretch of stream."""
    lines = b"".join(pieces).splitlines()
    return [int(line.removeprefix(b"id: ")) for line in lines if line.startswith(b"id: ")]


class TestReadingAhead:
    async def test_owes_the_others_what_lies_between(self) -> None:
        """A second watch that sees event 2 before its announcement does not make the first one miss it."""
        reader = ScriptedReader()
        hub = EventHub(cast("JobReader", reader))
        tenant, job = uuid4(), uuid4()
        reader.committed = 1
        first, second = Watch(0), Watch(0)
        async with (
            aclosing(hub.follow(tenant, job, first, heartbeat=0.05)) as early,
            aclosing(hub.follow(tenant, job, second, heartbeat=0.05)) as late,
        ):
            seen = [await anext(early)]
            waiting = asyncio.ensure_future(anext(early))
            await asyncio.sleep(0)
            reader.committed = 2
            assert ids([await anext(late)]) == [1, 2]
            following = asyncio.ensure_future(anext(late))
            await asyncio.sleep(0)
            reader.committed = 3
            hub.on_notify(f"{job}:2")
            hub.on_notify(f"{job}:3")
            seen.append(await waiting)
            while ids(seen)[-1] < 3:
                seen.append(await anext(early))
            assert ids(seen) == [1, 2, 3]
            assert ids([await following]) == [3]
