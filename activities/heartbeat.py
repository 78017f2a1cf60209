"""Keeping Temporal informed that an activity is alive, so that its death is noticed within seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Heartbeat in the background, three times for each heartbeat time-out, until the block is left."""
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return
    beat = asyncio.create_task(_beat(timeout.total_seconds() / 3))
    try:
        yield
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)


def leave_if_canceled() -> None:
    """Raise CancelledError where the running activity was canceled; to be called before what cannot be taken back.

    A cancellation comes once, as an exception, and whatever it passes on its way may swallow it.
    """
    if activity.in_activity() and activity.is_cancelled():
        raise asyncio.CancelledError


async def _beat(every_seconds: float) -> None:
    while True:
        # Its start is the first sign of life; most activities are over before they need another.
        await asyncio.sleep(every_seconds)
        activity.heartbeat()
