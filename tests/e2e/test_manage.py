"""The operator's command line, run as an operator runs it."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from domain.generation import Export
from services.stack.ports import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Ports and a data folder of one's own, kept over the tests of this module."""
    names = ("API", "WORKER", "TEMPORAL", "TEMPORAL_UI", "STANDIN_OPENAI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LONGHAUL_", "DATABASE_"))}
    return {
        **kept,
        **{f"LONGHAUL_{name}_PORT": str(free_port()) for name in names},
        "LONGHAUL_DATA_DIR": tempfile.mkdtemp(prefix="longhaul-manage-"),
    }


async def manage(environment: dict[str, str], *arguments: str) -> Process:
    """``python manage.py ...``, its output in one pipe."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "manage.py", *arguments, cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT
    )


async def run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run a command to its end; exit code and output."""
    process = await manage(environment, *arguments)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@asynccontextmanager
async def serving(environment: dict[str, str]) -> AsyncIterator[str]:
    """``manage.py up`` until the block is left, then Ctrl-C; the address it printed."""
    process = await manage(environment, "up")
    assert process.stdout is not None
    said: list[str] = []
    try:
        async for line in process.stdout:
            said.append(line.decode())
            if ready := re.match(r"ready (http://\S+)", said[-1]):
                yield ready.group(1)
                break
        else:
            raise AssertionError("".join(said))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 0, "".join(said)


def ask(address: str, path: str, key: str) -> dict[str, object]:
    """One authenticated GET."""
    with urlopen(Request(address + path, headers={"Authorization": f"Bearer {key}"}), timeout=10) as answer:  # noqa: S310
        found: dict[str, object] = json.load(answer)
        return found


class TestDemo:
    async def test_twice_in_a_row(self, environment: dict[str, str]) -> None:
        """Both times every job succeeds, the files are there, and nothing is left running."""
        for _ in range(2):
            code, output = await run({**environment, "LONGHAUL_STANDIN_OPENAI": "true"}, "demo")
            assert code == 0, output
            assert "Everything succeeded." in output
            saved = re.findall(r"saved +file://(\S+)", output)
            # Plots of federated learning come beside them where matplotlib is installed, speech where espeak-ng is.
            courses = [name for name in saved if Path(name).stem not in {"rounds", "first-lesson"}]
            assert len(courses) == 2 * len(Export)
            assert all(Path(file).stat().st_size > 0 for file in saved)
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", int(environment["LONGHAUL_API_PORT"]))) != 0


class TestUp:
    async def test_serves_until_interrupted(self, environment: dict[str, str]) -> None:
        """It prints where it serves, its key works, the doctor is content, and Ctrl-C ends it in order."""
        async with serving(environment) as address:
            key_file = Path(environment["LONGHAUL_DATA_DIR"], "dev-api-key")
            assert key_file.stat().st_mode & 0o077 == 0
            jobs = await asyncio.to_thread(ask, address, "/api/v1/jobs", key_file.read_text().strip())
            assert "items" in jobs
            code, findings = await run(environment, "doctor")
            assert code == 0, findings
            code, key = await run(environment, "tenant", "create", "somebody")
            assert code == 0
            assert (await asyncio.to_thread(ask, address, "/api/v1/jobs", key.strip()))["items"] == []
            code, listed = await run(environment, "key", "list", "somebody")
            prefix = key.split("_")[1]
            assert prefix in listed
            assert (await run(environment, "key", "revoke", prefix))[0] == 0
            assert (await run(environment, "key", "revoke", prefix))[0] == 1

    async def test_names_a_port_that_is_taken(self, environment: dict[str, str]) -> None:
        """A port that another program has is named with the setting that changes it."""
        with socket.create_server(("127.0.0.1", int(environment["LONGHAUL_API_PORT"]))):
            code, output = await run(environment, "up")
        assert code == 1
        assert f"port {environment['LONGHAUL_API_PORT']} is taken; set LONGHAUL_API_PORT to another" in output


class TestDoctor:
    async def test_says_what_is_wrong(self, environment: dict[str, str]) -> None:
        """With nothing running it names the database, Temporal and the workers, and fails."""
        code, output = await run(environment, "doctor")
        assert code == 1
        assert "FAULT database" in output
        assert "FAULT Temporal" in output
        assert "FAULT worker on task queue generation" in output

    async def test_settings_that_do_not_fit(self, environment: dict[str, str]) -> None:
        """Production on development settings is refused, naming every setting."""
        code, output = await run({**environment, "LONGHAUL_PROFILE": "production"}, "doctor")
        assert code == 1
        for name in ("DATABASE_URL", "TEMPORAL_ADDRESS", "LONGHAUL_API_KEY_PEPPER", "LONGHAUL_PUBLIC_URL"):
            assert name in output
