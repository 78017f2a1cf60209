"""One real job of every family, watched on the terminal from the first event to the result."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from core.http import HttpTimeouts, create_http_client
from core.settings import Settings

_TIMEOUTS: Final = HttpTimeouts(connect=5, read=60, write=30, pool=5)
_BAR: Final = 24
_SAID: Final = frozenset({
    "sources.prepared", "outline.written", "lesson.written", "course.exported", "step.retrying", "step.failed",
    "job.waiting", "job.succeeded", "job.failed", "job.canceled", "job.running",
})  # fmt: skip


class DemoFailed(Exception):
    """A job of the demonstration did not succeed."""


class Demo:
    """Plays the front end: starts jobs over HTTP, follows their events, downloads what they made."""

    def __init__(self, settings: Settings, key: str, *, documents: Sequence[Path]) -> None:
        self._settings = settings
        self._documents = documents
        self._headers = {"Authorization": f"Bearer {key}"}
        self._folder = settings.data_dir / "demo"

    async def run(self) -> None:
        """Run every job to its end. Raises DemoFailed."""
        async with create_http_client(timeout=_TIMEOUTS, proxy=None, user_agent="longhaul-demo") as http:
            await self._play(http, "A probe: nothing, through every part of the platform", "diagnostics.noop", {})
            await self._course(http, "A course on Longhaul, from Longhaul's own documents", {})
            if self._settings.standin_openai:
                await self._course(http, "The same from a (stand-in) language model", {"provider": "openai"})

    async def _course(self, http: httpx.AsyncClient, title: str, more: Mapping[str, Any]) -> None:
        sources = [{"name": path.name, "text": path.read_text()} for path in self._documents]
        wish = {
            "topic": "Longhaul, the durable job back end", "audience": "developers and operators", "language": "en",
            "level": "beginner", "modules": 3, "lessons_per_module": 3, "sources": sources, **more,
        }  # fmt: skip
        job = await self._play(http, title, "generation.course", wish)
        result = (await self._get(http, job["links"]["result"])).json()
        for artifact in result["artifacts"]:
            await self._download(http, artifact)

    async def _play(self, http: httpx.AsyncClient, title: str, kind: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        print(f"\n{title}\n{'-' * len(title)}")
        answer = await http.post(
            f"{self._settings.base_url}/api/v1/jobs", json={"kind": kind, "input": wish}, headers=self._headers
        )
        if answer.status_code != httpx.codes.ACCEPTED:
            raise DemoFailed(f"{kind} was not accepted: {answer.text}")
        job: dict[str, Any] = answer.json()
        async for event in self._events(http, job["links"]["events"]):
            _say(event)
        job = (await self._get(http, job["links"]["self"])).json()
        print(f"  job        {job['links']['self']}\n  Temporal   {job['links']['temporal_ui']}")
        if job["status"] != "succeeded":
            raise DemoFailed(f"{kind} ended as {job['status']}: {job['error']}")
        return job

    async def _events(self, http: httpx.AsyncClient, url: str) -> AsyncIterator[dict[str, Any]]:
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with http.stream("GET", url, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    async def _download(self, http: httpx.AsyncClient, artifact: Mapping[str, Any]) -> None:
        url = str(artifact["url"])
        address = url if url.startswith("http") else f"{self._settings.base_url}{url}"
        body = (await self._get(http, address)).content
        file = self._folder / Path(artifact["name"]).name
        await asyncio.to_thread(_write, file, body)
        print(f"  saved      {file.resolve().as_uri()}  ({len(body):,} bytes)")

    async def _get(self, http: httpx.AsyncClient, url: str) -> httpx.Response:
        answer = await http.get(url, headers=self._headers)
        answer.raise_for_status()
        return answer


def _write(file: Path, body: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)


def _say(event: Mapping[str, Any]) -> None:
    if event["type"] not in _SAID:
        return
    data = event["data"]
    progress = float(data.get("progress") or 0)
    filled = round(progress * _BAR)
    about = " ".join(str(data[name]) for name in ("lesson", "title", "code") if name in data)
    print(f"  [{'#' * filled}{'.' * (_BAR - filled)}] {progress:4.0%}  {event['type']:<17} {about}")
    sys.stdout.flush()
