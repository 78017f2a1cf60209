"""One LISTEN connection for a process: what PostgreSQL announces reaches the callbacks that asked for it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
import structlog
from psycopg import sql

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0


class Listener:
    """Keeps a connection that listens, and says so whenever announcements may have been missed.

    ``on_notify`` maps a channel to a callback for its payloads. ``on_gap`` is called after each (re)connection:
    whoever waits for an announcement should look for himself then.
    """

    def __init__(self, url: str, *, on_notify: Mapping[str, Callable[[str], None]], on_gap: Callable[[], None]) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._on_notify = on_notify
        self._on_gap = on_gap
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen until canceled, reconnecting for ever."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5, application_name="longhaul-listen",
                    keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
                ) as connection:  # fmt: skip
                    pause = _FIRST_PAUSE_SECONDS
                    await self._listen(connection)
            except psycopg.OperationalError as fault:
                _log.warning("listener.disconnected", fault=str(fault).splitlines()[0] if str(fault) else "lost")
            self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        for channel in self._on_notify:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self.connected.set()
        self._on_gap()
        async for notice in connection.notifies():
            self._on_notify[notice.channel](notice.payload)
