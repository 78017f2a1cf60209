"""Waiting for a condition instead of for a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]],
    until: Callable[[T], bool] = bool,
    *,
    within: float = 60.0,
    every: float = 0.02,
) -> T:
    """Look again and again until what is seen satisfies ``until``; fails with the last sight after ``within``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not until(seen := await look()):
        assert loop.time() < deadline, f"not within {within} s; last seen: {seen!r}"
        await asyncio.sleep(every)
    return seen
