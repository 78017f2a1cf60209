import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from core.ids import new_id
from core.notify import Listener
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser
from tests.support.waiting import eventually


class Ear:
    """What a listener was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.gaps = 0

    def on_gap(self) -> None:
        """Count."""
        self.gaps += 1

    async def has_heard(self) -> list[str]:
        """For ``eventually``."""
        return self.heard

    async def count_gaps(self) -> int:
        """For ``eventually``."""
        return self.gaps


@asynccontextmanager
async def listening(url: str, channel: str, ear: Ear, *, ready: bool = True) -> AsyncIterator[Listener]:
    """A listener in the background."""
    callbacks: dict[str, Callable[[str], None]] = {channel: ear.heard.append}
    listener = Listener(url, on_notify=callbacks, on_gap=ear.on_gap)
    task = asyncio.create_task(listener.run())
    try:
        if ready:
            await asyncio.wait_for(listener.connected.wait(), 10)
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def channel() -> str:
    """A channel of one's own."""
    return f"test_{new_id().hex}"


class TestListen:
    async def test_hears_what_is_announced_in_order(self, postgres: EmbeddedPostgres, channel: str) -> None:
        ear = Ear()
        async with listening(postgres.runtime_url, channel, ear):
            assert ear.gaps == 1
            with superuser(postgres) as connection:
                for number in range(50):
                    connection.execute("SELECT pg_notify(%s, %s)", (channel, str(number)))
            await eventually(ear.has_heard, lambda heard: len(heard) == 50)
        assert ear.heard == [str(number) for number in range(50)]

    async def test_a_cut_connection_is_a_gap_and_is_mended(self, postgres: EmbeddedPostgres, channel: str) -> None:
        """What is announced in between is lost; the second gap tells everybody to look for themselves."""
        ear = Ear()
        with capture_logs() as logs:
            async with listening(postgres.runtime_url, channel, ear) as listener:
                with superuser(postgres) as connection:
                    cut = connection.execute(
                        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                        " WHERE application_name = 'longhaul-listen' AND query LIKE %s",
                        (f"%{channel}%",),
                    ).fetchall()
                    assert cut == [(True,)]
                    connection.execute("SELECT pg_notify(%s, 'lost')", (channel,))
                    await eventually(ear.count_gaps, lambda gaps: gaps == 2)
                    assert listener.connected.is_set()
                    connection.execute("SELECT pg_notify(%s, 'heard')", (channel,))
                await eventually(ear.has_heard)
        assert ear.heard == ["heard"]
        assert [line["event"] for line in logs] == ["listener.disconnected"]

    async def test_keeps_trying_while_nobody_answers(self, channel: str) -> None:
        ear = Ear()
        url = "postgresql+psycopg://nobody@/none?host=/nonexistent"
        with capture_logs() as logs:
            async with listening(url, channel, ear, ready=False) as listener:

                async def failures() -> int:
                    return len(logs)

                await eventually(failures, lambda count: count >= 2)
                assert not listener.connected.is_set()
        assert ear.gaps == 0
