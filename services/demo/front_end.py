"""What every scene of the demonstration plays: a front end that starts jobs, follows events, fetches what was made."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from core.http import HttpTimeouts, create_http_client
from core.settings import Settings

_TIMEOUTS: Final = HttpTimeouts(connect=5, read=60, write=30, pool=5)
_BAR: Final = 24
_SAID: Final = frozenset({
    "sources.prepared", "outline.written", "lesson.written", "course.exported", "lesson.spoken",
    "lesson.not_spoken", "records.read", "records.saved",
    "round.opened", "round.closed", "round.published", "round.rejected", "step.retrying", "step.failed",
    "job.waiting", "job.succeeded", "job.failed", "job.canceled", "job.running",
})  # fmt: skip


class DemoFailed(Exception):
    """A job of the demonstration did not succeed."""


class FrontEnd:
    """Plays the front end: starts jobs over HTTP, follows their events on the terminal, downloads what they made."""

    def __init__(self, settings: Settings, key: str, http: httpx.AsyncClient) -> None:
        self.settings = settings
        self._http = http
        self._headers = {"Authorization": f"Bearer {key}"}
        self._folder = settings.data_dir / "demo"

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, key: str) -> AsyncIterator["FrontEnd"]:
        """A front end with a client of its own, closed in the end."""
        async with create_http_client(timeout=_TIMEOUTS, proxy=None, user_agent="longhaul-demo") as http:
            yield cls(settings, key, http)

    async def play(self, title: str, kind: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Start a job and watch it to its end; its final document. Raises DemoFailed unless it succeeded."""
        announce(title)
        job = await self.send("POST", "/api/v1/jobs", {"kind": kind, "input": wish})
        async for event in self._events(job["links"]["events"]):
            _say(event)
        job = await self.ask(job["links"]["self"])
        print(f"  job        {job['links']['self']}\n  Temporal   {job['links']['temporal_ui']}")
        if job["status"] != "succeeded":
            raise DemoFailed(f"{kind} ended as {job['status']}: {job['error']}")
        return job

    async def send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Send JSON to a path of the API; the answer. Raises DemoFailed where it is a refusal."""
        answer = await self._http.request(method, self._address(path), json=body, headers=self._headers)
        if answer.is_error:
            raise DemoFailed(f"{method} {path} was refused: {answer.text}")
        document: dict[str, Any] = answer.json()
        return document

    async def upload(self, name: str, body: bytes, media_type: str) -> dict[str, Any]:
        """Upload a file; its artifact. Raises DemoFailed where it is refused."""
        headers = {
            **self._headers, "Content-Type": media_type, "Content-Disposition": f'attachment; filename="{name}"',
        }  # fmt: skip
        answer = await self._http.post(self._address("/api/v1/artifacts"), content=body, headers=headers)
        if answer.is_error:
            raise DemoFailed(f"the upload of {name} was refused: {answer.text}")
        document: dict[str, Any] = answer.json()
        return document

    async def send_or_none(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """As ``send``, in somebody else's name; None where the answer is empty."""
        answer = await self._http.request(method, self._address(path), json=body, headers=dict(headers))
        if answer.is_error:
            raise DemoFailed(f"{method} {path} was refused: {answer.text}")
        return answer.json() if answer.content else None

    async def send_bytes(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send bytes, in somebody else's name where headers say so; the answer. Raises DemoFailed."""
        answer = await self._http.request(
            method, self._address(path), content=body, headers={**self._headers, **(headers or {})}
        )
        if answer.is_error:
            raise DemoFailed(f"{method} {path} was refused: {answer.text}")
        document: dict[str, Any] = answer.json()
        return document

    async def fetch(self, path: str, headers: Mapping[str, str]) -> bytes:
        """The bytes at a path, in somebody else's name. Raises DemoFailed."""
        answer = await self._http.get(self._address(path), headers=dict(headers))
        if answer.is_error:
            raise DemoFailed(f"GET {path} was refused: {answer.text}")
        return answer.content

    async def ask(self, path: str) -> dict[str, Any]:
        """The document at a path or link of the API. Raises DemoFailed where there is none."""
        document: dict[str, Any] = (await self._get(path)).json()
        return document

    async def download(self, artifact: Mapping[str, Any]) -> None:
        """Save an artifact below the data folder and say where."""
        body = (await self._get(str(artifact["url"]))).content
        file = self._folder / Path(artifact["name"]).name
        await asyncio.to_thread(_write, file, body)
        print(f"  saved      {file.resolve().as_uri()}  ({len(body):,} bytes)")

    async def _events(self, url: str) -> AsyncIterator[dict[str, Any]]:
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with self._http.stream("GET", url, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    async def _get(self, path: str) -> httpx.Response:
        answer = await self._http.get(self._address(path), headers=self._headers)
        if answer.is_error:
            raise DemoFailed(f"GET {path} was refused: {answer.text}")
        return answer

    def _address(self, path: str) -> str:
        return path if path.startswith("http") else f"{self.settings.base_url}{path}"


def announce(title: str) -> None:
    """Begin a scene."""
    print(f"\n{title}\n{'-' * len(title)}", flush=True)


def _write(file: Path, body: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)


def _say(event: Mapping[str, Any]) -> None:
    if event["type"] not in _SAID:
        return
    data = event["data"]
    progress = float(data.get("progress") or 0)
    filled = round(progress * _BAR)
    about = " ".join(str(data[name]) for name in ("lesson", "title", "code", "round", "reason") if name in data)
    print(f"  [{'#' * filled}{'.' * (_BAR - filled)}] {progress:4.0%}  {event['type']:<17} {about}")
    sys.stdout.flush()
