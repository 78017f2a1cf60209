"""Requests as HeyGen's documentation has them, read strictly: a member that is not in it is a fault of ours.

There is no package of the vendor's with models of the API v3 (what the index has under its name is empty), so these
were written from the published description.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

IDEMPOTENCY_KEY = r"[A-Za-z0-9_\-:.]{1,255}"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Engine(_Strict):
    """Which engine renders."""

    type: Literal["avatar_iii", "avatar_iv", "avatar_v"]


class VoiceSettings(_Strict):
    """How a voice speaks."""

    speed: Annotated[float, Field(ge=0.5, le=1.5)] = 1.0
    pitch: Annotated[float, Field(ge=-50, le=50)] = 0.0
    volume: Annotated[float, Field(ge=0, le=1)] = 1.0
    locale: str | None = None


class CreateVideoFromAvatar(_Strict):
    """``POST /v3/videos`` with an avatar. HeyGen takes an order without an engine; ours always says which."""

    type: Literal["avatar"]
    avatar_id: Annotated[str, StringConstraints(min_length=1)]
    engine: Engine
    script: Annotated[str, StringConstraints(min_length=1, max_length=5_000)] | None = None
    audio_url: str | None = None
    audio_asset_id: str | None = None
    voice_id: str | None = None
    voice_settings: VoiceSettings | None = None
    resolution: Literal["720p", "1080p", "4k"] | None = None
    aspect_ratio: Literal["16:9", "9:16", "4:5", "5:4", "1:1", "auto"] | None = None
    output_format: Literal["mp4", "webm"] = "mp4"
    title: str | None = None
    callback_url: Annotated[str, StringConstraints(pattern=r"^https?://")] | None = None
    callback_id: str | None = None

    @model_validator(mode="after")
    def _one_source_of_sound(self) -> "CreateVideoFromAvatar":
        given = [one for one in (self.script, self.audio_url, self.audio_asset_id) if one is not None]
        if len(given) != 1:
            raise ValueError("exactly one of script, audio_url and audio_asset_id is needed")
        return self
