"""What everything in the stack has in common: one place on disk, one lock, one guarded process, four verbs."""

import signal
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from services.stack.guarded import FolderLock, GuardedProcess


class ServiceState:
    """What changes while a server runs; kept apart so that its description can be frozen."""

    def __init__(self) -> None:
        self.verbs = threading.RLock()
        self.lock = FolderLock()
        self.process: GuardedProcess | None = None


@dataclass(frozen=True, eq=False)
class Service(ABC):
    """A server or process of ours, run as our direct child; log, lock and pid file lie beside `data_dir`.

    Methods block: call them with `asyncio.to_thread` from a loop. Any thread may call them.
    """

    data_dir: Path
    _state: ServiceState = field(default_factory=ServiceState, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", self.data_dir.absolute())

    @property
    def name(self) -> str:
        """What to call it in front of people: the last part of its folder."""
        return self.data_dir.name

    @property
    def log_path(self) -> Path:
        """The server's log file, beside the data folder."""
        return self._beside(".log")

    @property
    def running(self) -> bool:
        """Whether the server we started is alive."""
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._state.process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def death(self) -> str | None:
        """How it ended by itself, such as `SIGKILL` or `code 1`; None while running and after `stop` or `kill`."""
        process = self._state.process
        code = process.returncode if process is not None else None
        if code is None:
            return None
        return signal.Signals(-code).name if code < 0 else f"code {code}"

    def start(self) -> None:
        """Start and return once the server can be used; nothing happens when it runs already.

        Stops what a killed parent left on the folder. Raises `FolderInUse` when another living stack has it, and
        `StartFailed` with the last lines of the log when the server gives up.
        """
        with self._state.verbs:
            if self.running:
                return
            self._state.lock.acquire(self._beside(".lock"), self.data_dir)
            try:
                self._start()
            except BaseException:
                self.kill()
                self._state.lock.release()
                raise

    def stop(self) -> None:
        """Stop in order, escalating where that takes too long; the server has ended on return."""
        with self._state.verbs:
            if self._state.process is not None:
                self._state.process.stop()
            self._forget()

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """End the server as a crash would; waits for no other method, and the server has ended on return."""
        process = self._state.process
        if process is None:
            return
        process.signal(sig)
        if not process.wait(10.0):
            process.kill()
        self._forget()

    def restart(self) -> None:
        """Stop and start again; sessions are cut."""
        with self._state.verbs:
            self.stop()
            self.start()

    @abstractmethod
    def _start(self) -> None:
        """Start the process into `_state.process` and wait for it; the caller clears up after a failure."""

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)

    def _forget(self) -> None:
        self._state.process = None
        self._state.lock.release()
