"""What the stand-in knows: renders and what was paid for them, keys and their first answers, files, events."""

import hashlib
import hmac
import random
import struct
import time
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from gateways.standin_heygen.faults import Play
from gateways.standin_heygen.wire import CreateVideoFromAvatar

KEY: Final = "stand-in"
_FILE_SECONDS: Final = 0.01
"""How much of a script's length its video lasts here, for each character."""


class ApiError(Exception):
    """A refusal in the words of HeyGen's API."""

    def __init__(self, status: int, code: str, *, retry_after: int | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.retry_after = retry_after


@dataclass
class Render:
    """One render that was paid for."""

    video_id: str
    wish: CreateVideoFromAvatar
    play: Play
    ordered_at: float
    key: str | None

    @property
    def title(self) -> str:
        """Its title."""
        return self.wish.title or ""

    @property
    def seconds(self) -> float:
        """How long the video lasts."""
        return round(1.0 + _FILE_SECONDS * len(self.wish.script or ""), 2)

    def body(self) -> bytes:
        """The video: the head of an MP4 file and some noise, the same for the same id."""
        noise = random.Random(self.video_id).randbytes(20_000)  # noqa: S311 - a picture of noise
        head = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 512, b"isom", b"mp41")
        return head + struct.pack(">I4s", 8 + len(noise), b"mdat") + noise


@dataclass
class World:
    """Everything there is. ``renders`` is what was paid for; ``ahead_seconds`` puts the clock forward."""

    seed: int = 0
    at_once: int = 10
    file_seconds: float = 3_600.0
    play: Play = field(default_factory=Play)
    plays: dict[str, Play] = field(default_factory=dict)
    renders: dict[str, Render] = field(default_factory=dict)
    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    in_progress: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)
    ahead_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - ids, not secrets
        self._secret = self._random.randbytes(16)

    def now(self) -> float:
        """The clock."""
        return time.time() + self.ahead_seconds

    # --- orders -------------------------------------------------------------------------------------

    def order(self, raw: Any, key: str | None) -> dict[str, Any]:
        """Order a render, and pay for it. Raises ApiError."""
        try:
            wish = CreateVideoFromAvatar.model_validate(raw)
        except ValidationError:
            raise ApiError(400, "invalid_parameter") from None
        if sum(self.status(render) in {"pending", "processing"} for render in self.renders.values()) >= self.at_once:
            raise ApiError(429, "rate_limit_exceeded", retry_after=1)
        video_id = f"{self._random.getrandbits(128):032x}"
        play = next((play for name, play in self.plays.items() if name in (wish.title or "")), self.play)
        self.renders[video_id] = Render(video_id, wish, play, self.now(), key)
        return {"data": {"video_id": video_id, "status": "waiting", "output_format": wish.output_format}}

    def of_title(self, title: str) -> list[Render]:
        """Every render whose title has this in it, newest first."""
        return [render for render in reversed(self.renders.values()) if title in render.title]

    def status(self, render: Render) -> str:
        """How far a render is."""
        age = self.now() - render.ordered_at
        if age < render.play.seconds / 4:
            return "pending"
        if render.play.end == "stuck" or age < render.play.seconds:
            return "processing"
        return render.play.end

    def document(self, render: Render, origin: str) -> dict[str, Any]:
        """A render as the API shows it."""
        status = self.status(render)
        shown: dict[str, Any] = {
            "id": render.video_id, "title": render.title, "status": status, "created_at": int(render.ordered_at),
            "video_url": None, "duration": None,
        }  # fmt: skip
        if status == "processing":
            age = (self.now() - render.ordered_at) / max(render.play.seconds, 0.001)
            shown["progress"] = min(97, int(100 * age))
        if status == "completed":
            shown |= {"video_url": self.address(render, origin), "duration": render.seconds}
            shown["completed_at"] = int(render.ordered_at + render.play.seconds)
        if status == "failed":
            shown |= {"failure_code": "render_failed", "failure_message": "Video render failed, credits refunded"}
        return shown

    # --- files --------------------------------------------------------------------------------------

    def address(self, render: Render, origin: str) -> str:
        """A signed address that is good for ``file_seconds``."""
        until = int((self.now() + self.file_seconds) * 1_000)
        return f"{origin}/files/{render.video_id}.mp4?until={until}&signature={self._sign(render.video_id, until)}"

    def file(self, video_id: str, until: str, signature: str) -> bytes:
        """The bytes behind an address. Raises ApiError: 403 where it is too old or was never given out."""
        good = until.isdigit() and hmac.compare_digest(self._sign(video_id, int(until)), signature)
        if not good or int(until) / 1_000 < self.now() or video_id not in self.renders:
            raise ApiError(403, "forbidden")
        return self.renders[video_id].body()

    def _sign(self, video_id: str, until: int) -> str:
        return hmac.new(self._secret, f"{video_id}.{until}".encode(), hashlib.sha256).hexdigest()[:32]
