"""Statements that go to the server together, in one system call as long as they are not many kilobytes.

The driver's own pipeline hands each statement to the kernel by itself, and every time that may wake the server on
another processor: under load that took a sixth of the worker's time. This one holds back until the end. It leans on
two private methods of psycopg (3.3), which ``tests/core/test_one_trip.py`` keeps an eye on.
"""

from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncPipeline
from psycopg.abc import PQGen
from psycopg.generators import send


class OneTrip(AsyncPipeline):
    """A pipeline of one transaction, sent and answered as it is left: not before that are there any results.

    Where it is left by an exception nothing is done. The connection is of no use then, and has to be closed.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection)
        self._connection = connection

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._connection._pipeline = self  # noqa: SLF001 - as ``AsyncConnection.pipeline`` does
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._connection._pipeline = None  # noqa: SLF001 - see above
        if exc_type is None:
            await super().__aexit__(None, None, None)

    def _communicate_gen(self) -> PQGen[None]:
        """After each statement: nothing yet."""
        yield from ()

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        if self.command_queue:
            raise psycopg.ProgrammingError("there are no results before the trip is over")
        yield from super()._fetch_gen(flush=flush)

    def _exit_gen(self) -> PQGen[None]:
        self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()
        yield from send(self.pgconn)
        yield from self._fetch_gen(flush=False)
