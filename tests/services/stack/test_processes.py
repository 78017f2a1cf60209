import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from services.stack.guarded import wait_until
from services.stack.ports import PortTaken, free_port, port_answers, port_is_free
from services.stack.processes import Backoff, ChildProcess, Supervisor
from services.stack.service import Service
from tests.services.stack.conftest import Owners, ended

pytestmark = pytest.mark.e2e

ENV = {"PATH": os.environ["PATH"]}
LISTEN = (
    "import socket, signal; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); signal.pause()"
)
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"


def shell(path: Path, script: str, **options: float | Callable[[str], None]) -> ChildProcess:
    return ChildProcess(path, argv=["/bin/sh", "-c", script], env=ENV, **options)  # type: ignore[arg-type]


def listener(path: Path, port: int) -> ChildProcess:
    argv = [sys.executable, "-c", LISTEN.format(port=port)]
    return ChildProcess(path, argv=argv, env=ENV, ports=[(port, "LONGHAUL_API_PORT")])


def said(service: Service, text: str) -> bool:
    return service.log_path.exists() and text in service.log_path.read_text()


async def until(condition: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(wait_until, condition, 10)


class Run:
    """A supervisor at work in this very process, so that real signals reach it."""

    def __init__(self, services: Sequence[Service]) -> None:
        self.lines: list[str] = []
        self._supervisor = Supervisor(services, announce=self.lines.append, backoff=Backoff(first=0.05))

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run until the work, begun when all is up, has sent a signal."""
        await asyncio.wait_for(self._supervisor.run(work), 20)

    def kill_self(self, sig: signal.Signals = signal.SIGINT) -> None:
        os.kill(os.getpid(), sig)


class TestSupervisor:
    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
    async def test_stops_all_in_reverse_on_a_signal(self, folder: Path, sig: signal.Signals) -> None:
        order = folder / "order"
        script = f"trap 'echo NAME >> {order}; exit 0' TERM; echo up; while :; do sleep 0.01; done"
        children = [shell(folder / name, script.replace("NAME", name)) for name in ("first", "second")]
        run = Run(children)

        async def work() -> None:
            await until(lambda: all(said(child, "up") for child in children))
            run.kill_self(sig)

        await run.during(work)
        assert order.read_text().split() == ["second", "first"]
        assert not any(child.running for child in children)
        assert not any(child.data_dir.with_suffix(".pid").exists() for child in children)

    async def test_starts_again_what_dies_and_says_so(self, folder: Path) -> None:
        child = shell(folder / "worker", "echo up; exec sleep 60")
        run = Run([child])

        async def work() -> None:
            for _ in range(2):
                pid = child.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: child.pid not in {None, pid})  # type: ignore[misc]
            run.kill_self()

        await run.during(work)
        assert run.lines[0].startswith("worker died (SIGKILL), starting it again in 0.05 s; see ")
        assert run.lines[1].startswith("worker died (SIGKILL), starting it again in 0.1 s; see ")
        assert len(run.lines) == 3

    async def test_sigkill_after_the_grace_period(self, folder: Path) -> None:
        child = shell(folder / "stubborn", STUBBORN, grace=0.1)
        run = Run([child])

        async def work() -> None:
            await until(lambda: said(child, "up"))
            run.kill_self()

        await run.during(work)
        assert not child.running

    async def test_a_second_signal_kills_at_once(self, folder: Path) -> None:
        child = shell(folder / "stubborn", STUBBORN, grace=60.0)
        run = Run([child])

        async def work() -> None:
            await until(lambda: said(child, "up"))
            run.kill_self()
            asyncio.get_running_loop().call_later(0.1, run.kill_self)

        began = time.monotonic()
        await run.during(work)
        assert time.monotonic() - began < 10
        assert run.lines[-1] == "killing"

    async def test_a_failed_first_start_stops_the_others_and_is_raised(self, folder: Path) -> None:
        good = shell(folder / "good", "exec sleep 60")
        with socket.create_server(("127.0.0.1", 0)) as other:
            bad = listener(folder / "api", other.getsockname()[1])
            with pytest.raises(PortTaken, match="LONGHAUL_API_PORT"):
                await Run([good, bad]).during(asyncio.Event().wait)  # type: ignore[arg-type]
        assert not good.running


class TestChildProcess:
    def test_echo_prefixes_each_line_and_keeps_the_log(self, folder: Path) -> None:
        lines: list[str] = []
        child = shell(folder / "api", "echo one; echo two >&2; exec sleep 60", echo=lines.append)
        child.start()
        assert wait_until(lambda: len(lines) == 2, 5)
        child.stop()
        assert lines == ["api | one", "api | two"]
        assert child.log_path.read_text() == "one\ntwo\n"

    def test_grandchildren_end_with_it(self, folder: Path) -> None:
        child = shell(folder / "api", "sleep 60 & echo $!; wait")
        child.start()
        assert wait_until(lambda: said(child, "\n"), 5)
        grandchild = int(child.log_path.read_text())
        child.kill()
        assert wait_until(lambda: ended(grandchild), 5)


class TestOwnerKilled:
    @pytest.mark.parametrize("guards", [False, True])
    def test_nothing_holds_the_port_at_the_next_start(
        self, folder: Path, owners: Owners, stopping: contextlib.ExitStack, *, guards: bool
    ) -> None:
        port = free_port()
        child = listener(folder / "api", port)
        arguments = f"Path({str(child.data_dir)!r}), argv={list(child.argv)!r}, env={ENV!r}"
        owner = owners.start(f"c = ChildProcess({arguments}); c.start(); tell(c)")
        assert wait_until(lambda: port_answers(port), 5)
        owner.kill(guards=guards)
        if not guards:
            assert wait_until(lambda: port_is_free(port), 5)
        stopping.callback(child.kill)
        child.start()
        assert ended(owner.pids[0])
        assert wait_until(lambda: port_answers(port), 5)


def test_backoff_grows_to_its_limit() -> None:
    backoff = Backoff(first=0.5, factor=2, limit=15)
    assert [backoff.delay(deaths) for deaths in (1, 2, 3, 6, 1000)] == [0.5, 1, 2, 15, 15]
