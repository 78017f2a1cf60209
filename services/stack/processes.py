"""Our own processes (API, worker) as children, and the supervisor that keeps the whole stack up."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from services.stack.guarded import GuardedProcess, Launch, open_log, stop_leftover
from services.stack.ports import require_free
from services.stack.service import Service

_WATCH_SECONDS = 0.1
_LEFTOVER_STEPS = ((signal.SIGTERM, 3.0),)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Announce = Callable[[str], None]


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass(frozen=True, eq=False)
class ChildProcess(Service):
    """A process of ours; `data_dir` only lends its name and place, `.data/api` giving `.data/api.log` and so on.

    `ports` are checked before each start, each with the name of its setting. With `echo` every line of output goes
    there too, behind the child's name; the log file has it in any case. Stopping gives it `grace` seconds.
    """

    _: KW_ONLY
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path = field(default_factory=Path.cwd)
    ports: Sequence[tuple[int, str]] = ()
    grace: float = 20.0
    echo: Announce | None = None
    _echoes: list[threading.Thread] = field(default_factory=list, init=False, repr=False)

    def _start(self) -> None:
        stop_leftover(self._beside(".pid"), _LEFTOVER_STEPS)
        for port, setting in self.ports:
            require_free(port, setting)
        self._join_echoes()
        self._echoes.clear()
        launch = Launch(
            argv=self.argv,
            env=self.env,
            cwd=self.cwd,
            stop=((signal.SIGTERM, self.grace),),
            pid_file=self._beside(".pid"),
        )
        if self.echo is None:
            with open_log(self.log_path) as log:
                self._state.process = GuardedProcess(launch, log)
            return
        process = self._state.process = GuardedProcess(launch, subprocess.PIPE)
        reader = threading.Thread(target=self._pump, args=(process, self.echo), daemon=True)
        self._echoes.append(reader)
        reader.start()

    def _pump(self, process: GuardedProcess, echo: Announce) -> None:
        if process.output is None:
            return
        with process.output as output, open_log(self.log_path) as log:
            for line in output:
                log.write(line)
                log.flush()
                # A terminal that went away must not stop the log, nor block the child on a full pipe.
                with contextlib.suppress(OSError, ValueError):
                    echo(f"{self.name} | {line.decode(errors='replace').rstrip()}")

    def _join_echoes(self) -> None:
        for reader in self._echoes:
            reader.join(timeout=5.0)

    def _forget(self) -> None:
        super()._forget()
        self._join_echoes()


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before starting again what died: longer each time, from the beginning after a good while."""

    first: float = 0.5
    factor: float = 2.0
    limit: float = 15.0
    good_while: float = 20.0

    def delay(self, deaths: int) -> float:
        """Seconds to wait after this many deaths in a row."""
        return min(self.limit, self.first * self.factor ** min(deaths - 1, 30))


class Supervisor:
    """Starts services in order, starts again what dies, and stops all of them in reverse on SIGINT or SIGTERM.

    `announce` gets one line for each thing a person should know. Services that run already are taken over as they
    are. A second signal kills at once.
    """

    def __init__(
        self, services: Sequence[Service], *, announce: Announce = _print, backoff: Backoff | None = None
    ) -> None:
        self._services = services
        self._announce = announce
        self._backoff = backoff or Backoff()
        self._stopping = asyncio.Event()
        self._kill: asyncio.Task[None] | None = None

    async def run(self, when_started: Callable[[], Awaitable[None]] | None = None) -> None:
        """Return once everything has been stopped again; raises what kept a service from its first start.

        `when_started` runs after the first start of all, for the line that says `ready`; it is cancelled by a signal.
        """
        loop = asyncio.get_running_loop()
        for sig in _STOP_SIGNALS:
            loop.add_signal_handler(sig, self.request_stop)
        life = asyncio.create_task(self._live(when_started))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([life, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            life.cancel()
            outcome = (await asyncio.gather(life, return_exceptions=True))[0]
            await self._stop_all()
            for sig in _STOP_SIGNALS:
                loop.remove_signal_handler(sig)
        if isinstance(outcome, Exception):
            raise outcome

    def request_stop(self) -> None:
        """Do what a first or second signal does: stop in order, or kill at once."""
        if not self._stopping.is_set():
            self._announce("stopping; Ctrl-C again kills at once")
            self._stopping.set()
        elif self._kill is None:
            self._announce("killing")
            self._kill = asyncio.create_task(self._kill_all())

    async def _live(self, when_started: Callable[[], Awaitable[None]] | None) -> None:
        for service in self._services:
            await asyncio.to_thread(service.start)
        watchers = [asyncio.create_task(self._keep_up(service)) for service in self._services]
        try:
            if when_started is not None:
                await when_started()
            await asyncio.gather(*watchers)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _keep_up(self, service: Service) -> None:
        """Start the service again whenever it dies, until cancelled."""
        deaths = 0
        since = time.monotonic()
        while True:
            while service.running:  # noqa: ASYNC110 - the kernel tells of a child's end, but not an event of this loop
                await asyncio.sleep(_WATCH_SECONDS)
            deaths = 1 if time.monotonic() - since > self._backoff.good_while else deaths + 1
            delay = self._backoff.delay(deaths)
            how = service.death or "it was stopped"
            self._announce(f"{service.name} died ({how}), starting it again in {delay:g} s; see {service.log_path}")
            await asyncio.sleep(delay)
            since = time.monotonic()
            try:
                await asyncio.to_thread(service.start)
            except Exception as error:  # noqa: BLE001 - whatever it was, the next round may find it gone
                self._announce(f"{service.name} did not start: {error}")

    async def _stop_all(self) -> None:
        for service in reversed(self._services):
            try:
                await asyncio.to_thread(service.stop)
            except Exception as error:  # noqa: BLE001 - the others must be stopped all the same
                self._announce(f"{service.name} did not stop: {error}")
        if self._kill is not None:
            await self._kill

    async def _kill_all(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(service.kill) for service in self._services), return_exceptions=True)
