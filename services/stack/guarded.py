"""Child processes that neither outlive their parent nor get lost.

Three nets, each for what the one before cannot see:

1. `GuardedProcess` stops its child when asked.
2. A guard (a shell of a few lines) holds the other end of a pipe. When the parent dies, also by SIGKILL, the pipe
   closes and the guard stops the child. Unlike PR_SET_PDEATHSIG this works on macOS, after a change of user, and when
   the thread that started the child ends before the process does.
3. A pid file with the child's start time, so that the next start can stop what a dead guard left behind without ever
   signalling a stranger that was given the same pid.

`FolderLock` keeps a second living stack off the same folder; the kernel drops it when its holder dies.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.stack.errors import FolderInUse, StackError

_POLL_SECONDS = 0.01
_LOG_LIMIT_BYTES = 20 * 1024 * 1024
_START_TIME_FIELD = 19  # of /proc/PID/stat, counted after the command's closing bracket

# $1 target (a negative number is a process group), $2 first signal, $3 tenths of a second until SIGKILL.
# A line on stdin means "all is well, go"; the end of stdin means that the parent is gone.
_GUARD = """
trap '' HUP INT TERM
read -r _ && exit 0
kill -s "$2" -- "$1" 2>/dev/null || exit 0
left=$3
while [ "$left" -gt 0 ] && kill -s 0 -- "$1" 2>/dev/null; do sleep 0.1; left=$((left - 1)); done
kill -s KILL -- "$1" 2>/dev/null
"""

Steps = Sequence[tuple[signal.Signals, float]]
"""Signals to send in turn, each with the seconds to wait for the end; SIGKILL follows by itself."""


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Poll until the condition holds; answer whether it did within the time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def process_token(pid: int) -> str | None:
    """Answer a text that tells this process from any other that ever has the same pid; None when it has ended."""
    if not Path("/proc/self/stat").exists():
        return _token_from_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat[stat.rindex(")") + 1 :].split()
    # A zombie holds neither ports nor files; where pid 1 does not reap it would otherwise never end.
    return None if state in "ZX" else f"{boot} {rest[_START_TIME_FIELD - 1]}"


def _token_from_ps(pid: int) -> str | None:
    found = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(found) != 2 or "Z" in found[0] else found[1].strip()  # noqa: PLR2004


def command_line(pid: int) -> str:
    """Answer the command line of a running process, or an empty text."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return ""
    return subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()


def send(target: int, sig: signal.Signals) -> None:
    """Signal a process, or a process group when the target is negative; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(target, sig)


def stop_stranger(pid: int, steps: Steps) -> None:
    """Stop a process that is not our child, and return once it has ended."""
    token = process_token(pid)

    def ended() -> bool:
        return token is None or process_token(pid) != token

    for sig, seconds in [*steps, (signal.SIGKILL, 10.0)]:
        if ended():
            return
        send(pid, sig)
        if wait_until(ended, seconds):
            return
    raise StackError(f"process {pid} does not end, not even after SIGKILL")


def stop_leftover(pid_file: Path, steps: Steps) -> bool:
    """Stop what an earlier, killed parent left behind under this pid file; answer whether there was anything."""
    try:
        pid_text, token = pid_file.read_text().split("\n", 1)
        pid = int(pid_text)
    except (FileNotFoundError, ValueError):
        return False
    found = process_token(pid) == token.strip()
    if found:
        stop_stranger(pid, steps)
        # The rest of its group, if any: we gave every child a group of its own, led by it.
        send(-pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)
    return found


def open_log(path: Path) -> IO[bytes]:
    """Open a log file for appending, setting an overgrown one aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a child: its own process group always, so that Ctrl-C in the terminal reaches only the parent."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stop: Steps
    """How to stop the child, also used by its guard (first step only)."""
    whole_group: bool = True
    """Signal and outlive the child's whole group; off for PostgreSQL, whose children must be told by itself."""
    pid_file: Path | None = None
    """Where to note the child for `stop_leftover`; None for a server that keeps such a file itself."""
    user: tuple[int, int] | None = None
    """Uid and gid to run as; None for our own."""


class GuardedProcess:
    """A running child; every method may be called from any thread, and again after the child has ended."""

    def __init__(self, launch: Launch, output: int | IO[bytes]) -> None:
        self._launch = launch
        self._release_lock = threading.Lock()
        uid, gid = launch.user or (None, None)
        self._popen = subprocess.Popen(  # noqa: S603
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(launch.env),
            cwd=launch.cwd,
            process_group=0,
            user=uid,
            group=gid,
            extra_groups=[] if launch.user else None,
        )
        self._guard: subprocess.Popen[bytes] | None = None
        try:
            if launch.pid_file is not None:
                launch.pid_file.write_text(f"{self.pid}\n{process_token(self.pid)}\n")
            self._guard = self._start_guard()
        except BaseException:
            self.kill()
            raise

    def _start_guard(self) -> subprocess.Popen[bytes]:
        sig, seconds = self._launch.stop[0]
        return subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _GUARD, "guard", str(self._target), sig.name.removeprefix("SIG"), str(int(seconds * 10))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._popen.pid

    @property
    def output(self) -> IO[bytes] | None:
        """The child's output, when it was started with a pipe."""
        return self._popen.stdout

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while running."""
        code = self._popen.poll()
        if code is not None:
            self._release()
        return code

    @property
    def _target(self) -> int:
        return -self.pid if self._launch.whole_group else self.pid

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the child; answer whether it came in time."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._release()
        return True

    def signal(self, sig: signal.Signals) -> None:
        """Signal the child alone, unless it has ended."""
        self._popen.send_signal(sig)

    def stop(self) -> None:
        """Stop the child by the launch's steps, then by SIGKILL; it has ended on return."""
        for sig, seconds in self._launch.stop:
            self._popen.send_signal(sig)
            if self.wait(seconds):
                return
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._popen.poll() is None:
            send(self._target, signal.SIGKILL)
        self._popen.wait()
        self._release()

    def _release(self) -> None:
        """After the end of the child: clear its group, let the guard go, remove the pid file. Once only."""
        with self._release_lock:
            guard, self._guard = self._guard, None
        if guard is None:
            return
        if self._launch.whole_group:
            send(-self.pid, signal.SIGKILL)
        if self._launch.pid_file is not None:
            self._launch.pid_file.unlink(missing_ok=True)
        with contextlib.suppress(BrokenPipeError):
            guard.communicate(b"\n", timeout=10)


class FolderLock:
    """Keeps two living stacks off one folder. Not held by children, and gone with its holder."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def acquire(self, path: Path, folder: Path) -> None:
        """Take the lock, or raise `FolderInUse` naming the process that has it. Taking it twice is harmless."""
        if self._file is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise FolderInUse(folder, f"process {holder}") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two holders pass each other."""
        if self._file is not None:
            self._file.close()
            self._file = None
