"""A fleet of real clients on a real stack: processes, sockets, files."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.demo.federated import make_samples
from tests.support.stack import ROOT, RunningStack, running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack() as running:
        yield running


async def test_a_schedule_teaches_a_fleet(stack: RunningStack, tmp_path: Path) -> None:
    """A schedule starts the cycle, three clients with files of their own take part, and the model learns."""
    held = "\n".join(json.dumps(sample) for sample in make_samples(seed=99, count=150))
    artifact = (await stack.http.post("/artifacts", content=held.encode())).json()
    model = {"name": "digits", "family": "digits", "holdout_artifact_id": artifact["id"]}
    assert (await stack.http.post("/federated/models", json=model)).status_code == 201
    cycle = {"model": "digits", "rounds": 2, "goal": 3, "deadline_seconds": 90, "plan": {"epochs": 3}}
    wish = {"kind": "federated.cycle", "input": cycle, "spec": {"cron": "0 0 29 2 *"}}
    schedule = (await stack.http.post("/schedules", json=wish)).json()
    assert (await stack.http.post(f"/schedules/{schedule['id']}/trigger")).status_code == 202

    async def started() -> str | None:
        runs = (await stack.http.get(f"/schedules/{schedule['id']}")).json()["last_runs"]
        return str(runs[0]["id"]) if runs else None

    job_id: str = await stack.eventually(started)

    async def opened() -> bool:
        return bool((await stack.http.get(f"/federated/cycles/{job_id}/rounds")).json()["items"])

    await stack.eventually(opened)
    data = tmp_path / "samples.jsonl"
    data.write_text("\n".join(json.dumps(sample) for sample in make_samples(seed=1, count=360)))
    arguments = ["-m", "learning.participant", "--server", stack.base_url, "--model", "digits", "--data", str(data)]
    arguments += ["--folder", str(tmp_path / "fleet"), "--participants", "3"]
    key = stack.http.headers["Authorization"].removeprefix("Bearer ")
    fleet = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, env={**os.environ, "LONGHAUL_KEY": key}
    )
    try:
        done = await stack.until_done(job_id, timeout=120)
    finally:
        fleet.send_signal(signal.SIGTERM)
        ended = await asyncio.wait_for(fleet.wait(), timeout=30)
    assert done["status"] == "succeeded", done
    assert ended == 0
    shown = (await stack.http.get("/federated/models/digits")).json()
    accuracies = [version["metrics"]["accuracy"] for version in reversed(shown["versions"])]
    assert (accuracies[0] < 0.4, accuracies[-1] > 0.8) == (True, True)
    run = (await stack.http.get(f"/schedules/{schedule['id']}")).json()["last_runs"][0]
    assert (run["id"], run["status"]) == (job_id, "succeeded")
