"""A participant's process killed at the worst moments: nothing trained is lost, nothing is handed in twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from learning.digits.data import load_samples
from learning.families import get_family
from learning.weights import encode
from tests.support.federated_server import TENANT_KEY, StandIn, federated_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    samples, _ = load_samples()
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples[:60]))
    with federated_server(StandIn(encode(get_family("digits").init_weights(0)))) as made:
        yield made


@contextmanager
def participant(standin: StandIn, folder: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["--server", standin.url, "--family", "digits", "--data", str(folder / "samples.jsonl")]
    process = subprocess.Popen(
        [sys.executable, "-m", "learning.participant", *arguments, "--folder", str(folder / "own"), *more],
        cwd=ROOT,
        env={**os.environ, "LONGHAUL_KEY": TENANT_KEY},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def called(standin: StandIn, call: str, times: int = 1) -> None:
    async def count() -> int:
        return standin.count(call)

    await eventually(count, until=lambda seen: seen >= times, within=30)


async def accepted(standin: StandIn, times: int = 1) -> None:
    async def count() -> int:
        return len(standin.updates)

    await eventually(count, until=lambda seen: seen >= times, within=30)


async def test_killed_with_a_full_outbox_it_hands_in_after_the_restart(standin: StandIn, tmp_path: Path) -> None:
    standin.fail("upload", *[503] * 1_000)
    with participant(standin, tmp_path) as process:
        await called(standin, "upload")
        process.send_signal(signal.SIGKILL)
    (waiting,) = (tmp_path / "own" / "outbox").glob("*.safetensors")
    trained = waiting.read_bytes()
    standin.faults.clear()
    with participant(standin, tmp_path):
        await accepted(standin)
    assert list(standin.updates.values()) == [trained]
    assert (standin.count("enrol"), standin.count("blob")) == (1, 1), "neither enrolled nor trained again"


async def test_killed_after_the_server_committed_it_asks_again_and_changes_nothing(
    standin: StandIn, tmp_path: Path
) -> None:
    standin.fail("upload", "after", *[503] * 1_000)
    with participant(standin, tmp_path) as process:
        await accepted(standin)
        process.send_signal(signal.SIGKILL)
    (before,) = standin.updates.values()
    standin.faults.clear()
    uploads = standin.count("upload")
    with participant(standin, tmp_path):
        await called(standin, "upload", uploads + 1)
        await called(standin, "lease", 2)
    assert list(standin.updates.values()) == [before]
    assert list((tmp_path / "own" / "outbox").iterdir()) == []


async def test_told_to_stop_while_training_it_finishes_and_hands_in(standin: StandIn, tmp_path: Path) -> None:
    standin.plan = {"epochs": 1_000}
    with participant(standin, tmp_path) as process:
        await called(standin, "blob")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert len(standin.updates) == 1


async def test_told_to_stop_while_the_server_is_away_it_keeps_what_it_has(standin: StandIn, tmp_path: Path) -> None:
    standin.fail("upload", *[503] * 1_000)
    with participant(standin, tmp_path) as process:
        await called(standin, "upload")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert len(list((tmp_path / "own" / "outbox").glob("*.json"))) == 1


async def test_a_fleet_takes_part_as_many(standin: StandIn, tmp_path: Path) -> None:
    standin.rounds = 8
    with participant(standin, tmp_path, "--participants", "4") as process:
        await accepted(standin, 8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert standin.count("enrol") == 4
