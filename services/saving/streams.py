"""Keeping streams going: whoever has records in the inbox has a workflow that brings them home.

The API tells nobody but PostgreSQL. A worker process hears of new records by NOTIFY, looks into the inbox every few
seconds in case that it did not, and wakes the workflow of the stream, which starts it where there is none.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError

from core.database import Database
from core.metrics import WorkerMetrics
from domain.errors import DatabaseUnavailable
from domain.saving import STREAM_KIND, StreamInput
from repositories.saving.inbox import InboxRepository
from services.commands import JOB_KIND
from workflows.saving import STREAM_WORKFLOW, TASK_QUEUE

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 5.0
_SHORTEST_PAUSE_SECONDS: Final = 0.1
_RPC_TIMEOUT: Final = timedelta(seconds=5)

Name = tuple[str, int]


@dataclass
class _Stream:
    fresh: int = 0
    woken_at: float = -1e9
    is_told_full: bool = False


class StreamKeeper:
    """Wakes streams by size and by time. Any number may run side by side: waking twice is harmless."""

    def __init__(
        self,
        database: Database,
        client: Client,
        metrics: WorkerMetrics,
        *,
        flush_records: int,
        flush_seconds: float,
    ) -> None:
        self._database = database
        self._client = client
        self._metrics = metrics
        self._flush_records = flush_records
        self._flush_seconds = flush_seconds
        self._streams: dict[Name, _Stream] = defaultdict(_Stream)
        self._changed = asyncio.Event()
        self._look_at = 0.0

    def on_notify(self, payload: str) -> None:
        """Records have come in: ``<collection>/<shard>/<records>``."""
        collection, shard, records = payload.split("/")
        self._streams[collection, int(shard)].fresh += int(records)
        self._changed.set()

    def on_gap(self) -> None:
        """Announcements may have been missed."""
        self._look_at = 0.0
        self._changed.set()

    async def run(self) -> None:
        """Keep going until canceled."""
        while True:
            self._changed.clear()
            try:
                await self._look()
                await self._wake_streams()
            except (DatabaseUnavailable, RPCError) as fault:
                _log.warning("streams.postponed", fault=str(fault))
                await asyncio.sleep(1)
            await self._pause()

    async def _look(self) -> None:
        """See for ourselves what waits, every few seconds."""
        if time.monotonic() < self._look_at:
            return
        async with self._database.driver() as driver:
            waiting = await InboxRepository(driver).get_streams()
        self._look_at = time.monotonic() + _LOOK_SECONDS
        for name in waiting.keys() | self._streams.keys():
            records = waiting.get(name, 0)
            self._metrics.records_pending.labels(name[0], str(name[1])).set(records)
            self._streams[name].fresh = max(self._streams[name].fresh, records)

    async def _wake_streams(self) -> None:
        for name, stream in list(self._streams.items()):  # while one is woken others may be announced
            is_full = stream.fresh >= self._flush_records
            is_due = time.monotonic() - stream.woken_at >= self._flush_seconds
            if stream.fresh and (is_due or (is_full and not stream.is_told_full)):
                await self._wake(name, full=is_full)
                stream.is_told_full = is_full and not is_due
                stream.fresh, stream.woken_at = 0, time.monotonic()

    async def _wake(self, name: Name, *, full: bool) -> None:
        stream = StreamInput(collection=name[0], shard=name[1], flush_seconds=self._flush_seconds)
        await self._client.start_workflow(
            STREAM_WORKFLOW,
            stream,
            id=stream.workflow_id,
            task_queue=TASK_QUEUE,
            start_signal="wake",
            start_signal_args=[full],
            static_summary=f"Saves {name[0]}, shard {name[1]}",
            search_attributes=TypedSearchAttributes([SearchAttributePair(JOB_KIND, STREAM_KIND)]),
            rpc_timeout=_RPC_TIMEOUT,
        )

    async def _pause(self) -> None:
        """Until something comes in, something that came in is due, or it is time to look."""
        now = time.monotonic()
        due = [stream.woken_at + self._flush_seconds for stream in self._streams.values() if stream.fresh]
        await asyncio.sleep(_SHORTEST_PAUSE_SECONDS)
        try:
            async with asyncio.timeout(max(min([self._look_at, *due]) - now, 0.0)):
                await self._changed.wait()
        except TimeoutError:
            return
