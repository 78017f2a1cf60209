"""What the stand-in knows: accounts with their characters, what was spoken for them, and recordings of real frames."""

import hashlib
import random
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from domain.audio import MP3

CHARACTERS_A_SECOND: Final = 15
MODELS: Final = {
    "eleven_multilingual_v2": (10_000, Decimal(1)),
    "eleven_turbo_v2_5": (40_000, Decimal("0.5")),
    "eleven_flash_v2_5": (40_000, Decimal("0.5")),
}
"""The longest text of a model, and what it bills for a character."""

_FRAME_HEAD: Final = bytes((0xFF, 0xFB, 0x90, 0xC4))  # MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono, no padding
_FRAME_BYTES: Final = 417
_SIDE_BYTES: Final = 17
_FRAMES_A_SECOND: Final = 44_100 / 1_152


class ApiError(Exception):
    """A refusal in the words of the vendor."""

    def __init__(self, status: int, code: str, *, shape: str = "new", retry_after: int | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.shape = shape
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """The body in one of the three shapes."""
        said = f"{self.code}: refused by the stand-in"
        if self.shape == "validation":
            return {"detail": [{"type": self.code, "loc": ["body", "text"], "msg": said, "input": None}]}
        if self.shape == "old":
            return {"detail": {"status": self.code, "message": said}}
        return {"detail": {"type": "refusal", "code": self.code, "message": said, "request_id": "r", "param": None}}


@dataclass
class Account:
    """One key: how many characters it has used and may use, and how many calls it has out."""

    character_limit: int = 1_000_000
    character_count: int = 0
    in_flight: int = 0
    most_in_flight: int = 0


@dataclass(frozen=True)
class Take:
    """One text as it was spoken and billed."""

    id: str
    request_id: str
    key: str
    voice: str
    model: str
    text: str
    date_unix: int
    count_before: int
    count_after: int
    audio: bytes

    def document(self) -> dict[str, Any]:
        """As the history shows it."""
        return {
            "history_item_id": self.id, "request_id": self.request_id, "voice_id": self.voice, "voice_name": self.voice,
            "voice_category": "premade", "model_id": self.model, "text": self.text, "date_unix": self.date_unix,
            "character_count_change_from": self.count_before, "character_count_change_to": self.count_after,
            "content_type": MP3, "state": "created", "source": "TTS", "settings": None, "share_link_id": None,
        }  # fmt: skip


@dataclass
class Studio:
    """The state of the stand-in. ``takes`` is the history, oldest first: what is in it was paid for."""

    seed: int = 0
    concurrency: int = 5
    takes: list[Take] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    ahead_seconds: float = 0.0
    voices: frozenset[str] | None = None
    """The voices there are; None: any."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Empty accounts and an empty history."""
        self.takes.clear()
        self.accounts.clear()

    def account(self, key: str | None) -> Account:
        """The account of a key. Raises ApiError where that is no key."""
        if not key or key.startswith("bad"):
            raise ApiError(401, "invalid_api_key", shape="old")
        return self.accounts.setdefault(key, Account())

    def check(self, account: Account, voice: str, body: dict[str, Any]) -> tuple[str, str]:
        """Text and model of a request that may be spoken. Raises ApiError."""
        text, model = body.get("text"), body.get("model_id", "eleven_multilingual_v2")
        if not isinstance(text, str) or not text:
            raise ApiError(422, "missing", shape="validation")
        if model not in MODELS:
            raise ApiError(400, "model_not_found")
        if self.voices is not None and voice not in self.voices:
            raise ApiError(404, "voice_not_found", shape="old")
        longest, rate = MODELS[model]
        if len(text) > longest:
            raise ApiError(400, "max_character_limit_exceeded", shape="old")
        if account.character_count + len(text) * rate > account.character_limit:
            raise ApiError(401, "quota_exceeded", shape="old")
        return text, model

    def speak(self, key: str, voice: str, text: str, model: str) -> Take:
        """Speak and bill. Two takes of the same text differ, as the vendor's do."""
        account = self.account(key)
        before = account.character_count
        account.character_count += int(len(text) * MODELS[model][1])
        take = Take(
            id=self._name(), request_id=self._name(), key=key, voice=voice, model=model, text=text,
            date_unix=int(time.time() + self.ahead_seconds), count_before=before, count_after=account.character_count,
            audio=recording(text, salt=f"{self.seed}/{len(self.takes)}/{voice}/{model}"),
        )  # fmt: skip
        self.takes.append(take)
        return take

    def history(self, key: str, filters: dict[str, str]) -> dict[str, Any]:
        """A page of the history, latest first, as the filters wish it."""
        found = [take for take in reversed(self.takes) if take.key == key and _fits(take, filters)]
        after = filters.get("start_after_history_item_id")
        if after is not None:
            places = [place for place, take in enumerate(found) if take.id == after]
            found = found[places[0] + 1 :] if places else []
        size = int(filters.get("page_size", 100))
        page = found[:size]
        return {
            "history": [take.document() for take in page],
            "last_history_item_id": page[-1].id if page else None,
            "has_more": len(found) > size,
            "scanned_until": None,
        }

    def _name(self) -> str:
        return f"{self._random.getrandbits(80):020x}"


def _fits(take: Take, filters: dict[str, str]) -> bool:
    return (
        filters.get("voice_id", take.voice) == take.voice
        and filters.get("model_id", take.model) == take.model
        and take.date_unix > int(filters.get("date_after_unix", -1))
        and filters.get("search", "") in take.text
    )


def recording(text: str, *, salt: str = "") -> bytes:
    """An MP3 that any player plays: silence as long as the text takes, with bytes of its own in every frame."""
    frames = max(1, round(len(text) / CHARACTERS_A_SECOND * _FRAMES_A_SECOND))
    mark = hashlib.sha256(f"{salt}/{text}".encode()).digest()
    # Side information of zeros: no sound. Behind it is room for data of one's own.
    body = (mark * (_FRAME_BYTES // len(mark) + 1))[: _FRAME_BYTES - len(_FRAME_HEAD) - _SIDE_BYTES]
    return (_FRAME_HEAD + bytes(_SIDE_BYTES) + body) * frames
