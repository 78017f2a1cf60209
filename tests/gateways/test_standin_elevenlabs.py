"""The stand-in, judged by the vendor's own client where that is installed, and run as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateways.standin_elevenlabs import StandInElevenLabs
from tests.support.judges import python_with

_JUDGE = Path(__file__).parent / "elevenlabs_judge.py"
_ROOT = Path(__file__).resolve().parents[2]
TEXT = "The tide comes in. The tide goes out."


async def run_judge(python: str, origin: str) -> dict[str, Any]:
    """What the vendor's client saw."""
    process = await asyncio.create_subprocess_exec(
        python, str(_JUDGE), origin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()[-2_000:]
    seen: dict[str, Any] = json.loads(said)
    return seen


class TestVendorsClient:
    async def test_speaks_looks_back_and_is_refused(self) -> None:
        """It understands every answer, and what it sends is what our gateway sends."""
        python = python_with("elevenlabs", "2.78.0")
        async with StandInElevenLabs(seed=1) as standin:
            seen = await run_judge(python, standin.origin)
            (take,) = standin.studio.takes
            assert standin.requests[0] == {"text": TEXT, "model_id": "eleven_multilingual_v2", "seed": 7}
        assert seen == {
            "audio_bytes": len(take.audio), "same": True, "text": TEXT, "billed": len(TEXT), "source": "TTS",
            "more": False, "count": len(TEXT),
            "refusals": [[400, "ApiError"], [422, "UnprocessableEntityError"]],
        }  # fmt: skip


class TestProcess:
    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    def test_says_where_it_is_and_ends_when_told(self) -> None:
        command = [sys.executable, "-m", "gateways.standin_elevenlabs", "--seed", "4", "--delay", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT, env={**os.environ}, text=True) as process:
            try:
                assert process.stdout is not None
                origin = process.stdout.readline().removeprefix("ready ").strip()
                fault = [{"kind": "status_before", "status": 429, "code": "system_busy", "shape": "old"}]
                with httpx.Client(base_url=origin, headers={"xi-api-key": "k-1"}, timeout=30) as client:
                    client.post("/control/faults", json=fault).raise_for_status()
                    refused = client.post("/v1/text-to-speech/v", json={"text": TEXT})
                    spoken = client.post("/v1/text-to-speech/v", json={"text": TEXT})
                    state = client.get("/control/state").json()
                assert (refused.status_code, refused.json()["detail"]["status"]) == (429, "system_busy")
                assert (spoken.status_code, spoken.headers["character-cost"]) == (200, str(len(TEXT)))
                assert [take["text"] for take in state["takes"]] == [TEXT]
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=60) == 0
            finally:
                process.kill()

    async def test_the_same_seed_is_the_same_world(self) -> None:
        takes = []
        for _ in range(2):
            async with StandInElevenLabs(seed=9) as standin, httpx.AsyncClient(base_url=standin.origin) as client:
                answer = await client.post("/v1/text-to-speech/v", json={"text": TEXT}, headers={"xi-api-key": "k"})
                takes.append((answer.content, answer.headers["request-id"]))
        assert takes[0] == takes[1]
