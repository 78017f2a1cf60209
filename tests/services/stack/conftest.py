"""A process that owns a stack and can be killed without a chance to clear up."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.stack.guarded import process_token

ROOT = Path(__file__).parents[3]

_PREAMBLE = """
import signal, sys
from pathlib import Path
from services.stack.postgres import EmbeddedPostgres
from services.stack.processes import ChildProcess
from services.stack.temporal import EmbeddedTemporal
def tell(*services):
    for service in services:
        print(service.pid, service._state.process._guard.pid, flush=True)
    signal.pause()
"""


class Owner:
    """Runs code that starts services and calls `tell`; knows their process ids and those of their guards."""

    def __init__(self, code: str, services: int) -> None:
        argv = [sys.executable, "-c", _PREAMBLE + code]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as output:
            lines = [output.readline().split() for _ in range(services)]
        self.pids = [int(line[0]) for line in lines]
        self.guards = [int(line[1]) for line in lines]

    def kill(self, *, guards: bool = False) -> None:
        """SIGKILL; with `guards` the guards go first, so that the services stay behind."""
        for guard in self.guards if guards else ():
            os.kill(guard, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Owners:
    """Starts owners and makes sure that none, nor what it started, is left after the test."""

    def __init__(self) -> None:
        self._owners: list[Owner] = []

    def start(self, code: str, *, services: int = 1) -> Owner:
        owner = Owner(code, services)
        self._owners.append(owner)
        return owner

    def clear(self) -> None:
        for owner in self._owners:
            owner.kill()


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """A folder of our own: another pytest that starts meanwhile takes the right to pass through from `tmp_path`'s."""
    folder = Path(tempfile.mkdtemp(prefix="longhaul-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_folder() as folder:
        yield folder


@pytest.fixture
def owners(folder: Path) -> Iterator[Owners]:
    owners = Owners()
    yield owners
    owners.clear()


def ended(pid: int) -> bool:
    return process_token(pid) is None


@pytest.fixture
def stopping(folder: Path) -> Iterator[contextlib.ExitStack]:
    """Where a test registers `service.kill`: faster than stop, and nothing here is worth a checkpoint.

    Asks for `folder` so that services end before it goes.
    """
    with contextlib.ExitStack() as stack:
        yield stack
