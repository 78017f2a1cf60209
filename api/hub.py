"""Who watches which job, and how news of a job reaches all of them at the price of one look at the database.

PostgreSQL announces each change of a job on the one LISTEN connection of this process. For a job that is watched the
hub reads the new events once and hands the encoded bytes to every stream; whoever merely waits for a change is woken.

Nothing is lost between reading what was and hearing of what comes: a watch is in place before its first read, an
announcement made meanwhile is remembered by its number, and events are numbered without gaps.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import UUID
from weakref import WeakSet

import structlog

from api.documents import encode, event_document
from domain.errors import DatabaseUnavailable, Unauthenticated
from domain.jobs import TERMINAL
from repositories.jobs import JobReader
from repositories.rows import AnyRow
from services.tenants import Caller

_log = structlog.get_logger(__name__)

_PAGE: Final = 200
_MOST_BUFFERED_BYTES: Final = 65_536
_READS_AT_ONCE: Final = 4
_PAUSE_SECONDS: Final = 1.0


class Frame:
    """One event as bytes of an event stream, shared by all who watch."""

    __slots__ = ("data", "seq", "terminal")

    def __init__(self, row: AnyRow) -> None:
        self.seq: int = row.seq
        self.terminal = row.data.get("status") in TERMINAL
        head = f"id: {row.seq}\nevent: {row.type}\ndata: "
        self.data = head.encode() + encode(event_document(row)) + b"\n\n"


class Watch:
    """One stream's place in the events of a job: what it has, and what lies ready for it.

    It ends by itself at the moment ``until``, when the key that it was opened with expires.
    """

    __slots__ = ("__weakref__", "_bytes", "_ended", "_frames", "_news", "_until", "behind", "position")

    def __init__(self, position: int, *, until: datetime | None = None) -> None:
        self.position = position
        self.behind = True
        self._ended = False
        self._until = until
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def offer(self, frame: Frame) -> None:
        """Lay the next event ready. A reader that does not keep up falls behind and reads for itself later."""
        if self.behind or frame.seq <= self.position:
            return
        if frame.seq > self.position + 1:
            self.fall_behind()
            return
        if self._bytes + len(frame.data) > _MOST_BUFFERED_BYTES and self._frames:
            self.fall_behind()
            return
        self._frames.append(frame)
        self._bytes += len(frame.data)
        self.position = frame.seq
        self._news.set()

    def fall_behind(self) -> None:
        """Forget what lies ready; the stream has to read from its own place again."""
        if self._frames:
            self.position = self._frames[0].seq - 1
            self._frames.clear()
            self._bytes = 0
        self.behind = True
        self._news.set()

    def end(self) -> None:
        """Nothing comes any more, not even what lies ready; the client is to connect again."""
        self._ended = True
        self._news.set()

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._ended or (self._until is not None and self._until <= datetime.now(UTC))

    def take(self) -> list[Frame]:
        """What lies ready."""
        frames = list(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._news.clear()
        return frames

    async def wait(self, seconds: float) -> None:
        """Wait until something lies ready or the watch has ended, but not longer than this."""
        if self._until is not None:
            seconds = min(seconds, (self._until - datetime.now(UTC)).total_seconds())
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass


class _Channel:
    """A job that somebody watches."""

    __slots__ = ("announced", "bells", "dirty", "head", "job_id", "pump", "tenant_id", "watches")

    def __init__(self, tenant_id: UUID, job_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.job_id = job_id
        self.watches: set[Watch] = set()
        self.bells: set[asyncio.Event] = set()
        self.head: int | None = None
        """The last event that was handed out; None until some stream has caught up."""
        self.announced = 0
        self.dirty = False
        self.pump: asyncio.Task[None] | None = None


class EventHub:
    """All watches of this process."""

    def __init__(self, reader: JobReader) -> None:
        self._reader = reader
        self._channels: dict[tuple[UUID, UUID], _Channel] = {}
        self._by_job: dict[UUID, list[_Channel]] = {}
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._draining = False
        self._by_key: dict[str, WeakSet[Watch]] = {}
        self._checking: asyncio.Task[None] | None = None

    # --- news ---------------------------------------------------------------------------------------

    def on_notify(self, payload: str) -> None:
        """A job has changed: ``<job id>:<version>``, the version being the number of its newest event."""
        job, _, version = payload.partition(":")
        try:
            channels = self._by_job.get(UUID(job), ())
            number = int(version)
        except ValueError:
            _log.warning("hub.strange_payload")
            return
        for channel in channels:
            channel.announced = max(channel.announced, number)
            self._stir(channel)

    def on_gap(self) -> None:
        """Announcements may have been missed: look at every watched job."""
        for channel in list(self._channels.values()):
            self._stir(channel)

    def on_key(self, prefix: str) -> None:
        """A key was revoked: the streams that were opened with it end, and the next request is refused."""
        for watch in list(self._by_key.pop(prefix, ())):
            watch.end()

    def check_keys(self, confirm: Callable[[str], Awaitable[None]]) -> None:
        """Revocations may have been missed: have every key confirmed that streams were opened with."""
        if self._checking is not None:
            self._checking.cancel()
        self._checking = asyncio.create_task(self._check_keys(confirm), name="check-keys")

    async def _check_keys(self, confirm: Callable[[str], Awaitable[None]]) -> None:
        left = [prefix for prefix, watches in self._by_key.items() if watches]
        while left:
            try:
                await confirm(left[-1])
            except Unauthenticated:
                self.on_key(left[-1])
            except DatabaseUnavailable as fault:
                _log.warning("hub.keys_not_checked", fault=fault.detail)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            left.pop()

    def ring_all(self) -> None:
        """Something outside the events has changed how jobs look: wake everybody who waits for a change."""
        for channel in self._channels.values():
            for bell in channel.bells:
                bell.set()

    def drain(self) -> None:
        """End every stream and every wait, because this process is about to end."""
        self._draining = True
        if self._checking is not None:
            self._checking.cancel()
        for channel in self._channels.values():
            for watch in channel.watches:
                watch.end()
        self.ring_all()

    @property
    def draining(self) -> bool:
        """Whether nobody should wait here any more."""
        return self._draining

    # --- waiting for any change ---------------------------------------------------------------------

    @contextmanager
    def bell(self, tenant_id: UUID, job_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job may have changed since the block was entered."""
        channel = self._open(tenant_id, job_id)
        bell = asyncio.Event()
        channel.bells.add(bell)
        try:
            yield bell
        finally:
            channel.bells.discard(bell)
            self._close_if_idle(channel)

    # --- reading along ------------------------------------------------------------------------------

    def watch(self, caller: Caller, position: int) -> Watch:
        """A place in some events, which ends with the key of the caller.

        What was announced before this is not heard of: have the key confirmed once the watch is there.
        """
        for prefix in [prefix for prefix, watches in self._by_key.items() if not watches]:
            del self._by_key[prefix]
        watch = Watch(position, until=caller.expires_at)
        self._by_key.setdefault(caller.prefix, WeakSet()).add(watch)
        return watch

    async def follow(
        self, tenant_id: UUID, job_id: UUID, watch: Watch, *, heartbeat: float
    ) -> AsyncGenerator[bytes, None]:
        """The events above the watch's position as pieces of an event stream, up to the end of the job.

        A comment goes out whenever nothing else did for ``heartbeat`` seconds. Ends early, to be resumed elsewhere,
        when the watch is ended or this process drains.
        """
        channel = self._open(tenant_id, job_id)
        channel.watches.add(watch)
        try:
            while not (watch.ended or self._draining):
                if watch.behind:
                    async for piece, final in self._catch_up(channel, watch):
                        yield piece
                        if final:
                            return
                    continue
                await watch.wait(heartbeat)
                if watch.ended:
                    return
                frames = watch.take()
                if frames:
                    yield b"".join(frame.data for frame in frames)
                    if frames[-1].terminal:
                        return
                elif not watch.behind:
                    yield b": still here\n\n"
        finally:
            channel.watches.discard(watch)
            self._close_if_idle(channel)

    async def _catch_up(self, channel: _Channel, watch: Watch) -> AsyncIterator[tuple[bytes, bool]]:
        """Read from the watch's own place until it is level with what was announced; True with the job's end."""
        terminal = False
        while watch.behind and not watch.ended:
            frames = await self._read(channel, after=watch.position)
            if watch.ended:
                return
            if frames:
                watch.position, terminal = frames[-1].seq, frames[-1].terminal
            known = max(channel.announced, channel.head or 0)
            if len(frames) < _PAGE and known <= watch.position:
                self._go_live(channel, watch)
            if frames or terminal:
                yield b"".join(frame.data for frame in frames), terminal and not watch.behind

    def _go_live(self, channel: _Channel, watch: Watch) -> None:
        """The watch is level, and nothing was awaited since it read: what the channel hands out is enough now."""
        watch.behind = False
        # A watch that read ahead of the channel must not pull it along: others are still owed what lies between.
        if channel.head is None:
            channel.head = watch.position
        if channel.dirty:  # news came while nobody had caught up; its number may have been lost in a gap
            self._stir(channel)

    async def _read(self, channel: _Channel, *, after: int) -> list[Frame]:
        async with self._reading:
            rows = await self._reader.get_events(channel.tenant_id, channel.job_id, after=after, limit=_PAGE)
        return [Frame(row) for row in rows]

    # --- channels -----------------------------------------------------------------------------------

    def _open(self, tenant_id: UUID, job_id: UUID) -> _Channel:
        channel = self._channels.get((tenant_id, job_id))
        if channel is None:
            channel = self._channels[tenant_id, job_id] = _Channel(tenant_id, job_id)
            self._by_job.setdefault(job_id, []).append(channel)
        return channel

    def _close_if_idle(self, channel: _Channel) -> None:
        key = (channel.tenant_id, channel.job_id)
        if channel.watches or channel.bells or self._channels.get(key) is not channel:
            return
        del self._channels[key]
        others = self._by_job[channel.job_id]
        others.remove(channel)
        if not others:
            del self._by_job[channel.job_id]

    def _stir(self, channel: _Channel) -> None:
        for bell in channel.bells:
            bell.set()
        channel.dirty = True
        if channel.pump is None and channel.watches:
            channel.pump = asyncio.create_task(self._pump(channel), name="pump-events")

    async def _pump(self, channel: _Channel) -> None:
        """Read what is new once, hand it to everybody, and look again while there was news meanwhile."""
        try:
            # Before anybody has caught up there is no place to read from; the first who does so looks for himself.
            while channel.dirty and channel.watches and channel.head is not None:
                channel.dirty = False
                try:
                    frames = await self._read(channel, after=channel.head)
                except Exception as fault:  # noqa: BLE001 - the streams of this job must not die of one bad read
                    _log.warning("hub.read_failed", job_id=str(channel.job_id), fault=type(fault).__name__)
                    channel.dirty = True
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                self._hand_out(channel, frames)
                channel.dirty = channel.dirty or len(frames) == _PAGE
        finally:
            channel.pump = None

    def _hand_out(self, channel: _Channel, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if frame.seq <= (channel.head or 0):
                continue
            channel.head = frame.seq
            for watch in channel.watches:
                watch.offer(frame)
